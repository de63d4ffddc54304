import { CircleAlert, Info, RotateCw, TriangleAlert } from "lucide-react";
import type { ReactNode } from "react";
import { ApiError, messageOf } from "../api";
import { leadOf, sentence } from "../api/errors";
import { Link } from "../lib/router";
import { Button } from "./button";

/** Says what failed, with what the server knows of it, and a way to try again where one is given. */
export function Failure(props: { error: unknown; what?: string; retry?: () => void }) {
  const { error } = props;
  const api = error instanceof ApiError ? error : null;
  const lead = api && leadOf(api.message, api.details);
  const oneField = api?.details.every((d) => d.field === api.details[0]?.field);
  return (
    <div className="notice tone-red" role="alert">
      <CircleAlert aria-hidden="true" />
      <div className="body">
        {props.what && <strong>{props.what} </strong>}
        {lead ? sentence(lead) : messageOf(error)}
        {api && api.details.length > 1 && (
          <ul className="stack tight">
            {api.details.map((d) => (
              <li key={d.field + d.message}>
                {!oneField && <code>{d.field}</code>} {d.message}
              </li>
            ))}
          </ul>
        )}
        {api && api.logs.length > 0 && <pre>{api.logs.join("\n")}</pre>}
        {api && (api.operationId || api.requestId) && (
          <div className="meta">
            {api.operationId && (
              <Link className="link" href={`/operations/${api.operationId}`}>
                See the operation
              </Link>
            )}
            {api.operationId && api.requestId && " · "}
            {api.requestId && (
              <>
                Request <span className="mono">{api.requestId}</span>
              </>
            )}
          </div>
        )}
      </div>
      {props.retry && (
        <Button small onClick={props.retry} icon={<RotateCw />}>
          Retry
        </Button>
      )}
    </div>
  );
}

export function Notice(props: { tone: "amber" | "blue" | "red" | "green"; children: ReactNode }) {
  return (
    <div className={`notice tone-${props.tone}`} role="status">
      {props.tone === "blue" ? <Info aria-hidden="true" /> : <TriangleAlert aria-hidden="true" />}
      <div className="body">{props.children}</div>
    </div>
  );
}

/** Nothing is there: why, and what to do about it. */
export function Empty(props: { icon: ReactNode; title: string; children?: ReactNode; actions?: ReactNode; flat?: boolean }) {
  return (
    <div className={`empty ${props.flat ? "flat" : ""}`}>
      {props.icon}
      <h2>{props.title}</h2>
      {props.children && <p>{props.children}</p>}
      {props.actions && <div className="actions">{props.actions}</div>}
    </div>
  );
}

export function Skeleton({ width }: { width: number | string }) {
  return <span className="skeleton" style={{ width }} aria-hidden="true" />;
}

export function Loading({ what }: { what: string }) {
  return (
    <div className="empty flat" role="status">
      <span className="spinner large" aria-hidden="true" />
      <span className="sr-only">Loading {what}</span>
    </div>
  );
}
