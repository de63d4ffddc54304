import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { ApiError } from "./errors";
import { EventParser, openStream, type ServerEvent, type StreamOptions, type StreamState, type Visibility } from "./sse";

describe("the event parser", () => {
  const parse = (...pieces: string[]) => {
    const parser = new EventParser();
    return pieces.flatMap((p) => parser.push(p));
  };

  it("reads events, ids and comments", () => {
    expect(parse(": here\n\nid: 7\nevent: change\ndata: {}\n\ndata: a\ndata:b\n\n")).toEqual([
      { event: "change", data: "{}", id: "7" },
      { event: "message", data: "a\nb", id: "7" },
    ]);
  });

  it("gives the same however the text is cut", () => {
    const text = "\ufeffid: 1\r\nevent: log\r\ndata: ä line\r\n\r\n: x\rdata: two\r\rid: 2\nevent: end\ndata\n\n";
    const whole = parse(text);
    expect(whole).toEqual([
      { event: "log", data: "ä line", id: "1" },
      { event: "message", data: "two", id: "1" },
      { event: "end", data: "", id: "2" },
    ]);
    for (let cut = 1; cut < text.length; cut++) expect(parse(text.slice(0, cut), text.slice(cut)), `cut at ${cut}`).toEqual(whole);
    expect(parse(...text)).toEqual(whole);
  });

  it("leaves out what the specification leaves out", () => {
    expect(parse("event: nothing\n\n")).toEqual([]);
    expect(parse("id: a\0b\ndata: x\n\n")).toEqual([{ event: "message", data: "x", id: undefined }]);
    expect(parse("data: never ended\n")).toEqual([]);
    expect(parse("nonsense: 1\ndata:  two spaces\n\n")).toEqual([{ event: "message", data: " two spaces", id: undefined }]);
  });
});

