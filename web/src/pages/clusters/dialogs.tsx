import { useState } from "react";
import * as calls from "../../api/calls";
import type { Cluster, ClusterMember } from "../../api/types";
import { problemsOf, useAct } from "../../lib/data";
import { plural } from "../../lib/format";
import { navigate } from "../../lib/router";
import * as check from "../../lib/validate";
import { Confirm, Dialog } from "../../ui/dialog";
import { Field, Input, Select } from "../../ui/field";
import { Failure, Notice } from "../../ui/states";
import { DialogButtons } from "../containers/actions";
import { setWeight } from "./data";
import { bodyOf, emptyClusterForm, placeClusterProblems, serverRow } from "./form";
import { namedServers, serverOf } from "./model";
import { ServerRows, useChoices } from "./servers";

const STALE = ["clusters"];

export function RemoveCluster({ cluster, onClose }: { cluster: Cluster; onClose: () => void }) {
  const [typed, setTyped] = useState("");
  const made = cluster.members.filter((m) => m.scaled).length;
  const remove = useAct({
    run: () => calls.clusters.remove(cluster.id),
    done: () => `Removed ${cluster.name}.`,
    stale: [...STALE, "containers"],
    quiet: true,
    after: () => {
      onClose();
      navigate("/clusters");
    },
  });
  return (
    <Confirm
      title={`Remove ${cluster.name}?`}
      action="Remove the cluster"
      busy={remove.isPending}
      error={remove.error}
      disabled={typed !== cluster.name}
      onConfirm={() => remove.mutate()}
      onClose={onClose}
    >
      <p className="muted">
        Nobody is served at {cluster.endpoint ?? "its entry"} any more, and its figures and events go. The servers that were named stay as they
        are{made > 0 && <>; {plural(made, "container", "containers")} that scaling made {made === 1 ? "is" : "are"} removed</>}.
      </p>
      <Field label={<>Type its name, {cluster.name}, to confirm</>}>{(d) => <Input {...d} mono value={typed} onValue={setTyped} />}</Field>
    </Confirm>
  );
}

export function FailoverDialog({ cluster, onClose }: { cluster: Cluster; onClose: () => void }) {
  const active = cluster.members.find((m) => m.id === cluster.activeMember);
  const ready = cluster.members.filter((m) => m.state === "up" && m.weight > 0 && m.id !== cluster.activeMember);
  const [server, setServer] = useState(ready[0]?.id ?? "");
  const failover = useAct({
    run: () => calls.clusters.failover(cluster.id, server || undefined),
    done: (c) => `${c.members.find((m) => m.id === c.activeMember)?.name ?? "Another server"} takes the traffic.`,
    stale: STALE,
    quiet: true,
    after: onClose,
  });
  const automatic = cluster.failback?.mode === "automatic";
  return (
    <Confirm
      title={`Fail ${cluster.name} over?`}
      action="Fail over"
      danger={false}
      busy={failover.isPending}
      error={failover.error}
      disabled={ready.length === 0}
      onConfirm={() => failover.mutate()}
      onClose={onClose}
    >
      {ready.length === 0 ? (
        <Notice tone="amber">No other server is up: there is none to take the traffic.</Notice>
      ) : (
        <>
          <p className="muted">
            {active ? `${active.name} takes the traffic now. ` : ""}New requests go to the other server at once; what is in flight goes on to its
            end.
            {automatic &&
              ` Traffic comes back ${cluster.failback?.after ?? 30} s later where a server of higher preference is up: choose failback by hand to have it stay.`}
          </p>
          <Field label="To">
            {(d) => <Select {...d} value={server} onValue={setServer} options={ready.map((m) => [m.id, m.name] as const)} />}
          </Field>
        </>
      )}
    </Confirm>
  );
}

export function WeightDialog({ cluster, member, onClose }: { cluster: Cluster; member: ClusterMember; onClose: () => void }) {
  const [weight, setValue] = useState(String(member.weight));
  const [tried, setTried] = useState(false);
  const own = check.whole(0, 256)(weight.trim());
  const save = useAct({
    run: () => setWeight(cluster.id, member.id, Number(weight)),
    done: () => `${member.name} has weight ${Number(weight)}.`,
    stale: STALE,
    quiet: true,
    after: onClose,
  });
  const server = Object.values(problemsOf(save.error)).join("; ") || undefined;
  const counts = cluster.loadBalancer.algorithm === "weighted" || cluster.loadBalancer.algorithm === "least-connections";
  return (
    <Dialog
      title={`Weight of ${member.name}`}
      onClose={onClose}
      onSubmit={() => {
        setTried(true);
        if (!own) save.mutate();
      }}
      footer={<DialogButtons action="Save" busy={save.isPending} onClose={onClose} />}
    >
      <Field
        label="Weight"
        hint={
          counts
            ? "Its share against the others'; 0 is no new traffic"
            : "Round robin and IP hash do not count weights, but 0 is no new traffic under all of them"
        }
        problem={(tried ? own : undefined) ?? server}
      >
        {(d) => <Input {...d} inputMode="numeric" value={weight} onValue={setValue} />}
      </Field>
      {save.error !== null && !server && <Failure error={save.error} />}
    </Dialog>
  );
}

