import { useQuery } from "@tanstack/react-query";
import { ArrowDown, ArrowUp, Plus, X } from "lucide-react";
import { useCallback, useMemo } from "react";
import { client } from "../../api";
import type { Cluster, ClusterType, Container, Server, ServerKind } from "../../api/types";
import { useIsAdmin, useNodeName, useNodes } from "../../lib/data";
import { Button, IconButton } from "../../ui/button";
import { Cell, Check, Input } from "../../ui/field";
import { Notice } from "../../ui/states";
import type { Problems } from "../containers/form";
import { type ClusterForm, isFragile, type KnownPorts, type ServerRow, serverRow, showsWeights } from "./form";
import { isOfNodes } from "./words";

export interface Choice {
  /** Id, or the name that the cluster knows it by. */
  value: string;
  kind: ServerKind;
  text: string;
  /** Ports it can be reached at; nothing where that is not known. */
  ports: readonly number[] | undefined;
}

const GROUPS: readonly (readonly [ServerKind, string])[] = [
  ["container", "Containers"],
  ["address", "Registered addresses"],
  ["node", "Nodes"],
  ["instance", "Instances"],
];

function portsOf(server: Server, container: Container | undefined): readonly number[] | undefined {
  if (server.kind === "container") {
    const ports = container?.ports.filter((p) => (p.protocol ?? "tcp") === "tcp").map((p) => p.container);
    return ports && [...new Set(ports)];
  }
  if (server.kind === "node") return [];
  return server.port === undefined ? undefined : [server.port];
}

/** Servers that can be members: who may not have nodes opened to traffic is not offered them, but to run jobs. */
export function useChoices(cluster: Cluster | undefined, type: ClusterType): { choices: Choice[] | undefined; ports: KnownPorts; error: unknown } {
  const admin = useIsAdmin();
  const withNodes = admin || type === "compute";
  const nodeName = useNodeName();
  const { data: nodes } = useNodes();
  const servers = useQuery({
    queryKey: ["servers", "all"],
    queryFn: ({ signal }) => client.all<Server>("/api/servers", {}, signal),
  });
  const containers = useQuery({
    queryKey: ["containers", "all"],
    queryFn: ({ signal }) => client.all<Container>("/api/containers", {}, signal),
  });
  const choices = useMemo(() => {
    if (!servers.data || !containers.data) return undefined;
    const named = new Map(cluster?.members.filter((m) => !m.scaled).map((m, i) => [m.id, cluster.servers[i] ?? m.id]));
    const scaled = new Set(cluster?.members.filter((m) => m.scaled).map((m) => m.id));
    const byId = new Map(containers.data.map((c) => [c.id, c]));
    const nodeById = new Map(nodes?.map((n) => [n.id, n]));
    return servers.data
      .filter((s) => !scaled.has(s.id) && (s.kind !== "node" || withNodes || named.has(s.id)))
      .map((s): Choice => {
        const container = byId.get(s.id);
        const where = s.kind === "container" && s.nodeId ? ` on ${nodeName(s.nodeId)}` : "";
        const node = s.kind === "node" ? nodeById.get(s.id) : undefined;
        const status = container && container.status !== "running" ? container.status : node && node.status !== "ready" ? node.status : "";
        const how = status ? `, ${status}` : "";
        return { value: named.get(s.id) ?? s.id, kind: s.kind, text: `${s.name}${where}${how}`, ports: portsOf(s, container) };
      })
      .sort((a, b) => a.text.localeCompare(b.text, "en", { numeric: true }));
  }, [servers.data, containers.data, nodes, cluster, withNodes, nodeName]);
  const ports = useCallback((value: string) => choices?.find((c) => c.value === value)?.ports, [choices]);
  return { choices, ports, error: servers.error ?? containers.error };
}

/** Says that a database on these nodes does not survive the loss of one. */
export function Fragile({ form }: { form: ClusterForm }) {
  return isFragile(form) ? <Notice tone="amber">Fewer than three nodes do not survive the loss of one.</Notice> : null;
}

function moved(rows: ServerRow[], from: number, to: number): ServerRow[] {
  const next = [...rows];
  next.splice(to, 0, ...next.splice(from, 1));
  return next;
}

