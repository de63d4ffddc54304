import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Api, Browser, eventually, pictured, PREFIX, signIn, toast } from "./lib.mjs";

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

it("a pull that fails says why, and is kept as an operation", async () => {
  const page = await browser.signedIn();
  await page.goto("/images");
  await page.getByRole("button", { name: "Pull", exact: true }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("Image").fill("Not An Image");
  await dialog.getByRole("button", { name: "Pull", exact: true }).click();
  await dialog.getByText("in lower case", { exact: false }).waitFor();
  await dialog.getByLabel("Image").fill("127.0.0.1:9/nothing/here:1");
  await dialog.getByRole("button", { name: "Pull", exact: true }).click();
  const told = dialog.locator(".notice.tone-red, .field .problem").first();
  await told.waitFor({ timeout: 60_000 });
  assert.match(await told.innerText(), /127\.0\.0\.1:9|registry|pull|image/i);
  await dialog.getByRole("button", { name: "Cancel" }).click();
  await page.getByRole("link", { name: "Operations" }).click();
  const row = page.locator("tbody tr", { hasText: "Pull an image" }).first();
  await row.getByText("failed").waitFor();
  await row.getByRole("link").first().click();
  await page.locator("h1 .status", { hasText: "failed" }).waitFor();
  await page.locator(".notice.tone-red").waitFor();
});

it("an image is pulled and removed", async () => {
  const image = `${process.env.NM_TEST_REGISTRY}/busybox:latest`;
  const page = await browser.signedIn();
  await page.goto("/images");
  await page.getByRole("button", { name: "Pull", exact: true }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("Image").fill(image);
  await dialog.getByRole("button", { name: "Pull", exact: true }).click();
  await toast(page, `Pulled ${image}`);
  await dialog.waitFor({ state: "detached" });
  await page.getByLabel("Search images").fill(image);
  await page.locator("tbody tr", { hasText: image }).waitFor();
  // The operation that did it has its steps and its result.
  const [operation] = await api.call("GET", "/api/operations?limit=1");
  assert.equal(operation.kind, "image.pull");
  await page.goto(`/operations/${operation.id}`);
  await page.locator("h1 .status", { hasText: "succeeded" }).waitFor();
  await page.getByRole("heading", { name: "Result" }).waitFor();
  // By its name: Docker may know the same content by others, which stay.
  await api.call("DELETE", `/api/images?name=${encodeURIComponent(image)}`);
  await page.goto(`/images?search=${encodeURIComponent(image)}`);
  await page.getByText("No image fits").waitFor();
  assert.deepEqual(page.complaints, []);
});

it("a registry login is added, changed and removed, its password never shown", async () => {
  const host = `${PREFIX}.example.com`;
  const page = await browser.signedIn();
  await page.goto("/registries");
  for (const attempt of [1, 2]) {
    await page.getByRole("button", { name: "Add a login" }).first().click();
    const dialog = page.getByRole("dialog");
    await dialog.getByLabel("Registry").fill(host);
    await dialog.getByLabel("Username").fill("robot");
    await dialog.getByLabel(/^Password/).fill("a-secret-of-the-registry");
    await dialog.getByRole("button", { name: "Save" }).click();
    if (attempt === 1) {
      await toast(page, `Saved the login of ${host}`);
    } else {
      await dialog.locator(".problem").waitFor();
      await page.keyboard.press("Escape");
    }
    await dialog.waitFor({ state: "detached" });
  }
  assert.ok(!(await page.content()).includes("a-secret-of-the-registry"));
  await page.getByRole("button", { name: `Change the login of ${host}` }).click();
  const dialog = page.getByRole("dialog");
  assert.equal(await dialog.getByLabel(/^Password/).inputValue(), "");
  await dialog.getByLabel("Username").fill("another");
  await dialog.getByLabel(/^Password/).fill("another-secret");
  await dialog.getByRole("button", { name: "Save" }).click();
  await page.locator("tbody tr", { hasText: host }).getByText("another").waitFor();
  await page.getByRole("button", { name: `Remove the login of ${host}` }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Remove" }).click();
  await page.locator("tbody tr", { hasText: host }).waitFor({ state: "detached" });
});

it("volumes and networks are made, shown with who uses them, and removed", async () => {
  const volume = `${PREFIX}-data`;
  const network = `${PREFIX}-net`;
  const page = await browser.signedIn();

  await page.goto("/volumes");
  await page.getByRole("button", { name: "Create" }).first().click();
  await page.getByRole("dialog").getByLabel("Name").fill(volume);
  await page.getByRole("dialog").getByRole("button", { name: "Create" }).click();
  await page.locator("tbody tr", { hasText: volume }).waitFor();

  await page.goto("/networks");
  await page.getByRole("button", { name: "Create" }).first().click();
  await page.getByRole("dialog").getByLabel("Name").fill(network);
  await page.getByRole("dialog").getByLabel(/^Internal/).check();
  await page.getByRole("dialog").getByRole("button", { name: "Create" }).click();
  const row = page.locator("tbody tr", { hasText: network });
  await row.getByText("internal").waitFor();

  const name = `${PREFIX}-user`;
  const made = await api.container(name, undefined, { volumes: [{ container: "/data", host: volume }], networks: [network] });
  await row.getByText(name).waitFor();
  await page.getByRole("link", { name: "Volumes" }).click();
  await page.locator("tbody tr", { hasText: volume }).getByText(name).waitFor();

  await page.getByRole("button", { name: `Remove ${volume}` }).click();
  const dialog = page.getByRole("dialog");
  const remove = dialog.getByRole("button", { name: "Remove with its data" });
  assert.ok(await remove.isDisabled(), "its name has to be typed first");
  await dialog.getByLabel(/Type its name/).fill(volume);
  await remove.click();
  await dialog.locator(".notice.tone-red").waitFor();
  await api.call("DELETE", `/api/containers/${made.id}?force=true`);
  await remove.click();
  await toast(page, `Removed the volume ${volume}`);

  await page.getByRole("link", { name: "Networks" }).click();
  await page.getByRole("button", { name: `Actions for ${network}` }).click();
  await page.getByRole("menuitem", { name: "Remove…" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Remove" }).click();
  await toast(page, `Removed the network ${network}`);
  assert.deepEqual(page.complaints, []);
});

it("a container is put on a network and taken off again", async () => {
  const network = `${PREFIX}-member`;
  await api.call("POST", "/api/networks", { name: network });
  await api.container(`${PREFIX}-goes`);
  const page = await browser.signedIn();
  await page.goto("/networks");
  await page.getByRole("button", { name: `Actions for ${network}` }).click();
  await page.getByRole("menuitem", { name: "Containers on it…" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("Put another on it").selectOption({ label: `${PREFIX}-goes` });
  await dialog.getByRole("button", { name: "Attach" }).click();
  await dialog.getByRole("button", { name: `Take ${PREFIX}-goes off` }).click();
  await dialog.getByText("No container is on it.").waitFor();
});

it("an API token is shown once, does what it may, and ends", async () => {
  const name = `${PREFIX}-token`;
  const page = await browser.signedIn();
  await page.goto("/tokens");
  await page.getByRole("button", { name: "Create" }).first().click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("Name").fill(name);
  await dialog.getByRole("button", { name: "Only these" }).click();
  await dialog.getByRole("button", { name: "Create" }).click();
  await dialog.getByText("Allow something").waitFor();
  await dialog.getByRole("group", { name: "nodes" }).getByRole("button", { name: "Read" }).click();
  await dialog.getByRole("button", { name: "Create" }).click();
  const token = await dialog.locator(".copy-box code").innerText();
  const other = new Api();
  other.token = token;
  assert.ok((await other.call("GET", "/api/nodes")).length > 0);
  assert.equal((await other.raw("GET", "/api/containers")).status, 403);
  await dialog.getByRole("button", { name: "I have kept it" }).click();
  await page.getByRole("button", { name: `End ${name}` }).click();
  await page.getByRole("dialog").getByRole("button", { name: "End it" }).click();
  await toast(page, `Ended ${name}`);
  assert.equal((await other.raw("GET", "/api/nodes")).status, 401);
});

it("a user is added, disabled and removed, and the audit log tells of it", async () => {
  const username = `${PREFIX}-mate`;
  const page = await browser.signedIn();
  await page.goto("/users");
  await page.getByRole("button", { name: "Add a user" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("Username").fill("Not Right");
  await dialog.getByLabel("Password").fill("a-long-password");
  await dialog.getByRole("button", { name: "Add" }).click();
  await dialog.getByText("1 to 64 of a-z", { exact: false }).waitFor();
  await dialog.getByLabel("Username").fill(username);
  await dialog.getByLabel("Role").selectOption("operator");
  await dialog.getByRole("button", { name: "Add" }).click();
  const row = page.locator("tbody tr", { hasText: username });
  await row.getByText("operator").waitFor();
  const mate = await browser.signedIn(username, "a-long-password");
  await row.getByRole("button", { name: `Actions for ${username}` }).click();
  await page.getByRole("menuitem", { name: "Disable" }).click();
  await row.getByText("disabled").waitFor();
  await mate.getByLabel("Password").waitFor({ timeout: 30_000 });
  await signIn(mate, username, "a-long-password");
  await mate.locator(".notice.tone-red").waitFor();
  await row.getByRole("button", { name: `Actions for ${username}` }).click();
  await page.getByRole("menuitem", { name: "Remove…" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Remove" }).click();
  await row.waitFor({ state: "detached" });
  await page.goto("/audit?action=user.create");
  await page.locator("tbody tr", { hasText: "user.create" }).first().waitFor();
  await page.getByRole("button", { name: "Verify" }).click();
  await page.getByText("The log is whole", { exact: false }).waitFor();
  assert.deepEqual(page.complaints, []);
});

it("events come as they happen", async () => {
  const page = await browser.signedIn();
  await page.goto("/events");
  await page.getByText("Waiting for something to happen").or(page.locator(".event").first()).waitFor();
  await page.getByText("Live", { exact: true }).waitFor();
  const name = `${PREFIX}-event`;
  await api.container(name);
  await page.locator(".event", { hasText: name }).first().waitFor();
  await page.getByLabel("Search events").fill(name);
  await eventually("only its own are left", async () => {
    const rows = await page.locator(".event").allInnerTexts();
    return rows.length > 0 && rows.every((r) => r.includes(name));
  });
});
