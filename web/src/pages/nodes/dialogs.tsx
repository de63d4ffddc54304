import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import * as calls from "../../api/calls";
import type { Node, Operation } from "../../api/types";
import { problemsOf, useAct } from "../../lib/data";
import { bytes, plural } from "../../lib/format";
import { newer, platformOf } from "../../lib/nodes";
import { navigate } from "../../lib/router";
import * as check from "../../lib/validate";
import { Confirm, Dialog } from "../../ui/dialog";
import { Check, Field, Input, Segmented } from "../../ui/field";
import { Failure, Loading, Notice } from "../../ui/states";
import { DialogButtons } from "../containers/actions";
import { type PairRow, pairRow } from "../containers/form";
import { LabelRows, labelsOf } from "../parts";

export function EditNode({ node, onClose }: { node: Node; onClose: () => void }) {
  const [name, setName] = useState<string>(node.name);
  const [rows, setRows] = useState<PairRow[]>(() => Object.entries(node.labels).map(([k, v]) => pairRow(k, v)));
  const [tried, setTried] = useState(false);
  const { labels, problems } = labelsOf(rows);
  const own = check.nodeName(name.trim());
  const save = useAct({
    run: () => calls.nodes.update(node.id, { ...(name.trim() !== node.name ? { name: name.trim() } : {}), labels }),
    done: (n) => `Changed ${n.name}.`,
    stale: ["nodes"],
    quiet: true,
    after: onClose,
  });
  const server = problemsOf(save.error);
  return (
    <Dialog
      title={`Change ${node.name}`}
      onClose={onClose}
      onSubmit={() => {
        setTried(true);
        if (!own && Object.keys(problems).length === 0) save.mutate();
      }}
      footer={<DialogButtons action="Save" busy={save.isPending} onClose={onClose} />}
    >
      <Field label="Name" problem={(tried ? own : undefined) ?? server.name}>
        {(d) => <Input {...d} mono value={name} onValue={setName} />}
      </Field>
      <LabelRows rows={rows} onRows={setRows} problems={tried ? problems : {}} />
      {save.error !== null && !server.name && <Failure error={save.error} />}
    </Dialog>
  );
}

/** `onBegun` gets the operation, which goes on by itself. */
export function DrainNode({ node, onBegun, onClose }: { node: Node; onBegun: (o: Operation) => void; onClose: () => void }) {
  const [move, setMove] = useState<"move" | "stop">("move");
  const [grace, setGrace] = useState("");
  const [tried, setTried] = useState(false);
  const own = grace.trim() === "" ? undefined : check.whole(0, 3_600)(grace.trim());
  const drain = useAct({
    run: () =>
      calls.nodes.drain(node.id, { ...(grace.trim() ? { grace: Number(grace) } : {}), ...(move === "stop" ? { move: false } : {}) }),
    done: (begun) => (begun.operation ? null : `${node.name} is drained.`),
    stale: ["nodes", "operations", "containers"],
    quiet: true,
    after: (begun) => {
      if (begun.operation) onBegun(begun.operation);
      onClose();
    },
  });
  const server = problemsOf(drain.error);
  return (
    <Confirm
      title={`Drain ${node.name}?`}
      action="Drain it"
      danger={move === "stop"}
      busy={drain.isPending}
      error={server.grace ? null : drain.error}
      onConfirm={() => {
        setTried(true);
        if (!own) drain.mutate();
      }}
      onClose={onClose}
    >
      <div>
        <Segmented
          label="Its containers"
          value={move}
          onValue={setMove}
          options={[
            ["move", "Move its containers"],
            ["stop", "Stop them in place"],
          ]}
        />
      </div>
      <p className="muted">
        {move === "move"
          ? "It takes no new containers from now on. Those of NeuralMesh are made and started on other nodes, and stopped here. What they wrote outside volumes is lost; what has a writable volume or folder of the node is stopped in place."
          : "It takes no new containers from now on, and those of NeuralMesh are stopped where they are."}{" "}
        Containers that others started are left alone.
      </p>
      <Field
        label="Grace to stop"
        optional
        hint="Before they are killed; each container's own where nothing is said"
        problem={(tried ? own : undefined) ?? server.grace}
      >
        {(d) => (
          <div className="with-suffix">
            <Input {...d} inputMode="numeric" value={grace} onValue={setGrace} placeholder="its own" />
            <span className="suffix">s</span>
          </div>
        )}
      </Field>
    </Confirm>
  );
}

