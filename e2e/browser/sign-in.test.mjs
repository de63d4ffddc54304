import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Api, Browser, eventually, PASSWORD, pictured, PREFIX, signIn } from "./lib.mjs";

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
const it = (name, run) => test(name, { timeout: 90_000 }, pictured(() => browser, run));

it("a wrong password is refused in words, and the right one let in", async () => {
  const page = await browser.page();
  await page.goto("/");
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByText("Enter a username and a password.").waitFor();
  await signIn(page, "admin", "not the password");
  const notice = page.locator(".notice.tone-red");
  await notice.filter({ hasText: /password/i }).waitFor();
  assert.equal(await page.getByLabel("Password").inputValue(), "", "the wrong password does not stay in the field");
  await signIn(page, "admin", PASSWORD);
  await page.getByRole("heading", { name: "Containers", level: 1 }).waitFor();
  assert.deepEqual(page.complaints, []);
});

it("a reload stays signed in, and a second tab joins in", async () => {
  const page = await browser.signedIn();
  await page.reload();
  await page.getByRole("heading", { name: "Containers", level: 1 }).waitFor();
  const second = browser.watch(await page.context().newPage());
  await second.goto("/nodes");
  await second.getByRole("heading", { name: "Nodes", level: 1 }).waitFor();
  // Both go on: neither's token was spent by the other.
  await page.reload();
  await page.getByRole("heading", { name: "Containers", level: 1 }).waitFor();
  await second.getByRole("link", { name: "Images", exact: true }).click();
  await second.getByRole("heading", { name: "Images", level: 1 }).waitFor();
  await second.getByRole("button", { name: /admin/ }).click();
  await second.getByRole("menuitem", { name: "Sign out" }).click();
  await second.getByLabel("Password").waitFor();
  await page.getByText("You signed out in another tab.").waitFor();
  assert.deepEqual([...page.complaints, ...second.complaints], []);
});

it("signing out ends the session at the server", async () => {
  const page = await browser.signedIn();
  const refused = page.waitForResponse((r) => r.url().endsWith("/api/auth/logout"));
  const token = await page.evaluate(() => JSON.parse(sessionStorage.getItem("nm.session")).refreshToken);
  await page.goto("/settings");
  await page.getByRole("button", { name: "Sign out" }).click();
  assert.equal((await refused).status(), 200);
  await page.getByLabel("Username").waitFor();
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
  const again = await api.raw("POST", "/api/auth/refresh", { refreshToken: token });
  assert.equal(again.status, 401);
});

it("a page that is linked to is shown after signing in", async () => {
  const page = await browser.page();
  await page.goto("/operations?state=failed");
  await signIn(page, "admin", PASSWORD);
  await page.getByRole("heading", { name: "Operations", level: 1 }).waitFor();
  assert.equal(await page.getByLabel("State").inputValue(), "failed");
});

it("the password can be changed, and the old one is refused then", async () => {
  const username = `${PREFIX}-pw`;
  await api.call("POST", "/api/users", { username, password: "the-first-password", role: "viewer" });
  const page = await browser.signedIn(username, "the-first-password");
  await page.goto("/settings");
  await page.getByLabel("Present password").fill("not the password");
  await page.getByLabel("New password", { exact: true }).fill("short");
  await page.getByLabel("New password again").fill("other");
  await page.getByRole("button", { name: "Change it" }).click();
  await page.getByText("At least 10 characters").first().waitFor();
  await page.getByText("This is not the same").waitFor();
  await page.getByLabel("New password", { exact: true }).fill("the-second-password");
  await page.getByLabel("New password again").fill("the-second-password");
  await page.getByRole("button", { name: "Change it" }).click();
  await eventually("the present password is refused", async () => (await page.locator("form .problem, form .notice.tone-red").count()) > 0);
  await page.getByLabel("Present password").fill("the-first-password");
  await page.getByRole("button", { name: "Change it" }).click();
  await page.locator(".toast", { hasText: "Your password is changed" }).waitFor();
  const fresh = await browser.signedIn(username, "the-second-password");
  assert.deepEqual(fresh.complaints, []);
});
