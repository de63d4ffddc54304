import type { ReactNode } from "react";
import { CopyButton } from "./bits";

export type Fact = readonly [name: string, value: ReactNode];

/** What there is to know of something, a line each. */
export function Facts({ rows }: { rows: readonly Fact[] }) {
  return (
    <dl className="facts">
      {rows.map(([name, value]) => (
        <div key={name} style={{ display: "contents" }}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

/** A text that is likely to be wanted elsewhere. `what` says what it is: `the id`. */
export function Copyable({ text, what }: { text: string; what: string }) {
  return (
    <span className="copy-line">
      <code className="break">{text}</code>
      <CopyButton text={text} label={`Copy ${what}`} />
    </span>
  );
}
