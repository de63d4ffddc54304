import { Check, Copy } from "lucide-react";
import { type ReactNode, useState } from "react";
import type { ContainerHealth, ContainerStatus, OperationState } from "../api/types";
import { absolute, precise, relative, type Zone } from "../lib/format";
import { useNow } from "../lib/hooks";
import type { NodeState } from "../lib/nodes";
import { IconButton } from "./button";
import { toast } from "./toast";

/** A moment as `5m ago`; when exactly is its title. */
export function Time({ at }: { at: string | undefined }) {
  const now = useNow();
  if (!at) return <span className="faint">–</span>;
  return (
    <time dateTime={at} title={absolute(at)} className="nowrap">
      {relative(at, now)}
    </time>
  );
}

/** A moment to the millisecond; what it is in the other zone is its title. */
export function Moment({ at, zone = "local" }: { at: string; zone?: Zone }) {
  return (
    <time dateTime={at} title={precise(at, zone === "utc" ? "local" : "utc")} className="num">
      {precise(at, zone)}
    </time>
  );
}

const CONTAINER_TONE: Record<ContainerStatus, string> = {
  running: "tone-green",
  paused: "tone-amber",
  created: "tone-blue hollow",
  stopped: "tone-grey hollow",
  exited: "tone-grey",
};

export function ContainerBadge(props: { status: ContainerStatus; health?: ContainerHealth | undefined; exitCode?: number | undefined }) {
  const { status, health, exitCode } = props;
  const failed = status === "exited" && exitCode !== undefined && exitCode !== 0;
  const tone = failed || health === "unhealthy" ? "tone-red" : CONTAINER_TONE[status];
  let text: string = status;
  if (status === "running" && health) text = health === "starting" ? "running, checking" : health;
  else if (failed) text = `exited (${exitCode})`;
  return <span className={`status ${tone} ${status === "running" && health === "starting" ? "busy" : ""}`}>{text}</span>;
}

const NODE_TONE: Record<NodeState, [string, string]> = {
  ready: ["tone-green", "ready"],
  notReady: ["tone-red", "not ready"],
  cordoned: ["tone-amber", "cordoned"],
  lost: ["tone-red", "lost"],
  draining: ["tone-amber busy", "draining"],
  revoked: ["tone-red hollow", "revoked"],
};
export function NodeBadge({ state }: { state: NodeState }) {
  const [tone, text] = NODE_TONE[state];
  return <span className={`status ${tone}`}>{text}</span>;
}

const OPERATION_TONE: Record<OperationState, string> = {
  pending: "tone-grey hollow",
  running: "tone-blue busy",
  succeeded: "tone-green",
  failed: "tone-red",
  cancelled: "tone-amber hollow",
};
export function OperationBadge({ state }: { state: OperationState }) {
  return <span className={`status ${OPERATION_TONE[state]}`}>{state}</span>;
}

export function Badge({ tone = "grey", mono, title, children }: { tone?: string; mono?: boolean; title?: string; children: ReactNode }) {
  return (
    <span className={`badge tone-${tone} ${mono ? "mono" : ""}`} title={title}>
      {children}
    </span>
  );
}

/** How much of a whole is used: amber from 75%, red from 90%. */
export function Meter({ share, label }: { share: number | null; label: string }) {
  if (share === null) return null;
  const percent = Math.max(0, Math.min(100, share * 100));
  const tone = percent >= 90 ? "tone-red" : percent >= 75 ? "tone-amber" : "";
  return (
    <div
      className={`meter ${tone}`}
      role="meter"
      aria-label={label}
      aria-valuemin={0}
      aria-valuemax={100}
      aria-valuenow={Math.round(percent)}
    >
      <i style={{ width: `${percent}%` }} />
    </div>
  );
}

/** A figure with a bar below it: how much of a whole it is, where there is a whole. */
export function Usage(props: { label: string; text: string; share: number | null; title?: string }) {
  return (
    <div className="usage" title={props.title}>
      <span className="num">{props.text}</span>
      {props.share === null ? <span className="meter" aria-hidden="true" /> : <Meter label={props.label} share={props.share} />}
    </div>
  );
}

/** A bar to 100; one that only moves where the end can't be foretold. */
export function Progress({ value, tone = "" }: { value: number | undefined; tone?: string }) {
  return (
    <div
      className={`progress ${tone} ${value === undefined ? "unknown" : ""}`}
      role="progressbar"
      aria-label="Progress"
      aria-valuemin={0}
      aria-valuemax={100}
      aria-valuenow={value === undefined ? undefined : Math.round(value)}
    >
      <i style={value === undefined ? undefined : { width: `${Math.max(0, Math.min(100, value))}%` }} />
    </div>
  );
}

async function copy(text: string): Promise<void> {
  // The clipboard's API is kept from pages served without TLS; the old way still works there.
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "sr-only";
  (document.querySelector("dialog[open]") ?? document.body).append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  if (!done) throw new Error("The browser did not allow it.");
}

export function CopyButton({ text, label = "Copy" }: { text: string; label?: string }) {
  const [copied, setCopied] = useState(false);
  return (
    <IconButton
      small
      label={copied ? "Copied" : label}
      onClick={() =>
        copy(text).then(
          () => {
            setCopied(true);
            setTimeout(() => setCopied(false), 1_500);
          },
          (error: unknown) => toast.failed("Could not copy.", error),
        )
      }
    >
      {copied ? <Check /> : <Copy />}
    </IconButton>
  );
}

/** A text to be copied: a command, a token. */
export function CopyBox({ text, label }: { text: string; label: string }) {
  return (
    <div className="copy-box">
      <code>{text}</code>
      <CopyButton text={text} label={label} />
    </div>
  );
}

export function Labels({ labels }: { labels: Record<string, string> }) {
  const entries = Object.entries(labels);
  if (entries.length === 0) return <span className="faint">none</span>;
  return (
    <div className="tags">
      {entries.map(([key, value]) => (
        <Badge key={key} mono title={`${key}=${value}`}>
          {value ? `${key}=${value}` : key}
        </Badge>
      ))}
    </div>
  );
}

/** One figure of a page, and how much of a whole it is. */
export function Tile(props: { label: string; value: ReactNode; of?: ReactNode; children?: ReactNode }) {
  return (
    <div className="tile">
      <div className="label">{props.label}</div>
      <div className="value">
        {props.value} {props.of && <small>{props.of}</small>}
      </div>
      {props.children}
    </div>
  );
}
