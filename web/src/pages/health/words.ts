import type { HealthInterval } from "../../api/types";

// Health in words and figures.

export type Judged = Pick<HealthInterval, "status" | "degraded">;

/** One or two failed checks are `unknown` to the API, and `degraded` to people. */
export function healthWord({ status, degraded }: Judged): "healthy" | "degraded" | "unhealthy" | "unknown" {
  return degraded ? "degraded" : status;
}

/** Percent of the time; never rounded up to a hundred it was not. */
export function availability(value: number | null): string {
  if (value === null) return "–";
  return `${(Math.floor(value * 100) / 100).toFixed(value >= 100 ? 0 : 2)}%`;
}

export function responseTime(ms: number | null): string {
  if (ms === null) return "–";
  return ms < 10 ? `${ms.toFixed(1)} ms` : `${Math.round(ms).toLocaleString("en")} ms`;
}

/** Parts of a bar from `start` to `end`, oldest first, each with its share of the whole. */
export function timeline(intervals: readonly HealthInterval[], start: number, end: number): { interval: HealthInterval; share: number }[] {
  const out: { interval: HealthInterval; share: number }[] = [];
  for (const interval of [...intervals].reverse()) {
    const from = Math.max(start, Date.parse(interval.from));
    const to = Math.min(end, interval.to === null ? end : Date.parse(interval.to));
    if (to > from) out.push({ interval, share: (to - from) / (end - start) });
  }
  return out;
}
