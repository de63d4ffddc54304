import { useQuery } from "@tanstack/react-query";
import { Bell } from "lucide-react";
import { ApiError } from "../../api";
import * as calls from "../../api/calls";
import { sentence } from "../../api/errors";
import type { AlertDelivery } from "../../api/types";
import { useMayOperate } from "../../lib/data";
import { plural } from "../../lib/format";
import { Link } from "../../lib/router";
import { Time } from "../../ui/bits";
import { Page } from "../../ui/page";
import { Empty, Failure, Loading, Notice } from "../../ui/states";
import { Table } from "../../ui/table";
import { AlertActions } from "./list";
import { AlertBadge, SeverityBadge, StateBadge } from "./parts";

const CRUMBS: [string, string][] = [["Alerts", "/alerts"]];

export function AlertPage({ id }: { id: string }) {
  const may = useMayOperate();
  const query = useQuery({ queryKey: ["alerts", "one", id], queryFn: ({ signal }) => calls.alerts.get(id, signal) });
  const a = query.data;
  const gone = query.error instanceof ApiError && query.error.status === 404;
  if (!a || gone) {
    return (
      <Page title="Alert" crumbs={CRUMBS}>
        {gone ? (
          <Empty icon={<Bell aria-hidden="true" />} title="This alert is not there">
            One that is over is kept for 30 days; one that was pending and did not last leaves nothing.
          </Empty>
        ) : query.error ? (
          <Failure what="The alert could not be read." error={query.error} retry={() => void query.refetch()} />
        ) : (
          <Loading what="the alert" />
        )}
      </Page>
    );
  }
  return (
    <Page
      narrow
      title={`${a.ruleName} on ${a.serverName}`}
      crumbs={CRUMBS}
      heading={
        <>
          <span className="truncate">{a.ruleName}</span>
          <span style={{ fontSize: 13, letterSpacing: 0 }}>
            <StateBadge state={a.state} />
          </span>
        </>
      }
      actions={may && <AlertActions alert={a} />}
    >
      {query.error && <Failure what="What is shown may be old." error={query.error} />}
      <Notice tone={a.state === "resolved" ? "green" : a.severity === "critical" ? "red" : a.severity === "info" ? "blue" : "amber"}>
        {sentence(a.message)}
      </Notice>
      <section className="card">
        <dl className="facts card-body">
          <dt>State</dt>
          <dd>
            <AlertBadge alert={a} />
          </dd>
          <dt>Severity</dt>
          <dd>
            <SeverityBadge severity={a.severity} />
          </dd>
          <dt>Server</dt>
          <dd>
            <Link className="link" href={`/health/${a.serverId}`}>
              {a.serverName}
            </Link>{" "}
            <span className="faint">{a.serverKind}</span>
          </dd>
          <dt>Holds since</dt>
          <dd>
            <Time at={a.since} />
          </dd>
          <dt>Fired</dt>
          <dd>{a.firedAt ? <Time at={a.firedAt} /> : <span className="faint">not yet: it has to last</span>}</dd>
          {a.resolvedAt && (
            <>
              <dt>Over</dt>
              <dd>
                <Time at={a.resolvedAt} />
              </dd>
            </>
          )}
          {a.acknowledgedAt && (
            <>
              <dt>Looked after by</dt>
              <dd>
                {a.acknowledgedBy ?? "somebody"}, <Time at={a.acknowledgedAt} />
              </dd>
            </>
          )}
        </dl>
      </section>
      <section className="stack tight" aria-label="Who was told">
        <h2>Who was told</h2>
        {a.deliveries.length === 0 ? (
          <p className="faint">
            Nobody:{" "}
            {a.state === "pending" ? "it has not fired yet." : a.silencedBy ? "a silence keeps it quiet." : "its rule has no channels."}
          </p>
        ) : (
          <Table label="Deliveries" rows={a.deliveries} id={(d) => d.id} columns={DELIVERIES} />
        )}
      </section>
    </Page>
  );
}

const TONE: Record<AlertDelivery["state"], string> = {
  waiting: "tone-blue busy",
  delivered: "tone-green",
  failed: "tone-red",
};

const DELIVERIES = [
  { key: "channel", head: "Channel", lead: true, cell: (d: AlertDelivery) => d.channelName ?? <span className="faint">removed</span> },
  { key: "event", head: "Word", cell: (d: AlertDelivery) => d.event },
  {
    key: "state",
    head: "State",
    cell: (d: AlertDelivery) => (
      <div className="cell-main">
        <span className={`status ${TONE[d.state]}`}>{d.state}</span>
        {d.state === "waiting" && d.nextAttempt && (
          <span className="sub">
            again <Time at={d.nextAttempt} />
          </span>
        )}
      </div>
    ),
  },
  {
    key: "attempts",
    head: "Attempts",
    cell: (d: AlertDelivery) => plural(d.attempts, "attempt"),
  },
  {
    key: "error",
    head: "Last error",
    wide: true,
    empty: (d: AlertDelivery) => !d.lastError,
    cell: (d: AlertDelivery) => <span className="break">{d.lastError ?? "–"}</span>,
  },
  { key: "when", head: "When", cell: (d: AlertDelivery) => <Time at={d.deliveredAt ?? d.created} /> },
];
