import { ApiError } from "./errors";
import type { SignedIn, User } from "./types";

// The access token lives in memory, the refresh token in this tab's sessionStorage. A refresh token is good once, and one that is
// presented twice ends the session, so refreshes are never made side by side: within a tab they share one promise; between tabs,
// which share a session when a tab is duplicated or opened from another, they queue on a Web Lock and hand their result on over a
// BroadcastChannel. How often a session was refreshed stands in localStorage (a number, no secret), so that a tab which waited for
// the lock knows that its own token was spent meanwhile.

export interface Grant {
  /** Names the session among tabs; made here, never sent to the server. */
  key: string;
  /** How many times it was refreshed. */
  serial: number;
  accessToken: string;
  refreshToken: string;
  /** By this machine's clock, in milliseconds. */
  expires: number;
  user: User;
}

type Note =
  | { type: "renewed"; grant: Grant }
  | { type: "ask"; key: string; serial: number }
  | { type: "wanted" }
  | { type: "ended"; key: string };

export interface Channel {
  postMessage(note: unknown): void;
  addEventListener(type: "message", listener: (event: { data: unknown }) => void): void;
}

export interface SessionParts {
  fetch: typeof fetch;
  /** This tab's own storage. */
  tab: Pick<Storage, "getItem" | "setItem" | "removeItem">;
  /** Storage that all tabs see. */
  shared: Pick<Storage, "getItem" | "setItem" | "removeItem">;
  /** Runs `work` while no other tab holds the lock of this name. */
  exclusively: <T>(name: string, work: () => Promise<T>) => Promise<T>;
  channel: Channel | null;
  now: () => number;
}

export type SessionState =
  | { phase: "starting" }
  /** There is a session to take up, but no server that answers. */
  | { phase: "unreachable"; error: ApiError }
  | { phase: "signed-out"; notice?: string }
  | { phase: "signed-in"; user: User };

const STORED = "nm.session";
/** Refreshed this long before its end, so that no request is sent with a token that ends on its way. */
const EARLY_MS = 30_000;
const HANDOVER_MS = 800;
const ADOPT_MS = 150;

export class Session {
  readonly #parts: SessionParts;
  #grant: Grant | null = null;
  #renewing: Promise<string> | null = null;
  #state: SessionState = { phase: "starting" };
  readonly #listeners = new Set<() => void>();
  readonly #arrivals = new Set<(grant: Grant) => void>();

