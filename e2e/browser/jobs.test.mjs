import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Api, Browser, eventually, hasStatus, pictured, PREFIX, toast } from "./lib.mjs";

const CLUSTERS = "/api/capabilities/clusters";
/** How long a task may take from its queue to its end. */
const RUN = 60_000;

let browser;
let api;
let node;
const made = [];
before(async () => {
  browser = await Browser.open();
  api = await Api.admin();
  [node] = (await api.call("GET", "/api/nodes")).filter((n) => n.status === "ready");
  for (const role of ["viewer", "operator"]) await api.call("POST", "/api/users", { username: `${PREFIX}-${role}`, password: "a-long-password", role });
});
after(async () => {
  // A cluster stays while jobs of it have not ended.
  for (const cluster of made) {
    const jobs = await api.raw("GET", `${CLUSTERS}/${cluster}/jobs?limit=200`);
    for (const job of jobs.json.data ?? []) await api.raw("POST", `${CLUSTERS}/${cluster}/jobs/${job.id}/cancel`);
    await eventually("its jobs end", async () =>
      (await api.raw("GET", `${CLUSTERS}/${cluster}/jobs?limit=200`)).json.data?.every((j) => j.finished) ?? true,
    );
  }
  await api?.removeAll();
  await browser?.close();
});
const it = (name, run) => test(name, { timeout: 180_000 }, pictured(() => browser, run));

const main = (page) => page.getByRole("main");
const tab = (page, name) => page.getByRole("navigation", { name: "Cluster", exact: true }).getByRole("link", { name }).click();
const open = async (page, title) => {
  const section = page.locator("details.section").filter({ has: page.getByRole("heading", { name: title, exact: true }) });
  if ((await section.getAttribute("open")) === null) await section.locator("summary").click();
};
/** What stands at a field that is wrong. */
const told = (page, field) =>
  eventually("what is told of it", () =>
    field.evaluate((e) => (e.getAttribute("aria-invalid") ? document.getElementById(e.getAttribute("aria-describedby"))?.textContent : null)),
  );
const tasks = (page) => page.getByRole("table", { name: "Tasks" });

/** The cluster that the tests share which begin with a job. */
let shared;
async function one() {
  shared ??= api.call("POST", CLUSTERS, { name: `${PREFIX}-batch`, type: "compute", servers: [node.id] }).then((c) => {
    made.push(c.id);
    return c;
  });
  return shared;
}
/** The browser gives up on a page that it asks for while containers come and go: their networks change the machine's. */
const until = (what, cluster, job, fits) => eventually(what, async () => fits(await api.call("GET", `${CLUSTERS}/${cluster.id}/jobs/${job.id}`)), RUN);
const give = async (cluster, job) => api.call("POST", `${CLUSTERS}/${cluster.id}/jobs`, { image: "busybox:latest", ...job });

