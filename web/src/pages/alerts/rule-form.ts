import {
  type AlertCondition,
  type AlertMatcher,
  type AlertMetric,
  type AlertOp,
  type AlertRule,
  type AlertSeverity,
  type AlertTarget,
  type AlertTargetKind,
  type CheckName,
  type NewAlertRule,
} from "../../api/types";
import { duration } from "../../lib/format";
import * as check from "../../lib/validate";

// A rule as text in a form, the way to the request and back, and rules in words.

export const METRIC_NAME: Record<AlertMetric, [string, string]> = {
  "node.cpu": ["CPU of a node", "%"],
  "node.memory": ["Memory of a node", "%"],
  "node.disk": ["Fullest disk of a node", "%"],
  "node.load": ["Load of a node over a minute", ""],
  "node.temperature": ["Temperature of a node", "°C"],
  "node.swap": ["Swap of a node", "%"],
  "container.cpu": ["CPU of a container, of one core", "%"],
  "container.memory": ["Memory of a container, of its limit", "%"],
};

export interface RuleForm {
  name: string;
  enabled: boolean;
  type: AlertCondition["type"];
  status: "unhealthy" | "notHealthy";
  check: CheckName | "";
  metric: AlertMetric;
  op: AlertOp;
  value: string;
  resolveAt: string;
  which: "all" | "label" | "id";
  kind: AlertTargetKind | "";
  label: string;
  id: string;
  hold: string;
  repeat: string;
  severity: AlertSeverity;
  channels: string[];
  message: string;
}

const text = (n: number | undefined): string => (n === undefined ? "" : String(n));

export function ruleForm(rule?: AlertRule): RuleForm {
  const c = rule?.condition;
  return {
    name: rule?.name ?? "",
    enabled: rule?.enabled ?? true,
    type: c?.type ?? "metric",
    status: c?.type === "health" ? c.status : "unhealthy",
    check: (c?.type === "health" && c.check) || "",
    metric: c?.type === "metric" ? c.metric : "node.cpu",
    op: c?.type === "metric" ? c.op : "above",
    value: c?.type === "metric" ? String(c.value) : "",
    resolveAt: c?.type === "metric" ? text(c.resolveAt) : "",
    which: rule?.target.id ? "id" : rule?.target.label ? "label" : "all",
    kind: rule?.target.kind ?? "",
    label: rule?.target.label ?? "",
    id: rule?.target.id ?? "",
    hold: rule ? String(rule.for) : "60",
    repeat: text(rule?.repeat),
    severity: rule?.severity ?? "warning",
    channels: rule?.channels ?? [],
    message: rule?.message ?? "",
  };
}

/** The kind of server a condition is about, where it can be one only. */
export function kindOf(form: Pick<RuleForm, "type" | "metric">): AlertTargetKind | null {
  if (form.type === "nodeLost") return "node";
  if (form.type === "containerDown") return "container";
  if (form.type === "metric") return form.metric.startsWith("node.") ? "node" : "container";
  return null;
}

/** The request the form stands for, and what is wrong by the names the server has for the fields. */
export function ruleOf(form: RuleForm): { body: NewAlertRule; problems: Record<string, string> } {
  const problems: Record<string, string> = {};
  const test = (field: string, value: string, rule: check.Check) => {
    const says = rule(value);
    if (says) problems[field] = says;
  };
  const number = (field: string, value: string): number => {
    const n = Number(value);
    if (value.trim() === "" || !Number.isFinite(n)) problems[field] = "A number";
    return n;
  };
  test("name", form.name.trim(), check.title);
  let condition: AlertCondition;
  if (form.type === "health") {
    condition = { type: "health", status: form.status, ...(form.check ? { check: form.check } : {}) };
  } else if (form.type === "metric") {
    condition = { type: "metric", metric: form.metric, op: form.op, value: number("condition.value", form.value) };
    if (form.resolveAt.trim() !== "") {
      condition.resolveAt = number("condition.resolveAt", form.resolveAt);
      const wrong = form.op === "above" ? condition.resolveAt > condition.value : condition.resolveAt < condition.value;
      if (wrong) problems["condition.resolveAt"] ??= `At ${form.op === "above" ? "most" : "least"} the limit`;
    }
  } else {
    condition = { type: form.type };
  }
  const target: AlertTarget = {};
  const kind = kindOf(form) ?? (form.kind || undefined);
  if (kind) target.kind = kind;
  if (form.which === "all") target.all = true;
  else if (form.which === "label") {
    test("target.label", form.label.trim(), check.alertLabel);
    target.label = form.label.trim();
  } else {
    test("target.id", form.id.trim(), (t) => (t === "" ? "Say which: its name or id" : check.networkName(t)));
    target.id = form.id.trim();
  }
  const hold = form.hold.trim() === "" ? "0" : form.hold.trim();
  test("for", hold, check.whole(0, 604_800));
  if (form.repeat.trim() !== "") test("repeat", form.repeat.trim(), check.whole(60, 604_800));
  if (form.message.trim() !== "") test("message", form.message.trim(), check.note);
  const body: NewAlertRule = {
    name: form.name.trim(),
    enabled: form.enabled,
    target,
    condition,
    for: Number(hold),
    severity: form.severity,
    repeat: form.repeat.trim() === "" ? null : Number(form.repeat),
    channels: form.channels,
    message: form.message.trim() || null,
  };
  return { body, problems };
}

/** What a rule looks for, in words: `CPU of a node above 90 %, for 5m`. */
export function conditionText(rule: Pick<AlertRule, "condition" | "for">): string {
  const c = rule.condition;
  const hold = rule.for > 0 ? `, for ${duration(rule.for * 1000)}` : "";
  switch (c.type) {
    case "metric": {
      const [name, unit] = METRIC_NAME[c.metric] ?? [c.metric, ""];
      const amount = (n: number) => `${n}${unit && ` ${unit}`}`;
      return `${name} ${c.op} ${amount(c.value)}${c.resolveAt === undefined ? "" : `, until ${amount(c.resolveAt)}`}${hold}`;
    }
    case "health":
      return `${c.check ? `Check ${c.check}` : "Health"} is ${c.status === "unhealthy" ? "unhealthy" : "not healthy"}${hold}`;
    case "nodeLost":
      return `A node is not connected${hold}`;
    case "containerDown":
      return `A container that should run does not${hold}`;
  }
}

/** Which servers a rule looks at, in words. */
export function targetText(target: AlertTarget): string {
  const kind = target.kind === "address" ? "addresses" : target.kind ? `${target.kind}s` : "servers";
  if (target.id) return target.id;
  if (target.label) return `${kind} with ${target.label}`;
  return `all ${kind}`;
}

/** Which alerts a silence is for, in words. */
export function matcherText(m: AlertMatcher, ruleName: (id: string) => string, serverName = m.serverId): string {
  const parts: string[] = [];
  if (m.ruleId) parts.push(`rule ${ruleName(m.ruleId)}`);
  if (m.serverId) parts.push(`server ${serverName}`);
  if (m.severity) parts.push(`severity ${m.severity}`);
  return parts.join(", ") || "every alert";
}
