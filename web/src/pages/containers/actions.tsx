import { CirclePause, CirclePlay, Gauge, Pencil, Play, RotateCw, Square, SquareTerminal, Trash2, Zap } from "lucide-react";
import { type ReactNode, useState } from "react";
import * as calls from "../../api/calls";
import { type Container, type ContainerUpdate, type RestartPolicy, SIGNALS, type Signal } from "../../api/types";
import { problemsOf, useAct } from "../../lib/data";
import { navigate } from "../../lib/router";
import * as check from "../../lib/validate";
import { Button } from "../../ui/button";
import { Confirm, Dialog } from "../../ui/dialog";
import { Check, Field, Input, Select } from "../../ui/field";
import type { MenuItem } from "../../ui/menu";
import { Failure, Notice } from "../../ui/states";

export type PlainAction = "start" | "stop" | "restart" | "pause" | "unpause";

const DONE: Record<PlainAction, string> = { start: "Started", stop: "Stopped", restart: "Restarted", pause: "Paused", unpause: "Resumed" };
export const ACTION_NAME: Record<PlainAction, string> = {
  start: "Start",
  stop: "Stop",
  restart: "Restart",
  pause: "Pause",
  unpause: "Resume",
};
const ICON: Record<PlainAction, ReactNode> = {
  start: <Play />,
  stop: <Square />,
  restart: <RotateCw />,
  pause: <CirclePause />,
  unpause: <CirclePlay />,
};

/** What makes sense for a container as it is. */
export function actionsFor(container: Pick<Container, "status">): PlainAction[] {
  switch (container.status) {
    case "running":
      return ["stop", "restart", "pause"];
    case "paused":
      return ["unpause", "stop"];
    case "created":
    case "stopped":
    case "exited":
      return ["start"];
  }
}
export const runs = (c: Pick<Container, "status">): boolean => c.status === "running" || c.status === "paused";

type Asked = "remove" | "rename" | "limits" | "kill";

/** A container's actions: the buttons' parts, the menu's items, and the dialogs they open. */
export function useContainerActions(container: Container, options: { afterRemove?: () => void } = {}) {
  const [asked, setAsked] = useState<Asked | null>(null);
  const act = useAct({
    run: (action: PlainAction) => calls.containers.act(container.id, action),
    done: (_c, action) => `${DONE[action]} ${container.name}.`,
    failed: `${container.name}:`,
    stale: ["containers"],
  });
  const busy = act.isPending ? act.variables : null;
  const plain = actionsFor(container).map((action) => ({
    action,
    label: ACTION_NAME[action],
    icon: ICON[action],
    busy: busy === action,
    disabled: act.isPending || !container.reachable,
    run: () => act.mutate(action),
  }));
  const items: MenuItem[] = [
    ...(container.status === "running"
      ? [{ label: "Open a terminal", icon: <SquareTerminal />, onSelect: () => navigate(`/containers/${container.id}/terminal`) }]
      : []),
    ...(runs(container) ? [{ label: "Send a signal…", icon: <Zap />, onSelect: () => setAsked("kill") }] : []),
    { label: "Change limits…", icon: <Gauge />, onSelect: () => setAsked("limits") },
    { label: "Rename…", icon: <Pencil />, onSelect: () => setAsked("rename") },
    "line",
    { label: "Remove…", icon: <Trash2 />, danger: true, onSelect: () => setAsked("remove") },
  ];
  const close = () => setAsked(null);
  const dialog = (
    <>
      {asked === "remove" && <RemoveDialog containers={[container]} onClose={close} onRemoved={options.afterRemove} />}
      {asked === "rename" && <RenameDialog container={container} onClose={close} />}
      {asked === "limits" && <LimitsDialog container={container} onClose={close} />}
      {asked === "kill" && <KillDialog container={container} onClose={close} />}
    </>
  );
  return { plain, items, dialog };
}

