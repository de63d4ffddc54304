import { ArrowDown, Clock, Download, Eraser, Filter, ScrollText, WrapText } from "lucide-react";
import { memo, type ReactNode, useEffect, useLayoutEffect, useMemo, useRef, useState } from "react";
import type { ApiError } from "../../api";
import * as calls from "../../api/calls";
import { openStream, type StreamState } from "../../api/sse";
import type { Container, LogLine, LogStream } from "../../api/types";
import { plainText, spans } from "../../lib/ansi";
import { absolute, clock, plural } from "../../lib/format";
import { type Chunk, type KeptLine, LogBuffer } from "../../lib/logbuffer";
import { Button, IconButton } from "../../ui/button";
import { Segmented, Select } from "../../ui/field";
import { SearchBox } from "../../ui/search";
import { Empty, Failure } from "../../ui/states";

const TAILS: readonly (readonly [string, string])[] = [
  ["100", "Last 100 lines"],
  ["500", "Last 500 lines"],
  ["2000", "Last 2,000 lines"],
  ["10000", "Last 10,000 lines"],
];
/** New lines are drawn this often, however fast they come. */
const DRAW_MS = 80;

const STATE: Record<Exclude<StreamState, "ended">, string> = {
  connecting: "Connecting…",
  open: "Following",
  waiting: "Connection lost, retrying…",
  paused: "Paused while the page is hidden",
  failed: "Stopped",
};

/** Whose log it is. */
export interface LogSource {
  /** Another one is another log. */
  id: string;
  /** Of the file it is saved in, without its ending. */
  file: string;
  /** What changes when there is more to follow after its end. */
  again: string;
  /** What it means that it has ended. */
  ended: string;
  follow: (query: { since?: string; tail: number }, signal: AbortSignal) => Promise<Response>;
}

/** A log, followed; it goes on by itself when there is more to come. */
function useLog(source: LogSource, tail: number) {
  const buffer = useMemo(() => new LogBuffer(), [source.id, tail]);
  const [version, setVersion] = useState(0);
  const [state, setState] = useState<StreamState>("connecting");
  const [error, setError] = useState<ApiError | null>(null);
  const [attempt, setAttempt] = useState(0);

  useEffect(() => {
    let waiting: LogLine[] = [];
    let timer: ReturnType<typeof setTimeout> | undefined;
    const draw = () => {
      timer = undefined;
      const lines = waiting;
      waiting = [];
      if (buffer.add(lines)) setVersion((v) => v + 1);
    };
    setError(null);
    const stop = openStream({
      open: (_last, signal) => {
        draw();
        buffer.reconnected();
        const since = buffer.since;
        return source.follow(since ? { since, tail: 10_000 } : { tail }, signal);
      },
      onEvent: (event) => {
        if (event.event !== "log") return;
        waiting.push(JSON.parse(event.data) as LogLine);
        timer ??= setTimeout(draw, DRAW_MS);
      },
      onState: (next, cause) => {
        setState(next);
        if (next === "failed") setError(cause ?? null);
      },
    });
    return () => {
      stop();
      clearTimeout(timer);
      draw();
    };
  }, [buffer, source.again, attempt]);
  return { buffer, version, state, error, retry: () => setAttempt((a) => a + 1), redraw: () => setVersion((v) => v + 1) };
}

/** The log of a container goes on by itself when it is started again. */
export function LogsTab({ container: c }: { container: Container }) {
  const running = c.status === "running" || c.status === "paused";
  return (
    <Log
      source={{
        id: c.id,
        file: c.name,
        again: `${c.started} ${running}`,
        ended: "The container is not running",
        follow: (query, signal) => calls.containers.followLogs(c.id, query, signal),
      }}
    />
  );
}

