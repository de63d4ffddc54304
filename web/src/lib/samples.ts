import { useQuery } from "@tanstack/react-query";
import { useEffect, useMemo, useState } from "react";
import type { ApiError } from "../api";
import { openStream } from "../api/sse";

export type Range = "5m" | "1h" | "24h";
export const RANGES: Record<Range, { span: number; resolution: "second" | "minute"; limit: number }> = {
  "5m": { span: 300_000, resolution: "second", limit: 300 },
  "1h": { span: 3_600_000, resolution: "minute", limit: 60 },
  "24h": { span: 86_400_000, resolution: "minute", limit: 1440 },
};

/** What is measured each second and kept: the calls of containers and of nodes. */
export interface Measured<T> {
  stats: (key: string, query: { limit: number; resolution: "second" | "minute" }, signal?: AbortSignal) => Promise<T[]>;
  followStats: (key: string, signal: AbortSignal) => Promise<Response>;
}

/**
 * The samples of a range: its history, and in the short one each new sample as it is taken. `begun` is when what is measured began
 * to run: another one follows it anew.
 */
export function useSamples<T extends { timestamp: string }>(
  of: Measured<T>,
  id: string,
  range: Range,
  running: boolean,
  begun: string | undefined,
) {
  const { resolution, limit } = RANGES[range];
  const live = resolution === "second";
  const history = useQuery({
    queryKey: ["stats", id, range],
    queryFn: ({ signal }) => of.stats(id, { limit, resolution }, signal),
    staleTime: Number.POSITIVE_INFINITY,
    gcTime: 0,
    refetchOnWindowFocus: false,
    refetchInterval: live ? false : 60_000,
  });
  const [fresh, setFresh] = useState<T[]>([]);
  const [error, setError] = useState<ApiError | null>(null);
  const { refetch, isError } = history;
  // What could not be told while it was away, it can now.
  useEffect(() => {
    if (running && isError) void refetch();
  }, [running]);
  useEffect(() => {
    setFresh([]);
    setError(null);
    if (!live || !running) return;
    let gap = false;
    return openStream({
      open: (_last, signal) => of.followStats(id, signal),
      onEvent: (event) => {
        if (event.event !== "stats") return;
        const sample = JSON.parse(event.data) as T;
        setFresh((list) => [...list, sample].slice(-300));
      },
      onState: (state, cause) => {
        if (state === "waiting" || state === "paused") gap = true;
        // What was missed meanwhile, the history has.
        if (state === "open" && gap) {
          gap = false;
          void refetch();
        }
        if (state === "failed") setError(cause ?? null);
      },
    });
  }, [of, id, live, running, begun, refetch]);

  const samples = useMemo(() => {
    const past = history.data ?? [];
    const last = past.at(-1)?.timestamp ?? "";
    return [...past, ...fresh.filter((s) => s.timestamp > last)].slice(-limit);
  }, [history.data, fresh, limit]);
  const times = useMemo(() => samples.map((s) => Date.parse(s.timestamp)), [samples]);
  // What was just started gets a chart it can fill.
  const covered = (times.at(-1) ?? 0) - (times[0] ?? 0);
  const span = Math.min(RANGES[range].span, Math.max(covered, RANGES[range].span / 5));
  return { samples, times, span, error: history.error ?? error, loading: history.isLoading, refetch };
}
