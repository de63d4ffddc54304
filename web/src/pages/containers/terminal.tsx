import { FitAddon } from "@xterm/addon-fit";
import { Terminal } from "@xterm/xterm";
import "@xterm/xterm/css/xterm.css";
import { Plug, SquareTerminal, Unplug } from "lucide-react";
import { type FormEvent, useEffect, useRef, useState } from "react";
import { messageOf } from "../../api";
import * as calls from "../../api/calls";
import { withQuery } from "../../api/client";
import { sentence } from "../../api/errors";
import type { Container } from "../../api/types";
import { splitWords } from "../../lib/shell";
import * as check from "../../lib/validate";
import { Button } from "../../ui/button";
import { Cell, Input } from "../../ui/field";
import { Empty, Notice } from "../../ui/states";

type State = { phase: "idle" } | { phase: "connecting" } | { phase: "open" } | { phase: "ended"; text: string; bad: boolean };

interface Wanted {
  command: string[];
  user: string;
  /** A new number is a new terminal. */
  number: number;
}

const THEME = {
  background: "#0b0d10",
  foreground: "#d6dae0",
  cursor: "#8b9dff",
  cursorAccent: "#0b0d10",
  selectionBackground: "#8b9dff55",
  black: "#22272f",
  red: "#ff7b72",
  green: "#56d18f",
  yellow: "#e5c07b",
  blue: "#79b8ff",
  magenta: "#d2a8ff",
  cyan: "#5ccfe6",
  white: "#d6dae0",
  brightBlack: "#737d8a",
  brightRed: "#ffa198",
  brightGreen: "#7ee2ac",
  brightYellow: "#f2d399",
  brightBlue: "#a5d0ff",
  brightMagenta: "#e2c5ff",
  brightCyan: "#8ae3f2",
  brightWhite: "#ffffff",
};

export default function TerminalTab({ container }: { container: Container }) {
  const [line, setLine] = useState("sh");
  const [user, setUser] = useState("");
  const [problem, setProblem] = useState<{ line?: string | undefined; user?: string | undefined }>({});
  const running = container.status === "running";
  const [wanted, setWanted] = useState<Wanted | null>(running ? { command: ["sh"], user: "", number: 0 } : null);
  const [state, setState] = useState<State>({ phase: "idle" });
  const host = useRef<HTMLDivElement>(null);

  useEffect(() => {
    if (!wanted || !host.current) return;
    return connect(host.current, container.id, wanted, setState);
  }, [container.id, wanted]);

  const submit = (event: FormEvent) => {
    event.preventDefault();
    const split = splitWords(line.trim());
    const problems = {
      line: split.problem ?? (split.words.length === 0 ? "A command, such as sh" : undefined),
      user: user.trim() ? check.runAs(user.trim()) : undefined,
    };
    setProblem(problems);
    if (problems.line || problems.user || !split.words) return;
    setWanted({ command: split.words, user: user.trim(), number: (wanted?.number ?? 0) + 1 });
  };

  if (!running && !wanted) {
    return (
      <Empty icon={<SquareTerminal aria-hidden="true" />} title="The container is not running">
        A terminal opens inside a running container. Start it first.
      </Empty>
    );
  }
  const on = state.phase === "open" || state.phase === "connecting";
  return (
    <>
      {state.phase === "ended" && <Notice tone={state.bad ? "red" : "blue"}>{state.text}</Notice>}
      <section className="term-box" aria-label="Terminal">
        <form className="log-bar" onSubmit={submit} noValidate>
          <div style={{ flex: "1 1 160px", maxWidth: 320 }}>
            <Cell label="Command" problem={problem.line}>
              {(d) => <Input {...d} mono value={line} onValue={setLine} placeholder="sh" title="Command" />}
            </Cell>
          </div>
          <div style={{ flex: "0 1 150px" }}>
            <Cell label="User" problem={problem.user}>
              {(d) => <Input {...d} mono value={user} onValue={setUser} placeholder="as its user" title="User" />}
            </Cell>
          </div>
          <Button type="submit" icon={<Plug />} busy={state.phase === "connecting"} disabled={!running}>
            {on ? "Reconnect" : "Connect"}
          </Button>
          {on && (
            <Button
              variant="ghost"
              icon={<Unplug />}
              onClick={() => {
                setWanted(null);
                setState({ phase: "ended", text: "Disconnected.", bad: false });
              }}
            >
              Disconnect
            </Button>
          )}
        </form>
        <div className="term-host" ref={host} />
      </section>
    </>
  );
}

