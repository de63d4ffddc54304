import { describe, expect, it } from "vitest";
import type { Backup, BackupConfig } from "../../api/types";
import { DESTINATIONS, destinationForm, destinationWords, emptyDestination, writeDestination } from "./destination";
import { backupForm, emptyBackupForm, patchOf, placeBackupProblems, presetOf, specOf } from "./form";
import { trail } from "./trail";
import { emptyRestore, isAnew, needsConfirming, restoreOf, volumeOf } from "./restore-form";
import { progressWords, proofWords, recoveryKit, replacedWords, restoredWords, retentionWords, scheduleWords, share, troubleOf } from "./words";

const config = (more: Partial<BackupConfig> = {}): BackupConfig => ({
  id: "backup_cfg_1",
  name: "Daily",
  serverId: "cont_1",
  serverKind: "container",
  schedule: "0 2 * * *",
  timeZone: "Europe/Berlin",
  jitter: 0,
  retention: 30,
  keep: { monthly: 12 },
  type: "incremental",
  destination: "s3:https://s3.example.com/bucket/shop",
  hasCredentials: true,
  encryption: true,
  compression: true,
  paths: [],
  volumes: ["data", "media"],
  excludes: ["*.log"],
  oneFileSystem: false,
  consistency: "dump",
  dump: { command: ["pg_dump", "-U", "app", "my db"], restore: ["psql"], file: "app.sql" },
  appendOnly: false,
  check: { schedule: "@weekly", parts: 4 },
  copy: { destination: "sftp://backup@off.example.com:2222/srv/copies", hasCredentials: true },
  status: "active",
  created: "2026-11-24T00:00:00.000Z",
  updated: "2026-11-24T00:00:00.000Z",
  ...more,
});
const backup = (more: Partial<Backup> = {}): Backup => ({
  id: "backup_1",
  configId: "backup_cfg_1",
  name: "Daily",
  serverId: "cont_1",
  status: "completed",
  type: "incremental",
  timestamp: "2026-11-24T02:00:00.000Z",
  location: "/backups/backup_1",
  encryption: true,
  compression: true,
  pinned: false,
  operationId: "op_1",
  problemCount: 0,
  ...more,
});
const filled = () => ({ ...emptyBackupForm("node_1"), name: " Daily ", destination: { ...emptyDestination(), path: "/backups" } });
const edited = (c: BackupConfig, change: Partial<ReturnType<typeof backupForm>>) => patchOf(c, { ...backupForm(c), ...change });

