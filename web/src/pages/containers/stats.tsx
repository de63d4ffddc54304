import { ChartLine } from "lucide-react";
import { useMemo, useState } from "react";
import * as calls from "../../api/calls";
import type { Container } from "../../api/types";
import { bytes, mebibytes, memoryBytes, percent, rate } from "../../lib/format";
import { perSecond } from "../../lib/rates";
import { type Range, useSamples } from "../../lib/samples";
import { Tile } from "../../ui/bits";
import { Chart } from "../../ui/chart";
import { Empty, Failure } from "../../ui/states";
import { RangeChoice } from "../parts";

export function StatsTab({ container }: { container: Container }) {
  const [range, setRange] = useState<Range>("5m");
  const running = container.status === "running" || container.status === "paused";
  const { samples, times, span, error, loading, refetch } = useSamples(calls.containers, container.id, range, running, container.started);
  const flows = useMemo(
    () => ({
      rx: perSecond(
        times,
        samples.map((s) => s.networkRx),
      ),
      tx: perSecond(
        times,
        samples.map((s) => s.networkTx),
      ),
      read: perSecond(
        times,
        samples.map((s) => s.blockRead),
      ),
      write: perSecond(
        times,
        samples.map((s) => s.blockWrite),
      ),
    }),
    [times, samples],
  );
  const { cpuLimit, memoryLimit } = container.resources;
  const last = samples.at(-1);
  if (!running && samples.length === 0 && !loading) {
    return (
      <Empty icon={<ChartLine aria-hidden="true" />} title="Nothing to measure">
        The container is not running. Once it is started, its use of CPU, memory, network and disk shows here each second.
      </Empty>
    );
  }
  return (
    <div className="stack">
      <div className="filters">
        <RangeChoice value={range} onValue={setRange} />
        {!running && <span className="faint">Not running: these are the last samples.</span>}
      </div>
      {error && <Failure what="The stats could not be read." error={error} retry={() => void refetch()} />}
      <div className="grid">
        <div className="span-6">
          <Chart
            title="CPU"
            times={times}
            span={span}
            least={5}
            format={percent}
            series={[{ label: "of one core", colour: 1, values: samples.map((s) => s.cpu), fill: true }]}
            limit={cpuLimit === null ? null : { value: cpuLimit * 100, label: `limit ${cpuLimit * 100}%` }}
          />
        </div>
        <div className="span-6">
          <Chart
            title="Memory"
            times={times}
            span={span}
            least={1024 * 1024}
            binary
            format={bytes}
            series={[{ label: "used", colour: 1, values: samples.map((s) => s.memory * 1024 * 1024), fill: true }]}
            limit={memoryLimit === null ? null : { value: memoryBytes(memoryLimit), label: `limit ${memoryLimit}` }}
          />
        </div>
        <div className="span-6">
          <Chart
            title="Network"
            times={times}
            span={span}
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
            title="Disk"
            times={times}
            span={span}
            least={1024}
            binary
            format={rate}
            series={[
              { label: "read", colour: 2, values: flows.read, fill: true },
              { label: "written", colour: 3, values: flows.write },
            ]}
          />
        </div>
      </div>
      <div className="tiles">
        <Tile label="Memory" value={last ? mebibytes(last.memory) : "–"} of={last ? `of ${bytes(last.memoryLimit)}` : ""} />
        <Tile label="Received since the start" value={last ? bytes(last.networkRx) : "–"} />
        <Tile label="Sent since the start" value={last ? bytes(last.networkTx) : "–"} />
        <Tile label="Processes" value={last ? last.pids : "–"} />
        <Tile label="Held back by the limit" value={last ? `${last.throttledSeconds.toFixed(1)} s` : "–"} />
        <Tile label="Killed for memory" value={last ? last.oomKills : "–"} />
      </div>
    </div>
  );
}
