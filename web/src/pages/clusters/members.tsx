import { LogOut, Plus, Scale, Trash2, Undo2 } from "lucide-react";
import { useState } from "react";
import type { Cluster, ClusterMember } from "../../api/types";
import { useAct, useMayOperate } from "../../lib/data";
import { Link } from "../../lib/router";
import { Badge, Time } from "../../ui/bits";
import { Button } from "../../ui/button";
import { Menu, type MenuItem } from "../../ui/menu";
import { type Column, Table } from "../../ui/table";
import { KIND_NAME } from "../health/parts";
import { setWeight } from "./data";
import { AddServers, DrainMember, RemoveMember, WeightDialog } from "./dialogs";
import { Figure, MemberBadge } from "./parts";
import { failed, memberReason, millis, perSecond, serverHref, tookLately, usesWeights } from "./words";

type Asked = { what: "weight" | "drain" | "remove"; member: ClusterMember } | { what: "add" };

export function Members({ cluster: c }: { cluster: Cluster }) {
  const may = useMayOperate();
  const [asked, setAsked] = useState<Asked | null>(null);
  const back = useAct({
    run: (m: ClusterMember) => setWeight(c.id, m.id, 1),
    done: (_, m) => `${m.name} gets traffic again.`,
    failed: "It was not put back.",
    stale: ["clusters"],
  });
  const standby = c.type === "high-availability";
  const items = (m: ClusterMember): MenuItem[] => {
    const out: MenuItem[] = [];
    if (!m.scaled) {
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
  const columns: Column<ClusterMember>[] = [
    {
      key: "name",
      head: "Server",
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
            {m.since && (
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
    ...(!standby && (usesWeights(c.loadBalancer.algorithm) || c.members.some((m) => m.weight !== 1))
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
    { key: "rps", head: "Requests", right: true, cell: (m) => <Figure value={m.recent?.requestsPerSecond} text={perSecond} /> },
    { key: "p95", head: "p95", right: true, cell: (m) => <Figure value={tookLately(m.recent, (r) => r.p95)} text={millis} /> },
    { key: "errors", head: "Errors", right: true, cell: (m) => <Figure value={tookLately(m.recent, (r) => r.errorRate)} text={failed} /> },
  ];
  const close = () => setAsked(null);
  return (
    <section className="stack tight">
      <header className="row">
        <h2 className="grow row">
          Servers <Badge>{c.members.length}</Badge>
        </h2>
        {may && (
          <Button small icon={<Plus />} onClick={() => setAsked({ what: "add" })}>
            Add servers
          </Button>
        )}
      </header>
      <Table
        label={`Servers of ${c.name}`}
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
