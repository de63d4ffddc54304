import type { QueryKey } from "@tanstack/react-query";
import { Activity } from "lucide-react";
import type { Page } from "../api";
import type { NodeEvent, NodeEventKind } from "../api/types";
import { usePaged } from "../lib/data";
import { absolute } from "../lib/format";
import { eventDetail } from "../lib/journal";
import { Link } from "../lib/router";
import { Badge, Time } from "../ui/bits";
import { Empty, Failure, Loading } from "../ui/states";
import { Pager } from "../ui/table";

const KIND: Record<NodeEventKind, [string, string]> = {
  created: ["made", "blue"],
  started: ["started", "green"],
  died: ["ended", "grey"],
  oom: ["out of memory", "red"],
  health: ["health", "amber"],
  removed: ["removed", "grey"],
  engineDown: ["Docker is away", "red"],
  engineUp: ["Docker is back", "green"],
  agentStarted: ["agent started", "blue"],
  gap: ["gap", "amber"],
};

/** What happened on a node, or to a container: newest first, kept by the control plane also while the node is away. */
export function EventJournal(props: {
  queryKey: QueryKey;
  fetchPage: (cursor: string | undefined, signal: AbortSignal) => Promise<Page<NodeEvent>>;
  withContainer?: boolean;
  nothing: string;
}) {
  const { query, rows, pager } = usePaged(props.queryKey, props.fetchPage);
  if (query.error && !rows) return <Failure what="The events could not be read." error={query.error} retry={() => void query.refetch()} />;
  if (!rows) return <Loading what="the events" />;
  if (rows.length === 0) {
    return (
      <Empty icon={<Activity aria-hidden="true" />} title="Nothing happened yet">
        {props.nothing}
      </Empty>
    );
  }
  return (
    <>
      <ul className="event-list" aria-label="Events">
        {rows.map((e) => (
          <Row key={e.id} event={e} withContainer={props.withContainer ?? false} />
        ))}
      </ul>
      <Pager {...pager} />
    </>
  );
}

function Row({ event: e, withContainer }: { event: NodeEvent; withContainer: boolean }) {
  const [text, tone] = KIND[e.kind] ?? [e.kind, "grey"];
  const failed = e.kind === "died" && (e.detail.exitCode ?? 0) !== 0;
  return (
    <li className="event journal">
      <span className="faint" title={absolute(e.time)}>
        <Time at={e.time} />
      </span>
      <span>
        <Badge tone={failed || e.detail.health === "unhealthy" ? "red" : tone}>{text}</Badge>
      </span>
      <span className="break">
        {withContainer && e.container && (
          <>
            {e.containerId && e.kind !== "removed" ? (
              <Link className="link" href={`/containers/${e.containerId}`}>
                {e.container}
              </Link>
            ) : (
              e.container
            )}{" "}
          </>
        )}
        <span className="faint">{eventDetail(e)}</span>
      </span>
    </li>
  );
}
