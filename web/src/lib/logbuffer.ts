import type { LogLine } from "../api/types";

export interface KeptLine extends LogLine {
  /** Counts up; names the line on the page. */
  id: number;
  /** A remark of ours between the container's lines. */
  note?: boolean;
}

export interface Chunk {
  id: number;
  lines: readonly KeptLine[];
}

const CHUNK = 100;

/**
 * A log's newest lines, in chunks that no longer change once they are full. Lines that come a second time, since a new
 * connection asks from the time of the last line on, are left out.
 */
export class LogBuffer {
  #chunks: Chunk[] = [];
  #count = 0;
  #nextLine = 0;
  #nextChunk = 0;
  #lastTime = "";
  /** The lines of the last time seen, as texts: several may share one millisecond. */
  #atLastTime: string[] = [];
  /** Those of them that a new connection will send again. */
  #expected: string[] | null = null;
  dropped = false;

  constructor(readonly most = 10_000) {}

  get chunks(): readonly Chunk[] {
    return this.#chunks;
  }
  get count(): number {
    return this.#count;
  }
  /** Where to go on from; nothing before the first line. */
  get since(): string | undefined {
    return this.#lastTime || undefined;
  }

  /** A new connection begins, from `since` on. */
  reconnected(): void {
    this.#expected = this.#lastTime ? [...this.#atLastTime] : null;
  }

  /** Adds lines; tells whether there were any that are new. */
  add(lines: readonly LogLine[]): boolean {
    const fresh: LogLine[] = [];
    for (const line of lines) {
      const text = `${line.stream} ${line.line}`;
      if (this.#expected) {
        if (line.time < this.#lastTime) continue;
        const at = line.time === this.#lastTime ? this.#expected.indexOf(text) : -1;
        if (at >= 0) {
          this.#expected.splice(at, 1);
          continue;
        }
        if (line.time > this.#lastTime) this.#expected = null;
      }
      if (line.time > this.#lastTime) {
        this.#lastTime = line.time;
        this.#atLastTime = [text];
      } else if (line.time === this.#lastTime) {
        this.#atLastTime.push(text);
      }
      fresh.push(line);
    }
    this.#append(fresh.map((line) => ({ ...line, id: this.#nextLine++ })));
    return fresh.length > 0;
  }

  note(text: string): void {
    this.#append([{ id: this.#nextLine++, stream: "stdout", time: "", line: text, note: true }]);
  }

  clear(): void {
    this.#chunks = [];
    this.#count = 0;
    this.dropped = false;
  }

  #append(lines: KeptLine[]): void {
    let from = 0;
    while (from < lines.length) {
      const last = this.#chunks.at(-1);
      if (last && last.lines.length < CHUNK) {
        const take = lines.slice(from, from + CHUNK - last.lines.length);
        this.#chunks[this.#chunks.length - 1] = { id: last.id, lines: [...last.lines, ...take] };
        from += take.length;
      } else {
        this.#chunks.push({ id: this.#nextChunk++, lines: lines.slice(from, from + CHUNK) });
        from += CHUNK;
      }
    }
    this.#count += lines.length;
    while (this.#count > this.most && this.#chunks.length > 1) {
      this.#count -= this.#chunks[0]?.lines.length ?? 0;
      this.#chunks.shift();
      this.dropped = true;
    }
    // A new array for whoever compares by identity.
    this.#chunks = [...this.#chunks];
  }
}
