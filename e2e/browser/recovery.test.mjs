import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { Api, Browser, eventually, pictured, PREFIX, toast } from "./lib.mjs";

const BACKUPS = "/api/capabilities/backups";
const CLUSTERS = "/api/capabilities/clusters";
const NAME = `${PREFIX}-ledger`;
const CONFIG = `${PREFIX} ledger`;
/** How long a database of one node takes, also where its image is to be built first. */
const MADE = 240_000;

let browser;
let api;
let node;
let cluster;
let folder;
/** Ids of the clusters whose members' volumes are to go. */
const clusters = new Set();
before(async () => {
  browser = await Browser.open();
  api = await Api.admin();
  folder = mkdtempSync(join(tmpdir(), "nm-browser-recovery."));
  [node] = (await api.call("GET", "/api/nodes")).filter((n) => n.status === "ready");
  for (const role of ["viewer", "operator"]) await api.call("POST", "/api/users", { username: `${PREFIX}-${role}`, password: "a-long-password", role });
  const made = await api.call("POST", CLUSTERS, { name: NAME, type: "database", servers: [node.id] });
  const find = () => api.call("GET", `${CLUSTERS}/${made.id}`);
  clusters.add(made.id);
  cluster = await eventually(`${NAME} takes writes`, async () => (await find()).database.state === "ready" && (await find()), MADE);
});
after(async () => {
  await api?.removeAll();
  for (const id of clusters) for (const name of [`nm-${id}`, `nm-${id}-archive`]) await api.raw("DELETE", `/api/volumes/${name}?nodeId=${node.id}`);
  await browser?.close();
  if (folder) rmSync(folder, { recursive: true, force: true });
});
const it = (name, run) => test(name, { timeout: 300_000 }, pictured(() => browser, run));

const main = (page) => page.getByRole("main");
/** What stands at a field that is wrong. */
const told = (field) =>
  eventually("what is told of it", () =>
    field.evaluate((e) => (e.getAttribute("aria-invalid") ? document.getElementById(e.getAttribute("aria-describedby"))?.textContent : null)),
  );
/** The bodies of the requests of a method to backups. */
function sent(page, method) {
  const bodies = [];
  page.on("request", (r) => {
    if (r.method() === method && r.url().includes(BACKUPS)) bodies.push(r.postDataJSON());
  });
  return bodies;
}

/** One that the tests share which only look. */
let shared;
async function one() {
  shared ??= api.call("POST", `${BACKUPS}/configs`, { serverId: cluster.id, name: CONFIG, destination: `node:${node.name}:${folder}`, walInterval: 60 });
  return shared;
}

// Hours of one day: what is kept has a gap, and the last backup is not in the log any more.
const at = (time) => `2026-11-20T${time}Z`;
const WINDOWS = [
  { from: at("01:00:00.000"), to: at("09:30:00.000") },
  { from: at("12:00:00.125"), to: at("18:30:00.250") },
];
const IDS = { late: "backup_late", early: "backup_early", alone: "backup_alone" };
function backupsOf(config) {
  const made = (id, hour, from) => ({
    id,
    configId: config.id,
    name: config.name,
    serverId: cluster.id,
    status: "completed",
    type: "full",
    timestamp: at(hour),
    duration: 12,
    size: 31_457_280,
    newBytes: 1_048_576,
    files: 1,
    location: `${folder}/${config.id}`,
    snapshot: "0123456789abcdef",
    encryption: true,
    compression: true,
    pinned: false,
    problemCount: 0,
    verification: { checked: at(hour) },
    ...(from ? { recoverableFrom: at(from) } : {}),
  });
  return [made(IDS.late, "15:58:00.000", "16:00:00.000"), made(IDS.early, "11:58:00.000", "12:00:00.125"), made(IDS.alone, "10:00:00.000")];
}

