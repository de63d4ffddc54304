import { useQuery } from "@tanstack/react-query";
import { ChartLine } from "lucide-react";
import { useEffect, useMemo, useState } from "react";
import type { ApiError } from "../../api";
import * as calls from "../../api/calls";
import { openStream } from "../../api/sse";
import type { Container, ContainerStats } from "../../api/types";
import { bytes, mebibytes, memoryBytes, percent, rate } from "../../lib/format";
import { perSecond } from "../../lib/rates";
import { Chart } from "../../ui/chart";
import { Segmented } from "../../ui/field";
import { Empty, Failure } from "../../ui/states";
import { Tile } from "./overview";

type Range = "5m" | "1h" | "24h";
const RANGES: Record<Range, { span: number; resolution: "second" | "minute"; limit: number }> = {
  "5m": { span: 300_000, resolution: "second", limit: 300 },
  "1h": { span: 3_600_000, resolution: "minute", limit: 60 },
  "24h": { span: 86_400_000, resolution: "minute", limit: 1440 },
};

/** The samples of a range: its history, and in the short one each new sample as it is taken. */
function useSamples(id: string, range: Range, running: boolean, started: string | undefined) {
  const { resolution, limit } = RANGES[range];
  const live = resolution === "second";
  const history = useQuery({
    queryKey: ["stats", id, range],
    queryFn: ({ signal }) => calls.containers.stats(id, { limit, resolution }, signal),
    staleTime: Number.POSITIVE_INFINITY,
    gcTime: 0,
    refetchOnWindowFocus: false,
    refetchInterval: live ? false : 60_000,
  });
  const [fresh, setFresh] = useState<ContainerStats[]>([]);
  const [error, setError] = useState<ApiError | null>(null);
  const { refetch } = history;
  useEffect(() => {
    setFresh([]);
    setError(null);
    if (!live || !running) return;
    let gap = false;
    return openStream({
      open: (_last, signal) => calls.containers.followStats(id, signal),
      onEvent: (event) => {
        if (event.event !== "stats") return;
        const sample = JSON.parse(event.data) as ContainerStats;
        setFresh((list) => [...list, sample].slice(-300));
      },
      onState: (state, cause) => {
        if (state === "waiting" || state === "paused") gap = true;
        // What was missed meanwhile, the history has.
        if (state === "open" && gap) {
          gap = false;
          void refetch();
        }
        if (state === "failed") setError(cause ?? null);
      },
    });
  }, [id, live, running, started, refetch]);

  const samples = useMemo(() => {
    const past = history.data ?? [];
    const last = past.at(-1)?.timestamp ?? "";
    return [...past, ...fresh.filter((s) => s.timestamp > last)].slice(-limit);
  }, [history.data, fresh, limit]);
  return { samples, error: history.error ?? error, loading: history.isLoading, refetch };
}

export function StatsTab({ container }: { container: Container }) {
  const [range, setRange] = useState<Range>("5m");
  const running = container.status === "running" || container.status === "paused";
  const { samples, error, loading, refetch } = useSamples(container.id, range, running, container.started);
  const times = useMemo(() => samples.map((s) => Date.parse(s.timestamp)), [samples]);
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
  // A container that was just started gets a chart it can fill.
  const covered = (times.at(-1) ?? 0) - (times[0] ?? 0);
  const span = Math.min(RANGES[range].span, Math.max(covered, RANGES[range].span / 5));
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
        <Segmented
          label="Range"
          value={range}
          onValue={setRange}
          options={[
            ["5m", "5 minutes"],
            ["1h", "1 hour"],
            ["24h", "24 hours"],
          ]}
        />
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
