import { Settings2 } from "lucide-react";
import { sentence } from "../../api/errors";
import type { Cluster } from "../../api/types";
import { useMayOperate } from "../../lib/data";
import { duration } from "../../lib/format";
import { Link } from "../../lib/router";
import { Tile, Time } from "../../ui/bits";
import { Card } from "../../ui/card";
import { Copyable, type Fact, Facts } from "../../ui/facts";
import { Notice } from "../../ui/states";
import { useJobs } from "../jobs/data";
import { openOf } from "../jobs/words";
import { Members } from "./members";
import { upOf } from "./words";

/** The nodes of a queue of jobs, and what waits for them. */
export function ComputeOverview({ cluster: c }: { cluster: Cluster }) {
  const may = useMayOperate();
  const { data: jobs } = useJobs(c.id);
  const open = jobs && openOf(jobs);
  const [up, all] = upOf(c.members);
  const scaled = c.autoScaling?.enabled ? c.autoScaling : undefined;
  const at = (n: number | undefined) => (n === undefined ? "–" : n.toLocaleString("en"));
  return (
    <div className="stack">
      {c.conditions.map((k) => (
        <Notice key={`${k.type}-${k.about ?? ""}-${k.message}`} tone={up === 0 ? "red" : "amber"}>
          {k.message}
        </Notice>
      ))}
      <div className="tiles">
        <Tile label="Nodes ready" value={up} of={`of ${all}`} />
        <Tile
          label="Jobs that have not ended"
          value={
            <Link className="link" href={`/clusters/${c.id}/jobs`}>
              {at(open?.jobs)}
            </Link>
          }
        />
        <Tile label="Tasks that run" value={at(open?.running)} />
        <Tile label="Tasks that wait" value={at(open?.queued)} />
      </div>
      <Members cluster={c} />
      <div className="grid">
        <section className="card span-7">
          <header className="card-head">
            <h2>Nodes in use</h2>
            {may && (
              <Link className="btn small" href={`/clusters/${c.id}/edit?part=scaling`}>
                <Settings2 />
                Change it
              </Link>
            )}
          </header>
          <div className="card-body stack">
            {scaled ? (
              <>
                <p>
                  {c.scaling ? `${sentence(c.scaling.reason)}.` : "The first look at the queue is still to come."}
                  {c.scaling && (
                    <span className="faint">
                      {" "}
                      <Time at={c.scaling.at} />
                    </span>
                  )}
                </p>
                <Facts
                  rows={[
                    ["Tasks that wait", `${scaled.targetQueueLength ?? "–"} for each node in use`],
                    ["Bounds", `${scaled.minServers ?? 1} to ${scaled.maxServers ?? 10} nodes`],
                    ["Pause after more", duration((scaled.scaleUpCooldown ?? 300) * 1000)],
                    ["Pause before fewer", duration((scaled.scaleDownCooldown ?? 600) * 1000)],
                  ]}
                />
              </>
            ) : (
              <p className="muted">Every node that is ready takes tasks. The length of the queue can say how many do.</p>
            )}
          </div>
        </section>
        <div className="stack span-5">
          <Card title="Details">
            <Facts rows={facts(c)} />
          </Card>
        </div>
      </div>
    </div>
  );
}

const facts = (c: Cluster): Fact[] => [
  ["Made", <Time key="made" at={c.created} />],
  ["Changed", <Time key="changed" at={c.updated} />],
  ["Id", <Copyable key="id" text={c.id} what="the id" />],
];
