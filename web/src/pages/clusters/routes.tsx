import { Plus, X } from "lucide-react";
import { Button, IconButton } from "../../ui/button";
import { Cell, Input } from "../../ui/field";
import type { Problems } from "../containers/form";
import { type RouteRow, routeRow } from "./form";

/** Which requests are the cluster's; without any, all are. */
export function RouteRows({ rows, onRows, problems }: { rows: RouteRow[]; onRows: (rows: RouteRow[]) => void; problems: Problems }) {
  const set = (key: number, change: Partial<RouteRow>) => onRows(rows.map((r) => (r.key === key ? { ...r, ...change } : r)));
  return (
    <div className="rows">
      <p className="muted">Which requests are this cluster's. Clusters whose routes differ may share a port.</p>
      {rows.map((row, i) => (
        <div key={row.key} className="rows-line rows-env">
          <Cell label={`Host of route ${i + 1}`} problem={problems[`routes[${i}].host`] ?? problems[`routes[${i}]`]}>
            {(d) => <Input {...d} mono placeholder="any host" value={row.host} onValue={(host) => set(row.key, { host })} />}
          </Cell>
          <Cell label={`Path prefix of route ${i + 1}`} problem={problems[`routes[${i}].pathPrefix`]}>
            {(d) => <Input {...d} mono placeholder="/" value={row.pathPrefix} onValue={(pathPrefix) => set(row.key, { pathPrefix })} />}
          </Cell>
          <IconButton label={`Remove route ${i + 1}`} onClick={() => onRows(rows.filter((r) => r.key !== row.key))}>
            <X />
          </IconButton>
        </div>
      ))}
      {problems.routes && <p className="problem">{problems.routes}</p>}
      <div>
        <Button small icon={<Plus />} onClick={() => onRows([...rows, routeRow()])}>
          Add a route
        </Button>
      </div>
    </div>
  );
}
