import { useQuery } from "@tanstack/react-query";
import { Boxes, Container as ContainerIcon, Plus, Server, Settings } from "lucide-react";
import { type KeyboardEvent, type ReactNode, useEffect, useRef, useState } from "react";
import { createPortal } from "react-dom";
import * as calls from "./api/calls";
import { atLeast, useNodes, useUser } from "./lib/data";
import { useSettled } from "./lib/hooks";
import { navigate } from "./lib/router";
import { NAV } from "./nav";
import { useClusters } from "./pages/clusters/data";

interface Choice {
  key: string;
  text: string;
  hint: string;
  icon: ReactNode;
  to: string;
}

/** Ctrl+K or ⌘K: go to a page, a container, a node or a cluster by typing a part of its name. */
export function Palette() {
  const [open, setOpen] = useState(false);
  useEffect(() => {
    const key = (event: globalThis.KeyboardEvent) => {
      if (event.key.toLowerCase() !== "k" || !(event.metaKey || event.ctrlKey) || event.altKey || event.shiftKey) return;
      // A terminal's own Ctrl+K stays its own.
      if ((event.target as HTMLElement | null)?.closest(".xterm") && event.ctrlKey) return;
      event.preventDefault();
      setOpen((o) => !o && !document.querySelector("dialog[open]"));
    };
    const asked = () => setOpen(true);
    document.addEventListener("keydown", key);
    document.addEventListener("nm-palette", asked);
    return () => {
      document.removeEventListener("keydown", key);
      document.removeEventListener("nm-palette", asked);
    };
  }, []);
  return open ? <Box close={() => setOpen(false)} /> : null;
}

function Box({ close }: { close: () => void }) {
  const [text, setText] = useState("");
  const [at, setAt] = useState(0);
  const wanted = useSettled(text.trim(), 120);
  const user = useUser();
  const nodes = useNodes();
  const clusters = useClusters({ aside: true });
  const dialog = useRef<HTMLDialogElement>(null);
  const list = useRef<HTMLDivElement>(null);
  const containers = useQuery({
    queryKey: ["containers", "palette", wanted],
    queryFn: ({ signal }) => calls.containers.list({ name: wanted || undefined, limit: 20 }, signal),
    placeholderData: (before) => before,
  });

  useEffect(() => {
    const before = document.activeElement as HTMLElement | null;
    dialog.current?.showModal();
    return () => before?.focus?.();
  }, []);

  const fits = (s: string) => s.toLowerCase().includes(text.trim().toLowerCase());
  const pages: Choice[] = [
    ...NAV.flatMap((g) => g.entries)
      .filter((e) => !e.role || atLeast(user.role, e.role))
      .map((e) => ({ key: e.path, text: e.text, hint: "Page", icon: e.icon, to: e.path })),
    { key: "/settings", text: "Settings", hint: "Page", icon: <Settings />, to: "/settings" },
  ];
  if (atLeast(user.role, "operator")) {
    pages.push(
      { key: "new", text: "Create a container", hint: "Action", icon: <Plus />, to: "/containers/new" },
      { key: "new-cluster", text: "Create a cluster", hint: "Action", icon: <Plus />, to: "/clusters/new" },
      { key: "new-backup", text: "Create a backup config", hint: "Action", icon: <Plus />, to: "/backups/new" },
    );
  }
  const choices: Choice[] = [
    ...(text.trim()
      ? (containers.data?.items ?? [])
          .filter((c) => fits(c.name))
          .map((c) => ({ key: c.id, text: c.name, hint: c.status, icon: <ContainerIcon />, to: `/containers/${c.id}` }))
      : []),
    ...pages.filter((p) => fits(p.text)),
    ...(text.trim()
      ? (nodes.data ?? [])
          .filter((n) => fits(n.name))
          .map((n) => ({ key: n.id, text: n.name, hint: "Node", icon: <Server />, to: `/nodes/${n.id}` }))
      : []),
    ...(text.trim()
      ? (clusters.data ?? [])
          .filter((c) => fits(c.name))
          .map((c) => ({ key: c.id, text: c.name, hint: "Cluster", icon: <Boxes />, to: `/clusters/${c.id}` }))
      : []),
  ];
  const current = Math.min(at, Math.max(0, choices.length - 1));

  const go = (choice: Choice | undefined) => {
    if (!choice) return;
    close();
    navigate(choice.to);
  };
  const keys = (event: KeyboardEvent) => {
    if (event.key === "ArrowDown") setAt((current + 1) % Math.max(1, choices.length));
    else if (event.key === "ArrowUp") setAt((current - 1 + choices.length) % Math.max(1, choices.length));
    else if (event.key === "Enter") go(choices[current]);
    else return;
    event.preventDefault();
    requestAnimationFrame(() => list.current?.querySelector('[aria-selected="true"]')?.scrollIntoView({ block: "nearest" }));
  };

  return createPortal(
    <dialog
      ref={dialog}
      className="palette"
      aria-label="Go to"
      onCancel={close}
      onClick={(e) => {
        if (e.target === dialog.current) close();
      }}
    >
      <input
        className="input"
        role="combobox"
        aria-expanded="true"
        aria-controls="palette-list"
        aria-activedescendant={choices[current] ? `palette-${current}` : undefined}
        aria-label="Go to a page, a container, a node or a cluster"
        placeholder="Go to a page, a container, a node or a cluster…"
        autoComplete="off"
        spellCheck={false}
        value={text}
        onChange={(e) => {
          setText(e.target.value);
          setAt(0);
        }}
        onKeyDown={keys}
      />
      {choices.length === 0 ? (
        <p>{containers.isFetching ? "Searching…" : "Nothing has this in its name."}</p>
      ) : (
        <div className="palette-list" id="palette-list" role="listbox" aria-label="Results" ref={list}>
          {choices.map((c, i) => (
            <div
              key={c.key}
              id={`palette-${i}`}
              role="option"
              className="palette-choice"
              aria-selected={i === current}
              onClick={() => go(c)}
              onPointerMove={() => setAt(i)}
            >
              {c.icon}
              <span className="truncate">{c.text}</span>
              <span className="hint">{c.hint}</span>
            </div>
          ))}
        </div>
      )}
    </dialog>,
    document.body,
  );
}
