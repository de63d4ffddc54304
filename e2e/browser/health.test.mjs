import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Api, Browser, eventually, hasStatus, pictured, PREFIX, Receiver, toast } from "./lib.mjs";

let browser;
let api;
let node;
let receiver;
before(async () => {
  browser = await Browser.open();
  api = await Api.admin();
  receiver = await Receiver.open();
  [node] = await api.call("GET", "/api/nodes");
});
after(async () => {
  await receiver?.close();
  if (node) await api.raw("PUT", `/api/capabilities/health/${node.id}/config`, {});
  await api?.removeAll();
  await browser?.close();
});
const it = (name, run) => test(name, { timeout: 120_000 }, pictured(() => browser, run));

it("a node and a container are checked five ways, by themselves and when asked", async () => {
  const name = `${PREFIX}-checked`;
  const container = await api.container(name);
  const page = await browser.signedIn();
  await page.goto("/health?kind=container");
  const row = page.locator("tbody tr", { hasText: name });
  await row.locator(".status", { hasText: "healthy" }).waitFor({ timeout: 60_000 });
  const checks = (await row.locator(".checks li").allTextContents()).map((text) => text.trim());
  assert.deepEqual(
    checks,
    ["cpu", "memory", "disk", "network", "services"].map((c) => `${c} passed`),
  );
  await page.getByRole("button", { name: `Check ${name} now` }).click();
  await toast(page, `${name} passed all checks.`);
  await row.getByRole("link", { name }).click();
  await hasStatus(page, "healthy");
  await page.getByRole("list", { name: "Checks" }).getByText("memory", { exact: true }).waitFor();
  await page.locator('table[aria-label="Changes of health"] tbody tr').first().waitFor();
  // Stopped on purpose, it is not meant to run and is checked no more.
  await api.call("POST", `/api/containers/${container.id}/stop`);
  await page.getByText("It is not checked by itself", { exact: false }).waitFor();
  await page.goto(`/health/${node.id}`);
  for (const tile of ["In this state", "Up for", "Response time", "Available, 24 hours", "7 days", "30 days"]) {
    await page.locator(".tile", { hasText: tile }).first().waitFor();
  }
  await page.getByRole("list", { name: "Checks" }).getByText("round trip", { exact: false }).waitFor();
  assert.deepEqual(page.complaints, []);
});

it("an address is registered, seen to fail with what was seen and its limit, changed and forgotten", async (t) => {
  const name = `${PREFIX}-address`;
  const page = await browser.signedIn();
  await page.goto("/health");
  const dialog = page.getByRole("dialog");

  await t.test("wrong fields are told before anything is sent", async () => {
    await page.getByRole("button", { name: "Register an address" }).click();
    await dialog.getByLabel("Name").fill(name);
    await dialog.getByLabel("Address", { exact: true }).fill("http://127.0.0.1");
    await dialog.getByLabel("Checked by").selectOption("http");
    await dialog.getByLabel(/^Port/).fill(String(receiver.port));
    await dialog.getByLabel(/^Path/).fill("up");
    await dialog.getByRole("button", { name: "Register" }).click();
    await dialog.getByText("without scheme or port").waitFor();
    await dialog.getByText("Starts with /", { exact: false }).waitFor();
  });

  await t.test("set right, it is checked at once", async () => {
    await dialog.getByLabel("Address", { exact: true }).fill("127.0.0.1");
    await dialog.getByLabel(/^Path/).fill("/up");
    await dialog.getByRole("button", { name: "Register" }).click();
    await page.getByRole("heading", { level: 1, name }).waitFor();
    await hasStatus(page, "healthy");
    assert.ok(receiver.requests.some((r) => r.url === "/up"));
  });

  await t.test("once nothing listens there, it says what it saw and what it has to be", async () => {
    await receiver.close();
    await page.getByRole("button", { name: "Check now" }).click();
    await hasStatus(page, "unhealthy");
    const line = page.locator(".check-list .failed", { hasText: "network" });
    await line.getByText("nothing listens on", { exact: false }).waitFor();
    await line.getByText("has to be reachable").waitFor();
    await eventually("both times are in its history", async () => (await page.locator('table[aria-label="Changes of health"] tbody tr').count()) >= 2);
    await page.goto("/health?status=unhealthy");
    await page.locator("tbody tr", { hasText: name }).locator(".checks .failed").first().waitFor();
  });

  await t.test("it is changed, and forgotten", async () => {
    await page.getByRole("link", { name, exact: true }).click();
    await page.getByRole("button", { name: "More actions" }).click();
    await page.getByRole("menuitem", { name: "Change the address…" }).click();
    await dialog.getByLabel("Name").fill(`${name}-2`);
    await dialog.getByRole("button", { name: "Save" }).click();
    await page.getByRole("heading", { level: 1, name: `${name}-2` }).waitFor();
    await page.getByRole("button", { name: "More actions" }).click();
    await page.getByRole("menuitem", { name: "Forget it…" }).click();
    await dialog.getByRole("button", { name: "Forget it" }).click();
    await page.getByRole("heading", { level: 1, name: "Health" }).waitFor();
    await page.goto("/health?show=all&kind=address");
    await page.locator('[aria-busy="true"]').first().waitFor({ state: "detached" });
    assert.equal(await page.getByText(`${name}-2`).count(), 0);
  });
  assert.deepEqual(page.complaints, []);
});

it("a limit of one server's own makes a check fail, and without it the check passes", async () => {
  const page = await browser.signedIn();
  await page.goto(`/health/${node.id}`);
  const dialog = page.getByRole("dialog");
  const limits = async (fail, recover) => {
    await page.getByRole("button", { name: "More actions" }).click();
    await page.getByRole("menuitem", { name: "How it is checked…" }).click();
    await dialog.getByLabel("File system in use, fails at").fill(fail);
    await dialog.getByLabel("File system in use, passes again at").fill(recover);
    await dialog.getByRole("button", { name: "Save" }).click();
  };
  await limits("1", "50");
  await dialog.getByText("At most the first").waitFor();
  await dialog.getByLabel("File system in use, passes again at").fill("0.5");
  await dialog.getByRole("button", { name: "Save" }).click();
  await dialog.waitFor({ state: "detached" });
  await page.getByRole("button", { name: "Check now" }).click();
  const failed = page.locator(".check-list .failed", { hasText: "disk" }).first();
  await failed.getByText("has to be", { exact: false }).waitFor();
  assert.match(await failed.innerText(), /\d+(\.\d)? %/);
  await hasStatus(page, "degraded");
  await limits("", "");
  await dialog.waitFor({ state: "detached" });
  await page.getByRole("button", { name: "Check now" }).click();
  await failed.waitFor({ state: "detached" });
  assert.deepEqual(page.complaints, []);
});

it("the limits of all are shown to admins, and one out of range is told at its field", async () => {
  const page = await browser.signedIn();
  await page.goto("/health");
  await page.getByRole("button", { name: "Limits…" }).click();
  const dialog = page.getByRole("dialog");
  const every = dialog.getByLabel("Checked every");
  const before = await every.inputValue();
  await every.fill("5");
  await dialog.getByRole("button", { name: "Save" }).click();
  await dialog.getByText("A whole number from 10 to 300").waitFor();
  await every.fill(before);
  await dialog.getByRole("button", { name: "Save" }).click();
  await toast(page, "The limits hold from now on.");
});
