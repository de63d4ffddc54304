import { describe, expect, it } from "vitest";
import type { AlertChannel, AlertRule } from "../../api/types";
import { CHANNEL_TYPES } from "../../api/types";
import { channelForm, channelOf, FIELDS, placeText } from "./channel-form";
import { conditionText, kindOf, matcherText, ruleForm, ruleOf, targetText } from "./rule-form";

const rule: AlertRule = {
  id: "rule_1",
  name: "busy",
  enabled: false,
  target: { all: true, kind: "node" },
  condition: { type: "metric", metric: "node.cpu", op: "above", value: 90, resolveAt: 80 },
  for: 300,
  severity: "critical",
  repeat: 3600,
  channels: ["chan_1"],
  message: "look",
  created: "",
  updated: "",
};

describe("a rule", () => {
  it("is sent back as it was read", () => {
    const { id: _id, created: _created, updated: _updated, ...body } = rule;
    expect(ruleOf(ruleForm(rule))).toEqual({ body, problems: {} });
    const health: AlertRule = { ...rule, target: { label: "zone=a" }, condition: { type: "health", status: "notHealthy", check: "disk" } };
    expect(ruleOf(ruleForm(health)).body).toMatchObject({ target: health.target, condition: health.condition });
    const lost: AlertRule = { ...rule, target: { id: "n1", kind: "node" }, condition: { type: "nodeLost" } };
    expect(ruleOf(ruleForm(lost)).body).toMatchObject({ target: lost.target, condition: lost.condition });
  });

  it("empties what was taken out", () => {
    const body = ruleOf({ ...ruleForm(rule), repeat: "", message: " ", resolveAt: "" }).body;
    expect([body.repeat, body.message, body.for]).toEqual([null, null, 300]);
    expect(body.condition).not.toHaveProperty("resolveAt");
  });

  it("names what is wrong as the server does", () => {
    const wrong = { ...ruleForm(), value: "x", resolveAt: "9", which: "label" as const, label: "-a", hold: "-1", repeat: "59" };
    expect(Object.keys(ruleOf(wrong).problems).sort()).toEqual(["condition.value", "for", "name", "repeat", "target.label"].sort());
    expect(ruleOf({ ...ruleForm(rule), resolveAt: "91" }).problems).toHaveProperty(["condition.resolveAt"]);
    expect(ruleOf({ ...ruleForm(rule), op: "below", resolveAt: "89" }).problems).toHaveProperty(["condition.resolveAt"]);
    expect(ruleOf({ ...ruleForm(rule), which: "id", id: "" }).problems).toHaveProperty(["target.id"]);
  });

  it("knows which kind of server it can be about", () => {
    expect(kindOf({ type: "metric", metric: "container.cpu" })).toBe("container");
    expect(kindOf({ type: "nodeLost", metric: "container.cpu" })).toBe("node");
    expect(kindOf({ type: "health", metric: "node.cpu" })).toBeNull();
  });

  it("is told in words", () => {
    expect(conditionText(rule)).toBe("CPU of a node above 90 %, until 80 %, for 5m");
    expect(conditionText({ condition: { type: "health", status: "unhealthy", check: "disk" }, for: 0 })).toBe("Check disk is unhealthy");
    expect([rule.target, { label: "a=b" }, { id: "n1" }, { all: true, kind: "address" as const }].map(targetText)).toEqual([
      "all nodes",
      "servers with a=b",
      "n1",
      "all addresses",
    ]);
    expect(matcherText({}, String)).toBe("every alert");
    expect(matcherText({ ruleId: "r", serverId: "s", severity: "info" }, () => "busy", "n1")).toBe("rule busy, server n1, severity info");
  });
});

describe("a channel", () => {
  const channel = (more: Partial<AlertChannel>): AlertChannel => ({
    id: "chan_1",
    name: "ops",
    type: "webhook",
    secrets: [],
    created: "",
    updated: "",
    ...more,
  });

  it("needs what its type needs", () => {
    const missing = Object.fromEntries(CHANNEL_TYPES.map((t) => [t, Object.keys(channelOf(t, {}).problems)]));
    expect(missing).toEqual({
      webhook: ["url"],
      email: ["host", "from", "to"],
      slack: ["url"],
      discord: ["url"],
      telegram: ["token", "chatId"],
      ntfy: ["topic"],
    });
  });

  it("is sent with its type's fields only, in their shapes", () => {
    const form = { url: "https://x.example/a", host: "mail", port: "25", tls: "none", from: "a@b.c", to: "d@e.f, g@h.i", topic: "t" };
    expect(channelOf("webhook", form)).toEqual({ fields: { url: "https://x.example/a" }, problems: {} });
    expect(channelOf("email", form).fields).toEqual({ host: "mail", port: 25, tls: "none", from: "a@b.c", to: ["d@e.f", "g@h.i"] });
    expect(channelOf("email", { ...form, to: "nobody" }).problems).toEqual({ to: "nobody is no address: name@host" });
  });

  it("keeps a secret that is not typed again, and sends only what differs", () => {
    const slack = channel({ type: "slack", host: "hooks.slack.com", secrets: ["url"] });
    expect(channelForm(slack)).toEqual({});
    expect(channelOf("slack", channelForm(slack), slack)).toEqual({ fields: {}, problems: {} });
    const ntfy = channel({ type: "ntfy", server: "https://ntfy.sh", topic: "a", secrets: ["token"] });
    expect(channelOf("ntfy", { ...channelForm(ntfy), topic: "b" }, ntfy)).toEqual({ fields: { topic: "b" }, problems: {} });
    expect(channelOf("ntfy", { topic: "a" }, ntfy).problems).toHaveProperty("server");
  });

  it("never reads a secret into the form", () => {
    for (const type of CHANNEL_TYPES) {
      const secret = FIELDS[type].filter((f) => f.secret).map((f) => f.name);
      const read = channelForm({ ...channel({ type }), url: "u", token: "t", password: "p", secret: "s" } as AlertChannel);
      for (const name of secret) expect(read, type).not.toHaveProperty(name);
    }
  });

  it("says where it leads", () => {
    expect(placeText(channel({ type: "ntfy", server: "https://ntfy.sh", topic: "a" }))).toBe("https://ntfy.sh/a");
    expect(placeText(channel({ type: "email", to: ["a@b.c", "d@e.f"] }))).toBe("a@b.c, d@e.f");
  });
});
