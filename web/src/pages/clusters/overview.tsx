import type { Cluster, ClusterCondition, ClusterEntry } from "../../api/types";
import { Link } from "../../lib/router";
import { duration, plural } from "../../lib/format";
import { Badge, Tile, Time } from "../../ui/bits";
import { Card } from "../../ui/card";
import { Copyable, type Fact, Facts } from "../../ui/facts";
import { Notice } from "../../ui/states";
import { databaseFacts, DatabaseTiles, Primary } from "./database-parts";
import { Members } from "./members";
import { RequestsChart } from "./metrics";
import { Endpoints } from "./parts";
import { ALGORITHM_SAYS, count, failed, millis, perSecond, serverHref, spreadText, statusReason, tookLately, TYPE_NAME, TYPE_SAYS, upIn } from "./words";

/** A database that is being made waits for nothing but time. */
function toneOf(c: Cluster, k: ClusterCondition): "red" | "amber" | "blue" {
  if (k.type === "database") return c.database?.state === "creating" ? "blue" : c.database?.state === "ready" ? "amber" : "red";
  return URGENT.has(k.type) ? "red" : "amber";
}
const URGENT: ReadonlySet<ClusterCondition["type"]> = new Set(["noEntry", "entryFailed", "memberUnreachable"]);

export function ClusterOverview({ cluster: c }: { cluster: Cluster }) {
  const [up, all] = upIn(c);
  const http = c.protocol === "http";
  const inFlight = c.members.reduce((sum, m) => sum + m.inFlight, 0);
  const [p50, p95, errors] = [
    tookLately(c.recent, (r) => r.p50),
    tookLately(c.recent, (r) => r.p95),
    tookLately(c.recent, (r) => r.errorRate),
  ];
  const active = c.members.find((m) => m.id === c.activeMember);
  return (
    <div className="stack">
      {c.conditions.length === 0 && c.status !== "healthy" && (
        <Notice tone={c.status === "degraded" ? "amber" : "red"}>{statusReason(c)}</Notice>
      )}
      {c.conditions.map((k) => (
        <Notice key={`${k.type}-${k.about ?? ""}-${k.message}`} tone={toneOf(c, k)}>
          {k.message}
        </Notice>
      ))}
      <section className="card entry-card">
        <div>
          <div className="label">Reached at</div>
          <Endpoints cluster={c} />
        </div>
        {c.database && (
          <div>
            <div className="label">Reads also at</div>
            port <code>{c.database.readOnlyPort}</code>
          </div>
        )}
        <div>
          <div className="label">{TYPE_NAME[c.type]}</div>
          <span title={c.type === "load-balanced" ? ALGORITHM_SAYS[c.loadBalancer.algorithm] : TYPE_SAYS[c.type]}>
            {c.database ? (
              <Primary database={c.database} />
            ) : c.type === "high-availability" ? (
              active ? (
                <>
                  <Link className="link" href={serverHref(active)}>
                    {active.name}
                  </Link>{" "}
                  takes the traffic
                </>
              ) : (
                "no server takes the traffic"
              )
            ) : (
              spreadText(c)
            )}
          </span>
        </div>
      </section>
      <div className="tiles">
        <Tile label={c.database ? "Members that serve" : "Servers up"} value={up} of={`of ${all}`} />
        {c.database && <DatabaseTiles database={c.database} />}
        <Tile label={http ? "Requests" : "Connections"} value={c.recent ? perSecond(c.recent.requestsPerSecond) : "–"} of="last minute" />
        {!c.database && (
          <Tile label={http ? "Response time, p95" : "Time to connect, p95"} value={p95 === undefined ? "–" : millis(p95)} of={p50 === undefined ? "" : `half: ${millis(p50)}`} />
        )}
        <Tile label="Errors" value={errors === undefined ? "–" : failed(errors)} />
        {!c.database && <Tile label="In flight" value={count(inFlight)} />}
      </div>
      <Members cluster={c} />
      <div className="grid">
        <div className="stack span-7">
          <RequestsChart cluster={c} />
          <Card title="Entry">
            {c.entryNodes.length === 0 ? (
              <p className="faint">No node carries it.</p>
            ) : (
              <ul className="entry-list" aria-label="Entry nodes">
                {c.entryNodes.map((n) => (
                  <Entry key={n.nodeId} entry={n} cluster={c} />
                ))}
              </ul>
            )}
          </Card>
        </div>
        <div className="stack span-5">
          <Card title="Details">
            <ClusterFacts cluster={c} />
          </Card>
        </div>
      </div>
    </div>
  );
}

