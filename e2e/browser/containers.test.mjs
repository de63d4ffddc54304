import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Api, Browser, eventually, hasStatus, PASSWORD, pictured, PREFIX, toast, URL_ } from "./lib.mjs";

let browser;
let api;
before(async () => {
  browser = await Browser.open();
  api = await Api.admin();
});
after(async () => {
  await api?.removeAll();
  await browser?.close();
});
const it = (name, run) => test(name, { timeout: 120_000 }, pictured(() => browser, run));

const COMMAND = `sh -c 'i=0; echo begun >&2; while true; do i=$((i+1)); echo "line $i"; sleep 0.2; done'`;

it("from the form to its end: a wrong field, running, logs, stats, a terminal, stopped, removed", async (t) => {
  const name = `${PREFIX}-whole`;
  const page = await browser.signedIn();

  await t.test("a wrong memory limit is told at its field, and nothing is sent", async () => {
    let sent = 0;
    page.on("request", (r) => {
      if (r.method() === "POST" && r.url().endsWith("/api/containers")) sent += 1;
    });
    await page.getByRole("link", { name: /^Create/ }).first().click();
    await page.getByLabel("Name", { exact: true }).fill(name);
    await page.getByLabel("Image", { exact: true }).fill("busybox:latest");
    await page.getByLabel(/^Memory limit/).fill("lots");
    await page.getByText("Command", { exact: true }).first().click();
    await page.getByLabel(/^Command/).first().fill(COMMAND);
    await page.getByRole("button", { name: "Create and start" }).click();
    const field = page.getByLabel(/^Memory limit/);
    await page.getByText("Digits and k, m or g", { exact: false }).waitFor();
    assert.equal(await field.getAttribute("aria-invalid"), "true");
    assert.ok(await field.evaluate((e) => e === document.activeElement), "the field that is wrong has the focus");
    const told = await field.evaluate((e) => document.getElementById(e.getAttribute("aria-describedby"))?.textContent);
    assert.match(told, /Digits and k, m or g/);
    assert.equal(sent, 0);
  });

  await t.test("set right, it is created and runs", async () => {
    await page.getByLabel(/^Memory limit/).fill("64m");
    await page.getByLabel(/^CPU limit/).fill("0.5");
    await page.getByRole("button", { name: "Create and start" }).click();
    await page.getByRole("heading", { level: 1, name }).waitFor();
    await hasStatus(page, "running");
    const [made] = await api.call("GET", `/api/containers?name=${name}`);
    assert.equal(made.status, "running");
    assert.equal(made.resources.memoryLimit, "64m");
    assert.equal(made.resources.cpuLimit, 0.5);
  });

  await t.test("its log is followed, coloured by stream, and searched", async () => {
    await page.getByRole("link", { name: "Logs", exact: true }).click();
    await page.locator(".log-line.stderr", { hasText: "begun" }).waitFor();
    const newest = () => page.locator(".log-line").last().innerText();
    const before = await eventually("a line", newest);
    await eventually("new lines come by themselves", async () => (await newest()) !== before);
    await page.keyboard.press("/");
    await page.keyboard.type("line 3");
    await page.locator("mark", { hasText: "line 3" }).first().waitFor();
    await page.getByRole("button", { name: "Only matches" }).click();
    await eventually("only what fits is left", async () => {
      const lines = await page.locator(".log-line .text").allInnerTexts();
      return lines.length > 0 && lines.every((l) => l.includes("line 3"));
    });
    await page.getByLabel("Search the log").fill("");
    await page.getByRole("button", { name: "stderr", exact: true }).click();
    await eventually("only stderr is left", async () => (await page.locator(".log-line").count()) === 1);
  });

  await t.test("its use shows and moves", async () => {
    await page.getByRole("link", { name: "Stats", exact: true }).click();
    const memory = page.locator("figure", { hasText: "Memory" }).locator(".legend b");
    await eventually("memory is measured", async () => /\d+(\.\d)? (K|M)iB/.test(await memory.innerText()));
    await eventually("the chart is drawn", () =>
      page
        .locator("canvas")
        .first()
        .evaluate((c) => c.getContext("2d").getImageData(0, 0, c.width, c.height).data.some((v) => v > 0)),
    );
    const label = () => page.locator("canvas").first().getAttribute("aria-label");
    const first = await label();
    await eventually("a new sample comes by itself", async () => (await label()) !== first, 30_000);
  });

  await t.test("a terminal answers, follows the window, and ends with its shell", async () => {
    await page.getByRole("link", { name: "Terminal", exact: true }).click();
    const screen = page.locator(".xterm-rows");
    await eventually("a prompt", async () => /[#$] ?$/m.test((await screen.innerText()).trim()));
    await page.keyboard.type("echo hi-$((40+2))\n");
    await eventually("the echo", async () => (await screen.innerText()).includes("hi-42"));
    const columns = async () => {
      await page.keyboard.type("clear; stty size\n");
      return eventually("its size", async () => /^(\d+) (\d+)$/m.exec(await screen.innerText())?.[2]);
    };
    const wide = Number(await columns());
    assert.ok(wide > 80, `${wide} columns`);
    await page.setViewportSize({ width: 700, height: 800 });
    await eventually("it knows that it is narrower", async () => Number(await columns()) < wide);
    await page.setViewportSize({ width: 1280, height: 800 });
    await page.locator(".xterm-helper-textarea").focus();
    await page.keyboard.type("exit 3\n");
    await page.getByText("exit code 3").waitFor();
    await page.getByRole("button", { name: "Connect" }).click();
    await eventually("a new prompt", async () => /[#$] ?$/m.test((await screen.innerText()).trim()));
  });

  await t.test("what others do to it shows at once", async () => {
    await page.getByRole("link", { name: "Overview" }).click();
    const [made] = await api.call("GET", `/api/containers?name=${name}`);
    await api.call("POST", `/api/containers/${made.id}/pause`);
    await hasStatus(page, "paused");
    await page.getByRole("button", { name: "Resume" }).click();
    await hasStatus(page, "running");
  });

  await t.test("its limits change while it runs", async () => {
    await page.getByRole("button", { name: "More actions" }).click();
    await page.getByRole("menuitem", { name: "Change limits…" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByLabel("Memory").fill("3m");
    await dialog.getByRole("button", { name: "Save" }).click();
    await dialog.getByText("Digits and k, m or g", { exact: false }).waitFor();
    await dialog.getByLabel("Memory").fill("128m");
    await dialog.getByRole("button", { name: "Save" }).click();
    await page.locator(".tile", { hasText: "of 128m" }).waitFor();
  });

  await t.test("it is renamed; a name that is taken is told at the field", async () => {
    await api.call("POST", "/api/containers", { name: `${PREFIX}-taken`, image: "busybox:latest" });
    await page.getByRole("button", { name: "More actions" }).click();
    await page.getByRole("menuitem", { name: "Rename…" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByLabel("Name").fill(`${PREFIX}-taken`);
    await dialog.getByRole("button", { name: "Rename" }).click();
    await dialog.locator(".problem").waitFor();
    await dialog.getByLabel("Name").fill(`${name}-2`);
    await dialog.getByRole("button", { name: "Rename" }).click();
    await page.getByRole("heading", { level: 1, name: `${name}-2` }).waitFor();
  });

  await t.test("it is stopped, and removed after being asked", async () => {
    await page.getByRole("button", { name: "Stop", exact: true }).click();
    await page.locator("h1 .status", { hasText: /stopped|exited/ }).waitFor();
    await page.getByRole("button", { name: "More actions" }).click();
    await page.getByRole("menuitem", { name: "Remove…" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Remove", exact: true }).click();
    await toast(page, `Removed ${name}-2`);
    await page.getByRole("heading", { level: 1, name: "Containers" }).waitFor();
    await page.getByRole("link", { name: `${name}-2`, exact: true }).waitFor({ state: "detached" });
    assert.deepEqual(await api.call("GET", `/api/containers?name=${name}`), []);
  });

  assert.deepEqual(page.complaints, []);
});

it("a long log shows its end, and stays where one reads", async () => {
  const lines = "i=0; while [ $i -lt 1500 ]; do i=$((i+1)); echo $i some words of a line that is far too long for the width of the window and has to be wrapped twice at least, so that nobody can know beforehand how high it is going to be; done";
  const container = await api.container(`${PREFIX}-long`, ["sh", "-c", `${lines}; sleep 8; echo the very end; sleep 1000000`]);
  const page = await browser.signedIn("admin", PASSWORD, { viewport: { width: 900, height: 700 } });
  await page.goto(`/containers/${container.id}/logs`);
  const below = () => page.locator(".log-view").evaluate((v) => v.scrollHeight - v.scrollTop - v.clientHeight);
  await page.locator(".log-line .text", { hasText: /^1500 / }).waitFor();
  await eventually("it is at its end", async () => (await below()) < 2);
  await page.locator(".log-line .text", { hasText: "the very end" }).waitFor();
  await eventually("it is still at its end", async () => (await below()) < 2);
  await page.locator(".log-view").hover();
  await page.mouse.wheel(0, -1500);
  const newest = page.getByRole("button", { name: "To the newest" });
  await newest.waitFor();
  assert.ok((await below()) > 1000);
  await newest.click();
  await eventually("it is at its end again", async () => (await below()) < 2);
});

it("a running container is removed only when that is said, too", async () => {
  const name = `${PREFIX}-runs`;
  await api.container(name);
  const page = await browser.signedIn();
  await page.getByLabel("Search containers").fill(name);
  await page.getByRole("button", { name: `More actions for ${name}` }).click();
  await page.getByRole("menuitem", { name: "Remove…" }).click();
  const dialog = page.getByRole("dialog");
  const button = dialog.getByRole("button", { name: "Stop and remove" });
  assert.ok(await button.isDisabled());
  await dialog.getByLabel(/Remove it although it is running/).check();
  await button.click();
  await toast(page, `Removed ${name}`);
  await page.getByText("No container fits").waitFor();
});

it("what the server refuses stands at the field it names", async () => {
  const name = `${PREFIX}-refused`;
  await api.call("POST", "/api/containers", { name, image: "busybox:latest" });
  const page = await browser.signedIn();
  await page.goto("/containers/new");
  await page.getByLabel("Name", { exact: true }).fill(name);
  await page.getByLabel("Image", { exact: true }).fill("busybox:latest");
  await page.getByRole("button", { name: "Create and start" }).click();
  const field = page.getByLabel("Name", { exact: true });
  await eventually("the name is marked", async () => (await field.getAttribute("aria-invalid")) === "true");
  await eventually("it has the focus", () => field.evaluate((e) => e === document.activeElement));
  const told = await field.evaluate((e) => document.getElementById(e.getAttribute("aria-describedby"))?.textContent);
  assert.match(told, /already|taken/);
  await field.fill(`${name}-2`);
  assert.equal(await field.getAttribute("aria-invalid"), null, "touching the field takes the complaint away");
  await page.getByRole("button", { name: "Create and start" }).click();
  await page.getByRole("heading", { level: 1, name: `${name}-2` }).waitFor();
});

it("a program that is not there, a port that is taken, a folder that is not allowed: each stands at its field", async () => {
  const page = await browser.signedIn();
  const tell = async (label, pattern) => {
    await page.getByRole("button", { name: "Create and start" }).click();
    const field = page.getByLabel(label);
    await eventually(`${label} is marked`, async () => (await field.getAttribute("aria-invalid")) === "true", 30_000);
    assert.match(await field.evaluate((e) => document.getElementById(e.getAttribute("aria-describedby"))?.textContent), pattern);
    await eventually("it has the focus", () => field.evaluate((e) => e === document.activeElement));
    return field;
  };
  await page.goto("/containers/new");
  await page.getByLabel("Name", { exact: true }).fill(`${PREFIX}-fields`);
  await page.getByLabel("Image", { exact: true }).fill("busybox:latest");
  await page.getByText("Volumes", { exact: true }).last().click();
  await page.getByRole("button", { name: "Add a volume" }).click();
  await page.getByLabel("Volume 1, path in the container").fill("/x");
  await page.getByLabel("Volume 1, name or path on the node").fill("/etc");
  await (await tell("Volume 1, name or path on the node", /\/etc/)).fill("");
  await page.getByRole("button", { name: "Add a port" }).click();
  await page.getByLabel("Port 1, of the container").fill("80");
  await page.getByLabel("Port 1, of the node").fill(new URL(URL_).port);
  await (await tell("Port 1, of the node", new RegExp(new URL(URL_).port))).fill("");
  await page.getByText("Command", { exact: true }).first().click();
  await page.getByLabel(/^Command/).first().fill("no-such-program");
  await tell(/^Command/, /no-such-program/);
  assert.deepEqual(await api.call("GET", `/api/containers?name=${PREFIX}-fields`), [], "nothing is left of them");
});

it("a container that ends at once says why", async () => {
  const page = await browser.signedIn();
  await page.goto("/containers/new");
  await page.getByLabel("Name", { exact: true }).fill(`${PREFIX}-ends`);
  await page.getByLabel("Image", { exact: true }).fill("busybox:latest");
  await page.getByText("Command", { exact: true }).first().click();
  await page.getByLabel(/^Command/).first().fill("sh -c 'echo the reason why >&2; exit 3'");
  await page.getByRole("button", { name: "Create and start" }).click();
  await page.locator(".notice", { hasText: "the reason why" }).first().waitFor();
});

it("an image that is not there is told in words", async () => {
  const page = await browser.signedIn();
  await page.goto("/containers/new");
  await page.getByLabel("Name", { exact: true }).fill(`${PREFIX}-noimage`);
  await page.getByLabel("Image", { exact: true }).fill("127.0.0.1:9/nothing/here:1");
  await page.getByRole("button", { name: "Create and start" }).click();
  const told = page.locator(".notice.tone-red, .field .problem").first();
  await told.waitFor({ timeout: 60_000 });
  assert.match(await told.innerText(), /127\.0\.0\.1:9|registry|pull|image/i);
  assert.equal(await page.getByLabel("Name", { exact: true }).inputValue(), `${PREFIX}-noimage`, "what was filled in stays");
  assert.deepEqual(await api.call("GET", `/api/containers?name=${PREFIX}-noimage`), []);
});

it("a template fills the form in, with a password of its own", async () => {
  const page = await browser.signedIn();
  await page.goto("/containers/new");
  await page.getByRole("button", { name: /PostgreSQL Database/ }).click();
  assert.equal(await page.getByLabel("Image", { exact: true }).inputValue(), "postgres:16");
  const secret = () => page.getByLabel("Value of variable 1").inputValue();
  const first = await secret();
  assert.match(first, /^[A-Za-z0-9]{24}$/);
  assert.ok(!(await page.locator(".preview").innerText()).includes(first), "the request as shown covers it");
  await page.getByRole("button", { name: /Redis Cache/ }).click();
  assert.equal(await page.getByLabel("Image", { exact: true }).inputValue(), "redis:7");
  await page.getByRole("button", { name: /PostgreSQL Database/ }).click();
  assert.notEqual(await secret(), first);
});

it("the list is searched, filtered, acted on by selection, and kept in the address", async () => {
  const names = ["one", "two", "three"].map((n) => `${PREFIX}-list-${n}`);
  for (const name of names) await api.call("POST", "/api/containers", { name, image: "busybox:latest", command: ["sleep", "1000000"], stopGrace: 0 });
  const page = await browser.signedIn();
  await page.keyboard.press("/");
  await page.keyboard.type(`${PREFIX}-list`);
  await eventually("three fit", async () => (await page.locator('table[aria-label="Managed containers"] tbody tr').count()) === 3);
  await page.getByLabel("Status").selectOption("running");
  await page.getByText("No container fits").waitFor();
  await page.reload();
  await page.getByText("No container fits").waitFor();
  assert.equal(await page.getByLabel("Status").inputValue(), "running");
  await page.getByLabel("Status").selectOption("");
  await page.getByLabel("Select all").first().check();
  await page.getByRole("button", { name: "Start", exact: true }).click();
  await toast(page, "Started 3 containers.");
  await eventually("all three run", async () => (await page.locator(".status", { hasText: "running" }).count()) === 3);
  await page.getByRole("button", { name: "Remove…" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel(/that are running, too/).check();
  await dialog.getByRole("button", { name: "Stop and remove" }).click();
  await page.getByText("No container fits").waitFor({ timeout: 60_000 });
});
