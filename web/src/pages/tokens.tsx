import { KeyRound, Plus, Trash2 } from "lucide-react";
import { useState } from "react";
import * as calls from "../api/calls";
import { AREAS, type CreatedToken, type Role, type Token } from "../api/types";
import { atLeast, problemsOf, useAct, useIsAdmin, usePaged, useUser } from "../lib/data";
import { useNow } from "../lib/hooks";
import { useQueryValue } from "../lib/router";
import * as check from "../lib/validate";
import { Badge, CopyBox, Time } from "../ui/bits";
import { Button, IconButton } from "../ui/button";
import { Confirm, Dialog } from "../ui/dialog";
import { Field, Input, Segmented, Select } from "../ui/field";
import { Page } from "../ui/page";
import { Empty, Failure, Notice } from "../ui/states";
import { Pager, Table } from "../ui/table";
import { DialogButtons } from "./containers/actions";

export function TokensPage() {
  const admin = useIsAdmin();
  const self = useUser();
  const [whose, setWhose] = useQueryValue("whose");
  const [creating, setCreating] = useState(false);
  const [removing, setRemoving] = useState<Token | null>(null);
  const all = admin && whose === "all";
  const { query, rows, pager } = usePaged(["tokens", all], (cursor, signal) =>
    calls.tokens.list({ all: all || undefined, cursor }, signal),
  );
  const now = useNow();
  const add = (
    <Button variant="primary" icon={<Plus />} onClick={() => setCreating(true)}>
      Create
    </Button>
  );
  return (
    <Page title="API tokens" actions={add}>
      {admin && (
        <div className="filters">
          <Segmented
            label="Whose tokens"
            value={whose}
            onValue={setWhose}
            options={[
              ["", "Mine"],
              ["all", "Everybody's"],
            ]}
          />
        </div>
      )}
      {query.error && <Failure what="The tokens could not be read." error={query.error} retry={() => void query.refetch()} />}
      {rows?.length === 0 ? (
        <Empty icon={<KeyRound aria-hidden="true" />} title="No tokens" actions={add}>
          With a token, scripts and programs use the API and the command line in your name, with no more rights than you give it.
        </Empty>
      ) : (
        !(query.error && !rows) && (
          <Table
            label="API tokens"
            rows={rows}
            id={(t) => t.id}
            placeholders={3}
            columns={[
              {
                key: "name",
                head: "Name",
                lead: true,
                cell: (t) => (
                  <span className="row">
                    <span className="cell-main">
                      <span className="name break">{t.name}</span>
                    </span>
                    {Date.parse(t.expires) < now && <Badge tone="red">ended</Badge>}
                    {all && t.userId !== self.id && <Badge title={t.userId}>another user's</Badge>}
                  </span>
                ),
              },
              { key: "role", head: "Role", cell: (t) => t.role },
              {
                key: "scopes",
                head: "Scopes",
                wide: true,
                cell: (t) =>
                  t.scopes.length === 0 ? (
                    <span className="faint">all its role may do</span>
                  ) : (
                    <span className="tags">
                      {t.scopes.map((s) => (
                        <Badge key={s} mono>
                          {s}
                        </Badge>
                      ))}
                    </span>
                  ),
              },
              { key: "used", head: "Last used", cell: (t) => <Time at={t.lastUsed} /> },
              { key: "expires", head: "Ends", cell: (t) => <Time at={t.expires} /> },
            ]}
            menuOnly
            actions={(t) => (
              <IconButton small label={`End ${t.name}`} onClick={() => setRemoving(t)}>
                <Trash2 />
              </IconButton>
            )}
          />
        )
      )}
      <Pager {...pager} />
      {creating && <CreateToken onClose={() => setCreating(false)} />}
      {removing && <RemoveToken token={removing} onClose={() => setRemoving(null)} />}
    </Page>
  );
}

type Right = "none" | "read" | "write";

function CreateToken({ onClose }: { onClose: () => void }) {
  const user = useUser();
  const [name, setName] = useState("");
  const [role, setRole] = useState<Role>(user.role);
  const [days, setDays] = useState("90");
  const [narrow, setNarrow] = useState<"all" | "some">("all");
  const [rights, setRights] = useState<Record<string, Right>>({});
  const [tried, setTried] = useState(false);
  const [made, setMade] = useState<CreatedToken | null>(null);
  const scopes = narrow === "all" ? [] : Object.entries(rights).flatMap(([area, right]) => (right === "none" ? [] : [`${area}:${right}`]));
  const own = {
    name: check.title(name.trim()),
    days: check.whole(1, 3_650)(days),
    scopes: narrow === "some" && scopes.length === 0 ? "Allow something, or everything its role may do" : undefined,
  };
  const create = useAct({
    run: () => calls.tokens.create({ name: name.trim(), role, scopes, expiresInDays: Number(days) }),
    stale: ["tokens"],
    quiet: true,
    after: setMade,
  });
  const server = problemsOf(create.error);
  if (made) {
    return (
      <Dialog
        wide
        title={`The token ${made.name}`}
        onClose={onClose}
        footer={
          <Button variant="primary" onClick={onClose}>
            I have kept it
          </Button>
        }
      >
        <Notice tone="amber">Keep it now: it is not shown again.</Notice>
        <CopyBox text={made.token} label="Copy the token" />
        <p className="faint">
          Send it as <code>Authorization: Bearer …</code>, or give it to the command line in <code>NEURALMESH_TOKEN</code>.
        </p>
      </Dialog>
    );
  }
  const roles = (["viewer", "operator", "admin"] as const)
    .filter((r) => atLeast(user.role, r))
    .map((r) => [r, r[0]?.toUpperCase() + r.slice(1)] as const);
  return (
    <Dialog
      wide
      title="Create an API token"
      onClose={onClose}
      onSubmit={() => {
        setTried(true);
        if (!own.name && !own.days && !own.scopes) create.mutate();
      }}
      footer={<DialogButtons action="Create" busy={create.isPending} onClose={onClose} />}
    >
      <div className="form-3">
        <Field label="Name" className="full" hint="What it is for" problem={(tried ? own.name : undefined) ?? server.name}>
          {(d) => <Input {...d} value={name} onValue={setName} placeholder="deploy from CI" maxLength={100} />}
        </Field>
        <Field label="Role" problem={server.role}>
          {(d) => <Select {...d} value={role} onValue={setRole} options={roles} />}
        </Field>
        <Field label="Good for" problem={(tried ? own.days : undefined) ?? server.expiresInDays}>
          {(d) => (
            <div className="with-suffix">
              <Input {...d} inputMode="numeric" value={days} onValue={setDays} />
              <span className="suffix">days</span>
            </div>
          )}
        </Field>
      </div>
      <div className="field">
        <span className="field-label">Scopes</span>
        <div>
          <Segmented
            label="Scopes"
            value={narrow}
            onValue={setNarrow}
            options={[
              ["all", "All its role may do"],
              ["some", "Only these"],
            ]}
          />
        </div>
      </div>
      {narrow === "some" && (
        <div className="form-2">
          {AREAS.map((area) => (
            <div key={area} className="row">
              <span className="grow">{area}</span>
              <Segmented
                label={area}
                value={rights[area] ?? "none"}
                onValue={(right) => setRights({ ...rights, [area]: right })}
                options={[
                  ["none", "None"],
                  ["read", "Read"],
                  ["write", "Write"],
                ]}
              />
            </div>
          ))}
        </div>
      )}
      {tried && own.scopes && <p className="problem">{own.scopes}</p>}
      {create.error !== null && Object.keys(server).length === 0 && <Failure error={create.error} />}
    </Dialog>
  );
}

function RemoveToken({ token, onClose }: { token: Token; onClose: () => void }) {
  const remove = useAct({
    run: () => calls.tokens.remove(token.id),
    done: () => `Ended ${token.name}.`,
    stale: ["tokens"],
    quiet: true,
    after: onClose,
  });
  return (
    <Confirm
      title={`End ${token.name}?`}
      action="End it"
      busy={remove.isPending}
      error={remove.error}
      onConfirm={() => remove.mutate()}
      onClose={onClose}
    >
      <p className="muted">Whatever uses it is refused from now on.</p>
    </Confirm>
  );
}
