import type { Query } from "./client";
import { client } from "./index";
import type * as T from "./types";

// Each call of the API by name. Paths are built here only.

const id = encodeURIComponent;

export interface ContainerFilter {
  nodeId?: string;
  status?: string;
  name?: string;
  label?: string;
  managed?: boolean;
  limit?: number;
  cursor?: string;
}

/** What a call that may outlast its request gave: the thing itself, or the operation that goes on. */
export type Begun<R> = { done: R; operation?: undefined } | { operation: T.Operation; done?: undefined };

async function begin<R>(path: string, body?: unknown, key?: string): Promise<Begun<R>> {
  const headers: Record<string, string> = { prefer: "respond-async" };
  if (key) headers["idempotency-key"] = key;
  const reply = await client.call<R | T.Operation>("POST", path, { body, headers });
  return reply.status === 202 ? { operation: reply.data as T.Operation } : { done: reply.data as R };
}

const stream = { accept: "text/event-stream" };
/** A stream of server-sent events, not read yet. */
const follow = (path: string, signal: AbortSignal, query: Query = {}) =>
  client.send("GET", path, { query: { ...query, follow: true }, signal, headers: stream });
const patch = async <R>(path: string, body: unknown): Promise<R> => (await client.call<R>("PATCH", path, { body })).data;
const put = async <R>(path: string, body: unknown): Promise<R> => (await client.call<R>("PUT", path, { body })).data;
const post = async <R>(path: string, body?: unknown): Promise<R> => (await client.call<R>("POST", path, { body })).data;
const remove = async (path: string, query?: Record<string, string | boolean | undefined>): Promise<void> => {
  await client.call("DELETE", path, { query });
};

export const containers = {
  list: (filter: ContainerFilter, signal?: AbortSignal) => client.page<T.Container>("/api/containers", { ...filter }, signal),
  get: (key: string, signal?: AbortSignal) => client.get<T.Container>(`/api/containers/${id(key)}`, undefined, signal),
  /** `key` makes a repeated request the same one. */
  create: (spec: T.ContainerSpec, key: string) => begin<T.Container>("/api/containers", spec, key),
  update: (key: string, change: T.ContainerUpdate) => patch<T.Container>(`/api/containers/${id(key)}`, change),
  remove: (key: string, options: { force: boolean; volumes: boolean }) =>
    remove(`/api/containers/${id(key)}`, { force: options.force || undefined, volumes: options.volumes || undefined }),
  act: (key: string, action: "start" | "stop" | "restart" | "pause" | "unpause") =>
    post<T.Container>(`/api/containers/${id(key)}/${action}`),
  kill: (key: string, signal: T.Signal) => post<T.Container>(`/api/containers/${id(key)}/kill`, { signal }),
  rename: (key: string, name: string) => post<T.Container>(`/api/containers/${id(key)}/rename`, { name }),
  inspect: (key: string, signal?: AbortSignal) => client.get<unknown>(`/api/containers/${id(key)}/inspect`, undefined, signal),
  logs: (key: string, query: { tail?: number; since?: string }, signal?: AbortSignal) =>
    client.get<T.LogLine[]>(`/api/containers/${id(key)}/logs`, { ...query, format: "objects" }, signal),
  followLogs: (key: string, query: { tail?: number | string; since?: string }, signal: AbortSignal) =>
    follow(`/api/containers/${id(key)}/logs`, signal, query),
  stats: (key: string, query: { limit: number; resolution: "second" | "minute" }, signal?: AbortSignal) =>
    client.get<T.ContainerStats[]>(`/api/containers/${id(key)}/stats`, query, signal),
  followStats: (key: string, signal: AbortSignal) => follow(`/api/containers/${id(key)}/stats`, signal),
  events: (key: string, cursor?: string, signal?: AbortSignal) =>
    client.page<T.NodeEvent>(`/api/containers/${id(key)}/events`, { cursor }, signal),
  templates: (signal?: AbortSignal) => client.get<T.ContainerTemplate[]>("/api/containers/templates/list", undefined, signal),
};