describe("a destination", () => {
  const written = (text: string) => {
    const problems: Record<string, string> = {};
    const { destination } = writeDestination(destinationForm(text), true, (field, says) => {
      if (says) problems[field] = says;
    });
    return { destination, problems };
  };
  it.each([
    "/backups/production",
    "node:db-1:/srv/backups",
    "s3:https://s3.example.com/bucket",
    "s3:http://minio:9000/bucket/a/b",
    "sftp:backup@off.example.com:/srv/backups",
    "sftp:off.example.com:/srv",
    "sftp://backup@off.example.com:2222/srv/backups",
    "rest:https://rest.example.com:8000/production/",
    "rest:https://rest.example.com",
  ])("is read and written the same: %s", (text) => expect(written(text)).toEqual({ destination: text, problems: {} }));
  it.each([
    ["/backups/../etc", "destination.path"],
    ["/", "destination.path"],
    ["node:db-1:backups", "destination.path"],
    ["s3:https://s3.example.com/BUCKET", "destination.bucket"],
    ["s3:https://s3.example.com/bucket/a//b", "destination.prefix"],
    ["sftp:Root@off.example.com:/srv", "destination.user"],
    ["sftp://off.example.com:99999/srv", "destination.port"],
    ["rest:https://name:secret@rest.example.com/", "destination.url"],
  ])("is refused at its field: %s", (text, field) => expect(Object.keys(written(text).problems)).toEqual([field]));
  it("asks for what opens it, unless that is there already", () => {
    const asks = (form: Partial<ReturnType<typeof emptyDestination>>, kept = false) => {
      const problems: string[] = [];
      const { credentials } = writeDestination({ ...emptyDestination(), ...form }, kept, (field, says) => says && problems.push(field));
      return { credentials, problems };
    };
    const s3 = { kind: "s3", endpoint: "https://s3.example.com", bucket: "bucket" } as const;
    expect(asks(s3).problems).toEqual(["credentials.accessKey", "credentials.secretKey"]);
    expect(asks(s3, true)).toEqual({ credentials: undefined, problems: [] });
    expect(asks({ ...s3, secretKey: "new" }, true)).toEqual({ credentials: { secretKey: "new" }, problems: [] });
    expect(asks({ ...s3, secretKey: "new" }).problems).toEqual(["credentials.accessKey"]);
    expect(asks({ ...s3, accessKey: "a", secretKey: "b" }).credentials).toEqual({ accessKey: "a", secretKey: "b" });
    const rest = { kind: "rest", url: "https://rest.example.com/" } as const;
    expect(asks(rest)).toEqual({ credentials: undefined, problems: [] });
    expect(asks({ ...rest, username: "a" }).problems).toEqual(["credentials.password"]);
    expect(asks({ kind: "sftp", host: "h", path: "/p", hostKey: "one-word", privateKey: "no pem" }).problems).toEqual([
      "credentials.privateKey",
      "credentials.hostKey",
    ]);
    // What another kind asks for is not sent along.
    expect(asks({ kind: "path", path: "/b", accessKey: "a" })).toEqual({ credentials: undefined, problems: [] });
  });
  it("is told shortly", () => {
    expect(destinationWords("s3:https://s3.example.com/bucket/shop")).toBe("S3 bucket/shop");
    expect(destinationWords("node:node_1:/srv", () => "db-1")).toBe("/srv on db-1");
    expect(destinationWords("rest:https://rest.example.com/a/")).toBe("REST rest.example.com/a");
  });
  it("has fields of its own kind only", () => {
    for (const kind of Object.values(DESTINATIONS)) for (const name of kind.needed) expect(kind.credentials).toContain(name);
  });
});

