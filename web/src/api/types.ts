// The bodies of the API, as crates/types writes them. Times are RFC 3339 UTC with milliseconds.

export * from "./alert-types";
export * from "./backup-types";
export * from "./cluster-types";
export * from "./database-types";
export * from "./health-types";
export * from "./job-types";

export type Role = "viewer" | "operator" | "admin";

export interface User {
  id: string;
  username: string;
  role: Role;
  disabled: boolean;
  created: string;
  updated: string;
}

export interface SignedIn {
  accessToken: string;
  refreshToken: string;
  /** Seconds until the access token ends. */
  expiresIn: number;
  user: User;
}

export interface NewUser {
  username: string;
  password: string;
  role: Role;
}

export interface UserUpdate {
  role?: Role;
  disabled?: boolean;
  password?: string;
}

export interface SessionInfo {
  id: string;
  created: string;
  lastUsed: string;
  expires: string;
}

export interface Token {
  id: string;
  name: string;
  userId: string;
  role: Role;
  scopes: string[];
  created: string;
  expires: string;
  lastUsed?: string;
}

export interface NewToken {
  name: string;
  role: Role;
  scopes?: string[];
  expiresInDays?: number;
}

export interface CreatedToken extends Token {
  /** Shown this once. */
  token: string;
}

export const AREAS = [
  "containers",
  "images",
  "volumes",
  "networks",
  "registries",
  "nodes",
  "operations",
  "events",
  "servers",
  "health",
  "alerts",
  "clusters",
  "backups",
  "users",
  "tokens",
  "audit",
  "system",
] as const;

export interface StreamTicket {
  ticket: string;
  expires: string;
}

export interface AuditEntry {
  sequence: number;
  time: string;
  actor: string;
  action: string;
  target?: string;
  /** `ok`, or the code of the error. */
  outcome: string;
  address?: string;
  requestId?: string;
  detail: unknown;
}

export interface FieldProblem {
  /** Path of the field: `ports[0].container`. */
  field: string;
  message: string;
}

export interface ErrorBody {
  success: false;
  error: string;
  code: string;
  requestId: string;
  details?: FieldProblem[];
  operationId?: string;
  logs?: string[];
}

export type Protocol = "tcp" | "udp";
export type VolumeMode = "ro" | "rw";
export type RestartPolicy = "no" | "always" | "on-failure" | "unless-stopped";
export type OnNodeLost = "wait" | "reschedule";
export type ContainerStatus = "created" | "running" | "paused" | "stopped" | "exited";
export type ContainerHealth = "starting" | "healthy" | "unhealthy";
export type LogStream = "stdout" | "stderr";
export const SIGNALS = ["SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH"] as const;
export type Signal = (typeof SIGNALS)[number];

export interface PortMapping {
  container: number;
  /** 0 or absent: chosen by the node. */
  host?: number;
  protocol?: Protocol;
  hostIp?: string;
}

export interface VolumeMount {
  container: string;
  /** A named volume or an absolute path of the node; without it Docker makes an anonymous volume. */
  host?: string;
  mode?: VolumeMode;
}

export interface HealthCheck {
  command: string[];
  interval?: number;
  timeout?: number;
  retries?: number;
  startPeriod?: number;
}

export interface ContainerSpec {
  name: string;
  image: string;
  command?: string[];
  entrypoint?: string[];
  environment?: Record<string, string>;
  ports?: PortMapping[];
  volumes?: VolumeMount[];
  /** Cores, 0.1 to 64. */
  cpuLimit?: number;
  /** `512m`, `1g`. */
  memoryLimit?: string;
  restart?: RestartPolicy;
  labels?: Record<string, string>;
  networks?: string[];
  user?: string;
  workingDir?: string;
  hostname?: string;
  capDrop?: string[];
  readOnly?: boolean;
  healthCheck?: HealthCheck;
  /** Seconds. */
  stopGrace?: number;
  tty?: boolean;
  /** What its node must be: `zone=a`, `disk!=hdd`, `gpu`. */
  constraints?: string[];
  /** A label of nodes over whose values containers of its kind are spread. */
  spread?: string;
  onNodeLost?: OnNodeLost;
  nodeId?: string;
  start?: boolean;
}

