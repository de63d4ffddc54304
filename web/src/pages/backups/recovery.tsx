import { sentence } from "../../api/errors";
import type { BackupConfig, BackupRecovery, RecoveryWindow } from "../../api/types";
import { duration, precise, type Zone } from "../../lib/format";
import { Moment, Time } from "../../ui/bits";
import { Card } from "../../ui/card";
import { Copyable, type Fact, Facts } from "../../ui/facts";
import { Notice } from "../../ui/states";
import { barOf } from "./recover-form";
import { troubleOf } from "./words";

const length = (w: RecoveryWindow): number => Date.parse(w.to) - Date.parse(w.from);

/** To which moments a database can be brought back, and how far its log is in the destination. */
export function Recovery({ config, recovery: r }: { config: BackupConfig; recovery: BackupRecovery }) {
  const rows: Fact[] = [
    [
      "Shipped up to",
      r.shipped ? (
        <span key="shipped">
          <Moment at={r.shipped} /> <span className="faint">(</span>
          <Time at={r.shipped} />
          <span className="faint">)</span>
        </span>
      ) : (
        "nothing yet"
      ),
    ],
    ["Shipped every", duration(r.walInterval * 1000)],
    ["Log", r.repository ? <Copyable key="log" text={r.repository} what="where the log is" /> : "its repository is made with the first backup"],
  ];
  return (
    <Card title="Recovery">
      <div className="stack">
        {/* What is told of the config as a whole is not told twice. */}
        {r.message && !troubleOf(config)?.includes(r.message) && <Notice tone="amber">{sentence(r.message)}</Notice>}
        {r.windows.length === 0 ? (
          <p className="faint">There is no moment yet that it can be brought back to.</p>
        ) : (
          <>
            <p className="muted">It can be brought back to every moment of {r.windows.length === 1 ? "this time" : "these times"}, into a new cluster.</p>
            <WindowBar windows={r.windows} />
            <Windows windows={r.windows} />
          </>
        )}
        <Facts rows={rows} />
      </div>
    </Card>
  );
}

function WindowBar({ windows }: { windows: readonly RecoveryWindow[] }) {
  const parts = barOf(windows);
  return (
    <div className="window-bar" aria-hidden="true">
      {windows.map((w, i) => (
        <i key={w.from} title={`${precise(w.from)} – ${precise(w.to)}`} style={{ left: `${parts[i]?.left}%`, width: `${parts[i]?.width}%` }} />
      ))}
    </div>
  );
}

/** Oldest first, as they stand on the bar. */
export function Windows({ windows, zone = "local" }: { windows: readonly RecoveryWindow[]; zone?: Zone }) {
  return (
    <ul className="stack tight" aria-label="Moments that can be brought back">
      {windows.map((w) => (
        <li key={w.from} className="row wrap">
          <span>
            <Moment at={w.from} zone={zone} /> – <Moment at={w.to} zone={zone} />
          </span>
          <span className="faint">{duration(length(w))}</span>
        </li>
      ))}
    </ul>
  );
}
