import {
  type BackupCheck,
  type BackupConfig,
  type BackupConfigSpec,
  type BackupConsistency,
  type BackupCredentials,
  type BackupDump,
  type BackupKeep,
  type BackupServerKind,
  type BackupType,
  KEEPS,
} from "../../api/types";
import type { Problems } from "../../lib/editing";
import { mergePatch } from "../../lib/patch";
import { joinWords, splitWords } from "../../lib/shell";
import * as check from "../../lib/validate";
import { isZone, readCron } from "./cron";
import { DESTINATIONS, type DestinationForm, destinationForm, emptyDestination, folder, placeDestination, writeDestination } from "./destination";

// What stands in the form of a config, as text, and the way from there to the request and back. Problems are named as the server
// names them: `check.testRestore`; those of lists stand at the list.

export const PRESETS = {
  none: ["Only when asked for", ""],
  hourly: ["Every hour", "0 * * * *"],
  daily: ["Every day", "0 2 * * *"],
  weekly: ["Every week", "0 2 * * 0"],
  monthly: ["Every month", "0 2 1 * *"],
  own: ["Another schedule", ""],
} as const;
export type Preset = keyof typeof PRESETS;

export interface BackupForm {
  serverId: string;
  name: string;
  preset: Preset;
  schedule: string;
  timeZone: string;
  jitter: string;
  retention: string;
  keep: Record<(typeof KEEPS)[number], string>;
  type: BackupType;
  destination: DestinationForm;
  encryption: boolean;
  compression: boolean;
  /** A path a line; so with volumes and excludes. */
  paths: string;
  volumes: string;
  excludes: string;
  oneFileSystem: boolean;
  consistency: BackupConsistency;
  ownDump: boolean;
  dumpCommand: string;
  dumpRestore: string;
  dumpFile: string;
  /** Seconds; of a database cluster. */
  walInterval: string;
  appendOnly: boolean;
  checkSchedule: string;
  checkParts: string;
  testRestore: string;
  copy: boolean;
  copyTo: DestinationForm;
  paused: boolean;
}

const NO_KEEP = { last: "", hourly: "", daily: "", weekly: "", monthly: "", yearly: "" };

const empty = (): BackupForm => ({
  serverId: "",
  name: "",
  preset: "daily",
  schedule: PRESETS.daily[1],
  timeZone: "",
  jitter: "",
  retention: "30",
  keep: { ...NO_KEEP },
  type: "incremental",
  destination: emptyDestination(),
  encryption: true,
  compression: true,
  paths: "",
  volumes: "",
  excludes: "",
  oneFileSystem: false,
  consistency: "auto",
  ownDump: false,
  dumpCommand: "",
  dumpRestore: "",
  dumpFile: "",
  walInterval: "",
  appendOnly: false,
  checkSchedule: "",
  checkParts: "",
  testRestore: "",
  copy: false,
  copyTo: emptyDestination(),
  paused: false,
});

export const emptyBackupForm = (serverId = ""): BackupForm => withServer(empty(), serverId);

const text = (n: number | undefined): string => (n === undefined || n === 0 ? "" : String(n));

/** Which of the presets a schedule is. */
export function presetOf(schedule: string): Preset {
  if (schedule === "") return "none";
  return (Object.keys(PRESETS) as Preset[]).find((p) => PRESETS[p][1] === schedule) ?? "own";
}

/** The form of a config that is there. */
export function backupForm(c: BackupConfig): BackupForm {
  return {
    serverId: c.serverId,
    name: c.name,
    preset: presetOf(c.schedule ?? ""),
    schedule: c.schedule ?? "",
    timeZone: c.timeZone === "UTC" ? "" : c.timeZone,
    jitter: text(c.jitter),
    retention: String(c.retention),
    keep: { ...NO_KEEP, ...Object.fromEntries(Object.entries(c.keep).map(([k, n]) => [k, text(n)])) },
    type: c.type,
    destination: destinationForm(c.destination),
    encryption: c.encryption,
    compression: c.compression,
    paths: c.paths.join("\n"),
    volumes: c.volumes.join("\n"),
    excludes: c.excludes.join("\n"),
    oneFileSystem: c.oneFileSystem,
    consistency: c.consistency,
    ownDump: c.dump !== undefined,
    dumpCommand: joinWords(c.dump?.command ?? []),
    dumpRestore: joinWords(c.dump?.restore ?? []),
    dumpFile: c.dump?.file ?? "",
    walInterval: text(c.recovery?.walInterval),
    appendOnly: c.appendOnly,
    checkSchedule: c.check.schedule ?? "",
    checkParts: text(c.check.parts),
    testRestore: c.check.testRestore ?? "",
    copy: c.copy !== undefined,
    copyTo: c.copy ? destinationForm(c.copy.destination) : emptyDestination(),
    paused: c.status === "paused",
  };
}

