import { Link } from "../../lib/router";
import { useClusters } from "./data";
import { ClusterBadge, MemberBadge } from "./parts";

/** The clusters that a server is in, and how it is there. */
export function ClustersOf({ serverId }: { serverId: string }) {
  const { data } = useClusters({ aside: true });
  const rows = (data ?? []).flatMap((cluster) => {
    const member = cluster.members.find((m) => m.id === serverId);
    return member ? [{ cluster, member }] : [];
  });
  if (rows.length === 0) return null;
  return (
    <section className="card">
      <header className="card-head">
        <h2>Clusters</h2>
      </header>
      <ul className="stack tight card-body">
        {rows.map(({ cluster, member }) => (
          <li key={cluster.id} className="row wrap">
            <span className="row grow">
              <Link className="link" href={`/clusters/${cluster.id}`}>
                {cluster.name}
              </Link>
              <ClusterBadge cluster={cluster} />
            </span>
            <span className="faint">its state there</span>
            <MemberBadge member={member} cluster={cluster} />
          </li>
        ))}
      </ul>
    </section>
  );
}
