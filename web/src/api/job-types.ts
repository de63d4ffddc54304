import type { VolumeMount } from "./types";

// Jobs of compute clusters, as crates/types writes them.

export const JOB_STATES = ["waiting", "queued", "running", "succeeded", "failed", "cancelled", "set-aside"] as const;
export type JobState = (typeof JOB_STATES)[number];
export const TASK_STATES = ["queued", "running", "succeeded", "failed", "cancelled", "set-aside"] as const;
export type TaskState = (typeof TASK_STATES)[number];
export type TaskOutcome =
  | "succeeded"
  | "exit-code"
  | "out-of-memory"
  | "timeout"
  | "not-started"
  | "cancelled"
  | "node-lost"
  | "lease-ended"
  | "never-began";

export interface JobSpec {
  name?: string;
  image: string;
  command?: string[];
  environment?: Record<string, string>;
  /** Cores. */
  cpu?: number;
  /** `512m`, `1g`. */
  memory?: string;
  array?: { size: number; variable?: string };
  /** Seconds. */
  retries?: { limit?: number; backoff?: number };
  /** Seconds. */
  timeout?: number;
  priority?: number;
  dependsOn?: string[];
  volumes?: VolumeMount[];
}

export interface JobCounts {
  queued: number;
  running: number;
  succeeded: number;
  failed: number;
  cancelled: number;
  setAside: number;
}

export interface Job {
  id: string;
  clusterId: string;
  name?: string;
  state: JobState;
  /** Why it is so, or what it waits for. */
  reason?: string;
  counts: JobCounts;
  /** Percent of its tasks that have ended. */
  progress: number;
  /** How many times its tasks were given to nodes. */
  attempts: number;
  image: string;
  command: string[];
  /** Values of variables that look secret are covered. */
  environment: Record<string, string>;
  cpu?: number;
  memory?: string;
  array?: { size: number; variable?: string };
  retries: { limit: number; backoff: number };
  timeout?: number;
  priority: number;
  dependsOn: string[];
  volumes: VolumeMount[];
  created: string;
  started?: string;
  finished?: string;
}

/** As its last attempt has it. */
export interface Task {
  index: number;
  state: TaskState;
  attempts: number;
  nodeId?: string;
  /** Cores of the node that it has for itself. */
  cores?: number[];
  /** How its last attempt ended that did. */
  outcome?: TaskOutcome;
  exitCode?: number;
  reason?: string;
  /** It is not tried again before. */
  notBefore?: string;
  started?: string;
  finished?: string;
}
