import type { ServerKind } from "./health-types";

// Backups, as crates/types writes them: configs, what was made by them, and what is asked of it.

export const BACKUP_TYPES = ["full", "incremental", "differential"] as const;
export type BackupType = (typeof BACKUP_TYPES)[number];
export const CONSISTENCIES = ["auto", "pause", "stop", "dump", "none"] as const;
export type BackupConsistency = (typeof CONSISTENCIES)[number];
export type BackupConfigStatus = "active" | "paused" | "error";
export type BackupStatus = "in-progress" | "completed" | "partial" | "failed" | "cancelled";

export interface BackupDump {
  command: string[];
  restore?: string[];
  file?: string;
}

export const KEEPS = ["last", "hourly", "daily", "weekly", "monthly", "yearly"] as const;
/** How many of each are kept beside those of the last days. */
export type BackupKeep = Partial<Record<(typeof KEEPS)[number], number>>;

export interface BackupCheck {
  schedule?: string;
  parts?: number;
  testRestore?: string;
}

/** What opens a destination; never given back. */
export interface BackupCredentials {
  accessKey?: string;
  secretKey?: string;
  region?: string;
  username?: string;
  password?: string;
  privateKey?: string;
  hostKey?: string;
}

export interface BackupCopy {
  destination: string;
  credentials?: BackupCredentials;
}

export interface BackupConfigSpec {
  serverId: string;
  name: string;
  schedule?: string;
  timeZone?: string;
  /** Seconds. */
  jitter?: number;
  /** Days. */
  retention?: number;
  keep?: BackupKeep;
  type?: BackupType;
  destination: string;
  credentials?: BackupCredentials;
  encryption?: boolean;
  compression?: boolean;
  paths?: string[];
  volumes?: string[];
  excludes?: string[];
  oneFileSystem?: boolean;
  consistency?: BackupConsistency;
  dump?: BackupDump;
  appendOnly?: boolean;
  check?: BackupCheck;
  copy?: BackupCopy;
  status?: BackupConfigStatus;
}

/** A repository, as it was seen last. */
export interface BackupRepository {
  /** restic's id of it. */
  id: string;
  /** As `restic -r` takes it. */
  location: string;
  /** Bytes. */
  size?: number;
  lastCheck?: string;
  lastRead?: string;
  lastTestRestore?: string;
  lastPrune?: string;
  findings: string[];
}

export interface BackupConfig {
  id: string;
  name: string;
  serverId: string;
  serverKind: ServerKind;
  schedule?: string;
  timeZone: string;
  jitter: number;
  retention: number;
  keep: BackupKeep;
  type: BackupType;
  destination: string;
  hasCredentials: boolean;
  encryption: boolean;
  compression: boolean;
  paths: string[];
  volumes: string[];
  excludes: string[];
  oneFileSystem: boolean;
  consistency: BackupConsistency;
  dump?: BackupDump;
  appendOnly: boolean;
  check: BackupCheck;
  copy?: { destination: string; hasCredentials: boolean; repository?: BackupRepository };
  status: BackupConfigStatus;
  /** Why the status is `error`, and what to do. */
  message?: string;
  lastBackup?: string;
  nextBackup?: string;
  /** None until the first backup was made. */
  repository?: BackupRepository;
  created: string;
  updated: string;
}

export interface JobProgress {
  files: number;
  bytes: number;
  totalFiles?: number;
  totalBytes?: number;
  /** Bytes a second. */
  rate: number;
  /** Seconds. */
  remaining?: number;
}

export interface FileProblem {
  path: string;
  error: string;
}

export interface Backup {
  id: string;
  configId: string;
  name: string;
  serverId: string;
  status: BackupStatus;
  type: BackupType;
  timestamp: string;
  /** The time of the schedule that it stands for; none of one that was asked for. */
  slot?: string;
  /** Seconds. */
  duration?: number;
  /** Bytes. */
  size?: number;
  newBytes?: number;
  files?: number;
  location: string;
  /** restic's id of the snapshot. */
  snapshot?: string;
  encryption: boolean;
  compression: boolean;
  pinned: boolean;
  /** None of one that was skipped. */
  operationId?: string;
  progress?: JobProgress;
  message?: string;
  problems?: FileProblem[];
  problemCount: number;
  verification?: { checked?: string; restored?: string; finding?: string };
  /** The snapshot's id in the second repository. */
  copied?: string;
}

export interface NewRestore {
  target?: string;
  serverId?: string;
  name?: string;
  paths?: string[];
  volume?: string;
  replace?: boolean;
  dryRun?: boolean;
  verify?: boolean;
}

export type RestoreChangeKind = "create" | "change" | "remove";

/** What a restore gave, or a dry run would give. */
export interface Restored {
  backupId: string;
  serverId: string;
  target?: string;
  dryRun: boolean;
  files: number;
  bytes: number;
  created: number;
  changed: number;
  unchanged: number;
  removed: number;
  verified: boolean;
  changes?: { path: string; change: RestoreChangeKind }[];
  problems: FileProblem[];
  problemCount: number;
  dumps?: string[];
  containerId?: string;
  /** Seconds. */
  duration: number;
}

export interface TreeEntry {
  name: string;
  path: string;
  type: "file" | "folder" | "symlink" | "other";
  size?: number;
  mode?: string;
  uid?: number;
  gid?: number;
  modified?: string;
  target?: string;
}

export interface BackupTree {
  path: string;
  entries: TreeEntry[];
  total: number;
}

export interface BackupKey {
  repository: string;
  password: string;
  recoveryPassword?: string;
}

export type RetentionReason = "age" | "last" | "hourly" | "daily" | "weekly" | "monthly" | "yearly" | "pinned" | "last-good" | "append-only";
export interface RetentionDecision {
  backupId: string;
  timestamp: string;
  reasons: RetentionReason[];
}
export interface RetentionPreview {
  keep: RetentionDecision[];
  remove: RetentionDecision[];
}
