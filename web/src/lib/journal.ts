import type { NodeEvent } from "../api/types";

/** What an event says beyond its kind, in words. */
export function eventDetail({ kind, detail }: Pick<NodeEvent, "kind" | "detail">): string {
  const parts: string[] = [];
  if (kind === "died" && detail.exitCode !== undefined) parts.push(`exit code ${detail.exitCode}`);
  if (kind === "oom") parts.push("a process was killed for want of memory");
  if (detail.health) parts.push(detail.health);
  if (kind === "gap")
    parts.push(detail.count === undefined ? "events before this are lost" : `${detail.count} events before this are lost`);
  if (detail.message) parts.push(detail.message);
  return parts.join(": ");
}
