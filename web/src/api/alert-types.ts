import type { CheckName } from "./health-types";

// Alerts: rules, what they found, where it is told, and when nobody wants to hear of it.

export type AlertSeverity = "info" | "warning" | "critical";
export type AlertState = "pending" | "firing" | "resolved";
export type AlertTargetKind = "node" | "container" | "address";

export interface Alert {
  id: string;
  ruleId: string;
  ruleName: string;
  serverId: string;
  serverName: string;
  serverKind: AlertTargetKind;
  severity: AlertSeverity;
  state: AlertState;
  /** Since when it holds. */
  since: string;
  firedAt?: string;
  resolvedAt?: string;
  value?: number;
  message: string;
  /** It fires again and again. */
  flapping?: boolean;
  silencedBy?: string;
  acknowledgedAt?: string;
  acknowledgedBy?: string;
}

export interface AlertDelivery {
  id: string;
  channelId: string;
  /** Absent once the channel is gone. */
  channelName?: string;
  event: "firing" | "reminder" | "resolved" | "test";
  state: "waiting" | "delivered" | "failed";
  attempts: number;
  nextAttempt?: string;
  lastError?: string;
  created: string;
  deliveredAt?: string;
}

export interface AlertDetail extends Alert {
  /** Oldest first. */
  deliveries: AlertDelivery[];
}

/** Exactly one of `id`, `label` and `all`. */
export interface AlertTarget {
  kind?: AlertTargetKind;
  id?: string;
  label?: string;
  all?: boolean;
}

export const METRICS = [
  "node.cpu",
  "node.memory",
  "node.disk",
  "node.load",
  "node.temperature",
  "node.swap",
  "container.cpu",
  "container.memory",
] as const;
export type AlertMetric = (typeof METRICS)[number];
export type AlertOp = "above" | "below";

export type AlertCondition =
  | { type: "health"; status: "unhealthy" | "notHealthy"; check?: CheckName }
  | { type: "metric"; metric: AlertMetric; op: AlertOp; value: number; resolveAt?: number }
  | { type: "nodeLost" }
  | { type: "containerDown" };

export interface NewAlertRule {
  name: string;
  enabled?: boolean;
  target: AlertTarget;
  condition: AlertCondition;
  /** Seconds for which it must hold. */
  for?: number;
  severity?: AlertSeverity;
  /** Seconds between reminders; `null` empties it. */
  repeat?: number | null;
  channels?: string[];
  message?: string | null;
}

export interface AlertRule {
  id: string;
  name: string;
  enabled: boolean;
  target: AlertTarget;
  condition: AlertCondition;
  for: number;
  severity: AlertSeverity;
  repeat?: number;
  channels: string[];
  message?: string;
  created: string;
  updated: string;
}

export const CHANNEL_TYPES = ["webhook", "email", "slack", "discord", "telegram", "ntfy"] as const;
export type ChannelType = (typeof CHANNEL_TYPES)[number];

/** The fields of all types; which of them a channel has, its type says. Secrets are sent and never come back. */
export interface ChannelFields {
  url?: string;
  secret?: string;
  host?: string;
  port?: number;
  tls?: "starttls" | "tls" | "none";
  username?: string;
  password?: string;
  from?: string;
  to?: string[];
  token?: string;
  chatId?: string;
  apiBase?: string;
  server?: string;
  topic?: string;
}

export interface AlertChannel extends Omit<ChannelFields, "secret" | "password" | "token"> {
  id: string;
  name: string;
  type: ChannelType;
  /** Names of the secrets it has. */
  secrets: string[];
  created: string;
  updated: string;
}

export interface CreatedChannel extends AlertChannel {
  /** A webhook's key, shown this once, where the server made it. */
  secret?: string;
}

export interface ChannelTest {
  delivered: boolean;
  message: string;
  tookMs: number;
}

export interface AlertMatcher {
  ruleId?: string;
  serverId?: string;
  severity?: AlertSeverity;
}

export interface NewSilence {
  matcher: AlertMatcher;
  from?: string;
  until: string;
  comment: string;
}

export interface Silence {
  id: string;
  matcher: AlertMatcher;
  from: string;
  until: string;
  comment: string;
  active: boolean;
  createdBy: string;
  created: string;
  updated: string;
}
