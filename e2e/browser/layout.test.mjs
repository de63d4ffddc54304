import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Api, Browser, eventually, pictured, PREFIX } from "./lib.mjs";

let browser;
let api;
let container;
let cluster;
let config;
before(async () => {
  browser = await Browser.open();
  api = await Api.admin();
  container = await api.container(`${PREFIX}-a-name-that-is-rather-long-for-a-small-screen`, undefined, {
    ports: [{ container: 80 }, { container: 8080 }, { container: 9090, protocol: "udp" }],
    labels: { "com.example.a-label-key": "with a value that does not end for quite some time" },
    environment: { A_LONG_NAME_OF_A_VARIABLE: "x".repeat(300) },
  });
  cluster = await api.call("POST", "/api/capabilities/clusters", {
    name: `${PREFIX} a cluster whose name is rather long for a small screen`,
    type: "load-balanced",
    servers: [{ id: container.id, port: 8080, weight: 3 }],
    loadBalancer: { algorithm: "weighted" },
    autoScaling: { maxServers: 1, targetCpuPercent: 70, targetMemoryPercent: 80 },
    routes: [{ host: "a-host-with-a-long-name.of-a-domain.example.com", pathPrefix: "/a/path" }],
    tls: { selfSigned: true, serverNames: ["a-host-with-a-long-name.of-a-domain.example.com"] },
  });
  config = await api.call("POST", "/api/capabilities/backups/configs", {
    serverId: container.id,
    name: `${PREFIX} a config whose name is rather long for a small screen`,
    destination: "/a-folder-of-a-name/that-does-not-end/for-quite-some-time/on-a-small-screen/nm-browser-backups",
    schedule: "*/7 1-23/2 1,15 jan-jun mon-fri",
    excludes: ["/a/pattern/that-does-not-end/for-quite-some-time/on-a-small-screen/*.log"],
    keep: { last: 3, hourly: 24, daily: 7, weekly: 5, monthly: 12, yearly: 10 },
    status: "paused",
  });
});
after(async () => {
  await api?.removeAll();
  await browser?.close();
});
const it = (name, run) => test(name, { timeout: 120_000 }, pictured(() => browser, run));

const PATHS = () => [
  "/containers",
  "/containers/new",
  `/containers/${container.id}`,
  ...["stats", "logs", "terminal", "environment", "inspect"].map((tab) => `/containers/${container.id}/${tab}`),
  "/clusters",
  "/clusters?name=none-of-them",
  "/clusters/new",
  `/clusters/${cluster.id}`,
  ...["metrics", "scaling", "events", "edit"].map((tab) => `/clusters/${cluster.id}/${tab}`),
  "/backups",
  "/backups?name=none-of-them",
  "/backups/new",
  `/backups/configs/${config.id}`,
  `/backups/configs/${config.id}/edit`,
  "/images",
  "/volumes",
  "/networks",
  `/containers/${container.id}/events`,
  "/nodes",
  `/nodes/${container.nodeId}`,
  ...["stats", "containers", "events"].map((tab) => `/nodes/${container.nodeId}/${tab}`),
  "/health",
  "/health?show=all",
  `/health/${container.nodeId}`,
  `/health/${container.id}`,
  "/alerts",
  "/alerts/rules",
  "/alerts/channels",
  "/alerts/silences",
  "/registries",
  "/operations",
  "/events",
  "/users",
  "/tokens",
  "/audit",
  "/settings",
  "/nowhere",
];

for (const [what, options] of [
  ["a small screen", { viewport: { width: 390, height: 844 } }],
  ["a small screen in the light theme", { viewport: { width: 390, height: 844 }, colorScheme: "light" }],
  ["a wide screen in the dark theme", { colorScheme: "dark" }],
]) {
  it(`every page fits ${what}, breaks no policy and leaves no error`, async () => {
    const page = await browser.signedIn(undefined, undefined, options);
    for (const path of PATHS()) {
      await page.goto(path);
      await page.getByRole("heading", { level: 1 }).waitFor();
      await page.locator('[aria-busy="true"]').first().waitFor({ state: "detached" });
      const wide = await page.evaluate(() => {
        const main = document.getElementById("main");
        return main.scrollWidth - main.clientWidth;
      });
      assert.ok(wide <= 1, `${path} is ${wide} px wider than the screen`);
    }
    assert.deepEqual(page.complaints, []);
  });
}

