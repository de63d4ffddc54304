import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Api, Browser, eventually, hasStatus, pictured, PREFIX, toast } from "./lib.mjs";

const CLUSTERS = "/api/capabilities/clusters";
const NAME = `${PREFIX}-orders`;
/** How long a database of one node takes, also where its image is to be built first. */
const MADE = 240_000;

let browser;
let api;
let node;
/** Ids of the clusters whose members' volumes are to go. */
const volumes = new Set();
before(async () => {
  browser = await Browser.open();
  api = await Api.admin();
  [node] = (await api.call("GET", "/api/nodes")).filter((n) => n.status === "ready");
  for (const role of ["viewer", "operator"]) await api.call("POST", "/api/users", { username: `${PREFIX}-${role}`, password: "a-long-password", role });
});
after(async () => {
  await api?.removeAll();
  for (const id of volumes) for (const name of [`nm-${id}`, `nm-${id}-archive`]) await api.raw("DELETE", `/api/volumes/${name}?nodeId=${node.id}`);
  await browser?.close();
});
const it = (name, run) => test(name, { timeout: 360_000 }, pictured(() => browser, run));

const find = async (name) => (await api.call("GET", `${CLUSTERS}?limit=200`)).find((c) => c.name === name);
const main = (page) => page.getByRole("main");
const tab = (page, name) => page.getByRole("navigation", { name: "Cluster", exact: true }).getByRole("link", { name }).click();
const part = (page, title) => page.locator("details.section").filter({ has: page.getByRole("heading", { name: title, exact: true }) });
const open = async (page, title) => {
  const section = part(page, title);
  if ((await section.getAttribute("open")) === null) await section.locator("summary").click();
};
/** What stands at a field that is wrong. */
const told = (page, field) =>
  eventually("what is told of it", () =>
    field.evaluate((e) => (e.getAttribute("aria-invalid") ? document.getElementById(e.getAttribute("aria-describedby"))?.textContent : null)),
  );
/** What is sent to clusters by a method. */
function sent(page, method) {
  const out = [];
  page.on("request", (r) => {
    if (r.method() === method && r.url().includes(CLUSTERS)) out.push({ path: new URL(r.url()).pathname, body: r.postDataJSON() });
  });
  return out;
}
const ready = (name) => eventually(`${name} takes writes`, async () => (await find(name))?.database.state === "ready" && (await find(name)), MADE);

/** One that the tests share which only look. */
let shared;
async function one() {
  if (!shared) {
    const name = `${PREFIX}-a-database-whose-name-is-rather-long-for-a-small-screen`;
    const made = await api.call("POST", CLUSTERS, {
      name,
      type: "database",
      servers: [node.id],
      database: { parameters: { log_min_duration_statement: "250ms", work_mem: "8MB" }, extensions: ["pg_trgm", "pg_stat_statements"] },
    });
    volumes.add(made.id);
    shared = ready(name);
  }
  return shared;
}