describe("the form of a config", () => {
  it("asks for no more than was filled in", () => {
    expect(specOf(filled())).toEqual({
      body: { serverId: "node_1", name: "Daily", type: "incremental", destination: "/backups", schedule: "0 2 * * *", retention: 30 },
      problems: {},
    });
  });
  it("says what is missing or wrong, each at its field", () => {
    const { problems } = specOf({
      ...emptyBackupForm(),
      schedule: "0 25 * * *",
      timeZone: "Mars/Olympus",
      jitter: "-1",
      retention: "366",
      keep: { ...emptyBackupForm().keep, daily: "0" },
      paths: "/etc\nrelative",
      volumes: "-",
      checkParts: "101",
      testRestore: "never",
    });
    expect(Object.keys(problems).sort()).toEqual(
      ["serverId", "name", "destination.path", "schedule", "timeZone", "jitter", "retention", "keep.daily", "paths", "volumes", "check.parts", "check.testRestore"].sort(),
    );
    expect(problems.paths).toMatch(/^relative: an absolute path/);
  });
  it("gives a container what is a container's, and a node what is a node's", () => {
    const more = { paths: "/etc", consistency: "stop" as const, ownDump: true, dumpCommand: "pg_dump 'my db'" };
    const node = specOf({ ...filled(), ...more }).body;
    expect([node.paths, node.consistency, node.dump]).toEqual([["/etc"], undefined, undefined]);
    const container = specOf({ ...filled(), ...more, serverId: "cont_1" }).body;
    expect([container.paths, container.consistency, container.dump]).toEqual([undefined, "stop", { command: ["pg_dump", "my db"] }]);
    expect(specOf({ ...filled(), serverId: "cont_1", ownDump: true }).problems).toHaveProperty(["dump.command"]);
    expect(specOf({ ...filled(), ...more, serverId: "cont_1" }).problems).toHaveProperty(["consistency"]);
  });
  it("sends a copy with what opens it", () => {
    const copyTo = { ...emptyDestination(), kind: "s3" as const, endpoint: "https://s3.example.com", bucket: "off", accessKey: "a", secretKey: "b" };
    expect(specOf({ ...filled(), copy: true, copyTo }).body.copy).toEqual({
      destination: "s3:https://s3.example.com/off",
      credentials: { accessKey: "a", secretKey: "b" },
    });
    expect(specOf({ ...filled(), copy: true, copyTo: { ...emptyDestination(), path: "/backups" } }).problems).toHaveProperty(["copy.destination.path"]);
  });
  it("of a config that is there makes no change of itself", () => {
    expect(patchOf(config(), backupForm(config()))).toEqual({ body: {}, problems: {} });
    const plain = config({ schedule: undefined, dump: undefined, copy: undefined, keep: {}, status: "error", timeZone: "UTC", check: {} });
    expect(patchOf(plain, backupForm(plain))).toEqual({ body: {}, problems: {} });
  });
  it("sends only what was changed", () => {
    expect(edited(config(), { retention: "60", keep: { ...backupForm(config()).keep, monthly: "", weekly: "4" } }).body).toEqual({
      retention: 60,
      keep: { monthly: null, weekly: 4 },
    });
    expect(edited(config(), { preset: "none", schedule: "" }).body).toEqual({ schedule: null });
    expect(edited(config(), { copy: false }).body).toEqual({ copy: null });
    expect(edited(config(), { ownDump: false }).body).toEqual({ dump: null });
    expect(edited(config({ status: "paused" }), { paused: false }).body).toEqual({ status: null });
  });
  it("keeps credentials where the destination stays of its kind, and asks for others where it does not", () => {
    const to = backupForm(config()).destination;
    expect(edited(config(), { destination: { ...to, bucket: "other" } })).toEqual({ body: { destination: "s3:https://s3.example.com/other/shop" }, problems: {} });
    expect(edited(config(), { destination: { ...emptyDestination(), path: "/b" } }).body).toEqual({ destination: "/b", credentials: null });
    expect(edited(config(), { destination: { ...emptyDestination(), kind: "sftp", host: "h", path: "/p" } }).problems).toHaveProperty(["credentials.hostKey"]);
    const rest = { ...emptyDestination(), kind: "rest" as const, url: "https://rest.example.com", username: "a", password: "b" };
    expect(edited(config(), { destination: rest }).body).toMatchObject({
      credentials: { accessKey: null, secretKey: null, region: null, username: "a", password: "b" },
    });
  });
  it("has the server's problems at its own fields", () => {
    const form = { ...filled(), paths: "/a\n\n/b", destination: { ...emptyDestination(), kind: "s3" as const } };
    expect(placeBackupProblems(form, { "paths[1]": "is not there", destination: "can't be reached", "copy.destination": "no", "dump.command[2]": "too long", schedule: "x" })).toEqual({
      paths: "/b: is not there",
      "destination.bucket": "can't be reached",
      "copy.destination.path": "no",
      "dump.command": "too long",
      schedule: "x",
    });
  });
  it("knows its presets", () => {
    expect(["", "0 2 * * *", "0 2 * * 0", "5 5 * * *"].map(presetOf)).toEqual(["none", "daily", "weekly", "own"]);
  });
});

describe("a restore", () => {
  it("is everything in its place where nothing is said, and has to be confirmed", () => {
    expect(restoreOf(emptyRestore())).toEqual({ body: {}, problems: {} });
    expect(needsConfirming(emptyRestore())).toBe(true);
    expect(needsConfirming({ ...emptyRestore(), where: "folder" })).toBe(false);
    expect(needsConfirming({ ...emptyRestore(), where: "server", serverId: "cont_2" })).toBe(true);
    const toNode = { ...emptyRestore(), where: "server" as const, serverId: "node_2" };
    expect(needsConfirming(toNode)).toBe(false);
    expect([isAnew(toNode, "cont_1"), isAnew(toNode, "node_1"), isAnew({ ...toNode, target: "/r" }, "cont_1")]).toEqual([true, false, false]);
  });
  it("goes where it is told, with what belongs to that alone", () => {
    const form = { ...emptyRestore(["/volumes/data"]), serverId: "node_2", target: "/restored", name: "shop", volume: "data-2", replace: "no" as const, verify: false };
    expect(restoreOf(form).body).toEqual({ paths: ["/volumes/data"], volume: "data-2", replace: false, verify: false });
    expect(restoreOf({ ...form, where: "folder" }).body).toEqual({ paths: ["/volumes/data"], target: "/restored", replace: false, verify: false });
    expect(restoreOf({ ...form, where: "server", target: "" }).body).toEqual({
      paths: ["/volumes/data"],
      serverId: "node_2",
      name: "shop",
      volume: "data-2",
      replace: false,
      verify: false,
    });
    expect(volumeOf(emptyRestore(["/volumes/data/uploads"]))).toBeUndefined();
  });
  it("says what is missing", () => {
    expect(restoreOf({ ...emptyRestore(), where: "folder" }).problems).toEqual({ target: "Say which folder" });
    expect(Object.keys(restoreOf({ ...emptyRestore(), where: "server", target: "here" }).problems)).toEqual(["serverId", "target"]);
  });
  it("names what it replaces", () => {
    expect(replacedWords({}, backup(), "web-1")).toBe("everything of “Daily” takes the place of what web-1 has now. What was written since that backup is lost.");
    expect(replacedWords({ paths: ["/etc/app"], target: "/r" }, backup(), "web-1")).toMatch(/^\/etc\/app of “Daily” goes to \/r on web-1\./);
  });
});