export function Log({ source }: { source: LogSource }) {
  const [tail, setTail] = useState("500");
  const { buffer, version, state, error, retry, redraw } = useLog(source, Number(tail));
  const [search, setSearch] = useState("");
  const [only, setOnly] = useState(false);
  const [stream, setStream] = useState<"" | LogStream>("");
  const [wrapped, setWrapped] = useState(true);
  const [times, setTimes] = useState(() => innerWidth > 700);
  const [pinned, setPinned] = useState(true);
  const [seen, setSeen] = useState(0);
  const [at, setAt] = useState(0);
  const view = useRef<HTMLDivElement>(null);
  const content = useRef<HTMLDivElement>(null);
  const lastTop = useRef(0);

  const wanted = search.toLowerCase();
  const { chunks, hits, shown } = useMemo(() => {
    const hits: number[] = [];
    let shown = 0;
    const chunks: Chunk[] = [];
    for (const chunk of buffer.chunks) {
      const lines = chunk.lines.filter((l) => {
        if (stream && !l.note && l.stream !== stream) return false;
        const hit = wanted !== "" && !l.note && plainText(l.line).toLowerCase().includes(wanted);
        if (only && wanted && !hit) return false;
        if (hit) hits.push(l.id);
        return true;
      });
      shown += lines.length;
      if (lines.length > 0) chunks.push(lines.length === chunk.lines.length ? chunk : { id: chunk.id, lines });
    }
    return { chunks, hits, shown };
  }, [buffer, version, wanted, only, stream]);
  const current = hits.length > 0 ? hits[Math.min(at, hits.length - 1)] : undefined;

  // The newest line is kept in sight: after each drawing, and when lines that were only estimated turn out to be higher.
  const stick = useRef<() => void>(() => undefined);
  stick.current = () => {
    if (pinned && view.current) view.current.scrollTop = view.current.scrollHeight;
  };
  useLayoutEffect(() => stick.current(), [pinned, chunks, wrapped, times]);
  useEffect(() => {
    if (!content.current) return;
    const observer = new ResizeObserver(() => stick.current());
    observer.observe(content.current);
    return () => observer.disconnect();
  }, []);
  useEffect(() => {
    if (pinned) setSeen(shown);
  }, [pinned, shown]);

  const scrolled = () => {
    const element = view.current;
    if (!element) return;
    const { scrollTop, scrollHeight, clientHeight } = element;
    // Growing lines move the end away, too; only going up lets go of it.
    if (scrollHeight - scrollTop - clientHeight < 24) setPinned(true);
    else if (scrollTop < lastTop.current) setPinned(false);
    lastTop.current = scrollTop;
  };
  const goTo = (index: number) => {
    if (hits.length === 0) return;
    const next = (index + hits.length) % hits.length;
    setAt(next);
    setPinned(false);
    requestAnimationFrame(() => document.getElementById(`log-${hits[next]}`)?.scrollIntoView({ block: "center" }));
  };
  const save = () => {
    const text = buffer.chunks
      .flatMap((c) => c.lines.filter((l) => !l.note).map((l) => `${l.time} ${l.stream} ${plainText(l.line)}\n`))
      .join("");
    const url = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
    const link = document.createElement("a");
    link.href = url;
    link.download = `${source.file}.log`;
    link.click();
    URL.revokeObjectURL(url);
  };

  return (
    <>
      {error && <Failure what="The log could not be read." error={error} retry={retry} />}
      <section className="log-page" aria-label="Log">
        <div className="log-bar">
          <SearchBox
            label="Search the log"
            value={search}
            onValue={(value) => {
              setSearch(value);
              setAt(Number.MAX_SAFE_INTEGER);
            }}
            onEnter={(back) => goTo(Math.min(at, hits.length - 1) + (back ? -1 : 1))}
          />
          {wanted && (
            <>
              <span className="faint num nowrap" role="status">
                {hits.length === 0 ? "no match" : `${Math.min(at, hits.length - 1) + 1} of ${hits.length}`}
              </span>
              <Button small variant="ghost" aria-pressed={only} icon={<Filter />} onClick={() => setOnly(!only)}>
                Only matches
              </Button>
            </>
          )}
          <span className="grow" />
          <Segmented
            label="Streams"
            value={stream}
            onValue={setStream}
            options={[
              ["", "Both"],
              ["stdout", "stdout"],
              ["stderr", "stderr"],
            ]}
          />
          <Select aria-label="How much" value={tail} onValue={setTail} options={TAILS} style={{ width: "auto" }} />
          <IconButton label="Times" aria-pressed={times} onClick={() => setTimes(!times)}>
            <Clock />
          </IconButton>
          <IconButton label="Wrap long lines" aria-pressed={wrapped} onClick={() => setWrapped(!wrapped)}>
            <WrapText />
          </IconButton>
          <IconButton
            label="Clear the view"
            onClick={() => {
              buffer.clear();
              redraw();
            }}
          >
            <Eraser />
          </IconButton>
          <IconButton label="Save as a file" onClick={save} disabled={buffer.count === 0}>
            <Download />
          </IconButton>
        </div>
        <div
          ref={view}
          className={`log-view ${wrapped ? "wrapped" : ""}`}
          onScroll={scrolled}
          tabIndex={0}
          role="log"
          aria-live="off"
          aria-label="Lines"
        >
          <div ref={content}>
            {chunks.map((chunk) => (
              <ChunkView
                key={chunk.id}
                chunk={chunk}
                search={wanted}
                times={times}
                current={chunk.lines.some((l) => l.id === current) ? current : undefined}
              />
            ))}
          </div>
          {shown === 0 && (
            <Empty
              flat
              icon={<ScrollText aria-hidden="true" />}
              title={state === "connecting" ? "Reading…" : buffer.count > 0 ? "No line fits" : "Nothing was written yet"}
            >
              {buffer.count === 0 && state === "open" ? "New lines show here as they are written." : ""}
            </Empty>
          )}
          {!pinned && (
            <div className="log-more">
              <Button small icon={<ArrowDown />} onClick={() => setPinned(true)}>
                {shown > seen ? `${plural(shown - seen, "new line")}` : "To the newest"}
              </Button>
            </div>
          )}
        </div>
        <div className="log-foot">
          <span className={`live ${state}`} style={{ padding: 0 }} role="status">
            <i aria-hidden="true" />
            {state === "ended" ? source.ended : STATE[state]}
          </span>
          <span className="grow" />
          <span className="num">
            {plural(shown, "line")}
            {buffer.dropped && ", older ones were let go"}
          </span>
        </div>
      </section>
    </>
  );
}

