// What the browser tests share: a browser, a signed-in page, and the API itself to prepare and to check with.
//
//   NM_URL                   the control plane, as http://127.0.0.1:3001
//   NM_ADMIN_PASSWORD_FILE   where the admin's password is
//   NM_AGENTS                where agents dial in, as 127.0.0.1:7443
//   NM_BINARY                the program, to run an agent with
//   NM_TEST_REGISTRY         a registry that has busybox:latest, as 127.0.0.1:5000
//   NM_CHROMIUM              the browser; /usr/bin/chromium by default
//   NM_SHOTS                 a folder for a picture of the page where a test failed

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

function needed(name) {
  const value = process.env[name];
  assert.ok(value, `${name} is not set; run e2e/browser/run.sh, which starts what is needed`);
  return value;
}

export const URL_ = needed("NM_URL").replace(/\/$/, "");
export const PASSWORD = readFileSync(needed("NM_ADMIN_PASSWORD_FILE"), "utf8").trim();
/** What the names of this run's things begin with. */
export const PREFIX = `nmb-${process.pid}-${randomBytes(2).toString("hex")}`;
/** How long a page may take to show what it should. */
export const DEADLINE = 15_000;

const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/** The API with the admin's token. */
export class Api {
  static async admin() {
    const api = new Api();
    api.token = (await api.call("POST", "/api/auth/login", { username: "admin", password: PASSWORD })).accessToken;
    return api;
  }

  async raw(method, path, body) {
    const headers = { ...(this.token ? { authorization: `Bearer ${this.token}` } : {}), ...(body ? { "content-type": "application/json" } : {}) };
    const response = await fetch(URL_ + path, { method, headers, body: body ? JSON.stringify(body) : undefined });
    return { status: response.status, json: await response.json() };
  }

  /** The data of a successful answer. */
  async call(method, path, body) {
    const { status, json } = await this.raw(method, path, body);
    assert.ok(json.success, `${method} ${path} -> ${status} ${JSON.stringify(json)}`);
    return json.data;
  }

  /** A container that runs until it is removed. */
  async container(name, command = ["sleep", "1000000"], more = {}) {
    return this.call("POST", "/api/containers", { name, image: "busybox:latest", command, start: true, stopGrace: 0, ...more });
  }

  /** A container that answers each request over HTTP with its own name, on port 8080. */
  async answering(name, more = {}) {
    const command = ["sh", "-c", `mkdir -p /www && echo ${name} > /www/index.html && exec httpd -f -p 8080 -h /www`];
    return this.container(name, command, { ports: [{ container: 8080 }], ...more });
  }

  async removeAll() {
    for (const c of await this.call("GET", "/api/capabilities/backups/configs?limit=200")) {
      if (c.name.startsWith(PREFIX)) await this.raw("DELETE", `/api/capabilities/backups/configs/${c.id}?force=true`);
    }
    // Before the containers that are their servers; those that scaling made go with them.
    for (const c of await this.call("GET", "/api/capabilities/clusters?limit=200")) {
      if (c.name.startsWith(PREFIX)) await this.raw("DELETE", `/api/capabilities/clusters/${c.id}`);
    }
    for (const c of await this.call("GET", `/api/containers?name=${PREFIX}&limit=200`)) {
      await this.raw("DELETE", `/api/containers/${c.id}?force=true&volumes=true`);
    }
    for (const n of await this.call("GET", "/api/nodes?limit=200")) {
      if (n.name.startsWith(PREFIX)) await this.raw("DELETE", `/api/nodes/${n.id}?force=true`);
    }
    for (const s of await this.call("GET", "/api/servers?kind=address&limit=200")) {
      if (s.name.startsWith(PREFIX)) await this.raw("DELETE", `/api/servers/${s.id}`);
    }
    // Rules before the channels they name.
    for (const kind of ["rules", "channels"]) {
      for (const x of await this.call("GET", `/api/alerts/${kind}?limit=200`)) {
        if (x.name.startsWith(PREFIX)) await this.raw("DELETE", `/api/alerts/${kind}/${x.id}`);
      }
    }
    for (const s of await this.call("GET", "/api/alerts/silences?limit=200")) {
      if (s.comment.startsWith(PREFIX)) await this.raw("DELETE", `/api/alerts/silences/${s.id}`);
    }
    for (const kind of ["networks", "volumes"]) {
      for (const x of await this.call("GET", `/api/${kind}`)) {
        if (x.name.startsWith(PREFIX)) await this.raw("DELETE", `/api/${kind}/${x.name}?nodeId=${x.nodeId}`);
      }
    }
    for (const u of await this.call("GET", "/api/users?limit=200")) {
      if (u.username.startsWith(PREFIX)) await this.raw("DELETE", `/api/users/${u.id}`);
    }
    for (const t of await this.call("GET", "/api/tokens?limit=200")) {
      if (t.name.startsWith(PREFIX)) await this.raw("DELETE", `/api/tokens/${t.id}`);
    }
  }
}

/** An agent of this machine, as a person starts it who pastes `line`; without a Docker engine, so that it takes no containers. */
export class Agent {
  constructor(name) {
    this.name = name;
    this.data = mkdtempSync(join(tmpdir(), "nm-browser-agent."));
  }

