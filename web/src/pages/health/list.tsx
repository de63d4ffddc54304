import { Activity, HeartPulse, Plus, Settings2 } from "lucide-react";
import { useState } from "react";
import * as calls from "../../api/calls";
import type { Health, Server, ServerKind } from "../../api/types";
import { useAct, useIsAdmin, useMayOperate, useNodeName, usePaged } from "../../lib/data";
import { duration } from "../../lib/format";
import { Link, navigate, useQueryValue } from "../../lib/router";
import { Time } from "../../ui/bits";
import { Button, IconButton } from "../../ui/button";
import { Segmented, Select } from "../../ui/field";
import { Page } from "../../ui/page";
import { Empty, Failure } from "../../ui/states";
import { type Column, Pager, Table } from "../../ui/table";
import { AddressDialog } from "./address";
import { CheckSigns, HealthBadge, KIND_NAME, LastCheck } from "./parts";
import { SettingsDialog } from "./settings";
import { availability, responseTime } from "./words";

/** Figures change with each check; only a change of status is an event. */
const REFRESH_MS = 10_000;

const STATUSES = [
  ["", "Any health"],
  ["healthy", "Healthy"],
  ["unhealthy", "Unhealthy"],
  ["unknown", "Degraded or unknown"],
] as const;
const KINDS: readonly (readonly ["" | ServerKind, string])[] = [
  ["", "Any kind"],
  ["node", "Nodes"],
  ["container", "Containers"],
  ["address", "Addresses"],
];

export function HealthPage() {
  const may = useMayOperate();
  const admin = useIsAdmin();
  const [show, setShow] = useQueryValue("show");
  const [kind, setKind] = useQueryValue("kind");
  const [status, setStatus] = useQueryValue("status");
  const [asked, setAsked] = useState<"address" | "settings" | null>(null);
  const all = show === "all";
  return (
    <Page
      title="Health"
      actions={
        <>
          {admin && (
            <Button icon={<Settings2 />} onClick={() => setAsked("settings")}>
              Limits…
            </Button>
          )}
          {may && (
            <Button variant="primary" icon={<Plus />} onClick={() => setAsked("address")}>
              Register an address
            </Button>
          )}
        </>
      }
    >
      <div className="filters">
        <Segmented
          label="Which servers"
          value={all ? "all" : ""}
          onValue={setShow}
          options={[
            ["", "Checked"],
            ["all", "All servers"],
          ]}
        />
        <Select aria-label="Kind" value={kind} onValue={setKind} options={KINDS} />
        {!all && <Select aria-label="Health" value={status} onValue={setStatus} options={STATUSES} />}
      </div>
      {all ? <AllServers kind={kind} /> : <Checked kind={kind} status={status} may={may} />}
      {asked === "address" && <AddressDialog onClose={() => setAsked(null)} />}
      {asked === "settings" && <SettingsDialog onClose={() => setAsked(null)} />}
    </Page>
  );
}

function Checked({ kind, status, may }: { kind: string; status: string; may: boolean }) {
  const { query, rows, pager } = usePaged(
    ["health", "list", kind, status],
    (cursor, signal) => calls.health.list({ kind: kind || undefined, status: status || undefined, cursor }, signal),
    { refetchInterval: REFRESH_MS },
  );
  if (query.error && !rows) return <Failure what="The health could not be read." error={query.error} retry={() => void query.refetch()} />;
  return (
    <>
      {query.error && <Failure what="What is shown may be old." error={query.error} />}
      {rows?.length === 0 ? (
        kind || status ? (
          <Empty
            icon={<HeartPulse aria-hidden="true" />}
            title="No server fits"
            actions={<Button onClick={() => navigate("/health")}>Clear the filters</Button>}
          >
            None of the servers that are checked is of this kind and health.
          </Empty>
        ) : (
          <Empty icon={<HeartPulse aria-hidden="true" />} title="Nothing is checked yet">
            Nodes, containers that are meant to run, and registered addresses are checked by themselves. Join a node to begin.
          </Empty>
        )
      ) : (
        <Table
          label="Health of servers"
          rows={rows}
          id={(h) => h.serverId}
          columns={COLUMNS}
          menuOnly
          {...(may ? { actions: (h: Health) => <CheckNow id={h.serverId} name={h.serverName} /> } : {})}
        />
      )}
      <Pager {...pager} />
    </>
  );
}

