import { useQuery } from "@tanstack/react-query";
import { Bell, BellOff, Check } from "lucide-react";
import { useState } from "react";
import * as calls from "../../api/calls";
import { sentence } from "../../api/errors";
import type { Alert } from "../../api/types";
import { useAct, useMayOperate, usePaged } from "../../lib/data";
import { Link, navigate, useQueryValue } from "../../lib/router";
import { Time } from "../../ui/bits";
import { Button, IconButton } from "../../ui/button";
import { Select } from "../../ui/field";
import { Page } from "../../ui/page";
import { Empty, Failure } from "../../ui/states";
import { type Column, Pager, Table } from "../../ui/table";
import { AlertBadge, AlertTabs, SEVERITIES, SeverityBadge } from "./parts";
import { SilenceDialog } from "./silences";

const STATES = [
  ["", "Any state"],
  ["firing", "Firing"],
  ["pending", "Pending"],
  ["resolved", "Resolved"],
] as const;

export function AlertsPage() {
  const may = useMayOperate();
  const [state, setState] = useQueryValue("state");
  const [severity, setSeverity] = useQueryValue("severity");
  const { query, rows, pager } = usePaged(["alerts", "list", state, severity], (cursor, signal) =>
    calls.alerts.list({ state: state || undefined, severity: severity || undefined, cursor }, signal),
  );
  const rules = useQuery({ queryKey: ["rules"], queryFn: ({ signal }) => calls.alerts.rules(signal) });
  const untold = rules.data?.some((r) => r.enabled) && rules.data.every((r) => r.channels.length === 0);
  return (
    <Page title="Alerts">
      <AlertTabs here="/alerts" />
      <div className="filters">
        <Select aria-label="State" value={state} onValue={setState} options={STATES} />
        <Select aria-label="Severity" value={severity} onValue={setSeverity} options={[["", "Any severity"], ...SEVERITIES]} />
      </div>
      {query.error && <Failure what="The alerts could not be read." error={query.error} retry={() => void query.refetch()} />}
      {rows?.length === 0 ? (
        state || severity ? (
          <Empty
            icon={<Bell aria-hidden="true" />}
            title="No alert fits"
            actions={<Button onClick={() => navigate("/alerts")}>Clear the filters</Button>}
          >
            None of the alerts has this state and severity.
          </Empty>
        ) : (
          <Empty
            icon={<Bell aria-hidden="true" />}
            title="All is well"
            actions={
              <>
                <Link className="btn" href="/alerts/rules">
                  See the rules
                </Link>
                {untold && (
                  <Link className="btn" href="/alerts/channels">
                    Say who is told
                  </Link>
                )}
              </>
            }
          >
            Nothing has come true that a rule looks for. {untold && "No rule has a channel yet, so alerts show here only."}
          </Empty>
        )
      ) : (
        !(query.error && !rows) && (
          <Table
            label="Alerts"
            rows={rows}
            id={(a) => a.id}
            columns={COLUMNS}
            {...(may ? { actions: (a: Alert) => <AlertActions alert={a} small /> } : {})}
          />
        )
      )}
      <Pager {...pager} />
    </Page>
  );
}

const COLUMNS: Column<Alert>[] = [
  {
    key: "rule",
    head: "Alert",
    lead: true,
    cell: (a) => (
      <div className="cell-main">
        <Link href={`/alerts/${a.id}`}>{a.ruleName}</Link>
        <span className="sub break lines">{sentence(a.message)}</span>
      </div>
    ),
  },
  { key: "state", head: "State", cell: (a) => <AlertBadge alert={a} /> },
  { key: "severity", head: "Severity", cell: (a) => <SeverityBadge severity={a.severity} /> },
  {
    key: "server",
    head: "Server",
    cell: (a) => (
      <Link className="link" href={`/health/${a.serverId}`}>
        {a.serverName}
      </Link>
    ),
  },
  { key: "since", head: "Since", cell: (a) => <Time at={a.since} /> },
  { key: "over", head: "Over", empty: (a) => !a.resolvedAt, cell: (a) => <Time at={a.resolvedAt} /> },
];

/** Acknowledge and silence, where they make sense. */
export function AlertActions({ alert: a, small }: { alert: Alert; small?: boolean }) {
  const [silencing, setSilencing] = useState(false);
  const acknowledge = useAct({
    run: () => calls.alerts.acknowledge(a.id),
    done: () => `You look after ${a.ruleName} on ${a.serverName}: no more reminders.`,
    failed: "It was not acknowledged.",
    stale: ["alerts"],
  });
  const open = a.state !== "resolved";
  return (
    <>
      {open &&
        !a.acknowledgedAt &&
        (small ? (
          <IconButton
            small
            label={`Acknowledge ${a.ruleName} on ${a.serverName}`}
            busy={acknowledge.isPending}
            onClick={() => acknowledge.mutate()}
          >
            <Check />
          </IconButton>
        ) : (
          <Button icon={<Check />} busy={acknowledge.isPending} onClick={() => acknowledge.mutate()}>
            Acknowledge
          </Button>
        ))}
      {!a.silencedBy &&
        (small ? (
          <IconButton small label={`Silence ${a.ruleName} on ${a.serverName}`} onClick={() => setSilencing(true)}>
            <BellOff />
          </IconButton>
        ) : (
          <Button icon={<BellOff />} onClick={() => setSilencing(true)}>
            Silence…
          </Button>
        ))}
      {silencing && (
        <SilenceDialog
          matcher={{ ruleId: a.ruleId, serverId: a.serverId }}
          names={{ rule: a.ruleName, server: a.serverName }}
          onClose={() => setSilencing(false)}
        />
      )}
    </>
  );
}

/** The last alerts of one server. */
export function AlertsOf({ serverId }: { serverId: string }) {
  const query = useQuery({
    queryKey: ["alerts", "of", serverId],
    queryFn: ({ signal }) => calls.alerts.list({ serverId, limit: 5 }, signal),
  });
  const rows = query.data?.items ?? [];
  if (rows.length === 0) return null;
  return (
    <section className="card">
      <header className="card-head">
        <h2>Alerts</h2>
      </header>
      <ul className="stack tight card-body">
        {rows.map((a) => (
          <li key={a.id} className="row wrap">
            <Link className="link grow" href={`/alerts/${a.id}`}>
              {a.ruleName}
            </Link>
            <SeverityBadge severity={a.severity} />
            <AlertBadge alert={a} />
            <span className="faint">
              <Time at={a.since} />
            </span>
          </li>
        ))}
      </ul>
    </section>
  );
}
