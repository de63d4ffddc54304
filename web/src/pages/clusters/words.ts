import type {
  Algorithm,
  Cluster,
  ClusterEventKind,
  ClusterMember,
  ClusterMetricsPoint,
  ClusterRecent,
  ClusterType,
  ScalingFigure,
  ScalingFigureKind,
} from "../../api/types";
import { databaseReason, memberOf, memberWhy, serves, servingOf } from "./database-words";

// Clusters in words and figures.

export const TYPE_NAME: Record<ClusterType, string> = {
  "load-balanced": "Load-balanced",
  "high-availability": "High availability",
  database: "Database",
  compute: "Compute",
};
export const TYPE_SAYS: Record<ClusterType, string> = {
  "load-balanced": "Traffic is spread over all servers that are up.",
  "high-availability": "The first server that is up takes all traffic; the others stand by in their order.",
  database: "PostgreSQL on nodes: one takes the writes, the others follow it, take reads, and one of them takes over.",
  compute: "Nodes with a queue of jobs: containers that run to their end, one or thousands of them.",
};
/** Types whose servers are nodes, without ports and weights of their own. */
export const isOfNodes = (type: ClusterType): boolean => type === "database" || type === "compute";
/** What a cluster that is there can become: what a database or a queue of jobs has is of no use to another type. */
export const becomes = (type: ClusterType): readonly ClusterType[] =>
  isOfNodes(type) ? [type] : (["load-balanced", "high-availability"] as const);

export const ALGORITHM_NAME: Record<Algorithm, string> = {
  "round-robin": "Round robin",
  "least-connections": "Least connections",
  "ip-hash": "IP hash",
  weighted: "Weighted",
};
export const ALGORITHM_SAYS: Record<Algorithm, string> = {
  "round-robin": "One server after the other. Right where requests cost about the same.",
  "least-connections": "The server with the fewest requests in flight for its weight. Right where some take much longer than others.",
  "ip-hash": "By the client's address: a client stays at its server, and one that leaves moves only its own clients.",
  weighted: "By weight: a server of weight 2 gets twice as much as one of weight 1.",
};
/** Whether weights say how much a server gets; a weight of 0 takes it out under all of them. */
export const usesWeights = (algorithm: Algorithm): boolean => algorithm === "weighted" || algorithm === "least-connections";

/** How traffic is spread: the algorithm, or who takes all of it. */
export function spreadText(c: Pick<Cluster, "type" | "loadBalancer">): string {
  switch (c.type) {
    case "high-availability":
      return "Active and standby";
    case "database":
      return "Primary and replicas";
    case "compute":
      return "A queue of jobs";
    case "load-balanced":
      return ALGORITHM_NAME[c.loadBalancer.algorithm];
  }
}

/** `0`, `0.4`, `12`, `3,480`: three digits that mean something. */
export function count(n: number): string {
  if (!Number.isFinite(n)) return "–";
  if (n === 0) return "0";
  if (n < 0.1) return "<0.1";
  if (n < 9.95) return n.toFixed(1).replace(/\.0$/, "");
  return Math.round(n).toLocaleString("en");
}
export const perSecond = (n: number): string => `${count(n)}/s`;

/** Milliseconds: `0.42 ms`, `12 ms`, `1.8 s`. */
export function millis(ms: number): string {
  if (!Number.isFinite(ms)) return "–";
  if (ms === 0) return "0 ms";
  if (ms < 1) return `${ms.toFixed(2)} ms`;
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  return ms < 10_000 ? `${Math.round(ms).toLocaleString("en")} ms` : `${(ms / 1000).toFixed(1)} s`;
}

/** What was measured of requests, where there were any: without, there is no time they took. */
export function tookLately(recent: ClusterRecent | undefined, value: (r: ClusterRecent) => number): number | undefined {
  return recent && recent.requestsPerSecond > 0 ? value(recent) : undefined;
}

/** Percent of failed requests; never shown as none where there were some. */
export function failed(percent: number): string {
  if (!Number.isFinite(percent)) return "–";
  if (percent === 0) return "0%";
  if (percent < 0.01) return "<0.01%";
  return `${(percent < 1 ? percent.toFixed(2) : percent.toFixed(1)).replace(/\.?0+$/, "")}%`;
}

export type MemberWord = ClusterMember["state"] | "ready" | "drained" | "active" | "standby";

/** A member's state in one word: the API's, and what its weight or its turn makes of it. */
export function memberWord(m: ClusterMember, cluster: Pick<Cluster, "type" | "activeMember">): MemberWord {
  if (m.state !== "up") return m.state;
  if (cluster.type === "compute") return "ready";
  if (m.weight === 0) return m.inFlight > 0 ? "draining" : "drained";
  if (cluster.type === "high-availability") return cluster.activeMember === m.id ? "active" : "standby";
  return "up";
}

