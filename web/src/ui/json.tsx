import { useMemo } from "react";

const TOKEN = /("(?:\\.|[^"\\])*")(\s*:)?|\b(true|false|null)\b|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;

/** A JSON document, coloured. */
export function Json({ value }: { value: unknown }) {
  const parts = useMemo(() => {
    const text = JSON.stringify(value, null, 2) ?? "";
    const out: (string | { text: string; kind: string })[] = [];
    let from = 0;
    for (const m of text.matchAll(TOKEN)) {
      if (m.index > from) out.push(text.slice(from, m.index));
      const kind = m[1] ? (m[2] ? "key" : "string") : m[3] ? "word" : "number";
      out.push({ text: m[1] ?? m[0], kind });
      if (m[2]) out.push(m[2]);
      from = m.index + m[0].length;
    }
    out.push(text.slice(from));
    return out;
  }, [value]);
  return (
    <pre className="code" tabIndex={0}>
      {parts.map((p, i) =>
        typeof p === "string" ? (
          p
        ) : (
          <span key={i} className={`json-${p.kind}`}>
            {p.text}
          </span>
        ),
      )}
    </pre>
  );
}
