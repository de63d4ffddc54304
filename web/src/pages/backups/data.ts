import { useQuery } from "@tanstack/react-query";
import { useCallback } from "react";
import { client } from "../../api";
import * as calls from "../../api/calls";
import type { Backup, Server } from "../../api/types";
import { usePaged } from "../../lib/data";

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

/** Everything that can be backed up or restored to: nodes and containers. */
export function useServers() {
  return useQuery({
    queryKey: ["servers", "all"],
    queryFn: ({ signal }) => client.all<Server>("/api/servers", {}, signal),
  });
}

/** Gives a server's name for its id. */
export function useServerName(): (id: string) => string {
  const { data } = useServers();
  return useCallback((id: string) => data?.find((s) => s.id === id)?.name ?? id, [data]);
}