/** What kind of server an id is of; nothing where none is chosen. */
export function kindOf(serverId: string): BackupServerKind | undefined {
  if (serverId === "") return undefined;
  return serverId.startsWith("node_") ? "node" : serverId.startsWith("cluster_") ? "cluster" : "container";
}

/** The form with another server, and with destinations that it can have. */
export function withServer(form: BackupForm, serverId: string): BackupForm {
  if (kindOf(serverId) !== "cluster") return { ...form, serverId };
  const shared = (to: DestinationForm): DestinationForm => (to.kind === "path" ? { ...to, kind: "node" } : to);
  return { ...form, serverId, destination: shared(form.destination), copyTo: shared(form.copyTo) };
}

const exclude: check.Check = (line) => (line.length <= 512 ? undefined : "At most 512 characters");
const anyPath: check.Check = (line) => (line === "/" ? undefined : folder(line));
const schedule: check.Check = (line) => readCron(line).problem;
export const linesOf = (lines: string): string[] =>
  lines
    .split("\n")
    .map((l) => l.trim())
    .filter(Boolean);

/**
 * The request the form stands for, and what is wrong with it. `kept` says of which destinations the credentials are there already, so
 * that none need be typed again.
 */
export function specOf(form: BackupForm, kept = { own: false, copy: false }): { body: BackupConfigSpec; problems: Problems } {
  const problems: Problems = {};
  const problem = (field: string, says: string | undefined) => {
    if (says) problems[field] ??= says;
  };
  const optional = (field: string, value: string, rule: check.Check): string | undefined => {
    const trimmed = value.trim();
    if (trimmed === "") return undefined;
    problem(field, rule(trimmed));
    return trimmed;
  };
  const number = (field: string, value: string, min: number, max: number): number | undefined => {
    const trimmed = optional(field, value, check.whole(min, max));
    return trimmed === undefined ? undefined : Number(trimmed);
  };
  const lines = (field: string, value: string, rule: check.Check): string[] | undefined => {
    const found = linesOf(value);
    for (const line of found) {
      const says = rule(line);
      if (says) problem(field, `${line}: ${says.charAt(0).toLowerCase()}${says.slice(1)}`);
    }
    if (found.length > 100) problem(field, "At most 100 lines");
    return found.length > 0 ? found : undefined;
  };
  const words = (field: string, line: string): string[] | undefined => {
    if (line.trim() === "") return undefined;
    const split = splitWords(line);
    problem(field, split.problem);
    return split.words;
  };
  const given = <T extends object>(object: T): Partial<T> => Object.fromEntries(Object.entries(object).filter(([, v]) => v !== undefined)) as Partial<T>;

  problem("serverId", form.serverId === "" ? "Choose a server" : undefined);
  const name = form.name.trim();
  problem("name", name === "" ? "Give it a name" : check.title(name));
  const main = writeDestination(form.destination, kept.own, problem);
  const body: BackupConfigSpec = { serverId: form.serverId, name, type: form.type, destination: main.destination };
  const kind = kindOf(form.serverId);
  const [container, cluster] = [kind === "container", kind === "cluster"];
  if (cluster && form.destination.kind === "path") problem("destination.path", "A folder is another one on each of its nodes: choose another kind");

  if (form.preset !== "none" && form.schedule.trim() === "") problem("schedule", "Say when, or choose to make backups only when asked for");
  const keep: BackupKeep = given(Object.fromEntries(KEEPS.map((k) => [k, number(`keep.${k}`, form.keep[k], 1, 10_000)])) as BackupKeep);
  const own: BackupCheck = given({
    schedule: optional("check.schedule", form.checkSchedule, schedule),
    parts: number("check.parts", form.checkParts, 1, 100),
    testRestore: optional("check.testRestore", form.testRestore, schedule),
  }) as BackupCheck;
  const retention = number("retention", form.retention, 1, 365);
  Object.assign(
    body,
    given({
      schedule: form.preset === "none" ? undefined : optional("schedule", form.schedule, schedule),
      timeZone: optional("timeZone", form.timeZone, (zone) =>
        isZone(zone) ? undefined : "A name of the IANA database, such as Europe/Berlin",
      ),
      jitter: number("jitter", form.jitter, 0, 86_400),
      retention,
      keep: Object.keys(keep).length > 0 ? keep : undefined,
      credentials: main.credentials,
      encryption: form.encryption ? undefined : false,
      compression: form.compression ? undefined : false,
      paths: container || cluster ? undefined : lines("paths", form.paths, anyPath),
      volumes: cluster ? undefined : lines("volumes", form.volumes, check.volumeName),
      excludes: cluster ? undefined : lines("excludes", form.excludes, exclude),
      oneFileSystem: (!cluster && form.oneFileSystem) || undefined,
      consistency: container && form.consistency !== "auto" ? form.consistency : undefined,
      walInterval: cluster ? number("walInterval", form.walInterval, 15, 86_400) : undefined,
      appendOnly: form.appendOnly || undefined,
      check: Object.keys(own).length > 0 ? own : undefined,
      status: form.paused ? "paused" : undefined,
    }),
  );
  if (container && form.ownDump) {
    if (form.consistency !== "auto" && form.consistency !== "dump") problem("consistency", "A dump of your own is made where this says so, or nothing");
    const dump: BackupDump = { command: words("dump.command", form.dumpCommand) ?? [] };
    if (dump.command.length === 0) problem("dump.command", "The command that writes the data to its standard output");
    Object.assign(
      dump,
      given({ restore: words("dump.restore", form.dumpRestore), file: optional("dump.file", form.dumpFile, check.volumeName) }),
    );
    body.dump = dump;
  }
  if (form.copy) {
    const copy = writeDestination(form.copyTo, kept.copy, (field, says) => problem(`copy.${field}`, says));
    if (copy.destination === body.destination) problem(`copy.destination.${DESTINATIONS[form.copyTo.kind].main}`, "A copy in the same place is none");
    body.copy = { destination: copy.destination, ...given({ credentials: copy.credentials }) };
  }
  return { body, problems };
}

