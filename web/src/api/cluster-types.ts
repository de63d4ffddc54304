import type { Database, DatabaseSpec } from "./database-types";
import type { ServerKind } from "./health-types";
import type { ContainerSpec } from "./types";

// Clusters, as crates/types writes them: what is asked for, and what is seen of it.

export const CLUSTER_TYPES = ["load-balanced", "high-availability", "database", "compute"] as const;
export type ClusterType = (typeof CLUSTER_TYPES)[number];
export const ALGORITHMS = ["round-robin", "least-connections", "ip-hash", "weighted"] as const;
export type Algorithm = (typeof ALGORITHMS)[number];
export type ClusterStatus = "healthy" | "degraded" | "critical" | "offline";
export type ClusterProtocol = "http" | "tcp";
export type ClusterMemberState = "up" | "down" | "ejected" | "draining" | "starting" | "unreachable" | "unknown";

export interface LoadBalancer {
  algorithm?: Algorithm;
  /** Seconds. */
  healthCheckInterval?: number;
  healthCheckTimeout?: number;
}

export interface ClusterHealthCheck {
  type?: "http" | "tcp";
  path?: string;
  host?: string;
  expectedStatus?: { min?: number; max?: number };
  /** Seconds. */
  interval?: number;
  rise?: number;
  fall?: number;
}

export interface AutoScaling {
  enabled?: boolean;
  minServers?: number;
  maxServers?: number;
  targetCpuPercent?: number;
  targetMemoryPercent?: number;
  targetRequestsPerSecond?: number;
  /** Of `compute`: tasks that wait for each node in use. */
  targetQueueLength?: number;
  /** Seconds. */
  scaleUpCooldown?: number;
  scaleDownCooldown?: number;
  /** Percent. */
  tolerance?: number;
  stabilizationWindow?: number;
}

export interface ClusterSticky {
  cookie?: string;
  /** Seconds. */
  maxAge?: number;
}

export interface ClusterAcme {
  termsOfServiceAgreed: boolean;
  directory?: string;
  email?: string;
}

export interface ClusterAcmeView {
  status: "pending" | "valid" | "failing";
  directory: string;
  email?: string;
  issuer?: string;
  notAfter?: string;
  /** Why the last attempt failed. */
  lastError?: string;
  /** When it is renewed, or tried again. */
  nextAttempt?: string;
}

export interface ClusterTls {
  acme?: ClusterAcme;
  certificate?: string;
  /** Sent, never given back. */
  key?: string;
  selfSigned?: boolean;
  serverNames?: string[];
}

export interface ClusterRoute {
  host?: string;
  pathPrefix?: string;
}

export interface ClusterVirtualAddress {
  address: string;
  prefix?: number;
  interface?: string;
}

export interface ClusterFailback {
  mode?: "automatic" | "manual";
  /** Seconds. */
  after?: number;
}

export interface ClusterServerEntry {
  /** Id or name. */
  id: string;
  port?: number;
  weight?: number;
  backup?: boolean;
}
export type ClusterServer = string | ClusterServerEntry;

export interface ClusterSpec {
  name: string;
  type: ClusterType;
  servers: ClusterServer[];
  loadBalancer?: LoadBalancer;
  autoScaling?: AutoScaling;
  protocol?: ClusterProtocol;
  listenPort?: number;
  healthCheck?: ClusterHealthCheck;
  sticky?: ClusterSticky;
  tls?: ClusterTls;
  redirectToHttps?: { listenPort?: number };
  routes?: ClusterRoute[];
  entryNodes?: string[];
  virtualAddress?: ClusterVirtualAddress;
  failback?: ClusterFailback;
  retries?: number;
  slowStart?: number;
  drainTime?: number;
  serverTemplate?: { container: ContainerSpec };
  /** Of clusters of type `database`. */
  database?: DatabaseSpec;
}

export interface ClusterFigures {
  totalRequests: number;
  /** Milliseconds. */
  averageResponseTime: number;
  /** Percent. */
  errorRate: number;
  /** Bytes, both ways. */
  totalBandwidth: number;
  p50: number;
  p95: number;
  p99: number;
}

/** Over the last minute or so. */
export interface ClusterRecent {
  requestsPerSecond: number;
  errorRate: number;
  averageResponseTime: number;
  p50: number;
  p95: number;
  p99: number;
}

