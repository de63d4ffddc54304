// Database clusters, as crates/types writes them: what is asked for, and what is seen of it.

export const POSTGRES_VERSION = 15;
export type PoolMode = "transaction" | "session";

export interface DatabasePool {
  mode?: PoolMode;
  /** Connections to the database, of each user. */
  size?: number;
}

export interface DatabaseSpec {
  version?: number;
  name?: string;
  synchronous?: boolean;
  parameters?: Record<string, string>;
  extensions?: string[];
  /** Seconds. */
  readLagLimit?: number;
  pool?: DatabasePool;
  readOnlyPort?: number;
  cpuLimit?: number;
  memoryLimit?: string;
  image?: string;
}

/** `creating`: it never had a primary. `failing`: it has none now. */
export type DatabaseState = "creating" | "ready" | "failing";
export type DatabaseRole = "primary" | "sync-standby" | "replica";

export interface DatabaseMember {
  /** The node's id. */
  server: string;
  name: string;
  containerId?: string;
  role?: DatabaseRole;
  /** As Patroni says it, or `creating`, `unknown`, `leaving`. */
  state: string;
  /** Why it is not as it should be. */
  message?: string;
  timeline?: number;
  lagBytes?: number;
  lagSeconds?: number;
  pendingRestart: boolean;
  /** Whether etcd runs here. */
  etcd: boolean;
}

export interface DatabaseSlot {
  name: string;
  active: boolean;
  retainedBytes?: number;
}

/** What a member keeps of the write-ahead log until it is in a destination of backups. */
export interface DatabaseArchive {
  /** Whether a backup config asks for it. */
  enabled: boolean;
  bytes: number;
  /** Since when segments were dropped: from there on nothing can be brought back until the next backup. */
  gap?: { since: string; segment: string };
  /** Why the last segment could not be kept. */
  failed?: string;
}

/** Which backup a database was made of; `to`: of which moment it is. */
export interface DatabaseOrigin {
  backupId: string;
  to?: string;
}

export interface Database {
  state: DatabaseState;
  /** What it waits for, or what is wrong. */
  message?: string;
  version: number;
  name: string;
  synchronous: boolean;
  parameters: Record<string, string>;
  extensions: string[];
  readLagLimit: number;
  pool?: Required<DatabasePool>;
  /** Whether it survives the loss of a node. */
  highlyAvailable: boolean;
  readWritePort: number;
  readOnlyPort: number;
  /** The primary's node. */
  primary?: string;
  timeline?: number;
  members: DatabaseMember[];
  slots: DatabaseSlot[];
  /** Clients at the primary, and how many it takes. */
  connections?: number;
  maxConnections?: number;
  archive?: DatabaseArchive;
  restoredFrom?: DatabaseOrigin;
  /** When this was looked at. */
  seen?: string;
  /** Without passwords; there once the database takes writes. */
  connectionStrings?: { readWrite: string; readOnly: string; direct: string };
}

export interface DatabaseLogin {
  user: string;
  password: string;
}

/** For admins alone. Never to be kept beyond the page that shows it. */
export interface DatabaseCredentials {
  database: string;
  /** Owns the database. */
  application: DatabaseLogin;
  /** Makes databases and roles. */
  admin: DatabaseLogin;
  /** Who signed the members' certificates, in PEM form. */
  certificateAuthority: string;
  /** Of the application, with its password. */
  readWrite: string;
  readOnly: string;
  /** Past the balancer: the client finds the primary itself. */
  direct: string;
}
