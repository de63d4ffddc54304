import { afterEach, describe, expect, it, vi } from "vitest";
import type { Backup, BackupConfig } from "../../api/types";
import { serverRow } from "../clusters/form";
import { destinationForm, emptyDestination } from "./destination";
import { backupForm, type BackupForm, emptyBackupForm, kindOf, patchOf, specOf, withServer } from "./form";
import { backupFor, barOf, emptyRecover, momentOf, placeRecoverProblems, reachOf, type RecoverForm, recoverOf, typed, withZone } from "./recover-form";
import { recoveryKit } from "./words";

// Backups of database clusters, and clusters that are made of them at a moment.

const at = (time: string) => `2026-11-28T${time}Z`;
const WINDOWS = [
  { from: at("01:00:00.000"), to: at("02:00:00.000") },
  { from: at("05:00:00.000"), to: at("06:30:00.250") },
];
const backup = (id: string, made: string, recoverableFrom?: string): Backup => ({
  id,
  configId: "backup_cfg_1",
  name: "Orders",
  serverId: "cluster_1",
  status: "completed",
  type: "full",
  timestamp: at(made),
  ...(recoverableFrom ? { recoverableFrom: at(recoverableFrom) } : {}),
  location: "s3:https://s3.example.com/bucket/backup_cfg_1",
  encryption: true,
  compression: true,
  pinned: false,
  problemCount: 0,
});
const BACKUPS = [
  backup("second", "05:58:00.000", "06:00:00.000"),
  backup("alone", "03:00:00.000"),
  backup("old", "00:58:00.000", "01:00:00.000"),
  backup("first", "04:58:00.000", "05:00:00.000"),
];
const config = (more: Partial<BackupConfig> = {}): BackupConfig => ({
  id: "backup_cfg_1",
  name: "Orders",
  serverId: "cluster_1",
  serverKind: "cluster",
  timeZone: "UTC",
  jitter: 0,
  retention: 30,
  keep: {},
  type: "incremental",
  destination: "node:db-1:/backups",
  hasCredentials: false,
  encryption: true,
  compression: true,
  paths: [],
  volumes: [],
  excludes: [],
  oneFileSystem: false,
  consistency: "auto",
  appendOnly: false,
  check: {},
  status: "active",
  recovery: { walInterval: 60, windows: WINDOWS },
  created: at("00:00:00.000"),
  updated: at("00:00:00.000"),
  ...more,
});

describe("the form of a database's config", () => {
  const filled = (more: Partial<BackupForm> = {}): BackupForm => ({
    ...emptyBackupForm("cluster_1"),
    name: "Orders",
    destination: { ...emptyDestination(), kind: "node", node: "db-1", path: "/backups" },
    ...more,
  });
  it("knows what is backed up by its id", () => {
    expect(["", "node_1", "cont_1", "cluster_1"].map(kindOf)).toEqual([undefined, "node", "container", "cluster"]);
  });
  it("sends nothing that a database refuses, whatever was filled in before", () => {
    const before = { paths: "/etc", volumes: "data", excludes: "*.log", oneFileSystem: true, consistency: "stop" as const, ownDump: true, dumpCommand: "pg_dump" };
    expect(specOf(filled({ ...before, walInterval: " 60 " }))).toEqual({
      body: {
        serverId: "cluster_1",
        name: "Orders",
        type: "incremental",
        destination: "node:db-1:/backups",
        schedule: "0 2 * * *",
        retention: 30,
        walInterval: 60,
      },
      problems: {},
    });
    expect(specOf(filled({ serverId: "node_1", walInterval: "60" })).body).not.toHaveProperty("walInterval");
  });
  it("is for a destination that all its nodes reach", () => {
    expect(emptyBackupForm("cluster_1").destination.kind).toBe("node");
    expect(emptyBackupForm("node_1").destination.kind).toBe("path");
    const s3 = destinationForm("s3:https://s3.example.com/bucket");
    expect(withServer(filled({ destination: s3 }), "cluster_2").destination).toEqual(s3);
    expect(withServer(filled({ destination: { ...emptyDestination(), path: "/b" } }), "cluster_2").destination).toMatchObject({ kind: "node", path: "/b" });
    expect(specOf(filled({ destination: { ...emptyDestination(), path: "/b" } })).problems).toHaveProperty(["destination.path"]);
  });
  it("has bounds for how often the log is shipped", () => {
    for (const [typedIn, wrong] of [["14", true], ["15", false], ["86400", false], ["86401", true], ["1.5", true], ["", false]] as const) {
      expect("walInterval" in specOf(filled({ walInterval: typedIn })).problems, typedIn).toBe(wrong);
    }
  });
  it("of one that is there changes nothing of itself, and only what was changed", () => {
    const edited = (change: Partial<BackupForm>) => patchOf(config(), { ...backupForm(config()), ...change });
    expect(edited({})).toEqual({ body: {}, problems: {} });
    expect(edited({ walInterval: "15" }).body).toEqual({ walInterval: 15 });
    expect(edited({ walInterval: "" }).body).toEqual({ walInterval: null });
  });
});

