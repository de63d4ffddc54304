import { useQuery } from "@tanstack/react-query";
import { Container as ContainerIcon } from "lucide-react";
import { lazy, type ReactNode, Suspense } from "react";
import { ApiError } from "../../api";
import * as calls from "../../api/calls";
import type { Container } from "../../api/types";
import { useMayOperate, useNodeName } from "../../lib/data";
import { Link, navigate } from "../../lib/router";
import { Badge, ContainerBadge, CopyButton } from "../../ui/bits";
import { Button } from "../../ui/button";
import { Json } from "../../ui/json";
import { Menu } from "../../ui/menu";
import { Page } from "../../ui/page";
import { Empty, Failure, Loading } from "../../ui/states";
import { EventJournal } from "../journal";
import { useContainerActions } from "./actions";
import { EnvironmentTab } from "./environment";
import { LogsTab } from "./logs";
import { OverviewTab } from "./overview";
import { StatsTab } from "./stats";

const TerminalTab = lazy(() => import("./terminal"));

const TABS: [string, string, boolean][] = [
  ["overview", "Overview", false],
  ["stats", "Stats", false],
  ["logs", "Logs", false],
  ["terminal", "Terminal", true],
  ["environment", "Environment", false],
  ["events", "Events", false],
  ["inspect", "Inspect", false],
];

export function ContainerPage({ id, tab }: { id: string; tab: string }) {
  const query = useQuery({
    queryKey: ["containers", "one", id],
    queryFn: ({ signal }) => calls.containers.get(id, signal),
    refetchInterval: (q) => (q.state.data?.status === "running" ? 3_000 : false),
  });
  const container = query.data;
  if (container && !(query.error instanceof ApiError && query.error.status === 404)) {
    return <Loaded container={container} tab={tab} error={query.error} />;
  }
  return (
    <Page
      title="Container"
      crumbs={[["Containers", "/containers"]]}
      heading={query.error ? "Container" : <span className="skeleton" style={{ width: 160 }} />}
    >
      {query.error instanceof ApiError && query.error.status === 404 ? (
        <Empty
          icon={<ContainerIcon aria-hidden="true" />}
          title="This container is not there"
          actions={
            <Link className="btn" href="/containers">
              To the containers
            </Link>
          }
        >
          It was removed, or never existed under this name.
        </Empty>
      ) : query.error ? (
        <Failure what="The container could not be read." error={query.error} retry={() => void query.refetch()} />
      ) : (
        <Loading what="the container" />
      )}
    </Page>
  );
}

function Loaded({ container, tab, error }: { container: Container; tab: string; error: unknown }) {
  const may = useMayOperate();
  const nodeName = useNodeName();
  const { plain, items, dialog } = useContainerActions(container, { afterRemove: () => navigate("/containers") });
  const tabs = TABS.filter(([, , operate]) => may || !operate);
  const known = tabs.some(([key]) => key === tab) ? tab : "overview";
  const content: Record<string, () => ReactNode> = {
    overview: () => <OverviewTab container={container} nodeName={nodeName(container.nodeId)} />,
    stats: () => <StatsTab container={container} />,
    logs: () => <LogsTab container={container} />,
    terminal: () => <TerminalTab container={container} />,
    environment: () => <EnvironmentTab container={container} />,
    events: () => (
      <EventJournal
        queryKey={["containers", "events", container.id]}
        fetchPage={(cursor, signal) => calls.containers.events(container.id, cursor, signal)}
        nothing="When it starts, ends, runs out of memory or changes its health, that is written down here."
      />
    ),
    inspect: () => <InspectTab id={container.id} />,
  };
  return (
    <Page
      title={container.name}
      crumbs={[["Containers", "/containers"]]}
      heading={
        <>
          <span className="truncate">{container.name}</span>
          <span style={{ fontSize: 13, letterSpacing: 0 }}>
            <ContainerBadge status={container.status} health={container.health} exitCode={container.exitCode} />
          </span>
          {!container.managed && <Badge title="Started outside NeuralMesh">not managed</Badge>}
        </>
      }
      actions={
        may && (
          <>
            {plain.map((p) => (
              <Button key={p.action} icon={p.icon} busy={p.busy} disabled={p.disabled} onClick={p.run}>
                {p.label}
              </Button>
            ))}
            <Menu label="More actions" items={items} />
          </>
        )
      }
    >
      <nav className="tabs" aria-label="Container">
        {tabs.map(([key, text]) => (
          <Link
            key={key}
            href={`/containers/${container.id}${key === "overview" ? "" : `/${key}`}`}
            aria-current={key === known ? "page" : undefined}
          >
            {text}
          </Link>
        ))}
      </nav>
      {error !== null && <Failure what="What is shown may be old." error={error} />}
      <Suspense fallback={<Loading what="the tab" />}>{content[known]?.()}</Suspense>
      {dialog}
    </Page>
  );
}

function InspectTab({ id }: { id: string }) {
  const query = useQuery({ queryKey: ["inspect", id], queryFn: ({ signal }) => calls.containers.inspect(id, signal), staleTime: 0 });
  if (query.error) return <Failure what="Docker's document could not be read." error={query.error} retry={() => void query.refetch()} />;
  if (query.data === undefined) return <Loading what="Docker's document" />;
  return (
    <section className="card">
      <header className="card-head">
        <h2>What Docker says of it</h2>
        <Button small onClick={() => void query.refetch()} busy={query.isFetching}>
          Refresh
        </Button>
        <CopyButton text={JSON.stringify(query.data, null, 2)} label="Copy the document" />
      </header>
      <Json value={query.data} />
    </section>
  );
}
