import { LogOut, Plus, Scale, Trash2, Undo2 } from "lucide-react";
import { useState } from "react";
import type { Cluster, ClusterMember } from "../../api/types";
import { useAct, useIsAdmin, useMayOperate } from "../../lib/data";
import { Link } from "../../lib/router";
import { Badge, Time } from "../../ui/bits";
import { Button } from "../../ui/button";
import { Menu, type MenuItem } from "../../ui/menu";
import { type Column, Table } from "../../ui/table";
import { KIND_NAME } from "../health/parts";
import { setWeight } from "./data";
import { AddServers, DrainMember, RemoveMember, WeightDialog } from "./dialogs";
import { Figure, MemberBadge } from "./parts";
import { failed, isOfNodes, memberReason, millis, perSecond, serverHref, tookLately, usesWeights } from "./words";

type Asked = { what: "weight" | "drain" | "remove"; member: ClusterMember } | { what: "add" };

export function Members({ cluster: c }: { cluster: Cluster }) {
  const may = useMayOperate();
  const admin = useIsAdmin();
  const [asked, setAsked] = useState<Asked | null>(null);
  const back = useAct({
    run: (m: ClusterMember) => setWeight(c.id, m.id, 1),
    done: (_, m) => `${m.name} gets traffic again.`,
    failed: "It was not put back.",
    stale: ["clusters"],
  });
  const standby = c.type === "high-availability";
  const database = c.type === "database";
  const compute = c.type === "compute";
  const what = isOfNodes(c.type) ? "Nodes" : "Servers";
  const items = (m: ClusterMember): MenuItem[] => {
    const out: MenuItem[] = [];
    if (!m.scaled && !isOfNodes(c.type)) {
      if (!standby) out.push({ label: "Change its weight…", icon: <Scale />, onSelect: () => setAsked({ what: "weight", member: m }) });
      out.push(
        m.weight === 0
          ? { label: "Put it back", icon: <Undo2 />, onSelect: () => back.mutate(m) }
          : { label: "Drain…", icon: <LogOut />, onSelect: () => setAsked({ what: "drain", member: m }) },
        "line",
      );
    }
    out.push({
      label: "Take it out…",
      icon: <Trash2 />,
      danger: true,
      disabled: m.state === "starting" || (m.scaled && m.state === "draining"),
      onSelect: () => setAsked({ what: "remove", member: m }),
    });
    return out;
  };
  const all: Column<ClusterMember>[] = [
    {
      key: "name",
      head: isOfNodes(c.type) ? "Node" : "Server",
      lead: true,
      cell: (m) => (
        <div className="cell-main">
          {m.id ? (
            <Link href={serverHref(m)} className="truncate max-32">
              {m.name}
            </Link>
          ) : (
            <span className="name">{m.name}</span>
          )}
          <span className="sub">
            {KIND_NAME[m.kind].toLowerCase()}
            {m.scaled && " · made by scaling"}
            {m.backup && " · backup"}
          </span>
        </div>
      ),
    },
    {
      key: "state",
      head: "State",
      wide: true,
      cell: (m) => (
        <div className="cell-main">
          <span className="row">
            <MemberBadge member={m} cluster={c} />
            {/* Of a database it is since when the entry sees it so, not since when it has its role. */}
            {m.since && !database && (
              <span className="faint">
                <Time at={m.since} />
              </span>
            )}
          </span>
          <span className="sub reason" title={memberReason(m, c)}>
            {memberReason(m, c)}
          </span>
        </div>
      ),
    },
    {
      key: "address",
      head: "Address",
      empty: (m) => !m.address,
      cell: (m) => (m.address ? <code className="nowrap">{m.address}</code> : <span className="faint">–</span>),
    },
    ...(!standby && !isOfNodes(c.type) && (usesWeights(c.loadBalancer.algorithm) || c.members.some((m) => m.weight !== 1))
      ? [
          {
            key: "weight",
            head: "Weight",
            right: true,
            cell: (m: ClusterMember) => <span className="num">{m.weight}</span>,
          },
        ]
      : []),
    { key: "flight", head: "In flight", right: true, cell: (m) => <span className="num">{m.inFlight}</span> },
    { key: "rps", head: c.protocol === "tcp" ? "Connections" : "Requests", right: true, cell: (m) => <Figure value={m.recent?.requestsPerSecond} text={perSecond} /> },
    { key: "p95", head: "p95", right: true, cell: (m) => <Figure value={tookLately(m.recent, (r) => r.p95)} text={millis} /> },
    { key: "errors", head: "Errors", right: true, cell: (m) => <Figure value={tookLately(m.recent, (r) => r.errorRate)} text={failed} /> },
  ];
  // Nothing comes in to nodes that run jobs.
  const columns = compute ? all.slice(0, 2) : all;
  const close = () => setAsked(null);
  return (
    <section className="stack tight">
      <header className="row">
        <h2 className="grow row">
          {what} <Badge>{c.members.length}</Badge>
        </h2>
        {may && (admin || !database) && (
          <Button small icon={<Plus />} onClick={() => setAsked({ what: "add" })}>
            Add {what.toLowerCase()}
          </Button>
        )}
      </header>
      <Table
        label={`${what} of ${c.name}`}
        rows={c.members}
        id={(m) => m.id || m.name}
        columns={columns}
        menuOnly
        {...(may ? { actions: (m: ClusterMember) => <Menu small label={`Actions for ${m.name}`} items={items(m)} /> } : {})}
      />
      {asked?.what === "add" && <AddServers cluster={c} onClose={close} />}
      {asked?.what === "weight" && <WeightDialog cluster={c} member={asked.member} onClose={close} />}
      {asked?.what === "drain" && <DrainMember cluster={c} member={asked.member} onClose={close} />}
      {asked?.what === "remove" && <RemoveMember cluster={c} member={asked.member} onClose={close} />}
    </section>
  );
}
