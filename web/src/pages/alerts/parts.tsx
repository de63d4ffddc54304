import type { Alert, AlertSeverity, AlertState } from "../../api/types";
import { Link } from "../../lib/router";
import { Badge } from "../../ui/bits";

const SEVERITY_TONE: Record<AlertSeverity, string> = { info: "blue", warning: "amber", critical: "red" };
export const SEVERITIES: readonly (readonly [AlertSeverity, string])[] = [
  ["info", "Info"],
  ["warning", "Warning"],
  ["critical", "Critical"],
];

export function SeverityBadge({ severity }: { severity: AlertSeverity }) {
  return <Badge tone={SEVERITY_TONE[severity]}>{severity}</Badge>;
}

const STATE_TONE: Record<AlertState, string> = { pending: "tone-amber hollow", firing: "tone-red", resolved: "tone-green" };
export function StateBadge({ state }: { state: AlertState }) {
  return <span className={`status ${STATE_TONE[state]}`}>{state}</span>;
}

/** The state, and what else is to be known of it. */
export function AlertBadge({ alert }: { alert: Pick<Alert, "state" | "silencedBy" | "acknowledgedAt" | "flapping"> }) {
  return (
    <span className="row wrap">
      <StateBadge state={alert.state} />
      {alert.silencedBy && <Badge title="A silence keeps it from being told">silenced</Badge>}
      {alert.acknowledgedAt && <Badge title="Somebody looks after it">acknowledged</Badge>}
      {alert.flapping && (
        <Badge tone="amber" title="It fires again and again">
          flapping
        </Badge>
      )}
    </span>
  );
}

export const TABS = [
  ["/alerts", "Alerts"],
  ["/alerts/rules", "Rules"],
  ["/alerts/channels", "Channels"],
  ["/alerts/silences", "Silences"],
] as const;

export function AlertTabs({ here }: { here: (typeof TABS)[number][0] }) {
  return (
    <nav className="tabs" aria-label="Alerts">
      {TABS.map(([href, text]) => (
        <Link key={href} href={href} aria-current={href === here ? "page" : undefined}>
          {text}
        </Link>
      ))}
    </nav>
  );
}