export function ServerRows(props: {
  form: ClusterForm;
  onRows: (rows: ServerRow[]) => void;
  problems: Problems;
  choices: Choice[] | undefined;
  hint?: string | undefined;
}) {
  const { form, onRows, problems, choices } = props;
  const rows = form.servers;
  const standby = form.type === "high-availability";
  const ofNodes = isOfNodes(form.type);
  const what = ofNodes ? "node" : "server";
  const weights = showsWeights(form);
  const set = (key: number, change: Partial<ServerRow>) => onRows(rows.map((r) => (r.key === key ? { ...r, ...change } : r)));
  const line = ofNodes ? "rows-line rows-constraint" : `rows-line rows-server ${weights ? "weighted" : ""}`;
  return (
    <div className="rows">
      <div className={`${line} rows-head`} aria-hidden="true">
        <span>{ofNodes ? "Node" : "Server"}</span>
        {!ofNodes && <span>Port</span>}
        {weights && <span>Weight</span>}
        <span />
      </div>
      {rows.map((row, i) => {
        const choice = choices?.find((c) => c.value === row.id);
        return (
          <div key={row.key} className={line}>
            <Cell label={`${ofNodes ? "Node" : "Server"} ${i + 1}`} problem={problems[`servers[${i}]`] ?? problems[`servers[${i}].id`]}>
              {(d) => (
                <select
                  {...d}
                  className="select"
                  value={row.id}
                  onChange={(e) => set(row.key, { id: e.target.value, port: "" })}
                >
                  <option value="">{choices ? `Choose a ${what}…` : "Loading…"}</option>
                  {row.id !== "" && !choice && <option value={row.id}>{row.id}</option>}
                  {GROUPS.filter(([kind]) => !ofNodes || kind === "node").map(([kind, text]) => {
                    const of = choices?.filter((c) => c.kind === kind) ?? [];
                    return of.length === 0 ? null : (
                      <optgroup key={kind} label={text}>
                        {of.map((c) => (
                          <option key={c.value} value={c.value} disabled={c.value !== row.id && rows.some((r) => r.id === c.value)}>
                            {c.text}
                          </option>
                        ))}
                      </optgroup>
                    );
                  })}
                </select>
              )}
            </Cell>
            {!ofNodes && (
              <Cell label={`Port of server ${i + 1}`} problem={problems[`servers[${i}].port`]}>
                {(d) => (
                  <Input
                    {...d}
                    inputMode="numeric"
                    placeholder={choice?.ports?.length === 1 ? String(choice.ports[0]) : choice?.ports?.length ? choice.ports.join(", ") : "port"}
                    value={row.port}
                    onValue={(port) => set(row.key, { port })}
                  />
                )}
              </Cell>
            )}
            {weights && (
              <Cell label={`Weight of server ${i + 1}`} problem={problems[`servers[${i}].weight`]}>
                {(d) => (
                  <Input {...d} inputMode="numeric" placeholder="1" value={row.weight} onValue={(weight) => set(row.key, { weight })} />
                )}
              </Cell>
            )}
            <span className="row">
              {ofNodes ? null : standby ? (
                <>
                  <IconButton label={`Move server ${i + 1} up`} disabled={i === 0} onClick={() => onRows(moved(rows, i, i - 1))}>
                    <ArrowUp />
                  </IconButton>
                  <IconButton
                    label={`Move server ${i + 1} down`}
                    disabled={i === rows.length - 1}
                    onClick={() => onRows(moved(rows, i, i + 1))}
                  >
                    <ArrowDown />
                  </IconButton>
                </>
              ) : (
                <Check label="Backup" checked={row.backup} onChecked={(backup) => set(row.key, { backup })} />
              )}
              <IconButton
                label={`Leave ${what} ${i + 1} out`}
                disabled={rows.length === 1}
                onClick={() => onRows(rows.filter((r) => r.key !== row.key))}
              >
                <X />
              </IconButton>
            </span>
            {problems[`servers[${i}].backup`] && <p className="problem">{problems[`servers[${i}].backup`]}</p>}
          </div>
        );
      })}
      {problems.servers && <p className="problem">{problems.servers}</p>}
      <div className="row wrap">
        <Button small icon={<Plus />} onClick={() => onRows([...rows, serverRow()])}>
          Add a {what}
        </Button>
        <span className="faint">
          {props.hint ??
            (form.type === "compute"
              ? "Tasks are packed over what CPU and memory their nodes have free."
              : form.type === "database"
                ? "Each holds all of the data. Three survive the loss of one; more take more reads."
                : standby
                  ? "The first that is up takes the traffic."
                  : "A backup gets traffic only while no other server is up. Without a port, it is the only one that a container publishes.")}
        </span>
      </div>
    </div>
  );
}