export function DrainMember({ cluster, member, onClose }: { cluster: Cluster; member: ClusterMember; onClose: () => void }) {
  const drain = useAct({
    run: () => setWeight(cluster.id, member.id, 0),
    done: () => `${member.name} gets no new traffic.`,
    stale: STALE,
    quiet: true,
    after: onClose,
  });
  const others = cluster.members.filter((m) => m.id !== member.id && m.state === "up" && m.weight > 0).length;
  return (
    <Confirm
      title={`Drain ${member.name}?`}
      action="Drain it"
      danger={others === 0}
      busy={drain.isPending}
      error={drain.error}
      onConfirm={() => drain.mutate()}
      onClose={onClose}
    >
      <p className="muted">
        It gets nothing new: its weight becomes 0. What it has in flight ({member.inFlight}) goes on to its end. It stays in the cluster, is
        checked as before, and can be put back at any time.
      </p>
      {others === 0 && <Notice tone="red">No other server is up: nobody would be served.</Notice>}
    </Confirm>
  );
}

export function RemoveMember({ cluster, member, onClose }: { cluster: Cluster; member: ClusterMember; onClose: () => void }) {
  const remove = useAct({
    run: () => calls.clusters.removeServer(cluster.id, member.id),
    done: () => (member.scaled ? `${member.name} drains, and is removed then.` : `${member.name} is no longer in ${cluster.name}.`),
    stale: STALE,
    quiet: true,
    after: onClose,
  });
  return (
    <Confirm
      title={`Take ${member.name} out of ${cluster.name}?`}
      action="Take it out"
      busy={remove.isPending}
      error={remove.error}
      onConfirm={() => remove.mutate()}
      onClose={onClose}
    >
      <p className="muted">
        {member.scaled
          ? `Scaling made it: it gets nothing new, and its container is removed once it is idle, or after ${cluster.drainTime} s. Scaling may make another one.`
          : "It gets nothing new, and what it has in flight goes on to its end. The server itself stays as it is."}
      </p>
    </Confirm>
  );
}

export function AddServers({ cluster, onClose }: { cluster: Cluster; onClose: () => void }) {
  const { choices, ports, error } = useChoices(cluster);
  const [rows, setRows] = useState(() => [serverRow()]);
  const [tried, setTried] = useState(false);
  const form = {
    ...emptyClusterForm(),
    name: cluster.name,
    type: cluster.type,
    algorithm: cluster.loadBalancer.algorithm,
    servers: rows,
  };
  const { body, problems: own } = bodyOf(form, ports);
  const there = new Set(namedServers(cluster).map((s) => s.id));
  const add = useAct({
    run: () => calls.clusters.addServers(cluster.id, body.servers.map((s) => (typeof s === "string" ? s : serverOf(s)))),
    done: () => `${plural(body.servers.length, "server is", "servers are")} in ${cluster.name} now.`,
    stale: STALE,
    quiet: true,
    after: onClose,
  });
  const server = placeClusterProblems(form, problemsOf(add.error));
  return (
    <Dialog
      wide
      title={`Add servers to ${cluster.name}`}
      onClose={onClose}
      onSubmit={() => {
        setTried(true);
        if (Object.keys(own).length === 0) add.mutate();
      }}
      footer={<DialogButtons action="Add" busy={add.isPending} onClose={onClose} />}
    >
      {error !== null && error !== undefined && <Failure what="The servers could not be read." error={error} />}
      <ServerRows
        form={form}
        onRows={setRows}
        problems={{ ...server, ...(tried ? own : {}) }}
        choices={choices?.filter((c) => !there.has(c.value))}
        hint={cluster.type === "high-availability" ? "They stand by behind those that are there." : undefined}
      />
      {add.error !== null && Object.keys(server).length === 0 && <Failure error={add.error} />}
    </Dialog>
  );
}
