import type { Cluster, ClusterServer, ClusterServerEntry } from "../../api/types";

// Servers of a cluster as they are sent, and as they were.

/** A server as it is sent: alone where there is nothing to say of it. */
export function serverOf(entry: ClusterServerEntry): ClusterServer {
  const more: ClusterServerEntry = { id: entry.id };
  if (entry.port !== undefined) more.port = entry.port;
  if (entry.weight !== undefined && entry.weight !== 1) more.weight = entry.weight;
  if (entry.backup) more.backup = true;
  return Object.keys(more).length === 1 ? entry.id : more;
}

/** What was named, with what was said of it. Members that were named stand first, in the order of `servers`. */
export function namedServers(c: Pick<Cluster, "servers" | "members" | "type">): ClusterServerEntry[] {
  return c.members
    .filter((m) => !m.scaled)
    .map((m, i) => ({
      id: c.servers[i] ?? m.id,
      // A database's members have ports that were given to them, not named.
      ...(m.port === undefined || c.type === "database" ? {} : { port: m.port }),
      weight: m.weight,
      ...(m.backup ? { backup: true } : {}),
    }));
}
