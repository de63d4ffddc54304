import type { Limit, LimitName, Thresholds } from "../../api/types";

// The limits of the checks as text in a form, and back.

export const LIMITS: readonly (readonly [LimitName, string, string])[] = [
  ["cpu", "CPU in use", "%"],
  ["memory", "Memory still available", "%"],
  ["swap", "Swap in use, while memory is short", "%"],
  ["memoryPressure", "Time in which all work waits for memory", "%"],
  ["disk", "File system in use", "%"],
  ["inodes", "Inodes in use", "%"],
  ["roundTrip", "Round trip", "ms"],
  ["packetLoss", "Calls without an answer, of the last ten", "%"],
  ["interfaceErrors", "Broken packets", "%"],
];

export type LimitForm = Record<LimitName, { fail: string; recover: string }> & { cpuChecks: string };

const text = (n: number | undefined): string => (n === undefined ? "" : String(n));

export function limitForm(from: Partial<Thresholds>): LimitForm {
  const rows = LIMITS.map(([name]) => [name, { fail: text(from[name]?.fail), recover: text(from[name]?.recover) }]);
  return { ...(Object.fromEntries(rows) as Record<LimitName, { fail: string; recover: string }>), cpuChecks: text(from.cpuChecks) };
}

/**
 * What the form says, and what is wrong with it, by the names of the API. Lines left empty are left out; where `base` has a value,
 * the half of a line that is empty is taken from there.
 */
export function limitsOf(
  form: LimitForm,
  base: Partial<Thresholds>,
): { thresholds: Partial<Thresholds>; problems: Record<string, string> } {
  const thresholds: Partial<Thresholds> = {};
  const problems: Record<string, string> = {};
  for (const [name, , unit] of LIMITS) {
    const row = form[name];
    const [fail, recover] = [row.fail.trim(), row.recover.trim()];
    if (fail === "" && recover === "") continue;
    const [min, max] = unit === "ms" ? [1, 60_000] : [0, 100];
    const read = (half: "fail" | "recover", value: string): number => {
      const n = value === "" ? (base[name]?.[half] ?? Number.NaN) : Number(value);
      if (!(n >= min && n <= max)) problems[`thresholds.${name}.${half}`] = `From ${min} to ${max.toLocaleString("en")} ${unit}`;
      return n;
    };
    const limit: Limit = { fail: read("fail", fail), recover: read("recover", recover) };
    const wrong = name === "memory" ? limit.recover < limit.fail : limit.recover > limit.fail;
    if (wrong) problems[`thresholds.${name}.recover`] ??= name === "memory" ? "At least the first" : "At most the first";
    thresholds[name] = limit;
  }
  const checks = form.cpuChecks.trim();
  if (checks !== "") {
    const n = Number(checks);
    if (!/^\d+$/.test(checks) || n < 1 || n > 20) problems["thresholds.cpuChecks"] = "A whole number from 1 to 20";
    thresholds.cpuChecks = n;
  }
  return { thresholds, problems };
}