/** Asks before containers are removed; one that runs has to be allowed for on its own. */
export function RemoveDialog(props: { containers: Container[]; onClose: () => void; onRemoved?: (() => void) | undefined }) {
  const { containers } = props;
  const running = containers.filter(runs);
  const [force, setForce] = useState(false);
  const [volumes, setVolumes] = useState(false);
  const one = containers.length === 1 ? containers[0] : undefined;
  const remove = useAct({
    run: async () => {
      for (const c of containers) await calls.containers.remove(c.id, { force, volumes });
    },
    done: () => (one ? `Removed ${one.name}.` : `Removed ${containers.length} containers.`),
    stale: ["containers", "nodes", "volumes", "images", "networks"],
    quiet: true,
    after: () => {
      props.onClose();
      props.onRemoved?.();
    },
  });
  const foreign = containers.filter((c) => !c.managed).length;
  return (
    <Confirm
      title={one ? `Remove ${one.name}?` : `Remove ${containers.length} containers?`}
      action={running.length > 0 ? "Stop and remove" : "Remove"}
      busy={remove.isPending}
      error={remove.error}
      disabled={running.length > 0 && !force}
      onConfirm={() => remove.mutate()}
      onClose={props.onClose}
    >
      <p className="muted">
        {one ? "The container" : "The containers"} and what {one ? "it has" : "they have"} written inside will be gone. Named volumes and
        folders of the node stay.
      </p>
      {foreign > 0 && (
        <Notice tone="amber">
          {one ? "This container was" : `${foreign} of them were`} not started by NeuralMesh: something else may rely on{" "}
          {one || foreign === 1 ? "it" : "them"}.
        </Notice>
      )}
      {running.length > 0 && (
        <Check
          label={one ? "Remove it although it is running" : `Remove the ${running.length} that are running, too`}
          hint="It is killed first, without its grace to stop."
          checked={force}
          onChecked={setForce}
        />
      )}
      <Check label="Remove its anonymous volumes" checked={volumes} onChecked={setVolumes} />
    </Confirm>
  );
}

function RenameDialog({ container, onClose }: { container: Container; onClose: () => void }) {
  const [name, setName] = useState(container.name);
  const [tried, setTried] = useState(false);
  const rename = useAct({
    run: () => calls.containers.rename(container.id, name),
    done: () => `${container.name} is called ${name} now.`,
    stale: ["containers"],
    quiet: true,
    after: onClose,
  });
  const own = check.containerName(name);
  const server = problemsOf(rename.error);
  return (
    <Dialog
      title={`Rename ${container.name}`}
      onClose={onClose}
      onSubmit={() => {
        setTried(true);
        if (!own && name !== container.name) rename.mutate();
        else if (name === container.name) onClose();
      }}
      footer={<DialogButtons action="Rename" busy={rename.isPending} onClose={onClose} />}
    >
      <Field label="Name" problem={(tried ? own : undefined) ?? server.name}>
        {(d) => <Input {...d} mono value={name} onValue={setName} maxLength={100} />}
      </Field>
      {rename.error !== null && !server.name && <Failure error={rename.error} />}
    </Dialog>
  );
}

export const RESTART_OPTIONS: readonly (readonly [RestartPolicy, string])[] = [
  ["no", "Never"],
  ["on-failure", "When it fails"],
  ["unless-stopped", "Unless it was stopped"],
  ["always", "Always"],
];

