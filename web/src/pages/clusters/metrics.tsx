import { keepPreviousData, useQuery } from "@tanstack/react-query";
import { useMemo, useState } from "react";
import * as calls from "../../api/calls";
import type { Cluster, ClusterMetricsPoint } from "../../api/types";
import { bytes, rate } from "../../lib/format";
import { Tile } from "../../ui/bits";
import { Chart, type Series } from "../../ui/chart";
import { Segmented } from "../../ui/field";
import { Failure } from "../../ui/states";
import { failed, METRICS_RANGES, type MetricsRange, millis, perSecond, settledPoints } from "./words";

function useHistory(id: string, range: MetricsRange) {
  const { span: whole, limit, refresh } = METRICS_RANGES[range];
  const query = useQuery({
    queryKey: ["clusters", "metrics", id, range],
    queryFn: ({ signal }) => calls.clusters.metrics(id, { from: new Date(Date.now() - whole).toISOString(), limit }, signal),
    refetchInterval: refresh,
    placeholderData: keepPreviousData,
  });
  const history = query.data?.history;
  const points = useMemo(() => settledPoints(history ?? []), [history]);
  const times = useMemo(() => points.map((p) => Date.parse(p.to)), [points]);
  // What is new gets a chart it can fill.
  const covered = (times.at(-1) ?? 0) - (times[0] ?? 0);
  return { query, points, common: { times, span: Math.min(whole, Math.max(covered, whole / 12)) } };
}

/** Requests of the last hour. */
export function RequestsChart({ cluster }: { cluster: Cluster }) {
  const { points, common } = useHistory(cluster.id, "1h");
  return (
    <Chart
      title={cluster.protocol === "http" ? "Requests, last hour" : "Connections, last hour"}
      {...common}
      least={1}
      format={perSecond}
      series={[{ label: "all servers", colour: 1, fill: true, values: points.map((p) => p.requestsPerSecond) }]}
    />
  );
}

export function ClusterMetricsTab({ cluster }: { cluster: Cluster }) {
  const [range, setRange] = useState<MetricsRange>("1h");
  const { query, points, common } = useHistory(cluster.id, range);
  const of = (label: string, colour: 1 | 2 | 3, value: (p: ClusterMetricsPoint) => number, fill = false): Series => ({
    label,
    colour,
    fill,
    values: points.map(value),
  });
  // Without requests there is no time they took: a gap, not a nought.
  const took = (value: (p: ClusterMetricsPoint) => number) => (p: ClusterMetricsPoint) => (p.totalRequests > 0 ? value(p) : Number.NaN);
  const http = cluster.protocol === "http";
  const m = query.data ?? cluster.metrics;
  return (
    <div className="stack">
      <div className="filters">
        <Segmented
          label="Range"
          value={range}
          onValue={setRange}
          options={(Object.keys(METRICS_RANGES) as MetricsRange[]).map((r) => [r, METRICS_RANGES[r].text] as const)}
        />
      </div>
      {query.error && <Failure what="The metrics could not be read." error={query.error} retry={() => void query.refetch()} />}
      <div className="grid">
        <div className="span-6">
          <Chart
            title={http ? "Requests" : "Connections"}
            {...common}
            least={1}
            format={perSecond}
            series={[of("all servers", 1, (p) => p.requestsPerSecond, true)]}
          />
        </div>
        <div className="span-6">
          <Chart
            title={http ? "Response time" : "Time to connect"}
            {...common}
            least={1}
            format={millis}
            series={[of("p50", 2, took((p) => p.p50)), of("p95", 1, took((p) => p.p95)), of("p99", 3, took((p) => p.p99))]}
          />
        </div>
        <div className="span-6">
          <Chart
            title="Errors"
            {...common}
            least={1}
            most={100}
            format={failed}
            series={[of(http ? "answered with 500 to 599, or not at all" : "not connected", 3, (p) => p.errorRate, true)]}
          />
        </div>
        <div className="span-6">
          <Chart
            title="Bandwidth"
            {...common}
            least={1024}
            binary
            format={rate}
            series={[
              of("both directions", 2, (p) => (p.totalBandwidth * 1000) / Math.max(1, Date.parse(p.to) - Date.parse(p.from)), true),
            ]}
          />
        </div>
      </div>
      <section className="stack tight">
        <h2>Since it was made</h2>
        <div className="tiles">
          <Tile label={http ? "Requests" : "Connections"} value={m.totalRequests.toLocaleString("en")} />
          <Tile label="Failed" value={failed(m.errorRate)} />
          <Tile label="On average" value={m.totalRequests > 0 ? millis(m.averageResponseTime) : "–"} />
          <Tile label="p99" value={m.totalRequests > 0 ? millis(m.p99) : "–"} />
          <Tile label="Transferred" value={bytes(m.totalBandwidth)} />
        </div>
      </section>
    </div>
  );
}