it("every control has a name, and every page one heading", async () => {
  const page = await browser.signedIn();
  for (const path of PATHS()) {
    await page.goto(path);
    await page.getByRole("heading", { level: 1 }).waitFor();
    await page.locator('[aria-busy="true"]').first().waitFor({ state: "detached" });
    const nameless = await page.evaluate(() => {
      const named = (e) =>
        e.getAttribute("aria-label") || e.getAttribute("aria-labelledby") || e.textContent?.trim() || e.title || e.labels?.length > 0 || e.closest("label");
      return [...document.querySelectorAll("button, a[href], input, select, textarea")].filter((e) => !named(e)).map((e) => e.outerHTML.slice(0, 160));
    });
    assert.deepEqual(nameless, [], path);
    assert.equal(await page.locator("h1").count(), 1, path);
  }
});

it("everything is reached by keyboard: menus, dialogs, the search, the palette", async () => {
  const page = await browser.signedIn();
  await page.keyboard.press("/");
  assert.equal(await page.evaluate(() => document.activeElement?.getAttribute("aria-label")), "Search containers");
  await page.keyboard.type(PREFIX);
  const more = page.getByRole("button", { name: /^More actions for/ }).first();
  await more.waitFor();
  await more.focus();
  await page.keyboard.press("Enter");
  await page.getByRole("menu").waitFor();
  await page.keyboard.press("End");
  assert.match(await page.evaluate(() => document.activeElement?.textContent), /Remove/);
  await page.keyboard.press("Enter");
  const dialog = page.getByRole("dialog");
  await dialog.waitFor();
  for (let i = 0; i < 12; i++) {
    await page.keyboard.press("Tab");
    // The browser's own bar is the one place outside the dialog that the focus may pass.
    assert.ok(await page.evaluate(() => document.activeElement === document.body || document.activeElement?.closest("dialog")), "the focus leaves the dialog");
  }
  await page.keyboard.press("Escape");
  await dialog.waitFor({ state: "detached" });
  await eventually("the focus is back", () => page.evaluate(() => /More actions/.test(document.activeElement?.getAttribute("aria-label") ?? "")));
  await page.keyboard.press("Control+k");
  await page.getByRole("combobox", { name: /Go to/ }).waitFor();
  await page.keyboard.type("netw");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { level: 1, name: "Networks" }).waitFor();
});

it("the theme is chosen, kept, and never flashes", async () => {
  const page = await browser.signedIn(undefined, undefined, { colorScheme: "dark" });
  await page.goto("/settings");
  const background = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const dark = await background();
  await page.getByRole("button", { name: "Light", exact: true }).click();
  await eventually("it is light", async () => (await background()) !== dark);
  await page.reload();
  // Set by a script before the first paint, not by the application.
  assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), "light");
});

it("a server that goes away is noticed, and found again", async () => {
  const page = await browser.signedIn();
  await page.getByText("Live", { exact: true }).waitFor();
  await page.context().setOffline(true);
  await page.goto("/nodes").catch(() => undefined);
  await page.context().setOffline(false);
  await page.goto("/nodes");
  await page.getByRole("heading", { level: 1, name: "Nodes" }).waitFor();
  await page.route("**/api/nodes*", (route) => route.abort());
  await page.getByRole("link", { name: "Images" }).click();
  await page.getByRole("heading", { level: 1, name: "Images" }).waitFor();
  await page.route("**/api/images*", (route) => route.abort());
  await page.getByRole("link", { name: "Volumes" }).click();
  await page.route("**/api/volumes*", (route) => route.abort());
  await page.getByRole("link", { name: "Networks" }).click();
  await page.route("**/api/networks*", (route) => route.fulfill({ status: 503, json: { success: false, error: "node `n` is offline", code: "node_offline", requestId: "req_1" } }));
  await page.reload();
  await page.getByText("node `n` is offline", { exact: false }).waitFor({ timeout: 30_000 });
  await page.getByText("req_1").waitFor();
  await page.unroute("**/api/networks*");
  await page.getByRole("button", { name: "Retry" }).click();
  await page.locator("tbody tr", { hasText: "bridge" }).first().waitFor();
});
