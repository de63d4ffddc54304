import { useMemo } from "react";
import type { Problems } from "../../lib/editing";
import { useNow, useSettled } from "../../lib/hooks";
import { Field, Select, TextField } from "../../ui/field";
import { cronWords, isZone, nextTimes } from "./cron";
import { type BackupForm, PRESETS, type Preset, presetOf } from "./form";

const ZONES = typeof Intl.supportedValuesOf === "function" ? ["UTC", ...Intl.supportedValuesOf("timeZone")] : ["UTC"];
const own = Intl.DateTimeFormat().resolvedOptions().timeZone;

/** When backups are made: a preset or a line of one's own, and what it comes to. */
export function ScheduleFields(props: { form: BackupForm; set: (change: Partial<BackupForm>, ...fields: string[]) => void; problems: Problems }) {
  const { form, set, problems } = props;
  const choose = (preset: Preset) => set({ preset, schedule: preset === "own" ? form.schedule : PRESETS[preset][1] }, "schedule");
  return (
    <>
      <div className="form-2">
        <Field label="Schedule">
          {(d) => (
            <Select {...d} value={form.preset} onValue={choose} options={(Object.keys(PRESETS) as Preset[]).map((p) => [p, PRESETS[p][0]] as const)} />
          )}
        </Field>
        {form.preset !== "none" && (
          <TextField
            mono
            label="Cron line"
            problem={problems.schedule}
            hint={cronWords(form.schedule.trim()) || "minute hour day month weekday"}
            placeholder="0 2 * * *"
            value={form.schedule}
            onValue={(schedule) => set({ schedule, preset: presetOf(schedule) === "none" ? "own" : presetOf(schedule) })}
          />
        )}
      </div>
      {form.preset !== "none" && (
        <>
          <div className="form-2">
            <TextField
              optional
              label="Time zone"
              problem={problems.timeZone}
              hint={own !== "UTC" ? `UTC where nothing is said; this browser is in ${own}` : "UTC where nothing is said"}
              placeholder="UTC"
              list="backup-zones"
              value={form.timeZone}
              onValue={(timeZone) => set({ timeZone })}
            />
            <TextField
              numeric
              optional
              suffix="s"
              label="Spread"
              problem={problems.jitter}
              hint="Each begins by chance so much later at most, so that not all begin at once"
              placeholder="0"
              value={form.jitter}
              onValue={(jitter) => set({ jitter })}
            />
          </div>
          <datalist id="backup-zones">
            {ZONES.map((zone) => (
              <option key={zone} value={zone} />
            ))}
          </datalist>
          <NextTimes schedule={form.schedule.trim()} zone={form.timeZone.trim() || "UTC"} />
        </>
      )}
    </>
  );
}

const SHOWN = 4;

function NextTimes({ schedule, zone }: { schedule: string; zone: string }) {
  const line = useSettled(schedule, 200);
  // The minute, not each second: a time that is past must go.
  const minute = Math.floor(useNow() / 60_000);
  const times = useMemo(() => nextTimes(line, zone, minute * 60_000, SHOWN), [line, zone, minute]);
  if (times.length === 0 || !isZone(zone)) return null;
  const format = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "short", timeZone: zone });
  return (
    <div className="field">
      <span className="field-label">The next times, {zone}</span>
      <ul className="stack tight" aria-label="The next times">
        {times.map((at) => (
          <li key={at}>
            <time dateTime={new Date(at).toISOString()}>{format.format(at)}</time>
          </li>
        ))}
      </ul>
    </div>
  );
}