/** The answers on a config and its cluster, as they are once backups were made and the log was shipped for a day. */
async function kept(page, config) {
  const backups = backupsOf(config);
  const answered = (route, data, status = 200) => route.fulfill({ status, json: { success: status < 300, ...(status < 300 ? { data } : data) } });
  const changed = (change) => async (route) => {
    const response = await route.fetch();
    const json = await response.json();
    // A token that has ended is refreshed, and the request sent again.
    if (json.success) json.data = change(json.data);
    await route.fulfill({ response, json });
  };
  const repository = { id: "0123", location: `${folder}/${config.id}`, size: 52_428_800, lastCheck: at("16:00:00.000"), findings: [] };
  const recovery = { walInterval: 60, windows: WINDOWS, shipped: WINDOWS[1].to, message: "the last segment could not be shipped", repository: `${repository.location}-log` };
  await page.route(new RegExp(`${BACKUPS}/configs/${config.id}(\\?.*)?$`), changed((c) => ({ ...c, repository, recovery, lastBackup: at("15:58:00.000") })));
  await page.route(new RegExp(`${BACKUPS}\\?.*configId=`), (route) => answered(route, backups));
  await page.route(new RegExp(`${BACKUPS}/backup_(late|early|alone)$`), (route) => answered(route, backups.find((b) => route.request().url().endsWith(b.id))));
  await page.route(
    new RegExp(`${CLUSTERS}/${cluster.id}(\\?.*)?$`),
    changed((c) => ({
      ...c,
      database: {
        ...c.database,
        archive: { enabled: true, bytes: 50_331_648, gap: { since: at("09:30:00.000"), segment: "00000001000000000000002A" }, failed: "no space left on device" },
        restoredFrom: { backupId: IDS.early, to: at("12:34:56.789") },
      },
    })),
  );
  /** What restores are answered, one after the other, and what they asked for. */
  const restores = { answers: [], asked: [] };
  await page.route(new RegExp(`${BACKUPS}/backup_[a-z]+/restore$`), (route) => {
    restores.asked.push([route.request().url().split("/").at(-2), route.request().postDataJSON()]);
    const [status, data] = restores.answers.shift();
    return answered(route, data, status);
  });
  const operation = { id: "op_recover", kind: "backup.recover", target: config.id, actor: "admin", cancelRequested: false, log: [], created: at("19:00:00.000"), updated: at("19:00:00.000") };
  const step = (name, state) => ({ name, state, detail: "" });
  const result = { backupId: IDS.early, serverId: cluster.id, clusterId: cluster.id, dryRun: false, files: 3, bytes: 9, created: 3, changed: 0, unchanged: 0, removed: 0, verified: true, problems: [], problemCount: 0, duration: 42 };
  const told = [
    { ...operation, state: "running", steps: [step("create", "succeeded"), step("base", "running")] },
    { ...operation, state: "succeeded", steps: ["create", "base", "log", "recover"].map((name) => step(name, "succeeded")), result },
  ];
  /** The operation goes on once this is called. */
  let goOn;
  const going = new Promise((resolve) => (goOn = resolve));
  await page.route(/\/api\/operations\/op_recover(\/.*|\?.*)?$/, async (route) => {
    await going;
    const body = told.map((o, i) => `id: ${i}\nevent: operation\ndata: ${JSON.stringify(o)}\n\n`).join("");
    await route.fulfill({ status: 200, contentType: "text/event-stream", body });
  });
  return { restores, goOn, begun: told[0] };
}