describe("a moment", () => {
  afterEach(() => vi.unstubAllEnvs());
  it("is read as it was typed, to the millisecond, in the zone that was chosen", () => {
    const utc = (text: string) => momentOf({ at: text, zone: "utc" });
    expect(utc("2026-11-28T01:02")).toBe(at("01:02:00.000"));
    expect(utc("2026-11-28T01:02:03")).toBe(at("01:02:03.000"));
    expect(utc("2026-11-28T01:02:03.4")).toBe(at("01:02:03.400"));
    expect(utc("2026-11-28T01:02:03.456")).toBe(at("01:02:03.456"));
    for (const none of ["", "2026-11-28", "2026-13-28T01:02", "now"]) expect(utc(none)).toBeUndefined();
  });
  it("is written as short as the browser's field has it", () => {
    for (const [time, text] of [
      ["16:00:00.000", "16:00"],
      ["16:10:30.000", "16:10:30"],
      ["16:00:00.020", "16:00:00.02"],
      ["10:20:10.250", "10:20:10.25"],
    ] as const) {
      expect(typed(at(time), "utc")).toBe(`2026-11-28T${text}`);
    }
  });
  it("stays the same where it is written in another zone", () => {
    const moment = at("01:02:03.456");
    for (const zone of ["local", "utc"] as const) expect(momentOf({ at: typed(moment, zone), zone })).toBe(moment);
    const form = { ...emptyRecover(WINDOWS), at: typed(moment, "local") };
    expect(withZone(form, "utc")).toMatchObject({ zone: "utc", at: "2026-11-28T01:02:03.456" });
    expect(momentOf(withZone(withZone(form, "utc"), "local"))).toBe(moment);
    expect(withZone({ ...form, at: "" }, "utc").at).toBe("");
  });
  it("of an hour that comes twice is told in UTC", () => {
    vi.stubEnv("TZ", "Europe/Berlin");
    const [first, second] = ["2026-10-25T00:30:00.000Z", "2026-10-25T01:30:00.000Z"];
    expect([typed(first, "local"), typed(second, "local")]).toEqual(["2026-10-25T02:30", "2026-10-25T02:30"]);
    const opened = (to: string) => emptyRecover([{ from: at("00:00:00.000"), to }]);
    expect([opened(first), opened(second)].map((f) => [f.zone, momentOf(f)])).toEqual([
      ["local", first],
      ["utc", second],
    ]);
    expect(withZone(opened(second), "local").zone).toBe("utc");
  });
  it("begins with the newest that is kept", () => {
    expect(momentOf(emptyRecover(WINDOWS))).toBe(WINDOWS[1]?.to);
    expect(emptyRecover([]).at).toBe("");
  });
});

describe("a backup", () => {
  it("reaches to the end of its window", () => {
    const reach = (from: string | undefined, windows = WINDOWS) => reachOf({ recoverableFrom: from && at(from) }, { windows });
    expect(reach("06:00:00.000")).toEqual({ from: at("06:00:00.000"), to: WINDOWS[1]?.to });
    expect(reach("01:00:00.000")).toEqual(WINDOWS[0]);
    expect(reach(undefined)).toBeUndefined();
    // Its window is gone.
    expect(reach("03:00:00.000")).toBeUndefined();
    expect(reachOf({ recoverableFrom: at("06:00:00.000") }, undefined)).toBeUndefined();
  });
  it("is the newest from which a moment can be reached", () => {
    const of = (time?: string) => backupFor(BACKUPS, WINDOWS, time && at(time))?.id;
    expect(of()).toBe("second");
    expect(of("06:30:00.250")).toBe("second");
    expect(of("06:00:00.000")).toBe("second");
    expect(of("05:59:59.999")).toBe("first");
    expect(of("01:30:00.000")).toBe("old");
    // Between the windows there is nothing, although an older backup is there.
    expect(of("03:00:00.000")).toBeUndefined();
    // Nor does one of another window help.
    expect(backupFor(BACKUPS.filter((b) => b.id !== "first"), WINDOWS, at("05:30:00.000"))).toBeUndefined();
    expect(backupFor([], WINDOWS, undefined)).toBeUndefined();
  });
});