const COLUMNS: Column<Health>[] = [
  {
    key: "name",
    head: "Server",
    lead: true,
    cell: (h) => (
      <div className="cell-main">
        <Link href={`/health/${h.serverId}`} className="truncate max-32">
          {h.serverName}
        </Link>
        <span className="sub">{KIND_NAME[h.kind].toLowerCase()}</span>
      </div>
    ),
  },
  { key: "status", head: "Health", cell: (h) => <HealthBadge health={h} /> },
  { key: "checks", head: "Checks", wide: true, cell: (h) => <CheckSigns health={h} /> },
  { key: "response", head: "Response", cell: (h) => <span className="nowrap">{responseTime(h.responseTime)}</span> },
  { key: "uptime", head: "Up for", cell: (h) => <span className="nowrap">{h.uptime > 0 ? duration(h.uptime * 1000) : "–"}</span> },
  { key: "day", head: "24 h", cell: (h) => availability(h.availability["24h"]) },
  { key: "week", head: "7 d", cell: (h) => availability(h.availability["7d"]) },
  { key: "month", head: "30 d", cell: (h) => availability(h.availability["30d"]) },
  { key: "last", head: "Checked", cell: (h) => <LastCheck health={h} /> },
];

/** Checks one server at once, and says what came of it. */
export function useCheckNow() {
  return useAct({
    run: (id: string) => calls.health.check(id),
    done: (h) => {
      const failed = h.details.filter((d) => !d.ok).map((d) => d.check);
      return failed.length === 0 ? `${h.serverName} passed all checks.` : `${h.serverName} failed: ${[...new Set(failed)].join(", ")}.`;
    },
    failed: "It could not be checked.",
    stale: ["health", "servers"],
  });
}

function CheckNow({ id, name }: { id: string; name: string }) {
  const check = useCheckNow();
  return (
    <IconButton small label={`Check ${name} now`} busy={check.isPending} onClick={() => check.mutate(id)}>
      <Activity />
    </IconButton>
  );
}

/** Every server there is, also those that nobody checks. */
function AllServers({ kind }: { kind: string }) {
  const nodeName = useNodeName();
  const { query, rows, pager } = usePaged(["servers", "list", kind], (cursor, signal) =>
    calls.servers.list({ kind: kind || undefined, cursor }, signal),
  );
  const columns: Column<Server>[] = [
    {
      key: "name",
      head: "Server",
      lead: true,
      cell: (s) => (
        <div className="cell-main">
          <Link href={`/health/${s.id}`} className="truncate max-32">
            {s.name}
          </Link>
          <span className="sub">{KIND_NAME[s.kind].toLowerCase()}</span>
        </div>
      ),
    },
    { key: "status", head: "Status", cell: (s) => s.status },
    {
      key: "address",
      head: "Address",
      empty: (s) => !s.address,
      cell: (s) => <span className="mono break">{s.address ? `${s.address}${s.port ? `:${s.port}` : ""}` : "–"}</span>,
    },
    { key: "node", head: "Node", empty: (s) => !s.nodeId, cell: (s) => (s.nodeId ? nodeName(s.nodeId) : <span className="faint">–</span>) },
    { key: "created", head: "Since", cell: (s) => <Time at={s.created} /> },
  ];
  if (query.error && !rows) return <Failure what="The servers could not be read." error={query.error} retry={() => void query.refetch()} />;
  return (
    <>
      {rows?.length === 0 ? (
        <Empty icon={<HeartPulse aria-hidden="true" />} title="No servers of this kind">
          Join a node, create a container, or register an address.
        </Empty>
      ) : (
        <Table label="All servers" rows={rows} id={(s) => s.id} columns={columns} />
      )}
      <Pager {...pager} />
    </>
  );
}