it("from the form to its end: wrong fields, passwords, a change, removed", async (t) => {
  const page = await browser.signedIn(undefined, undefined, { permissions: ["clipboard-read", "clipboard-write"] });
  const posts = sent(page, "POST");
  const patches = sent(page, "PATCH");
  const gets = sent(page, "GET");
  const asked = () => gets.filter((r) => r.path.endsWith("/database/credentials")).length;
  const dialog = page.getByRole("dialog");
  let id;

  await t.test("only nodes are offered, and nothing that a database refuses", async () => {
    await page.goto("/clusters/new");
    await page.getByRole("button", { name: "Database", exact: false }).click();
    const groups = await page.getByLabel("Node 1", { exact: true }).locator("optgroup").evaluateAll((all) => all.map((g) => g.label));
    assert.deepEqual(groups, ["Nodes"]);
    for (const title of ["TLS", "Health check", "Auto-scaling", "Sticky sessions", "Routes", "Failback"]) assert.equal(await part(page, title).count(), 0, title);
    for (const title of ["Reads", "Connection pool", "Parameters", "Limits and image", "Advanced"]) await open(page, title);
    for (const label of ["Slow start", "Drain time", "Retries", /^Port of server/]) assert.equal(await page.getByLabel(label).count(), 0, String(label));
    assert.equal(await page.getByText("Protocol", { exact: true }).count(), 0);
  });

  await t.test("what is wrong is told at its field, and nothing is sent", async () => {
    await page.getByLabel("Name", { exact: true }).fill(NAME);
    await page.getByLabel(/^Name of the database/).fill("postgres");
    await page.getByRole("button", { name: "Add a parameter" }).click();
    await page.getByLabel("Value of parameter 1").fill("on");
    await page.getByRole("button", { name: "Create", exact: true }).click();
    assert.match(await told(page, page.getByLabel("Node 1", { exact: true })), /Choose a node/);
    assert.match(await told(page, page.getByLabel(/^Name of the database/)), /PostgreSQL's own/);
    assert.match(await told(page, page.getByLabel("Name of parameter 1")), /Say which parameter/);
    assert.deepEqual(posts, []);
  });

  await t.test("what the server refuses is told at the row it came from", async () => {
    await page.getByLabel("Node 1", { exact: true }).selectOption(node.id);
    await page.getByText("Fewer than three nodes do not survive the loss of one.").waitFor();
    await page.getByLabel(/^Name of the database/).fill("orders");
    await page.getByLabel("Name of parameter 1").fill("ssl");
    await page.getByRole("button", { name: "Create", exact: true }).click();
    assert.match(await told(page, page.getByLabel("Name of parameter 1")), /the cluster sets this parameter itself/);
    assert.equal(await find(NAME), undefined);
  });

  await t.test("set right, it is made, and is not called down meanwhile", async () => {
    await page.getByLabel("Name of parameter 1").fill("max_connections");
    await page.getByLabel("Value of parameter 1").fill("80");
    await page.getByLabel(/^Extensions/).fill("pg_trgm, citext");
    await page.getByLabel("Read lag limit").fill("20");
    await page.getByText("Have clients share connections").click();
    await page.getByRole("button", { name: "By session" }).click();
    posts.length = 0;
    await page.getByRole("button", { name: "Create", exact: true }).click();
    await page.getByRole("heading", { level: 1, name: NAME }).waitFor();
    id = (await find(NAME)).id;
    volumes.add(id);
    await hasStatus(page, /being made|healthy/);
    assert.deepEqual(posts, [
      {
        path: CLUSTERS,
        body: {
          name: NAME,
          type: "database",
          servers: [node.id],
          database: {
            name: "orders",
            readLagLimit: 20,
            pool: { mode: "session" },
            parameters: { max_connections: "80" },
            extensions: ["pg_trgm", "citext"],
          },
        },
      },
    ]);
    await page.locator("h1 .status", { hasText: "healthy" }).waitFor({ timeout: MADE });
  });

  await t.test("the overview tells who takes the writes", async () => {
    await main(page).getByText(`${node.name} takes the writes`).waitFor();
    const row = page.getByRole("table", { name: `Nodes of ${NAME}` }).locator("tbody tr");
    await row.locator(".status", { hasText: "primary" }).waitFor();
    await main(page).getByText("do not survive the loss of one").waitFor();
    await page.getByRole("button", { name: `Actions for ${node.name}` }).click();
    // A member is taken out as a whole: there is nothing to weigh, and nothing to drain.
    assert.deepEqual(await page.getByRole("menuitem").allInnerTexts(), ["Take it out…"]);
    await page.keyboard.press("Escape");
    assert.equal(await page.getByRole("navigation", { name: "Cluster", exact: true }).getByRole("link", { name: "Auto-scaling" }).count(), 0);
  });

  await t.test("its tab has members, ports and what clients connect with", async () => {
    await tab(page, "Database");
    const { database } = await find(NAME);
    await main(page).getByText("Not highly available.").waitFor();
    await main(page).locator(".entry-card .status", { hasText: "takes writes" }).waitFor();
    const [member] = database.members;
    const row = page.getByRole("table", { name: `Members of ${NAME}` }).locator("tbody tr");
    const cells = (await row.locator("td").allInnerTexts()).map((c) => c.trim());
    assert.deepEqual(cells.slice(0, 7), [node.name, "primary", "running", String(member.timeline), "–", "–", "votes"]);
    assert.equal(await row.getByRole("link", { name: /Open/ }).getAttribute("href"), `/containers/${member.containerId}`);
    for (const port of [database.readWritePort, database.readOnlyPort]) await main(page).locator("dd code", { hasText: new RegExp(`^${port}$`) }).waitFor();
    await main(page).getByText(`of ${database.maxConnections}`).waitFor();
    await page.getByRole("button", { name: "Copy the address for writes", exact: true }).click();
    assert.equal(await page.evaluate(() => navigator.clipboard.readText()), database.connectionStrings.readWrite);
    await page.getByRole("button", { name: "Copy the address for reads", exact: true }).click();
    assert.equal(await page.evaluate(() => navigator.clipboard.readText()), database.connectionStrings.readOnly);
  });

  await t.test("passwords are asked for when they are to be seen, and kept nowhere", async () => {
    const known = await api.call("GET", `${CLUSTERS}/${id}/database/credentials`);
    const secrets = [known.application.password, known.admin.password];
    const onPage = async () => {
      const content = await page.content();
      return secrets.filter((s) => content.includes(s));
    };
    assert.deepEqual(await onPage(), [], "nothing is shown before");
    assert.equal(asked(), 0, "nothing is asked for before");

    await page.getByRole("button", { name: "Show passwords" }).click();
    await main(page).getByText(known.application.password, { exact: true }).waitFor();
    await main(page).getByText(known.admin.password, { exact: true }).waitFor();
    assert.equal(asked(), 1);
    await page.getByRole("button", { name: "Copy the address for writes with its password" }).click();
    assert.equal(await page.evaluate(() => navigator.clipboard.readText()), known.readWrite);
    const [file] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: "Download the certificate" }).click()]);
    assert.equal(file.suggestedFilename(), `${NAME}-ca.pem`);
    const kept = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, location.href, history.state]));
    for (const secret of secrets) assert.ok(!kept.includes(secret), "it is in no store of the browser");

    await page.getByRole("button", { name: "Hide passwords" }).click();
    await page.getByRole("button", { name: "Show passwords" }).waitFor();
    assert.deepEqual(await onPage(), [], "hidden, they are gone from the page");
    // Shown again, they are asked for again: nothing was kept.
    await page.getByRole("button", { name: "Show passwords" }).click();
    await main(page).getByText(known.admin.password, { exact: true }).waitFor();
    assert.equal(asked(), 2);
    await tab(page, "Events");
    await page.getByRole("list", { name: "Events" }).waitFor();
    await tab(page, "Database");
    await page.getByRole("button", { name: "Show passwords" }).waitFor();
    assert.deepEqual(await onPage(), [], "who comes back has to ask anew");
    assert.equal(asked(), 2);
    await eventually("it is in the audit log", async () =>
      (await api.call("GET", `/api/audit?action=cluster.databaseCredentials&target=${id}`)).length === 3,
    );
  });

  await t.test("who is alone hands over to nobody", async () => {
    await page.getByRole("button", { name: "Switch over" }).click();
    await dialog.getByText("It has one member only").waitFor();
    assert.ok(await dialog.getByRole("button", { name: "Switch over" }).isDisabled());
    await dialog.getByRole("button", { name: "Cancel" }).click();
  });

  await t.test("lists and the node's page do not call it down", async () => {
    await page.goto(`/clusters?name=${NAME}`);
    const row = page.locator("tbody tr", { hasText: NAME });
    await row.getByText("Database · PostgreSQL 15").waitFor();
    await row.getByText(`${node.name} takes the writes; not highly available`).waitFor();
    await row.getByText("1 of 1").waitFor();
    await page.getByLabel("Type").selectOption("database");
    await row.waitFor();
    await page.getByLabel("Type").selectOption("load-balanced");
    await row.waitFor({ state: "detached" });
    await page.goto(`/nodes/${node.id}`);
    await page.locator("li", { has: page.getByRole("link", { name: NAME, exact: true }) }).locator(".status", { hasText: "primary" }).waitFor();
  });

  await t.test("a change sends what was changed alone; name and version stay", async () => {
    await page.goto(`/clusters/${id}/edit`);
    await page.getByText("Nothing is changed yet.").waitFor();
    const types = page.getByRole("group", { name: "Type" }).getByRole("button");
    assert.equal(await types.count(), 1, "it can't become anything else");
    assert.ok(await page.getByLabel(/^Name of the database/).isDisabled());
    await open(page, "Limits and image");
    assert.ok(await page.getByLabel(/^Version of PostgreSQL/).isDisabled());
    assert.equal(await page.getByLabel(/^Extensions/).inputValue(), "pg_trgm citext");
    await page.getByRole("button", { name: "Add a parameter" }).click();
    await page.getByLabel("Name of parameter 2").fill("work_mem");
    await page.getByLabel("Value of parameter 2").fill("8MB");
    await page.getByText("Synchronous", { exact: false }).first().click();
    await page.getByRole("button", { name: "Save" }).click();
    await page.getByRole("heading", { level: 1, name: NAME }).waitFor();
    assert.deepEqual(patches.map((p) => p.body), [{ database: { synchronous: false, parameters: { work_mem: "8MB" } } }]);
    await tab(page, "Database");
    await main(page).getByText("work_mem = 8MB").waitFor();
    await main(page).getByText("acknowledged once the primary has them on disk").waitFor();
  });

  await t.test("it is removed by its name, and says where the data stays", async () => {
    await ready(NAME);
    await page.getByRole("button", { name: "More actions" }).click();
    await page.getByRole("menuitem", { name: "Remove…" }).click();
    for (const volume of [`nm-${id}`, `nm-${id}-archive`]) await dialog.getByText(volume, { exact: true }).waitFor();
    await dialog.getByLabel(/^Type its name/).fill(NAME);
    await dialog.getByRole("button", { name: "Remove the cluster" }).click();
    await page.getByRole("heading", { level: 1, name: "Clusters" }).waitFor({ timeout: 60_000 });
    await toast(page, `Removed ${NAME}.`);
    assert.equal(await find(NAME), undefined);
  });
  assert.deepEqual(page.complaints, []);
});

