import { describe, expect, it } from "vitest";
import { Client, withQuery } from "./client";
import { ApiError } from "./errors";
import { type Channel, Session, type SessionParts } from "./session";

const USER = { id: "user_1_aaaaaaaaa", username: "admin", role: "admin", disabled: false, created: "", updated: "" };

/** A server that rotates tokens as ours does: a refresh token is good once, and the access token before it ends with it. */
class FakeServer {
  access = "";
  refresh = "";
  turns = 0;
  refreshes = 0;
  reused = 0;
  down = false;
  /** Requests wait for this where it is set. */
  gate: Promise<void> | null = null;

  fetch = async (input: RequestInfo | URL, init?: RequestInit): Promise<Response> => {
    const path = String(input);
    if (this.gate) await this.gate;
    if (this.down) throw new TypeError("Failed to fetch");
    if (path === "/api/auth/login" || path === "/api/auth/refresh") {
      if (path.endsWith("refresh")) {
        const sent = (JSON.parse(String(init?.body)) as { refreshToken: string }).refreshToken;
        if (sent !== this.refresh) {
          this.reused += 1;
          return failure(401, "unauthorized", "the session is over");
        }
        this.refreshes += 1;
      }
      this.turns += 1;
      this.access = `access-${this.turns}`;
      this.refresh = `refresh-${this.turns}`;
      return json(200, { success: true, data: { accessToken: this.access, refreshToken: this.refresh, expiresIn: 900, user: USER } });
    }
    const bearer = new Headers(init?.headers).get("authorization");
    if (bearer !== `Bearer ${this.access}`) return failure(401, "unauthorized", "sign in first");
    if (path === "/api/auth/logout") this.access = this.refresh = "";
    return json(200, { success: true, data: { path } });
  };
}

function json(status: number, body: unknown): Response {
  return new Response(JSON.stringify(body), { status, headers: { "content-type": "application/json" } });
}
function failure(status: number, code: string, error: string, more: object = {}): Response {
  return json(status, { success: false, error, code, requestId: "r1", ...more });
}

class Memory {
  readonly values = new Map<string, string>();
  getItem = (key: string) => this.values.get(key) ?? null;
  setItem = (key: string, value: string) => void this.values.set(key, value);
  removeItem = (key: string) => void this.values.delete(key);
}

/** What tabs of one browser share: storage, locks, a channel that does not echo. */
class Browser {
  shared = new Memory();
  #queues = new Map<string, Promise<unknown>>();
  #channels = new Set<{ heard: (data: unknown) => void }>();
  now = 1_000_000;

  tab(server: FakeServer, storage = new Memory()): { session: Session; storage: Memory; client: Client } {
    const own = { heard: (_data: unknown) => undefined as unknown };
    this.#channels.add(own as { heard: (data: unknown) => void });
    const channel: Channel = {
      postMessage: (data) => {
        for (const c of this.#channels) if (c !== own) setTimeout(() => c.heard(structuredClone(data)), 0);
      },
      addEventListener: (_type, listener) => {
        own.heard = (data) => listener({ data });
      },
    };
    const parts: SessionParts = {
      fetch: server.fetch as typeof fetch,
      tab: storage,
      shared: this.shared,
      channel,
      now: () => this.now,
      exclusively: (name, work) => {
        const before = this.#queues.get(name) ?? Promise.resolve();
        const run = before.then(work, work);
        this.#queues.set(
          name,
          run.catch(() => undefined),
        );
        return run;
      },
    };
    const session = new Session(parts);
    return { session, storage, client: new Client(session, server.fetch as typeof fetch) };
  }
}