export const images = {
  list: (nodeId?: string, signal?: AbortSignal) => client.all<T.Image>("/api/images", { nodeId }, signal),
  pull: (body: T.PullImage) => begin<T.Image>("/api/containers/images/pull", body),
  remove: (name: string, nodeId: string, force: boolean) => remove("/api/images", { name, nodeId, force: force || undefined }),
  prune: async (nodeId: string) => (await client.call<T.Pruned>("POST", "/api/images/prune", { query: { nodeId } })).data,
};

export const volumes = {
  list: (nodeId?: string, signal?: AbortSignal) => client.all<T.Volume>("/api/volumes", { nodeId }, signal),
  create: (body: T.NewVolume) => post<T.Volume>("/api/volumes", body),
  remove: (name: string, nodeId: string) => remove(`/api/volumes/${id(name)}`, { nodeId }),
};

export const networks = {
  list: (nodeId?: string, signal?: AbortSignal) => client.all<T.Network>("/api/networks", { nodeId }, signal),
  create: (body: T.NewNetwork) => post<T.Network>("/api/networks", body),
  remove: (name: string, nodeId: string) => remove(`/api/networks/${id(name)}`, { nodeId }),
  /** The container's node is the network's. */
  member: (name: string, action: "attach" | "detach", container: string) =>
    post<unknown>(`/api/networks/${id(name)}/${action}`, { container }),
};

export const registries = {
  list: (signal?: AbortSignal) => client.all<T.Registry>("/api/registries", {}, signal),
  create: (body: T.NewRegistry) => post<T.Registry>("/api/registries", body),
  replace: (key: string, body: T.NewRegistry) => put<T.Registry>(`/api/registries/${id(key)}`, body),
  remove: (key: string) => remove(`/api/registries/${id(key)}`),
};

export const nodes = {
  list: (signal?: AbortSignal) => client.all<T.Node>("/api/nodes", {}, signal),
  get: (key: string, signal?: AbortSignal) => client.get<T.Node>(`/api/nodes/${id(key)}`, undefined, signal),
  update: (key: string, body: T.NodeUpdate) => patch<T.Node>(`/api/nodes/${id(key)}`, body),
  remove: (key: string, force: boolean) => remove(`/api/nodes/${id(key)}`, { force: force || undefined }),
  joinToken: () => post<T.JoinToken>("/api/nodes/join-tokens"),
  /** The machine that joins with it is this node again. */
  rejoinToken: (key: string) => post<T.JoinToken>(`/api/nodes/${id(key)}/rejoin-token`),
  revoke: (key: string) => post<T.Node>(`/api/nodes/${id(key)}/revoke`),
  drain: (key: string, body: T.DrainRequest) => begin<unknown>(`/api/nodes/${id(key)}/drain`, body),
  upgrade: (key: string, force: boolean) => begin<T.Operation>(`/api/nodes/${id(key)}/upgrade`, force ? { force } : undefined),
  binaries: (signal?: AbortSignal) => client.all<T.Binary>("/api/nodes/binaries", {}, signal),
  stats: (key: string, query: { limit: number; resolution: "second" | "minute" }, signal?: AbortSignal) =>
    client.get<T.NodeStats[]>(`/api/nodes/${id(key)}/stats`, query, signal),
  followStats: (key: string, signal: AbortSignal) => follow(`/api/nodes/${id(key)}/stats`, signal),
  events: (key: string, cursor?: string, signal?: AbortSignal) =>
    client.page<T.NodeEvent>(`/api/nodes/${id(key)}/events`, { cursor }, signal),
};

export const servers = {
  list: (query: { kind?: string; cursor?: string }, signal?: AbortSignal) => client.page<T.Server>("/api/servers", query, signal),
  get: (key: string, signal?: AbortSignal) => client.get<T.Server>(`/api/servers/${id(key)}`, undefined, signal),
  create: (body: T.NewServer) => post<T.Server>("/api/servers", body),
  update: (key: string, body: Partial<T.NewServer>) => patch<T.Server>(`/api/servers/${id(key)}`, body),
  remove: (key: string) => remove(`/api/servers/${id(key)}`),
};

