/** Round values for an axis from 0 to at least `max`, four steps at most; with `binary`, round in powers of 1024. */
export function axisTicks(max: number, binary: boolean): { max: number; ticks: number[] } {
  const want = Number.isFinite(max) && max > 0 ? max : 1;
  const base = binary ? 1024 ** Math.max(0, Math.floor(Math.log(want) / Math.log(1024))) : 10 ** Math.floor(Math.log10(want));
  const steps = binary ? [0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512] : [0.1, 0.2, 0.25, 0.5, 1, 2, 2.5];
  const step = (steps.find((s) => want / (s * base) <= 4) ?? 1024) * base;
  const count = Math.ceil(want / step - 1e-9);
  return { max: step * count, ticks: Array.from({ length: count + 1 }, (_, i) => i * step) };
}