export interface Attachment {
  network: string;
  ip?: string;
}

export interface MountView {
  container: string;
  host: string;
  mode: VolumeMode;
}

export interface Resources {
  cpuLimit: number | null;
  memoryLimit: string | null;
  /** Percent of one core, now. */
  cpuUsage: number;
  /** MiB, now. */
  memoryUsage: number;
}

export interface Container {
  id: string;
  name: string;
  image: string;
  status: ContainerStatus;
  nodeId: string;
  ports: PortMapping[];
  resources: Resources;
  volumes: MountView[];
  environment: Record<string, string>;
  labels: Record<string, string>;
  restart: RestartPolicy;
  networks: Attachment[];
  created: string;
  /** Whether we made it; `false` for containers that others started. */
  managed: boolean;
  /** `false` while the node can't be reached: what is shown is the last that was seen. */
  reachable: boolean;
  dockerId?: string;
  started?: string;
  finished?: string;
  exitCode?: number;
  health?: ContainerHealth;
  restarts: number;
  message?: string;
}

export interface ContainerUpdate {
  cpuLimit?: number;
  memoryLimit?: string;
  restart?: RestartPolicy;
}

export interface ContainerTemplate {
  id: string;
  name: string;
  description: string;
  image: string;
  config: ContainerSpec;
  /** Variables that get a random value at each run, unless the run gives one. */
  generated: string[];
}

export interface RunTemplate {
  name?: string;
  nodeId?: string;
  environment?: Record<string, string>;
  ports?: PortMapping[];
  volumes?: VolumeMount[];
}

export interface LogLine {
  stream: LogStream;
  time: string;
  line: string;
}

export interface ContainerStats {
  containerId: string;
  /** Percent of one core. */
  cpu: number;
  /** MiB. */
  memory: number;
  /** Bytes. */
  memoryLimit: number;
  networkRx: number;
  networkTx: number;
  blockRead: number;
  blockWrite: number;
  pids: number;
  oomKills: number;
  throttledSeconds: number;
  timestamp: string;
}

export interface Image {
  id: string;
  tags: string[];
  size: number;
  created: string;
  containers: number;
  nodeId: string;
}

export interface PullImage {
  name: string;
  tag?: string;
  nodeId?: string;
}

export interface Pruned {
  removed: string[];
  freed: number;
}

export interface Volume {
  name: string;
  driver: string;
  mountpoint: string;
  labels: Record<string, string>;
  created?: string;
  nodeId: string;
  usedBy: string[];
}

export interface NewVolume {
  name: string;
  nodeId?: string;
  labels?: Record<string, string>;
}

export interface Network {
  id: string;
  name: string;
  driver: string;
  subnets: string[];
  internal: boolean;
  labels: Record<string, string>;
  created?: string;
  nodeId: string;
  containers: string[];
}

export interface NewNetwork {
  name: string;
  nodeId?: string;
  internal?: boolean;
  labels?: Record<string, string>;
}

export interface Registry {
  id: string;
  host: string;
  username: string;
  created: string;
  updated: string;
}

export interface NewRegistry {
  host: string;
  username: string;
  password: string;
}

export type NodeStatus = "ready" | "notReady" | "cordoned";

export interface DockerInfo {
  available: boolean;
  version?: string;
  apiVersion?: string;
  /** The machine's address on Docker's own bridge. */
  bridge?: string;
  error?: string;
}

export interface NodeInfo {
  agentVersion: string;
  hostname: string;
  os: string;
  kernel: string;
  arch: string;
  cpus: number;
  /** Bytes. */
  memory: number;
  docker: DockerInfo;
}

/** What a node's machine uses now. */
export interface NodeUsage {
  /** Percent of all cores, 0 to 100. */
  cpu: number;
  /** Bytes. */
  memoryUsed: number;
  memoryTotal: number;
  /** Of the fullest disk. */
  diskUsedPercent?: number;
  /** Over 1, 5 and 15 minutes. */
  load: [number, number, number];
  /** °C. */
  temperature?: number;
}

