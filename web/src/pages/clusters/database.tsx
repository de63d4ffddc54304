import { sentence } from "../../api/errors";
import type { Cluster, Database, DatabaseArchive, DatabaseMember } from "../../api/types";
import { useIsAdmin } from "../../lib/data";
import { bytes } from "../../lib/format";
import { Link } from "../../lib/router";
import { Badge, Moment, Time } from "../../ui/bits";
import { Card } from "../../ui/card";
import { Copyable, type Fact, Facts } from "../../ui/facts";
import { Notice } from "../../ui/states";
import { type Column, Table } from "../../ui/table";
import { BackupsOf } from "../backups/of";
import { Credentials } from "./credentials";
import { ClientsTile, databaseFacts, LagTile } from "./database-parts";
import { memberOf, memberWhy, primaryOf, seconds, STATE_NAME } from "./database-words";
import { DatabaseMemberBadge } from "./parts";

/** Who of a database takes the writes, how the others follow, and how clients come to it. */
export function DatabaseTab({ cluster: c, database: d }: { cluster: Cluster; database: Database }) {
  const admin = useIsAdmin();
  const [tone, text] = STATE_NAME[d.state];
  const primary = primaryOf(d);
  const fragile = c.conditions.find((k) => k.type === "notHighlyAvailable");
  return (
    <div className="stack">
      {d.message && <Notice tone={d.state === "creating" ? "blue" : d.state === "failing" ? "red" : "amber"}>{sentence(d.message)}</Notice>}
      {!d.highlyAvailable && (
        <Notice tone="amber">
          <strong>Not highly available.</strong> {sentence(fragile?.message ?? "the loss of a node takes it away")}
        </Notice>
      )}
      <section className="card entry-card">
        <div>
          <div className="label">State</div>
          <span className={`status ${tone}`}>{text}</span>
        </div>
        <div>
          <div className="label">Primary</div>
          {primary ? (
            <Link className="link" href={`/nodes/${primary.server}`}>
              {primary.name}
            </Link>
          ) : (
            "none now"
          )}
        </div>
        <div>
          <div className="label">Version</div>
          PostgreSQL {d.version}
        </div>
        <div>
          <div className="label">Timeline</div>
          {d.timeline ?? <span className="faint">–</span>}
        </div>
        <div>
          <div className="label">Looked at</div>
          <Time at={d.seen} />
        </div>
        {d.restoredFrom && (
          <div>
            <div className="label">Made of</div>
            <Link className="link" href={`/backups/${d.restoredFrom.backupId}`}>
              a backup
            </Link>
            {d.restoredFrom.to ? (
              <>
                , as of <Moment at={d.restoredFrom.to} />
              </>
            ) : (
              ", as new as could be"
            )}
          </div>
        )}
      </section>
      <section className="stack tight">
        <h2 className="row">
          Members <Badge>{d.members.length}</Badge>
        </h2>
        <Table label={`Members of ${c.name}`} rows={d.members} id={(m) => m.server} columns={columns(d)} />
      </section>
      <div className="tiles">
        <ClientsTile database={d} />
        <LagTile database={d} />
      </div>
      <div className="grid">
        <div className="stack span-7">
          <Card title="Connect">
            <Facts rows={connectFacts(d)} />
          </Card>
          {admin && d.connectionStrings && <Credentials key={c.id} cluster={c} />}
        </div>
        <div className="stack span-5">
          <Card title="Settings">
            <Facts rows={databaseFacts(d)} />
          </Card>
          <BackupsOf serverId={c.id} />
          {d.archive && (
            <Card title="Log for backups">
              <Facts rows={archiveFacts(d.archive)} />
            </Card>
          )}
          <Slots database={d} />
        </div>
      </div>
    </div>
  );
}

const none = <span className="faint">–</span>;

