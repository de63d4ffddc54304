import { useQuery } from "@tanstack/react-query";
import * as calls from "../../api/calls";
import type { Cluster } from "../../api/types";
import { namedServers, serverOf } from "./model";

/** Figures change all the time, and no event tells of them. A long list is asked for less often. */
const refresh = (clusters: readonly Cluster[] | undefined): number => ((clusters?.length ?? 0) > 50 ? 20_000 : 5_000);

/** `aside`: they are not what the page is about. `names`: nothing of them is shown that changes. */
export function useClusters(options: { aside?: boolean; names?: boolean } = {}) {
  return useQuery({
    queryKey: ["clusters", "list"],
    queryFn: ({ signal }) => calls.clusters.list(signal),
    refetchInterval: (query) => !options.names && refresh(query.state.data) * (options.aside ? 4 : 1),
  });
}

export function useCluster(id: string, options: { enabled?: boolean } = {}) {
  return useQuery({
    queryKey: ["clusters", "one", id],
    queryFn: ({ signal }) => calls.clusters.get(id, signal),
    refetchInterval: 5_000,
    ...options,
  });
}

/** Gives one server another weight. The list is replaced as a whole, so it is read anew right before. */
export async function setWeight(cluster: string, member: string, weight: number): Promise<Cluster> {
  const fresh = await calls.clusters.get(cluster);
  const at = fresh.members.filter((m) => !m.scaled).findIndex((m) => m.id === member);
  const servers = namedServers(fresh).map((s, i) => serverOf(i === at ? { ...s, weight } : s));
  return calls.clusters.update(cluster, { servers });
}
