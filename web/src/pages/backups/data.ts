import { useQuery } from "@tanstack/react-query";
import { useCallback, useMemo } from "react";
import { client } from "../../api";
import * as calls from "../../api/calls";
import type { Backup, BackupServerKind, Server, ServerKind } from "../../api/types";
import { usePaged } from "../../lib/data";
import { useClusters } from "../clusters/data";

/** While one is made its figures change all the time, and no event tells of them. */
const refresh = (rows: readonly Backup[] | undefined): number | false => (rows?.some((b) => b.status === "in-progress") ? 2_000 : false);

export function useConfigs() {
  return useQuery({ queryKey: ["backups", "configs"], queryFn: ({ signal }) => calls.backups.configs({}, signal) });
}

export function useConfig(id: string, options: { enabled?: boolean } = {}) {
  return useQuery({ queryKey: ["backups", "config", id], queryFn: ({ signal }) => calls.backups.config(id, signal), ...options });
}

/** The newest of all configs: who is at work, and how large each was last. */
export function useRecentBackups() {
  return useQuery({
    queryKey: ["backups", "recent"],
    queryFn: async ({ signal }) => (await calls.backups.list({ limit: 200 }, signal)).items,
    refetchInterval: (query) => refresh(query.state.data),
  });
}

export function useBackupsOf(configId: string) {
  const found = usePaged(["backups", "of", configId], (cursor, signal) => calls.backups.list({ configId, cursor }, signal), {
    refetchInterval: (query) => refresh(query.state.data?.items),
  });
  return found;
}

export function useBackup(id: string) {
  return useQuery({
    queryKey: ["backups", "one", id],
    queryFn: ({ signal }) => calls.backups.get(id, signal),
    refetchInterval: (query) => refresh(query.state.data && [query.state.data]),
  });
}

/** Those of which something can be restored whole. */
export function useCompleted(configId: string, options: { enabled?: boolean } = {}) {
  return useQuery({ queryKey: ["backups", "completed", configId], queryFn: ({ signal }) => calls.backups.completed(configId, signal), ...options });
}

/** All that a server is known by here: nodes, containers and others, but no clusters. */
export function useServers() {
  return useQuery({
    queryKey: ["servers", "all"],
    queryFn: ({ signal }) => client.all<Server>("/api/servers", {}, signal),
  });
}

export interface Subject extends Pick<Server, "id" | "name" | "nodeId"> {
  kind: ServerKind | BackupServerKind;
}

/** What can be backed up: nodes, containers, and clusters of type `database`. */
export function useSubjects(): { data: readonly Subject[] | undefined; error: unknown } {
  const servers = useServers();
  const clusters = useClusters({ names: true });
  const data = useMemo(() => {
    if (!servers.data || !clusters.data) return undefined;
    const databases = clusters.data.filter((c) => c.type === "database").map((c): Subject => ({ id: c.id, name: c.name, kind: "cluster" }));
    return [...servers.data.filter((s) => s.kind === "node" || s.kind === "container"), ...databases];
  }, [servers.data, clusters.data]);
  return { data, error: servers.error ?? clusters.error };
}

/** Gives a server's or a cluster's name for its id. */
export function useServerName(): (id: string) => string {
  const servers = useServers().data;
  const clusters = useClusters({ names: true }).data;
  return useCallback((id: string) => [...(servers ?? []), ...(clusters ?? [])].find((s) => s.id === id)?.name ?? id, [servers, clusters]);
}
