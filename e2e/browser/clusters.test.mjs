import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Api, Browser, DEADLINE, eventually, hasStatus, pictured, PREFIX, toast } from "./lib.mjs";

const ONE = `${PREFIX}-one`;
const TWO = `${PREFIX}-two`;
const CLUSTERS = "/api/capabilities/clusters";

let browser;
let api;
let one;
let two;
before(async () => {
  browser = await Browser.open();
  api = await Api.admin();
  one = await api.answering(ONE);
  two = await api.answering(TWO, { ports: [{ container: 8080 }, { container: 9090 }] });
});
after(async () => {
  await api?.removeAll();
  await browser?.close();
});
const it = (name, run) => test(name, { timeout: 240_000 }, pictured(() => browser, run));

/** Who answers at an endpoint, one request after the other. */
async function answers(endpoint, times) {
  const out = [];
  for (let i = 0; i < times; i++) {
    const response = await fetch(endpoint, { headers: { connection: "close" } });
    out.push(response.ok ? (await response.text()).trim() : `status ${response.status}`);
  }
  return out;
}
const row = (page, name) => page.locator("tbody tr", { hasText: name });
const tab = (page, name) => page.getByRole("navigation", { name: "Cluster", exact: true }).getByRole("link", { name }).click();
async function act(page, name, item) {
  await page.getByRole("button", { name: `Actions for ${name}` }).click();
  await page.getByRole("menuitem", { name: item }).click();
}
/** The bodies of the requests of a method to clusters. */
function sent(page, method) {
  const bodies = [];
  page.on("request", (r) => {
    if (r.method() === method && r.url().includes(CLUSTERS)) bodies.push(r.postDataJSON());
  });
  return bodies;
}