/** What takes the place of the credentials of another kind of destination, as a merge patch. */
function instead(before: DestinationForm, credentials: BackupCredentials | undefined): object | null {
  if (!credentials) return null;
  return { ...Object.fromEntries(DESTINATIONS[before.kind].credentials.map((name) => [name, null])), ...credentials };
}

/** Only what was changed: the request that makes of the config what the form says. */
export function patchOf(config: BackupConfig, form: BackupForm): { body: object; problems: Problems } {
  const before = backupForm(config);
  const [sameKind, sameCopyKind] = [form.destination.kind === before.destination.kind, form.copyTo.kind === before.copyTo.kind];
  const kept = { own: config.hasCredentials && sameKind, copy: (config.copy?.hasCredentials ?? false) && sameCopyKind };
  const { body, problems } = specOf(form, kept);
  const patch = mergePatch(specOf(before, { own: true, copy: true }).body, body);
  // Credentials of another kind of destination are taken away: they open nothing here.
  if (config.hasCredentials && !sameKind) patch.credentials = instead(before.destination, body.credentials);
  if (config.copy?.hasCredentials && body.copy && !sameCopyKind) {
    patch.copy = { ...(patch.copy as object), credentials: instead(before.copyTo, body.copy.credentials) };
  }
  return { body: patch, problems };
}

/** The server counts entries of lists; on the form each list is one field. */
export function placeBackupProblems(form: BackupForm, problems: Problems): Problems {
  const lists: Record<string, string> = { paths: form.paths, volumes: form.volumes, excludes: form.excludes };
  const out: Problems = {};
  for (const [field, says] of Object.entries(problems)) {
    const [, list, at] = /^(paths|volumes|excludes|dump\.command|dump\.restore)\[(\d+)\]$/.exec(field) ?? [];
    if (!list) {
      out[field] = says;
      continue;
    }
    const line = linesOf(lists[list] ?? "")[Number(at)];
    const told = line === undefined ? says : `${line}: ${says}`;
    out[list] = out[list] ? `${out[list]}; ${told}` : told;
  }
  return placeDestination(form.copyTo, "copy.", placeDestination(form.destination, "", out));
}
