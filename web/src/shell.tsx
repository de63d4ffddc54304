import { ChevronsUpDown, LogOut, Menu as MenuIcon, Monitor, Moon, Search, Settings, Sun } from "lucide-react";
import { type ReactNode, useEffect, useState } from "react";
import { session } from "./api";
import { useLiveState } from "./api/live";
import type { StreamState } from "./api/sse";
import { atLeast, useFiring, useRunning, useUser } from "./lib/data";
import { Link, usePath } from "./lib/router";
import { setTheme, type ThemeChoice, useThemeChoice } from "./lib/theme";
import { NAV } from "./nav";
import { Palette } from "./palette";
import { IconButton } from "./ui/button";
import { Menu } from "./ui/menu";

const LIVE: Record<StreamState, string> = {
  connecting: "Connecting…",
  open: "Live",
  waiting: "Reconnecting…",
  paused: "Paused",
  ended: "Not live",
  failed: "Not live",
};

export function Shell({ children }: { children: ReactNode }) {
  const path = usePath();
  const [open, setOpen] = useState(false);
  useEffect(() => setOpen(false), [path]);
  useEffect(() => {
    if (!open) return;
    const close = (e: KeyboardEvent) => {
      if (e.key === "Escape") setOpen(false);
    };
    document.addEventListener("keydown", close);
    return () => document.removeEventListener("keydown", close);
  }, [open]);
  return (
    <div className="shell">
      <a className="skip" href="#main">
        Skip to the content
      </a>
      <div className="topbar">
        <IconButton label="Open the menu" aria-expanded={open} onClick={() => setOpen(true)}>
          <MenuIcon />
        </IconButton>
        <Link className="brand" href="/containers">
          <img src="/favicon.svg" alt="" />
          NeuralMesh
        </Link>
      </div>
      {open && <button type="button" className="scrim" aria-label="Close the menu" onClick={() => setOpen(false)} />}
      <Side open={open} path={path} />
      <main className="main" id="main" tabIndex={-1}>
        {children}
      </main>
      <Palette />
    </div>
  );
}

function Side({ open, path }: { open: boolean; path: string }) {
  const user = useUser();
  const live = useLiveState();
  const running = useRunning();
  const firing = useFiring();
  const counts: Record<string, [number, string]> = {
    "/operations": [running.data?.length ?? 0, "running"],
    "/alerts": [firing.data?.length ?? 0, "firing"],
  };
  const here = path === "/" ? "/containers" : path;
  return (
    <aside className="side" data-open={open}>
      <Link className="brand" href="/containers">
        <img src="/favicon.svg" alt="" />
        NeuralMesh
      </Link>
      <nav aria-label="Main">
        {NAV.map(({ title, entries }) => {
          const seen = entries.filter((e) => !e.role || atLeast(user.role, e.role));
          return (
            <div key={title}>
              <div className="nav-title">{title}</div>
              {seen.map((e) => (
                <Link
                  key={e.path}
                  className="nav-link"
                  href={e.path}
                  aria-current={here === e.path || here.startsWith(`${e.path}/`) ? "page" : undefined}
                >
                  {e.icon}
                  {e.text}
                  <NavCount count={counts[e.path]} />
                </Link>
              ))}
            </div>
          );
        })}
      </nav>
      <div className="side-foot">
        <div className={`live ${live}`} role="status">
          <i aria-hidden="true" />
          <span className="grow truncate">{LIVE[live]}</span>
          <button
            type="button"
            className="btn ghost small"
            aria-label="Search and go to"
            onClick={() => document.dispatchEvent(new CustomEvent("nm-palette"))}
          >
            <Search />
            <kbd>{/Mac|iPhone|iPad/.test(navigator.platform) ? "⌘K" : "Ctrl K"}</kbd>
          </button>
        </div>
        <UserMenu />
      </div>
    </aside>
  );
}

/** How many of something want a look. */
function NavCount({ count }: { count: [number, string] | undefined }) {
  if (!count || count[0] === 0) return null;
  const [n, what] = count;
  return (
    <span className={`nav-count ${what}`} title={`${n} ${what}`}>
      {n}
      <span className="sr-only"> {what}</span>
    </span>
  );
}

const THEMES: [ThemeChoice, string, ReactNode][] = [
  ["system", "Theme of the system", <Monitor key="system" />],
  ["light", "Light theme", <Sun key="light" />],
  ["dark", "Dark theme", <Moon key="dark" />],
];

function UserMenu() {
  const user = useUser();
  const choice = useThemeChoice();
  return (
    <Menu
      label="Account"
      items={[
        { label: "Settings", icon: <Settings />, href: "/settings" },
        "line",
        ...THEMES.filter(([key]) => key !== choice).map(([key, label, icon]) => ({ label, icon, onSelect: () => setTheme(key) })),
        "line",
        { label: "Sign out", icon: <LogOut />, onSelect: () => void session.signOut() },
      ]}
      trigger={(trigger) => (
        <button type="button" className="side-user" {...trigger}>
          <span className="avatar" aria-hidden="true">
            {user.username.slice(0, 2)}
          </span>
          <span className="grow">
            <span className="name truncate" style={{ display: "block" }}>
              {user.username}
            </span>
            <span className="role">{user.role}</span>
          </span>
          <ChevronsUpDown className="faint" aria-hidden="true" />
        </button>
      )}
    />
  );
}
