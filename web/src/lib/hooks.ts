import { useEffect, useRef, useState, useSyncExternalStore } from "react";

// One clock for all relative times on the page.
let now = Date.now();
const ticking = new Set<() => void>();
let clock: ReturnType<typeof setInterval> | undefined;

function subscribeClock(listener: () => void): () => void {
  ticking.add(listener);
  clock ??= setInterval(() => {
    now = Date.now();
    for (const tick of ticking) tick();
  }, 1_000);
  return () => {
    ticking.delete(listener);
    if (ticking.size === 0) {
      clearInterval(clock);
      clock = undefined;
    }
  };
}

/** The time in milliseconds, every second anew. */
export function useNow(): number {
  return useSyncExternalStore(subscribeClock, () => {
    // While nobody listens, nothing ticks.
    if (ticking.size === 0) now = Math.floor(Date.now() / 1000) * 1000;
    return now;
  });
}

/** `value`, once it has stayed the same for `ms`. */
export function useSettled<T>(value: T, ms = 250): T {
  const [settled, setSettled] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), ms);
    return () => clearTimeout(timer);
  }, [value, ms]);
  return settled;
}

/** Calls `handler` for keys pressed while nothing is being typed and no dialog is open. */
export function useHotkey(key: string, handler: (event: KeyboardEvent) => void): void {
  const latest = useRef(handler);
  latest.current = handler;
  useEffect(() => {
    const listener = (event: KeyboardEvent) => {
      const target = event.target as HTMLElement | null;
      if (event.key !== key || event.metaKey || event.ctrlKey || event.altKey || event.defaultPrevented) return;
      if (target?.closest("input, textarea, select, [contenteditable], .xterm") || document.querySelector("dialog[open]")) return;
      latest.current(event);
    };
    document.addEventListener("keydown", listener);
    return () => document.removeEventListener("keydown", listener);
  }, [key]);
}

export function useDocumentTitle(title: string): void {
  useEffect(() => {
    document.title = title ? `${title} · NeuralMesh` : "NeuralMesh";
  }, [title]);
}
