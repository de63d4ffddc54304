import type { ReactNode } from "react";

/** A box with a heading. */
export function Card({ title, tight, children }: { title: string; tight?: boolean; children: ReactNode }) {
  return (
    <section className="card">
      <header className="card-head">
        <h2>{title}</h2>
      </header>
      <div className={tight ? "card-body stack tight" : "card-body"}>{children}</div>
    </section>
  );
}
