import type { Backup, BackupRecovery, NewRestore, RecoveryWindow } from "../../api/types";
import type { Problems } from "../../lib/editing";
import { precise, type Zone } from "../../lib/format";
import { bodyOf, type ClusterForm, emptyClusterForm, placeClusterProblems, withType } from "../clusters/form";

// What stands in the dialog that makes a database cluster of a backup, and the request it stands for.

export interface RecoverForm {
  when: "newest" | "moment";
  /** As the browser's field for a date and a time has it. */
  at: string;
  zone: Zone;
  /** What is made. */
  cluster: ClusterForm;
}

export function emptyRecover(windows: readonly RecoveryWindow[]): RecoverForm {
  const last = windows.at(-1)?.to;
  const zone = last === undefined || isPlain(last) ? "local" : "utc";
  return {
    when: "newest",
    at: last === undefined ? "" : typed(last, zone),
    zone,
    cluster: withType(emptyClusterForm(), "database", () => false),
  };
}

/** A moment as the field has it, which leaves zeros out: `2026-11-28T01:02:03.12`. */
export function typed(time: string, zone: Zone): string {
  const at = new Date(time);
  const shifted = zone === "utc" ? at : new Date(at.getTime() - at.getTimezoneOffset() * 60_000);
  return shifted.toISOString().replace(/\.?0*Z$/, "").replace(/(T\d\d:\d\d):00$/, "$1");
}

/** The moment that stands in the field; nothing where it is none. */
export function momentOf({ at, zone }: Pick<RecoverForm, "at" | "zone">): string | undefined {
  if (!/^\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d{1,3})?)?$/.test(at)) return undefined;
  const moment = new Date(zone === "utc" ? `${at}Z` : at);
  return Number.isNaN(moment.getTime()) ? undefined : moment.toISOString();
}

/** Whether a moment can be told by the clock on the wall: where that is put back, an hour comes twice, and the first one is meant. */
const isPlain = (time: string): boolean => momentOf({ at: typed(time, "local"), zone: "local" }) === new Date(time).toISOString();

/** Another zone changes how the moment is written, and not which one it is. One that only UTC can tell stays in UTC. */
export function withZone(form: RecoverForm, zone: Zone): RecoverForm {
  const moment = momentOf(form);
  if (zone === "local" && moment && !isPlain(moment)) return form;
  return { ...form, zone, at: moment ? typed(moment, zone) : form.at };
}

const isIn = (window: RecoveryWindow, time: string): boolean => {
  const at = Date.parse(time);
  return Date.parse(window.from) <= at && at <= Date.parse(window.to);
};

/** The moments that a backup can be brought to; none where the log after it is not kept. */
export function reachOf(backup: Pick<Backup, "recoverableFrom">, recovery: Pick<BackupRecovery, "windows"> | undefined): RecoveryWindow | undefined {
  const from = backup.recoverableFrom;
  if (from === undefined) return undefined;
  const window = recovery?.windows.find((w) => isIn(w, from));
  return window && { from, to: window.to };
}

const newest = (backups: readonly Backup[]): Backup | undefined =>
  [...backups].sort((a, b) => Date.parse(b.timestamp) - Date.parse(a.timestamp))[0];

/** The newest backup that can be brought to a moment, or the newest of all where none is named. */
export function backupFor(backups: readonly Backup[], windows: readonly RecoveryWindow[], to: string | undefined): Backup | undefined {
  if (to === undefined) return newest(backups);
  const window = windows.find((w) => isIn(w, to));
  return newest(backups.filter((b) => window && b.recoverableFrom && isIn({ from: window.from, to }, b.recoverableFrom)));
}

/** The request, the backup that it is for, and what is wrong. `windows`: the moments that can be brought back. */
export function recoverOf(
  form: RecoverForm,
  backups: readonly Backup[],
  windows: readonly RecoveryWindow[],
): { body: NewRestore; backup: Backup | undefined; problems: Problems } {
  const problems: Problems = {};
  const { body: cluster, problems: inside } = bodyOf(form.cluster);
  for (const [field, says] of Object.entries(inside)) problems[`cluster.${field}`] = says;
  const to = form.when === "moment" ? momentOf(form) : undefined;
  const backup = backupFor(backups, windows, to);
  if (form.when === "moment") {
    const [only] = windows;
    if (to === undefined) problems.to = "A date and a time";
    else if (!windows.some((w) => isIn(w, to))) {
      problems.to =
        only && windows.length === 1 ? `From ${precise(only.from, form.zone)} to ${precise(only.to, form.zone)}` : "Nothing of this moment is kept: choose one of those below";
    } else if (!backup) problems.to = "No backup that is left can be brought to this moment: choose a later one";
  } else if (!backup) problems.to = "There is no backup that is completed";
  return { body: { ...(to === undefined ? {} : { to }), cluster }, backup, problems };
}

/** What the server says of the cluster stands at the fields that it is made in. Where its operation fails it names them without `cluster`. */
export function placeRecoverProblems(form: RecoverForm, problems: Problems): Problems {
  const out: Problems = {};
  const inside: Problems = {};
  for (const [field, says] of Object.entries(problems)) {
    if (field === "to" || field === "cluster") out[field] = says;
    else inside[field.replace(/^cluster\./, "")] = says;
  }
  for (const [field, says] of Object.entries(placeClusterProblems(form.cluster, inside))) out[`cluster.${field}`] = says;
  return out;
}

/** Where windows stand on a bar from the first moment to the last, in percent. */
export function barOf(windows: readonly RecoveryWindow[]): { left: number; width: number }[] {
  const [first, last] = [windows[0], windows.at(-1)];
  if (!first || !last) return [];
  const begin = Date.parse(first.from);
  const whole = Date.parse(last.to) - begin;
  if (whole <= 0) return windows.map(() => ({ left: 0, width: 100 }));
  return windows.map((w) => ({
    left: ((Date.parse(w.from) - begin) / whole) * 100,
    width: ((Date.parse(w.to) - Date.parse(w.from)) / whole) * 100,
  }));
}
