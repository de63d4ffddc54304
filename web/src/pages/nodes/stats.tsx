import { ChartLine } from "lucide-react";
import { useMemo, useState } from "react";
import * as calls from "../../api/calls";
import type { DiskStats, Node, NodeStats } from "../../api/types";
import { bytes, duration, percent, rate } from "../../lib/format";
import { perSecond } from "../../lib/rates";
import { type Range, useSamples } from "../../lib/samples";
import { Badge, Meter, Tile } from "../../ui/bits";
import { Chart, type Series } from "../../ui/chart";
import { Empty, Failure } from "../../ui/states";
import { Table } from "../../ui/table";
import { RangeChoice } from "../parts";

const COLOURS = [1, 2, 3] as const;
const load = (value: number): string => value.toFixed(2);
const degrees = (value: number): string => `${Math.round(value)} °C`;
/** As `df`: of what can be used at all. */
const fullness = (d: DiskStats): number => (d.used * 100) / Math.max(1, d.used + d.available);

export function NodeStatsTab({ node }: { node: Node }) {
  const [range, setRange] = useState<Range>("5m");
  const there = node.usage !== undefined;
  const { samples, times, span, error, refetch } = useSamples<NodeStats>(calls.nodes, node.id, range, there, node.info?.agentVersion);
  const flows = useMemo(
    () => ({
      rx: perSecond(
        times,
        samples.map((s) => s.network.rx),
      ),
      tx: perSecond(
        times,
        samples.map((s) => s.network.tx),
      ),
    }),
    [times, samples],
  );
  const last = samples.at(-1);
  const total = last?.memory.total;
  const common = { times, span };
  const of = (label: string, colour: 1 | 2 | 3, value: (s: NodeStats) => number | undefined, fill = false): Series => ({
    label,
    colour,
    fill,
    values: samples.map((s) => value(s) ?? Number.NaN),
  });
  // The fullest three: more lines than colours say less.
  const disks = [...(last?.disks ?? [])].sort((a, b) => fullness(b) - fullness(a));
  if (!there && samples.length === 0) {
    return (
      <Empty icon={<ChartLine aria-hidden="true" />} title="Its agent is not connected">
        The agent keeps these figures on the machine itself. They show again, with what was measured meanwhile, once it is back.
      </Empty>
    );
  }
  return (
    <div className="stack">
      <div className="filters">
        <RangeChoice value={range} onValue={setRange} />
        {!there && <span className="faint">Its agent is not connected: these are the last samples.</span>}
      </div>
      {error && there && <Failure what="The stats could not be read." error={error} retry={() => void refetch()} />}
      <div className="grid">
        <div className="span-6">
          <Chart title="CPU" {...common} least={5} most={100} format={percent} series={[of("of all cores", 1, (s) => s.cpu, true)]} />
        </div>
        <div className="span-6">
          <Chart
            title="Memory"
            {...common}
            least={1024 * 1024}
            binary
            format={bytes}
            series={[of("used", 1, (s) => s.memory.total - s.memory.available, true), of("swap", 3, (s) => s.memory.swapUsed)]}
            limit={total ? { value: total, label: `all of ${bytes(total)}` } : null}
          />
        </div>
        <div className="span-6">
          <Chart
            title="Load"
            {...common}
            least={1}
            format={load}
            series={[of("1 minute", 1, (s) => s.load[0], true), of("5", 2, (s) => s.load[1]), of("15", 3, (s) => s.load[2])]}
            limit={node.info ? { value: node.info.cpus, label: `${node.info.cpus} cores` } : null}
          />
        </div>
        <div className="span-6">
          <Chart
            title="Network"
            {...common}
            least={1024}
            binary
            format={rate}
            series={[
              { label: "in", colour: 2, values: flows.rx, fill: true },
              { label: "out", colour: 3, values: flows.tx },
            ]}
          />
        </div>
        <div className="span-6">
          <Chart
            title="Disks"
            {...common}
            least={5}
            most={100}
            format={percent}
            series={
              disks.length === 0
                ? [of("used", 1, () => undefined)]
                : disks.slice(0, 3).map((d, i) =>
                    of(d.mount, COLOURS[i] as 1 | 2 | 3, (s) => {
                      const found = s.disks.find((x) => x.mount === d.mount);
                      return found && fullness(found);
                    }),
                  )
            }
          />
        </div>
        {last?.pressure && (
          <div className="span-6">
            <Chart
              title="Pressure"
              {...common}
              least={5}
              format={percent}
              series={[
                of("CPU", 1, (s) => s.pressure?.cpuSome),
                of("memory", 2, (s) => s.pressure?.memorySome),
                of("disks", 3, (s) => s.pressure?.ioSome),
              ]}
            />
          </div>
        )}
        {last?.temperature !== undefined && (
          <div className="span-6">
            <Chart title="Temperature" {...common} least={40} format={degrees} series={[of("hottest", 3, (s) => s.temperature)]} />
          </div>
        )}
      </div>
      {last && (
        <>
          <div className="tiles">
            <Tile label="Up for" value={duration(last.uptime * 1000)} />
            <Tile label="Received" value={bytes(last.network.rx)} />
            <Tile label="Sent" value={bytes(last.network.tx)} />
            <Tile
              label="Broken packets"
              value={last.network.errors.toLocaleString("en")}
              of={`of ${last.network.packets.toLocaleString("en")}`}
            />
            <Tile label="Swap" value={bytes(last.memory.swapUsed)} of={`of ${bytes(last.memory.swapTotal)}`} />
          </div>
          <Table
            label="File systems"
            rows={last.disks}
            id={(d) => d.mount}
            columns={[
              {
                key: "mount",
                head: "File system",
                lead: true,
                cell: (d) => (
                  <div className="cell-main">
                    <span className="name mono break">{d.mount}</span>
                    <span className="sub mono break">{d.device}</span>
                  </div>
                ),
              },
              {
                key: "kind",
                head: "Kind",
                cell: (d) => (
                  <span className="row">
                    {d.kind}
                    {d.readOnly && <Badge>read only</Badge>}
                  </span>
                ),
              },
              {
                key: "used",
                head: "Used",
                cell: (d) => (
                  <div className="usage">
                    <span className="num">{percent(fullness(d))}</span>
                    <Meter label={`${d.mount} used`} share={fullness(d) / 100} />
                  </div>
                ),
              },
              { key: "size", head: "Space", cell: (d) => `${bytes(d.available)} free of ${bytes(d.total)}` },
              {
                key: "inodes",
                head: "Inodes",
                cell: (d) => (d.inodes > 0 ? percent((d.inodesUsed * 100) / d.inodes) : <span className="faint">no fixed number</span>),
              },
            ]}
          />
        </>
      )}
    </div>
  );
}