function Entry({ entry: n, cluster: c }: { entry: ClusterEntry; cluster: Cluster }) {
  const [tone, text] = !n.connected
    ? ["tone-red", "not connected"]
    : n.problem
      ? ["tone-red", "failed"]
      : n.current
        ? ["tone-green", "carries it"]
        : ["tone-amber busy", "behind"];
  return (
    <li>
      <span className="row wrap">
        <Link className="link" href={`/nodes/${n.nodeId}`}>
          {n.name}
        </Link>
        <span className={`status ${tone}`}>{text}</span>
        {n.holdsVirtualAddress && <Badge tone="blue">holds {c.virtualAddress?.address}</Badge>}
      </span>
      <span className="faint">
        {n.address ? <code>{n.address}</code> : "its address is not known"}, port {c.listenPort}
        {n.carries !== undefined && (
          <>
            {" "}
            · generation {n.carries}
            {n.wanted !== undefined && n.wanted !== n.carries && ` of ${n.wanted}`}
          </>
        )}
      </span>
      {n.problem && <span className="danger-text break">{n.problem}</span>}
    </li>
  );
}

function ClusterFacts({ cluster: c }: { cluster: Cluster }) {
  const rows: Fact[] = c.database ? databaseFacts(c.database) : entryFacts(c);
  if (c.redirectToHttps) rows.push(["Redirect", `from port ${c.redirectToHttps.listenPort ?? 80} to TLS`]);
  if (c.sticky) {
    rows.push([
      "Sticky",
      <>
        cookie <code>{c.sticky.cookie ?? "nm_server"}</code>
        {c.sticky.maxAge !== undefined && `, for ${duration(c.sticky.maxAge * 1000)}`}
      </>,
    ]);
  }
  if (c.routes?.length) {
    rows.push([
      "Routes",
      <span key="routes" className="tags">
        {c.routes.map((r) => (
          <Badge key={`${r.host ?? ""}${r.pathPrefix ?? ""}`} mono>
            {r.host ?? "*"}
            {r.pathPrefix ?? "/"}
          </Badge>
        ))}
      </span>,
    ]);
  }
  if (c.virtualAddress) {
    rows.push([
      "Virtual address",
      <code key="va">
        {c.virtualAddress.address}
        {c.virtualAddress.prefix !== undefined && `/${c.virtualAddress.prefix}`}
      </code>,
    ]);
  }
  if (c.failback) {
    rows.push(["Failback", c.failback.mode === "manual" ? "by hand" : `once a better server is up for ${duration(c.failback.after * 1000)}`]);
  }
  if (!c.database) {
    rows.push(
      ["Retries", c.retries === 0 ? "none" : `at ${plural(c.retries, "other server")}, where that is safe`],
      ["Drain time", `${c.drainTime} s`],
    );
  }
  if (c.slowStart > 0) rows.push(["Slow start", `${c.slowStart} s`]);
  rows.push(
    ["Made", <Time key="made" at={c.created} />],
    ["Changed", <Time key="changed" at={c.updated} />],
    ["Id", <Copyable key="id" text={c.id} what="the id" />],
  );
  return <Facts rows={rows} />;
}

function entryFacts(c: Cluster): Fact[] {
  const h = c.healthCheck;
  return [
    ["Protocol", c.protocol === "http" ? "HTTP/1.1, HTTP/2, WebSocket" : "TCP"],
    [
      "Health check",
      <>
        {h.type === "http" ? (
          <>
            <code>GET {h.path ?? "/"}</code>, {h.expectedStatus?.min ?? 200} to {h.expectedStatus?.max ?? 399}
          </>
        ) : (
          "a connection that opens"
        )}
        , every {h.interval ?? c.loadBalancer.healthCheckInterval} s
      </>,
    ],
    ["TLS", <TlsText key="tls" cluster={c} />],
  ];
}

const ACME_WORDS = {
  pending: "on its way by ACME; signed by itself until then",
  valid: "by ACME",
  failing: "ACME fails",
};

function TlsText({ cluster: c }: { cluster: Cluster }) {
  if (!c.tls) return <>none</>;
  return (
    <>
      {c.tls.acme ? ACME_WORDS[c.tls.acme.status] : c.tls.selfSigned ? "made here, signed by itself" : "uploaded"}
      {c.tls.acme?.lastError && <>: {c.tls.acme.lastError}</>}
      {c.tls.acme?.status === "failing" && c.tls.acme.nextAttempt && (
        <>
          , tried again <Time at={c.tls.acme.nextAttempt} />
        </>
      )}
      {c.tls.serverNames.length > 0 && (
        <>
          , for <span className="break">{c.tls.serverNames.join(", ")}</span>
        </>
      )}
      {c.tls.expires && (
        <>
          , ends <Time at={c.tls.expires} />
        </>
      )}
    </>
  );
}
