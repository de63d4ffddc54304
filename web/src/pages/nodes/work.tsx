import { X } from "lucide-react";
import { ApiError } from "../../api";
import type { Operation } from "../../api/types";
import { isFinal, useNodeName, useOperation } from "../../lib/data";
import { plural } from "../../lib/format";
import { Link } from "../../lib/router";
import { IconButton } from "../../ui/button";
import { Failure } from "../../ui/states";
import { OperationProgress } from "../operation-parts";

interface Moved {
  id: string;
  name: string;
  nodeId: string;
  reason?: string;
}
interface DrainReport {
  moved: Moved[];
  stopped: Moved[];
}

/** What is done to a node now, followed to its end; then what came of it, until it is closed. */
export function NodeWork({ id, onClose }: { id: string; onClose: () => void }) {
  const { operation, error } = useOperation(id);
  const done = operation !== null && isFinal(operation.state);
  if (error) return <Failure what="The operation could not be followed." error={error} />;
  if (!operation) return null;
  return (
    <div className="stack tight">
      {operation.error && operation.state === "failed" && <Failure error={ApiError.ofOperation(operation.error, operation.id)} />}
      <OperationProgress
        operation={operation}
        cancellable
        more={
          done && (
            <IconButton small label="Put it away" onClick={onClose}>
              <X />
            </IconButton>
          )
        }
      >
        <Report operation={operation} />
      </OperationProgress>
    </div>
  );
}

function Report({ operation }: { operation: Operation }) {
  const nodeName = useNodeName();
  if (operation.kind !== "node.drain" || operation.state !== "succeeded") return null;
  const { moved = [], stopped = [] } = (operation.result ?? {}) as Partial<DrainReport>;
  if (moved.length + stopped.length === 0) return <p className="muted">No container of NeuralMesh was on it.</p>;
  return (
    <>
      <p className="muted">
        {plural(moved.length, "container")} moved, {plural(stopped.length, "container")} stopped in place.
      </p>
      <ul className="stack tight" aria-label="Drained">
        {[...moved, ...stopped].map((c) => (
          <li key={c.id}>
            <Link className="link" href={`/containers/${c.id}`}>
              {c.name}
            </Link>{" "}
            <span className="faint">{c.reason === undefined ? `moved to ${nodeName(c.nodeId)}` : `stopped: ${c.reason}`}</span>
          </li>
        ))}
      </ul>
    </>
  );
}