/** The answers on clusters, as those of three nodes would be: this machine is one. */
async function ofThree(page) {
  const ids = [node.id, "node_second", "node_third"];
  const names = [node.name, "second", "third"];
  const more = (cluster) => {
    if (cluster.type !== "database") return cluster;
    const [entry, [inside]] = [cluster.members[0], cluster.database.members];
    // The entry for writes calls every replica down.
    const members = ids.map((id, i) => ({ ...entry, id, name: names[i], state: i === 0 ? "up" : "down", reason: i === 0 ? "" : "answered 503" }));
    const follow = { ...inside, role: "replica", state: "streaming" };
    return {
      ...cluster,
      servers: ids,
      members,
      conditions: [],
      database: {
        ...cluster.database,
        highlyAvailable: true,
        slots: [
          { name: ids[1], active: true, retainedBytes: 1_048_576 },
          { name: "warehouse", active: false, retainedBytes: 734_003_200 },
        ],
        members: [
          inside,
          { ...follow, server: ids[1], name: names[1], role: "sync-standby", lagBytes: 0, lagSeconds: 0.02, pendingRestart: true },
          { ...follow, server: ids[2], name: names[2], lagBytes: 52_428_800, lagSeconds: 41.2, etcd: false },
        ],
      },
    };
  };
  await page.route(/\/api\/capabilities\/clusters(\/cluster_[^/?]+)?(\?.*)?$/, async (route) => {
    const response = await route.fetch();
    const json = await response.json();
    // A token that has ended is refreshed, and the request sent again.
    if (!json.success) return route.fulfill({ response, json });
    json.data = Array.isArray(json.data) ? json.data.map(more) : more(json.data);
    await route.fulfill({ response, json });
  });
}

