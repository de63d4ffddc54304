import { describe, expect, it } from "vitest";
import type { Cluster, ClusterMember, Database, DatabaseMember } from "../../api/types";
import { pairRow } from "../containers/form";
import { databaseForm, databaseOf, emptyDatabase } from "./database-form";
import { databaseReason, heirsOf, isBehind, lagText, memberSays, memberWhy, seconds, serves, servingOf, worstLag } from "./database-words";
import { bodyOf, clusterForm, emptyClusterForm, patchOf, placeClusterProblems, serverRow, withType } from "./form";
import { becomes, memberReason, statusReason, upIn } from "./words";

const FIGURES = { totalRequests: 0, averageResponseTime: 0, errorRate: 0, totalBandwidth: 0, p50: 0, p95: 0, p99: 0 };
const entry = (name: string, more: Partial<ClusterMember> = {}): ClusterMember => ({
  id: `node_${name}`,
  name,
  kind: "node",
  port: 30002,
  weight: 1,
  backup: false,
  state: "up",
  reason: "",
  inFlight: 0,
  scaled: false,
  metrics: FIGURES,
  ...more,
});
const member = (name: string, more: Partial<DatabaseMember> = {}): DatabaseMember => ({
  server: `node_${name}`,
  name,
  containerId: `cont_${name}`,
  role: "replica",
  state: "streaming",
  timeline: 1,
  lagBytes: 0,
  lagSeconds: 0,
  pendingRestart: false,
  etcd: true,
  ...more,
});
const database = (more: Partial<Database> = {}): Database => ({
  state: "ready",
  version: 15,
  name: "orders",
  synchronous: true,
  parameters: { max_connections: "200" },
  extensions: ["pg_trgm"],
  readLagLimit: 30,
  highlyAvailable: true,
  readWritePort: 30000,
  readOnlyPort: 30001,
  primary: "node_a",
  members: [member("a", { role: "primary", state: "running" }), member("b", { role: "sync-standby" }), member("c")],
  slots: [],
  ...more,
});
const cluster = (d: Database = database(), more: Partial<Cluster> = {}): Cluster => ({
  id: "cluster_1",
  name: "orders",
  type: "database",
  status: "healthy",
  servers: ["a", "node_b", "node_c"],
  metrics: FIGURES,
  endpoint: "tcp://10.0.0.1:30000",
  endpoints: ["tcp://10.0.0.1:30000"],
  protocol: "tcp",
  listenPort: 30000,
  members: [entry("a"), entry("b"), entry("c")],
  entryNodes: [{ nodeId: "node_a", name: "a", connected: true, current: true }],
  conditions: [],
  loadBalancer: { algorithm: "round-robin", healthCheckInterval: 30, healthCheckTimeout: 5 },
  healthCheck: { type: "tcp", interval: 30, rise: 1, fall: 2 },
  retries: 2,
  slowStart: 0,
  drainTime: 30,
  database: d,
  created: "2026-11-27T00:00:00.000Z",
  updated: "2026-11-27T00:00:00.000Z",
  generation: 1,
  ...more,
});
const asked = { listenPort: undefined, editing: false };
const form = (more: Partial<ReturnType<typeof emptyDatabase>> = {}) => ({ ...emptyDatabase(), ...more });
const edited = (change: Partial<ReturnType<typeof emptyDatabase>>, d = database()) => {
  const before = clusterForm(cluster(d));
  return patchOf(cluster(d), { ...before, database: { ...before.database, ...change } });
};

