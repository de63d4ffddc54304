import { useSyncExternalStore } from "react";
import { system } from "./calls";
import { queries, session } from "./index";
import { openStream, type StreamState } from "./sse";
import type { ChangeEvent } from "./types";

// One event stream a tab keeps every list fresh: a change makes the queries of its kind ask again. Changes that come in a burst
// are answered by one question.

const KEPT = 500;
const BURST_MS = 250;
/** Jobs of many tasks change all the time, and lists of them can be long. */
const JOBS_BURST_MS = 1_000;

/** What these say is on the pages of what they happened to. */
const JOURNALS = ["nodeEvents", "clusterEvents"];

/**
 * Which queries a change of a kind makes stale, by the first parts of their keys. A container's change shows on its node, its images, networks, volumes, servers
 * and clusters too, and an operation on what it works on.
 */
const STALE: Record<string, string[]> = {
  container: ["containers", "nodes", "images", "networks", "volumes", "servers", "clusters"],
  node: ["nodes", "servers", "clusters"],
  operation: ["operations"],
  registry: ["registries"],
  user: ["users"],
  token: ["tokens"],
  session: ["sessions"],
  server: ["servers", "health", "clusters"],
  cluster: ["clusters"],
  health: ["health", "servers"],
  nodeEvents: ["nodes/events", "containers/events"],
  clusterEvents: ["clusters"],
  job: ["jobs"],
  backupConfig: ["backups"],
  backup: ["backups"],
  setting: ["health"],
  alert: ["alerts"],
  alertDelivery: ["alerts"],
  alertRule: ["rules", "alerts"],
  alertChannel: ["channels"],
  alertSilence: ["silences", "alerts"],
};

class LiveFeed {
  #state: StreamState = "connecting";
  #events: readonly ChangeEvent[] = [];
  readonly #listeners = new Set<() => void>();
  /** What is to be asked for again, and when. */
  readonly #stale = new Map<string, ReturnType<typeof setTimeout>>();
  #stop: (() => void) | null = null;

  start(): void {
    if (this.#stop) return;
    let lost = false;
    this.#stop = openStream({
      open: system.events,
      onEvent: (event) => {
        try {
          this.#saw(JSON.parse(event.data) as ChangeEvent);
        } catch {
          // One event that can't be read must not end those after it.
        }
      },
      isEnd: () => false,
      onState: (state) => {
        if (state === "waiting") lost = true;
        if (state === "open" && lost) {
          lost = false;
          void queries.invalidateQueries();
        }
        this.#state = state;
        this.#tell();
      },
    });
  }

  stop(): void {
    this.#stop?.();
    this.#stop = null;
    for (const timer of this.#stale.values()) clearTimeout(timer);
    this.#stale.clear();
    this.#events = [];
    this.#state = "connecting";
    this.#tell();
  }

  #saw(change: ChangeEvent): void {
    if (!JOURNALS.includes(change.kind)) this.#events = [change, ...this.#events].slice(0, KEPT);
    for (const key of STALE[change.kind] ?? [`${change.kind}s`]) {
      if (this.#stale.has(key)) continue;
      const ask = () => {
        this.#stale.delete(key);
        void queries.invalidateQueries({ queryKey: key.split("/") });
      };
      this.#stale.set(key, setTimeout(ask, key === "jobs" ? JOBS_BURST_MS : BURST_MS));
    }
    this.#tell();
  }

  #tell(): void {
    for (const listener of this.#listeners) listener();
  }

  subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };
  state = (): StreamState => this.#state;
  events = (): readonly ChangeEvent[] => this.#events;
}

export const live = new LiveFeed();

session.subscribe(() => {
  if (session.state.phase === "signed-in") live.start();
  else if (session.state.phase === "signed-out") {
    live.stop();
    queries.clear();
  }
});

export const useLiveState = (): StreamState => useSyncExternalStore(live.subscribe, live.state);
export const useEvents = (): readonly ChangeEvent[] => useSyncExternalStore(live.subscribe, live.events);
