// Cron lines as crates/types and crates/plan read them: what they say in words, and when they come next. The server has the last word
// and makes the backups; this is what the form shows while a line is typed.

/** What a line says, each field as the values it names. */
export interface CronFields {
  minutes: ReadonlySet<number>;
  hours: ReadonlySet<number>;
  /** 1 to 31. */
  days: ReadonlySet<number>;
  /** 1 to 12. */
  months: ReadonlySet<number>;
  /** 0 (Sunday) to 6. */
  weekdays: ReadonlySet<number>;
  /** Days and weekdays are both named: either will do. */
  eitherDay: boolean;
}

export type Cron = { fields: CronFields; problem?: undefined } | { problem: string; fields?: undefined };

const SHORT: Record<string, string> = {
  "@yearly": "0 0 1 1 *",
  "@annually": "0 0 1 1 *",
  "@monthly": "0 0 1 * *",
  "@weekly": "0 0 * * 0",
  "@daily": "0 0 * * *",
  "@midnight": "0 0 * * *",
  "@hourly": "0 * * * *",
};
const MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const MONTH_NAME = [
  "January",
  "February",
  "March",
  "April",
  "May",
  "June",
  "July",
  "August",
  "September",
  "October",
  "November",
  "December",
];
const WEEKDAY_NAME = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const LONGEST_MONTH = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

interface Range {
  name: string;
  least: number;
  most: number;
  names?: readonly string[];
  /** The value of the first name. */
  first?: number;
}
const RANGES: readonly [Range, Range, Range, Range, Range] = [
  { name: "minute", least: 0, most: 59 },
  { name: "hour", least: 0, most: 23 },
  { name: "day of the month", least: 1, most: 31 },
  { name: "month", least: 1, most: 12, names: MONTHS, first: 1 },
  { name: "weekday", least: 0, most: 7, names: WEEKDAYS, first: 0 },
];

/** Reads a line, or says what is wrong with it. */
export function readCron(text: string): Cron {
  const parts = (SHORT[text] ?? text).split(" ");
  if (parts.length !== 5) {
    return { problem: "Five fields with one space between them (minute hour day month weekday), or @hourly, @daily, @weekly, @monthly, @yearly" };
  }
  const read: Set<number>[] = [];
  for (const [i, range] of RANGES.entries()) {
    const values = readField(parts[i] as string, range);
    if (!values) return { problem: `The ${range.name} is *, or numbers from ${range.least} to ${range.most} with , - and / between them` };
    read.push(values);
  }
  const [minutes, hours, days, months, weekdays] = read as [Set<number>, Set<number>, Set<number>, Set<number>, Set<number>];
  if (weekdays.delete(7)) weekdays.add(0);
  const eitherDay = !parts[2]?.startsWith("*") && !parts[4]?.startsWith("*");
  const fields: CronFields = { minutes, hours, days, months, weekdays, eitherDay };
  const comes = eitherDay || [...months].some((m) => [...days].some((d) => d <= (LONGEST_MONTH[m - 1] as number)));
  return comes ? { fields } : { problem: "None of these months has such a day" };
}

function readField(text: string, range: Range): Set<number> | null {
  const { least, most, names = [], first = 0 } = range;
  const seven = most === 7;
  const value = (word: string): number | null => {
    const at = names.indexOf(word.toLowerCase());
    if (at >= 0) return at + first;
    if (!/^\d{1,2}$/.test(word)) return null;
    const n = Number(word);
    return n >= least && n <= most ? n : null;
  };
  const out = new Set<number>();
  for (const entry of text.split(",")) {
    const [, span, steps] = /^([^/]*)(?:\/(\d{1,2}))?$/.exec(entry) ?? [];
    if (span === undefined) return null;
    const step = steps === undefined ? 1 : Number(steps);
    if (step < 1) return null;
    let from: number | null;
    let to: number | null;
    if (span === "*") [from, to] = [least, seven ? 6 : most];
    else if (span.includes("-")) {
      const [a, b, ...more] = span.split("-");
      if (more.length > 0) return null;
      [from, to] = [value(a as string), value(b as string)];
    } else {
      from = value(span);
      // `5/15` means from 5 on.
      to = steps === undefined ? from : seven ? 6 : most;
    }
    if (from === null || to === null) return null;
    if (seven && from === 7 && to !== 7) from = 0;
    // `22-2` goes over the end.
    const last = seven && to !== 7 ? 6 : most;
    const count = from <= to ? to - from : last - from + 1 + (to - least);
    for (let n = 0; n <= count; n += step) {
      const at = from + n;
      out.add(at > last ? at - last - 1 + least : at);
    }
  }
  return out;
}

