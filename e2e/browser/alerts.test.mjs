import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { after, before, test } from "node:test";
import { Api, Browser, eventually, hasStatus, pictured, PREFIX, Receiver, toast } from "./lib.mjs";

let browser;
let api;
let receiver;
let node;
before(async () => {
  browser = await Browser.open();
  api = await Api.admin();
  receiver = await Receiver.open();
  [node] = await api.call("GET", "/api/nodes");
});
after(async () => {
  await receiver?.close();
  await api?.removeAll();
  await browser?.close();
});
const it = (name, run) => test(name, { timeout: 150_000 }, pictured(() => browser, run));

it("from a channel and a rule to an alert that is told, looked after, silenced and over", async (t) => {
  const channel = `${PREFIX}-hook`;
  const rule = `${PREFIX}-memory`;
  const page = await browser.signedIn();
  const dialog = page.getByRole("dialog");
  let key;

  await t.test("a webhook's key is shown once, and its test arrives signed", async () => {
    await page.goto("/alerts/channels");
    await page.getByRole("button", { name: "Add a channel" }).first().click();
    await dialog.getByLabel("Name").fill(channel);
    await dialog.getByLabel("URL").fill("ftp://nowhere");
    await dialog.getByRole("button", { name: "Save" }).click();
    await dialog.getByText("https://host/path", { exact: false }).waitFor();
    await dialog.getByLabel("URL").fill(`http://127.0.0.1:${receiver.port}/hook?token=not-for-eyes`);
    await dialog.getByRole("button", { name: "Save" }).click();
    key = await dialog.locator(".copy-box code").innerText();
    await dialog.getByRole("button", { name: "I have kept it" }).click();
    await page.getByRole("button", { name: `Send a test to ${channel}` }).click();
    await toast(page, `${channel} took it`);
    const told = receiver.requests.find((r) => r.headers["x-neuralmesh-event"] === "test");
    const [, at, sign] = /^t=(\d+),v1=([0-9a-f]+)$/.exec(told.headers["x-neuralmesh-signature"]);
    assert.equal(sign, createHmac("sha256", key).update(`${at}.${told.body}`).digest("hex"), "the key that was shown is the one it signs with");
    const seen = await page.content();
    assert.ok(!seen.includes(key) && !seen.includes("not-for-eyes"), "neither the key nor the URL's query is on the page");
  });

  await t.test("a rule whose limit is no number is told at its field; set right, it is there", async () => {
    await page.getByRole("link", { name: "Rules", exact: true }).click();
    await page.getByRole("button", { name: "Create a rule" }).first().click();
    await dialog.getByLabel("Name").fill(rule);
    await dialog.getByLabel("Figure").selectOption("node.memory");
    await dialog.getByLabel("Limit").fill("much");
    await dialog.getByRole("button", { name: "Create" }).click();
    await dialog.getByText("A number", { exact: true }).waitFor();
    await dialog.getByLabel("Limit").fill("0");
    await dialog.getByLabel("For", { exact: true }).fill("0");
    await dialog.getByLabel("Severity").selectOption("critical");
    await dialog.getByLabel(/^What to do/).fill("buy more");
    await dialog.getByLabel(channel).check();
    await dialog.getByRole("button", { name: "Create" }).click();
    const row = page.locator("tbody tr", { hasText: rule });
    await row.getByText("Memory of a node above 0 %").waitFor();
    await row.getByText(channel).waitFor();
  });

  await t.test("it fires by itself, and the channel is told", async () => {
    await page.getByRole("link", { name: "Alerts", exact: true }).last().click();
    const row = page.locator("tbody tr", { hasText: rule });
    await row.getByText("firing", { exact: true }).waitFor({ timeout: 60_000 });
    await page.locator(".nav-count.firing").waitFor();
    await row.getByRole("link", { name: rule }).click();
    await hasStatus(page, "firing");
    await page.getByText("buy more", { exact: false }).waitFor();
    await page.locator('table[aria-label="Deliveries"] tbody tr', { hasText: channel }).getByText("delivered").waitFor({ timeout: 60_000 });
    const told = receiver.requests.find((r) => r.headers["x-neuralmesh-event"] === "firing");
    assert.equal(JSON.parse(told.body).alert.ruleName, rule);
  });

  await t.test("it is looked after, and silenced, and both show", async () => {
    await page.getByRole("button", { name: "Acknowledge" }).click();
    await page.getByText("acknowledged", { exact: true }).waitFor();
    await page.getByText("Looked after by").waitFor();
    await page.getByRole("button", { name: "Silence…" }).click();
    assert.equal(await dialog.getByLabel(/^Server/).inputValue(), node.name);
    await dialog.getByRole("button", { name: "Silence", exact: true }).click();
    await dialog.getByText("Say why", { exact: false }).waitFor();
    await dialog.getByLabel("Why").fill(`${PREFIX} moving the rack`);
    await dialog.getByRole("button", { name: "Silence", exact: true }).click();
    await page.getByText("silenced", { exact: true }).waitFor();
    await page.goto("/alerts/silences");
    const row = page.locator("tbody tr", { hasText: PREFIX });
    await row.getByText("in force").waitFor();
    await row.getByText(`server ${node.name}`, { exact: false }).waitFor();
    await row.getByRole("button", { name: /^End the silence/ }).click();
    await dialog.getByRole("button", { name: "End it" }).click();
    await row.waitFor({ state: "detached" });
  });

  await t.test("a channel that a rule names stays, and says why", async () => {
    await page.goto("/alerts/channels");
    await page.getByRole("button", { name: `Actions for ${channel}` }).click();
    await page.getByRole("menuitem", { name: "Remove…" }).click();
    await dialog.getByRole("button", { name: "Remove" }).click();
    await dialog.locator(".notice.tone-red", { hasText: rule }).waitFor();
    await dialog.getByRole("button", { name: "Cancel" }).click();
  });

  await t.test("the rule is changed, turned off and on, and removed; then it is over", async () => {
    await page.goto("/alerts/rules");
    const row = page.locator("tbody tr", { hasText: rule });
    const act = async (item) => {
      await page.getByRole("button", { name: `Actions for ${rule}` }).click();
      await page.getByRole("menuitem", { name: item }).click();
    };
    await act("Change…");
    assert.equal(await dialog.getByLabel("Limit").inputValue(), "0");
    await dialog.getByLabel("Limit").fill("100");
    await dialog.getByRole("button", { name: "Save" }).click();
    await row.getByText("above 100 %", { exact: false }).waitFor();
    await act("Turn off");
    await row.getByText("off", { exact: true }).waitFor();
    await act("Turn on");
    await row.getByText("on", { exact: true }).waitFor();
    await page.goto("/alerts?state=resolved");
    await page.locator("tbody tr", { hasText: rule }).first().getByText("resolved", { exact: true }).waitFor({ timeout: 60_000 });
    await page.goto("/alerts/rules");
    await act("Remove…");
    await dialog.getByRole("button", { name: "Remove" }).click();
    await row.waitFor({ state: "detached" });
  });
  assert.deepEqual(page.complaints, []);
});