function columns(d: Database): Column<DatabaseMember>[] {
  const follows = (m: DatabaseMember) => m.role !== undefined && m.role !== "primary";
  return [
    {
      key: "node",
      head: "Node",
      lead: true,
      cell: (m) => (
        <div className="cell-main">
          <Link href={`/nodes/${m.server}`} className="truncate max-32">
            {m.name}
          </Link>
        </div>
      ),
    },
    {
      key: "role",
      head: "Role",
      wide: true,
      cell: (m) => (
        <div className="cell-main">
          <DatabaseMemberBadge member={m} state={d.state} />
          {memberWhy(m, d) && (
            <span className="sub reason" title={memberWhy(m, d)}>
              {memberWhy(m, d)}
            </span>
          )}
        </div>
      ),
    },
    { key: "state", head: "State", cell: (m) => <span className="nowrap">{m.state}</span> },
    {
      key: "timeline",
      head: "Timeline",
      right: true,
      empty: (m) => m.timeline === undefined,
      cell: (m) => (m.timeline === undefined ? none : <span className="num">{m.timeline}</span>),
    },
    {
      key: "lag",
      head: "Behind",
      right: true,
      empty: (m) => !follows(m) || m.lagBytes === undefined,
      cell: (m) => (follows(m) && m.lagBytes !== undefined ? <span className="num nowrap">{bytes(m.lagBytes)}</span> : none),
    },
    {
      key: "seconds",
      head: "Behind for",
      right: true,
      empty: (m) => !follows(m) || m.lagSeconds === undefined,
      cell: (m) => (follows(m) && m.lagSeconds !== undefined ? <span className="num nowrap">{seconds(m.lagSeconds)}</span> : none),
    },
    { key: "etcd", head: "etcd", cell: (m) => (m.etcd ? <Badge title="It has a say in who the primary is">votes</Badge> : none) },
    {
      key: "container",
      head: "Container",
      empty: (m) => !m.containerId,
      cell: (m) =>
        m.containerId ? (
          <Link className="link nowrap" href={`/containers/${m.containerId}`}>
            Open<span className="sr-only"> the container on {m.name}</span>
          </Link>
        ) : (
          none
        ),
    },
  ];
}

function connectFacts(d: Database): Fact[] {
  const rows: Fact[] = [
    [
      "Read and write",
      <span key="rw">
        port <code>{d.readWritePort}</code>, leads to the primary
      </span>,
    ],
    [
      "Read only",
      <span key="ro">
        port <code>{d.readOnlyPort}</code>, leads to replicas that are not behind
      </span>,
    ],
  ];
  const strings = d.connectionStrings;
  if (!strings) {
    rows.push(["Address", "there once the database takes writes"]);
    return rows;
  }
  rows.push(
    ["For writes", <Copyable key="w" text={strings.readWrite} what="the address for writes" />],
    ["For reads", <Copyable key="r" text={strings.readOnly} what="the address for reads" />],
    ["Direct", <Copyable key="d" text={strings.direct} what="the address of the members themselves" />],
  );
  return rows;
}

/** What the primary keeps of its log until that is where backups are. */
function archiveFacts(a: DatabaseArchive): Fact[] {
  const rows: Fact[] = [
    ["Kept", a.enabled ? <span className="status tone-green">until it is in the destination</span> : <span className="status tone-grey hollow">no: no backup config asks for it</span>],
    ["On the primary's disk", bytes(a.bytes)],
  ];
  if (a.gap) {
    rows.push([
      "Gap",
      <span key="gap" className="danger-text break">
        there was no room since <Moment at={a.gap.since} />, from segment <code>{a.gap.segment}</code> on: nothing newer can be brought back until the
        next backup
      </span>,
    ]);
  }
  if (a.failed) rows.push(["Failed", <span key="failed" className="danger-text break">{a.failed}</span>]);
  return rows;
}

function Slots({ database: d }: { database: Database }) {
  return (
    <Card title="Replication slots">
      {d.slots.length === 0 ? (
        <p className="faint">None: nobody has the write-ahead log kept.</p>
      ) : (
        <ul className="entry-list" aria-label="Replication slots">
          {d.slots.map((s) => (
            <li key={s.name}>
              <span className="row wrap">
                {/* A replica's slot is called as its node. */}
                {memberOf(d, s.name) ? <span>{memberOf(d, s.name)?.name}</span> : <code className="break">{s.name}</code>}
                <span className={`status ${s.active ? "tone-green" : "tone-amber hollow"}`}>{s.active ? "active" : "nobody reads it"}</span>
              </span>
              {s.retainedBytes !== undefined && <span className="faint">{bytes(s.retainedBytes)} of the log are kept for it</span>}
            </li>
          ))}
        </ul>
      )}
    </Card>
  );
}