const HEALTH = "/api/capabilities/health";
export const health = {
  list: (query: { status?: string; kind?: string; cursor?: string }, signal?: AbortSignal) => client.page<T.Health>(HEALTH, query, signal),
  get: (key: string, signal?: AbortSignal) => client.get<T.Health>(`${HEALTH}/${id(key)}`, undefined, signal),
  check: (key: string) => post<T.Health>(`${HEALTH}/${id(key)}/check`),
  history: (key: string, query: { from?: string; cursor?: string; limit?: number }, signal?: AbortSignal) =>
    client.page<T.HealthInterval>(`${HEALTH}/${id(key)}/history`, query, signal),
  settings: (signal?: AbortSignal) => client.get<T.HealthSettings>(`${HEALTH}/settings`, undefined, signal),
  setSettings: (body: { interval?: number; thresholds?: Partial<T.Thresholds> }) => patch<T.HealthSettings>(`${HEALTH}/settings`, body),
  config: (key: string, signal?: AbortSignal) => client.get<T.HealthConfig>(`${HEALTH}/${id(key)}/config`, undefined, signal),
  setConfig: (key: string, body: T.HealthConfig) => put<T.HealthConfig>(`${HEALTH}/${id(key)}/config`, body),
};

const CLUSTERS = "/api/capabilities/clusters";
export const clusters = {
  list: (signal?: AbortSignal) => client.all<T.Cluster>(CLUSTERS, {}, signal),
  get: (key: string, signal?: AbortSignal) => client.get<T.Cluster>(`${CLUSTERS}/${id(key)}`, undefined, signal),
  /** `key` makes a repeated request the same one. */
  create: async (spec: T.ClusterSpec, key: string): Promise<T.Cluster> =>
    (await client.call<T.Cluster>("POST", CLUSTERS, { body: spec, headers: { "idempotency-key": key } })).data,
  /** A merge patch: what is not in it stays, and `null` takes a field back to its default. */
  update: (key: string, change: object) => patch<T.Cluster>(`${CLUSTERS}/${id(key)}`, change),
  remove: (key: string) => remove(`${CLUSTERS}/${id(key)}`),
  addServers: (key: string, servers: T.ClusterServer[]) => post<T.Cluster>(`${CLUSTERS}/${id(key)}/servers`, { servers }),
  removeServer: (key: string, server: string) => remove(`${CLUSTERS}/${id(key)}/servers/${id(server)}`),
  failover: (key: string, server?: string) => post<T.Cluster>(`${CLUSTERS}/${id(key)}/failover`, server ? { server } : {}),
  /** Another member takes the writes: the named one, or the replica that is least behind. */
  switchOver: (key: string, to?: string) => post<T.Cluster>(`${CLUSTERS}/${id(key)}/database/switchover`, to ? { to } : {}),
  /** Not for `useQuery`: what it gives is not to be kept. */
  databaseCredentials: (key: string, signal?: AbortSignal) =>
    client.get<T.DatabaseCredentials>(`${CLUSTERS}/${id(key)}/database/credentials`, undefined, signal),
  metrics: (key: string, query: { from?: string; limit?: number }, signal?: AbortSignal) =>
    client.get<T.ClusterMetrics>(`${CLUSTERS}/${id(key)}/metrics`, query, signal),
  events: (key: string, cursor?: string, signal?: AbortSignal) =>
    client.page<T.ClusterEvent>(`${CLUSTERS}/${id(key)}/events`, { cursor }, signal),
};

const jobsOf = (cluster: string) => `${CLUSTERS}/${id(cluster)}/jobs`;
export const jobs = {
  all: (cluster: string, signal?: AbortSignal) => client.all<T.Job>(jobsOf(cluster), {}, signal),
  get: (cluster: string, job: string, signal?: AbortSignal) => client.get<T.Job>(`${jobsOf(cluster)}/${id(job)}`, undefined, signal),
  /** `key` makes a repeated request the same one. */
  create: async (cluster: string, spec: T.JobSpec, key: string): Promise<T.Job> =>
    (await client.call<T.Job>("POST", jobsOf(cluster), { body: spec, headers: { "idempotency-key": key } })).data,
  /** In their order. */
  tasks: (cluster: string, job: string, query: { limit?: number; cursor?: string }, signal?: AbortSignal) =>
    client.page<T.Task>(`${jobsOf(cluster)}/${id(job)}/tasks`, query, signal),
  followLog: (cluster: string, job: string, query: { task: number; tail?: number }, signal: AbortSignal) =>
    follow(`${jobsOf(cluster)}/${id(job)}/logs`, signal, query),
  cancel: (cluster: string, job: string) => post<T.Job>(`${jobsOf(cluster)}/${id(job)}/cancel`),
  remove: (cluster: string, job: string) => remove(`${jobsOf(cluster)}/${id(job)}`),
};

