import { useQuery } from "@tanstack/react-query";
import { Plus, Server } from "lucide-react";
import { useState } from "react";
import * as calls from "../../api/calls";
import type { Node } from "../../api/types";
import { useIsAdmin, useRunning } from "../../lib/data";
import { bytes, percent } from "../../lib/format";
import { NODE_STATES, nodeState } from "../../lib/nodes";
import { Link, navigate, useQueryValue } from "../../lib/router";
import { Badge, Labels, NodeBadge, Usage } from "../../ui/bits";
import { Button } from "../../ui/button";
import { Select } from "../../ui/field";
import { Page } from "../../ui/page";
import { SearchBox } from "../../ui/search";
import { Empty, Failure } from "../../ui/states";
import { type Column, Table } from "../../ui/table";
import { JoinDialog } from "./join";

/** What a machine uses changes every second, and no event tells of it. */
const REFRESH_MS = 5_000;

export function NodesPage() {
  const admin = useIsAdmin();
  const [joining, setJoining] = useState(false);
  const [state, setState] = useQueryValue("status");
  const [search, setSearch] = useQueryValue("search");
  const query = useQuery({ queryKey: ["nodes"], queryFn: ({ signal }) => calls.nodes.list(signal), refetchInterval: REFRESH_MS });
  const running = useRunning().data ?? [];
  const wanted = search.trim().toLowerCase();
  const rows = query.data?.filter(
    (n) => (!state || nodeState(n, running) === state) && (!wanted || textOf(n).toLowerCase().includes(wanted)),
  );
  const add = (
    <Button variant="primary" icon={<Plus />} onClick={() => setJoining(true)}>
      Add a node
    </Button>
  );
  return (
    <Page title="Nodes" actions={admin && add}>
      {(query.data?.length ?? 0) > 1 && (
        <div className="filters">
          <SearchBox label="Search nodes" placeholder="Search by name or label" value={search} onValue={setSearch} />
          <Select aria-label="Status" value={state} onValue={setState} options={[["", "Any status"], ...NODE_STATES]} />
        </div>
      )}
      {query.error && <Failure what="The nodes could not be read." error={query.error} retry={() => void query.refetch()} />}
      {query.data?.length === 0 ? (
        <Empty icon={<Server aria-hidden="true" />} title="No nodes yet" actions={admin && add}>
          A node is a machine with Docker that runs the NeuralMesh agent. <code>neuralmesh up</code> makes this machine the first one.
        </Empty>
      ) : rows?.length === 0 ? (
        <Empty
          icon={<Server aria-hidden="true" />}
          title="No node fits"
          actions={<Button onClick={() => navigate("/nodes")}>Clear the filters</Button>}
        >
          None of the nodes has what you asked for.
        </Empty>
      ) : (
        !(query.error && !query.data) && <Table label="Nodes" rows={rows} id={(n) => n.id} placeholders={3} columns={columns(running)} />
      )}
      {joining && <JoinDialog onClose={() => setJoining(false)} />}
    </Page>
  );
}

const textOf = (n: Node): string =>
  [n.name, n.info?.hostname ?? "", ...Object.entries(n.labels).map(([key, value]) => `${key}=${value}`)].join(" ");

function columns(running: Parameters<typeof nodeState>[1]): Column<Node>[] {
  const offline = (n: Node) => !n.usage;
  return [
    {
      key: "name",
      head: "Name",
      lead: true,
      cell: (n) => (
        <div className="cell-main">
          <Link href={`/nodes/${n.id}`}>{n.name}</Link>
          {n.info && <span className="sub">{n.info.hostname === n.name ? `${n.info.cpus} × ${n.info.arch}` : n.info.hostname}</span>}
        </div>
      ),
    },
    { key: "status", head: "Status", cell: (n) => <NodeBadge state={nodeState(n, running)} /> },
    {
      key: "cpu",
      head: "CPU",
      empty: offline,
      cell: (n) => (n.usage ? <Usage label="CPU" text={percent(n.usage.cpu)} share={n.usage.cpu / 100} /> : <Dash />),
    },
    {
      key: "memory",
      head: "Memory",
      empty: offline,
      cell: (n) =>
        n.usage ? (
          <Usage
            label="Memory"
            text={bytes(n.usage.memoryUsed)}
            share={n.usage.memoryUsed / Math.max(1, n.usage.memoryTotal)}
            title={`of ${bytes(n.usage.memoryTotal)}`}
          />
        ) : (
          <Dash />
        ),
    },
    {
      key: "disk",
      head: "Disk",
      empty: (n) => n.usage?.diskUsedPercent === undefined,
      cell: (n) =>
        n.usage?.diskUsedPercent === undefined ? (
          <Dash />
        ) : (
          <Usage
            label="Disk"
            text={percent(n.usage.diskUsedPercent)}
            share={n.usage.diskUsedPercent / 100}
            title="of the fullest file system"
          />
        ),
    },
    {
      key: "load",
      head: "Load",
      empty: offline,
      cell: (n) =>
        n.usage ? <span title={`over 1, 5 and 15 minutes: ${n.usage.load.join(", ")}`}>{n.usage.load[0].toFixed(2)}</span> : <Dash />,
    },
    { key: "link", head: "Network", empty: (n) => !n.link, cell: (n) => <LinkText node={n} /> },
    {
      key: "containers",
      head: "Containers",
      cell: (n) => (
        <Link className="link" href={`/nodes/${n.id}/containers`}>
          {n.containers}
        </Link>
      ),
    },
    {
      key: "labels",
      head: "Labels",
      wide: true,
      empty: (n) => Object.keys(n.labels).length === 0,
      cell: (n) => (
        <span className="max-32">
          <Labels labels={n.labels} />
        </span>
      ),
    },
    { key: "version", head: "Agent", cell: (n) => n.info?.agentVersion ?? <Dash /> },
  ];
}

const Dash = () => <span className="faint">–</span>;

/** The line to a node in short: how long there and back, and what is lost on the way. */
export function LinkText({ node: { link } }: { node: Node }) {
  if (!link) return <Dash />;
  if (link.rtt === undefined) return <span title="Datagrams do not come through: only its link is there.">link only</span>;
  return (
    <span className="nowrap row">
      {link.rtt < 10 ? link.rtt.toFixed(1) : Math.round(link.rtt)} ms
      {(link.loss ?? 0) >= 1 && <Badge tone={(link.loss ?? 0) >= 10 ? "red" : "amber"}>{percent(link.loss ?? 0)} lost</Badge>}
    </span>
  );
}