it("each type of channel asks for its own, and keeps a secret that is not typed again", async () => {
  const name = `${PREFIX}-ntfy`;
  const page = await browser.signedIn();
  await page.goto("/alerts/channels");
  await page.getByRole("button", { name: "Add a channel" }).first().click();
  const dialog = page.getByRole("dialog");
  for (const [type, labels] of [
    ["email", ["Mail server", "Port", "Encryption", "Username", "Password", "From", "To"]],
    ["slack", ["Webhook URL"]],
    ["discord", ["Webhook URL"]],
    ["telegram", ["Bot token", "Chat", "Bot API"]],
    ["ntfy", ["Topic", "Server", "Access token"]],
  ]) {
    await dialog.getByLabel("Type").selectOption(type);
    await eventually(type, async () => {
      const shown = await dialog.locator(".field label").allInnerTexts();
      return JSON.stringify(shown.slice(2).map((l) => l.split(" · ")[0])) === JSON.stringify(labels);
    });
  }
  await dialog.getByLabel("Name").fill(name);
  await dialog.getByLabel("Topic").fill("alerts");
  await dialog.getByLabel(/^Server/).fill(`http://127.0.0.1:${receiver.port}`);
  await dialog.getByLabel(/^Access token/).fill("tk_nobody-may-read-this");
  await dialog.getByRole("button", { name: "Save" }).click();
  await toast(page, `Saved ${name}`);
  const change = async (topic) => {
    await page.getByRole("button", { name: `Actions for ${name}` }).click();
    await page.getByRole("menuitem", { name: "Change…" }).click();
    assert.equal(await dialog.getByLabel(/^Access token/).inputValue(), "");
    await dialog.getByLabel("Topic").fill(topic);
    await dialog.getByRole("button", { name: "Save" }).click();
  };
  await change("not a topic");
  await dialog.getByText("1 to 64 letters", { exact: false }).waitFor();
  await dialog.getByLabel("Topic").fill("other");
  await dialog.getByRole("button", { name: "Save" }).click();
  await page.locator("tbody tr", { hasText: name }).getByText("/other", { exact: false }).waitFor();
  await page.getByRole("button", { name: `Send a test to ${name}` }).click();
  await eventually("it still has its token", () => receiver.requests.some((r) => r.headers.authorization === "Bearer tk_nobody-may-read-this"));
  assert.ok(!(await page.content()).includes("nobody-may-read-this"));
  assert.deepEqual(page.complaints, []);
});
