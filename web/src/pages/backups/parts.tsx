import { Pin } from "lucide-react";
import type { Backup, BackupConfigStatus, BackupStatus, FileProblem } from "../../api/types";
import { useNodeName } from "../../lib/data";
import { bytes, plural } from "../../lib/format";
import { Link } from "../../lib/router";
import { Progress } from "../../ui/bits";
import { Field } from "../../ui/field";
import { type Subject, useServerName } from "./data";
import { destinationWords } from "./destination";
import { kindOf } from "./form";
import { BACKUP_TONE, BACKUP_WORD, CONFIG_TONE, progressWords, share } from "./words";

export function ConfigBadge({ status }: { status: BackupConfigStatus }) {
  return <span className={`status ${CONFIG_TONE[status]}`}>{status}</span>;
}

export function BackupBadge({ status }: { status: BackupStatus }) {
  return <span className={`status ${BACKUP_TONE[status]}`}>{BACKUP_WORD[status]}</span>;
}

export function PinSign() {
  return (
    <span title="Pinned: retention does not remove it" style={{ display: "inline-flex" }}>
      <Pin aria-label="pinned" style={{ width: 13, height: 13 }} />
    </span>
  );
}

/** How far a backup is that is being made. */
export function BackupProgress({ backup }: { backup: Backup }) {
  return (
    <div className="stack tight">
      <Progress value={share(backup.progress)} />
      <span className="faint num">{progressWords(backup.progress)}</span>
    </div>
  );
}

const PAGES = { container: "containers", node: "nodes", cluster: "clusters" } as const;

export function ServerLink({ id }: { id: string }) {
  const name = useServerName()(id);
  return (
    <Link className="link truncate" href={`/${PAGES[kindOf(id) ?? "container"]}/${id}`}>
      {name}
    </Link>
  );
}

export function DestinationText({ text }: { text: string }) {
  const nodeName = useNodeName();
  return (
    <span className="break" title={text}>
      {destinationWords(text, nodeName)}
    </span>
  );
}

export function Size({ bytes: n }: { bytes: number | undefined }) {
  return n === undefined ? <span className="faint">–</span> : <span className="num nowrap">{bytes(n)}</span>;
}

/** Files that are not in what was made, each with why. */
export function FileProblems({ problems, count }: { problems: readonly FileProblem[]; count: number }) {
  return (
    <>
      <ul className="stack tight" aria-label="Files that are missing">
        {problems.map((p) => (
          <li key={p.path} className="break">
            <code>{p.path}</code> <span className="muted">{p.error}</span>
          </li>
        ))}
      </ul>
      {count > problems.length && <p className="faint">and {plural(count - problems.length, "more file")}</p>}
    </>
  );
}

const GROUPS = [
  ["container", "Containers"],
  ["node", "Nodes"],
  ["cluster", "Database clusters"],
] as const;

/** Chooses a node, a container, or a database cluster. */
export function ServerField(props: {
  label: string;
  value: string;
  onValue: (value: string) => void;
  servers: readonly Subject[] | undefined;
  problem?: string | undefined;
  hint?: string | undefined;
  disabled?: boolean;
  /** What choosing none means. */
  none?: string;
}) {
  const nodeName = useNodeName();
  const { servers, value } = props;
  const rows = [...(servers ?? [])].sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
  return (
    <Field label={props.label} problem={props.problem} hint={props.hint}>
      {(d) => (
        <select {...d} className="select" value={value} disabled={props.disabled} onChange={(e) => props.onValue(e.target.value)}>
          <option value="">{servers ? (props.none ?? "Choose a server…") : "Loading…"}</option>
          {value !== "" && !rows.some((s) => s.id === value) && <option value={value}>{value}</option>}
          {GROUPS.map(([kind, text]) => {
            const of = rows.filter((s) => s.kind === kind);
            return of.length === 0 ? null : (
              <optgroup key={kind} label={text}>
                {of.map((s) => (
                  <option key={s.id} value={s.id}>
                    {s.name}
                    {kind === "container" && s.nodeId ? ` on ${nodeName(s.nodeId)}` : ""}
                  </option>
                ))}
              </optgroup>
            );
          })}
        </select>
      )}
    </Field>
  );
}