it("a database is backed up from its tab, with nothing that does not apply to it", async () => {
  const page = await browser.signedIn();
  const posts = sent(page, "POST");
  await page.goto(`/clusters/${cluster.id}/database`);
  await main(page).getByText("It is not backed up.").waitFor();
  await main(page).getByRole("link", { name: "Add", exact: true }).click();
  const server = page.getByLabel("Server", { exact: true });
  await server.locator(`option[value="${cluster.id}"]`, { hasText: NAME }).waitFor({ state: "attached" });
  assert.equal(await server.inputValue(), cluster.id);
  assert.deepEqual(await page.getByLabel("Kind").locator("option").allInnerTexts(), ["Folder of a node", "S3", "SFTP", "REST server"]);
  const titles = (await page.locator("details.section h2").allInnerTexts()).map((t) => t.trim());
  assert.deepEqual(titles, ["How long", "Trust", "Copy"], "paths, volumes, what is left out and dumps are not asked for");

  await page.getByLabel("Name", { exact: true }).fill(CONFIG);
  const every = page.getByLabel("Ship the log every");
  await every.fill("14");
  await page.getByRole("button", { name: "Create", exact: true }).click();
  assert.match(await told(every), /from 15 to 86,?400/);
  assert.match(await told(page.getByLabel("Node", { exact: true })), /Choose a node/);
  assert.deepEqual(posts, []);
  await every.fill("60");
  await page.getByLabel("Node", { exact: true }).selectOption(node.name);
  await page.getByLabel("Folder", { exact: true }).fill(folder);
  await page.getByLabel("Schedule", { exact: true }).selectOption("none");
  await page.getByRole("button", { name: "Create", exact: true }).click();
  await page.getByRole("heading", { level: 1, name: CONFIG }).waitFor();
  assert.deepEqual(posts, [
    { serverId: cluster.id, name: CONFIG, type: "incremental", destination: `node:${node.name}:${folder}`, retention: 30, walInterval: 60 },
  ]);
  await main(page).getByText("There is no moment yet that it can be brought back to.").waitFor();
  await main(page).getByRole("link", { name: NAME, exact: true }).waitFor();
  const [made] = (await api.call("GET", `${BACKUPS}/configs?limit=200`)).filter((c) => c.name === CONFIG);
  assert.deepEqual([made.serverKind, made.recovery.walInterval, made.recovery.windows], ["cluster", 60, []]);
  shared = Promise.resolve(made);

  const patches = sent(page, "PATCH");
  await page.getByRole("link", { name: "Edit", exact: true }).click();
  await page.getByText("Nothing is changed yet.").waitFor();
  assert.equal(await page.getByLabel("Ship the log every").inputValue(), "60");
  await page.getByLabel("Ship the log every").fill("120");
  await page.getByRole("button", { name: "Save" }).click();
  await toast(page, `Changed ${CONFIG}.`);
  assert.deepEqual(patches, [{ walInterval: 120 }]);
  await main(page).locator(".facts").getByText("2m", { exact: true }).waitFor();
  await page.goto(`/clusters/${cluster.id}/database`);
  await main(page).getByRole("link", { name: CONFIG, exact: true }).waitFor();
  assert.deepEqual(page.complaints, []);
});

