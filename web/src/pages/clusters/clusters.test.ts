import { describe, expect, it } from "vitest";
import type { Cluster, ClusterMember } from "../../api/types";
import { bodyOf, clusterForm, emptyClusterForm, patchOf, placeClusterProblems, serverRow } from "./form";
import { mergePatch } from "../../lib/patch";
import { count, decisionText, failed, memberWord, millis, perSecond, settledPoints, statusReason, upOf } from "./words";

const FIGURES = { totalRequests: 0, averageResponseTime: 0, errorRate: 0, totalBandwidth: 0, p50: 0, p95: 0, p99: 0 };
const member = (id: string, more: Partial<ClusterMember> = {}): ClusterMember => ({
  id,
  name: id.replace("cont_", ""),
  kind: "container",
  weight: 1,
  backup: false,
  state: "up",
  reason: "",
  inFlight: 0,
  scaled: false,
  metrics: FIGURES,
  ...more,
});
const cluster = (more: Partial<Cluster> = {}): Cluster => ({
  id: "cluster_1",
  name: "shop",
  type: "load-balanced",
  status: "healthy",
  servers: ["web-1", "cont_b"],
  metrics: FIGURES,
  endpoint: "http://10.0.0.1:30000",
  endpoints: ["http://10.0.0.1:30000"],
  protocol: "http",
  listenPort: 30000,
  members: [member("cont_a", { port: 80 }), member("cont_b", { weight: 3 })],
  entryNodes: [{ nodeId: "node_1", name: "one", connected: true, current: true }],
  conditions: [],
  loadBalancer: { algorithm: "weighted", healthCheckInterval: 30, healthCheckTimeout: 5 },
  healthCheck: { type: "http", path: "/up", expectedStatus: { min: 200, max: 399 }, interval: 30, rise: 1, fall: 2 },
  retries: 2,
  slowStart: 0,
  drainTime: 30,
  created: "2026-11-24T00:00:00.000Z",
  updated: "2026-11-24T00:00:00.000Z",
  generation: 1,
  ...more,
});
const edited = (c: Cluster, change: Partial<ReturnType<typeof clusterForm>>) => patchOf(c, { ...clusterForm(c), ...change });

describe("merge patches", () => {
  it("hold what differs and nothing else, at any depth", () => {
    expect(mergePatch({ a: 1, b: { c: 1, d: 2 }, l: [1, { x: 1 }] }, { a: 1, b: { c: 1, d: 3 }, l: [1, { x: 1 }] })).toEqual({ b: { d: 3 } });
    expect(mergePatch({ a: { b: 1, c: 2 }, l: [1] }, { a: { b: 1 }, l: [1, 2] })).toEqual({ a: { c: null }, l: [1, 2] });
    expect(mergePatch({ a: 1 }, {})).toEqual({ a: null });
    expect(mergePatch({}, { a: { b: 1 } })).toEqual({ a: { b: 1 } });
  });
});

