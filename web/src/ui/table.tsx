import { ChevronLeft, ChevronRight } from "lucide-react";
import type { ReactNode } from "react";
import { Button } from "./button";
import { Check } from "./field";
import { Skeleton } from "./states";

export interface Column<T> {
  key: string;
  head: string;
  cell: (row: T) => ReactNode;
  /** Heads its card on narrow screens. */
  lead?: boolean;
  /** Takes the card's whole width on narrow screens. */
  wide?: boolean;
  right?: boolean;
  className?: string;
  /** Left out of a card where there is nothing to show. */
  empty?: (row: T) => boolean;
}

export interface Selection {
  ids: ReadonlySet<string>;
  onIds: (ids: ReadonlySet<string>) => void;
}

/** Rows under heads; on narrow screens a card a row. */
export function Table<T>(props: {
  label: string;
  columns: Column<T>[];
  rows: readonly T[] | undefined;
  id: (row: T) => string;
  actions?: (row: T) => ReactNode;
  /** The actions are one menu, which sits in the card's corner. */
  menuOnly?: boolean;
  selection?: Selection | undefined;
  selectLabel?: (row: T) => string;
  /** How many rows to draw while there are none yet. */
  placeholders?: number;
}) {
  const { columns, rows, selection } = props;
  const chosen = rows?.filter((r) => selection?.ids.has(props.id(r))).length ?? 0;
  return (
    <div className="table-wrap">
      <table aria-label={props.label} aria-busy={rows === undefined}>
        <thead>
          <tr>
            {selection && (
              <th className="cell-check">
                <Check
                  label="Select all"
                  hideLabel
                  checked={rows !== undefined && rows.length > 0 && chosen === rows.length}
                  partly={chosen > 0 && chosen < (rows?.length ?? 0)}
                  onChecked={(all) => selection.onIds(new Set(all ? rows?.map(props.id) : []))}
                />
              </th>
            )}
            {columns.map((c) => (
              <th key={c.key} scope="col" className={c.right ? "cell-right" : ""}>
                {c.head}
              </th>
            ))}
            {props.actions && (
              <th>
                <span className="sr-only">Actions</span>
              </th>
            )}
          </tr>
        </thead>
        <tbody>
          {rows === undefined
            ? Array.from({ length: props.placeholders ?? 5 }, (_, i) => (
                <tr key={i}>
                  {selection && <td className="cell-check" />}
                  {columns.map((c, j) => (
                    <td key={c.key} className={c.lead ? "cell-lead" : ""}>
                      <Skeleton width={j === 0 ? 140 : 50 + ((i * 37 + j * 23) % 50)} />
                    </td>
                  ))}
                  {props.actions && <td className="cell-actions" />}
                </tr>
              ))
            : rows.map((row) => {
                const id = props.id(row);
                const selected = selection?.ids.has(id) ?? false;
                return (
                  <tr key={id} aria-selected={selection ? selected : undefined}>
                    {selection && (
                      <td className="cell-check">
                        <Check
                          label={`Select ${props.selectLabel?.(row) ?? id}`}
                          hideLabel
                          checked={selected}
                          onChecked={(on) => {
                            const next = new Set(selection.ids);
                            if (on) next.add(id);
                            else next.delete(id);
                            selection.onIds(next);
                          }}
                        />
                      </td>
                    )}
                    {columns.map((c) => (
                      <td
                        key={c.key}
                        data-label={c.head || undefined}
                        className={[
                          c.lead ? "cell-lead" : "",
                          c.wide ? "cell-wide" : "",
                          c.right ? "cell-right" : "",
                          c.empty?.(row) ? "cell-empty" : "",
                          c.className ?? "",
                        ].join(" ")}
                      >
                        {c.cell(row)}
                      </td>
                    ))}
                    {props.actions && <td className={`cell-actions ${props.menuOnly ? "menu-only" : ""}`}>{props.actions(row)}</td>}
                  </tr>
                );
              })}
        </tbody>
      </table>
    </div>
  );
}

/** Back and forth between the pages of a list. Not drawn where there is only one. */
export function Pager(props: {
  page: number;
  hasNext: boolean;
  onBack: () => void;
  onNext: () => void;
  busy: boolean;
  /** What the ways back and on are called; lists are newest first otherwise. */
  words?: readonly [string, string];
}) {
  const [back, next] = props.words ?? ["Newer", "Older"];
  if (props.page === 0 && !props.hasNext) return null;
  return (
    <nav className="pager" aria-label="Pages">
      <span>Page {props.page + 1}</span>
      <Button small disabled={props.page === 0 || props.busy} onClick={props.onBack} icon={<ChevronLeft />}>
        {back}
      </Button>
      <Button small disabled={!props.hasNext || props.busy} onClick={props.onNext}>
        {next}
        <ChevronRight />
      </Button>
    </nav>
  );
}
