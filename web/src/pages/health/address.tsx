import { useState } from "react";
import * as calls from "../../api/calls";
import type { Server } from "../../api/types";
import { problemsOf, useAct } from "../../lib/data";
import { navigate } from "../../lib/router";
import { Confirm, Dialog } from "../../ui/dialog";
import { Field, Input, Select } from "../../ui/field";
import { Failure } from "../../ui/states";
import { DialogButtons } from "../containers/actions";
import { type AddressForm, addressForm, addressOf } from "./address-form";

const HOW: readonly (readonly [AddressForm["how"], string])[] = [
  ["https", "HTTPS request"],
  ["http", "HTTP request"],
  ["tcp", "TCP connection"],
  ["none", "Not at all"],
];

/** Registers an address, or changes one. */
export function AddressDialog({ server, onClose }: { server?: Server; onClose: () => void }) {
  const [form, setForm] = useState(() => addressForm(server));
  const [tried, setTried] = useState(false);
  const set = (change: Partial<AddressForm>) => setForm((f) => ({ ...f, ...change }));
  const { body, problems: own } = addressOf(form);
  const save = useAct({
    run: () => (server ? calls.servers.update(server.id, body) : calls.servers.create(body)),
    done: (s) => (server ? `Changed ${s.name}.` : `Registered ${s.name}.`),
    stale: ["servers", "health"],
    quiet: true,
    after: (s) => {
      onClose();
      if (!server) navigate(`/health/${s.id}`);
    },
  });
  const refused = problemsOf(save.error);
  const problems = { ...refused, ...(tried ? own : {}) };
  const http = form.how === "http" || form.how === "https";
  const known = ["name", "address", "port", "probe.path", "probe.expectStatus", "probe.timeout"];
  // What was set can be changed but not taken away: the API leaves alone what is not sent.
  const how = server && server.port !== undefined ? HOW.filter(([key]) => key !== "none") : HOW;
  return (
    <Dialog
      wide
      title={server ? `Change ${server.name}` : "Register an address"}
      onClose={onClose}
      onSubmit={() => {
        setTried(true);
        if (Object.keys(own).length === 0) save.mutate();
      }}
      footer={<DialogButtons action={server ? "Save" : "Register"} busy={save.isPending} onClose={onClose} />}
    >
      <p className="muted">A machine or a service without our agent. The control plane itself looks whether it answers.</p>
      <div className="form-2">
        <Field label="Name" problem={problems.name}>
          {(d) => <Input {...d} mono value={form.name} onValue={(name) => set({ name })} placeholder="router" />}
        </Field>
        <Field label="Address" hint="A host name or an IP address" problem={problems.address}>
          {(d) => <Input {...d} mono value={form.address} onValue={(address) => set({ address })} placeholder="192.168.1.1" />}
        </Field>
        <Field label="Checked by">{(d) => <Select {...d} value={form.how} onValue={(how) => set({ how })} options={how} />}</Field>
        {form.how !== "none" && (
          <Field label="Port" optional={http} problem={problems.port}>
            {(d) => (
              <Input
                {...d}
                inputMode="numeric"
                value={form.port}
                onValue={(port) => set({ port })}
                placeholder={form.how === "https" ? "443" : form.how === "http" ? "80" : "22"}
              />
            )}
          </Field>
        )}
        {http && (
          <>
            <Field label="Path" optional problem={problems["probe.path"]}>
              {(d) => <Input {...d} mono value={form.path} onValue={(path) => set({ path })} placeholder="/" />}
            </Field>
            <Field label="Status that is right" optional problem={problems["probe.expectStatus"]}>
              {(d) => (
                <Input {...d} inputMode="numeric" value={form.status} onValue={(status) => set({ status })} placeholder="200 to 399" />
              )}
            </Field>
          </>
        )}
        {form.how !== "none" && (
          <Field label="Given up after" optional problem={problems["probe.timeout"]}>
            {(d) => (
              <div className="with-suffix">
                <Input {...d} inputMode="numeric" value={form.timeout} onValue={(timeout) => set({ timeout })} placeholder="5" />
                <span className="suffix">s</span>
              </div>
            )}
          </Field>
        )}
      </div>
      {form.how === "https" && <p className="faint">Its certificate has to be one that public authorities vouch for.</p>}
      {save.error !== null && !Object.keys(refused).some((f) => known.includes(f)) && <Failure error={save.error} />}
    </Dialog>
  );
}

export function ForgetAddress({ server, onClose }: { server: Server; onClose: () => void }) {
  const remove = useAct({
    run: () => calls.servers.remove(server.id),
    done: () => `${server.name} is no longer checked.`,
    stale: ["servers", "health"],
    quiet: true,
    after: () => {
      onClose();
      navigate("/health");
    },
  });
  return (
    <Confirm
      title={`Forget ${server.name}?`}
      action="Forget it"
      busy={remove.isPending}
      error={remove.error}
      onConfirm={() => remove.mutate()}
      onClose={onClose}
    >
      <p className="muted">Its history goes, too. The machine itself is not touched.</p>
    </Confirm>
  );
}
