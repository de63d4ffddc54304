import { Plus, X } from "lucide-react";
import { useNodes } from "../lib/data";
import type { Range } from "../lib/samples";
import * as check from "../lib/validate";
import { Button, IconButton } from "../ui/button";
import { Cell, Field, Input, Segmented, Select } from "../ui/field";
import { type PairRow, type Problems, pairRow } from "./containers/form";

/** Chooses one node or all. Not drawn where there is only one. */
export function NodeFilter({ value, onValue }: { value: string; onValue: (value: string) => void }) {
  const { data } = useNodes();
  if ((data?.length ?? 0) < 2 && !value) return null;
  return (
    <Select
      aria-label="Node"
      value={value}
      onValue={onValue}
      options={[["", "All nodes"], ...(data ?? []).map((n) => [n.id, n.name] as const)]}
    />
  );
}

/** Chooses the node something is made on. Not drawn where there is only one. */
export function NodeField({ value, onValue, problem }: { value: string; onValue: (value: string) => void; problem: string | undefined }) {
  const { data } = useNodes();
  if ((data?.length ?? 0) < 2) return null;
  return (
    <Field label="Node" problem={problem}>
      {(d) => (
        <Select
          {...d}
          value={value}
          onValue={onValue}
          options={[["", "Choose a node…"], ...(data ?? []).map((n) => [n.id, n.name] as const)]}
        />
      )}
    </Field>
  );
}

/** Labels as rows of key and value. */
export function LabelRows({ rows, onRows, problems }: { rows: PairRow[]; onRows: (rows: PairRow[]) => void; problems: Problems }) {
  const set = (key: number, change: Partial<PairRow>) => onRows(rows.map((r) => (r.key === key ? { ...r, ...change } : r)));
  return (
    <div className="field">
      <span className="field-label">
        Labels<span className="optional"> · optional</span>
      </span>
      <div className="rows">
        {rows.map((row, i) => (
          <div key={row.key} className="rows-line rows-env">
            <Cell label={`Key of label ${i + 1}`} problem={problems[row.name.trim()]}>
              {(d) => <Input {...d} mono placeholder="key" value={row.name} onValue={(name) => set(row.key, { name })} />}
            </Cell>
            <Cell label={`Value of label ${i + 1}`}>
              {(d) => <Input {...d} mono placeholder="value" value={row.value} onValue={(value) => set(row.key, { value })} />}
            </Cell>
            <IconButton label={`Remove label ${i + 1}`} onClick={() => onRows(rows.filter((r) => r.key !== row.key))}>
              <X />
            </IconButton>
          </div>
        ))}
        <div>
          <Button small icon={<Plus />} onClick={() => onRows([...rows, pairRow()])}>
            Add a label
          </Button>
        </div>
      </div>
    </div>
  );
}

/** The labels of the rows, and what is wrong with their keys. */
export function labelsOf(rows: PairRow[]): { labels: Record<string, string>; problems: Problems } {
  const labels: Record<string, string> = {};
  const problems: Problems = {};
  for (const row of rows) {
    const key = row.name.trim();
    if (key === "" && row.value === "") continue;
    const says = key in labels ? "stands here twice" : check.labelKey(key);
    if (says) problems[key] = says;
    labels[key] = row.value;
  }
  return { labels, problems };
}

/** How far back charts reach. */
export function RangeChoice({ value, onValue }: { value: Range; onValue: (value: Range) => void }) {
  return (
    <Segmented
      label="Range"
      value={value}
      onValue={onValue}
      options={[
        ["5m", "5 minutes"],
        ["1h", "1 hour"],
        ["24h", "24 hours"],
      ]}
    />
  );
}
