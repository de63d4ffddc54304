import type { Container } from "../../api/types";
import { duration, mebibytes, memoryBytes, percent, plural, shortId } from "../../lib/format";
import { useNow } from "../../lib/hooks";
import { Link } from "../../lib/router";
import { Badge, CopyButton, Labels, Meter, Tile, Time } from "../../ui/bits";
import { Notice } from "../../ui/states";
import { BackupsOf } from "../backups/of";
import { ClustersOf } from "../clusters/of";
import { OperationLog, RecentOperations, useOperationsOf } from "../operation-parts";
import { RESTART_OPTIONS } from "./actions";
import { portText } from "./parts";

export function OverviewTab({ container: c, nodeName }: { container: Container; nodeName: string }) {
  const { cpuUsage, cpuLimit, memoryUsage, memoryLimit } = c.resources;
  const live = c.status === "running" || c.status === "paused";
  return (
    <div className="stack">
      {!c.reachable && (
        <Notice tone="amber">
          The node {nodeName} can't be reached. What is shown is the last that was seen; actions wait until it is back.
        </Notice>
      )}
      {c.message && <Notice tone={c.status === "running" ? "amber" : "red"}>{c.message}</Notice>}
      <div className="tiles">
        <Tile label="CPU" value={live ? percent(cpuUsage) : "–"} of={cpuLimit === null ? "no limit" : `of ${plural(cpuLimit, "core")}`}>
          <Meter label="CPU" share={live && cpuLimit !== null ? cpuUsage / 100 / cpuLimit : 0} />
        </Tile>
        <Tile label="Memory" value={live ? mebibytes(memoryUsage) : "–"} of={memoryLimit === null ? "no limit" : `of ${memoryLimit}`}>
          <Meter label="Memory" share={live && memoryLimit ? (memoryUsage * 1024 * 1024) / memoryBytes(memoryLimit) : 0} />
        </Tile>
        <Tile
          label={live ? "Up for" : "State"}
          value={live && c.started ? <Uptime since={c.started} /> : c.status}
          of={c.exitCode === undefined || live ? "" : `exit code ${c.exitCode}`}
        />
        <Tile
          label="Restarts"
          value={String(c.restarts)}
          of={`policy: ${RESTART_OPTIONS.find(([k]) => k === c.restart)?.[1].toLowerCase() ?? c.restart}`}
        />
      </div>
      <div className="grid">
        <div className="stack span-7">
          <section className="card">
            <header className="card-head">
              <h2>Details</h2>
            </header>
            <dl className="facts card-body">
              <dt>Image</dt>
              <dd className="copy-line">
                <code className="break">{c.image}</code>
                <CopyButton text={c.image} label="Copy the image's name" />
              </dd>
              <dt>Node</dt>
              <dd>
                <Link className="link" href={`/nodes/${c.nodeId}`}>
                  {nodeName}
                </Link>
              </dd>
              {c.managed && (
                <>
                  <dt>Health</dt>
                  <dd>
                    <Link className="link" href={`/health/${c.id}`}>
                      Checks and history
                    </Link>
                  </dd>
                </>
              )}
              <dt>Id</dt>
              <dd className="copy-line">
                <code className="break">{c.id}</code>
                <CopyButton text={c.id} label="Copy the id" />
              </dd>
              {c.dockerId && (
                <>
                  <dt>Docker's id</dt>
                  <dd className="copy-line">
                    <code title={c.dockerId}>{shortId(c.dockerId)}</code>
                    <CopyButton text={c.dockerId} label="Copy Docker's id" />
                  </dd>
                </>
              )}
              <dt>Created</dt>
              <dd>
                <Time at={c.created} />
              </dd>
              <dt>Started</dt>
              <dd>
                <Time at={c.started} />
              </dd>
              {!live && c.finished && (
                <>
                  <dt>Ended</dt>
                  <dd>
                    <Time at={c.finished} />
                  </dd>
                </>
              )}
              <dt>Labels</dt>
              <dd>
                <Labels labels={c.labels} />
              </dd>
            </dl>
          </section>
          <Placed id={c.id} nodeName={nodeName} />
          <ClustersOf serverId={c.id} />
          <BackupsOf serverId={c.id} />
          <RecentOperations id={c.id} />
        </div>
        <div className="stack span-5">
          <section className="card">
            <header className="card-head">
              <h2>Ports</h2>
            </header>
            <div className="card-body">
              {c.ports.length === 0 ? (
                <p className="faint">None is open to the node.</p>
              ) : (
                <ul className="stack tight">
                  {c.ports.map((p) => (
                    <li key={portText(p) + (p.protocol ?? "tcp")} className="row">
                      <code>{portText(p)}</code>
                      <Badge>{p.protocol ?? "tcp"}</Badge>
                    </li>
                  ))}
                </ul>
              )}
            </div>
          </section>
          <section className="card">
            <header className="card-head">
              <h2>Networks</h2>
            </header>
            <div className="card-body">
              {c.networks.length === 0 ? (
                <p className="faint">On none.</p>
              ) : (
                <ul className="stack tight">
                  {c.networks.map((n) => (
                    <li key={n.network} className="row">
                      <span>{n.network}</span>
                      {n.ip && <code className="faint">{n.ip}</code>}
                    </li>
                  ))}
                </ul>
              )}
            </div>
          </section>
          <section className="card">
            <header className="card-head">
              <h2>Volumes</h2>
            </header>
            <div className="card-body">
              {c.volumes.length === 0 ? (
                <p className="faint">Nothing is mounted: what it writes goes with it.</p>
              ) : (
                <ul className="stack tight">
                  {c.volumes.map((v) => (
                    <li key={v.container}>
                      <code className="break">{v.container}</code>
                      <div className="row faint">
                        <code className="break grow">{v.host || "anonymous volume"}</code>
                        {v.mode === "ro" && <Badge>read only</Badge>}
                      </div>
                    </li>
                  ))}
                </ul>
              )}
            </div>
          </section>
        </div>
      </div>
    </div>
  );
}

/** Why it is on its node: the log of the operation that chose it, while that is kept. */
function Placed({ id, nodeName }: { id: string; nodeName: string }) {
  const found = useOperationsOf(id).data?.find((o) => o.log.some((l) => l.line.startsWith(`${nodeName} was chosen`)));
  if (!found) return null;
  return (
    <section className="card">
      <header className="card-head">
        <h2>Why on this node</h2>
        <Link className="link" href={`/operations/${found.id}`}>
          the operation
        </Link>
      </header>
      <OperationLog operation={found} />
    </section>
  );
}

function Uptime({ since }: { since: string }) {
  return <>{duration(Math.max(1_000, useNow() - Date.parse(since)))}</>;
}