/** Why a member is as it is; nothing where there is nothing to say of it. */
export function memberReason(m: ClusterMember, cluster: Pick<Cluster, "type" | "activeMember" | "database">): string {
  const inside = memberOf(cluster.database, m.id);
  if (cluster.database && inside) {
    return memberWhy(inside, cluster.database) || (serves(inside) || m.state === "up" ? "" : m.reason);
  }
  if (m.state !== "up") return m.reason;
  if (m.weight === 0) return "its weight is 0: it gets nothing new";
  return memberWord(m, cluster) === "standby" ? "ready to take over" : "";
}

/** Members that are up, of those that are to stay. */
export function upOf(members: readonly ClusterMember[]): [number, number] {
  const staying = members.filter((m) => !(m.scaled && (m.state === "draining" || m.state === "starting")));
  return [staying.filter((m) => m.state === "up").length, staying.length];
}

/** The same of a cluster; of a database those that serve, whoever of them is asked. */
export const upIn = (c: Pick<Cluster, "members" | "database">): [number, number] => (c.database ? servingOf(c.database) : upOf(c.members));

/** Why a cluster is as it is: what hinders it, or who of it is not up. */
export function statusReason(c: Cluster): string {
  if (c.database) return databaseReason(c, c.database);
  const first = c.conditions[0];
  if (first) return c.conditions.length > 1 ? `${first.message} (and ${c.conditions.length - 1} more)` : first.message;
  const [up, all] = upOf(c.members);
  if (c.type === "compute") return up === all ? "every node is ready" : `${up} of ${all} nodes are ready`;
  if (c.status === "healthy") return up === all ? "every server is up" : `${up} of ${all} servers are up`;
  const down = c.members.filter((m) => m.state !== "up" && m.state !== "starting");
  const one = down[0];
  if (!one) return `${up} of ${all} servers are up`;
  const more = down.length > 1 ? ` (and ${down.length - 1} more)` : "";
  return `${one.name} is ${one.state}${one.reason ? `: ${one.reason}` : ""}${more}`;
}

/** Where a server has its own page. */
export function serverHref(m: Pick<ClusterMember, "id" | "kind">): string {
  if (m.kind === "container") return `/containers/${m.id}`;
  return m.kind === "node" ? `/nodes/${m.id}` : `/health/${m.id}`;
}

/** Whether a browser can open it. */
export const isWeb = (endpoint: string): boolean => /^https?:\/\//.test(endpoint);

export const FIGURE_NAME: Record<ScalingFigureKind, string> = {
  cpu: "CPU",
  memory: "Memory",
  requestsPerSecond: "Requests/s of a server",
  queueLength: "Tasks that wait, for each node",
};
export const figureValue = (figure: ScalingFigureKind, value: number): string =>
  figure === "requestsPerSecond" || figure === "queueLength" ? count(value) : `${count(value)}%`;

/** `CPU 82% of 70%`. */
export function figureText(f: ScalingFigure): string {
  const name = FIGURE_NAME[f.figure] ?? f.figure;
  if (f.value === undefined || f.value === null) return `${name} not known`;
  return `${name} ${figureValue(f.figure, f.value)}, target ${figureValue(f.figure, f.target)}`;
}

/** The numbers of a decision that an event tells of. */
export function decisionText(detail: { current?: number; wanted?: number; figures?: ScalingFigure[] } | undefined): string {
  return (detail?.figures ?? []).map(figureText).join(" · ");
}

export const EVENT_KIND: Record<ClusterEventKind, [string, string]> = {
  created: ["made", "blue"],
  updated: ["changed", "blue"],
  memberAdded: ["server added", "blue"],
  memberRemoved: ["server removed", "grey"],
  memberUp: ["server up", "green"],
  memberDown: ["server down", "red"],
  memberEjected: ["server ejected", "amber"],
  memberReturned: ["server returned", "green"],
  failover: ["failover", "amber"],
  statusChanged: ["status", "grey"],
  scaledOut: ["scaled out", "blue"],
  scaledIn: ["scaled in", "blue"],
  scalingHeld: ["scaling held", "amber"],
  scalingFailed: ["scaling failed", "red"],
  jobMade: ["job made", "blue"],
  jobSucceeded: ["job succeeded", "green"],
  jobFailed: ["job failed", "red"],
  jobCancelled: ["job cancelled", "amber"],
};

/** What a chart shows: not the minute that goes on, whose figures still come in, unless there is little else. */
export function settledPoints(history: readonly ClusterMetricsPoint[]): readonly ClusterMetricsPoint[] {
  const last = history.at(-1);
  if (!last || history.length < 4) return history;
  return Date.parse(last.to) - Date.parse(last.from) < 55_000 ? history.slice(0, -1) : history;
}

export type MetricsRange = "1h" | "6h" | "24h" | "7d";
/** A point a minute is kept for a day, one an hour for a month. */
export const METRICS_RANGES: Record<MetricsRange, { span: number; limit: number; refresh: number; text: string }> = {
  "1h": { span: 3_600_000, limit: 64, refresh: 10_000, text: "1 hour" },
  "6h": { span: 21_600_000, limit: 120, refresh: 30_000, text: "6 hours" },
  "24h": { span: 86_400_000, limit: 144, refresh: 60_000, text: "24 hours" },
  "7d": { span: 604_800_000, limit: 200, refresh: 300_000, text: "7 days" },
};