it("of several members each says what it is, and another one takes over", async () => {
  const cluster = await one();
  const page = await browser.signedIn();
  await ofThree(page);
  await page.goto(`/clusters/${cluster.id}`);
  const nodes = page.getByRole("table", { name: `Nodes of ${cluster.name}` });
  await nodes.locator("tbody tr").nth(2).waitFor();
  assert.deepEqual(await nodes.locator(".status").allInnerTexts(), ["primary", "synchronous standby", "replica"]);
  await nodes.getByText("more than 30 s behind: it gets no reads").waitFor();
  assert.equal(await nodes.getByText("answered 503").count(), 0);
  await main(page).getByText("of 3", { exact: true }).waitFor();
  assert.equal(await main(page).getByText("highly available").count(), 0);

  await tab(page, "Database");
  const rows = page.getByRole("table", { name: `Members of ${cluster.name}` }).locator("tbody tr");
  await rows.nth(2).waitFor();
  const cells = async (i) => (await rows.nth(i).locator("td").allInnerTexts()).map((c) => c.trim().replace(/\s+/g, " "));
  assert.deepEqual((await cells(1)).slice(1, 7), ["synchronous standby a parameter waits for a restart, which comes by itself", "streaming", "1", "0 B", "<0.1 s", "votes"]);
  assert.deepEqual((await cells(2)).slice(1, 7), ["replica more than 30 s behind: it gets no reads", "streaming", "1", "50 MiB", "41 s", "–"]);
  const slots = page.getByRole("list", { name: "Replication slots" });
  await slots.locator("li", { hasText: "second" }).getByText("active").waitFor();
  await slots.locator("li", { hasText: "warehouse" }).getByText("700 MiB of the log are kept for it").waitFor();

  const dialog = page.getByRole("dialog");
  await page.getByRole("button", { name: "Switch over" }).click();
  await dialog.getByText("Every client is disconnected and connects anew").waitFor();
  const to = dialog.getByLabel("To");
  assert.deepEqual(await to.locator("option").allInnerTexts(), ["The replica that is least behind", "second, synchronous standby", "third, replica"]);
  await to.selectOption("node_third");
  await dialog.getByText("Behind by 50 MiB, 41 s").waitFor();
  // The real one knows nobody of this name, and says so in the dialog.
  const [request] = await Promise.all([
    page.waitForRequest((r) => r.method() === "POST" && r.url().endsWith(`/clusters/${cluster.id}/database/switchover`)),
    dialog.getByRole("button", { name: "Switch over" }).click(),
  ]);
  assert.deepEqual(request.postDataJSON(), { to: "node_third" });
  await dialog.getByRole("alert").getByText("node_third").waitFor();
  await to.selectOption("");
  const [plain] = await Promise.all([
    page.waitForRequest((r) => r.method() === "POST" && r.url().endsWith("/database/switchover")),
    dialog.getByRole("button", { name: "Switch over" }).click(),
  ]);
  assert.deepEqual(plain.postDataJSON(), {});
  await dialog.getByRole("alert").getByText("no other member that could take the writes", { exact: false }).waitFor();
  assert.deepEqual(page.complaints, []);
});