// ---- in words ------------------------------------------------------------------------------------------------------

const two = (n: number): string => String(n).padStart(2, "0");
const sorted = (set: ReadonlySet<number>): number[] => [...set].sort((a, b) => a - b);
const list = (words: readonly string[]): string =>
  words.length < 2 ? (words[0] ?? "") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;
function ordinal(n: number): string {
  const tail = n % 10;
  const teen = n % 100 >= 11 && n % 100 <= 13;
  return `${n}${teen ? "th" : tail === 1 ? "st" : tail === 2 ? "nd" : tail === 3 ? "rd" : "th"}`;
}
/** The step of values that begin at `least` and go on evenly to the end. */
function evenly(values: readonly number[], least: number, size: number): number | null {
  const step = (values[1] ?? 0) - (values[0] ?? 0);
  const fits = values.length > 1 && values[0] === least && size % step === 0 && values.length === size / step;
  return fits && values.every((v, i) => v === least + i * step) ? step : null;
}
const inOneGo = (values: readonly number[]): boolean => values.length > 2 && values.every((v, i) => i === 0 || v === (values[i - 1] as number) + 1);

function timeWords(fields: CronFields): { text: string; often: boolean } {
  const minutes = sorted(fields.minutes);
  const hours = sorted(fields.hours);
  const minute = minutes[0] as number;
  const at = minute === 0 ? "" : ` at ${minute} past`;
  const step = evenly(minutes, 0, 60);
  const often = minutes.length === 60 ? "every minute" : step !== null ? `every ${step} minutes` : minutes.length === 1 ? `every hour${at}` : null;
  if (hours.length === 24) return { text: often ?? `at minutes ${list(minutes.map(String))} of every hour`, often: true };
  if (hours.length * minutes.length <= 4) {
    return { text: `at ${list(hours.flatMap((h) => minutes.map((m) => `${two(h)}:${two(m)}`)))}`, often: false };
  }
  const every = evenly(hours, 0, 24);
  if (minutes.length === 1 && every !== null) return { text: `every ${every} hours${at}`, often: true };
  const span = inOneGo(hours) ? `from ${two(hours[0] as number)}:00 to ${two(hours.at(-1) as number)}:59` : `in the hours ${list(hours.map(String))}`;
  return { text: `${often ?? `at minutes ${list(minutes.map(String))}`} ${span}`, often: true };
}

function dayWords({ days, weekdays, eitherDay }: CronFields, often: boolean): string {
  const week = sorted(weekdays);
  const month = sorted(days);
  const named = inOneGo(week) ? `${WEEKDAY_NAME[week[0] as number]} to ${WEEKDAY_NAME[week.at(-1) as number]}` : list(week.map((d) => WEEKDAY_NAME[d] as string));
  const onDays = `on the ${list(month.map(ordinal))}`;
  const allDays = days.size === 31;
  const allWeek = weekdays.size === 7;
  if (eitherDay) return `${onDays} and every ${named}`;
  if (allDays && allWeek) return often ? "" : "every day";
  if (allDays) return inOneGo(week) ? named : `every ${named}`;
  const everyMonths = evenly(month, 1, 31) ?? (month.length > 4 && month[0] === 1 ? spacing(month) : null);
  const text = everyMonths === null ? onDays : `every ${everyMonths} days from the 1st`;
  return allWeek ? text : `${text}, where it is ${list(week.map((d) => `a ${WEEKDAY_NAME[d]}`))}`;
}
function spacing(values: readonly number[]): number | null {
  const step = (values[1] as number) - (values[0] as number);
  return step > 1 && values.every((v, i) => v === 1 + i * step) && 1 + values.length * step > 31 ? step : null;
}

