import { ApiError } from "./errors";

// Server-sent events over fetch: EventSource can't send an Authorization header.
// https://html.spec.whatwg.org/multipage/server-sent-events.html

export interface ServerEvent {
  event: string;
  data: string;
  /** The last id seen, which stays in force for events that bring none. */
  id: string | undefined;
}

/** Turns pieces of an event stream, cut anywhere, into events. */
export class EventParser {
  #rest = "";
  #started = false;
  #data: string[] = [];
  #event = "";
  #id: string | undefined;
  /** Milliseconds to wait before connecting again, once the server said so. */
  retry: number | undefined;

  push(text: string): ServerEvent[] {
    let input = this.#rest + text;
    if (!this.#started && input.length > 0) {
      this.#started = true;
      if (input.charCodeAt(0) === 0xfeff) input = input.slice(1);
    }
    const events: ServerEvent[] = [];
    let from = 0;
    for (;;) {
      const end = lineEnd(input, from);
      if (!end) break;
      const event = this.#line(input.slice(from, end.at));
      if (event) events.push(event);
      from = end.next;
    }
    this.#rest = input.slice(from);
    return events;
  }

  #line(line: string): ServerEvent | null {
    if (line === "") {
      const event = this.#data.length > 0 ? { event: this.#event || "message", data: this.#data.join("\n"), id: this.#id } : null;
      this.#data = [];
      this.#event = "";
      return event;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return null;
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (field === "data") this.#data.push(value);
    else if (field === "event") this.#event = value;
    else if (field === "id" && !value.includes("\0")) this.#id = value;
    else if (field === "retry" && /^\d+$/.test(value)) this.retry = Number(value);
    return null;
  }
}

/** The next line end, LF, CR or CRLF; none while a CR is the last character, since its LF may be on its way. */
function lineEnd(text: string, from: number): { at: number; next: number } | null {
  for (let i = from; i < text.length; i++) {
    const c = text.charCodeAt(i);
    if (c === 10) return { at: i, next: i + 1 };
    if (c === 13) {
      if (i + 1 === text.length) return null;
      return { at: i, next: text.charCodeAt(i + 1) === 10 ? i + 2 : i + 1 };
    }
  }
  return null;
}

export type StreamState = "connecting" | "open" | "waiting" | "paused" | "ended" | "failed";

export interface StreamOptions {
  /** Opens the stream; `lastId` is the id of the last event seen. */
  open: (lastId: string | undefined, signal: AbortSignal) => Promise<Response>;
  onEvent: (event: ServerEvent) => void;
  onState?: (state: StreamState, error?: ApiError) => void;
  /** Whether the stream is over, and not only its connection. `end` events by default. */
  isEnd?: (event: ServerEvent) => boolean;
  /** Visibility of the page: a hidden one lets go of its connection, of which a browser has six a server. */
  visibility?: Visibility | null;
  /** Milliseconds of silence, without even a comment, after which the connection is taken for dead. */
  silence?: number;
  /** Milliseconds to wait before attempt `n`, which counts from 1. */
  backoff?: (n: number) => number;
}

export interface Visibility {
  hidden(): boolean;
  subscribe(listener: () => void): () => void;
}

const HIDE_AFTER_MS = 5_000;

export const pageVisibility: Visibility = {
  hidden: () => document.hidden,
  subscribe: (listener) => {
    document.addEventListener("visibilitychange", listener);
    return () => document.removeEventListener("visibilitychange", listener);
  },
};

/** 0.5 s doubling to 15 s, less up to a half, so that many tabs do not come back at once. */
export function backoff(attempt: number): number {
  return Math.min(500 * 2 ** (attempt - 1), 15_000) * (0.5 + Math.random() / 2);
}

/** Keeps an event stream open, across lost connections, until it ends, is refused for good, or the returned function is called. */
export function openStream(options: StreamOptions): () => void {
  const { open, onEvent, onState, isEnd = (e) => e.event === "end", silence = 35_000 } = options;
  const visibility = options.visibility === undefined ? pageVisibility : options.visibility;
  const delay = options.backoff ?? backoff;
  let stopped = false;
  let connection: AbortController | null = null;
  let lastId: string | undefined;
  let attempt = 0;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let hideTimer: ReturnType<typeof setTimeout> | undefined;

  const set = (state: StreamState, error?: ApiError) => {
    if (!stopped) onState?.(state, error);
  };
  const stop = () => {
    stopped = true;
    clearTimeout(timer);
    clearTimeout(hideTimer);
    unsubscribe?.();
    connection?.abort();
  };

  /** Whether the stream is over for good. */
  const read = async (own: AbortController): Promise<boolean> => {
    const response = await open(lastId, own.signal);
    if (!response.body) throw ApiError.unreachable();
    set("open");
    const reader = response.body.getReader();
    const decoder = new TextDecoder();
    const parser = new EventParser();
    let watchdog: ReturnType<typeof setTimeout> | undefined;
    try {
      for (;;) {
        clearTimeout(watchdog);
        watchdog = setTimeout(() => own.abort(), silence);
        const { done, value } = await reader.read();
        if (done) return false;
        attempt = 0;
        for (const event of parser.push(decoder.decode(value, { stream: true }))) {
          if (stopped || own.signal.aborted) return false;
          lastId = event.id ?? lastId;
          if (isEnd(event)) {
            onEvent(event);
            return true;
          }
          onEvent(event);
        }
      }
    } finally {
      clearTimeout(watchdog);
      reader.cancel().catch(() => undefined);
    }
  };

  const connect = async () => {
    if (stopped || connection) return;
    clearTimeout(timer);
    const own = new AbortController();
    connection = own;
    set("connecting");
    let error: ApiError | undefined;
    let over = false;
    try {
      over = await read(own);
    } catch (cause) {
      if (cause instanceof ApiError) error = cause;
      // What came since the last event is no longer kept: go on from now.
      if (error?.status === 410) lastId = undefined;
    }
    // Aborted while it was open: a sound connection is let go of, and nothing lingers.
    own.abort();
    if (connection === own) connection = null;
    if (stopped) return;
    if (over) {
      set("ended");
      stop();
    } else if (error && isFinal(error)) {
      set("failed", error);
      stop();
    } else if (visibility?.hidden()) {
      set("paused");
    } else {
      attempt += 1;
      set("waiting", error);
      timer = setTimeout(connect, Math.max(delay(attempt), (error?.retryAfter ?? 0) * 1000));
    }
  };

  const unsubscribe = visibility?.subscribe(() => {
    clearTimeout(hideTimer);
    if (visibility.hidden()) {
      hideTimer = setTimeout(() => {
        clearTimeout(timer);
        connection?.abort();
        set("paused");
      }, HIDE_AFTER_MS);
    } else if (!connection) {
      attempt = 0;
      void connect();
    }
  });
  if (visibility?.hidden()) set("paused");
  else void connect();
  return stop;
}

/** Whether asking again can't help: the request itself is refused. */
function isFinal(error: ApiError): boolean {
  return error.status >= 400 && error.status < 500 && ![408, 410, 429].includes(error.status);
}