it("from the form to its end: wrong fields, traffic that counts, a drained server, scaling, removed", async (t) => {
  const name = `${PREFIX}-shop`;
  const page = await browser.signedIn();
  const dialog = page.getByRole("dialog");
  const posts = sent(page, "POST");
  const patches = sent(page, "PATCH");
  let id;
  let endpoint;

  await t.test("what is wrong is told at its field, with the focus there, and nothing is sent", async () => {
    await page.goto("/clusters");
    await page.getByRole("heading", { level: 1, name: "Clusters" }).waitFor();
    await page.getByRole("main").getByRole("link", { name: "Create" }).first().click();
    await page.getByRole("button", { name: "Create" }).click();
    const field = page.getByLabel("Name", { exact: true });
    await page.getByText("Give it a name").waitFor();
    assert.equal(await field.getAttribute("aria-invalid"), "true");
    assert.ok(await field.evaluate((e) => e === document.activeElement), "the field that is wrong has the focus");
    await field.fill(name);
    await page.getByLabel("Server 1", { exact: true }).selectOption(one.id);
    await page.getByLabel("Server 2", { exact: true }).selectOption(two.id);
    await page.getByText("Say which port: 8080, 9090").waitFor();
    await page.getByRole("button", { name: "Create" }).click();
    assert.deepEqual(posts, []);
    await page.getByLabel("Port of server 2").fill("8080");
  });

  await t.test("a port that another program has is told at its field by the server", async () => {
    const taken = (await api.call("GET", `/api/containers/${one.id}`)).ports[0].host;
    const port = page.getByLabel(/^Port · optional/);
    await port.fill(String(taken));
    await page.getByRole("button", { name: "Create" }).click();
    const told = await eventually("what the server says", () =>
      port.evaluate((e) => (e.getAttribute("aria-invalid") ? document.getElementById(e.getAttribute("aria-describedby"))?.textContent : null)),
    );
    assert.match(told, new RegExp(`${ONE}. publishes port ${taken}`));
    await port.fill("");
  });

  await t.test("set right, it is created and every server is up", async () => {
    await page.getByLabel("Algorithm").selectOption("least-connections");
    await page.getByText("The server with the fewest requests in flight", { exact: false }).waitFor();
    await page.getByRole("button", { name: "Create" }).click();
    await page.getByRole("heading", { level: 1, name }).waitFor();
    await hasStatus(page, "healthy");
    const [made] = (await api.call("GET", `${CLUSTERS}?limit=200`)).filter((c) => c.name === name);
    assert.deepEqual([made.loadBalancer.algorithm, made.members.map((m) => m.port ?? null)], ["least-connections", [null, 8080]]);
    id = made.id;
    await row(page, ONE).getByText("up", { exact: true }).waitFor();
    await row(page, TWO).getByText("up", { exact: true }).waitFor();
  });

  await t.test("its endpoint is opened, both servers answer, and what was asked is counted", async () => {
    endpoint = await page.locator(".endpoint a").first().getAttribute("href");
    const [opened] = await Promise.all([page.context().waitForEvent("page"), page.locator(".endpoint a").first().click()]);
    await eventually("the page of a server", async () => [ONE, TWO].includes((await opened.locator("body").innerText()).trim()));
    await opened.close();
    assert.deepEqual(new Set(await answers(endpoint, 40)), new Set([ONE, TWO]));
    await tab(page, "Metrics");
    const counted = page.locator(".tile", { hasText: "Requests" }).locator(".value");
    await eventually("40 requests are counted", async () => Number((await counted.innerText()).replace(/\D/g, "")) >= 40, 30_000);
    for (const range of ["6 hours", "24 hours", "7 days", "1 hour"]) {
      await page.getByRole("button", { name: range }).click();
      await page.getByRole("img", { name: /^Requests: all servers/ }).waitFor();
    }
    await tab(page, "Overview");
    await eventually("the rate of both", async () => {
      await answers(endpoint, 4);
      return (await row(page, ONE).getByText(/^[\d.<,]+\/s$/).count()) === 1 && !(await row(page, ONE).getByText("0/s", { exact: true }).count());
    }, 30_000);
  });

  await t.test("a server is drained: the other one answers alone, until it is put back", async () => {
    await act(page, TWO, "Drain…");
    await dialog.getByText("its weight becomes 0", { exact: false }).waitFor();
    await dialog.getByRole("button", { name: "Drain it" }).click();
    await toast(page, `${TWO} gets no new traffic.`);
    await row(page, TWO).getByText("drained").waitFor();
    assert.deepEqual(new Set(await answers(endpoint, 20)), new Set([ONE]));
    assert.deepEqual(patches.at(-1), { servers: [one.id, { id: two.id, port: 8080, weight: 0 }] });
    await act(page, TWO, "Put it back");
    await toast(page, `${TWO} gets traffic again.`);
    assert.deepEqual(new Set(await answers(endpoint, 20)), new Set([ONE, TWO]));
  });

  await t.test("a weight is changed, and one that can't be is told at its field", async () => {
    await act(page, ONE, "Change its weight…");
    await dialog.getByLabel("Weight").fill("1000");
    await dialog.getByRole("button", { name: "Save" }).click();
    await dialog.getByText("A whole number from 0 to 256").waitFor();
    await dialog.getByLabel("Weight").fill("3");
    await dialog.getByRole("button", { name: "Save" }).click();
    await toast(page, `${ONE} has weight 3.`);
    assert.equal((await api.call("GET", `${CLUSTERS}/${id}`)).members[0].weight, 3);
  });

  await t.test("an edit sends what was changed alone", async () => {
    await page.getByRole("link", { name: "Edit", exact: true }).click();
    await page.getByText("Nothing is changed yet.").waitFor();
    assert.ok(await page.getByRole("button", { name: "Save" }).isDisabled());
    await page.locator("summary", { hasText: "Health check" }).click();
    await page.getByRole("button", { name: "An HTTP request is answered" }).click();
    await page.getByLabel("Path", { exact: true }).fill("/index.html");
    await page.getByRole("button", { name: "Save" }).click();
    await toast(page, `Changed ${name}.`);
    assert.deepEqual(patches.at(-1), { healthCheck: { type: "http", path: "/index.html" } });
    await page.getByText("GET /index.html").waitFor();
  });

  await t.test("scaling is switched on: bounds that can't be are told, then the last decision shows its numbers", async () => {
    await tab(page, "Auto-scaling");
    await page.getByText("Auto-scaling is off").waitFor();
    await page.getByRole("link", { name: "Switch it on" }).click();
    await page.getByText("Add and remove servers by themselves").click();
    await page.getByLabel("At least").fill("4");
    await page.getByLabel("At most", { exact: true }).last().fill("3");
    await page.getByRole("button", { name: "Save" }).click();
    await page.getByText("Not more than the most").waitFor();
    await page.getByText("Name one target at least", { exact: false }).waitFor();
    await page.getByLabel("At least").fill("2");
    await page.getByLabel("Requests", { exact: true }).fill("50");
    await page.getByRole("button", { name: "Save" }).click();
    await toast(page, `Changed ${name}.`);
    assert.deepEqual(patches.at(-1), { autoScaling: { enabled: true, minServers: 2, maxServers: 3, targetRequestsPerSecond: 50 } });
    await tab(page, "Auto-scaling");
    await page.getByText("2 to 3").waitFor();
    await page.getByText(/target 50: \d server/).waitFor({ timeout: 40_000 });
  });

  await t.test("what happened is told, newest first, with why", async () => {
    await tab(page, "Events");
    const kinds = page.locator('ul[aria-label="Events"] .badge');
    await kinds.first().waitFor();
    const seen = await kinds.allInnerTexts();
    assert.equal(seen.at(-1), "made");
    assert.ok(seen.includes("changed"), `${seen}`);
    await page.getByText("changed autoScaling", { exact: false }).waitFor();
  });

  await t.test("it is found in the list and by the palette", async () => {
    await page.goto("/clusters");
    await page.getByLabel("Search clusters").fill("shop");
    await row(page, name).getByText("healthy").waitFor();
    await row(page, name).getByText("2 of 2").waitFor();
    await page.getByLabel("Type").selectOption("high-availability");
    await page.getByText("No cluster fits").waitFor();
    await page.getByRole("button", { name: "Clear the filters" }).click();
    await page.keyboard.press("Control+k");
    await page.getByRole("combobox", { name: /Go to/ }).fill(name);
    await page.getByRole("option", { name: new RegExp(name) }).first().waitFor();
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { level: 1, name }).waitFor();
  });

  await t.test("each server says which clusters it is in", async () => {
    await row(page, ONE).getByRole("link", { name: ONE }).click();
    await page.getByRole("heading", { level: 1, name: ONE }).waitFor();
    await page.locator(".card", { hasText: "Clusters" }).getByRole("link", { name }).click();
    await page.getByRole("heading", { level: 1, name }).waitFor();
  });

  await t.test("it is removed by its name, and its servers stay", async () => {
    await page.getByRole("button", { name: "More actions" }).click();
    await page.getByRole("menuitem", { name: "Remove…" }).click();
    const remove = dialog.getByRole("button", { name: "Remove the cluster" });
    assert.ok(await remove.isDisabled());
    await dialog.getByLabel(`Type its name, ${name}, to confirm`).fill(name);
    await remove.click();
    await page.getByRole("heading", { level: 1, name: "Clusters" }).waitFor();
    await eventually("nobody answers there", () => fetch(endpoint).then(() => false, () => true));
    assert.equal((await api.call("GET", `/api/containers/${one.id}`)).status, "running");
    await page.goto(`/clusters/${id}`);
    await page.getByText("This cluster is not there").waitFor();
  });
  assert.deepEqual(page.complaints, []);
});

