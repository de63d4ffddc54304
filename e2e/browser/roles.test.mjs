import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Api, Browser, pictured, PREFIX } from "./lib.mjs";

let browser;
let api;
let container;
let cluster;
let config;
before(async () => {
  browser = await Browser.open();
  api = await Api.admin();
  for (const role of ["viewer", "operator"]) await api.call("POST", "/api/users", { username: `${PREFIX}-${role}`, password: "a-long-password", role });
  container = await api.container(`${PREFIX}-seen`, undefined, { environment: { APP_PASSWORD: "nobody-may-read-this", APP_MODE: "plain" } });
  cluster = await api.call("POST", "/api/capabilities/clusters", { name: `${PREFIX}-cluster`, type: "high-availability", servers: [{ id: container.id, port: 80 }] });
  config = await api.call("POST", "/api/capabilities/backups/configs", { serverId: container.id, name: `${PREFIX}-backups`, destination: "/nm-browser-backups" });
});
after(async () => {
  await api?.removeAll();
  await browser?.close();
});
const it = (name, run) => test(name, { timeout: 90_000 }, pictured(() => browser, run));

it("a viewer sees everything and can change nothing", async () => {
  const page = await browser.signedIn(`${PREFIX}-viewer`, "a-long-password");
  await page.getByRole("link", { name: `${PREFIX}-seen`, exact: true }).waitFor();
  for (const [path, heading] of [
    ["/containers", "Containers"],
    ["/clusters", "Clusters"],
    [`/clusters/${cluster.id}`],
    [`/clusters/${cluster.id}/metrics`],
    [`/clusters/${cluster.id}/scaling`],
    [`/clusters/${cluster.id}/events`],
    ["/backups", "Backups"],
    [`/backups/configs/${config.id}`],
    ["/images", "Images"],
    ["/volumes", "Volumes"],
    ["/networks", "Networks"],
    ["/nodes", "Nodes"],
    [`/nodes/${container.nodeId}`],
    [`/nodes/${container.nodeId}/containers`],
    ["/health", "Health"],
    [`/health/${container.nodeId}`],
    ["/alerts", "Alerts"],
    ["/alerts/rules", "Alert rules"],
    ["/alerts/channels", "Alert channels"],
    ["/alerts/silences", "Silences"],
    ["/registries", "Registries"],
    ["/operations", "Operations"],
  ]) {
    await page.goto(path);
    await (heading ? page.getByRole("heading", { level: 1, name: heading }) : page.locator("h1 .status")).waitFor();
    await page.locator('table[aria-busy="true"]').waitFor({ state: "detached" });
    const actions = page.getByRole("main").getByRole("button", { name: /create|pull|prune|remove|start|stop|restart|actions|add|change|cancel|cordon|drain|check .*now|register|limits|acknowledge|silence|test|make|fail over|edit|take|back up|pause|restore|recovery|pin|delete/i });
    assert.deepEqual(await actions.allInnerTexts(), [], `${path} offers actions`);
    assert.equal(await page.locator('a[href="/containers/new"], a[href="/clusters/new"], a[href^="/backups/new"], a[href$="/edit"]').count(), 0, `${path} offers to create or edit`);
  }
  for (const path of ["/clusters/new", `/clusters/${cluster.id}/edit`, "/backups/new", `/backups/configs/${config.id}/edit`]) {
    await page.goto(path);
    await page.getByText("This page needs the role operator").waitFor();
  }
  await page.goto(`/containers/${container.id}`);
  await page.getByRole("heading", { level: 1, name: `${PREFIX}-seen` }).waitFor();
  for (const name of ["Stop", "Restart", "Pause", "More actions"]) assert.equal(await page.getByRole("button", { name, exact: true }).count(), 0, name);
  assert.equal(await page.getByRole("link", { name: "Terminal" }).count(), 0);
  await page.getByRole("link", { name: "Environment" }).click();
  await page.getByText("APP_PASSWORD").waitFor();
  await page.getByText("plain").waitFor();
  await page.getByRole("link", { name: "Inspect" }).click();
  await page.getByText("What Docker says of it").waitFor();
  assert.ok(!(await page.content()).includes("nobody-may-read-this"), "the secret is not on any page");
  assert.deepEqual(page.complaints, []);
});

it("pages for admins are not offered to others, and say so when they are asked for", async () => {
  const page = await browser.signedIn(`${PREFIX}-operator`, "a-long-password");
  for (const name of ["Users", "Audit log"]) assert.equal(await page.getByRole("link", { name, exact: true }).count(), 0, name);
  for (const path of ["/users", "/audit"]) {
    await page.goto(path);
    await page.getByText("This page needs the role admin").waitFor();
  }
  await page.goto("/nodes");
  await page.locator("tbody tr a").first().waitFor();
  assert.equal(await page.getByRole("button", { name: "Add a node" }).count(), 0);
  await page.goto("/containers/new");
  await page.getByRole("button", { name: "Create and start" }).waitFor();
  assert.deepEqual(page.complaints, []);
});