describe("a folder of a backup", () => {
  it("is reached from the root on", () => {
    expect(trail("/")).toEqual([["/", "/"]]);
    expect(trail("/volumes/shop data")).toEqual([
      ["/", "/"],
      ["volumes", "/volumes"],
      ["shop data", "/volumes/shop data"],
    ]);
  });
});

describe("words", () => {
  it("say when, how long and how far", () => {
    expect(scheduleWords(config())).toBe("Every day at 02:00, Europe/Berlin");
    expect(scheduleWords(config({ schedule: undefined }))).toBe("Only when asked for");
    expect(retentionWords(config())).toBe("30 days, and beside that 12 monthly");
    expect(retentionWords(config({ keep: { last: 1, yearly: 2 }, retention: 1 }))).toBe("1 day, and beside that the last one, 2 yearly");
    expect(retentionWords(config({ appendOnly: true }))).toBe("everything, for ever");
    const progress = { files: 214, bytes: 512 * 1024 ** 2, totalBytes: 1024 ** 3, rate: 64 * 1024 ** 2, remaining: 8.2 };
    expect(progressWords(progress)).toBe("512 MiB of 1 GiB, 214 files, 64 MiB/s, 8s left");
    expect(share(progress)).toBe(50);
    expect(share({ files: 0, bytes: 5, rate: 0 })).toBeUndefined();
    expect(progressWords(undefined)).toBe("begins");
  });
  it("say what is wrong, and what proves a backup", () => {
    expect(troubleOf(config())).toBeUndefined();
    expect(troubleOf(config({ status: "error", message: "disk full" }))).toBe("disk full");
    expect(troubleOf(config({ repository: { id: "r", location: "/b", findings: ["pack a is damaged"] } }))).toBe("The last check found: pack a is damaged");
    expect(proofWords(backup())).toBe("not proved yet");
    expect(proofWords(backup({ verification: { checked: "2026-11-24T02:01:00.000Z" } }))).toBe("checked");
    expect(proofWords(backup({ verification: { checked: "x", restored: "y" } }))).toBe("restored for a test");
    expect(proofWords(backup({ verification: { checked: "x", finding: "3 files differ" } }))).toBe("3 files differ");
  });
  it("tell what a restore gave", () => {
    const restored = {
      backupId: "backup_1",
      serverId: "cont_1",
      dryRun: true,
      files: 1500,
      bytes: 1024,
      created: 3,
      changed: 1,
      unchanged: 1496,
      removed: 0,
      verified: false,
      problems: [],
      problemCount: 0,
      duration: 1,
    };
    expect(restoredWords(restored)).toBe("3 created, 1 changed, 1,496 as they are; 1,500 files, 1 KiB");
  });
  it("hand over all that stock restic needs", () => {
    const kit = recoveryKit(config(), { repository: "s3:https://s3.example.com/bucket/shop/backup_cfg_1", password: "p1", recoveryPassword: "p2" }, "2026-11-24");
    for (const part of ["p1", "p2", "restic -r 's3:https://s3.example.com/bucket/shop/backup_cfg_1' --password-file password.txt restore latest"]) {
      expect(kit).toContain(part);
    }
  });
});
