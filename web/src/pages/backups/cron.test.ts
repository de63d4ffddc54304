import { describe, expect, it } from "vitest";
import { cronWords, isZone, nextTimes, readCron } from "./cron";

const values = (set: ReadonlySet<number> | undefined) => [...(set ?? [])].sort((a, b) => a - b);
const iso = (times: number[]) => times.map((t) => new Date(t).toISOString().replace(":00.000Z", "Z"));
const next = (line: string, zone: string, after: string, count = 3) => iso(nextTimes(line, zone, Date.parse(after), count));

describe("a cron line", () => {
  it("has five fields of numbers, names, ranges, lists and steps", () => {
    const { fields } = readCron("*/15 22-2 1,15 jan-mar,12 MON-fri");
    expect(values(fields?.minutes)).toEqual([0, 15, 30, 45]);
    expect(values(fields?.hours)).toEqual([0, 1, 2, 22, 23]);
    expect(values(fields?.days)).toEqual([1, 15]);
    expect(values(fields?.months)).toEqual([1, 2, 3, 12]);
    expect(values(fields?.weekdays)).toEqual([1, 2, 3, 4, 5]);
    expect(fields?.eitherDay).toBe(true);
  });
  it("has Sunday twice, and steps from a number on", () => {
    expect(values(readCron("5/20 0 * * 7").fields?.weekdays)).toEqual([0]);
    expect(values(readCron("5/20 0 * * 7").fields?.minutes)).toEqual([5, 25, 45]);
    expect(values(readCron("0 0 * * 5-7").fields?.weekdays)).toEqual([0, 5, 6]);
    expect(values(readCron("0 0 * * 7-2").fields?.weekdays)).toEqual([0, 1, 2]);
    expect(values(readCron("0 0 * * fri-1").fields?.weekdays)).toEqual([0, 1, 5, 6]);
  });
  it.each(["", "0 2 * *", "0 2 * * * *", "0  2 * * *", "60 2 * * *", "0 24 * * *", "0 0 0 * *", "0 0 * 13 *", "0 0 * * 8", "0/0 0 * * *", "1-2-3 0 * * *", "a 0 * * *", "001 0 * * *", "@noon"])(
    "is not: %s",
    (line) => expect(readCron(line).problem).toBeTruthy(),
  );
  it("has to come some day", () => {
    expect(readCron("0 0 30 2 *").problem).toMatch(/such a day/);
    expect(readCron("0 0 31 4,6 *").problem).toMatch(/such a day/);
    // A weekday helps: either will do.
    expect(readCron("0 0 30 2 mon").problem).toBeUndefined();
    expect(readCron("0 0 29 2 *").problem).toBeUndefined();
  });
});

describe("a cron line in words", () => {
  it.each([
    ["0 2 * * *", "Every day at 02:00"],
    ["@daily", "Every day at 00:00"],
    ["@hourly", "Every hour"],
    ["30 * * * *", "Every hour at 30 past"],
    ["* * * * *", "Every minute"],
    ["*/15 * * * *", "Every 15 minutes"],
    ["0 */6 * * *", "Every day at 00:00, 06:00, 12:00 and 18:00"],
    ["0 */4 * * *", "Every 4 hours"],
    ["0 9-17 * * 1-5", "Every hour from 09:00 to 17:59, Monday to Friday"],
    ["30 3 * * 0", "Every Sunday at 03:30"],
    ["0 3 * * sat,sun", "Every Sunday and Saturday at 03:00"],
    ["0 3 1,15 * *", "On the 1st and 15th at 03:00"],
    ["0 3 1 * mon", "On the 1st and every Monday at 03:00"],
    ["0 3 */2 * mon", "Every 2 days from the 1st, where it is a Monday at 03:00"],
    ["@yearly", "On the 1st in January at 00:00"],
    ["5,35 8 * * *", "Every day at 08:05 and 08:35"],
    ["nonsense", ""],
  ])("%s", (line, words) => expect(cronWords(line)).toBe(words));
});

describe("the next times", () => {
  // The table of crates/plan/src/schedule/tests.rs, where the times that count are reckoned.
  it.each([
    ["0 2 * * *", "UTC", "2026-02-03T02:00:00Z", ["2026-02-04T02:00Z", "2026-02-05T02:00Z"]],
    ["0 2 * * *", "UTC", "2026-02-03T01:59:59.999Z", ["2026-02-03T02:00Z"]],
    ["@yearly", "Europe/Berlin", "2026-02-03T00:00:00Z", ["2026-12-31T23:00Z"]],
    ["@weekly", "UTC", "2026-02-03T00:00:00Z", ["2026-02-08T00:00Z", "2026-02-15T00:00Z"]],
    ["0 0 29 2 *", "UTC", "2096-03-01T00:00:00Z", ["2104-02-29T00:00Z"]],
    ["0 0 13 * fri", "UTC", "2026-02-01T00:00:00Z", ["2026-02-06T00:00Z", "2026-02-13T00:00Z", "2026-02-20T00:00Z"]],
    ["0 0 29 2 */7", "UTC", "2026-01-01T00:00:00Z", ["2032-02-29T00:00Z", "2060-02-29T00:00Z"]],
    // Left out: right after the gap, and once for all that fall into it.
    ["30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", ["2026-03-29T01:00Z", "2026-03-30T00:30Z"]],
    ["0,30 2,3 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", ["2026-03-29T01:00Z", "2026-03-29T01:30Z", "2026-03-30T00:00Z"]],
    ["15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", ["2026-10-03T15:30Z", "2026-10-04T15:15Z"]],
    ["0 0 * * *", "America/Santiago", "2026-09-05T12:00:00Z", ["2026-09-06T04:00Z", "2026-09-07T03:00Z"]],
    // Twice there: the first time only.
    ["30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", ["2026-10-25T00:30Z", "2026-10-26T01:30Z"]],
    ["30 2 * * *", "Europe/Berlin", "2026-10-25T00:45:00Z", ["2026-10-26T01:30Z"]],
    // Each hour that passes.
    ["@hourly", "Europe/Berlin", "2026-03-28T23:30:00Z", ["2026-03-29T00:00Z", "2026-03-29T01:00Z", "2026-03-29T02:00Z"]],
    ["@hourly", "Europe/Berlin", "2026-10-24T23:30:00Z", ["2026-10-25T00:00Z", "2026-10-25T01:00Z", "2026-10-25T02:00Z"]],
    ["*/20 * * * sun", "UTC", "2026-02-07T12:00:00Z", ["2026-02-08T00:00Z", "2026-02-08T00:20Z"]],
    ["30 * 6 9 *", "America/Santiago", "2026-09-06T02:45:00Z", ["2026-09-06T04:30Z"]],
    ["0 2 * * *", "Asia/Kolkata", "2026-11-27T00:00:00Z", ["2026-11-27T20:30Z"]],
  ] as const)("%s in %s after %s", (line, zone, after, wanted) => expect(next(line, zone, after, wanted.length)).toEqual(wanted));
  it("are none of a zone that nobody knows", () => {
    expect(next("0 2 * * *", "Nowhere/Atall", "2026-11-27T00:00:00Z")).toEqual([]);
    expect(isZone("Europe/Berlin")).toBe(true);
    expect(isZone("Nowhere/Atall")).toBe(false);
  });
});
