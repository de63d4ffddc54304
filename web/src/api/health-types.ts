// Servers and their health, as crates/types writes them.

export type ServerKind = "node" | "container" | "instance" | "address";
export type AddressProbeType = "tcp" | "http" | "https";

export interface AddressProbe {
  type: AddressProbeType;
  path?: string;
  expectStatus?: number;
  /** Seconds. */
  timeout?: number;
}

/** Anything that can take traffic or be checked. */
export interface Server {
  id: string;
  kind: ServerKind;
  name: string;
  address?: string;
  nodeId?: string;
  port?: number;
  probe?: AddressProbe;
  status: string;
  created: string;
}

export interface NewServer {
  name: string;
  address: string;
  port?: number;
  probe?: AddressProbe;
}

export type HealthStatus = "healthy" | "unhealthy" | "unknown";
export const CHECKS = ["cpu", "memory", "disk", "network", "services"] as const;
export type CheckName = (typeof CHECKS)[number];

export interface CheckDetail {
  check: CheckName;
  ok: boolean;
  /** `97.3 %`, `45.2 ms`, `not measured`. */
  measured: string;
  /** `under 95 %`; while it fails, what it must be to pass again. */
  limit: string;
  message: string;
}

export interface Health {
  serverId: string;
  serverName: string;
  kind: ServerKind;
  nodeId?: string;
  status: HealthStatus;
  /** One or two checks failed. */
  degraded: boolean;
  /** `null` where it was never checked. */
  lastCheck: string | null;
  checks: Record<CheckName, boolean>;
  details: CheckDetail[];
  /** Seconds. */
  uptime: number;
  /** Milliseconds. */
  responseTime: number | null;
  since: string | null;
  /** Percent; `null` where it was not checked in that time. */
  availability: { "24h": number | null; "7d": number | null; "30d": number | null };
  /** Whether it is checked by itself. */
  checked: boolean;
}

export interface HealthInterval {
  from: string;
  /** `null` while it lasts. */
  to: string | null;
  status: HealthStatus;
  degraded: boolean;
  failed: CheckName[];
}

/** A limit, and where it has to come back to. */
export interface Limit {
  fail: number;
  recover: number;
}
export interface Thresholds {
  cpu: Limit;
  cpuChecks: number;
  memory: Limit;
  swap: Limit;
  memoryPressure: Limit;
  disk: Limit;
  inodes: Limit;
  packetLoss: Limit;
  roundTrip: Limit;
  interfaceErrors: Limit;
}
export type LimitName = Exclude<keyof Thresholds, "cpuChecks">;

export interface HealthSettings {
  /** Seconds. */
  interval: number;
  thresholds: Thresholds;
}

export interface Probe {
  name: string;
  type: "http" | "tcp" | "command" | "systemd";
  port?: number;
  path?: string;
  expectStatus?: number;
  container?: string;
  command?: string[];
  unit?: string;
  timeout?: number;
}

/** How one server is checked, where it differs from the settings. */
export interface HealthConfig {
  interval?: number;
  thresholds?: Partial<Thresholds>;
  probes?: Probe[];
  enabled?: boolean;
}
