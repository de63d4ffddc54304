import { Check, X } from "lucide-react";
import { CHECKS, type CheckName, type Health, type ServerKind } from "../../api/types";
import { Time } from "../../ui/bits";
import { healthWord, type Judged } from "./words";

export const KIND_NAME: Record<ServerKind, string> = { node: "Node", container: "Container", instance: "Instance", address: "Address" };

export const HEALTH_TONE = {
  healthy: "tone-green",
  degraded: "tone-amber",
  unhealthy: "tone-red",
  unknown: "tone-grey hollow",
} as const;

export function HealthBadge({ health }: { health: Judged & { lastCheck?: string | null } }) {
  const word = healthWord(health);
  return <span className={`status ${HEALTH_TONE[word]}`}>{health.lastCheck === null ? "never checked" : word}</span>;
}

/** The five checks side by side: a sign each, whose title says what was seen. */
export function CheckSigns({ health }: { health: Health }) {
  if (health.lastCheck === null) return <span className="faint">–</span>;
  return (
    <ul className="checks" aria-label="Checks">
      {CHECKS.map((check) => (
        <CheckSign key={check} check={check} health={health} />
      ))}
    </ul>
  );
}

function CheckSign({ check, health }: { check: CheckName; health: Health }) {
  const ok = health.checks[check];
  const failed = health.details.find((d) => d.check === check && !d.ok);
  const said = failed ?? health.details.find((d) => d.check === check);
  const title = said ? `${check}: ${said.measured}, ${said.message} (${said.limit})` : check;
  return (
    <li className={ok ? "ok" : "failed"} title={title}>
      {ok ? <Check aria-hidden="true" /> : <X aria-hidden="true" />}
      {check}
      <span className="sr-only">{ok ? " passed" : " failed"}</span>
    </li>
  );
}

export function LastCheck({ health }: { health: Pick<Health, "lastCheck" | "checked"> }) {
  return (
    <span className="nowrap">
      <Time at={health.lastCheck ?? undefined} />
      {!health.checked && <span className="faint"> · on demand</span>}
    </span>
  );
}
