import { useMemo } from "react";
import { looksSecret } from "../lib/validate";
import { CopyButton } from "./bits";

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

/** The request that a form stands for. Secrets are for nobody who looks over a shoulder. */
export function RequestPreview({ line, body }: { line: string; body: unknown }) {
  return (
    <section className="card preview">
      <header className="card-head">
        <h2>The request</h2>
        <CopyButton text={JSON.stringify(body, null, 2)} label="Copy the request's body, secrets and all" />
      </header>
      <p className="faint" style={{ padding: "10px 16px 0" }}>
        <code className="break">{line}</code>
      </p>
      <Json value={covered(body)} />
    </section>
  );
}

function covered(value: unknown, name = ""): unknown {
  if (typeof value === "string") return (name === "key" || looksSecret(name)) && value !== "" ? "********" : value;
  if (Array.isArray(value)) return value.map((v) => covered(v));
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, covered(v, k)]));
}