describe("the form of a cluster", () => {
  it("asks for no more than was filled in", () => {
    const form = { ...emptyClusterForm(), name: " shop ", servers: [serverRow({ id: "cont_a" }), serverRow(), serverRow({ id: "cont_b", port: 80 })] };
    expect(bodyOf(form)).toEqual({
      body: { name: "shop", type: "load-balanced", servers: ["cont_a", { id: "cont_b", port: 80 }] },
      problems: {},
    });
  });

  it("says what is missing at the field", () => {
    expect(Object.keys(bodyOf(emptyClusterForm()).problems)).toEqual(["name", "servers[0]"]);
    const ports = (id: string) => ({ cont_one: [80], cont_two: [80, 443], cont_none: [] })[id];
    const rows = ["cont_one", "cont_two", "cont_none", "cont_one"].map((id) => serverRow({ id }));
    expect(bodyOf({ ...emptyClusterForm(), name: "x", servers: rows }, ports).problems).toEqual({
      "servers[1].port": "Say which port: 80, 443",
      "servers[2].port": "Say which port",
      "servers[3]": "It is named twice",
    });
    const scaling = { ...emptyClusterForm(), name: "x", servers: [serverRow({ id: "a" })], scaling: true, min: "5", max: "2" };
    expect(Object.keys(bodyOf(scaling).problems)).toEqual(["autoScaling.minServers", "autoScaling.targetCpuPercent"]);
    const own = bodyOf({ ...scaling, min: "", cpu: "70", template: "own" });
    expect(Object.keys(own.problems)).toEqual(["serverTemplate.container.name", "serverTemplate.container.image"]);
    const tls = bodyOf({ ...emptyClusterForm(), name: "x", servers: [serverRow({ id: "a" })], tls: "upload", certificate: "no PEM" });
    expect(Object.keys(tls.problems)).toEqual(["tls.certificate", "tls.key"]);
    const slow = { ...emptyClusterForm(), name: "x", servers: [serverRow({ id: "a" })] };
    expect(Object.keys(bodyOf({ ...slow, check: { ...slow.check, timeout: "40" } }).problems)).toEqual(["loadBalancer.healthCheckTimeout"]);
  });

  it("leaves out what does not belong to the type or protocol", () => {
    const full = {
      ...emptyClusterForm(),
      name: "x",
      servers: [serverRow({ id: "a", weight: 2, backup: true })],
      algorithm: "weighted" as const,
      sticky: true,
      scaling: true,
      cpu: "70",
      tls: "selfSigned" as const,
    };
    const standby = bodyOf({ ...full, type: "high-availability", failback: "manual" }).body;
    expect(standby).toEqual({ name: "x", type: "high-availability", servers: ["a"], tls: { selfSigned: true }, failback: { mode: "manual" } });
    const tcp = bodyOf({ ...full, protocol: "tcp" }).body;
    expect(tcp.tls).toBeUndefined();
    expect(tcp.sticky).toBeUndefined();
    expect(tcp.servers).toEqual([{ id: "a", weight: 2, backup: true }]);
  });

  it("changes nothing where nothing was changed", () => {
    const scaled = member("cont_c", { scaled: true });
    const template = { container: { name: "web", image: "nginx", environment: { APP_SECRET: "********" } } };
    for (const c of [
      cluster(),
      cluster({ servers: ["web-1", "cont_b", "cont_c"], members: [...cluster().members, scaled] }),
      cluster({ type: "high-availability", failback: { mode: "automatic", after: 30 }, activeMember: "cont_a" }),
      cluster({ tls: { selfSigned: false, serverNames: ["a.example.com"], certificate: "-----BEGIN" }, redirectToHttps: {} }),
      cluster({ autoScaling: { enabled: false, minServers: 2 }, serverTemplate: template }),
      cluster({ autoScaling: { enabled: true, targetCpuPercent: 70 }, serverTemplate: template }),
      cluster({ protocol: "tcp", healthCheck: { type: "tcp", interval: 30, rise: 1, fall: 2 } }),
    ]) {
      expect(edited(c, {})).toEqual({ body: {}, problems: {} });
    }
  });

  it("sends what was changed alone", () => {
    expect(edited(cluster(), { name: "shop-2" }).body).toEqual({ name: "shop-2" });
    expect(edited(cluster(), { retries: "" }).body).toEqual({ retries: null });
    expect(edited(cluster(), { algorithm: "round-robin" }).body).toEqual({ loadBalancer: { algorithm: null } });
    const rows = clusterForm(cluster()).servers;
    expect(edited(cluster(), { servers: [...rows, serverRow({ id: "cont_c" })] }).body).toEqual({
      servers: [{ id: "web-1", port: 80 }, { id: "cont_b", weight: 3 }, "cont_c"],
    });
    const check = clusterForm(cluster()).check;
    expect(edited(cluster(), { check: { ...check, interval: "5" } }).body).toEqual({
      loadBalancer: { healthCheckInterval: 10 },
      healthCheck: { interval: 5 },
    });
    expect(edited(cluster(), { check: { ...check, type: "tcp" } }).body).toEqual({
      healthCheck: { type: "tcp", path: null, expectedStatus: null },
    });
  });

  it("keeps how scaling was set when it is switched off, and covered secrets as they are", () => {
    const container = { name: "web", image: "nginx", environment: { APP_SECRET: "********" } };
    const on = cluster({ autoScaling: { enabled: true, targetCpuPercent: 70 }, serverTemplate: { container } });
    expect(edited(on, { scaling: false }).body).toEqual({ autoScaling: { enabled: false } });
    expect(edited(on, { max: "20" }).body).toEqual({ autoScaling: { maxServers: 20 } });
    const off = cluster({ autoScaling: { enabled: false, targetCpuPercent: 70 }, serverTemplate: { container } });
    expect(edited(off, { scaling: true }).body).toEqual({ autoScaling: { enabled: true, targetCpuPercent: 70 } });
    const form = clusterForm(on);
    expect(patchOf(on, { ...form, container: { ...form.container, image: "nginx:2" } }).body).toEqual({
      serverTemplate: { container: { image: "nginx:2" } },
    });
  });

  it("takes away what belonged to the other way of coming by a certificate", () => {
    const own = cluster({ tls: { selfSigned: false, serverNames: ["a.example.com"], certificate: "-----BEGIN" } });
    expect(edited(own, { tls: "selfSigned" }).body).toEqual({ tls: { certificate: null, key: null, selfSigned: true } });
    const made = cluster({ tls: { selfSigned: true, serverNames: [], certificate: "" } });
    const pem = (what: string) => `-----BEGIN ${what}-----\nAAAA\n-----END ${what}-----`;
    const upload = edited(made, { tls: "upload", certificate: pem("CERTIFICATE"), privateKey: pem("PRIVATE KEY") });
    expect(upload).toEqual({
      body: { tls: { selfSigned: null, certificate: `${pem("CERTIFICATE")}\n`, key: `${pem("PRIVATE KEY")}\n` } },
      problems: {},
    });
    expect(edited(made, { tls: "none" }).body).toEqual({ tls: null });
    const acme = { termsOfServiceAgreed: true, email: "ops@example.com" };
    const named = { tls: "acme" as const, serverNames: "a.example.com", acmeEmail: "ops@example.com" };
    expect(edited(made, { ...named, acmeAgreed: true }).body).toEqual({ tls: { selfSigned: null, acme, serverNames: ["a.example.com"] } });
    expect(Object.keys(edited(made, { ...named, serverNames: "" }).problems)).toEqual(["tls.acme.termsOfServiceAgreed", "tls.serverNames"]);
    const view = { status: "failing" as const, directory: "https://ca.example.com/directory", lastError: "no answer" };
    const ordered = cluster({ tls: { selfSigned: true, serverNames: ["a.example.com"], certificate: "", acme: view } });
    expect(clusterForm(ordered).tls).toBe("acme");
    expect(edited(ordered, {}).body).toEqual({});
    expect(edited(ordered, { tls: "selfSigned" }).body).toEqual({ tls: { acme: null, selfSigned: true } });
    expect(edited(cluster(), { tls: "selfSigned" }).body).toEqual({ tls: { selfSigned: true } });
  });

  it("shows what the server refused at the rows it came from", () => {
    const form = { ...emptyClusterForm(), servers: [serverRow(), serverRow({ id: "a" }), serverRow({ id: "b" })] };
    expect(
      placeClusterProblems(form, {
        "servers[1].port": "no such port",
        listenPort: "taken",
        "serverTemplate.container.image": "none",
        "tls.serverNames[0]": "bad",
      }),
    ).toEqual({
      "servers[2].port": "no such port",
      listenPort: "taken",
      "serverTemplate.container.image": "none",
      "tls.serverNames": "bad",
    });
  });
});

