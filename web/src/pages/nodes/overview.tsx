import { useQuery } from "@tanstack/react-query";
import * as calls from "../../api/calls";
import type { Node } from "../../api/types";
import { bytes, percent, plural } from "../../lib/format";
import type { NodeState } from "../../lib/nodes";
import { Link } from "../../lib/router";
import { CopyButton, Labels, Meter, Tile, Time } from "../../ui/bits";
import { Card } from "../../ui/card";
import { Notice } from "../../ui/states";
import { BackupsOf } from "../backups/of";
import { ClustersOf } from "../clusters/of";
import { HealthBadge } from "../health/parts";
import { RecentOperations } from "../operation-parts";
import { LinkText } from "./list";

export function NodeOverview({ node, state }: { node: Node; state: NodeState }) {
  const { info, usage, capacity, allocated } = node;
  const health = useQuery({ queryKey: ["health", "one", node.id], queryFn: ({ signal }) => calls.health.get(node.id, signal) });
  const cores = capacity?.cpus ?? info?.cpus;
  const memory = capacity?.memory ?? info?.memory;
  return (
    <div className="stack">
      <StateNotice node={node} state={state} />
      <div className="tiles">
        <Tile label="CPU" value={usage ? percent(usage.cpu) : "–"} of={cores ? `of ${plural(cores, "core")}` : ""}>
          <Meter label="CPU" share={usage ? usage.cpu / 100 : 0} />
        </Tile>
        <Tile label="Memory" value={usage ? bytes(usage.memoryUsed) : "–"} of={memory ? `of ${bytes(memory)}` : ""}>
          <Meter label="Memory" share={usage ? usage.memoryUsed / Math.max(1, usage.memoryTotal) : 0} />
        </Tile>
        <Tile
          label="Fullest disk"
          value={usage?.diskUsedPercent === undefined ? "–" : percent(usage.diskUsedPercent)}
          of={capacity?.diskTotal ? `all: ${bytes(capacity.diskTotal)}` : ""}
        >
          <Meter label="Disk" share={(usage?.diskUsedPercent ?? 0) / 100} />
        </Tile>
        <Tile
          label="Load"
          value={usage ? usage.load[0].toFixed(2) : "–"}
          of={
            usage
              ? usage.load
                  .slice(1)
                  .map((l) => l.toFixed(2))
                  .join(", ")
              : ""
          }
        />
        <Tile
          label="Health"
          value={
            <Link className="link plain" href={`/health/${node.id}`}>
              {health.data ? <HealthBadge health={health.data} /> : "–"}
            </Link>
          }
        />
      </div>
      <div className="grid">
        <div className="stack span-7">
          <section className="card">
            <header className="card-head">
              <h2>Details</h2>
            </header>
            <dl className="facts card-body">
              <dt>Labels</dt>
              <dd>
                <Labels labels={node.labels} />
              </dd>
              {info && (
                <>
                  <dt>Host name</dt>
                  <dd>{info.hostname}</dd>
                  <dt>System</dt>
                  <dd>{info.os}</dd>
                  <dt>Kernel</dt>
                  <dd>
                    {info.kernel}, {info.arch}
                  </dd>
                  <dt>Docker</dt>
                  <dd>
                    {info.docker.available ? (
                      <>
                        {info.docker.version ?? "answers"}
                        {info.docker.apiVersion && <span className="faint"> · API {info.docker.apiVersion}</span>}
                      </>
                    ) : (
                      <span className="danger-text">does not answer</span>
                    )}
                  </dd>
                  <dt>Agent</dt>
                  <dd>{info.agentVersion}</dd>
                </>
              )}
              {usage?.temperature !== undefined && (
                <>
                  <dt>Temperature</dt>
                  <dd>{Math.round(usage.temperature)} °C</dd>
                </>
              )}
              <dt>Joined</dt>
              <dd>
                <Time at={node.created} />
              </dd>
              <dt>Last seen</dt>
              <dd>
                <Time at={node.lastSeen} />
              </dd>
              <dt>Id</dt>
              <dd className="copy-line">
                <code className="break">{node.id}</code>
                <CopyButton text={node.id} label="Copy the id" />
              </dd>
            </dl>
          </section>
          <ClustersOf serverId={node.id} />
          <BackupsOf serverId={node.id} />
          <RecentOperations id={node.id} />
        </div>
        <div className="stack span-5">
          <Card tight title="Promised">
            <Promised what="CPU" used={allocated.cpu} of={cores} format={(n) => plural(Math.round(n * 100) / 100, "core")} />
            <Promised what="Memory" used={allocated.memory} of={memory} format={bytes} />
            <p className="faint">The limits of all its containers, running or not, and what running tasks of jobs hold. Containers without a limit count as nothing here.</p>
          </Card>
          <Card tight title="Link">
            <dl className="facts">
              <dt>Round trip</dt>
              <dd>
                <LinkText node={node} />
              </dd>
              {node.link && (
                <>
                  <dt>Seen by</dt>
                  <dd>{node.link.transport === "udp" ? "datagrams, and its link" : "its link alone: datagrams do not come through"}</dd>
                </>
              )}
              {node.certificate && (
                <>
                  <dt>Certificate</dt>
                  <dd>
                    ends <Time at={node.certificate.expires} />, of the authority <code>{node.certificate.authority}</code>
                  </dd>
                </>
              )}
            </dl>
          </Card>
        </div>
      </div>
    </div>
  );
}

function Promised(props: { what: string; used: number; of: number | undefined; format: (n: number) => string }) {
  return (
    <div className="stack" style={{ gap: 4 }}>
      <div className="row">
        <span className="grow">{props.what}</span>
        <span className="num">
          {props.format(props.used)} {props.of !== undefined && <span className="faint">of {props.format(props.of)}</span>}
        </span>
      </div>
      <Meter label={`${props.what} promised`} share={props.of ? props.used / props.of : null} />
    </div>
  );
}

function StateNotice({ node, state }: { node: Node; state: NodeState }) {
  switch (state) {
    case "revoked":
      return (
        <Notice tone="red">
          Its certificates count no more, so it is refused. Its containers run on. To have it back, choose “Let it join again” and run the
          command on its machine.
        </Notice>
      );
    case "lost":
      return (
        <Notice tone="red">
          It was last heard of <Time at={node.lostSince} />. Containers that asked for it move to other nodes; the others wait. See that the
          machine runs, and <code>neuralmesh agent</code> on it.
        </Notice>
      );
    case "notReady":
      return (
        <Notice tone="red">
          {node.info && !node.info.docker.available && node.info.docker.error
            ? node.info.docker.error
            : "Its agent is not connected. Its containers go on running; they can be changed again once it is back."}
        </Notice>
      );
    case "draining":
      return <Notice tone="amber">It is being emptied, and takes no new containers.</Notice>;
    case "cordoned":
      return <Notice tone="amber">It takes no new containers. Those it has go on.</Notice>;
    case "ready":
      return null;
  }
}
