import type { Page } from "../../api/client";
import type { Job, JobCounts, JobState, Task, TaskOutcome, TaskState } from "../../api/types";
import { plural } from "../../lib/format";

// Jobs and their tasks in words.

export const isOver = (state: JobState | TaskState): boolean => !["waiting", "queued", "running"].includes(state);

export const STATE_WORD: Record<JobState, string> = {
  waiting: "waiting",
  queued: "queued",
  running: "running",
  succeeded: "succeeded",
  failed: "failed",
  cancelled: "cancelled",
  "set-aside": "set aside",
};
export const STATE_TONE: Record<JobState, string> = {
  waiting: "tone-grey hollow",
  queued: "tone-blue hollow",
  running: "tone-blue busy",
  succeeded: "tone-green",
  failed: "tone-red",
  cancelled: "tone-amber hollow",
  "set-aside": "tone-red hollow",
};
export const STATE_SAYS: Record<JobState, string> = {
  waiting: "Jobs it depends on have not succeeded yet.",
  queued: "None of its tasks has begun.",
  running: "Some of its tasks have begun, and not all have ended.",
  succeeded: "All of its tasks succeeded.",
  failed: "At least one task failed for good.",
  cancelled: "It was ended before all of its tasks had succeeded.",
  "set-aside": "Of one task the node was lost each time it ran: it is not tried again.",
};

/** What a job is called: its name, where it has one. */
export const jobName = (job: Pick<Job, "id" | "name">): string => job.name ?? job.id;

/** Those of one moment in the order in which they were made, backwards. */
export const newestFirst = (jobs: readonly Job[]): Job[] => [...jobs].sort((a, b) => (a.created < b.created ? 1 : a.created > b.created ? -1 : a.id < b.id ? 1 : -1));

/** What of a cluster's jobs has not ended. */
export function openOf(jobs: readonly Job[]): { jobs: number; running: number; queued: number } {
  const open = jobs.filter((j) => !isOver(j.state));
  const sum = (state: "running" | "queued") => open.reduce((n, j) => n + j.counts[state], 0);
  return { jobs: open.length, running: sum("running"), queued: sum("queued") };
}

/** Jobs that another one can be made to wait for: what failed never succeeds. */
export const canPrecede = (job: Pick<Job, "state">): boolean => !isOver(job.state) || job.state === "succeeded";

/** Why it is as it is, where there is something to say; on its own page and in its own row it need not be named again. */
export function reasonOf(job: Pick<Job, "id" | "reason">): string {
  const { id, reason } = job;
  if (!reason) return "";
  const named = [...reason.matchAll(/ of job (?:`.*?` \((job_\w+)\)|(job_\w+))/g)].find((m) => (m[1] ?? m[2]) === id);
  return named ? reason.replace(named[0], "") : reason;
}

export const sizeOf = (job: Pick<Job, "array">): number => job.array?.size ?? 1;

const COUNTS: readonly (readonly [keyof JobCounts, string])[] = [
  ["succeeded", "succeeded"],
  ["failed", "failed"],
  ["setAside", "set aside"],
  ["cancelled", "cancelled"],
  ["running", "running"],
  ["queued", "queued"],
];
/** `2 succeeded · 1 running`: those there are any of. */
export const countsText = (counts: JobCounts): string =>
  COUNTS.filter(([key]) => counts[key] > 0)
    .map(([key, word]) => `${counts[key].toLocaleString("en")} ${word}`)
    .join(" · ");

/** How many tasks are in a state. */
export const countOf = (counts: JobCounts, state: TaskState): number => counts[state === "set-aside" ? "setAside" : state];

/** The colour of a job's bar: red as soon as a task has failed for good. */
export function barTone(job: Pick<Job, "state" | "counts">): string {
  if (job.counts.failed + job.counts.setAside > 0) return "tone-red";
  if (job.counts.cancelled > 0) return "tone-amber";
  return job.state === "succeeded" ? "tone-green" : "";
}

const OUTCOME: Record<TaskOutcome, string> = {
  succeeded: "ended with 0",
  "exit-code": "ended with an error",
  "out-of-memory": "out of memory",
  timeout: "ran out of time",
  "not-started": "could not be started",
  cancelled: "cancelled",
  "node-lost": "its node was lost",
  "lease-ended": "its node was cut off",
  "never-began": "its node did not begin it",
};
/** How the last attempt ended that did: `exit code 3`, `out of memory`; nothing where none has. */
export function outcomeText(task: Pick<Task, "outcome" | "exitCode">): string {
  const { outcome, exitCode } = task;
  if (outcome === undefined) return "";
  return outcome === "exit-code" && exitCode !== undefined ? `exit code ${exitCode}` : OUTCOME[outcome];
}

/** The number a program ended with, where it tells something: what was killed has one that says only that. */
export function exitText(task: Pick<Task, "outcome" | "exitCode">): string {
  return task.exitCode === undefined ? "–" : String(task.exitCode);
}

/** Milliseconds an attempt took, or takes until now; nothing before it began. */
export function tookOf(task: Pick<Task, "started" | "finished">, now: number): number | undefined {
  if (!task.started) return undefined;
  return Math.max(0, (task.finished ? Date.parse(task.finished) : now) - Date.parse(task.started));
}

/** `1 core, bound to it`: what a task may use. */
export function cpuText(cpu: number | undefined): string {
  if (cpu === undefined) return "no limit; counts 0.1 cores";
  return Number.isInteger(cpu) ? `${plural(cpu, "core")} of its own` : `${cpu} cores`;
}
export const memoryText = (memory: string | undefined): string => memory ?? "no limit; counts 128 MiB";

export function retriesText(retries: Job["retries"]): string {
  if (retries.limit === 0) return "none";
  return `${retries.limit} at most, the first after ${retries.backoff} s`;
}

export const TASKS_PAGE = 50;
const READ_AT_ONCE = 200;
const READS_AT_MOST = 10;

/**
 * A page of a job's tasks. The API gives them all, in order: for one state, pages are read until there are enough, as many as there are,
 * or so many have been read that the rest is for the next page.
 */
export async function tasksPage(
  read: (query: { limit: number; cursor: string | undefined }) => Promise<Page<Task>>,
  state: TaskState | undefined,
  cursor: string | undefined,
): Promise<Page<Task>> {
  if (state === undefined) return read({ limit: TASKS_PAGE, cursor });
  const items: Task[] = [];
  let next = cursor;
  for (let reads = 0; reads < READS_AT_MOST; reads++) {
    const page = await read({ limit: READ_AT_ONCE, cursor: next });
    items.push(...page.items.filter((t) => t.state === state));
    next = page.next;
    if (next === undefined || items.length >= TASKS_PAGE) break;
  }
  return { items, next };
}