  /** Starts it with the line that was pasted; without one, with the certificate it has. */
  start(line) {
    const [, token, address] = /^NEURALMESH_JOIN=(\S+) neuralmesh agent --server (https:\/\/\S+)$/.exec(line ?? "") ?? [];
    assert.ok(line === undefined || token, `this is no line to paste: ${line}`);
    const options = ["--server", address ?? `https://${needed("NM_AGENTS")}`, "--data-dir", this.data, "--docker-socket", join(this.data, "none.sock"), "--name", this.name];
    const env = { PATH: process.env.PATH, ...(token ? { NEURALMESH_JOIN: token } : {}) };
    this.child = spawn(needed("NM_BINARY"), ["agent", ...options], { env, stdio: "ignore" });
    this.ended = new Promise((resolve) => this.child.once("exit", resolve));
  }

  async stop() {
    if (this.child?.exitCode === null && this.child.signalCode === null) this.child.kill("SIGKILL");
    await this.ended;
    this.child = null;
  }

  async remove() {
    await this.stop();
    rmSync(this.data, { recursive: true, force: true });
  }
}

/** Something that listens on this machine: keeps the requests it got, and answers each with 204. */
export class Receiver {
  static async open() {
    const own = new Receiver();
    own.requests = [];
    own.server = createServer((request, response) => {
      let body = "";
      request.on("data", (part) => (body += part));
      request.on("end", () => {
        own.requests.push({ url: request.url, headers: request.headers, body });
        response.writeHead(204).end();
      });
    });
    await new Promise((resolve) => own.server.listen(0, "127.0.0.1", resolve));
    own.port = own.server.address().port;
    return own;
  }

  async close() {
    this.server.closeAllConnections();
    if (this.server.listening) await new Promise((resolve) => this.server.close(resolve));
  }
}

/** Waits until `probe` gives something; fails with what it gave last. */
export async function eventually(what, probe, deadline = DEADLINE) {
  const end = Date.now() + deadline;
  let last;
  for (;;) {
    try {
      const value = await probe();
      if (value) return value;
      last = value;
    } catch (error) {
      last = error;
    }
    assert.ok(Date.now() < end, `${what}: not within ${deadline} ms; last: ${last}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

/** One browser for a file of tests. */
export class Browser {
  static async open() {
    const own = new Browser();
    own.browser = await chromium.launch({ executablePath: process.env.NM_CHROMIUM ?? "/usr/bin/chromium", headless: true, args: FLAGS });
    own.contexts = [];
    return own;
  }

  /** A page of a browser session of its own. What its console complains of is kept in `page.complaints`. */
  async page(options = {}) {
    const context = await this.browser.newContext({ baseURL: URL_, viewport: { width: 1280, height: 800 }, ...options });
    context.setDefaultTimeout(DEADLINE);
    this.contexts.push(context);
    return this.watch(await context.newPage());
  }

  watch(page) {
    page.complaints = [];
    page.on("console", (message) => {
      // A request that is refused on purpose is noted by the browser as an error, too.
      if (message.type() === "error" && !/Failed to load resource/.test(message.text())) page.complaints.push(message.text());
    });
    page.on("pageerror", (error) => page.complaints.push(String(error)));
    page.unloaded = [];
    page.on("requestfailed", (request) => {
      const why = request.failure()?.errorText;
      // A page that is left lets go of its streams.
      if (why !== "net::ERR_ABORTED") page.unloaded.push(`${request.method()} ${request.url()}: ${why}`);
    });
    page.on("response", (response) => {
      if (response.status() >= 500) page.unloaded.push(`${response.request().method()} ${response.url()}: ${response.status()}`);
    });
    page.on("crash", () => page.unloaded.push("the page crashed"));
    return page;
  }

  async signedIn(username = "admin", password = PASSWORD, options = {}) {
    const page = await this.page(options);
    await page.goto("/");
    await signIn(page, username, password);
    await page.getByRole("heading", { name: "Containers", level: 1 }).waitFor();
    return page;
  }

  async close() {
    await this.browser.close();
  }

  /** A picture of every page that is open, and what went wrong in it. */
  async picture(name) {
    for (const page of this.contexts.flatMap((context) => context.pages())) {
      for (const line of [...page.complaints, ...page.unloaded]) console.log(`    ${page.url()}: ${line}`);
    }
    const folder = process.env.NM_SHOTS;
    if (!folder) return;
    mkdirSync(folder, { recursive: true });
    let i = 0;
    for (const context of this.contexts) {
      for (const page of context.pages()) {
        await page.screenshot({ path: join(folder, `${name.replace(/[^a-z0-9]+/gi, "-")}-${i++}.png`) }).catch(() => undefined);
      }
    }
  }
}

export async function signIn(page, username, password) {
  await page.getByLabel("Username").fill(username);
  await page.getByLabel("Password").fill(password);
  await page.getByRole("button", { name: "Sign in" }).click();
}

/** The first word of a status such as `running` or `exited (1)`. */
export async function status(page) {
  return (await page.locator("h1 .status").innerText()).trim();
}

export async function hasStatus(page, wanted) {
  await page.locator("h1 .status", { hasText: wanted }).waitFor();
}

/** A toast with this text. */
export async function toast(page, text) {
  await page.locator(".toast", { hasText: text }).first().waitFor();
}

/** A test that leaves a picture where it fails. */
export function pictured(browser, run) {
  return async (t) => {
    try {
      await run(t);
    } catch (error) {
      await browser()?.picture(t.name);
      throw error;
    }
  };
}