/** `Every day at 02:00`; nothing for a line that is none. */
export function cronWords(text: string): string {
  const { fields } = readCron(text);
  if (!fields) return "";
  const time = timeWords(fields);
  const day = dayWords(fields, time.often);
  const months = fields.months.size === 12 ? "" : ` in ${list(sorted(fields.months).map((m) => MONTH_NAME[m - 1] as string))}`;
  const words = day === "" ? `${time.text}${months}` : time.often ? `${time.text}, ${day}${months}` : `${day}${months} ${time.text}`;
  return words.charAt(0).toUpperCase() + words.slice(1);
}

// ---- when -----------------------------------------------------------------------------------------------------------

const MINUTE = 60_000;
const DAY = 86_400_000;
/** A February 29 that is a Sunday comes after 40 years at the latest. */
const FURTHEST_DAYS = 41 * 366;

/** The clock on the wall of a time zone, as if it were UTC. */
type Wall = (at: number) => number;

function wallOf(zone: string): Wall | null {
  let format: Intl.DateTimeFormat;
  try {
    format = new Intl.DateTimeFormat("en-GB", {
      timeZone: zone,
      hourCycle: "h23",
      year: "numeric",
      month: "numeric",
      day: "numeric",
      hour: "numeric",
      minute: "numeric",
      second: "numeric",
    });
  } catch {
    return null;
  }
  return (at) => {
    const p: Record<string, number> = {};
    for (const { type, value } of format.formatToParts(at)) p[type] = Number(value);
    return Date.UTC(p.year as number, (p.month as number) - 1, p.day, p.hour, p.minute, p.second);
  };
}

/** Whether the browser knows a time zone of this name. */
export const isZone = (zone: string): boolean => wallOf(zone) !== null;

/** The first moment at which the clock shows this or more: one that it leaves out comes right after the gap, of two the first. */
function firstShowing(wall: Wall, shown: number): number {
  const offsets = [wall(shown - DAY) - (shown - DAY), wall(shown + DAY) - (shown + DAY)];
  const exact = offsets.map((o) => shown - o).filter((at) => wall(at) === shown);
  if (exact.length > 0) return Math.min(...exact);
  let [before, after] = [shown - Math.max(...offsets), shown - Math.min(...offsets)];
  while (after - before > MINUTE) {
    const middle = before + Math.floor((after - before) / 2 / MINUTE) * MINUTE;
    if (wall(middle) >= shown) after = middle;
    else before = middle;
  }
  return after;
}

function isDay(fields: CronFields, day: number): boolean {
  const date = new Date(day);
  if (!fields.months.has(date.getUTCMonth() + 1)) return false;
  const [byDay, byWeekday] = [fields.days.has(date.getUTCDate()), fields.weekdays.has(date.getUTCDay())];
  return fields.eitherDay ? byDay || byWeekday : byDay && byWeekday;
}

/** The next times of a line after a moment, in milliseconds; fewer than `count` where it has no more, none where zone or line are not known. */
export function nextTimes(text: string, zone: string, after: number, count: number): number[] {
  const { fields } = readCron(text);
  const wall = wallOf(zone);
  if (!fields || !wall) return [];
  const out: number[] = [];
  const today = Math.floor(wall(after) / DAY) * DAY;
  if (fields.hours.size === 24) {
    // Time that passes: no hour is left out where the clock changes, and none waits two.
    let at = (Math.floor(after / MINUTE) + 1) * MINUTE;
    let day = today;
    while (out.length < count && day < today + FURTHEST_DAYS * DAY) {
      const shown = wall(at);
      day = Math.floor(shown / DAY) * DAY;
      if (isDay(fields, day)) {
        if (shown % MINUTE === 0 && fields.minutes.has(new Date(shown).getUTCMinutes())) out.push(at);
        at += MINUTE;
      } else {
        do day += DAY;
        while (!isDay(fields, day) && day < today + FURTHEST_DAYS * DAY);
        at = Math.max(firstShowing(wall, day), at + MINUTE);
      }
    }
    return out;
  }
  const hours = sorted(fields.hours);
  const minutes = sorted(fields.minutes);
  // A time of yesterday can come today, where the clock leaves out midnight.
  for (let day = today - DAY; day < today + FURTHEST_DAYS * DAY; day += DAY) {
    if (!isDay(fields, day)) continue;
    for (const hour of hours) {
      for (const minute of minutes) {
        const at = firstShowing(wall, day + hour * 3_600_000 + minute * MINUTE);
        if (at > after && at !== out.at(-1)) out.push(at);
        if (out.length === count) return out;
      }
    }
  }
  return out;
}
