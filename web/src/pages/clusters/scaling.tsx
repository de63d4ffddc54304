import { Gauge, Settings2 } from "lucide-react";
import { sentence } from "../../api/errors";
import type { AutoScaling, Cluster, ClusterScaling, ScalingFigure, ScalingFigureKind } from "../../api/types";
import { useMayOperate } from "../../lib/data";
import { duration, plural } from "../../lib/format";
import { Link } from "../../lib/router";
import { Tile, Time } from "../../ui/bits";
import { Empty, Notice } from "../../ui/states";
import { FIGURE_NAME, figureValue, upOf } from "./words";

const ACTION: Record<ClusterScaling["action"], [string, string]> = {
  stay: ["tone-green", "as it should be"],
  hold: ["tone-amber", "held"],
  out: ["tone-blue", "adding"],
  in: ["tone-blue", "removing"],
};

/** How many servers there are, how many there should be by which numbers, and why not. */
export function Scaling({ cluster: c }: { cluster: Cluster }) {
  const may = useMayOperate();
  const edit = may && c.type === "load-balanced" && (
    <Link className="btn small" href={`/clusters/${c.id}/edit?part=scaling`}>
      <Settings2 />
      {c.autoScaling?.enabled ? "Change it" : "Switch it on"}
    </Link>
  );
  const a = c.autoScaling;
  if (!a?.enabled) {
    return (
      <Empty icon={<Gauge aria-hidden="true" />} title="Auto-scaling is off" actions={edit}>
        {c.type === "high-availability"
          ? "One server takes all the traffic of a high-availability cluster: more of them would help nothing."
          : "Name a target for CPU, memory or requests, and the cluster adds containers when its servers are above it, and removes them when they are below."}
      </Empty>
    );
  }
  const s = c.scaling;
  const [up, all] = upOf(c.members);
  const coming = c.members.filter((m) => m.state === "starting").length;
  const made = c.members.filter((m) => m.scaled && m.state !== "starting").length;
  const hindered = c.conditions.filter((k) => k.type === "cannotScale");
  return (
    <div className="stack">
      {hindered.map((k) => (
        <Notice key={k.message} tone="amber">
          <strong>It can't scale.</strong> {k.message}
        </Notice>
      ))}
      <div className="tiles">
        <Tile label="Servers" value={all} of={coming > 0 ? `and ${coming} being made` : up < all ? `${up} up` : ""} />
        <Tile label="By the load" value={s ? s.wanted : "–"} of={s && s.wanted !== s.current ? `instead of ${s.current}` : ""} />
        <Tile label="Bounds" value={`${a.minServers ?? 1} to ${a.maxServers ?? 10}`} />
        <Tile label="Made by scaling" value={made} />
      </div>
      <div className="grid">
        <section className="card span-7">
          <header className="card-head">
            <h2>Last decision</h2>
            {s && (
              <span className="row">
                <span className={`status ${ACTION[s.action][0]}`}>{ACTION[s.action][1]}</span>
                <span className="faint">
                  <Time at={s.at} />
                </span>
              </span>
            )}
          </header>
          <div className="card-body stack">
            {s ? (
              <>
                <p>
                  {sentence(s.reason)}.
                  {s.wanted !== s.current && (
                    <span className="muted">
                      {" "}
                      There were {plural(s.current, "server")}; by the load, {s.wanted} would have been right.
                    </span>
                  )}
                </p>
                {s.figures.map((f) => (
                  <FigureLine key={f.figure} figure={f} tolerance={(a.tolerance ?? 10) / 100} />
                ))}
                <p className="faint">Each figure is an average over the servers. The one that asks for most servers counts.</p>
              </>
            ) : (
              <p className="faint">It looks every 15 seconds; the first look is still to come.</p>
            )}
          </div>
        </section>
        <section className="card span-5">
          <header className="card-head">
            <h2>How it is set</h2>
            {edit}
          </header>
          <dl className="facts card-body">
            {targetsOf(a).map(([kind, target]) => (
              <Row key={kind} name={`Target: ${FIGURE_NAME[kind]}`}>
                {figureValue(kind, target)}
              </Row>
            ))}
            <Row name="Tolerance">{a.tolerance ?? 10}%</Row>
            <Row name="Pause after adding">
              <Pause seconds={a.scaleUpCooldown ?? 300} until={s?.addAfter} />
            </Row>
            <Row name="Pause before removing">
              <Pause seconds={a.scaleDownCooldown ?? 600} until={s?.removeAfter} />
            </Row>
            <Row name="Calm before removing">{duration((a.stabilizationWindow ?? 300) * 1000)}</Row>
            <Row name="New servers">
              {c.serverTemplate ? (
                <>
                  <code>{c.serverTemplate.container.image}</code>, named {c.serverTemplate.container.name}-…
                </>
              ) : (
                "copies of the first container that can be copied"
              )}
            </Row>
          </dl>
        </section>
      </div>
    </div>
  );
}

function Row({ name, children }: { name: string; children: React.ReactNode }) {
  return (
    <>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </>
  );
}

function Pause({ seconds, until }: { seconds: number; until: string | undefined }) {
  return (
    <>
      {duration(seconds * 1000)}
      {until && (
        <span className="faint">
          , over <Time at={until} />
        </span>
      )}
    </>
  );
}

function targetsOf(a: AutoScaling): [ScalingFigureKind, number][] {
  const all: [ScalingFigureKind, number | undefined][] = [
    ["cpu", a.targetCpuPercent],
    ["memory", a.targetMemoryPercent],
    ["requestsPerSecond", a.targetRequestsPerSecond],
  ];
  return all.filter((pair): pair is [ScalingFigureKind, number] => pair[1] !== undefined);
}

/** A bar on which the target stands at two thirds; beyond it and its tolerance, more servers are wanted. */
function FigureLine({ figure: f, tolerance }: { figure: ScalingFigure; tolerance: number }) {
  const known = f.value !== undefined && f.value !== null;
  const ratio = known ? (f.value as number) / f.target : 0;
  return (
    <div className="stack" style={{ gap: 4 }}>
      <div className="row">
        <span className="grow">{FIGURE_NAME[f.figure]}</span>
        <span className="num">
          {known ? figureValue(f.figure, f.value as number) : "not known"}{" "}
          <span className="faint">
            target {figureValue(f.figure, f.target)}
            {f.servers !== undefined && f.servers !== null && `: ${plural(f.servers, "server")}`}
          </span>
        </span>
      </div>
      <div
        className={`meter targeted ${ratio > 1 + tolerance ? "tone-amber" : ""}`}
        role="meter"
        aria-label={`${FIGURE_NAME[f.figure]} in percent of its target`}
        aria-valuemin={0}
        aria-valuemax={150}
        aria-valuenow={Math.min(150, Math.round(ratio * 100))}
      >
        <i style={{ width: `${Math.min(100, (ratio * 200) / 3)}%` }} />
      </div>
    </div>
  );
}