  constructor(parts: SessionParts) {
    this.#parts = parts;
    parts.channel?.addEventListener("message", (event) => this.#heard(event.data as Note));
  }

  get state(): SessionState {
    return this.#state;
  }

  subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  /** Takes up this tab's session again, or that of another open tab. */
  async start(): Promise<void> {
    const stored = this.#stored();
    if (stored) {
      this.#grant = { ...stored, accessToken: "", expires: 0, user: NOBODY };
      try {
        await this.#renew();
        return;
      } catch (error) {
        // Where the session was refused, it has ended here already.
        if (this.#grant) this.#set({ phase: "unreachable", error: error instanceof ApiError ? error : ApiError.unreachable() });
        return;
      }
    }
    const adopted = await this.#ask({ type: "wanted" }, ADOPT_MS, () => true);
    if (adopted) this.#take(adopted);
    else this.#set({ phase: "signed-out" });
  }

  async signIn(username: string, password: string): Promise<void> {
    const answer = await this.#post("/api/auth/login", { username, password });
    this.#take({ key: randomKey(), serial: 0, ...grantOf(answer, this.#parts.now()) });
  }

  /** Ends the session here, at the server and in the other tabs that share it. */
  async signOut(): Promise<void> {
    const grant = this.#grant;
    if (!grant) return;
    try {
      const token = await this.accessToken();
      await this.#parts.fetch("/api/auth/logout", { method: "POST", headers: { authorization: `Bearer ${token}` } });
    } catch {
      // Not reachable, or over already: forgetting the tokens is what can be done here.
    }
    this.#parts.channel?.postMessage({ type: "ended", key: grant.key } satisfies Note);
    this.#end();
  }

  /** A token that is good for the next half minute at least. Throws an ApiError with status 401 once the session is over. */
  async accessToken(): Promise<string> {
    const grant = this.#grant;
    if (!grant) throw ended();
    if (grant.accessToken && grant.expires - EARLY_MS > this.#parts.now()) return grant.accessToken;
    return this.#renew();
  }

  /** Another token in place of `refused`, which the server did not take. */
  async replace(refused: string): Promise<string> {
    const grant = this.#grant;
    if (!grant) throw ended();
    return grant.accessToken && grant.accessToken !== refused ? grant.accessToken : this.#renew();
  }

  /** The user was changed, as a reply of the API said. */
  updateUser(user: User): void {
    if (!this.#grant) return;
    this.#grant = { ...this.#grant, user };
    this.#set({ phase: "signed-in", user });
  }

  #renew(): Promise<string> {
    this.#renewing ??= this.#renewExclusively().finally(() => {
      this.#renewing = null;
    });
    return this.#renewing;
  }

  async #renewExclusively(): Promise<string> {
    const before = this.#grant;
    if (!before) throw ended();
    return this.#parts.exclusively(`nm-refresh-${before.key}`, async () => {
      const held = this.#grant;
      if (!held) throw ended();
      if (held.serial > before.serial) return held.accessToken;
      if (this.#sharedSerial(held.key) > held.serial) {
        const successor = await this.#ask(
          { type: "ask", key: held.key, serial: held.serial },
          HANDOVER_MS,
          (g) => g.key === held.key && g.serial > held.serial,
        );
        if (successor) {
          this.#take(successor);
          return successor.accessToken;
        }
      }
      let answer: SignedIn;
      try {
        answer = await this.#post("/api/auth/refresh", { refreshToken: held.refreshToken });
      } catch (error) {
        if (error instanceof ApiError && error.status >= 400 && error.status < 500 && error.status !== 429) {
          this.#end("Your session has ended. Sign in again.");
          throw ended();
        }
        throw error;
      }
      const grant = { key: held.key, serial: held.serial + 1, ...grantOf(answer, this.#parts.now()) };
      this.#take(grant);
      this.#parts.shared.setItem(`${STORED}.${grant.key}`, String(grant.serial));
      this.#parts.channel?.postMessage({ type: "renewed", grant } satisfies Note);
      return grant.accessToken;
    });
  }

  #heard(note: Note): void {
    const own = this.#grant;
    switch (note.type) {
      case "renewed":
        for (const arrival of this.#arrivals) arrival(note.grant);
        if (own && own.key === note.grant.key && note.grant.serial > own.serial) this.#take(note.grant);
        break;
      case "ask":
        if (own?.accessToken && own.key === note.key && own.serial > note.serial) this.#hand(own);
        break;
      case "wanted":
        if (own?.accessToken) this.#hand(own);
        break;
      case "ended":
        if (own?.key === note.key) this.#end("You signed out in another tab.");
        break;
    }
  }

  #hand(grant: Grant): void {
    this.#parts.channel?.postMessage({ type: "renewed", grant } satisfies Note);
  }

  /** Asks the other tabs, and gives the first grant that fits. */
  #ask(note: Note, wait: number, fits: (grant: Grant) => boolean): Promise<Grant | null> {
    const channel = this.#parts.channel;
    if (!channel) return Promise.resolve(null);
    return new Promise((resolve) => {
      const done = (grant: Grant | null) => {
        clearTimeout(timer);
        this.#arrivals.delete(arrival);
        resolve(grant);
      };
      const arrival = (grant: Grant) => {
        if (fits(grant)) done(grant);
      };
      const timer = setTimeout(() => done(null), wait);
      this.#arrivals.add(arrival);
      channel.postMessage(note);
    });
  }

  async #post(path: string, body: unknown): Promise<SignedIn> {
    let response: Response;
    try {
      response = await this.#parts.fetch(path, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(body),
      });
    } catch {
      throw ApiError.unreachable();
    }
    if (!response.ok) throw await ApiError.ofResponse(response);
    return ((await response.json()) as { data: SignedIn }).data;
  }

  #take(grant: Grant): void {
    const user = this.#grant?.user;
    this.#grant = grant;
    this.#parts.tab.setItem(STORED, JSON.stringify({ key: grant.key, serial: grant.serial, refreshToken: grant.refreshToken }));
    // Each refresh brings the same user again: whoever listens need not be told.
    if (this.#state.phase !== "signed-in" || JSON.stringify(user) !== JSON.stringify(grant.user)) {
      this.#set({ phase: "signed-in", user: grant.user });
    }
  }

  #end(notice?: string): void {
    if (this.#grant) this.#parts.shared.removeItem(`${STORED}.${this.#grant.key}`);
    this.#grant = null;
    this.#parts.tab.removeItem(STORED);
    this.#set({ phase: "signed-out", notice });
  }

  #set(state: SessionState): void {
    this.#state = state;
    for (const listener of this.#listeners) listener();
  }

  #stored(): Pick<Grant, "key" | "serial" | "refreshToken"> | null {
    try {
      const value = JSON.parse(this.#parts.tab.getItem(STORED) ?? "null") as Partial<Grant> | null;
      if (value && typeof value.key === "string" && typeof value.serial === "number" && typeof value.refreshToken === "string") {
        return { key: value.key, serial: value.serial, refreshToken: value.refreshToken };
      }
    } catch {
      // Written by something else: as good as nothing.
    }
    return null;
  }

  #sharedSerial(key: string): number {
    return Number(this.#parts.shared.getItem(`${STORED}.${key}`) ?? 0);
  }
}

const NOBODY: User = { id: "", username: "", role: "viewer", disabled: false, created: "", updated: "" };

function ended(): ApiError {
  return new ApiError({ status: 401, code: "session_ended", message: "Your session has ended. Sign in again." });
}

function grantOf(answer: SignedIn, now: number): Pick<Grant, "accessToken" | "refreshToken" | "expires" | "user"> {
  return { accessToken: answer.accessToken, refreshToken: answer.refreshToken, expires: now + answer.expiresIn * 1000, user: answer.user };
}

/** 128 random bits. `crypto.randomUUID` would do, but browsers keep it from pages served without TLS. */
export function randomKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
}

/** The browser's own parts. */
export function browserParts(): SessionParts {
  return {
    fetch: (...args) => fetch(...args),
    tab: sessionStorage,
    shared: localStorage,
    // Absent on pages without TLS that are not on localhost.
    exclusively: (name, work) =>
      navigator.locks ? (navigator.locks.request(name, work) as Promise<Awaited<ReturnType<typeof work>>>) : work(),
    channel: typeof BroadcastChannel === "undefined" ? null : new BroadcastChannel("nm-session"),
    now: Date.now,
  };
}