describe("the form of a database that is restored", () => {
  const filled = (more: Partial<RecoverForm> = {}): RecoverForm => {
    const empty = emptyRecover(WINDOWS);
    return { ...empty, zone: "utc", cluster: { ...empty.cluster, name: " orders-2 ", servers: ["node_a", "node_b"].map((id) => serverRow({ id })) }, ...more };
  };
  const asked = (form: RecoverForm, windows = WINDOWS) => recoverOf(form, BACKUPS, windows);
  it("asks for a new cluster, of the newest there is or of a moment", () => {
    const cluster = { name: "orders-2", type: "database", servers: ["node_a", "node_b"] };
    const newest = asked(filled());
    expect([newest.body, newest.backup?.id, newest.problems]).toEqual([{ cluster }, "second", {}]);
    const moment = asked(filled({ when: "moment", at: "2026-11-28T05:30:00.123" }));
    expect([moment.body, moment.backup?.id, moment.problems]).toEqual([{ to: at("05:30:00.123"), cluster }, "first", {}]);
  });
  it("says what is missing at its field", () => {
    expect(Object.keys(asked({ ...emptyRecover(WINDOWS), when: "moment", at: "" }).problems).sort()).toEqual(["cluster.name", "cluster.servers[0]", "to"]);
  });
  it("holds the moment to its bounds, to the millisecond", () => {
    const wrong = (time: string, windows = WINDOWS) => asked(filled({ when: "moment", at: `2026-11-28T${time}` }), windows).problems.to;
    const [, last] = WINDOWS;
    expect(wrong("06:30:00.250")).toBeUndefined();
    expect(wrong("06:30:00.251")).toMatch(/^Nothing of this moment is kept/);
    expect(wrong("03:00:00.000")).toMatch(/^Nothing of this moment is kept/);
    expect(wrong("04:59:59.999", last && [last])).toMatch(/^From .*05:00:00.000.* UTC to .*06:30:00.250.* UTC$/);
    expect(recoverOf(filled({ when: "moment", at: "2026-11-28T05:30:00.000" }), [], WINDOWS).problems.to).toMatch(/^No backup/);
    expect(recoverOf(filled(), [], WINDOWS).problems.to).toMatch(/^There is no backup/);
  });
  it("has the server's problems at its own fields", () => {
    const form = filled();
    form.cluster.servers.unshift(serverRow());
    expect(placeRecoverProblems(form, { to: "not kept", "cluster.servers[1]": "is cordoned", "cluster.name": "is taken", cluster: "no" })).toEqual({
      to: "not kept",
      "cluster.servers[2]": "is cordoned",
      "cluster.name": "is taken",
      cluster: "no",
    });
    expect(placeRecoverProblems(form, { name: "is taken", "servers[0]": "is gone" })).toEqual({ "cluster.name": "is taken", "cluster.servers[1]": "is gone" });
  });
});

describe("the bar of what is kept", () => {
  it("goes from the first moment to the last, with its gaps", () => {
    const windows = [
      { from: at("00:00:00.000"), to: at("01:00:00.000") },
      { from: at("03:00:00.000"), to: at("04:00:00.000") },
    ];
    expect(barOf(windows)).toEqual([
      { left: 0, width: 25 },
      { left: 75, width: 25 },
    ]);
    expect(barOf([{ from: at("00:00:00.000"), to: at("00:00:00.000") }])).toEqual([{ left: 0, width: 100 }]);
    expect(barOf([])).toEqual([]);
  });
});

it("a database's recovery kit tells where its log is", () => {
  const key = { repository: "/b/backup_cfg_1", password: "p1" };
  expect(recoveryKit(config(), { ...key, logRepository: "/b/backup_cfg_1-log" }, "2026-11-28")).toMatch(/^Log repository +\/b\/backup_cfg_1-log/m);
  expect(recoveryKit(config(), key, "2026-11-28")).not.toMatch(/Log repository/);
});
