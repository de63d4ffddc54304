import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { Api, Browser, eventually, hasStatus, pictured, PREFIX, toast } from "./lib.mjs";

const BACKUPS = "/api/capabilities/backups";
const NAME = `${PREFIX}-notes`;
const VOLUME = `${PREFIX}-notes-data`;

let browser;
let api;
let container;
let folder;
before(async () => {
  browser = await Browser.open();
  api = await Api.admin();
  folder = mkdtempSync(join(tmpdir(), "nm-browser-backups."));
  const command = ["sh", "-c", "mkdir -p /data/sub; [ -e /data/note.txt ] || { echo first > /data/note.txt; echo kept > /data/sub/kept.txt; }; exec sleep 1000000"];
  container = await api.container(NAME, command, { volumes: [{ host: VOLUME, container: "/data" }] });
});
after(async () => {
  await api?.removeAll();
  await browser?.close();
  if (folder) rmSync(folder, { recursive: true, force: true });
});
const it = (name, run) => test(name, { timeout: 240_000 }, pictured(() => browser, run));

const row = (page, text) => page.locator("tbody tr", { hasText: text });
/** Runs a shell line in the container, and gives what it writes. */
async function inside(line) {
  const { exitCode, stdout } = await api.call("POST", `/api/containers/${container.id}/exec`, { command: ["sh", "-c", line] });
  assert.equal(exitCode, 0, line);
  return stdout.trim();
}
/** The bodies of the requests of a method to backups. */
function sent(page, method) {
  const bodies = [];
  page.on("request", (r) => {
    if (r.method() === method && r.url().includes(BACKUPS)) bodies.push(r.postDataJSON());
  });
  return bodies;
}
async function more(page, item) {
  await page.getByRole("button", { name: "More actions" }).click();
  await page.getByRole("menuitem", { name: item }).click();
}

