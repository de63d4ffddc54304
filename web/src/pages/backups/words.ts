import {
  type Backup,
  type BackupConfig,
  type BackupConfigStatus,
  type BackupConsistency,
  type BackupKey,
  type BackupStatus,
  type BackupType,
  type JobProgress,
  KEEPS,
  type NewRestore,
  type Restored,
  type RetentionReason,
} from "../../api/types";
import { bytes, duration, plural, rate } from "../../lib/format";
import { cronWords } from "./cron";

// Backups in words and figures.

export const TYPE_NAME: Record<BackupType, string> = { full: "Full", incremental: "Incremental", differential: "Differential" };
export const TYPE_SAYS: Record<BackupType, string> = {
  full: "Every byte is read again.",
  incremental: "What changed since the last backup is read.",
  differential: "What changed since the last full backup is read; the first one is full.",
};
export const CONSISTENCY_NAME: Record<BackupConsistency, string> = {
  auto: "As its image asks for",
  pause: "Paused while it is read",
  stop: "Stopped while it is read",
  dump: "A dump",
  none: "As it is",
};
export const CONSISTENCY_SAYS: Record<BackupConsistency, string> = {
  auto: "A dump of PostgreSQL, MySQL, MariaDB and Redis, or by the command below; a pause of anything else.",
  pause: "Its processes stand still while its volumes are read, and nothing answers meanwhile.",
  stop: "It is stopped, and started again afterwards.",
  dump: "A command in the container writes the data out. Volumes that hold the database's own files are left out.",
  none: "Files are read while they may change: right only for what copes with that.",
};

export const CONFIG_TONE: Record<BackupConfigStatus, string> = { active: "tone-green", paused: "tone-amber hollow", error: "tone-red" };
export const BACKUP_TONE: Record<BackupStatus, string> = {
  "in-progress": "tone-blue busy",
  completed: "tone-green",
  partial: "tone-amber",
  failed: "tone-red",
  cancelled: "tone-grey hollow",
};
export const BACKUP_WORD: Record<BackupStatus, string> = {
  "in-progress": "in progress",
  completed: "completed",
  partial: "partial",
  failed: "failed",
  cancelled: "cancelled",
};
/** Whether something of it can be restored. */
export const isKept = (b: Pick<Backup, "status">): boolean => b.status === "completed" || b.status === "partial";

/** When a config's backups are made: `Every day at 02:00, Europe/Berlin`. */
export function scheduleWords(c: Pick<BackupConfig, "schedule" | "timeZone">): string {
  if (!c.schedule) return "Only when asked for";
  return `${cronWords(c.schedule) || c.schedule}, ${c.timeZone}`;
}

/** What is kept: `30 days, and 12 monthly`. */
export function retentionWords(c: Pick<BackupConfig, "retention" | "keep" | "appendOnly">): string {
  if (c.appendOnly) return "everything, for ever";
  const more = KEEPS.flatMap((k) => {
    const n = c.keep[k];
    return n === undefined ? [] : [k === "last" ? `the last ${n === 1 ? "one" : n}` : `${n} ${k}`];
  });
  const days = plural(c.retention, "day");
  return more.length === 0 ? days : `${days}, and beside that ${more.join(", ")}`;
}

export const REASON: Record<RetentionReason, string> = {
  age: "young enough",
  last: "one of the last",
  hourly: "its hour's",
  daily: "its day's",
  weekly: "its week's",
  monthly: "its month's",
  yearly: "its year's",
  pinned: "pinned",
  "last-good": "the newest that is whole",
  "append-only": "nothing is removed here",
};

/** How far a backup is, from 0 to 100; nothing where its end is not known yet. */
export function share(p: JobProgress | undefined): number | undefined {
  if (!p?.totalBytes) return undefined;
  return Math.min(100, (p.bytes / p.totalBytes) * 100);
}
/** `1.2 GiB of 3 GiB, 214 files, 88 MiB/s, 21s left`. */
export function progressWords(p: JobProgress | undefined): string {
  if (!p) return "begins";
  const parts = [p.totalBytes ? `${bytes(p.bytes)} of ${bytes(p.totalBytes)}` : bytes(p.bytes), plural(p.files, "file")];
  if (p.rate > 0) parts.push(rate(p.rate));
  if (p.remaining !== undefined && p.remaining > 0) parts.push(`${duration(p.remaining * 1000)} left`);
  return parts.join(", ");
}

/** Why a config is in no good state, or what its last check found. */
export function troubleOf(c: BackupConfig): string | undefined {
  if (c.message) return c.message;
  if (c.status === "error") return "The last backup failed.";
  const found = c.repository?.findings ?? [];
  return found.length > 0 ? `The last check found: ${found.join("; ")}` : undefined;
}

/** What proves a backup. */
export function proofWords(b: Backup): string {
  const v = b.verification;
  if (v?.finding) return v.finding;
  if (v?.restored) return "restored for a test";
  return v?.checked ? "checked" : "not proved yet";
}

/** What a restore of these puts its hands on, for who has to confirm it. */
export function replacedWords(body: NewRestore, backup: Pick<Backup, "name">, server: string): string {
  const what = body.paths?.length ? (body.paths.length === 1 ? (body.paths[0] as string) : plural(body.paths.length, "path")) : "everything";
  const into = body.volume ? ` into the volume ${body.volume}` : "";
  if (body.target) return `${what} of “${backup.name}” goes to ${body.target} on ${server}${into}. What is there under the same names is replaced.`;
  return `${what} of “${backup.name}” takes the place of what ${server} has now${into}. What was written since that backup is lost.`;
}

/** What it means that a container is made again on another node. */
export const remadeWords = (server: string): string =>
  `The container is made again on ${server}, with its volumes. Volumes that have these names there are replaced.`;

/** `3 created, 1 changed, 12 as they were`. */
export function restoredWords(r: Restored): string {
  const words: [number, string][] = [
    [r.created, "created"],
    [r.changed, "changed"],
    [r.removed, "removed"],
    [r.unchanged, "as they are"],
  ];
  const parts = words.filter(([n]) => n > 0).map(([n, word]) => `${n.toLocaleString("en")} ${word}`);
  return `${parts.join(", ") || "nothing"}; ${plural(r.files, "file")}, ${bytes(r.bytes)}`;
}

/** All that opens a repository when neither NeuralMesh nor its store is left. */
export function recoveryKit(config: BackupConfig, key: BackupKey, made: string): string {
  const where =
    config.destination.startsWith("/") || config.destination.startsWith("node:")
      ? "The repository is a folder of a machine: run restic there, or copy the folder elsewhere first."
      : "restic also needs what opens the destination; see its manual for the variables of its kind of repository.";
  return [
    `Recovery kit of the backups "${config.name}" (${config.id})`,
    `Made ${made}. Whoever has this can read the backups: keep it apart from them, and offline.`,
    "",
    `Repository         ${key.repository}`,
    `Password           ${key.password}`,
    ...(key.recoveryPassword ? [`Recovery password  ${key.recoveryPassword}`] : []),
    ...(key.logRepository ? [`Log repository     ${key.logRepository} (opened by the first password)`] : []),
    "",
    `The repository has restic's format (version 2). ${where}`,
    "Put one of the passwords into a file that only you can read, such as password.txt, and:",
    "",
    `    restic -r '${key.repository}' --password-file password.txt snapshots`,
    `    restic -r '${key.repository}' --password-file password.txt check --read-data`,
    `    restic -r '${key.repository}' --password-file password.txt restore latest --target ./restored`,
    "",
  ].join("\n");
}
