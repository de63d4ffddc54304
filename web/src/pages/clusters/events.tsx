import { Activity } from "lucide-react";
import * as calls from "../../api/calls";
import type { Cluster, ClusterEvent } from "../../api/types";
import { useNodeName, usePaged } from "../../lib/data";
import { Link } from "../../lib/router";
import { Badge, Time } from "../../ui/bits";
import { Empty, Failure, Loading } from "../../ui/states";
import { Pager } from "../../ui/table";
import { decisionText, EVENT_KIND, serverHref } from "./words";

/** What happened to it, newest first, each with why. */
export function ClusterEvents({ cluster }: { cluster: Cluster }) {
  const { query, rows, pager } = usePaged(
    ["clusters", "events", cluster.id],
    (cursor, signal) => calls.clusters.events(cluster.id, cursor, signal),
    { refetchInterval: 10_000 },
  );
  if (query.error && !rows) return <Failure what="The events could not be read." error={query.error} retry={() => void query.refetch()} />;
  if (!rows) return <Loading what="the events" />;
  if (rows.length === 0) {
    return (
      <Empty icon={<Activity aria-hidden="true" />} title="Nothing happened yet">
        Changes, servers that come and go, failovers and what scaling decides are written down here.
      </Empty>
    );
  }
  return (
    <>
      <ul className="event-list" aria-label="Events">
        {rows.map((e) => (
          <Row key={e.sequence} event={e} cluster={cluster} />
        ))}
      </ul>
      <Pager {...pager} />
    </>
  );
}

function Row({ event: e, cluster }: { event: ClusterEvent; cluster: Cluster }) {
  const nodeName = useNodeName();
  const [text, tone] = EVENT_KIND[e.kind] ?? [e.kind, "grey"];
  const member = cluster.members.find((m) => m.id === e.member);
  const numbers = decisionText(e.detail);
  // Some reasons begin with the server's name themselves.
  const reason = member && e.reason.startsWith(`${member.name} `) ? e.reason.slice(member.name.length + 1) : e.reason;
  return (
    <li className="event journal">
      <span className="faint">
        <Time at={e.at} />
      </span>
      <span>
        <Badge tone={tone}>{text}</Badge>
      </span>
      <span className="break">
        {e.member && (
          <>
            {member ? (
              <Link className="link" href={serverHref(member)}>
                {member.name}
              </Link>
            ) : (
              <code>{e.member}</code>
            )}{" "}
          </>
        )}
        {e.detail?.job ? (
          <Link className="link" href={`/clusters/${cluster.id}/jobs/${e.detail.job}`}>
            {reason}
          </Link>
        ) : (
          <span className="muted">{reason}</span>
        )}
        {numbers && <span className="faint"> · {numbers}</span>}
        {e.nodeId && cluster.entryNodes.length > 1 && <span className="faint"> · seen by {nodeName(e.nodeId)}</span>}
      </span>
    </li>
  );
}