it("high availability: one server takes all traffic, another one when it is asked to or the first is lost", async (t) => {
  const name = `${PREFIX}-pair`;
  const page = await browser.signedIn();
  const dialog = page.getByRole("dialog");
  let endpoint;

  await t.test("its servers are put in order, and the first one takes the traffic", async () => {
    await page.goto("/clusters/new");
    await page.getByLabel("Name", { exact: true }).fill(name);
    await page.getByRole("button", { name: /^High availability/ }).click();
    assert.equal(await page.getByText("Auto-scaling", { exact: true }).count(), 0, "there is nothing to scale");
    await page.getByLabel("Server 1", { exact: true }).selectOption(two.id);
    await page.getByLabel("Port of server 1").fill("8080");
    await page.getByLabel("Server 2", { exact: true }).selectOption(one.id);
    await page.getByRole("button", { name: "Move server 2 up" }).click();
    await page.locator("summary", { hasText: "Failback" }).click();
    await page.getByRole("button", { name: "By hand" }).click();
    await page.getByRole("button", { name: "Create" }).click();
    await page.getByRole("heading", { level: 1, name }).waitFor();
    await row(page, ONE).getByText("active", { exact: true }).waitFor();
    await row(page, TWO).getByText("standby", { exact: true }).waitFor();
    endpoint = await page.locator(".endpoint a").first().getAttribute("href");
    assert.deepEqual(new Set(await answers(endpoint, 10)), new Set([ONE]));
  });

  await t.test("failed over, the other one does", async () => {
    await page.getByRole("button", { name: "Fail over…" }).click();
    await dialog.getByText(`${ONE} takes the traffic now`, { exact: false }).waitFor();
    await dialog.getByRole("button", { name: "Fail over", exact: true }).click();
    await toast(page, `${TWO} takes the traffic.`);
    await row(page, TWO).getByText("active", { exact: true }).waitFor();
    assert.deepEqual(new Set(await answers(endpoint, 10)), new Set([TWO]));
  });

  await t.test("the active one is stopped: traffic goes to the other, and it says why", async () => {
    await api.call("POST", `/api/containers/${two.id}/stop`);
    await row(page, ONE).getByText("active", { exact: true }).waitFor({ timeout: 2 * DEADLINE });
    assert.deepEqual(new Set(await answers(endpoint, 10)), new Set([ONE]));
    await page.locator(".notice", { hasText: TWO }).first().waitFor();
    await page.getByRole("button", { name: "Fail over…" }).click();
    await dialog.getByText("No other server is up", { exact: false }).waitFor();
    assert.ok(await dialog.getByRole("button", { name: "Fail over", exact: true }).isDisabled());
    await dialog.getByRole("button", { name: "Cancel" }).click();
    await tab(page, "Events");
    await page.locator('ul[aria-label="Events"] .badge', { hasText: "failover" }).first().waitFor();
    await api.call("POST", `/api/containers/${two.id}/start`);
  });

  await t.test("servers are added and taken out", async () => {
    await tab(page, "Overview");
    await act(page, TWO, "Take it out…");
    await dialog.getByRole("button", { name: "Take it out" }).click();
    await toast(page, `${TWO} is no longer in ${name}.`);
    await row(page, TWO).waitFor({ state: "detached" });
    await act(page, ONE, "Take it out…");
    await dialog.getByRole("button", { name: "Take it out" }).click();
    await dialog.getByText("last server", { exact: false }).waitFor();
    await dialog.getByRole("button", { name: "Cancel" }).click();
    await page.getByRole("button", { name: "Add servers" }).click();
    await dialog.getByLabel("Server 1", { exact: true }).selectOption(two.id);
    await dialog.getByRole("button", { name: "Add", exact: true }).click();
    await dialog.getByText("Say which port: 8080, 9090").waitFor();
    await dialog.getByLabel("Port of server 1").fill("8080");
    await dialog.getByRole("button", { name: "Add", exact: true }).click();
    await row(page, TWO).getByText("standby", { exact: true }).waitFor();
  });
  assert.deepEqual(page.complaints, []);
});