it("a viewer sees it and changes nothing; an operator hands over, but sees no passwords and names no nodes", async () => {
  const cluster = await one();
  for (const role of ["viewer", "operator"]) {
    const page = await browser.signedIn(`${PREFIX}-${role}`, "a-long-password");
    const gets = sent(page, "GET");
    await page.goto(`/clusters/${cluster.id}/database`);
    await page.getByRole("table", { name: `Members of ${cluster.name}` }).locator("tbody tr").waitFor();
    await page.getByRole("button", { name: "Copy the address for writes", exact: true }).waitFor();
    assert.equal(await page.getByText("Passwords").count(), 0, role);
    assert.equal(await page.getByRole("button", { name: "Switch over" }).count(), role === "operator" ? 1 : 0, role);
    await page.goto(`/clusters/${cluster.id}`);
    await page.getByRole("table", { name: `Nodes of ${cluster.name}` }).waitFor();
    assert.equal(await page.getByRole("button", { name: "Add nodes" }).count(), 0, role);
    if (role === "operator") {
      await page.goto("/clusters/new");
      await page.getByRole("button", { name: "Load-balanced" }).waitFor();
      assert.equal(await page.getByRole("group", { name: "Type" }).getByRole("button", { name: "Database" }).count(), 0);
    }
    assert.equal(gets.filter((r) => r.path.endsWith("/credentials")).length, 0, role);
    assert.deepEqual(page.complaints, []);
  }
});

