import type { Database } from "../../api/types";
import { bytes } from "../../lib/format";
import { Link } from "../../lib/router";
import { Badge, Meter, Tile } from "../../ui/bits";
import type { Fact } from "../../ui/facts";
import { lagText, primaryOf, seconds, worstLag } from "./database-words";

/** Who takes the writes. */
export function Primary({ database: d }: { database: Database }) {
  const primary = primaryOf(d);
  if (!primary) return <>no member takes the writes</>;
  return (
    <>
      <Link className="link" href={`/nodes/${primary.server}`}>
        {primary.name}
      </Link>{" "}
      takes the writes
    </>
  );
}

export function ClientsTile({ database: d }: { database: Database }) {
  const known = d.connections !== undefined && d.maxConnections !== undefined && d.maxConnections > 0;
  return (
    <Tile label="Clients at the primary" value={d.connections ?? "–"} of={known ? `of ${d.maxConnections}` : ""}>
      {known && <Meter label="Connections used" share={(d.connections as number) / (d.maxConnections as number)} />}
    </Tile>
  );
}

export function LagTile({ database: d }: { database: Database }) {
  const worst = worstLag(d);
  if (!worst) return <Tile label="Furthest behind" value="–" of={d.members.length < 2 ? "no replica" : ""} />;
  const [value, of] =
    worst.lagSeconds !== undefined ? [seconds(worst.lagSeconds), worst.lagBytes === undefined ? "" : bytes(worst.lagBytes)] : [lagText(worst), ""];
  return <Tile label="Furthest behind" value={value} of={of} />;
}

export function DatabaseTiles({ database }: { database: Database }) {
  return (
    <>
      <ClientsTile database={database} />
      <LagTile database={database} />
    </>
  );
}

/** What it was asked to be. */
export function databaseFacts(d: Database): Fact[] {
  const parameters = Object.entries(d.parameters);
  return [
    ["Database", <code key="name">{d.name}</code>],
    ["Version", `PostgreSQL ${d.version}`],
    ["Commits", d.synchronous ? "acknowledged once a replica has them on disk, too" : "acknowledged once the primary has them on disk"],
    ["Reads", `no older than ${d.readLagLimit} s, by the read-only port`],
    [
      "Pool",
      d.pool
        ? `${d.pool.size} connections of each user, shared by ${d.pool.mode}`
        : "none: each client has a connection of its own",
    ],
    [
      "Parameters",
      parameters.length === 0 ? (
        "PostgreSQL's own"
      ) : (
        <span key="parameters" className="tags">
          {parameters.map(([name, value]) => (
            <Badge key={name} mono title={`${name} = ${value}`}>
              {name} = {value}
            </Badge>
          ))}
        </span>
      ),
    ],
    [
      "Extensions",
      d.extensions.length === 0 ? (
        "none"
      ) : (
        <span key="extensions" className="tags">
          {d.extensions.map((name) => (
            <Badge key={name} mono>
              {name}
            </Badge>
          ))}
        </span>
      ),
    ],
    ["TLS", "spoken by the members; certificates are made for them"],
  ];
}
