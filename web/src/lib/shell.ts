// Command lines as people write them, and lists of words as the API takes them. Only quoting is understood: no variables, no
// pipes, since no shell is there to run them.

export type Split = { words: string[]; problem?: undefined } | { problem: string; words?: undefined };

/** Splits a command line into its words as a POSIX shell's quoting does. */
export function splitWords(line: string): Split {
  const words: string[] = [];
  let word = "";
  // An empty pair of quotes is a word, too.
  let inWord = false;
  let quote = "";
  const letters = [...line];
  for (let i = 0; i < letters.length; i++) {
    const c = letters[i] as string;
    const next = letters[i + 1];
    if (quote) {
      if (c === quote) quote = "";
      else if (quote === '"' && c === "\\" && next !== undefined && '"\\$`'.includes(next)) {
        word += next;
        i++;
      } else word += c;
    } else if (c === '"' || c === "'") {
      quote = c;
      inWord = true;
    } else if (c === "\\") {
      if (next === undefined) return { problem: "ends with a backslash" };
      word += next;
      inWord = true;
      i++;
    } else if (/\s/.test(c)) {
      if (inWord) words.push(word);
      word = "";
      inWord = false;
    } else {
      word += c;
      inWord = true;
    }
  }
  if (quote) return { problem: `a ${quote} is not closed` };
  if (inWord) words.push(word);
  return { words };
}

/** The words as one line that [`splitWords`] takes apart again. */
export function joinWords(words: readonly string[]): string {
  return words.map((w) => (w !== "" && /^[\w@%+=:,./-]+$/.test(w) ? w : `'${w.replaceAll("'", `'\\''`)}'`)).join(" ");
}

/** Reads lines `NAME=value` of an .env file; comments and `export` are understood, quotes around a value are taken off. */
export function parseEnvFile(text: string): [string, string][] {
  const out: [string, string][] = [];
  for (const raw of text.split(/\r?\n/)) {
    const line = raw.trim().replace(/^export\s+/, "");
    const at = line.indexOf("=");
    if (at <= 0 || line.startsWith("#")) continue;
    let value = line.slice(at + 1).trim();
    const quoted = /^(["'])(.*)\1$/.exec(value);
    if (quoted) value = quoted[2] ?? "";
    out.push([line.slice(0, at).trim(), value]);
  }
  return out;
}