export interface ClusterMember {
  /** The server's. */
  id: string;
  name: string;
  kind: ServerKind;
  /** Where the entry reaches it. */
  address?: string;
  /** As it was named. */
  port?: number;
  weight: number;
  backup: boolean;
  state: ClusterMemberState;
  reason: string;
  since?: string;
  inFlight: number;
  /** Scaling made it. */
  scaled: boolean;
  metrics: ClusterFigures;
  recent?: ClusterRecent;
}

export interface ClusterEntry {
  nodeId: string;
  name: string;
  address?: string;
  connected: boolean;
  /** It carries the cluster as it is now. */
  current: boolean;
  /** Generations of the node's document: the one it has, and the one it is to have. */
  carries?: number;
  wanted?: number;
  problem?: string;
  holdsVirtualAddress?: boolean;
}

export interface ClusterCondition {
  type:
    | "memberUnreachable"
    | "noEntry"
    | "entryOffline"
    | "entryFailed"
    | "entryBehind"
    | "cannotScale"
    | "virtualAddress"
    | "certificate"
    | "notHighlyAvailable"
    | "database";
  /** The server or node it is about. */
  about?: string;
  message: string;
}

export type ScalingFigureKind = "cpu" | "memory" | "requestsPerSecond" | "queueLength";
export interface ScalingFigure {
  figure: ScalingFigureKind;
  target: number;
  value?: number | null;
  servers?: number | null;
}

export interface ClusterScaling {
  at: string;
  current: number;
  wanted: number;
  action: "stay" | "hold" | "out" | "in";
  reason: string;
  figures: ScalingFigure[];
  addAfter?: string;
  removeAfter?: string;
}

export interface ClusterTlsView {
  selfSigned: boolean;
  serverNames: string[];
  certificate: string;
  expires?: string;
  acme?: ClusterAcmeView;
}

export interface Cluster {
  id: string;
  name: string;
  type: ClusterType;
  status: ClusterStatus;
  /** As they were named, and those that scaling added. */
  servers: string[];
  metrics: ClusterFigures;
  recent?: ClusterRecent;
  endpoint?: string;
  endpoints: string[];
  protocol: ClusterProtocol;
  listenPort: number;
  /** Those that were named first, in the order of `servers`. */
  members: ClusterMember[];
  activeMember?: string;
  entryNodes: ClusterEntry[];
  conditions: ClusterCondition[];
  loadBalancer: Required<LoadBalancer>;
  healthCheck: ClusterHealthCheck;
  autoScaling?: AutoScaling;
  scaling?: ClusterScaling;
  sticky?: ClusterSticky;
  tls?: ClusterTlsView;
  redirectToHttps?: { listenPort?: number };
  routes?: ClusterRoute[];
  virtualAddress?: ClusterVirtualAddress;
  failback?: Required<ClusterFailback>;
  retries: number;
  slowStart: number;
  drainTime: number;
  serverTemplate?: { container: ContainerSpec };
  /** Of clusters of type `database`. */
  database?: Database;
  created: string;
  updated: string;
  generation: number;
}

export interface ClusterMetricsPoint extends ClusterFigures {
  from: string;
  to: string;
  requestsPerSecond: number;
  members: ({ id: string } & ClusterFigures)[];
}

export interface ClusterMetrics extends ClusterFigures {
  clusterId: string;
  requestsPerSecond: number;
  members: ({ id: string } & ClusterFigures)[];
  /** Oldest first. */
  history: ClusterMetricsPoint[];
}

export type ClusterEventKind =
  | "created"
  | "updated"
  | "memberAdded"
  | "memberRemoved"
  | "memberUp"
  | "memberDown"
  | "memberEjected"
  | "memberReturned"
  | "failover"
  | "statusChanged"
  | "scaledOut"
  | "scaledIn"
  | "scalingHeld"
  | "scalingFailed"
  | "jobMade"
  | "jobSucceeded"
  | "jobFailed"
  | "jobCancelled";

export interface ClusterEvent {
  sequence: number;
  at: string;
  kind: ClusterEventKind;
  member?: string;
  nodeId?: string;
  reason: string;
  detail?: { current?: number; wanted?: number; figures?: ScalingFigure[]; job?: string };
}
