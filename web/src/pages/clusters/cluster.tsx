import { ArrowLeftRight, Boxes, Pencil, Play, Trash2 } from "lucide-react";
import { type ReactNode, useState } from "react";
import { ApiError } from "../../api";
import type { Cluster, ClusterType } from "../../api/types";
import { useMayOperate } from "../../lib/data";
import { Link } from "../../lib/router";
import { Button } from "../../ui/button";
import { Menu } from "../../ui/menu";
import { Page } from "../../ui/page";
import { Empty, Failure, Loading } from "../../ui/states";
import { Jobs } from "../jobs/list";
import { ComputeOverview } from "./compute";
import { useCluster } from "./data";
import { DatabaseTab } from "./database";
import { FailoverDialog, RemoveCluster, SwitchOverDialog } from "./dialogs";
import { ClusterEvents } from "./events";
import { ClusterMetricsTab } from "./metrics";
import { ClusterOverview } from "./overview";
import { ClusterBadge } from "./parts";
import { Scaling } from "./scaling";

type Tab = "overview" | "jobs" | "database" | "metrics" | "scaling" | "events";
const TAB_NAME: Record<Tab, string> = {
  overview: "Overview",
  jobs: "Jobs",
  database: "Database",
  metrics: "Metrics",
  scaling: "Auto-scaling",
  events: "Events",
};
/** What there is to see of a cluster of a type. */
const TABS: Record<ClusterType, readonly Tab[]> = {
  "load-balanced": ["overview", "metrics", "scaling", "events"],
  "high-availability": ["overview", "metrics", "scaling", "events"],
  database: ["overview", "database", "metrics", "events"],
  compute: ["overview", "jobs", "events"],
};

export function ClusterPage({ id, tab }: { id: string; tab: string }) {
  const query = useCluster(id);
  const gone = query.error instanceof ApiError && query.error.status === 404;
  if (query.data && !gone) return <Loaded cluster={query.data} tab={tab} error={query.error} />;
  return (
    <Page title="Cluster" crumbs={[["Clusters", "/clusters"]]}>
      {gone ? (
        <Empty
          icon={<Boxes aria-hidden="true" />}
          title="This cluster is not there"
          actions={
            <Link className="btn" href="/clusters">
              To the clusters
            </Link>
          }
        >
          It was removed, or never existed under this name.
        </Empty>
      ) : query.error ? (
        <Failure what="The cluster could not be read." error={query.error} retry={() => void query.refetch()} />
      ) : (
        <Loading what="the cluster" />
      )}
    </Page>
  );
}

function Loaded({ cluster: c, tab, error }: { cluster: Cluster; tab: string; error: unknown }) {
  const may = useMayOperate();
  const [asked, setAsked] = useState<"failover" | "switchover" | "remove" | null>(null);
  const close = () => setAsked(null);
  const tabs = TABS[c.type];
  const known = tabs.find((key) => key === tab) ?? "overview";
  const content: Record<Tab, () => ReactNode> = {
    overview: () => (c.type === "compute" ? <ComputeOverview cluster={c} /> : <ClusterOverview cluster={c} />),
    jobs: () => <Jobs cluster={c} />,
    database: () => c.database && <DatabaseTab cluster={c} database={c.database} />,
    metrics: () => <ClusterMetricsTab cluster={c} />,
    scaling: () => <Scaling cluster={c} />,
    events: () => <ClusterEvents cluster={c} />,
  };
  return (
    <Page
      title={c.name}
      crumbs={[["Clusters", "/clusters"]]}
      heading={
        <>
          <span className="truncate">{c.name}</span>
          <span style={{ fontSize: 13, letterSpacing: 0 }}>
            <ClusterBadge cluster={c} />
          </span>
        </>
      }
      actions={
        may && (
          <>
            {c.type === "compute" && (
              <Link className="btn primary" href={`/clusters/${c.id}/jobs/new`}>
                <Play />
                Run a job
              </Link>
            )}
            {c.type === "high-availability" && (
              <Button icon={<ArrowLeftRight />} onClick={() => setAsked("failover")}>
                Fail over…
              </Button>
            )}
            {c.database && (
              <Button icon={<ArrowLeftRight />} onClick={() => setAsked("switchover")}>
                Switch over…
              </Button>
            )}
            <Link className="btn" href={`/clusters/${c.id}/edit`}>
              <Pencil />
              Edit
            </Link>
            <Menu
              label="More actions"
              items={[{ label: "Remove…", icon: <Trash2 />, danger: true, onSelect: () => setAsked("remove") }]}
            />
          </>
        )
      }
    >
      <nav className="tabs" aria-label="Cluster">
        {tabs.map((key) => (
          <Link
            key={key}
            href={`/clusters/${c.id}${key === "overview" ? "" : `/${key}`}`}
            aria-current={key === known ? "page" : undefined}
          >
            {TAB_NAME[key]}
          </Link>
        ))}
      </nav>
      {error !== null && <Failure what="What is shown may be old." error={error} />}
      {content[known]()}
      {asked === "failover" && <FailoverDialog cluster={c} onClose={close} />}
      {asked === "switchover" && c.database && <SwitchOverDialog cluster={c} database={c.database} onClose={close} />}
      {asked === "remove" && <RemoveCluster cluster={c} onClose={close} />}
    </Page>
  );
}
