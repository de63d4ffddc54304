import { type PointerEvent, useEffect, useRef, useState } from "react";
import { clock, day } from "../lib/format";
import { useTheme } from "../lib/theme";
import { axisTicks } from "./ticks";

export interface Series {
  label: string;
  /** 1 to 3: which of the theme's colours. */
  colour: 1 | 2 | 3;
  /** One value a time; NaN leaves a gap. */
  values: readonly number[];
  /** Fills the space below the line. */
  fill?: boolean;
}

const COLOURS = { 1: "--accent", 2: "--teal", 3: "--amber" } as const;
const DAY = 86_400_000;
const PAD = { top: 8, right: 8, bottom: 20, left: 62 };

/** Lines over time on a canvas; the legend holds the newest values, or those under the pointer. */
export function Chart(props: {
  title: string;
  /** Milliseconds, rising. */
  times: readonly number[];
  series: Series[];
  /** Milliseconds the chart is wide; its right end is the newest time. */
  span: number;
  format: (value: number) => string;
  /** Ticks fall on powers of two of bytes. */
  binary?: boolean;
  /** A line to stay under. */
  limit?: { value: number; label: string } | null;
  /** The axis reaches this at least. */
  least?: number;
  /** Values never go beyond this, so the axis doesn't either. */
  most?: number;
  tall?: boolean;
}) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const theme = useTheme();
  const [size, setSize] = useState({ width: 0, height: 0 });
  const [pointer, setPointer] = useState<number | null>(null);
  const { times, series, span, format, limit } = props;

  useEffect(() => {
    const element = canvas.current;
    if (!element) return;
    const observer = new ResizeObserver(([entry]) => {
      if (entry) setSize({ width: entry.contentRect.width, height: entry.contentRect.height });
    });
    observer.observe(element);
    return () => observer.disconnect();
  }, []);

  const end = times.at(-1) ?? Date.now();
  const start = end - span;
  const hovered = pointer === null || times.length === 0 ? null : nearest(times, start + pointer * span);
  const shown = hovered ?? times.length - 1;

  const top = scaleTop(series, times, start, limit?.value, props.least ?? 0, props.most ?? Number.POSITIVE_INFINITY, props.binary ?? false);

  useEffect(() => {
    const element = canvas.current;
    const context = element?.getContext("2d");
    if (!element || !context || size.width === 0) return;
    const ratio = devicePixelRatio || 1;
    element.width = Math.round(size.width * ratio);
    element.height = Math.round(size.height * ratio);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    draw(context, size, { times, series, start, end, top, format, limit: limit ?? null, hovered, theme });
  });

  const move = (event: PointerEvent<HTMLCanvasElement>) => {
    const box = event.currentTarget.getBoundingClientRect();
    const share = (event.clientX - box.left - PAD.left) / (box.width - PAD.left - PAD.right);
    setPointer(share >= 0 && share <= 1 ? share : null);
  };

  return (
    <figure className={`card chart ${props.tall ? "tall" : ""}`}>
      <figcaption className="chart-head">
        <h2>{props.title}</h2>
        {hovered !== null && (
          <span className="faint num">
            {span > DAY && `${day(times[hovered] as number)} `}
            {clock(times[hovered] as number)}
          </span>
        )}
        {series.map((s) => {
          const value = s.values[shown];
          return (
            <span key={s.label} className={`legend series-${s.colour}`}>
              {s.label} <b>{value === undefined || Number.isNaN(value) ? "–" : format(value)}</b>
            </span>
          );
        })}
      </figcaption>
      <canvas
        ref={canvas}
        role="img"
        aria-label={`${props.title}: ${series.map((s) => `${s.label} ${format(s.values.at(-1) ?? 0)}`).join(", ")}`}
        onPointerMove={move}
        onPointerLeave={() => setPointer(null)}
      />
      {times.length === 0 && <div className="chart-empty">No samples yet</div>}
    </figure>
  );
}

/** No more of a time than a chart of this width tells apart. */
function timeText(at: number, span: number): string {
  if (span > DAY) return day(at);
  return span > 3_600_000 ? clock(at).slice(0, 5) : clock(at);
}

function nearest(times: readonly number[], at: number): number {
  let low = 0;
  let high = times.length - 1;
  while (low < high) {
    const mid = (low + high) >> 1;
    if ((times[mid] as number) < at) low = mid + 1;
    else high = mid;
  }
  return low > 0 && at - (times[low - 1] as number) < (times[low] as number) - at ? low - 1 : low;
}

function scaleTop(
  series: Series[],
  times: readonly number[],
  start: number,
  limit: number | undefined,
  least: number,
  most: number,
  binary: boolean,
): { max: number; ticks: number[] } {
  let max = least;
  for (const s of series) {
    for (let i = 0; i < s.values.length; i++) {
      const v = s.values[i] as number;
      if ((times[i] as number) >= start && v > max) max = v;
    }
  }
  // The limit is shown once the use comes near it; far above, it would press the line flat.
  if (limit !== undefined && max > limit * 0.4) max = Math.max(max, limit);
  return axisTicks(Math.min(max * 1.08, most), binary);
}