describe("clusters in words", () => {
  it("say why they are as they are", () => {
    expect(statusReason(cluster())).toBe("every server is up");
    const down = member("cont_a", { state: "down", reason: "connection refused" });
    expect(statusReason(cluster({ status: "degraded", members: [down, member("cont_b")] }))).toBe("a is down: connection refused");
    const conditions = [{ type: "noEntry" as const, message: "join a node" }, { type: "certificate" as const, message: "it ends" }];
    expect(statusReason(cluster({ conditions }))).toBe("join a node (and 1 more)");
    expect(upOf([member("cont_a"), down, member("cont_c", { scaled: true, state: "starting" })])).toEqual([1, 2]);
  });

  it("tell a drained server from one that serves", () => {
    const balanced = { type: "load-balanced" as const };
    expect(memberWord(member("cont_a"), balanced)).toBe("up");
    expect(memberWord(member("cont_a", { weight: 0 }), balanced)).toBe("drained");
    expect(memberWord(member("cont_a", { weight: 0, inFlight: 2 }), balanced)).toBe("draining");
    expect(memberWord(member("cont_a", { state: "ejected" }), balanced)).toBe("ejected");
    const standby = { type: "high-availability" as const, activeMember: "cont_a" };
    expect(memberWord(member("cont_a"), standby)).toBe("active");
    expect(memberWord(member("cont_b"), standby)).toBe("standby");
  });

  it("leave the minute that goes on out of charts", () => {
    const point = (minute: number, seconds: number) => ({
      ...FIGURES,
      from: new Date(minute * 60_000).toISOString(),
      to: new Date(minute * 60_000 + seconds * 1000).toISOString(),
      requestsPerSecond: 1,
      members: [],
    });
    const whole = [point(0, 60), point(1, 60), point(2, 60)];
    expect(settledPoints([...whole, point(3, 10)])).toEqual(whole);
    expect(settledPoints([...whole, point(3, 60)])).toHaveLength(4);
    expect(settledPoints([point(0, 10)])).toHaveLength(1);
  });

  it("give figures that mean something", () => {
    expect([0, 0.04, 0.44, 4, 42.4, 3480.2].map(count)).toEqual(["0", "<0.1", "0.4", "4", "42", "3,480"]);
    expect(perSecond(12)).toBe("12/s");
    expect([0, 0.42, 4.26, 42.4, 1800, 18_000].map(millis)).toEqual(["0 ms", "0.42 ms", "4.3 ms", "42 ms", "1,800 ms", "18.0 s"]);
    expect([0, 0.001, 0.5, 12.34].map(failed)).toEqual(["0%", "<0.01%", "0.5%", "12.3%"]);
    expect(decisionText({ figures: [{ figure: "cpu", target: 70, value: 82.4 }, { figure: "memory", target: 80, value: null }] })).toBe(
      "CPU 82%, target 70% · Memory not known",
    );
  });
});
