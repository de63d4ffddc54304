const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"] as const;

/** `1.5 GiB`: three digits at most. */
export function bytes(n: number): string {
  if (!Number.isFinite(n)) return "–";
  let value = Math.abs(n);
  let unit = 0;
  while (value >= 1023.95 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const text = unit === 0 ? String(Math.round(value)) : digits(value);
  return `${n < 0 ? "-" : ""}${text} ${UNITS[unit]}`;
}

export const mebibytes = (mib: number): string => bytes(mib * 1024 * 1024);
export const rate = (bytesPerSecond: number): string => `${bytes(bytesPerSecond)}/s`;

function digits(value: number): string {
  if (value >= 99.95) return value.toFixed(0);
  return value.toFixed(1).replace(/\.0$/, "");
}

export function percent(value: number): string {
  if (!Number.isFinite(value)) return "–";
  return `${value >= 99.95 ? value.toFixed(0) : value.toFixed(1)}%`;
}

/** Bytes of Docker's memory text, `512m`, `1g`; NaN for anything else. */
export function memoryBytes(text: string): number {
  const match = /^(\d+)([kmg])$/i.exec(text);
  if (!match) return Number.NaN;
  const power = { k: 1, m: 2, g: 3 }[match[2]?.toLowerCase() as "k" | "m" | "g"];
  return Number(match[1]) * 1024 ** power;
}

const STEPS: [number, string][] = [
  [60, "s"],
  [60, "m"],
  [24, "h"],
  [30, "d"],
  [12, "mo"],
  [Number.POSITIVE_INFINITY, "y"],
];

/** A length of time in its largest unit: `42s`, `5m`, `3h`, `12d`. */
export function span(ms: number): string {
  let value = Math.max(0, ms) / 1000;
  for (const [size, unit] of STEPS) {
    if (value < size) return `${Math.floor(value)}${unit}`;
    value /= size;
  }
  return "";
}

/** A length of time in its two largest units: `2h 5m`. */
export function duration(ms: number): string {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (ms < 1000) return `${Math.max(0, Math.round(ms))} ms`;
  const parts: [number, string][] = [
    [Math.floor(s / 86_400), "d"],
    [Math.floor(s / 3_600) % 24, "h"],
    [Math.floor(s / 60) % 60, "m"],
    [s % 60, "s"],
  ];
  const first = parts.findIndex(([n]) => n > 0);
  return parts
    .slice(first, first + 2)
    .filter(([n], i) => i === 0 || n > 0)
    .map(([n, unit]) => `${n}${unit}`)
    .join(" ");
}

/** `5m ago`, `in 3h`, `just now`. */
export function relative(time: string, now: number): string {
  const at = Date.parse(time);
  if (Number.isNaN(at)) return "–";
  const ms = now - at;
  // A little ahead is no time to come but a clock that differs.
  if (ms > -10_000 && ms < 5_000) return "just now";
  return ms > 0 ? `${span(ms)} ago` : `in ${span(-ms)}`;
}

const absoluteFormat = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
/** Date and time of this machine's time zone. */
export function absolute(time: string): string {
  const at = new Date(time);
  return Number.isNaN(at.getTime()) ? time : absoluteFormat.format(at);
}

const FINE = {
  year: "numeric",
  month: "short",
  day: "numeric",
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  fractionalSecondDigits: 3,
} as const;
const preciseFormat = new Intl.DateTimeFormat(undefined, FINE);
const utcFormat = new Intl.DateTimeFormat(undefined, { ...FINE, timeZone: "UTC" });
export type Zone = "local" | "utc";
/** Date and time to the millisecond, of this machine's time zone or of UTC, which is named. */
export function precise(time: string, zone: Zone = "local"): string {
  const at = new Date(time);
  if (Number.isNaN(at.getTime())) return time;
  return zone === "utc" ? `${utcFormat.format(at)} UTC` : preciseFormat.format(at);
}

/** `14:03:07.123` of this machine's time zone. */
export function clock(time: string | number, millis = false): string {
  const t = new Date(time);
  if (Number.isNaN(t.getTime())) return "";
  const two = (n: number) => String(n).padStart(2, "0");
  const base = `${two(t.getHours())}:${two(t.getMinutes())}:${two(t.getSeconds())}`;
  return millis ? `${base}.${String(t.getMilliseconds()).padStart(3, "0")}` : base;
}

/** `27 Nov` of this machine's time zone. */
export function day(time: string | number): string {
  const t = new Date(time);
  return Number.isNaN(t.getTime()) ? "" : `${t.getDate()} ${MONTHS[t.getMonth()]}`;
}
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"] as const;

export function plural(n: number, one: string, many = `${one}s`): string {
  return `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
}

/** Twelve digits of `sha256:…` or of a container's id. */
export function shortId(id: string): string {
  return id.replace(/^sha256:/, "").slice(0, 12);
}
