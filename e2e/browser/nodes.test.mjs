import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Agent, Api, Browser, eventually, hasStatus, pictured, PREFIX, toast } from "./lib.mjs";

let browser;
let api;
/** The node the fleet has. */
let node;
const agent = new Agent(`${PREFIX}-joined`);
before(async () => {
  browser = await Browser.open();
  api = await Api.admin();
  [node] = await api.call("GET", "/api/nodes");
});
after(async () => {
  await agent.remove();
  await api?.removeAll();
  await browser?.close();
});
const it = (name, run) => test(name, { timeout: 180_000 }, pictured(() => browser, run));

it("a node shows what it uses, now and before, what happened on it, and what runs there", async (t) => {
  const page = await browser.signedIn();
  await page.goto("/nodes");
  const row = page.locator("tbody tr", { hasText: node.name });
  await eventually("its CPU is measured", async () => /^\d+(\.\d)?%$/.test(await row.locator(".usage .num").first().innerText()));
  await row.getByRole("link", { name: node.name, exact: true }).click();
  await hasStatus(page, "ready");
  await page.locator(".tile", { hasText: "Memory" }).getByRole("meter").waitFor();
  await page.locator(".tile", { hasText: "Health" }).locator(".status").waitFor();

  await t.test("its charts are drawn, and move by themselves", async () => {
    await page.locator(".tabs").getByRole("link", { name: "Stats" }).click();
    const charts = page.locator("figure canvas");
    const label = () => charts.first().getAttribute("aria-label");
    await eventually("CPU is measured", async () => /\d+(\.\d)?%/.test(await label()));
    // All of them: on a busy machine the CPU alone may stay at 100%.
    const labels = async () => (await charts.evaluateAll((all) => all.map((c) => c.getAttribute("aria-label")))).join();
    const first = await labels();
    await eventually("a new sample comes by itself", async () => (await labels()) !== first, 30_000);
    for (const title of ["Memory", "Load", "Network", "Disks"]) await page.getByRole("heading", { name: title, exact: true }).waitFor();
    await page.locator('table[aria-label="File systems"] tbody tr').first().waitFor();
    const minutes = page.waitForResponse((r) => r.url().includes("resolution=minute"));
    await page.getByRole("button", { name: "1 hour" }).click();
    assert.equal((await minutes).status(), 200);
  });

  await t.test("what happens to a container there is written down at once", async () => {
    await page.locator(".tabs").getByRole("link", { name: "Events" }).click();
    await page.locator(".event").first().waitFor();
    const made = await api.container(`${PREFIX}-event`, ["sh", "-c", "sleep 1000000"]);
    const mine = page.locator(".event", { hasText: `${PREFIX}-event` });
    await mine.filter({ hasText: "started" }).waitFor();
    await api.call("POST", `/api/containers/${made.id}/kill`);
    await mine.filter({ hasText: "exit code 137" }).waitFor();
    await mine.filter({ hasText: "exit code 137" }).getByRole("link").click();
    await page.getByRole("heading", { level: 1, name: `${PREFIX}-event` }).waitFor();
    await page.locator(".tabs").getByRole("link", { name: "Events" }).click();
    await page.locator(".event", { hasText: "exit code 137" }).waitFor();
  });

  await t.test("its containers are listed", async () => {
    await page.goto(`/nodes/${node.id}/containers`);
    await page.getByRole("link", { name: `${PREFIX}-event`, exact: true }).waitFor();
  });
  assert.deepEqual(page.complaints, []);
});

it("a node is cordoned and takes work again", async () => {
  const page = await browser.signedIn();
  await page.goto(`/nodes/${node.id}`);
  await page.getByRole("button", { name: "Cordon" }).click();
  await hasStatus(page, "cordoned");
  await page.getByText("It takes no new containers.", { exact: false }).first().waitFor();
  await page.getByRole("button", { name: "Uncordon" }).click();
  await hasStatus(page, "ready");
});