function LimitsDialog({ container, onClose }: { container: Container; onClose: () => void }) {
  const { cpuLimit, memoryLimit } = container.resources;
  const [cpu, setCpu] = useState(cpuLimit === null ? "" : String(cpuLimit));
  const [memory, setMemory] = useState(memoryLimit ?? "");
  const [restart, setRestart] = useState(container.restart);
  const [tried, setTried] = useState(false);
  const change: ContainerUpdate = {};
  if (cpu !== "" && Number(cpu) !== cpuLimit) change.cpuLimit = Number(cpu);
  if (memory !== "" && memory !== memoryLimit) change.memoryLimit = memory;
  if (restart !== container.restart) change.restart = restart;
  // A limit that was set can be moved but not lifted while the container lives: Docker's API has no way to.
  const keep = "Can be changed, but not taken away again";
  const own = {
    cpu: cpu === "" ? (cpuLimit === null ? undefined : keep) : check.cpu(cpu),
    memory: memory === "" ? (memoryLimit === null ? undefined : keep) : check.memory(memory),
  };
  const update = useAct({
    run: () => calls.containers.update(container.id, change),
    done: () => `Changed the limits of ${container.name}.`,
    stale: ["containers"],
    quiet: true,
    after: onClose,
  });
  const server = problemsOf(update.error);
  const placed = server.cpuLimit ?? server.memoryLimit ?? server.restart;
  return (
    <Dialog
      title={`Limits of ${container.name}`}
      onClose={onClose}
      onSubmit={() => {
        setTried(true);
        if (own.cpu || own.memory) return;
        if (Object.keys(change).length === 0) onClose();
        else update.mutate();
      }}
      footer={<DialogButtons action="Save" busy={update.isPending} onClose={onClose} />}
    >
      <p className="muted">They change at once, without a restart.</p>
      <div className="form-2">
        <Field label="CPU" hint="Cores, 0.1 to 64" problem={(tried ? own.cpu : undefined) ?? server.cpuLimit}>
          {(d) => <Input {...d} inputMode="decimal" placeholder="no limit" value={cpu} onValue={setCpu} />}
        </Field>
        <Field label="Memory" hint="512m, 1g" problem={(tried ? own.memory : undefined) ?? server.memoryLimit}>
          {(d) => <Input {...d} placeholder="no limit" value={memory} onValue={setMemory} />}
        </Field>
        <Field label="Restart" className="full" problem={server.restart}>
          {(d) => <Select {...d} value={restart} onValue={setRestart} options={RESTART_OPTIONS} />}
        </Field>
      </div>
      {update.error !== null && !placed && <Failure error={update.error} />}
    </Dialog>
  );
}

const SIGNAL_SAYS: Record<Signal, string> = {
  SIGKILL: "SIGKILL: end at once",
  SIGTERM: "SIGTERM: end in good order",
  SIGINT: "SIGINT: as Ctrl+C",
  SIGHUP: "SIGHUP: often, reload the configuration",
  SIGQUIT: "SIGQUIT",
  SIGUSR1: "SIGUSR1",
  SIGUSR2: "SIGUSR2",
  SIGWINCH: "SIGWINCH",
};

function KillDialog({ container, onClose }: { container: Container; onClose: () => void }) {
  const [signal, setSignal] = useState<Signal>("SIGKILL");
  const kill = useAct({
    run: () => calls.containers.kill(container.id, signal),
    done: () => `Sent ${signal} to ${container.name}.`,
    stale: ["containers"],
    quiet: true,
    after: onClose,
  });
  return (
    <Confirm
      title={`Send a signal to ${container.name}`}
      action={`Send ${signal}`}
      danger={signal === "SIGKILL" || signal === "SIGTERM" || signal === "SIGQUIT"}
      busy={kill.isPending}
      error={kill.error}
      onConfirm={() => kill.mutate()}
      onClose={onClose}
    >
      <Field label="Signal" hint="It goes to the container's main process.">
        {(d) => <Select {...d} value={signal} onValue={setSignal} options={SIGNALS.map((s) => [s, SIGNAL_SAYS[s]] as const)} />}
      </Field>
    </Confirm>
  );
}

export function DialogButtons(props: { action: string; busy: boolean; onClose: () => void; disabled?: boolean }) {
  return (
    <>
      <Button onClick={props.onClose}>Cancel</Button>
      <Button type="submit" variant="primary" busy={props.busy} disabled={props.disabled ?? false}>
        {props.action}
      </Button>
    </>
  );
}