function draw(
  c: CanvasRenderingContext2D,
  size: { width: number; height: number },
  view: {
    times: readonly number[];
    series: Series[];
    start: number;
    end: number;
    top: { max: number; ticks: number[] };
    format: (v: number) => string;
    limit: { value: number; label: string } | null;
    hovered: number | null;
    theme: string;
  },
) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name: string) => style.getPropertyValue(name).trim();
  const width = size.width - PAD.left - PAD.right;
  const height = size.height - PAD.top - PAD.bottom;
  const x = (t: number) => PAD.left + ((t - view.start) / (view.end - view.start)) * width;
  const y = (v: number) => PAD.top + height - (v / view.top.max) * height;
  c.clearRect(0, 0, size.width, size.height);
  c.font = `11px ${style.getPropertyValue("--font")}`;
  c.lineWidth = 1;

  c.textBaseline = "middle";
  c.textAlign = "right";
  for (const tick of view.top.ticks) {
    const at = Math.round(y(tick)) + 0.5;
    c.strokeStyle = colour("--line");
    c.beginPath();
    c.moveTo(PAD.left, at);
    c.lineTo(PAD.left + width, at);
    c.stroke();
    c.fillStyle = colour("--text-3");
    c.fillText(view.format(tick).replace(/\.0(?=\D)/, ""), PAD.left - 8, at);
  }
  c.textBaseline = "alphabetic";
  const marks = width > 420 ? 4 : 2;
  for (let i = 0; i <= marks; i++) {
    const t = view.start + ((view.end - view.start) * i) / marks;
    c.textAlign = i === 0 ? "left" : i === marks ? "right" : "center";
    c.fillText(timeText(t, view.end - view.start), x(t), size.height - 4);
  }

  c.save();
  c.beginPath();
  c.rect(PAD.left, PAD.top - 2, width, height + 4);
  c.clip();
  // A pause longer than three samples' distance is a gap, not a line across it.
  const gap = 3.5 * typicalDistance(view.times);
  for (const s of view.series) {
    const ink = colour(COLOURS[s.colour]);
    const runs: [number, number][][] = [];
    let run: [number, number][] = [];
    for (let i = 0; i < s.values.length; i++) {
      const v = s.values[i] as number;
      const t = view.times[i] as number;
      const broken = Number.isNaN(v) || (i > 0 && t - (view.times[i - 1] as number) > gap);
      if (broken && run.length > 0) {
        runs.push(run);
        run = [];
      }
      if (!Number.isNaN(v)) run.push([x(t), y(v)]);
    }
    if (run.length > 0) runs.push(run);
    for (const points of runs) {
      const first = points[0] as [number, number];
      const last = points.at(-1) as [number, number];
      if (s.fill) {
        const shade = c.createLinearGradient(0, PAD.top, 0, PAD.top + height);
        shade.addColorStop(0, `${ink}38`);
        shade.addColorStop(1, `${ink}05`);
        c.fillStyle = shade;
        c.beginPath();
        c.moveTo(first[0], PAD.top + height);
        for (const [px, py] of points) c.lineTo(px, py);
        c.lineTo(last[0], PAD.top + height);
        c.fill();
      }
      c.strokeStyle = ink;
      c.lineWidth = 1.5;
      c.lineJoin = "round";
      c.beginPath();
      if (points.length === 1) c.arc(first[0], first[1], 1, 0, 7);
      for (const [px, py] of points) c.lineTo(px, py);
      c.stroke();
    }
  }
  if (view.limit && view.limit.value <= view.top.max) {
    const at = y(view.limit.value);
    c.strokeStyle = colour("--red");
    c.setLineDash([4, 4]);
    c.lineWidth = 1;
    c.beginPath();
    c.moveTo(PAD.left, at);
    c.lineTo(PAD.left + width, at);
    c.stroke();
    c.setLineDash([]);
    c.fillStyle = colour("--red");
    c.textAlign = "left";
    c.fillText(view.limit.label, PAD.left + 6, at + (at < PAD.top + 14 ? 13 : -5));
  }
  if (view.hovered !== null) {
    const at = Math.round(x(view.times[view.hovered] as number)) + 0.5;
    c.strokeStyle = colour("--text-3");
    c.lineWidth = 1;
    c.beginPath();
    c.moveTo(at, PAD.top);
    c.lineTo(at, PAD.top + height);
    c.stroke();
    for (const s of view.series) {
      const v = s.values[view.hovered];
      if (v === undefined || Number.isNaN(v)) continue;
      c.fillStyle = colour(COLOURS[s.colour]);
      c.beginPath();
      c.arc(at, y(v), 3, 0, 7);
      c.fill();
    }
  }
  c.restore();
}

function typicalDistance(times: readonly number[]): number {
  if (times.length < 2) return Number.POSITIVE_INFINITY;
  const steps = times.slice(1).map((t, i) => t - (times[i] as number));
  steps.sort((a, b) => a - b);
  return steps[steps.length >> 1] as number;
}