it("a cluster and a job by their forms: three tasks run to their end, and one shows what it wrote", async (t) => {
  const name = `${PREFIX}-nightly`;
  const page = await browser.signedIn(`${PREFIX}-operator`, "a-long-password");
  let id;

  await t.test("an operator is offered nodes for jobs, and nothing that belongs to an entry", async () => {
    await page.goto("/clusters/new");
    await page.getByRole("group", { name: "Type" }).getByRole("button", { name: "Compute" }).click();
    for (const title of ["TLS", "Health check", "Auto-scaling", "Routes", "Failback", "Advanced"]) {
      assert.equal(await page.getByRole("heading", { name: title, exact: true }).count(), 0, title);
    }
    for (const label of [/^Port/, "Algorithm"]) assert.equal(await page.getByLabel(label).count(), 0, String(label));
    await page.getByLabel("Name", { exact: true }).fill(name);
    await page.getByLabel("Node 1", { exact: true }).selectOption(node.id);
    await open(page, "Nodes in use");
    await page.getByText("Use only as many nodes as the queue asks for").click();
    await page.getByLabel("Tasks that wait").fill("");
    await page.getByRole("button", { name: "Create", exact: true }).click();
    assert.match(await told(page, page.getByLabel("Tasks that wait")), /Say how many tasks/);
    await page.getByLabel("Tasks that wait").fill("20");
    await page.getByLabel("At most").fill("4");
    await page.getByRole("button", { name: "Create", exact: true }).click();
    await page.getByRole("heading", { level: 1, name }).waitFor();
    await hasStatus(page, "healthy");
    const cluster = (await api.call("GET", `${CLUSTERS}?limit=200`)).find((c) => c.name === name);
    id = cluster.id;
    made.push(id);
    assert.equal(cluster.autoScaling.targetQueueLength, 20);
    await page.getByRole("table", { name: `Nodes of ${name}` }).getByText("ready", { exact: true }).waitFor();
    await main(page).getByText("20 for each node in use").waitFor();
  });

  await t.test("what is wrong with a job is told at its field", async () => {
    await tab(page, "Jobs");
    await main(page).getByText("No jobs yet").waitFor();
    const earlier = await give({ id }, { name: "earlier", command: ["true"] });
    await until("the earlier one ends", { id }, earlier, (j) => j.finished);
    await page.getByRole("link", { name: "Run a job" }).click();
    await page.getByLabel(/^Command/).fill("sh -c 'echo task $NUMBER of three'");
    await page.getByText("Many tasks").click();
    await page.getByRole("button", { name: "Run it" }).click();
    assert.match(await told(page, page.getByLabel("Image")), /Name an image/);
    assert.match(await told(page, page.getByLabel("How many")), /Say how many tasks/);
    // What the server alone can tell.
    await page.getByLabel("Image").fill("busybox:latest");
    await page.getByLabel("How many").fill("3");
    await page.getByLabel("Variable", { exact: true }).fill("NUMBER");
    await open(page, "Order");
    await page.getByLabel(/^After/).selectOption(earlier.id);
    await page.getByRole("list", { name: "Jobs that have to succeed first" }).getByText("earlier").waitFor();
    await api.call("DELETE", `${CLUSTERS}/${id}/jobs/${earlier.id}`);
    await page.getByRole("button", { name: "Run it" }).click();
    assert.match(await told(page, page.getByLabel(/^After/)), /the cluster has no job/);
    await page.getByRole("button", { name: /^Do not wait for/ }).click();
  });

  await t.test("it runs, and the page follows by itself", async () => {
    await page.getByLabel(/^Name/).fill("count to three");
    await open(page, "Environment");
    await page.getByRole("button", { name: "Add a variable" }).click();
    await page.getByLabel("Name of variable 1").fill("API_TOKEN");
    await page.getByLabel("Value of variable 1").fill("not-to-be-seen");
    await page.getByRole("button", { name: "Run it" }).click();
    await page.getByRole("heading", { level: 1, name: "count to three" }).waitFor();
    await page.locator("h1 .status", { hasText: "succeeded" }).waitFor({ timeout: RUN });
    await main(page).getByText("3 succeeded", { exact: true }).waitFor();
    assert.equal(await main(page).getByRole("progressbar").getAttribute("aria-valuenow"), "100");
    const rows = tasks(page).locator("tbody tr");
    await eventually("all tasks succeeded", async () => (await rows.locator(".status", { hasText: "succeeded" }).count()) === 3);
    await main(page).getByText("API_TOKEN=", { exact: false }).waitFor();
    assert.ok(!(await page.content()).includes("not-to-be-seen"), "what looks secret is covered");
  });

  await t.test("a task shows what it wrote", async () => {
    await tasks(page).getByRole("link", { name: "2", exact: true }).click();
    await page.getByRole("heading", { level: 1, name: "Task 2" }).waitFor();
    await page.getByRole("log").getByText("task 2 of three").waitFor();
    await page.getByText("The attempt has ended").waitFor();
  });

  await t.test("the cluster's list and its events tell of it, and it is removed", async () => {
    await page.goto(`/clusters/${id}/events`);
    await page.getByRole("list", { name: "Events" }).getByText("job succeeded").first().waitFor();
    await tab(page, "Jobs");
    const row = page.getByRole("table", { name: `Jobs of ${name}` }).locator("tbody tr", { hasText: "count to three" });
    await row.getByText("3 succeeded").waitFor();
    await row.getByRole("link", { name: "count to three" }).click();
    await page.getByRole("button", { name: "Remove…" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Remove the job" }).click();
    await toast(page, "Removed count to three.");
    await main(page).getByText("No jobs yet").waitFor();
  });
  assert.deepEqual(page.complaints, []);
});

it("what failed says how: an exit code, memory, time; tasks are shown by state", async () => {
  const cluster = await one();
  const job = await give(cluster, {
    name: "one of them fails",
    array: { size: 3 },
    command: ["sh", "-c", 'echo here; [ "$NM_TASK_INDEX" != 1 ] || { echo no luck >&2; exit 7; }'],
    retries: { limit: 1, backoff: 0 },
  });
  const slow = await give(cluster, { name: "too slow", command: ["sleep", "100"], timeout: 1 });
  const large = await give(cluster, { name: "too large", command: ["tail", "/dev/zero"], memory: "16m" });
  for (const j of [job, slow, large]) await until(`${j.name} ends`, cluster, j, (x) => x.finished);
  const page = await browser.signedIn();
  await page.goto(`/clusters/${cluster.id}/jobs/${job.id}`);
  await hasStatus(page, "failed");
  await page.getByLabel("State of tasks").selectOption("failed");
  const rows = tasks(page).locator("tbody tr");
  await eventually("one task failed", async () => (await rows.count()) === 1);
  await rows.getByText("exit code 7").first().waitFor();
  const cells = (await rows.locator("td").allInnerTexts()).map((c) => c.trim());
  assert.deepEqual([cells[0], cells[2]], ["1", "7"], "its number, and its exit code");
  // Those that its node did not begin count among them, too.
  assert.ok(Number(cells[3]) >= 2, `attempts: ${cells[3]}`);
  await rows.getByRole("link", { name: "1", exact: true }).click();
  await page.getByRole("log").getByText("no luck").waitFor();
  await page.getByText("exit code 7").first().waitFor();

  await page.goto(`/clusters/${cluster.id}/jobs/${slow.id}`);
  await tasks(page).getByText("ran out of time").waitFor();
  assert.equal(await tasks(page).getByText("out of memory").count(), 0);
  await page.goto(`/clusters/${cluster.id}/jobs/${large.id}`);
  await tasks(page).getByText("out of memory").waitFor();
  assert.equal(await tasks(page).getByText("ran out of time").count(), 0);
  assert.deepEqual(page.complaints, []);
});

it("a log is followed while its task runs, and the job is cancelled", async () => {
  const cluster = await one();
  const job = await give(cluster, { name: "goes on and on", command: ["sh", "-c", "i=0; while :; do echo line $i; i=$((i+1)); sleep 1; done"] });
  const next = await give(cluster, { name: "comes after", command: ["true"], dependsOn: [job.id] });
  await until("it runs", cluster, job, (j) => j.counts.running === 1);
  const page = await browser.signedIn(`${PREFIX}-operator`, "a-long-password");
  await page.goto(`/clusters/${cluster.id}/jobs/${job.id}/tasks/0`);
  await page.getByRole("log").getByText("line 3", { exact: true }).waitFor({ timeout: RUN });
  await page.getByText("Following", { exact: true }).waitFor();

  await page.goto(`/clusters/${cluster.id}/jobs?state=waiting`);
  const list = page.getByRole("table", { name: `Jobs of ${cluster.name}` });
  await list.getByText("comes after").waitFor();
  await list.getByText("jobs that it depends on have not succeeded yet").waitFor();
  await page.getByLabel("State", { exact: true }).selectOption("running");
  await list.getByText("goes on and on").waitFor();
  await list.getByRole("button", { name: "Actions for goes on and on" }).click();
  await page.getByRole("menuitem", { name: "Cancel…" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Cancel the job" }).click();
  await toast(page, "goes on and on is being ended.");
  await until("it ends", cluster, job, (j) => j.finished);
  await page.goto(`/clusters/${cluster.id}/jobs/${job.id}`);
  await hasStatus(page, "cancelled");
  await page.goto(`/clusters/${cluster.id}/jobs/${next.id}`);
  await hasStatus(page, "cancelled");
  assert.deepEqual(page.complaints, []);
});

it("a viewer sees jobs and acts on none; pages fit a small screen", async () => {
  const cluster = await one();
  const job = await give(cluster, { name: "a job whose name is rather long for a screen as small as this one", array: { size: 60 }, command: ["true"] });
  await until("it ends", cluster, job, (j) => j.finished);
  const page = await browser.signedIn(`${PREFIX}-viewer`, "a-long-password", { viewport: { width: 390, height: 844 } });
  for (const path of ["", "/jobs", `/jobs/${job.id}`, `/jobs/${job.id}/tasks/0`, "/events"]) {
    await page.goto(`/clusters/${cluster.id}${path}`);
    await page.getByRole("heading", { level: 1 }).waitFor();
    await page.locator('[aria-busy="true"]').first().waitFor({ state: "detached" });
    assert.equal(await page.getByRole("link", { name: "Run a job" }).count(), 0, path);
    assert.equal(await page.getByRole("button", { name: /^(Cancel it|Remove|Actions for|Add nodes)/ }).count(), 0, path);
    const wide = await page.evaluate(() => document.getElementById("main").scrollWidth - document.getElementById("main").clientWidth);
    assert.ok(wide <= 1, `${path} is ${wide} px wider than the screen`);
  }
  await page.goto(`/clusters/${cluster.id}/jobs/${job.id}`);
  await page.getByRole("button", { name: "Higher numbers" }).click();
  await tasks(page).getByRole("link", { name: "59", exact: true }).waitFor();
  await page.goto(`/clusters/${cluster.id}/jobs/new`);
  await main(page).getByText("operator", { exact: false }).first().waitFor();
  assert.equal(await page.getByRole("button", { name: "Run it" }).count(), 0);
  assert.deepEqual(page.complaints, []);
});