it("TLS ends at the entry, with a certificate that is made here", async () => {
  const name = `${PREFIX}-sealed`;
  const page = await browser.signedIn();
  await page.goto("/clusters/new");
  await page.getByLabel("Name", { exact: true }).fill(name);
  await page.getByLabel("Server 1", { exact: true }).selectOption(one.id);
  await page.locator("summary", { hasText: "TLS" }).click();
  await page.getByRole("button", { name: "Uploaded" }).click();
  await page.getByLabel("Certificate", { exact: true }).fill("not a certificate");
  await page.getByRole("button", { name: "Create" }).click();
  await page.getByText("A certificate in PEM form", { exact: false }).waitFor();
  const wrong = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----";
  await page.getByLabel("Certificate", { exact: true }).fill(wrong);
  await page.getByLabel("Private key").fill("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----");
  await page.getByRole("button", { name: "Create" }).click();
  await eventually("the server's word at the field", async () => (await page.locator(".problem").count()) > 0 && !(await page.getByText("A certificate in PEM form").count()));
  await page.getByRole("button", { name: "Made here" }).click();
  await page.getByLabel(/^Names/).fill("shop.example.com");
  await page.getByRole("button", { name: "Create" }).click();
  await page.getByRole("heading", { level: 1, name }).waitFor();
  assert.match(await page.locator(".endpoint a").first().getAttribute("href"), /^https:/);
  await page.getByText("made here, signed by itself", { exact: false }).waitFor();
  assert.deepEqual(page.complaints, []);
});