/** The line between a node and the control plane. */
export interface NodeLine {
  /** `link` where datagrams do not come through. */
  transport: "udp" | "link";
  /** Milliseconds. */
  rtt?: number;
  /** Percent. */
  loss?: number;
}

export interface Node {
  id: string;
  name: string;
  status: NodeStatus;
  labels: Record<string, string>;
  info?: NodeInfo;
  containers: number;
  created: string;
  lastSeen?: string;
  /** Set while it is lost. */
  lostSince?: string;
  link?: NodeLine;
  /** Only while it is connected. */
  usage?: NodeUsage;
  capacity?: { cpus: number; memory: number; diskTotal?: number };
  /** Limits of its containers, added up: cores and bytes. */
  allocated: { cpu: number; memory: number };
  certificate?: { authority: string; expires: string };
  /** Its certificates count no more. */
  revoked?: boolean;
}

export interface DiskStats {
  mount: string;
  device: string;
  kind: string;
  total: number;
  used: number;
  available: number;
  inodes: number;
  inodesUsed: number;
  readOnly: boolean;
}

/** One sample of a node's machine: bytes, percent, seconds. Counters run from the machine's start. */
export interface NodeStats {
  cpu: number;
  load: [number, number, number];
  memory: { total: number; available: number; swapTotal: number; swapUsed: number };
  disks: DiskStats[];
  network: { rx: number; tx: number; packets: number; errors: number; dropped: number };
  pressure?: { cpuSome: number; memorySome: number; memoryFull: number; ioSome: number; ioFull: number };
  temperature?: number;
  uptime: number;
  timestamp: string;
}

export type NodeEventKind =
  | "created"
  | "started"
  | "died"
  | "oom"
  | "health"
  | "removed"
  | "engineDown"
  | "engineUp"
  | "agentStarted"
  | "gap";

/** What happened on a node, by its own clock. */
export interface NodeEvent {
  id: number;
  nodeId: string;
  time: string;
  kind: NodeEventKind;
  containerId?: string;
  dockerId?: string;
  container?: string;
  detail: { exitCode?: number; health?: ContainerHealth; count?: number; message?: string };
}

/** An executable that nodes can be upgraded to. */
export interface Binary {
  platform: string;
  version: string;
  sha256: string;
  size: number;
  /** Absent on the control plane's own. */
  uploaded?: string;
}

export interface DrainRequest {
  /** Seconds between stop and kill. */
  grace?: number;
  move?: boolean;
}

export interface NodeUpdate {
  name?: string;
  labels?: Record<string, string>;
  cordoned?: boolean;
}

export interface JoinToken {
  id: string;
  token: string;
  expires: string;
}

export type OperationState = "pending" | "running" | "succeeded" | "failed" | "cancelled";

export interface OperationStep {
  name: string;
  state: OperationState;
  detail?: string;
}

export interface OperationError {
  status: number;
  code: string;
  error: string;
  details?: FieldProblem[];
  logs?: string[];
}

export interface Operation {
  id: string;
  /** `container.create`, `image.pull`, … */
  kind: string;
  state: OperationState;
  target?: string;
  actor: string;
  /** 0 to 100; absent where the end can't be foretold. */
  progress?: number;
  steps: OperationStep[];
  log: { time: string; line: string }[];
  result?: unknown;
  error?: OperationError;
  cancelRequested: boolean;
  created: string;
  updated: string;
  finished?: string;
}

export interface ChangeEvent {
  revision: number;
  /** `container`, `node`, `operation`, … */
  kind: string;
  id: string;
  /** `created`, `updated`, `status`, `deleted`. */
  what: string;
  name?: string;
  status?: string;
  time: string;
}

export interface SystemInfo {
  version: string;
  /** `sqlite` or `postgres`. */
  database: string;
  /** Seconds. */
  uptime: number;
  nodes: number;
  nodesConnected: number;
  containers: number;
  operationsRunning: number;
}

export interface AuditVerdict {
  intact: boolean;
  /** How many are as they were written, from the first on. */
  entries: number;
  firstBroken?: { sequence: number; reason: string };
}
