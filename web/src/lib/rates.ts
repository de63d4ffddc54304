/** What counters grew by per second, at each time. A counter that fell began anew; there and at the first time it is not known (NaN). */
export function perSecond(times: readonly number[], counters: readonly number[]): number[] {
  return counters.map((value, i) => {
    if (i === 0) return Number.NaN;
    const grown = value - (counters[i - 1] as number);
    const seconds = ((times[i] as number) - (times[i - 1] as number)) / 1000;
    return grown < 0 || seconds <= 0 ? Number.NaN : grown / seconds;
  });
}