it("a node is drained: what has no place is told, and stopping in place shows what came of it", async () => {
  const name = `${PREFIX}-drained`;
  await api.container(name);
  const page = await browser.signedIn();
  await page.goto(`/nodes/${node.id}`);
  const drain = async (how) => {
    await page.getByRole("button", { name: "Drain…" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByRole("button", { name: how }).click();
    await dialog.getByLabel(/^Grace/).fill("0");
    await dialog.getByRole("button", { name: "Drain it" }).click();
    await dialog.waitFor({ state: "detached" });
  };
  await drain("Move its containers");
  const progress = page.getByRole("region", { name: "Progress" });
  await progress.getByText("failed", { exact: true }).first().waitFor();
  await page.locator(".notice.tone-red", { hasText: name }).waitFor();
  await page.getByRole("button", { name: "Put it away" }).click();
  await progress.waitFor({ state: "detached" });
  await hasStatus(page, "cordoned");

  await drain("Stop them in place");
  await progress.getByText("succeeded", { exact: true }).first().waitFor();
  await page.getByRole("list", { name: "Drained" }).getByText(name).waitFor();
  const [stopped] = await api.call("GET", `/api/containers?name=${name}`);
  assert.equal(stopped.status, "stopped");
  await page.getByRole("button", { name: "Uncordon" }).click();
  await hasStatus(page, "ready");
  assert.deepEqual(page.complaints, []);
});

it("a machine joins with the line that is pasted, and is then renamed, revoked, let in again, lost and removed", async (t) => {
  const page = await browser.signedIn();
  await page.goto("/nodes");
  const dialog = page.getByRole("dialog");
  /** The line as it is shown for an agent that is run by hand. */
  const line = async () => {
    await dialog.getByLabel("Address of the control plane").fill(process.env.NM_AGENTS);
    await dialog.getByRole("button", { name: "While the command does" }).click();
    const text = dialog.locator(".copy-box code");
    return eventually("the line names the address", async () => {
      const shown = await text.innerText();
      return shown.endsWith(process.env.NM_AGENTS) && shown;
    });
  };

  await t.test("the line is one that a shell takes, with the token out of its arguments", async () => {
    await page.getByRole("button", { name: "Add a node" }).click();
    const command = dialog.locator(".copy-box code");
    await command.waitFor();
    assert.match(await command.innerText(), /^NEURALMESH_JOIN=nm1\.[0-9a-f]{64}\.\S+ neuralmesh agent install --server https:\/\/\S+:7443$/);
    agent.start(await line());
    await dialog.locator(".notice.tone-green", { hasText: "has joined." }).waitFor({ timeout: 60_000 });
    await dialog.getByRole("link", { name: agent.name }).click();
    await page.getByRole("heading", { level: 1, name: agent.name }).waitFor();
  });

  await t.test("that its Docker does not answer is said in words", async () => {
    await hasStatus(page, "not ready");
    await page.locator(".notice.tone-red", { hasText: "Docker" }).waitFor();
  });

  await t.test("it is renamed and labelled, and found by its label", async () => {
    await page.getByRole("button", { name: "More actions" }).click();
    await page.getByRole("menuitem", { name: "Rename, label…" }).click();
    await dialog.getByLabel("Name", { exact: true }).fill("not a name");
    await dialog.getByRole("button", { name: "Save" }).click();
    await dialog.getByText("1 to 63 letters", { exact: false }).waitFor();
    await dialog.getByLabel("Name", { exact: true }).fill(`${PREFIX}-renamed`);
    await dialog.getByRole("button", { name: "Add a label" }).click();
    await dialog.getByLabel("Key of label 1").fill("zone");
    await dialog.getByLabel("Value of label 1").fill(PREFIX);
    await dialog.getByRole("button", { name: "Save" }).click();
    await page.getByRole("heading", { level: 1, name: `${PREFIX}-renamed` }).waitFor();
    await page.getByRole("link", { name: "Nodes", exact: true }).first().click();
    await page.getByLabel("Search nodes").fill(`zone=${PREFIX}`);
    await eventually("only it is left", async () => (await page.locator("tbody tr").count()) === 1);
    await page.getByLabel("Status").selectOption("ready");
    await page.getByText("No node fits").waitFor();
  });

  await t.test("a container for any node says why it is where it is", async () => {
    const name = `${PREFIX}-placed`;
    await page.goto("/containers/new");
    await page.getByLabel("Name", { exact: true }).fill(name);
    await page.getByLabel("Image", { exact: true }).fill("busybox:latest");
    await page.locator("summary", { hasText: "Placement" }).click();
    await page.getByRole("button", { name: "Add a constraint" }).click();
    await page.getByLabel("Constraint 1", { exact: true }).fill("a b");
    await page.getByRole("button", { name: "Create and start" }).click();
    await page.getByText("key=value, key!=value, or a key alone").waitFor();
    await page.getByLabel("Constraint 1", { exact: true }).fill("zone=nowhere");
    await page.getByLabel("When its node is lost").selectOption("reschedule");
    await page.getByLabel(/^Spread over/).fill("zone");
    await page.getByRole("button", { name: "Create and start" }).click();
    const refused = page.locator(".notice.tone-red", { hasText: "zone=nowhere" });
    await refused.waitFor();
    assert.match(await refused.innerText(), new RegExp(`${PREFIX}-renamed`), "each node's reason is told");
    await page.getByLabel("Constraint 1", { exact: true }).fill("zone!=nowhere");
    await page.getByText("Command", { exact: true }).first().click();
    await page.getByLabel(/^Command/).first().fill("sleep 1000000");
    await page.getByRole("button", { name: "Create and start" }).click();
    await page.getByRole("heading", { level: 1, name }).waitFor();
    const why = page.locator(".card", { hasText: "Why on this node" });
    await why.getByText(`${node.name} was chosen`, { exact: false }).waitFor();
    await why.getByText(`${PREFIX}-renamed`, { exact: false }).waitFor();
  });

  const id = (await api.call("GET", "/api/nodes")).find((n) => n.name === `${PREFIX}-renamed`)?.id;

  await t.test("an upgrade says what it runs and what it would get, and is followed to its end", async () => {
    await page.goto(`/nodes/${id}`);
    await page.getByRole("button", { name: "More actions" }).click();
    await page.getByRole("menuitem", { name: "Upgrade…" }).click();
    const button = dialog.getByRole("button", { name: "Upgrade", exact: true });
    await dialog.getByText("the control plane's own", { exact: false }).waitFor();
    assert.ok(await button.isDisabled(), "it runs this version already");
    await dialog.getByLabel("Although it is not newer").check();
    await button.click();
    await page.getByRole("region", { name: "Progress" }).getByText("succeeded", { exact: true }).first().waitFor();
    await page.getByText("of this very build already", { exact: false }).waitFor();
  });

  await t.test("once revoked it is refused, until it joins again with a new token", async () => {
    await page.getByRole("button", { name: "More actions" }).click();
    await page.getByRole("menuitem", { name: "Revoke its certificates…" }).click();
    await dialog.getByRole("button", { name: "Revoke them" }).click();
    await hasStatus(page, "revoked");
    await agent.stop();
    await page.getByRole("button", { name: "More actions" }).click();
    await page.getByRole("menuitem", { name: "Let it join again…" }).click();
    agent.start(await line());
    await dialog.locator(".notice.tone-green", { hasText: "has joined." }).waitFor({ timeout: 60_000 });
    await dialog.getByRole("button", { name: "Done" }).click();
    await hasStatus(page, "not ready");
  });

  await t.test("without its agent it is lost", async () => {
    await agent.stop();
    await page.locator("h1 .status", { hasText: "lost" }).waitFor({ timeout: 60_000 });
    await page.getByText("It was last heard of", { exact: false }).waitFor();
  });

  await t.test("it is removed once its name is typed", async () => {
    await page.getByRole("button", { name: "More actions" }).click();
    await page.getByRole("menuitem", { name: "Remove…" }).click();
    const button = dialog.getByRole("button", { name: "Remove the node" });
    assert.ok(await button.isDisabled());
    await dialog.getByLabel(/^Type its name/).fill(`${PREFIX}-renamed`);
    await button.click();
    await toast(page, "no longer in the fleet");
    await page.getByRole("heading", { level: 1, name: "Nodes" }).waitFor();
    assert.equal((await api.call("GET", "/api/nodes")).length, 1);
  });
  assert.deepEqual(page.complaints, []);
});