describe("the form of a database", () => {
  it("asks for nothing that is left to its default", () => {
    expect(databaseOf(form(), asked)).toEqual({ problems: {} });
    const named = { ...emptyClusterForm(), name: "orders", type: "database" as const, servers: [serverRow({ id: "node_a" }), serverRow()] };
    expect(bodyOf(named)).toEqual({ body: { name: "orders", type: "database", servers: ["node_a"] }, problems: {} });
  });

  it("asks for what was filled in", () => {
    const { spec, problems } = databaseOf(
      form({
        name: " orders ",
        synchronous: false,
        readLagLimit: "10",
        readOnlyPort: "30010",
        pool: true,
        poolMode: "session",
        poolSize: "50",
        parameters: [pairRow("shared_buffers", "1GB"), pairRow(), pairRow("pg_stat_statements.max", "5000")],
        extensions: "pg_trgm, citext  uuid-ossp",
        cpuLimit: "2",
        memoryLimit: "4g",
        version: "16",
        image: "registry.example.com/postgres-ha:16",
      }),
      asked,
    );
    expect(problems).toEqual({});
    expect(spec).toEqual({
      name: "orders",
      version: 16,
      image: "registry.example.com/postgres-ha:16",
      synchronous: false,
      readLagLimit: 10,
      readOnlyPort: 30010,
      pool: { mode: "session", size: 50 },
      parameters: { shared_buffers: "1GB", "pg_stat_statements.max": "5000" },
      extensions: ["pg_trgm", "citext", "uuid-ossp"],
      cpuLimit: 2,
      memoryLimit: "4g",
    });
    expect(databaseOf(form({ pool: true }), asked).spec).toEqual({ pool: {} });
  });

  it.each([
    ["a name of PostgreSQL's own", { name: "postgres" }, "name"],
    ["a name that begins as PostgreSQL's own do", { name: "pg_orders" }, "name"],
    ["a name with a capital", { name: "Orders" }, "name"],
    ["another version without an image", { version: "16" }, "version"],
    ["reads that may not be old at all", { readLagLimit: "1" }, "readLagLimit"],
    ["the port for writes", { readOnlyPort: "5432" }, "readOnlyPort"],
    ["a pool of none", { pool: true, poolSize: "0" }, "pool.size"],
    ["a parameter without a name", { parameters: [pairRow("", "1")] }, "parameters[0]"],
    ["a parameter without a value", { parameters: [pairRow("work_mem", "")] }, "parameters[0].value"],
    ["a parameter of two dots", { parameters: [pairRow("a", "1"), pairRow("a.b.c", "1")] }, "parameters[1]"],
    ["a parameter twice", { parameters: [pairRow("work_mem", "1MB"), pairRow("work_mem", "2MB")] }, "parameters[1]"],
    ["an extension with a capital", { extensions: "pg_trgm PostGIS" }, "extensions"],
    ["an extension twice", { extensions: "citext citext" }, "extensions"],
    ["a part of a core too small", { cpuLimit: "0.01" }, "cpuLimit"],
    ["memory without a unit", { memoryLimit: "512" }, "memoryLimit"],
  ])("tells of %s at its field", (_, change, field) => {
    expect(Object.keys(databaseOf(form(change), { listenPort: 5432, editing: false }).problems)).toEqual([`database.${field}`]);
  });

  it("leaves out what a database refuses, whatever was filled in before", () => {
    const full = {
      ...emptyClusterForm(),
      name: "orders",
      type: "database" as const,
      servers: [serverRow({ id: "node_a", port: 80, backup: true })],
      algorithm: "least-connections" as const,
      protocol: "http" as const,
      sticky: true,
      tls: "selfSigned" as const,
      redirect: true,
      routes: [{ key: 1, host: "a.example.com", pathPrefix: "/" }],
      check: { type: "http" as const, path: "/", host: "", min: "", max: "", interval: "5", timeout: "2", rise: "1", fall: "2" },
      scaling: true,
      cpu: "70",
      template: "own" as const,
      failback: "manual" as const,
      slowStart: "10",
      drainTime: "5",
      retries: "1",
      listenPort: "5432",
      entryNodes: ["node_a"],
    };
    expect(bodyOf(full)).toEqual({
      body: {
        name: "orders",
        type: "database",
        servers: ["node_a"],
        listenPort: 5432,
        entryNodes: ["node_a"],
        loadBalancer: { algorithm: "least-connections" },
      },
      problems: {},
    });
    expect(bodyOf({ ...emptyClusterForm(), name: "orders", type: "database" }).problems).toEqual({ "servers[0]": "Choose a node" });
  });

  it("keeps only nodes where it becomes one of a database", () => {
    const before = { ...emptyClusterForm(), servers: [serverRow({ id: "cont_a", port: 80 }), serverRow({ id: "node_a", port: 80, weight: 2 })] };
    const isNode = (id: string) => id.startsWith("node_");
    const after = withType(before, "database", isNode);
    expect([after.type, after.servers.map((s) => [s.id, s.port, s.weight])]).toEqual(["database", [["node_a", "", ""], ["", "", ""], ["", "", ""]]]);
    expect(withType(after, "database", isNode)).toEqual(after);
    expect(withType(before, "high-availability", isNode).servers).toBe(before.servers);
  });

  it("changes nothing where nothing was changed", () => {
    for (const d of [
      database(),
      database({ pool: { mode: "session", size: 20 }, synchronous: false, parameters: {}, extensions: [] }),
      database({ version: 16 }),
    ]) {
      expect(edited({}, d)).toEqual({ body: {}, problems: {} });
    }
  });

  it("sends what was changed alone", () => {
    expect(edited({ synchronous: false }).body).toEqual({ database: { synchronous: false } });
    expect(edited({ synchronous: true }, database({ synchronous: false })).body).toEqual({ database: { synchronous: null } });
    expect(edited({ readLagLimit: "" }).body).toEqual({ database: { readLagLimit: null } });
    expect(edited({ parameters: [pairRow("work_mem", "8MB")] }).body).toEqual({ database: { parameters: { max_connections: null, work_mem: "8MB" } } });
    expect(edited({ extensions: "pg_trgm citext" }).body).toEqual({ database: { extensions: ["pg_trgm", "citext"] } });
    expect(edited({ pool: true }).body).toEqual({ database: { pool: {} } });
    const pooled = database({ pool: { mode: "transaction", size: 20 } });
    expect(edited({ pool: false }, pooled).body).toEqual({ database: { pool: null } });
    expect(edited({ poolMode: "session" }, pooled).body).toEqual({ database: { pool: { mode: "session" } } });
    expect(edited({ memoryLimit: "2g" }).body).toEqual({ database: { memoryLimit: "2g" } });
    const rows = clusterForm(cluster()).servers;
    // Members' ports were given to them: they are not sent as if they had been named.
    expect(patchOf(cluster(), { ...clusterForm(cluster()), servers: [...rows, serverRow({ id: "node_d" })] }).body).toEqual({
      servers: ["a", "node_b", "node_c", "node_d"],
    });
  });

  it("reads back what is there", () => {
    expect(databaseForm(database({ pool: { mode: "session", size: 7 } }))).toMatchObject({
      name: "orders",
      version: "15",
      pool: true,
      poolMode: "session",
      poolSize: "7",
      extensions: "pg_trgm",
      readLagLimit: "30",
      cpuLimit: "",
    });
  });

  it("shows what the server refused where it belongs", () => {
    const at = { ...emptyClusterForm(), type: "database" as const, database: form({ parameters: [pairRow(), pairRow("ssl", "on")] }) };
    expect(
      placeClusterProblems(at, {
        "database.parameters.ssl": "the cluster sets it",
        "database.parameters.gone": "no such row",
        "database.extensions[1]": "twice",
        "database.readOnlyPort": "taken",
        "database.pool.size": "too many",
      }),
    ).toEqual({
      "database.parameters[1]": "the cluster sets it",
      "database.parameters": "no such row",
      "database.extensions": "twice",
      "database.readOnlyPort": "taken",
      "database.pool.size": "too many",
    });
  });

  it("never makes one of something else, nor something else of it", () => {
    expect(becomes("database")).toEqual(["database"]);
    expect(becomes("load-balanced")).not.toContain("database");
  });
});