it("from the form to its end: wrong fields, a backup, its files, a restore, the recovery kit, removed", async (t) => {
  const name = `${PREFIX} notes`;
  const page = await browser.signedIn();
  const dialog = page.getByRole("dialog");
  const posts = sent(page, "POST");
  const patches = sent(page, "PATCH");
  let config;
  let backup;

  await t.test("what is wrong is told at its field, with the focus there, and nothing is sent", async () => {
    await page.goto("/backups");
    await page.getByRole("heading", { level: 1, name: "Backups" }).waitFor();
    await page.getByRole("main").getByRole("link", { name: "Create" }).first().click();
    await page.getByRole("button", { name: "Create" }).click();
    const field = page.getByLabel("Name", { exact: true });
    await page.getByText("Give it a name").waitFor();
    assert.ok(await field.evaluate((e) => e === document.activeElement), "the field that is wrong has the focus");
    for (const says of ["Choose a server", "Say which folder"]) await page.getByText(says, { exact: true }).waitFor();
    await field.fill(name);
    await page.getByLabel("Server", { exact: true }).selectOption(container.id);
    await page.getByLabel("Folder", { exact: true }).fill("/backups/../etc");
    await page.getByText("without . or .. parts", { exact: false }).waitFor();
    await page.getByRole("button", { name: "Create" }).click();
    assert.deepEqual(posts, []);
    await page.getByLabel("Folder", { exact: true }).fill(folder);
  });

  await t.test("a schedule is told in words, with its next times in the zone that was chosen", async () => {
    await page.getByText("Every day at 02:00").waitFor();
    const line = page.getByLabel("Cron line");
    await line.fill("61 2 * * *");
    await page.getByText("The minute is *, or numbers from 0 to 59", { exact: false }).waitFor();
    await line.fill("30 4 * * sun");
    await page.getByText("Every Sunday at 04:30").waitFor();
    await page.getByLabel(/^Time zone/).fill("Asia/Kolkata");
    const times = page.getByRole("list", { name: "The next times" }).locator("time");
    await eventually("times in that zone", async () => {
      const all = await times.evaluateAll((list) => list.map((e) => e.dateTime));
      // Half past four on a Sunday there is eleven in the evening of Saturday in UTC.
      return all.length === 4 && all.every((at) => at.endsWith("T23:00:00.000Z") && new Date(at).getUTCDay() === 6);
    });
    await page.getByLabel("Schedule", { exact: true }).selectOption("none");
    assert.equal(await line.count(), 0);
  });

  await t.test("a folder that the node lets nobody write is told at its field by the server", async () => {
    const field = page.getByLabel("Folder", { exact: true });
    await field.fill("/etc/nm-browser-backups");
    await page.getByRole("button", { name: "Create" }).click();
    const told = await eventually("what the server says", () =>
      field.evaluate((e) => (e.getAttribute("aria-invalid") ? document.getElementById(e.getAttribute("aria-describedby"))?.textContent : null)),
    );
    assert.match(told, /\/etc/);
    await field.fill(folder);
  });

  await t.test("set right, it is created", async () => {
    await page.getByRole("button", { name: "Create" }).click();
    await page.getByRole("heading", { level: 1, name }).waitFor();
    await hasStatus(page, "active");
    await page.getByText("No backup was made yet").waitFor();
    [config] = (await api.call("GET", `${BACKUPS}/configs?limit=200`)).filter((c) => c.name === name);
    assert.deepEqual([config.serverId, config.destination, config.encryption, config.schedule], [container.id, folder, true, undefined]);
  });

  await t.test("a backup is made when it is asked for, and is completed once it was checked", async () => {
    await page.getByRole("button", { name: "Back up now" }).click();
    await toast(page, `A backup of ${name} has begun.`);
    await row(page, "asked for").getByText("completed").waitFor({ timeout: 60_000 });
    await row(page, "asked for").getByText("checked").waitFor();
    [backup] = await api.call("GET", `${BACKUPS}/${container.id}`);
    assert.equal(backup.status, "completed");
    assert.ok(backup.size > 0 && backup.newBytes > 0 && backup.verification.checked, JSON.stringify(backup));
  });

  await t.test("its files are found folder by folder", async () => {
    await row(page, "asked for").getByRole("link").first().click();
    await hasStatus(page, "completed");
    await page.getByRole("navigation", { name: "Backup", exact: true }).getByRole("link", { name: "Files" }).click();
    await page.getByRole("button", { name: "volumes", exact: true }).click();
    await page.getByRole("button", { name: VOLUME, exact: true }).click();
    await row(page, "note.txt").getByText("6 B").waitFor();
    await page.getByRole("button", { name: "sub", exact: true }).click();
    await row(page, "kept.txt").waitFor();
    await page.getByRole("navigation", { name: "Folder" }).getByRole("button", { name: VOLUME }).click();
    await row(page, "note.txt").waitFor();
  });

  await t.test("a dry run shows what a restore would change, and changes nothing", async () => {
    await inside("echo second > /data/note.txt");
    await page.getByRole("button", { name: "Restore note.txt" }).click();
    await dialog.getByText("What was written since that backup is lost.", { exact: false }).waitFor();
    assert.ok(await dialog.getByRole("button", { name: "Restore", exact: true }).isDisabled(), "whoever restores in place names the server first");
    await dialog.getByRole("button", { name: "See what would change" }).click();
    await dialog.locator("li", { hasText: "note.txt" }).getByText("changes").waitFor({ timeout: 60_000 });
    assert.equal(await inside("cat /data/note.txt"), "second");
  });

  await t.test("the restore brings the file back, and leaves the others", async () => {
    await inside("echo later > /data/sub/kept.txt");
    await dialog.getByLabel(/^Type the server's name/).fill(NAME);
    await dialog.getByRole("button", { name: "Restore", exact: true }).click();
    await dialog.getByText("Everything was read back and is the same as in the backup.").waitFor({ timeout: 60_000 });
    await dialog.getByRole("button", { name: "Close" }).last().click();
    await eventually("the container runs", async () => (await api.call("GET", `/api/containers/${container.id}`)).status === "running");
    assert.deepEqual([await inside("cat /data/note.txt"), await inside("cat /data/sub/kept.txt")], ["first", "later"]);
  });

  await t.test("a pinned backup stays, and retention says why", async () => {
    await more(page, "Pin");
    await toast(page, "Pinned");
    await page.getByLabel("pinned").waitFor();
    await page.goto(`/backups/configs/${config.id}`);
    await page.getByRole("button", { name: "What that keeps now" }).click();
    await dialog.getByText("pinned", { exact: false }).waitFor();
    await page.keyboard.press("Escape");
  });

  await t.test("the recovery kit opens the repository with stock restic", async () => {
    await more(page, "Recovery kit…");
    const [download] = await Promise.all([page.waitForEvent("download"), dialog.getByRole("button", { name: "Download it" }).click()]);
    const kit = readFileSync(await download.path(), "utf8");
    const [, repository] = /^Repository +(.*)$/m.exec(kit) ?? [];
    for (const which of ["Password", "Recovery password"]) {
      const [, password] = new RegExp(`^${which} +(.*)$`, "m").exec(kit) ?? [];
      assert.ok(repository && password, `${which} is in the kit`);
      const file = join(folder, "password.txt");
      writeFileSync(file, password, { mode: 0o600 });
      const listed = JSON.parse(execFileSync("restic", ["-r", repository, "--no-lock", "--no-cache", "--password-file", file, "snapshots", "--json"], { encoding: "utf8" }));
      rmSync(file);
      assert.deepEqual(listed.map((s) => s.id), [backup.snapshot]);
    }
  });

  await t.test("an edit sends what was changed alone", async () => {
    await page.getByRole("link", { name: "Edit", exact: true }).click();
    await page.getByText("Nothing is changed yet.").waitFor();
    for (const label of ["Server", "Kind", "Folder"]) assert.ok(await page.getByLabel(label, { exact: true }).isDisabled(), `${label} is fixed`);
    await page.getByLabel("Days", { exact: true }).fill("366");
    await page.getByRole("button", { name: "Save" }).click();
    await page.getByText("A whole number from 1 to 365").waitFor();
    await page.getByLabel("Days", { exact: true }).fill("60");
    await page.getByLabel("Monthly", { exact: true }).fill("12");
    await page.getByRole("button", { name: "Save" }).click();
    await toast(page, `Changed ${name}.`);
    assert.deepEqual(patches.at(-1), { retention: 60, keep: { monthly: 12 } });
    await page.getByText("60 days, and beside that 12 monthly").waitFor();
  });

  await t.test("paused, nothing runs by itself; it is found in the list and on its server's page", async () => {
    await more(page, "Pause");
    await toast(page, `${name} is paused`);
    await page.goto(`/backups?name=${encodeURIComponent(PREFIX)}`);
    await row(page, name).getByText("paused").waitFor();
    await page.getByLabel("Status", { exact: true }).selectOption("error");
    await page.getByText("No config fits").waitFor();
    await page.goto(`/containers/${container.id}`);
    await page.getByRole("link", { name, exact: true }).click();
    await hasStatus(page, "paused");
  });

  await t.test("a backup is deleted, then the config; its repository stays", async () => {
    await row(page, "asked for").getByRole("link").first().click();
    await hasStatus(page, "completed");
    await more(page, "Unpin");
    await toast(page, "No longer pinned");
    await more(page, "Delete…");
    await dialog.getByText("can't be restored any more", { exact: false }).waitFor();
    const last = dialog.getByLabel("Delete it although it is the last good one");
    await dialog.getByRole("button", { name: "Delete the backup" }).click();
    await last.waitFor();
    assert.equal((await api.call("GET", `${BACKUPS}/${backup.id}`)).status, "completed", "the last good one stays until it is named as such");
    await last.check();
    await dialog.getByRole("button", { name: "Delete the backup" }).click();
    await hasStatus(page, "paused");
    await page.getByText("No backup was made yet").waitFor();
    await more(page, "Remove…");
    assert.ok(await dialog.getByRole("button", { name: "Remove the config" }).isDisabled());
    await dialog.getByLabel(/^Type its name/).fill(name);
    assert.ok(await dialog.getByRole("button", { name: "Remove the config" }).isDisabled(), "its password would be lost");
    await dialog.getByLabel(/^The recovery kit is kept/).check();
    await dialog.getByRole("button", { name: "Remove the config" }).click();
    await toast(page, `Removed ${name}.`);
    assert.ok(readFileSync(join(folder, config.id, "config")).length > 0, "the repository is still there");
  });
  assert.deepEqual(page.complaints, []);
});

it("a repository that can't be made is told plainly, on the config and on the backup", async () => {
  const made = await api.call("POST", `${BACKUPS}/configs`, { serverId: container.id, name: `${PREFIX} blocked`, destination: folder });
  // A file stands where its folder has to be.
  writeFileSync(join(folder, made.id), "");
  const page = await browser.signedIn();
  await page.goto(`/backups/configs/${made.id}`);
  await page.getByRole("button", { name: "Back up now" }).click();
  await row(page, "asked for").getByText("failed").waitFor({ timeout: 60_000 });
  await hasStatus(page, "error");
  const { message } = await api.call("GET", `${BACKUPS}/configs/${made.id}`);
  assert.ok(message, "the config says why");
  await page.getByRole("status").getByText(message).waitFor();
  assert.deepEqual(page.complaints, []);
});