it("what is kept is shown with its gap, and a moment of it is restored into a new cluster", async (t) => {
  const config = await one();
  const page = await browser.signedIn(undefined, undefined, { timezoneId: "Europe/Berlin" });
  const { restores, goOn, begun } = await kept(page, config);
  const dialog = page.getByRole("dialog");
  const restore = dialog.getByRole("button", { name: "Restore", exact: true });
  const moment = dialog.getByLabel("Moment", { exact: true });

  await t.test("windows stand oldest first, in local time with UTC beside it, and how far the log is shipped", async () => {
    await page.goto(`/backups/configs/${config.id}`);
    const times = page.getByRole("list", { name: "Moments that can be brought back" }).locator("time");
    await times.nth(3).waitFor();
    assert.deepEqual(await times.evaluateAll((all) => all.map((e) => e.dateTime)), WINDOWS.flatMap((w) => [w.from, w.to]));
    assert.match(await times.nth(2).innerText(), /01:00:00\.125 PM/);
    assert.match(await times.nth(2).getAttribute("title"), /12:00:00\.125 PM UTC/);
    await main(page).getByText("The last segment could not be shipped", { exact: false }).waitFor();
    await main(page).getByText(`${config.id}-log`).waitFor();
    const bar = await main(page).locator(".window-bar i").evaluateAll((all) => all.map((e) => Math.round(parseFloat(e.style.left))));
    assert.deepEqual(bar, [0, 63]);
  });

  await t.test("a moment outside of it is told at its field, and nothing is sent", async () => {
    await page.getByRole("button", { name: "Restore to a moment…" }).click();
    await dialog.getByLabel("Name of the new cluster").fill(`${NAME}-2`);
    await dialog.getByRole("button", { name: "To a moment" }).click();
    assert.equal(await moment.inputValue(), "2026-11-20T19:30:00.25", "it begins with the newest, by the browser's clock");
    await moment.fill("2026-11-20T11:00");
    await restore.click();
    assert.match(await told(moment), /Nothing of this moment is kept/);
    assert.match(await told(dialog.getByLabel("Node 1", { exact: true })), /Choose a node/);
    assert.deepEqual(restores.asked, []);
  });

  await t.test("in UTC it is the same moment, and the backup that reaches it is chosen", async () => {
    await moment.fill("2026-11-20T13:34:56.789");
    await dialog.getByRole("button", { name: "UTC", exact: true }).click();
    assert.equal(await moment.inputValue(), "2026-11-20T12:34:56.789");
    assert.equal(await dialog.getByRole("link").getAttribute("href"), `/backups/${IDS.early}`);
    await moment.fill("2026-11-20T16:00:00.000");
    assert.equal(await dialog.getByRole("link").getAttribute("href"), `/backups/${IDS.late}`);
    await moment.fill("2026-11-20T12:34:56.789");
    await dialog.getByLabel("Node 1", { exact: true }).selectOption(node.id);
    await dialog.getByText("Fewer than three nodes do not survive the loss of one.").waitFor();
  });

  await t.test("what the server refuses stands at the fields it names", async () => {
    const refusal = (field, error) => [409, { error, code: "moment_not_kept", details: [{ field, message: error }], requestId: "req_1" }];
    restores.answers.push(refusal("to", "it can be brought to other moments"), refusal("cluster.servers[0]", "that node is cordoned"), refusal("cluster.listenPort", "no port is free"));
    await restore.click();
    assert.match(await told(moment), /it can be brought to other moments/);
    await restore.click();
    assert.match(await told(dialog.getByLabel("Node 1", { exact: true })), /that node is cordoned/);
    await restore.click();
    await dialog.getByRole("alert").getByText("no port is free", { exact: false }).waitFor();
  });

  await t.test("its operation is followed, and leads to the new cluster", async () => {
    restores.answers.push([202, begun]);
    await restore.click();
    await dialog.locator(".step", { hasText: "base" }).waitFor();
    goOn();
    await dialog.getByText("takes writes, and has what", { exact: false }).waitFor();
    assert.deepEqual(restores.asked.at(-1), [IDS.early, { to: at("12:34:56.789"), cluster: { name: `${NAME}-2`, type: "database", servers: [node.id] } }]);
    await dialog.getByRole("link", { name: "To the new cluster" }).click();
    await page.getByRole("heading", { level: 1, name: NAME }).waitFor();
  });

  await t.test("its tab says what it was made of, and what is wrong with its log", async () => {
    assert.equal(await main(page).getByRole("link", { name: "a backup", exact: true }).getAttribute("href"), `/backups/${IDS.early}`);
    for (const text of ["48 MiB", "00000001000000000000002A", "no space left on device"]) await main(page).getByText(text).waitFor();
  });

  await t.test("a backup asks within its own reach, and one without a log for no moment", async () => {
    await page.goto(`/backups/${IDS.late}`);
    await page.getByRole("button", { name: "Restore…" }).click();
    await dialog.getByRole("button", { name: "To a moment" }).click();
    await moment.fill("2026-11-20T13:34:56.789");
    await restore.click();
    assert.match(await told(moment), /^From .*05:00:00\.000 PM to .*07:30:00\.250 PM$/);
    await dialog.getByRole("button", { name: "Cancel" }).click();
    await page.goto(`/backups/${IDS.alone}`);
    await page.getByRole("button", { name: "Restore…" }).click();
    await dialog.getByText("it can be restored only as it was when the backup was made", { exact: false }).waitFor();
    assert.equal(await dialog.getByRole("button", { name: "To a moment" }).count(), 0);
    // The real one knows no such backup, and says so in the dialog.
    await page.unroute(new RegExp(`${BACKUPS}/backup_[a-z]+/restore$`));
    await dialog.getByLabel("Name of the new cluster").fill(`${NAME}-3`);
    await dialog.getByLabel("Node 1", { exact: true }).selectOption(node.id);
    await restore.click();
    await dialog.getByRole("alert").getByText(IDS.alone, { exact: false }).waitFor();
  });
  assert.deepEqual(page.complaints, []);
});

it("who may not name nodes is not offered to restore", async () => {
  const config = await one();
  for (const role of ["viewer", "operator"]) {
    const page = await browser.signedIn(`${PREFIX}-${role}`, "a-long-password");
    await kept(page, config);
    await page.goto(`/backups/configs/${config.id}`);
    await page.getByRole("list", { name: "Moments that can be brought back" }).waitFor();
    assert.equal(await page.getByRole("button", { name: "Restore to a moment…" }).count(), 0, role);
    await page.goto(`/backups/${IDS.late}`);
    await main(page).getByText("as far as its log is kept without a gap", { exact: false }).waitFor();
    assert.equal(await page.getByRole("button", { name: "Restore…" }).count(), 0, role);
    assert.deepEqual(page.complaints, []);
  }
});

