import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import * as calls from "../../api/calls";
import type { HealthInterval } from "../../api/types";
import { usePaged } from "../../lib/data";
import { absolute, duration } from "../../lib/format";
import { useNow } from "../../lib/hooks";
import { Time } from "../../ui/bits";
import { Segmented } from "../../ui/field";
import { Failure } from "../../ui/states";
import { Pager, Table } from "../../ui/table";
import { HEALTH_TONE, HealthBadge } from "./parts";
import { healthWord, timeline } from "./words";

type Reach = "24h" | "7d" | "30d";
const HOURS: Record<Reach, number> = { "24h": 24, "7d": 168, "30d": 720 };
const ENTRIES = 200;

/** How it was: a bar over the time, and each change below it. */
export function HealthHistory({ id }: { id: string }) {
  const [reach, setReach] = useState<Reach>("24h");
  const now = useNow();
  const bar = useQuery({
    queryKey: ["health", "bar", id, reach],
    queryFn: ({ signal }) =>
      calls.health.history(id, { from: new Date(Date.now() - HOURS[reach] * 3_600_000).toISOString(), limit: ENTRIES }, signal),
  });
  const { query, rows, pager } = usePaged(["health", "history", id], (cursor, signal) =>
    calls.health.history(id, { cursor, limit: 10 }, signal),
  );
  const end = Math.max(now, bar.dataUpdatedAt);
  const parts = timeline(bar.data?.items ?? [], end - HOURS[reach] * 3_600_000, end);
  const covered = parts.reduce((sum, p) => sum + p.share, 0);
  return (
    <section className="card">
      <header className="card-head">
        <h2>History</h2>
        <Segmented
          label="How far back"
          value={reach}
          onValue={setReach}
          options={[
            ["24h", "24 hours"],
            ["7d", "7 days"],
            ["30d", "30 days"],
          ]}
        />
      </header>
      <div className="card-body stack">
        {(bar.error ?? query.error) && (
          <Failure
            what="The history could not be read."
            error={bar.error ?? query.error}
            retry={() => void Promise.all([bar.refetch(), query.refetch()])}
          />
        )}
        <div className="stack" style={{ gap: 4 }}>
          <div className="timeline" role="img" aria-label={`Health over ${reach}: ${summary(parts)}`}>
            <i className="tone-grey" style={{ flexGrow: Math.max(0, 1 - covered) }} title="not checked" />
            {parts.map(({ interval, share }) => (
              <i
                key={interval.from}
                className={HEALTH_TONE[healthWord(interval)]}
                style={{ flexGrow: share }}
                title={`${healthWord(interval)} from ${absolute(interval.from)}${interval.failed.length ? `: ${interval.failed.join(", ")}` : ""}`}
              />
            ))}
          </div>
          <div className="row faint">
            <span className="grow">{reach} ago</span>
            <span>now</span>
          </div>
        </div>
        {rows && rows.length > 0 && (
          <Table
            label="Changes of health"
            rows={rows}
            id={(i) => i.from}
            columns={[
              { key: "status", head: "Health", lead: true, cell: (i) => <HealthBadge health={i} /> },
              { key: "failed", head: "Failed when it began", cell: (i) => i.failed.join(", ") || <span className="faint">nothing</span> },
              { key: "from", head: "Began", cell: (i) => <Time at={i.from} /> },
              {
                key: "took",
                head: "For",
                cell: (i) => (
                  <span className="nowrap">
                    {duration(Math.max(1_000, (i.to === null ? now : Date.parse(i.to)) - Date.parse(i.from)))}
                    {i.to === null && <span className="faint"> and on</span>}
                  </span>
                ),
              },
            ]}
          />
        )}
        <Pager {...pager} />
      </div>
    </section>
  );
}

function summary(parts: { interval: HealthInterval; share: number }[]): string {
  const shares = new Map<string, number>();
  for (const { interval, share } of parts) shares.set(healthWord(interval), (shares.get(healthWord(interval)) ?? 0) + share);
  return [...shares].map(([word, share]) => `${word} ${(share * 100).toFixed(1)}%`).join(", ") || "not checked";
}