export function UpgradeNode({ node, onBegun, onClose }: { node: Node; onBegun: (o: Operation) => void; onClose: () => void }) {
  const [force, setForce] = useState(false);
  const binaries = useQuery({ queryKey: ["binaries"], queryFn: ({ signal }) => calls.nodes.binaries(signal) });
  const platform = platformOf(node.info?.arch ?? "");
  const runs = node.info?.agentVersion ?? "";
  // The newer of the uploaded one and the control plane's own is what the node gets.
  const offered = binaries.data?.filter((b) => b.platform === platform).sort((a, b) => (newer(a.version, b.version) ? -1 : 1))[0];
  const older = offered !== undefined && !newer(offered.version, runs);
  const upgrade = useAct({
    run: () => calls.nodes.upgrade(node.id, force),
    stale: ["nodes", "operations"],
    quiet: true,
    after: (begun) => {
      onBegun(begun.operation ?? begun.done);
      onClose();
    },
  });
  return (
    <Confirm
      title={`Upgrade ${node.name}?`}
      action="Upgrade"
      danger={false}
      busy={upgrade.isPending}
      error={upgrade.error}
      disabled={!offered || (older && !force)}
      onConfirm={() => upgrade.mutate()}
      onClose={onClose}
    >
      {binaries.error && <Failure what="The versions could not be read." error={binaries.error} retry={() => void binaries.refetch()} />}
      {binaries.isLoading && <Loading what="the versions" />}
      {binaries.data && !offered && (
        <Notice tone="amber">
          There is no executable for {platform}. Upload one: <code>PUT /api/nodes/binaries/{platform}</code>.
        </Notice>
      )}
      {offered && (
        <>
          <dl className="facts">
            <dt>It runs</dt>
            <dd>{runs || "not known"}</dd>
            <dt>It gets</dt>
            <dd>
              {offered.version}, {platform}, {bytes(offered.size)}, {offered.uploaded ? "uploaded" : "the control plane's own"}
            </dd>
          </dl>
          <p className="muted">Its containers run on. If the new version does not come up, the old one takes over again.</p>
          {older && <Check label="Although it is not newer" checked={force} onChecked={setForce} />}
        </>
      )}
    </Confirm>
  );
}

export function RevokeNode({ node, onClose }: { node: Node; onClose: () => void }) {
  const revoke = useAct({
    run: () => calls.nodes.revoke(node.id),
    done: () => `The certificates of ${node.name} count no more.`,
    stale: ["nodes"],
    quiet: true,
    after: onClose,
  });
  return (
    <Confirm
      title={`Revoke the certificates of ${node.name}?`}
      action="Revoke them"
      busy={revoke.isPending}
      error={revoke.error}
      onConfirm={() => revoke.mutate()}
      onClose={onClose}
    >
      <p className="muted">
        Its link is closed at once, and it is refused until its machine joins again with a new token. It stays in the list, and its
        containers run on.
      </p>
    </Confirm>
  );
}

export function RemoveNode({ node, onClose }: { node: Node; onClose: () => void }) {
  const [typed, setTyped] = useState("");
  const [force, setForce] = useState(false);
  const remove = useAct({
    run: () => calls.nodes.remove(node.id, force),
    done: () => `${node.name} is no longer in the fleet.`,
    stale: ["nodes", "containers", "servers", "health"],
    quiet: true,
    after: () => {
      onClose();
      navigate("/nodes");
    },
  });
  return (
    <Confirm
      title={`Take ${node.name} out of the fleet?`}
      action="Remove the node"
      busy={remove.isPending}
      error={remove.error}
      disabled={typed !== node.name}
      onConfirm={() => remove.mutate()}
      onClose={onClose}
    >
      <p className="muted">Its certificate is revoked at once and its agent can't come back without a new join token.</p>
      {node.containers > 0 && (
        <Check
          label={`Although ${plural(node.containers, "container is", "containers are")} on it`}
          hint="They go on running there, but are no longer known here. Drain it first to move them."
          checked={force}
          onChecked={setForce}
        />
      )}
      <Field label={<>Type its name, {node.name}, to confirm</>}>{(d) => <Input {...d} mono value={typed} onValue={setTyped} />}</Field>
    </Confirm>
  );
}
