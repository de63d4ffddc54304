// Colours in log lines: the SGR sequences programs write to terminals. https://www.ecma-international.org/publications-and-standards/standards/ecma-48/

export interface Span {
  text: string;
  /** Class names of the style, `""` where it is plain. */
  style: string;
}

const SEQUENCE = /\x1b(?:\[([0-9;:]*)([@-~])|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])/g;

const NAMES = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"];

/** Cuts a line into spans of one style. Sequences other than colours are left out. */
export function spans(line: string): Span[] {
  if (!line.includes("\x1b")) return [{ text: line, style: "" }];
  const out: Span[] = [];
  let from = 0;
  let colour = "";
  let bold = false;
  let dim = false;
  const add = (text: string) => {
    if (text) out.push({ text, style: [colour && `ansi-${colour}`, bold && "ansi-bold", dim && "ansi-dim"].filter(Boolean).join(" ") });
  };
  for (const match of line.matchAll(SEQUENCE)) {
    add(line.slice(from, match.index));
    from = match.index + match[0].length;
    if (match[2] !== "m") continue;
    const codes = (match[1] || "0").split(/[;:]/).map(Number);
    for (let i = 0; i < codes.length; i++) {
      const code = codes[i] as number;
      if (code === 0) [colour, bold, dim] = ["", false, false];
      else if (code === 1) bold = true;
      else if (code === 2) dim = true;
      else if (code === 22) [bold, dim] = [false, false];
      else if (code === 39) colour = "";
      else if (code >= 30 && code <= 37) colour = NAMES[code - 30] ?? "";
      else if (code >= 90 && code <= 97) colour = NAMES[code - 90] ?? "";
      else if (code === 38 || code === 48) {
        // 256 colours and RGB: their first sixteen are the named ones, others stay plain.
        if (codes[i + 1] === 5) {
          const index = codes[i + 2] ?? 16;
          if (code === 38) colour = index < 16 ? (NAMES[index % 8] ?? "") : "";
          i += 2;
        } else if (codes[i + 1] === 2) {
          i += 4;
        }
      }
    }
  }
  add(line.slice(from));
  return out;
}

export function plainText(line: string): string {
  return line.includes("\x1b") ? line.replace(SEQUENCE, "") : line;
}