const ChunkView = memo(function ChunkView(props: { chunk: Chunk; search: string; times: boolean; current: number | undefined }) {
  return (
    <div className="log-chunk" style={{ containIntrinsicSize: `auto ${props.chunk.lines.length * 18}px` }}>
      {props.chunk.lines.map((line) => (
        <Line key={line.id} line={line} search={props.search} times={props.times} current={line.id === props.current} />
      ))}
    </div>
  );
});

const Line = memo(function Line({ line, search, times, current }: { line: KeptLine; search: string; times: boolean; current: boolean }) {
  if (line.note) return <div className="log-line note">{line.line}</div>;
  return (
    <div id={`log-${line.id}`} className={`log-line ${line.stream} ${current ? "current" : ""}`}>
      {times && (
        <time dateTime={line.time} title={`${absolute(line.time)} · ${line.stream}`}>
          {clock(line.time, true)}
        </time>
      )}
      <span className="text">{search ? marked(plainText(line.line), search, current) : coloured(line.line)}</span>
    </div>
  );
});

function coloured(line: string): ReactNode {
  const parts = spans(line);
  if (parts.length === 1 && parts[0]?.style === "") return parts[0].text;
  return parts.map((p, i) =>
    p.style ? (
      <span key={i} className={p.style}>
        {p.text}
      </span>
    ) : (
      p.text
    ),
  );
}

function marked(text: string, search: string, current: boolean): ReactNode {
  const lower = text.toLowerCase();
  const out: ReactNode[] = [];
  let from = 0;
  for (let at = lower.indexOf(search); at >= 0; at = lower.indexOf(search, from)) {
    out.push(text.slice(from, at));
    out.push(
      <mark key={at} className={current ? "current" : ""}>
        {text.slice(at, at + search.length)}
      </mark>,
    );
    from = at + search.length;
  }
  out.push(text.slice(from));
  return out;
}
