import { ArrowLeftRight, Boxes, Pencil, Play, Plus, Trash2 } from "lucide-react";
import { useState } from "react";
import { type Cluster, CLUSTER_TYPES } from "../../api/types";
import { useMayOperate } from "../../lib/data";
import { Link, navigate, useQueryValue } from "../../lib/router";
import { Button } from "../../ui/button";
import { Select } from "../../ui/field";
import { Menu } from "../../ui/menu";
import { Page } from "../../ui/page";
import { SearchBox } from "../../ui/search";
import { Empty, Failure } from "../../ui/states";
import { type Column, Table } from "../../ui/table";
import { useClusters } from "./data";
import { FailoverDialog, RemoveCluster, SwitchOverDialog } from "./dialogs";
import { ClusterBadge, Endpoints, Figure } from "./parts";
import { failed, millis, perSecond, spreadText, statusReason, tookLately, TYPE_NAME, upIn } from "./words";

const STATUSES = [
  ["", "Any status"],
  ["healthy", "Healthy"],
  ["degraded", "Degraded"],
  ["critical", "Critical"],
  ["offline", "Offline"],
] as const;

export function ClustersPage() {
  const may = useMayOperate();
  const [name, setName] = useQueryValue("name");
  const [status, setStatus] = useQueryValue("status");
  const [type, setType] = useQueryValue("type");
  const [asked, setAsked] = useState<{ what: "remove" | "failover" | "switchover"; cluster: Cluster } | null>(null);
  const query = useClusters();
  const wanted = name.trim().toLowerCase();
  const rows = query.data
    ?.filter((c) => (!status || c.status === status) && (!type || c.type === type))
    .filter((c) => [c.name, ...c.endpoints, ...c.members.map((m) => m.name)].some((t) => t.toLowerCase().includes(wanted)))
    .sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
  const create = may && (
    <Link className="btn primary" href="/clusters/new">
      <Plus />
      Create
    </Link>
  );
  const close = () => setAsked(null);
  return (
    <Page title="Clusters" actions={create}>
      <div className="filters">
        <SearchBox label="Search clusters" placeholder="Search by name, server, port" value={name} onValue={setName} />
        <Select aria-label="Status" value={status} onValue={setStatus} options={STATUSES} />
        <Select
          aria-label="Type"
          value={type}
          onValue={setType}
          options={[["", "Any type"], ...CLUSTER_TYPES.map((t) => [t, TYPE_NAME[t]] as const)]}
        />
      </div>
      {query.error && <Failure what="The clusters could not be read." error={query.error} retry={() => void query.refetch()} />}
      {rows?.length === 0 ? (
        query.data?.length === 0 ? (
          <Empty icon={<Boxes aria-hidden="true" />} title="No clusters yet" actions={create}>
            A cluster puts one address in front of several servers: containers, nodes, or addresses of your own. It checks them, spreads
            traffic over those that are up, and can add and remove containers with the load. Or it is a
            database that survives the loss of a node, or nodes with a queue of jobs.
          </Empty>
        ) : (
          <Empty
            icon={<Boxes aria-hidden="true" />}
            title="No cluster fits"
            actions={<Button onClick={() => navigate("/clusters")}>Clear the filters</Button>}
          >
            None of the clusters has this name, status and type.
          </Empty>
        )
      ) : (
        !(query.error && !rows) && (
          <Table
            label="Clusters"
            rows={rows}
            id={(c) => c.id}
            placeholders={4}
            columns={COLUMNS}
            menuOnly
            {...(may
              ? {
                  actions: (c: Cluster) => (
                    <Menu
                      small
                      label={`Actions for ${c.name}`}
                      items={[
                        ...(c.type === "compute" ? [{ label: "Run a job", icon: <Play />, href: `/clusters/${c.id}/jobs/new` }] : []),
                        { label: "Edit", icon: <Pencil />, href: `/clusters/${c.id}/edit` },
                        ...(c.type === "high-availability"
                          ? [
                              {
                                label: "Fail over…",
                                icon: <ArrowLeftRight />,
                                onSelect: () => setAsked({ what: "failover", cluster: c }),
                              },
                            ]
                          : []),
                        ...(c.database
                          ? [
                              {
                                label: "Switch over…",
                                icon: <ArrowLeftRight />,
                                onSelect: () => setAsked({ what: "switchover", cluster: c }),
                              },
                            ]
                          : []),
                        "line",
                        { label: "Remove…", icon: <Trash2 />, danger: true, onSelect: () => setAsked({ what: "remove", cluster: c }) },
                      ]}
                    />
                  ),
                }
              : {})}
          />
        )
      )}
      {asked?.what === "remove" && <RemoveCluster cluster={asked.cluster} onClose={close} />}
      {asked?.what === "switchover" && asked.cluster.database && (
        <SwitchOverDialog cluster={asked.cluster} database={asked.cluster.database} onClose={close} />
      )}
      {asked?.what === "failover" && <FailoverDialog cluster={asked.cluster} onClose={close} />}
    </Page>
  );
}

const COLUMNS: Column<Cluster>[] = [
  {
    key: "name",
    head: "Cluster",
    lead: true,
    cell: (c) => (
      <div className="cell-main">
        <Link href={`/clusters/${c.id}`} className="truncate max-32">
          {c.name}
        </Link>
        <span className="sub nowrap">
          {TYPE_NAME[c.type]}
          {c.type === "load-balanced" && ` · ${spreadText(c)}`}
          {c.database && ` · PostgreSQL ${c.database.version}`}
        </span>
      </div>
    ),
  },
  {
    key: "status",
    head: "Status",
    wide: true,
    cell: (c) => (
      <div className="cell-main">
        <ClusterBadge cluster={c} />
        <span className="sub reason" title={statusReason(c)}>
          {statusReason(c)}
        </span>
      </div>
    ),
  },
  { key: "endpoints", head: "Endpoint", wide: true, cell: (c) => <Endpoints cluster={c} short /> },
  { key: "members", head: "Servers up", cell: (c) => <Members cluster={c} /> },
  { key: "rps", head: "Requests", right: true, cell: (c) => <Figure value={c.recent?.requestsPerSecond} text={perSecond} /> },
  { key: "p95", head: "p95", right: true, cell: (c) => <Figure value={tookLately(c.recent, (r) => r.p95)} text={millis} /> },
  { key: "errors", head: "Errors", right: true, cell: (c) => <Figure value={tookLately(c.recent, (r) => r.errorRate)} text={failed} /> },
];

function Members({ cluster }: { cluster: Cluster }) {
  const [up, all] = upIn(cluster);
  return (
    <span className="num nowrap">
      {up} <span className="faint">of {all}</span>
    </span>
  );
}
