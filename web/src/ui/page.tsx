import type { ReactNode } from "react";
import { useDocumentTitle } from "../lib/hooks";
import { Link } from "../lib/router";

/** A page: its title, what stands before it, its actions, its content. */
export function Page(props: {
  title: string;
  heading?: ReactNode;
  crumbs?: [string, string][];
  actions?: ReactNode;
  narrow?: boolean;
  children: ReactNode;
}) {
  useDocumentTitle(props.title);
  return (
    <div className={`page ${props.narrow ? "narrow" : ""}`}>
      <header className="page-head">
        <div className="titles">
          {props.crumbs && (
            <nav className="crumbs" aria-label="Breadcrumb">
              {props.crumbs.map(([text, href]) => (
                <span key={href} className="row">
                  <Link href={href}>{text}</Link>
                  <span aria-hidden="true">/</span>
                </span>
              ))}
            </nav>
          )}
          <h1>{props.heading ?? <span className="truncate">{props.title}</span>}</h1>
        </div>
        {props.actions && <div className="actions">{props.actions}</div>}
      </header>
      {props.children}
    </div>
  );
}
