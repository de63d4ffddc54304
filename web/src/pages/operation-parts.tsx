import { useQuery } from "@tanstack/react-query";
import { Ban, CircleCheck, CircleDashed, CircleX, LoaderCircle } from "lucide-react";
import { type ReactNode, useEffect, useRef, useState } from "react";
import * as calls from "../api/calls";
import type { Operation, OperationState, OperationStep } from "../api/types";
import { isFinal, useAct, useMayOperate } from "../lib/data";
import { bytes, clock, percent } from "../lib/format";
import { type Layer, readLayer } from "../lib/layers";
import { Link } from "../lib/router";
import { OperationBadge, Progress, Time } from "../ui/bits";
import { Button } from "../ui/button";

const KINDS: Record<string, string> = {
  "backup.check": "Check a backup repository",
  "backup.perform": "Make a backup",
  "backup.recover": "Restore a database",
  "backup.remove": "Remove a backup",
  "backup.restore": "Restore a backup",
  "backup.test": "Restore a backup for a test",
  "container.create": "Create a container",
  "container.remove": "Remove a container",
  "container.reschedule": "Move a container",
  "image.pull": "Pull an image",
  "node.drain": "Drain a node",
  "node.upgrade": "Upgrade a node",
};
export const kindText = (kind: string): string => KINDS[kind] ?? kind;

const STEP: Record<OperationState, [typeof CircleCheck, string]> = {
  pending: [CircleDashed, "tone-grey"],
  running: [LoaderCircle, "tone-blue"],
  succeeded: [CircleCheck, "tone-green"],
  failed: [CircleX, "tone-red"],
  cancelled: [Ban, "tone-amber"],
};

function Step({ step }: { step: OperationStep }) {
  const [Icon, tone] = STEP[step.state];
  return (
    <li className={`step ${tone}`}>
      <Icon aria-label={step.state} style={step.state === "running" ? { animation: "spin 1s linear infinite" } : undefined} />
      <span>{step.name}</span>
      <span className="detail">{step.detail}</span>
    </li>
  );
}

export function Steps({ operation }: { operation: Operation }) {
  if (operation.steps.length === 0) return null;
  return (
    <ul className="steps">
      {operation.steps.map((s, i) => (
        <Step key={i} step={s} />
      ))}
    </ul>
  );
}

/** The layers of a pull as they come by: the operation tells of one at a time. */
export function useLayers(operation: Operation | null): Layer[] {
  const [layers, setLayers] = useState<Layer[]>([]);
  const id = operation?.id;
  useEffect(() => setLayers([]), [id]);
  const detail = operation?.steps.at(-1)?.detail;
  useEffect(() => {
    const layer = detail ? readLayer(detail) : null;
    if (!layer) return;
    setLayers((list) => {
      const at = list.findIndex((l) => l.id === layer.id);
      return at < 0
        ? [...list, layer]
        : list.with(at, {
            ...layer,
            total: layer.total || (list[at]?.total ?? 0),
            current: layer.total ? layer.current : (list[at]?.total ?? 0),
          });
    });
  }, [detail]);
  return layers;
}

export function Layers({ layers, done }: { layers: Layer[]; done: boolean }) {
  if (layers.length === 0) return null;
  return (
    <ul className="stack tight" aria-label="Layers">
      {layers.map((l) => {
        const ready = done || /complete|exists/i.test(l.status);
        return (
          <li key={l.id} className="stack" style={{ gap: 3 }}>
            <div className="row">
              <code>{l.id}</code>
              <span className="faint grow truncate">{ready ? "Ready" : l.status}</span>
              <span className="faint num nowrap">
                {l.total > 0 && (ready ? bytes(l.total) : `${bytes(l.current)} of ${bytes(l.total)}`)}
              </span>
            </div>
            <Progress value={ready ? 100 : l.total > 0 ? (l.current / l.total) * 100 : 0} tone={ready ? "tone-green" : ""} />
          </li>
        );
      })}
    </ul>
  );
}

export function OperationLog({ operation }: { operation: Operation }) {
  const box = useRef<HTMLDivElement>(null);
  const newest = operation.log.at(-1);
  useEffect(() => {
    box.current?.scrollTo(0, box.current.scrollHeight);
  }, [newest?.time, newest?.line]);
  if (operation.log.length === 0) return null;
  return (
    <div className="op-log" ref={box} tabIndex={0} role="log" aria-label="Log">
      {operation.log.map((l, i) => (
        <p key={i}>
          <time>{clock(l.time)}</time>
          <span>{l.line}</span>
        </p>
      ))}
    </div>
  );
}

export function CancelButton({ operation }: { operation: Operation }) {
  const may = useMayOperate();
  const cancel = useAct({
    run: () => calls.operations.cancel(operation.id),
    done: () => "It was asked to end.",
    failed: "It could not be cancelled.",
    stale: ["operations"],
  });
  if (!may || isFinal(operation.state)) return null;
  return (
    <Button small icon={<Ban />} busy={cancel.isPending || operation.cancelRequested} onClick={() => cancel.mutate()}>
      {operation.cancelRequested ? "Cancelling" : "Cancel"}
    </Button>
  );
}

/** An operation under way, in short. */
export function OperationProgress(props: { operation: Operation; cancellable?: boolean; more?: ReactNode; children?: ReactNode }) {
  const { operation } = props;
  const layers = useLayers(operation);
  const running = !isFinal(operation.state);
  return (
    <section className="card" aria-label="Progress" aria-live="polite">
      <header className="card-head">
        <h2>{kindText(operation.kind)}</h2>
        {operation.progress !== undefined && <span className="faint num">{percent(operation.progress)}</span>}
        <OperationBadge state={operation.state} />
        {props.cancellable && <CancelButton operation={operation} />}
        {props.more}
      </header>
      <div className="card-body stack">
        {running && <Progress value={operation.progress} />}
        <Steps operation={operation} />
        <Layers layers={layers} done={operation.state === "succeeded"} />
        {props.children}
      </div>
      <OperationLog operation={operation} />
    </section>
  );
}

/** The last operations on something, newest first. */
export function useOperationsOf(id: string) {
  return useQuery({
    queryKey: ["operations", "of", id],
    queryFn: async ({ signal }) => (await calls.operations.list({ target: id, limit: 5 }, signal)).items,
  });
}

export function RecentOperations({ id }: { id: string }) {
  const rows = useOperationsOf(id).data ?? [];
  if (rows.length === 0) return null;
  return (
    <section className="card">
      <header className="card-head">
        <h2>Operations</h2>
      </header>
      <ul className="stack tight card-body">
        {rows.map((o) => (
          <li key={o.id} className="row">
            <Link className="link grow truncate" href={`/operations/${o.id}`}>
              {kindText(o.kind)}
            </Link>
            <OperationBadge state={o.state} />
            <span className="faint">
              <Time at={o.created} />
            </span>
          </li>
        ))}
      </ul>
    </section>
  );
}
