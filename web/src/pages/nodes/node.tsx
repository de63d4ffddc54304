import { useQuery } from "@tanstack/react-query";
import { Ban, CircleArrowUp, KeyRound, Pencil, PlugZap, Server, ShieldOff, Trash2 } from "lucide-react";
import { type ReactNode, useEffect, useState } from "react";
import { ApiError } from "../../api";
import * as calls from "../../api/calls";
import type { Node } from "../../api/types";
import { useAct, useIsAdmin, useMayOperate, useNodes, usePaged, useRunning } from "../../lib/data";
import { nodeState } from "../../lib/nodes";
import { Link } from "../../lib/router";
import { NodeBadge } from "../../ui/bits";
import { Button } from "../../ui/button";
import { Menu } from "../../ui/menu";
import { Page } from "../../ui/page";
import { Empty, Failure, Loading } from "../../ui/states";
import { Pager } from "../../ui/table";
import { ContainerTable, REFRESH_MS } from "../containers/list";
import { EventJournal } from "../journal";
import { DrainNode, EditNode, RemoveNode, RevokeNode, UpgradeNode } from "./dialogs";
import { JoinDialog } from "./join";
import { NodeOverview } from "./overview";
import { NodeStatsTab } from "./stats";
import { NodeWork } from "./work";

const TABS = [
  ["overview", "Overview"],
  ["stats", "Stats"],
  ["containers", "Containers"],
  ["events", "Events"],
] as const;

type Asked = "edit" | "drain" | "upgrade" | "revoke" | "rejoin" | "remove";

export function NodePage({ id, tab }: { id: string; tab: string }) {
  // What it uses changes all the time, and no event tells of that.
  const query = useQuery({ queryKey: ["nodes", "one", id], queryFn: ({ signal }) => calls.nodes.get(id, signal), refetchInterval: 5_000 });
  const gone = query.error instanceof ApiError && query.error.status === 404;
  if (query.data && !gone) return <Loaded node={query.data} tab={tab} error={query.error} />;
  return (
    <Page title="Node" crumbs={[["Nodes", "/nodes"]]}>
      {gone ? (
        <Empty
          icon={<Server aria-hidden="true" />}
          title="This node is not there"
          actions={
            <Link className="btn" href="/nodes">
              To the nodes
            </Link>
          }
        >
          It was taken out of the fleet, or never existed under this name.
        </Empty>
      ) : query.error ? (
        <Failure what="The node could not be read." error={query.error} retry={() => void query.refetch()} />
      ) : (
        <Loading what="the node" />
      )}
    </Page>
  );
}

