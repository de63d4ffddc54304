import { useState } from "react";
import * as calls from "../../api/calls";
import type { Cluster, ClusterMember, ClusterType, Database, DatabaseMember } from "../../api/types";
import { problemsOf, useAct } from "../../lib/data";
import { plural } from "../../lib/format";
import { navigate } from "../../lib/router";
import * as check from "../../lib/validate";
import { Confirm, Dialog } from "../../ui/dialog";
import { Field, Input, Select } from "../../ui/field";
import { Failure, Notice } from "../../ui/states";
import { DialogButtons } from "../containers/actions";
import { setWeight } from "./data";
import { heirsOf, lagText, primaryOf, ROLE_NAME } from "./database-words";
import { bodyOf, emptyClusterForm, placeClusterProblems, serverRow, SURVIVES_FROM } from "./form";
import { namedServers, serverOf } from "./model";
import { ServerRows, useChoices } from "./servers";
import { isOfNodes } from "./words";

const STALE = ["clusters"];
/** A database's members are containers of its own, which go with them. */
const staleOf = (c: Cluster): string[] => (c.type === "database" ? [...STALE, "containers"] : STALE);

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
      {cluster.type === "database" ? (
        <>
          <p className="muted">
            Nobody is served at {cluster.endpoint ?? "its entry"} any more. Its members' containers are removed, and its passwords, figures and
            events go.
          </p>
          <Notice tone="amber">
            The data stays on each of its nodes, in the volumes <code className="break">nm-{cluster.id}</code> and{" "}
            <code className="break">nm-{cluster.id}-archive</code>. Remove them by hand once nobody needs them.
          </Notice>
        </>
      ) : cluster.type === "compute" ? (
        <p className="muted">
          Its jobs go, with their tasks and logs, and its events. While some have not ended it stays: wait for them, or cancel them first. The
          nodes stay as they are.
        </p>
      ) : (
        <p className="muted">
          Nobody is served at {cluster.endpoint ?? "its entry"} any more, and its figures and events go. The servers that were named stay as they
          are{made > 0 && <>; {plural(made, "container", "containers")} that scaling made {made === 1 ? "is" : "are"} removed</>}.
        </p>
      )}
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

/** Has another member of a database take the writes. */
export function SwitchOverDialog({ cluster, database: d, onClose }: { cluster: Cluster; database: Database; onClose: () => void }) {
  const primary = primaryOf(d);
  const heirs = heirsOf(d);
  /** Empty: the one that is least behind. */
  const [to, setTo] = useState("");
  const change = useAct({
    run: () => calls.clusters.switchOver(cluster.id, to || undefined),
    done: (c) => `${(c.database && primaryOf(c.database)?.name) ?? "Another member"} takes the writes.`,
    stale: STALE,
    quiet: true,
    after: onClose,
  });
  return (
    <Confirm
      title={`Switch ${cluster.name} over?`}
      action="Switch over"
      danger={false}
      busy={change.isPending}
      error={change.error}
      disabled={heirs.length === 0 || !primary}
      onConfirm={() => change.mutate()}
      onClose={onClose}
    >
      {!primary ? (
        <Notice tone="amber">No member takes writes now: there is nobody who could hand over.</Notice>
      ) : heirs.length === 0 ? (
        <Notice tone="amber">
          {d.members.length < 2
            ? "It has one member only: there is no other that could take the writes."
            : "No other member serves: there is none to take the writes."}
        </Notice>
      ) : (
        <>
          <p className="muted">
            {primary.name} takes the writes now. It hands over and follows the other then; nothing that was acknowledged is lost. Every client is
            disconnected and connects anew: for a few seconds nobody can write.
          </p>
          <Field label="To" hint={to === "" ? undefined : lagHint(heirs.find((m) => m.server === to))}>
            {(f) => (
              <Select
                {...f}
                value={to}
                onValue={setTo}
                options={[["", "The replica that is least behind"], ...heirs.map((m) => [m.server, `${m.name}, ${ROLE_NAME[m.role ?? "replica"]}`] as const)]}
              />
            )}
          </Field>
        </>
      )}
    </Confirm>
  );
}

const lagHint = (m: DatabaseMember | undefined): string | undefined => {
  const text = m && lagText(m);
  return text ? `Behind by ${text}` : undefined;
};

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
    done: () =>
      member.scaled
        ? `${member.name} drains, and is removed then.`
        : cluster.type === "database"
          ? `${member.name} leaves ${cluster.name}.`
          : `${member.name} is no longer in ${cluster.name}.`,
    stale: staleOf(cluster),
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
        {cluster.type === "database"
          ? `${member.id === cluster.database?.primary ? "It takes the writes and hands over first. " : ""}Its container is removed. What it has of the data stays on the node, in a volume, until somebody removes that.`
          : cluster.type === "compute"
            ? "It gets no new tasks of this cluster. The node itself stays as it is."
            : member.scaled
              ? `Scaling made it: it gets nothing new, and its container is removed once it is idle, or after ${cluster.drainTime} s. Scaling may make another one.`
              : "It gets nothing new, and what it has in flight goes on to its end. The server itself stays as it is."}
      </p>
      {cluster.type === "database" && cluster.members.length <= SURVIVES_FROM && (
        <Notice tone="amber">Fewer than three nodes do not survive the loss of one.</Notice>
      )}
    </Confirm>
  );
}

const ADDED: Partial<Record<ClusterType, string>> = {
  "high-availability": "They stand by behind those that are there.",
  database: "A node gets a copy of all of the data from the primary, and follows it then.",
  compute: "They get tasks at once, where some wait.",
};

export function AddServers({ cluster, onClose }: { cluster: Cluster; onClose: () => void }) {
  const { choices, ports, error } = useChoices(cluster, cluster.type);
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
  const what = isOfNodes(cluster.type) ? "node" : "server";
  const there = new Set(namedServers(cluster).map((s) => s.id));
  const add = useAct({
    run: () => calls.clusters.addServers(cluster.id, body.servers.map((s) => (typeof s === "string" ? s : serverOf(s)))),
    done: () => `${plural(body.servers.length, `${what} is`, `${what}s are`)} in ${cluster.name} now.`,
    stale: staleOf(cluster),
    quiet: true,
    after: onClose,
  });
  const server = placeClusterProblems(form, problemsOf(add.error));
  return (
    <Dialog
      wide
      title={`Add ${what}s to ${cluster.name}`}
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
        hint={ADDED[cluster.type]}
      />
      {add.error !== null && Object.keys(server).length === 0 && <Failure error={add.error} />}
    </Dialog>
  );
}