const BACKUPS = "/api/capabilities/backups";
export const backups = {
  configs: (query: { serverId?: string } = {}, signal?: AbortSignal) => client.all<T.BackupConfig>(`${BACKUPS}/configs`, query, signal),
  config: (key: string, signal?: AbortSignal) => client.get<T.BackupConfig>(`${BACKUPS}/configs/${id(key)}`, undefined, signal),
  /** `key` makes a repeated request the same one. */
  createConfig: async (spec: T.BackupConfigSpec, key: string): Promise<T.BackupConfig> =>
    (await client.call<T.BackupConfig>("POST", `${BACKUPS}/configs`, { body: spec, headers: { "idempotency-key": key } })).data,
  /** A merge patch: what is not in it stays, and `null` takes a field back to its default. */
  updateConfig: (key: string, change: object) => patch<T.BackupConfig>(`${BACKUPS}/configs/${id(key)}`, change),
  /** `force`: also where its repository's password goes with it. */
  removeConfig: (key: string, force: boolean) => remove(`${BACKUPS}/configs/${id(key)}`, { force: force || undefined }),
  check: (key: string) => begin<unknown>(`${BACKUPS}/configs/${id(key)}/check`),
  retention: (key: string, signal?: AbortSignal) =>
    client.get<T.RetentionPreview>(`${BACKUPS}/configs/${id(key)}/retention`, undefined, signal),
  key: (key: string) => client.get<T.BackupKey>(`${BACKUPS}/configs/${id(key)}/key`),
  /** Answers with the backup that is being made. */
  perform: (config: string) => post<T.Backup>(`${BACKUPS}/perform/${id(config)}`),
  list: (query: { configId?: string; status?: string; limit?: number; cursor?: string }, signal?: AbortSignal) =>
    client.page<T.Backup>(BACKUPS, query, signal),
  completed: (configId: string, signal?: AbortSignal) => client.all<T.Backup>(BACKUPS, { configId, status: "completed" }, signal),
  get: (key: string, signal?: AbortSignal) => client.get<T.Backup>(`${BACKUPS}/${id(key)}`, undefined, signal),
  cancel: (key: string) => post<T.Backup>(`${BACKUPS}/${id(key)}/cancel`),
  pin: (key: string, pinned: boolean) => put<T.Backup>(`${BACKUPS}/${id(key)}/pin`, { pinned }),
  verify: (key: string) => begin<unknown>(`${BACKUPS}/${id(key)}/verify`),
  restore: (key: string, body: T.NewRestore) => begin<T.Restored>(`${BACKUPS}/${id(key)}/restore`, body),
  /** `force`: also the last good one. Answers with the operation where it takes longer. */
  remove: async (key: string, force: boolean): Promise<T.Operation | undefined> => {
    const reply = await client.call<T.Operation>("DELETE", `${BACKUPS}/${id(key)}`, { query: { force: force || undefined } });
    return reply.status === 202 ? reply.data : undefined;
  },
  /** One page of a folder of the backup. */
  files: async (key: string, query: { path: string; cursor?: string; limit?: number }, signal?: AbortSignal) => {
    const reply = await client.call<T.BackupTree>("GET", `${BACKUPS}/${id(key)}/files`, { query, signal });
    return { items: reply.data.entries, next: reply.nextCursor, total: reply.data.total };
  },
};

