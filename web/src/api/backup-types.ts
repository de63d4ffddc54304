import type { ClusterSpec } from "./cluster-types";

// Backups, as crates/types writes them: configs, what was made by them, and what is asked of it.

export const BACKUP_TYPES = ["full", "incremental", "differential"] as const;
export type BackupType = (typeof BACKUP_TYPES)[number];
export const CONSISTENCIES = ["auto", "pause", "stop", "dump", "none"] as const;
export type BackupConsistency = (typeof CONSISTENCIES)[number];
/** `cluster`: one of type `database`. */
export type BackupServerKind = "container" | "node" | "cluster";
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
  /** Seconds; of a database cluster. */
  walInterval?: number;
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

/** Moments without a gap in between. */
export interface RecoveryWindow {
  from: string;
  to: string;
}

/** To which moments a database can be brought back. */
export interface BackupRecovery {
  /** Seconds between two shipments of the log. */
  walInterval: number;
  /** Oldest first. */
  windows: RecoveryWindow[];
  /** The last commit that is in the destination, by the database's clock. */
  shipped?: string;
  /** Why the log is not kept now, and what to do. */
  message?: string;
  /** Where the log is, as `restic -r` takes it. */
  repository?: string;
}

export interface BackupConfig {
  id: string;
  name: string;
  serverId: string;
  serverKind: BackupServerKind;
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
  /** Of a database cluster. */
  recovery?: BackupRecovery;
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
  /** Of a database cluster: from here on it can be brought to any moment of its window. */
  recoverableFrom?: string;
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
  /** Of a database cluster: what is made of it. */
  cluster?: ClusterSpec;
  /** Of a database cluster: as it was at this moment; as new as can be where nothing is said. */
  to?: string;
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
  /** The database cluster that was made. */
  clusterId?: string;
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
  /** Of a database cluster: the repository of its log, which `password` opens, too. */
  logRepository?: string;
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
