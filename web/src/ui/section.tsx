import { ChevronRight } from "lucide-react";
import { type ReactNode, useEffect, useRef } from "react";
import { plural } from "../lib/format";

/** A part of a long form that opens and closes; closed, it says in a few words what is in it. */
export function Section(props: { title: string; sum: string; problems: number; open?: boolean; children: ReactNode }) {
  const details = useRef<HTMLDetailsElement>(null);
  const { open, problems } = props;
  // A template or a problem opens it; what the user closes stays closed.
  useEffect(() => {
    if ((open || problems > 0) && details.current) details.current.open = true;
  }, [open, problems]);
  return (
    <details ref={details} className="section">
      <summary>
        <ChevronRight aria-hidden="true" />
        <h2>{props.title}</h2>
        <span className="sum truncate">
          {problems > 0 ? <span className="danger-text">{plural(problems, "problem")}</span> : props.sum}
        </span>
      </summary>
      <div className="section-body">{props.children}</div>
    </details>
  );
}