describe("a session", () => {
  it("signs in, calls with the token, and signs out", async () => {
    const server = new FakeServer();
    const { session, storage, client } = new Browser().tab(server);
    await session.start();
    expect(session.state).toEqual({ phase: "signed-out" });
    await session.signIn("admin", "secret");
    expect(session.state).toEqual({ phase: "signed-in", user: USER });
    expect(await client.get("/api/nodes")).toEqual({ path: "/api/nodes" });
    // The access token is never stored.
    expect([...storage.values.values()].join()).not.toContain("access-1");
    await session.signOut();
    expect(server.access).toBe("");
    expect(storage.values.size).toBe(0);
    await expect(client.get("/api/nodes")).rejects.toMatchObject({ status: 401, code: "session_ended" });
  });

  it("refreshes once for all requests that are refused at the same time", async () => {
    const server = new FakeServer();
    const { session, client } = new Browser().tab(server);
    await session.signIn("admin", "secret");
    server.access = "replaced";
    const answers = await Promise.all(Array.from({ length: 12 }, (_, i) => client.get(`/api/${i}`)));
    expect(answers).toHaveLength(12);
    expect(server.refreshes).toBe(1);
    expect(server.reused).toBe(0);
  });

  it("refreshes before the token ends", async () => {
    const server = new FakeServer();
    const browser = new Browser();
    const { session, client } = browser.tab(server);
    await session.signIn("admin", "secret");
    browser.now += 869_000;
    await client.get("/api/nodes");
    expect(server.refreshes).toBe(0);
    browser.now += 2_000;
    await client.get("/api/nodes");
    expect(server.refreshes).toBe(1);
  });

  it("gives up when the new token is refused, too", async () => {
    const server = new FakeServer();
    const { session, client } = new Browser().tab(server);
    await session.signIn("admin", "secret");
    server.access = "replaced";
    server.refresh = "spent by somebody else";
    await expect(client.get("/api/nodes")).rejects.toMatchObject({ status: 401 });
    expect(session.state).toEqual({ phase: "signed-out", notice: "Your session has ended. Sign in again." });
  });

  it("outlives a server that is away", async () => {
    const server = new FakeServer();
    const browser = new Browser();
    const { session, client, storage } = browser.tab(server);
    await session.signIn("admin", "secret");
    browser.now += 900_000;
    server.down = true;
    await expect(client.get("/api/nodes")).rejects.toMatchObject({ status: 0, code: "unreachable" });
    expect(session.state.phase).toBe("signed-in");
    server.down = false;
    await client.get("/api/nodes");
    // So does one that is taken up again while the server is away.
    server.down = true;
    const again = browser.tab(server, storage);
    await again.session.start();
    expect(again.session.state.phase).toBe("unreachable");
    server.down = false;
    await again.session.start();
    expect(again.session.state.phase).toBe("signed-in");
  });

  it("is taken up again after a reload", async () => {
    const server = new FakeServer();
    const browser = new Browser();
    const { session, storage } = browser.tab(server);
    await session.signIn("admin", "secret");
    const reloaded = browser.tab(server, storage);
    await reloaded.session.start();
    expect(reloaded.session.state).toEqual({ phase: "signed-in", user: USER });
    expect(server.refreshes).toBe(1);
  });

  it("is shared by a duplicated tab without a token being sent twice", async () => {
    const server = new FakeServer();
    const browser = new Browser();
    const first = browser.tab(server);
    await first.session.signIn("admin", "secret");
    const copy = new Memory();
    for (const [k, v] of first.storage.values) copy.setItem(k, v);
    const second = browser.tab(server, copy);
    await second.session.start();
    expect(server.refreshes).toBe(1);
    // The first tab's access token ended with that refresh; it was handed the new one.
    await first.client.get("/api/nodes");
    // Both find their tokens stale at once: one of them refreshes.
    server.access = "replaced";
    await Promise.all([first.client.get("/api/a"), second.client.get("/api/b"), first.client.get("/api/c")]);
    expect(server.refreshes).toBe(2);
    expect(server.reused).toBe(0);
  });

  it("asks the other tab when it slept through a refresh", async () => {
    const server = new FakeServer();
    const browser = new Browser();
    const first = browser.tab(server);
    await first.session.signIn("admin", "secret");
    const stale = new Memory();
    for (const [k, v] of first.storage.values) stale.setItem(k, v);
    server.access = "replaced";
    await first.client.get("/api/nodes");
    // Its stored token was spent before it even started.
    const second = browser.tab(server, stale);
    await second.session.start();
    expect(second.session.state.phase).toBe("signed-in");
    expect(server.reused).toBe(0);
    expect(server.refreshes).toBe(1);
  });

  it("is taken over by a new tab, and ends in all of them", async () => {
    const server = new FakeServer();
    const browser = new Browser();
    const first = browser.tab(server);
    await first.session.signIn("admin", "secret");
    const second = browser.tab(server);
    await second.session.start();
    expect(second.session.state.phase).toBe("signed-in");
    expect(server.refreshes).toBe(0);
    await first.session.signOut();
    await expect.poll(() => second.session.state).toEqual({ phase: "signed-out", notice: "You signed out in another tab." });
    expect(second.storage.values.size).toBe(0);
  });
});

describe("a client", () => {
  const client = (answer: () => Promise<Response>) =>
    new Client({ accessToken: async () => "t", replace: async () => "t" }, answer as typeof fetch);

  it("gives the envelope's parts", async () => {
    const reply = await client(async () => json(200, { success: true, data: [1], count: 1, nextCursor: "c", message: "m" })).call(
      "GET",
      "/api/x",
    );
    expect(reply).toEqual({ status: 200, data: [1], count: 1, nextCursor: "c", message: "m" });
  });

  it("throws what the error envelope says", async () => {
    const details = [{ field: "memoryLimit", message: "digits and one of k, m or g" }];
    const error = await client(async () => failure(422, "invalid_field", "`memoryLimit`: …", { details, operationId: "op_1", logs: ["a"] }))
      .get("/api/x")
      .catch((e: unknown) => e);
    expect(error).toBeInstanceOf(ApiError);
    expect(error).toMatchObject({ status: 422, code: "invalid_field", details, requestId: "r1", operationId: "op_1", logs: ["a"] });
  });

  it("describes an answer that is no envelope", async () => {
    const error = await client(
      async () => new Response("<html>", { status: 502, statusText: "Bad Gateway", headers: { "retry-after": "7" } }),
    )
      .get("/api/x")
      .catch((e: unknown) => e);
    expect(error).toMatchObject({
      status: 502,
      code: "http_502",
      retryAfter: 7,
      message: "The server answered 502 Bad Gateway without an explanation.",
    });
    await expect(client(async () => new Response("<html>", { status: 200 })).get("/api/x")).rejects.toMatchObject({ code: "bad_answer" });
  });

  it("tells an unreachable server from an aborted request", async () => {
    await expect(client(() => Promise.reject(new TypeError("Failed to fetch"))).get("/api/x")).rejects.toMatchObject({
      code: "unreachable",
      status: 0,
    });
    await expect(client(() => Promise.reject(new DOMException("x", "AbortError"))).get("/api/x")).rejects.toMatchObject({
      name: "AbortError",
    });
  });

  it("writes queries", () => {
    expect(withQuery("/api/x")).toBe("/api/x");
    expect(withQuery("/api/x", { a: 1, b: undefined, c: "", d: ["x y", "z"], e: false })).toBe("/api/x?a=1&d=x+y&d=z&e=false");
  });
});
