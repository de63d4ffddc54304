import { useSyncExternalStore } from "react";
import { system } from "./calls";
import { queries, session } from "./index";
import { openStream, type StreamState } from "./sse";
import type { ChangeEvent } from "./types";

// One event stream a tab keeps every list fresh: a change makes the queries of its kind ask again. Changes that come in a burst
// are answered by one question.

const KEPT = 500;
const BURST_MS = 250;

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
  readonly #stale = new Set<string>();
  #timer: ReturnType<typeof setTimeout> | undefined;
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
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#stale.clear();
    this.#events = [];
    this.#state = "connecting";
    this.#tell();
  }

  #saw(change: ChangeEvent): void {
    if (!JOURNALS.includes(change.kind)) this.#events = [change, ...this.#events].slice(0, KEPT);
    for (const key of STALE[change.kind] ?? [`${change.kind}s`]) this.#stale.add(key);
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      const stale = [...this.#stale];
      this.#stale.clear();
      for (const key of stale) void queries.invalidateQueries({ queryKey: key.split("/") });
    }, BURST_MS);
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
