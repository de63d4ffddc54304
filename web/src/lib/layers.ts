export interface Layer {
  id: string;
  status: string;
  /** Bytes. */
  current: number;
  total: number;
}

/** Reads a step's line on one layer: `a1b2c3: Downloading 120 of 3000 kB`, or `a1b2c3: Pull complete`. */
export function readLayer(detail: string): Layer | null {
  const match = /^([0-9a-f]{6,64}): (.+?)(?: (\d+) of (\d+) kB)?$/.exec(detail);
  if (!match) return null;
  return { id: match[1] as string, status: match[2] as string, current: Number(match[3] ?? 0) * 1000, total: Number(match[4] ?? 0) * 1000 };
}