for (const [what, options] of [
  ["a small screen", { viewport: { width: 390, height: 844 } }],
  ["a small screen in the light theme", { viewport: { width: 390, height: 844 }, colorScheme: "light" }],
  ["a wide screen in the dark theme", { colorScheme: "dark" }],
]) {
  it(`its pages fit ${what}, and every control of them has a name`, async () => {
    const cluster = await one();
    const page = await browser.signedIn(undefined, undefined, options);
    const fits = async (path) => {
      await page.getByRole("heading", { level: 1 }).waitFor();
      await page.locator('[aria-busy="true"]').first().waitFor({ state: "detached" });
      const wide = await page.evaluate(() => document.getElementById("main").scrollWidth - document.getElementById("main").clientWidth);
      assert.ok(wide <= 1, `${path} is ${wide} px wider than the screen`);
      const nameless = await page.evaluate(() => {
        const named = (e) =>
          e.getAttribute("aria-label") || e.getAttribute("aria-labelledby") || e.textContent?.trim() || e.title || e.labels?.length > 0 || e.closest("label");
        return [...document.querySelectorAll("button, a[href], input, select, textarea")].filter((e) => !named(e)).map((e) => e.outerHTML.slice(0, 160));
      });
      assert.deepEqual(nameless, [], path);
      assert.equal(await page.locator("h1").count(), 1, path);
    };
    await page.goto("/clusters/new");
    await page.getByRole("group", { name: "Type" }).getByRole("button", { name: "Database" }).click();
    for (const title of ["Reads", "Connection pool", "Parameters", "Limits and image", "Advanced"]) await open(page, title);
    await page.getByText("Have clients share connections").click();
    await page.getByRole("button", { name: "Add a parameter" }).click();
    await fits("the form");
    await page.goto(`/clusters/${cluster.id}/database`);
    await page.getByRole("button", { name: "Show passwords" }).click();
    await page.getByRole("button", { name: "Hide passwords" }).waitFor();
    await fits("the tab with passwords");
    await ofThree(page);
    for (const path of ["/clusters", `/clusters/${cluster.id}`, `/clusters/${cluster.id}/database`, `/clusters/${cluster.id}/edit`]) {
      await page.goto(path);
      await page.getByText(path.endsWith("/edit") ? "Nothing is changed yet." : cluster.name).first().waitFor();
      await fits(path);
    }
    await page.goto(`/clusters/${cluster.id}`);
    await page.getByRole("button", { name: "Switch over" }).click();
    await page.getByRole("dialog").getByLabel("To").waitFor();
    await fits("the dialog");
    assert.deepEqual(page.complaints, []);
  });
}
