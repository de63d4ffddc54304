import { useQuery } from "@tanstack/react-query";
import { Box, Pencil, Plus, Trash2 } from "lucide-react";
import { useState } from "react";
import * as calls from "../api/calls";
import type { Registry } from "../api/types";
import { problemsOf, useAct, useIsAdmin } from "../lib/data";
import * as check from "../lib/validate";
import { Time } from "../ui/bits";
import { Button, IconButton } from "../ui/button";
import { Confirm, Dialog } from "../ui/dialog";
import { Field, Input } from "../ui/field";
import { Page } from "../ui/page";
import { Empty, Failure } from "../ui/states";
import { Table } from "../ui/table";
import { DialogButtons } from "./containers/actions";

export function RegistriesPage() {
  const admin = useIsAdmin();
  const [editing, setEditing] = useState<Registry | "new" | null>(null);
  const [removing, setRemoving] = useState<Registry | null>(null);
  const query = useQuery({ queryKey: ["registries"], queryFn: ({ signal }) => calls.registries.list(signal) });
  const add = (
    <Button variant="primary" icon={<Plus />} onClick={() => setEditing("new")}>
      Add a login
    </Button>
  );
  return (
    <Page title="Registries" actions={admin && add}>
      {query.error && <Failure what="The registries could not be read." error={query.error} retry={() => void query.refetch()} />}
      {query.data?.length === 0 ? (
        <Empty icon={<Box aria-hidden="true" />} title="No registry logins" actions={admin && add}>
          Public images need none.{" "}
          {admin
            ? "Add one to pull private images; its password is sealed and never shown again."
            : "An admin adds them to pull private images."}
        </Empty>
      ) : (
        !(query.error && !query.data) && (
          <Table
            label="Registries"
            rows={query.data}
            id={(r) => r.id}
            columns={[
              { key: "host", head: "Registry", lead: true, cell: (r) => <span className="mono break">{r.host}</span> },
              { key: "username", head: "Username", cell: (r) => r.username },
              { key: "updated", head: "Changed", cell: (r) => <Time at={r.updated} /> },
            ]}
            menuOnly
            {...(admin
              ? {
                  actions: (r: Registry) => (
                    <>
                      <IconButton small label={`Change the login of ${r.host}`} onClick={() => setEditing(r)}>
                        <Pencil />
                      </IconButton>
                      <IconButton small label={`Remove the login of ${r.host}`} onClick={() => setRemoving(r)}>
                        <Trash2 />
                      </IconButton>
                    </>
                  ),
                }
              : {})}
          />
        )
      )}
      {editing && <EditRegistry registry={editing === "new" ? null : editing} onClose={() => setEditing(null)} />}
      {removing && <RemoveRegistry registry={removing} onClose={() => setRemoving(null)} />}
    </Page>
  );
}

function EditRegistry({ registry, onClose }: { registry: Registry | null; onClose: () => void }) {
  const [host, setHost] = useState(registry?.host ?? "");
  const [username, setUsername] = useState(registry?.username ?? "");
  const [password, setPassword] = useState("");
  const [tried, setTried] = useState(false);
  const own = {
    host: check.registryHost(host.trim()),
    username: check.title(username.trim()),
    password: password === "" ? "Enter its password or access token" : undefined,
  };
  const save = useAct({
    run: () => {
      const body = { host: host.trim(), username: username.trim(), password };
      return registry ? calls.registries.replace(registry.id, body) : calls.registries.create(body);
    },
    done: (r) => `Saved the login of ${r.host}.`,
    stale: ["registries"],
    quiet: true,
    after: onClose,
  });
  const server = problemsOf(save.error);
  const shown = (field: keyof typeof own) => (tried ? own[field] : undefined) ?? server[field];
  return (
    <Dialog
      title={registry ? `Login of ${registry.host}` : "Add a registry login"}
      onClose={onClose}
      onSubmit={() => {
        setTried(true);
        if (!own.host && !own.username && !own.password) save.mutate();
      }}
      footer={<DialogButtons action="Save" busy={save.isPending} onClose={onClose} />}
    >
      <Field label="Registry" hint="docker.io for Docker Hub" problem={shown("host")}>
        {(d) => <Input {...d} mono value={host} onValue={setHost} placeholder="registry.example.com:5000" />}
      </Field>
      <Field label="Username" problem={shown("username")}>
        {(d) => <Input {...d} value={username} onValue={setUsername} />}
      </Field>
      <Field label="Password or access token" hint="Sealed on the control plane, and never shown again" problem={shown("password")}>
        {(d) => <Input {...d} type="password" autoComplete="new-password" value={password} onValue={setPassword} />}
      </Field>
      {save.error !== null && Object.keys(server).length === 0 && <Failure error={save.error} />}
    </Dialog>
  );
}

function RemoveRegistry({ registry, onClose }: { registry: Registry; onClose: () => void }) {
  const remove = useAct({
    run: () => calls.registries.remove(registry.id),
    done: () => `Removed the login of ${registry.host}.`,
    stale: ["registries"],
    quiet: true,
    after: onClose,
  });
  return (
    <Confirm
      title={`Remove the login of ${registry.host}?`}
      action="Remove"
      busy={remove.isPending}
      error={remove.error}
      onConfirm={() => remove.mutate()}
      onClose={onClose}
    >
      <p className="muted">Private images of this registry can no longer be pulled. Images that are there stay.</p>
    </Confirm>
  );
}