describe("a database in words", () => {
  it("says what each member is, or what is the matter with it", () => {
    const says = (more: Partial<DatabaseMember>) => memberSays(member("a", more), "ready");
    expect(says({ role: "primary", state: "running" })).toEqual(["tone-green", "primary"]);
    expect(says({ role: "sync-standby" })).toEqual(["tone-green hollow", "synchronous standby"]);
    expect(says({})).toEqual(["tone-green hollow", "replica"]);
    // A primary that no longer has the lease says `streaming` of itself.
    expect(serves(member("a", { role: "primary", state: "streaming" }))).toBe(false);
    expect(says({ state: "starting" })).toEqual(["tone-blue busy", "starting"]);
    expect(says({ state: "creating replica" })).toEqual(["tone-blue busy", "creating replica"]);
    expect(says({ state: "start failed" })).toEqual(["tone-red", "start failed"]);
    expect(says({ state: "stopped" })).toEqual(["tone-red", "stopped"]);
    expect(memberSays(member("a", { state: "stopped" }), "creating")).toEqual(["tone-blue busy", "waiting"]);
    const made = { role: undefined, state: "creating" };
    expect(says({ ...made, message: "its container is being made" })).toEqual(["tone-blue busy", "being made"]);
    expect(says({ ...made, message: "the image is not there" })).toEqual(["tone-red", "not made"]);
    expect(says({ role: undefined, state: "unknown" })).toEqual(["tone-red hollow", "unknown"]);
    expect(memberSays(member("a", { state: "unknown" }), "creating")).toEqual(["tone-grey hollow", "unknown"]);
    expect(says({ role: undefined, state: "leaving" })).toEqual(["tone-amber busy", "leaving"]);
  });

  it("counts members that serve, whatever the entry for writes says of replicas", () => {
    const down = cluster(database(), { members: [entry("a"), entry("b", { state: "down", reason: "503" }), entry("c", { state: "down" })] });
    expect(upIn(down)).toEqual([3, 3]);
    expect(memberReason(down.members[1] as ClusterMember, down)).toBe("");
    const leaving = database({ members: [...database().members, member("d", { role: undefined, state: "leaving" })] });
    expect(servingOf(leaving)).toEqual([3, 3]);
    const late = database({ members: [member("a", { role: "primary", state: "running" }), member("b", { lagSeconds: 31 })] });
    expect(isBehind(late.members[1] as DatabaseMember, late)).toBe(true);
    expect(memberReason(entry("b", { state: "down" }), cluster(late))).toBe("more than 30 s behind: it gets no reads");
  });

  it("says why a cluster is as it is", () => {
    expect(statusReason(cluster())).toBe("a takes the writes, 2 of 2 replicas follow it");
    const alone = database({ members: [member("a", { role: "primary", state: "running" })], highlyAvailable: false });
    const fragile = { type: "notHighlyAvailable" as const, message: "fewer than three nodes" };
    expect(databaseReason(cluster(alone, { conditions: [fragile] }), alone)).toBe("a takes the writes; not highly available");
    const away = member("c", { role: undefined, state: "unknown" });
    const two = database({ members: [...database().members.slice(0, 2), away] });
    const offline = { type: "entryOffline" as const, message: "entry node c is not connected" };
    expect(statusReason(cluster(two, { conditions: [offline] }))).toBe("a takes the writes, 1 of 2 replicas follow it");
    expect(memberWhy(away, two)).toBe("nothing is heard of it: its node or its container is away");
    expect(memberWhy(member("b", { pendingRestart: true }), two)).toBe("a parameter waits for a restart, which comes by itself");
    const failing = database({ state: "failing", message: "no member takes writes now" });
    delete failing.primary;
    expect(statusReason(cluster(failing))).toBe("no member takes writes now");
    const behind = { type: "entryBehind" as const, message: "it takes its time" };
    expect(statusReason(cluster(database(), { conditions: [behind, fragile] }))).toBe("it takes its time");
  });

  it("offers those that could take over, those that lose nothing first", () => {
    const d = database({
      members: [
        member("a", { role: "primary", state: "running" }),
        member("c", { lagBytes: 900 }),
        member("d", { lagBytes: 10 }),
        member("b", { role: "sync-standby" }),
        member("e", { state: "starting" }),
        member("f", { role: undefined, state: "leaving" }),
      ],
    });
    expect(heirsOf(d).map((m) => m.name)).toEqual(["b", "d", "c"]);
    expect(heirsOf(database({ members: [member("a", { role: "primary", state: "running" })] }))).toEqual([]);
  });

  it("gives lags that mean something", () => {
    expect([0, 0.01, 0.44, 4, 42.4].map(seconds)).toEqual(["0 s", "<0.1 s", "0.4 s", "4 s", "42 s"]);
    expect(lagText(member("b", { lagBytes: 2048, lagSeconds: 1.5 }))).toBe("2 KiB, 1.5 s");
    expect(lagText(member("a", { role: "primary" }))).toBe("");
    const d = database({ members: [member("a", { role: "primary" }), member("b", { lagSeconds: 1 }), member("c", { lagSeconds: 3 })] });
    expect(worstLag(d)?.name).toBe("c");
    const order = d.members.map((m) => m.name);
    worstLag(d);
    expect(d.members.map((m) => m.name)).toEqual(order);
  });
});
