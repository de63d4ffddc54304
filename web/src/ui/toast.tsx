import { CircleAlert, CircleCheck, Info, X } from "lucide-react";
import { type ReactNode, useEffect, useRef, useSyncExternalStore } from "react";
import { messageOf } from "../api/errors";
import { IconButton } from "./button";

interface Toast {
  id: number;
  tone: "green" | "red" | "blue";
  text: ReactNode;
}

let toasts: readonly Toast[] = [];
let last = 0;
const listeners = new Set<() => void>();

function set(next: readonly Toast[]): void {
  toasts = next;
  for (const listener of listeners) listener();
}

function add(tone: Toast["tone"], text: ReactNode, ms: number): void {
  const id = ++last;
  set([...toasts.slice(-3), { id, tone, text }]);
  setTimeout(() => dismiss(id), ms);
}

function dismiss(id: number): void {
  if (toasts.some((t) => t.id === id)) set(toasts.filter((t) => t.id !== id));
}

/** Says briefly how something went. */
export const toast = {
  done: (text: ReactNode) => add("green", text, 4_000),
  info: (text: ReactNode) => add("blue", text, 5_000),
  failed: (what: string, error: unknown) =>
    add(
      "red",
      <>
        <strong>{what}</strong> {messageOf(error)}
      </>,
      9_000,
    ),
};

const ICONS = { green: CircleCheck, red: CircleAlert, blue: Info };

export function Toasts() {
  const shown = useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => toasts,
  );
  const host = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const element = host.current;
    if (!element?.showPopover) return;
    // Shown anew with each toast, to lie over a dialog that was opened meanwhile.
    if (element.matches(":popover-open")) element.hidePopover();
    if (shown.length > 0) element.showPopover();
  }, [shown]);
  return (
    <div ref={host} className="toasts" popover="manual" aria-live="polite">
      {shown.map((t) => {
        const Icon = ICONS[t.tone];
        return (
          <div key={t.id} className={`toast tone-${t.tone}`} role={t.tone === "red" ? "alert" : "status"}>
            <Icon aria-hidden="true" />
            <div className="body">{t.text}</div>
            <IconButton small label="Dismiss" onClick={() => dismiss(t.id)}>
              <X />
            </IconButton>
          </div>
        );
      })}
    </div>
  );
}