function Loaded({ node, tab, error }: { node: Node; tab: string; error: unknown }) {
  const admin = useIsAdmin();
  const running = useRunning().data ?? [];
  const [asked, setAsked] = useState<Asked | null>(null);
  /** What is done to it, begun here or elsewhere: kept in sight after its end, until it is put away. */
  const [work, setWork] = useState<string | null>(null);
  const found = running.find((o) => o.target === node.id)?.id;
  useEffect(() => {
    if (found) setWork(found);
  }, [found]);
  const cordon = useAct({
    run: (cordoned: boolean) => calls.nodes.update(node.id, { cordoned }),
    done: (n, cordoned) => (cordoned ? `${n.name} takes no new containers.` : `${n.name} takes new containers again.`),
    failed: "The node was not changed.",
    stale: ["nodes"],
  });
  const state = nodeState(node, running);
  const cordoned = node.status === "cordoned";
  const known = TABS.some(([key]) => key === tab) ? tab : "overview";
  const content: Record<string, () => ReactNode> = {
    overview: () => <NodeOverview node={node} state={state} />,
    stats: () => <NodeStatsTab node={node} />,
    containers: () => <ContainersTab node={node} />,
    events: () => (
      <EventJournal
        queryKey={["nodes", "events", node.id]}
        fetchPage={(cursor, signal) => calls.nodes.events(node.id, cursor, signal)}
        withContainer
        nothing="What happens to its containers, its Docker engine and its agent is written down here."
      />
    ),
  };
  const close = () => setAsked(null);
  return (
    <Page
      title={node.name}
      crumbs={[["Nodes", "/nodes"]]}
      heading={
        <>
          <span className="truncate">{node.name}</span>
          <span style={{ fontSize: 13, letterSpacing: 0 }}>
            <NodeBadge state={state} />
          </span>
        </>
      }
      actions={
        admin && (
          <>
            <Button icon={<Ban />} busy={cordon.isPending} onClick={() => cordon.mutate(!cordoned)}>
              {cordoned ? "Uncordon" : "Cordon"}
            </Button>
            <Button icon={<PlugZap />} disabled={state === "draining"} onClick={() => setAsked("drain")}>
              Drain…
            </Button>
            <Menu
              label="More actions"
              items={[
                { label: "Rename, label…", icon: <Pencil />, onSelect: () => setAsked("edit") },
                { label: "Upgrade…", icon: <CircleArrowUp />, onSelect: () => setAsked("upgrade") },
                "line",
                { label: "Let it join again…", icon: <KeyRound />, onSelect: () => setAsked("rejoin") },
                {
                  label: "Revoke its certificates…",
                  icon: <ShieldOff />,
                  danger: true,
                  disabled: node.revoked,
                  onSelect: () => setAsked("revoke"),
                },
                { label: "Remove…", icon: <Trash2 />, danger: true, onSelect: () => setAsked("remove") },
              ]}
            />
          </>
        )
      }
    >
      <nav className="tabs" aria-label="Node">
        {TABS.map(([key, text]) => (
          <Link
            key={key}
            href={`/nodes/${node.id}${key === "overview" ? "" : `/${key}`}`}
            aria-current={key === known ? "page" : undefined}
          >
            {text}
            {key === "containers" && <span className="faint"> {node.containers}</span>}
          </Link>
        ))}
      </nav>
      {error !== null && <Failure what="What is shown may be old." error={error} />}
      {work && <NodeWork id={work} onClose={() => setWork(null)} />}
      {content[known]?.()}
      {asked === "edit" && <EditNode node={node} onClose={close} />}
      {asked === "drain" && <DrainNode node={node} onBegun={(o) => setWork(o.id)} onClose={close} />}
      {asked === "upgrade" && <UpgradeNode node={node} onBegun={(o) => setWork(o.id)} onClose={close} />}
      {asked === "revoke" && <RevokeNode node={node} onClose={close} />}
      {asked === "rejoin" && <JoinDialog node={node} onClose={close} />}
      {asked === "remove" && <RemoveNode node={node} onClose={close} />}
    </Page>
  );
}

function ContainersTab({ node }: { node: Node }) {
  const may = useMayOperate();
  const nodes = useNodes();
  const { query, rows, pager } = usePaged(
    ["containers", "list", { nodeId: node.id }],
    (cursor, signal) => calls.containers.list({ nodeId: node.id, cursor }, signal),
    { refetchInterval: REFRESH_MS },
  );
  if (query.error && !rows) {
    return <Failure what="Its containers could not be read." error={query.error} retry={() => void query.refetch()} />;
  }
  return (
    <>
      {rows?.length === 0 ? (
        <Empty
          icon={<Server aria-hidden="true" />}
          title="No containers here"
          actions={
            may && (
              <Link className="btn" href="/containers/new">
                Create one
              </Link>
            )
          }
        >
          {nodes.data && nodes.data.length > 1
            ? "A container comes here when it is asked for by name, or when this node has most room for it."
            : "Whatever runs on its Docker engine shows here."}
        </Empty>
      ) : (
        <ContainerTable label={`Containers of ${node.name}`} rows={rows} may={may} manyNodes={false} />
      )}
      <Pager {...pager} />
    </>
  );
}