describe("a stream", () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  /** Opens a stream whose connections the test answers one by one. */
  function harness(more: Partial<StreamOptions> = {}) {
    const events: ServerEvent[] = [];
    const states: StreamState[] = [];
    const asked: {
      lastId: string | undefined;
      signal: AbortSignal;
      send: (text: string) => void;
      close: () => void;
      refuse: (e: unknown) => void;
    }[] = [];
    const stop = openStream({
      open: (lastId, signal) =>
        new Promise((resolve, reject) => {
          const pipe = new TransformStream<Uint8Array, Uint8Array>();
          const writer = pipe.writable.getWriter();
          let answered = false;
          const answer = () => {
            if (!answered) resolve(new Response(pipe.readable));
            answered = true;
          };
          signal.addEventListener("abort", () => {
            reject(new DOMException("aborted", "AbortError"));
            writer.abort(new DOMException("aborted", "AbortError")).catch(() => undefined);
          });
          asked.push({
            lastId,
            signal,
            send: (text) => {
              answer();
              writer.write(new TextEncoder().encode(text)).catch(() => undefined);
            },
            close: () => {
              answer();
              writer.close().catch(() => undefined);
            },
            refuse: reject,
          });
        }),
      onEvent: (e) => events.push(e),
      onState: (s) => states.push(s),
      visibility: null,
      backoff: (n) => n * 1000,
      ...more,
    });
    return { events, states, asked, stop };
  }
  const settle = () => vi.advanceTimersByTimeAsync(0);
  const at = <T>(list: T[], i: number): T => {
    const value = list[i];
    if (value === undefined) throw new Error(`there is no ${i} yet`);
    return value;
  };

  it("connects again after a loss, from the last id on", async () => {
    const h = harness();
    at(h.asked, 0).send("id: 41\ndata: a\n\n");
    await settle();
    at(h.asked, 0).close();
    await settle();
    expect(h.asked).toHaveLength(1);
    await vi.advanceTimersByTimeAsync(1000);
    expect(at(h.asked, 1).lastId).toBe("41");
    at(h.asked, 1).send("id: 42\ndata: b\n\n");
    await settle();
    expect(h.events.map((e) => e.data)).toEqual(["a", "b"]);
    expect(h.states).toEqual(["connecting", "open", "waiting", "connecting", "open"]);
    h.stop();
    expect(at(h.asked, 1).signal.aborted).toBe(true);
  });

  it("waits longer each time it fails, and as long as the server asks", async () => {
    const h = harness();
    at(h.asked, 0).refuse(ApiError.unreachable());
    await vi.advanceTimersByTimeAsync(1000);
    at(h.asked, 1).refuse(ApiError.unreachable());
    await vi.advanceTimersByTimeAsync(1999);
    expect(h.asked).toHaveLength(2);
    await vi.advanceTimersByTimeAsync(1);
    at(h.asked, 2).refuse(new ApiError({ status: 429, code: "too_many_requests", message: "", retryAfter: 60 }));
    await vi.advanceTimersByTimeAsync(59_000);
    expect(h.asked).toHaveLength(3);
    await vi.advanceTimersByTimeAsync(1000);
    expect(h.asked).toHaveLength(4);
    h.stop();
  });

  it("ends with the event that says so", async () => {
    const h = harness();
    at(h.asked, 0).send("data: a\n\nevent: end\ndata: {}\n\n");
    await settle();
    expect(h.states.at(-1)).toBe("ended");
    await vi.advanceTimersByTimeAsync(60_000);
    expect(h.asked).toHaveLength(1);
  });

  it("does not ask again for what it may not have", async () => {
    const h = harness();
    at(h.asked, 0).refuse(new ApiError({ status: 404, code: "container_not_found", message: "" }));
    await vi.advanceTimersByTimeAsync(60_000);
    expect(h.states.at(-1)).toBe("failed");
    expect(h.asked).toHaveLength(1);
  });

  it("goes on from now where the past is no longer kept", async () => {
    const h = harness();
    at(h.asked, 0).send("id: 5\ndata: a\n\n");
    await settle();
    at(h.asked, 0).close();
    await vi.advanceTimersByTimeAsync(1000);
    expect(at(h.asked, 1).lastId).toBe("5");
    at(h.asked, 1).refuse(new ApiError({ status: 410, code: "events_gone", message: "" }));
    await vi.advanceTimersByTimeAsync(2000);
    expect(at(h.asked, 2).lastId).toBeUndefined();
    h.stop();
  });

  it("takes a silent connection for dead", async () => {
    const h = harness({ silence: 30_000 });
    at(h.asked, 0).send("data: a\n\n");
    await vi.advanceTimersByTimeAsync(20_000);
    at(h.asked, 0).send(": here\n\n");
    await vi.advanceTimersByTimeAsync(29_000);
    expect(h.asked).toHaveLength(1);
    await vi.advanceTimersByTimeAsync(3_000);
    expect(h.asked).toHaveLength(2);
    h.stop();
  });

  it("lets go of its connection while the page is hidden", async () => {
    let hidden = false;
    const listeners = new Set<() => void>();
    const visibility: Visibility = {
      hidden: () => hidden,
      subscribe: (l) => {
        listeners.add(l);
        return () => listeners.delete(l);
      },
    };
    const show = (value: boolean) => {
      hidden = !value;
      for (const l of listeners) l();
    };
    const h = harness({ visibility });
    at(h.asked, 0).send("id: 5\ndata: a\n\n");
    await settle();
    show(false);
    await vi.advanceTimersByTimeAsync(2_000);
    show(true);
    await vi.advanceTimersByTimeAsync(10_000);
    expect(h.asked).toHaveLength(1);
    show(false);
    await vi.advanceTimersByTimeAsync(6_000);
    expect(at(h.asked, 0).signal.aborted).toBe(true);
    expect(h.states.at(-1)).toBe("paused");
    await vi.advanceTimersByTimeAsync(60_000);
    expect(h.asked).toHaveLength(1);
    show(true);
    await settle();
    expect(at(h.asked, 1).lastId).toBe("5");
    h.stop();
    expect(listeners.size).toBe(0);
  });
});