/** Opens a terminal in `element`; the returned function closes it. */
function connect(element: HTMLElement, id: string, wanted: Wanted, set: (state: State) => void): () => void {
  const style = getComputedStyle(document.documentElement);
  const terminal = new Terminal({
    fontFamily: style.getPropertyValue("--mono"),
    fontSize: 13,
    lineHeight: 1.2,
    cursorBlink: true,
    scrollback: 5_000,
    theme: THEME,
  });
  const fit = new FitAddon();
  terminal.loadAddon(fit);
  terminal.open(element);
  let socket: WebSocket | null = null;
  let closed = false;
  let over = false;
  const end = (text: string, bad: boolean) => {
    if (closed || over) return;
    over = true;
    terminal.options.cursorBlink = false;
    set({ phase: "ended", text, bad });
  };
  const send = (message: unknown) => {
    if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
  };

  const observer = new ResizeObserver(() => {
    fit.fit();
    if (terminal.rows > 0) send({ type: "resize", rows: terminal.rows, cols: terminal.cols });
  });

  const open = async () => {
    set({ phase: "connecting" });
    try {
      // Its letters have to be there before the terminal measures them.
      await document.fonts.load("13px 'JetBrains Mono Variable'").catch(() => undefined);
      const { ticket } = await calls.auth.ticket();
      if (closed) return;
      fit.fit();
      const path = withQuery(`/api/containers/${encodeURIComponent(id)}/terminal`, {
        ticket,
        command: wanted.command,
        user: wanted.user || undefined,
        rows: terminal.rows,
        cols: terminal.cols,
      });
      const url = new URL(path, location.href);
      url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
      socket = new WebSocket(url);
    } catch (error) {
      end(messageOf(error), true);
      return;
    }
    socket.binaryType = "arraybuffer";
    let opened = false;
    socket.onopen = () => {
      opened = true;
      set({ phase: "open" });
      observer.observe(element);
      terminal.focus();
    };
    socket.onmessage = (event) => {
      if (event.data instanceof ArrayBuffer) {
        terminal.write(new Uint8Array(event.data));
        return;
      }
      const message = JSON.parse(event.data as string) as { type: string; code?: number | string; error?: string };
      if (message.type === "exit")
        end(message.code === 0 ? "The command ended." : `The command ended with exit code ${message.code}.`, message.code !== 0);
      else if (message.type === "error") end(sentence(message.error ?? "the terminal failed"), true);
    };
    // A WebSocket that is refused says nothing of the reason: the container may be gone, or the command not be there.
    socket.onclose = () =>
      end(
        opened ? "The connection was lost." : `The terminal could not be opened. Is there a ${wanted.command[0]} in this container?`,
        true,
      );
  };

  const encoder = new TextEncoder();
  const typed = terminal.onData((text) => {
    if (socket?.readyState === WebSocket.OPEN) socket.send(encoder.encode(text));
  });
  const pasted = terminal.onBinary((text) => {
    if (socket?.readyState === WebSocket.OPEN) socket.send(Uint8Array.from(text, (c) => c.charCodeAt(0)));
  });
  void open();
  return () => {
    closed = true;
    observer.disconnect();
    typed.dispose();
    pasted.dispose();
    socket?.close();
    terminal.dispose();
  };
}