it("for real: backed up, restored as it was at a moment, and the new cluster is found", async () => {
  const made = await one();
  await api.call("PATCH", `${BACKUPS}/configs/${made.id}`, { walInterval: 15 });
  const page = await browser.signedIn();
  const dialog = page.getByRole("dialog");
  await page.goto(`/backups/configs/${made.id}`);
  await page.getByRole("button", { name: "Back up now" }).click();
  await main(page).locator("tbody tr", { hasText: "asked for" }).getByText("completed").waitFor({ timeout: 120_000 });
  // The page is told of each shipment.
  const shown = page.getByRole("list", { name: "Moments that can be brought back" }).locator("time");
  await shown.nth(1).waitFor({ timeout: 60_000 });
  // The log is cleaned up and checked after it, by an operation on the server.
  await eventually("the backup's operation ends", async () => (await api.call("GET", `/api/operations?target=${cluster.id}&state=running`)).length === 0, 60_000);

  await page.getByRole("button", { name: "Restore to a moment…" }).click();
  await dialog.getByRole("button", { name: "To a moment" }).click();
  await dialog.getByRole("button", { name: "UTC", exact: true }).click();
  const to = new Date(`${await dialog.getByLabel("Moment", { exact: true }).inputValue()}Z`).toISOString();
  await dialog.getByLabel("Name of the new cluster").fill(NAME);
  await dialog.getByLabel("Node 1", { exact: true }).selectOption(node.id);
  await dialog.getByRole("button", { name: "Restore", exact: true }).click();
  assert.match(await told(dialog.getByLabel("Name of the new cluster")), new RegExp(NAME), "the name is taken");
  await dialog.getByLabel("Name of the new cluster").fill(`${NAME}-again`);
  await dialog.getByRole("button", { name: "Restore", exact: true }).click();
  await dialog.getByText(`${NAME}-again takes writes, and has what ${NAME} had at`, { exact: false }).waitFor({ timeout: 180_000 });
  await dialog.getByRole("link", { name: "To the new cluster" }).click();
  await page.getByRole("heading", { level: 1, name: `${NAME}-again` }).waitFor();
  const [backup] = await api.call("GET", `${BACKUPS}/${cluster.id}`);
  const [again] = (await api.call("GET", `${CLUSTERS}?limit=200`)).filter((c) => c.name === `${NAME}-again`);
  clusters.add(again.id);
  assert.deepEqual(again.database.restoredFrom, { backupId: backup.id, to });
  await main(page).locator(`time[datetime="${to}"]`).waitFor();
  await main(page).getByRole("link", { name: "a backup", exact: true }).click();
  await main(page).getByText("as far as its log is kept without a gap", { exact: false }).waitFor();
  assert.deepEqual(page.complaints, []);
});

for (const [what, options] of [
  ["a small screen in the light theme", { viewport: { width: 390, height: 844 }, colorScheme: "light" }],
  ["a wide screen in the dark theme", { colorScheme: "dark" }],
]) {
  it(`its pages fit ${what}`, async () => {
    const config = await one();
    const page = await browser.signedIn(undefined, undefined, options);
    await kept(page, config);
    const fits = async (place, box) => {
      const wide = await box.evaluate((e) => e.scrollWidth - e.clientWidth);
      assert.ok(wide <= 1, `${place} is ${wide} px wider than its place`);
    };
    await page.goto(`/backups/configs/${config.id}`);
    await page.getByRole("list", { name: "Moments that can be brought back" }).waitFor();
    await fits("the config", page.locator("#main"));
    await page.getByRole("button", { name: "Restore to a moment…" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByRole("button", { name: "To a moment" }).click();
    await dialog.getByLabel("Moment", { exact: true }).waitFor();
    await fits("the dialog", dialog.locator(".dialog-body"));
    await page.goto(`/clusters/${cluster.id}/database`);
    await main(page).getByText("no space left on device").waitFor();
    await fits("the tab", page.locator("#main"));
    await page.goto(`/backups/new?server=${cluster.id}`);
    await page.getByLabel("Ship the log every").waitFor();
    await fits("the form", page.locator("#main"));
    assert.deepEqual(page.complaints, []);
  });
}