export const alerts = {
  list: (query: { state?: string; severity?: string; serverId?: string; limit?: number; cursor?: string }, signal?: AbortSignal) =>
    client.page<T.Alert>("/api/alerts", query, signal),
  get: (key: string, signal?: AbortSignal) => client.get<T.AlertDetail>(`/api/alerts/${id(key)}`, undefined, signal),
  acknowledge: (key: string) => post<T.Alert>(`/api/alerts/${id(key)}/acknowledge`),
  rules: (signal?: AbortSignal) => client.all<T.AlertRule>("/api/alerts/rules", {}, signal),
  createRule: (body: T.NewAlertRule) => post<T.AlertRule>("/api/alerts/rules", body),
  updateRule: (key: string, body: Partial<T.NewAlertRule>) => patch<T.AlertRule>(`/api/alerts/rules/${id(key)}`, body),
  removeRule: (key: string) => remove(`/api/alerts/rules/${id(key)}`),
  channels: (signal?: AbortSignal) => client.all<T.AlertChannel>("/api/alerts/channels", {}, signal),
  createChannel: (body: T.ChannelFields & { name: string; type: T.ChannelType }) => post<T.CreatedChannel>("/api/alerts/channels", body),
  updateChannel: (key: string, body: T.ChannelFields & { name?: string }) => patch<T.AlertChannel>(`/api/alerts/channels/${id(key)}`, body),
  removeChannel: (key: string) => remove(`/api/alerts/channels/${id(key)}`),
  testChannel: (key: string) => post<T.ChannelTest>(`/api/alerts/channels/${id(key)}/test`),
  silences: (signal?: AbortSignal) => client.all<T.Silence>("/api/alerts/silences", {}, signal),
  createSilence: (body: T.NewSilence) => post<T.Silence>("/api/alerts/silences", body),
  removeSilence: (key: string) => remove(`/api/alerts/silences/${id(key)}`),
};

export const operations = {
  list: (query: { state?: string; target?: string; limit?: number; cursor?: string }, signal?: AbortSignal) =>
    client.page<T.Operation>("/api/operations", query, signal),
  get: (key: string, signal?: AbortSignal) => client.get<T.Operation>(`/api/operations/${id(key)}`, undefined, signal),
  cancel: (key: string) => post<T.Operation>(`/api/operations/${id(key)}/cancel`),
  follow: (key: string, signal: AbortSignal) => follow(`/api/operations/${id(key)}`, signal),
};

export const users = {
  list: (query: { limit?: number; cursor?: string }, signal?: AbortSignal) => client.page<T.User>("/api/users", query, signal),
  create: (body: T.NewUser) => post<T.User>("/api/users", body),
  update: (key: string, body: T.UserUpdate) => patch<T.User>(`/api/users/${id(key)}`, body),
  remove: (key: string) => remove(`/api/users/${id(key)}`),
};

export const tokens = {
  list: (query: { all?: boolean; limit?: number; cursor?: string }, signal?: AbortSignal) =>
    client.page<T.Token>("/api/tokens", query, signal),
  create: (body: T.NewToken) => post<T.CreatedToken>("/api/tokens", body),
  remove: (key: string) => remove(`/api/tokens/${id(key)}`),
};

export const auth = {
  changePassword: (body: { currentPassword: string; newPassword: string }) => post<unknown>("/api/auth/password", body),
  sessions: (signal?: AbortSignal) => client.all<T.SessionInfo>("/api/auth/sessions", {}, signal),
  endSession: (key: string) => remove(`/api/auth/sessions/${id(key)}`),
  ticket: () => post<T.StreamTicket>("/api/auth/tickets"),
};

export const system = {
  audit: (query: { actor?: string; action?: string; target?: string; limit?: number; cursor?: string }, signal?: AbortSignal) =>
    client.page<T.AuditEntry>("/api/audit", query, signal),
  verifyAudit: () => client.get<T.AuditVerdict>("/api/audit/verify"),
  info: (signal?: AbortSignal) => client.get<T.SystemInfo>("/api/system/info", undefined, signal),
  events: (lastId: string | undefined, signal: AbortSignal) =>
    client.send("GET", "/api/events", { signal, headers: lastId === undefined ? stream : { ...stream, "last-event-id": lastId } }),
};
