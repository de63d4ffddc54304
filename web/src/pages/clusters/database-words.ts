import type { Cluster, Database, DatabaseMember, DatabaseRole, DatabaseState } from "../../api/types";
import { bytes, plural } from "../../lib/format";

// Database clusters in words.

export const ROLE_NAME: Record<DatabaseRole, string> = {
  primary: "primary",
  "sync-standby": "synchronous standby",
  replica: "replica",
};
export const ROLE_SAYS: Record<DatabaseRole, string> = {
  primary: "It takes the writes.",
  "sync-standby": "What is acknowledged is on its disk, too.",
  replica: "It follows the primary, and takes reads.",
};

export const STATE_NAME: Record<DatabaseState, [tone: string, text: string]> = {
  creating: ["tone-blue busy", "being made"],
  ready: ["tone-green", "takes writes"],
  failing: ["tone-red", "takes no writes"],
};

/** The primary takes writes, the others follow it. */
export function serves(m: Pick<DatabaseMember, "role" | "state">): boolean {
  if (m.role === "primary") return m.state === "running";
  return m.role !== undefined && (m.state === "running" || m.state === "streaming");
}

/** What a member is, in one word or two, with its tone: its role where it serves, otherwise what is the matter. */
export function memberSays(m: DatabaseMember, state: DatabaseState): [tone: string, text: string] {
  if (serves(m)) return m.role === "primary" ? ["tone-green", "primary"] : ["tone-green hollow", ROLE_NAME[m.role as DatabaseRole]];
  if (m.state === "creating") return m.message === undefined || MAKING.test(m.message) ? ["tone-blue busy", "being made"] : ["tone-red", "not made"];
  if (m.state === "leaving") return ["tone-amber busy", "leaving"];
  if (m.state === "unknown") return [state === "creating" ? "tone-grey hollow" : "tone-red hollow", "unknown"];
  // Patroni's own words: `starting`, `creating replica`, `stopped`, `start failed`, `crashed`. Until there is a primary to copy from,
  // a member is stopped and waits.
  if (state === "creating" && m.state === "stopped") return ["tone-blue busy", "waiting"];
  return /^(starting|restarting|creating|initializing|stopping|in archive)/.test(m.state) ? ["tone-blue busy", m.state] : ["tone-red", m.state];
}
/** How the API says that nothing is wrong: it only takes its time. */
const MAKING = /^its container is being made$/;

/** Why a member is as it is; nothing where there is nothing to say of it. */
export function memberWhy(m: DatabaseMember, d: Pick<Database, "state" | "readLagLimit">): string {
  if (m.message) return m.message;
  if (m.state === "unknown" && d.state !== "creating") return "nothing is heard of it: its node or its container is away";
  if (isBehind(m, d)) return `more than ${d.readLagLimit} s behind: it gets no reads`;
  return m.pendingRestart ? "a parameter waits for a restart, which comes by itself" : "";
}

/** Members that serve, of those that are to stay. */
export function servingOf(d: Database): [number, number] {
  const staying = d.members.filter((m) => m.state !== "leaving");
  return [staying.filter(serves).length, staying.length];
}

export const memberOf = (d: Database | undefined, server: string): DatabaseMember | undefined => d?.members.find((m) => m.server === server);
export const primaryOf = (d: Database): DatabaseMember | undefined => (d.primary === undefined ? undefined : memberOf(d, d.primary));

/** Seconds: `0 s`, `0.4 s`, `12 s`. */
export function seconds(s: number): string {
  if (!Number.isFinite(s)) return "–";
  if (s > 0 && s < 0.05) return "<0.1 s";
  return s < 9.95 ? `${s.toFixed(1).replace(/\.0$/, "")} s` : `${Math.round(s).toLocaleString("en")} s`;
}

/** What it is behind the primary by; nothing of the primary itself, nor where it is not known. */
export function lagText(m: DatabaseMember): string {
  if (m.role === undefined || m.role === "primary") return "";
  const parts = [...(m.lagBytes === undefined ? [] : [bytes(m.lagBytes)]), ...(m.lagSeconds === undefined ? [] : [seconds(m.lagSeconds)])];
  return parts.join(", ");
}

/** Whether it is too far behind to be given reads. */
export const isBehind = (m: DatabaseMember, d: Pick<Database, "readLagLimit">): boolean =>
  m.role !== undefined && m.role !== "primary" && (m.lagSeconds ?? 0) > d.readLagLimit;

/** The furthest of those that follow; nothing where none does. */
export function worstLag(d: Database): DatabaseMember | undefined {
  const known = d.members.filter((m) => lagText(m) !== "");
  return known.sort((a, b) => (b.lagSeconds ?? 0) - (a.lagSeconds ?? 0) || (b.lagBytes ?? 0) - (a.lagBytes ?? 0))[0];
}

/** Who could take the writes over, those that are least behind first. */
export function heirsOf(d: Database): DatabaseMember[] {
  const rank = (m: DatabaseMember) => (m.role === "sync-standby" ? 0 : 1);
  return d.members
    .filter((m) => m.server !== d.primary && m.state !== "leaving" && serves(m))
    .sort((a, b) => rank(a) - rank(b) || (a.lagBytes ?? 0) - (b.lagBytes ?? 0) || a.name.localeCompare(b.name, "en", { numeric: true }));
}

/** Why a database cluster is as it is. */
export function databaseReason(c: Cluster, d: Database): string {
  if (d.message) return d.message;
  const primary = primaryOf(d);
  const [up, all] = servingOf(d);
  const others = up < all ? [] : c.conditions.filter((k) => k.type !== "database" && k.type !== "notHighlyAvailable");
  const first = others[0];
  if (first) return others.length > 1 ? `${first.message} (and ${others.length - 1} more)` : first.message;
  const following = up - (primary ? 1 : 0);
  const follow = all > 1 ? `, ${following} of ${plural(all - 1, "replica")} ${all === 2 ? "follows" : "follow"} it` : "";
  return `${primary ? `${primary.name} takes the writes` : "no member takes the writes"}${follow}${d.highlyAvailable ? "" : "; not highly available"}`;
}
