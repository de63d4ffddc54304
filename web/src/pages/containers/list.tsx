import { Container as ContainerIcon, Play, Plus, ScrollText, Square, Trash2, X } from "lucide-react";
import { useState } from "react";
import { queries } from "../../api";
import * as calls from "../../api/calls";
import type { Container, ContainerStatus } from "../../api/types";
import { useMayOperate, useNodeName, useNodes, usePaged } from "../../lib/data";
import { mebibytes, memoryBytes, percent, plural } from "../../lib/format";
import { useSettled } from "../../lib/hooks";
import { Link, navigate, useQueryValue } from "../../lib/router";
import { Badge, ContainerBadge, Time, Usage } from "../../ui/bits";
import { Button, IconButton } from "../../ui/button";
import { Segmented, Select } from "../../ui/field";
import { Menu } from "../../ui/menu";
import { Page } from "../../ui/page";
import { SearchBox } from "../../ui/search";
import { Empty, Failure } from "../../ui/states";
import { type Column, Pager, Table } from "../../ui/table";
import { toast } from "../../ui/toast";
import { actionsFor, RemoveDialog, useContainerActions } from "./actions";
import { PortList } from "./parts";

const STATUSES: readonly (readonly ["" | ContainerStatus, string])[] = [
  ["", "Any status"],
  ["running", "Running"],
  ["paused", "Paused"],
  ["created", "Created"],
  ["stopped", "Stopped"],
  ["exited", "Exited"],
];

/** What a container uses changes every second, and no event tells of it. */
export const REFRESH_MS = 2_000;

export function ContainersPage() {
  const may = useMayOperate();
  const nodes = useNodes();
  const [name, setName] = useQueryValue("name");
  const [status, setStatus] = useQueryValue("status");
  const [node, setNode] = useQueryValue("node");
  const [label, setLabel] = useQueryValue("label");
  const [whose, setWhose] = useQueryValue("whose");
  const filter = {
    name: useSettled(name.trim(), 200) || undefined,
    status: status || undefined,
    nodeId: node || undefined,
    label: label || undefined,
  };
  const filtered = Object.values(filter).some(Boolean);
  const ours = usePaged(
    ["containers", "list", { ...filter, managed: true }],
    (cursor, signal) => calls.containers.list({ ...filter, managed: true, cursor }, signal),
    {
      refetchInterval: REFRESH_MS,
      enabled: whose !== "others",
    },
  );
  const others = usePaged(
    ["containers", "list", { ...filter, managed: false }],
    (cursor, signal) => calls.containers.list({ ...filter, managed: false, cursor }, signal),
    {
      refetchInterval: REFRESH_MS,
      enabled: whose !== "ours",
    },
  );
  const showOurs = whose !== "others";
  const showOthers = whose !== "ours" && (whose === "others" || (others.rows?.length ?? 0) > 0);
  const noOurs = ours.rows?.length === 0;

  return (
    <Page
      title="Containers"
      actions={
        may && (
          <Link className="btn primary" href="/containers/new">
            <Plus />
            Create
          </Link>
        )
      }
    >
      <div className="filters">
        <SearchBox label="Search containers" placeholder="Search by name" value={name} onValue={setName} />
        <Select aria-label="Status" value={status} onValue={setStatus} options={STATUSES} />
        {(nodes.data?.length ?? 0) > 1 && (
          <Select
            aria-label="Node"
            value={node}
            onValue={setNode}
            options={[["", "Any node"], ...(nodes.data ?? []).map((n) => [n.id, n.name] as const)]}
          />
        )}
        <Segmented
          label="Whose containers"
          value={whose}
          onValue={setWhose}
          options={[
            ["", "All"],
            ["ours", "Managed"],
            ["others", "Others"],
          ]}
        />
        {label && (
          <Button small onClick={() => setLabel("")}>
            <span className="mono">{label}</span>
            <X />
          </Button>
        )}
      </div>
      {showOurs && (
        <>
          {ours.query.error && (
            <Failure what="The containers could not be read." error={ours.query.error} retry={() => void ours.query.refetch()} />
          )}
          {noOurs && filtered && (
            <Empty
              icon={<ContainerIcon aria-hidden="true" />}
              title="No container fits"
              actions={<Button onClick={() => navigate("/containers")}>Clear the filters</Button>}
            >
              None of the managed containers has what you asked for.
            </Empty>
          )}
          {noOurs && !filtered && (
            <Empty
              icon={<ContainerIcon aria-hidden="true" />}
              title="No containers yet"
              actions={
                may && (
                  <Link className="btn primary" href="/containers/new">
                    <Plus />
                    Create the first one
                  </Link>
                )
              }
            >
              {may
                ? "Make one from an image or a template; it can be serving in a few seconds."
                : "Once an operator makes one, it shows here."}
            </Empty>
          )}
          {!noOurs && !(ours.query.error && !ours.rows) && (
            <ContainerTable label="Managed containers" rows={ours.rows} may={may} manyNodes={(nodes.data?.length ?? 0) > 1} />
          )}
          <Pager {...ours.pager} />
        </>
      )}
      {showOthers && (
        <>
          <div className="group-head">
            <h2>Started outside NeuralMesh</h2>
            <p>What others run on the same Docker engines. It can be looked at and acted on, but is not kept alive or moved.</p>
          </div>
          {others.query.error && (
            <Failure
              what="The containers of others could not be read."
              error={others.query.error}
              retry={() => void others.query.refetch()}
            />
          )}
          {others.rows?.length === 0 ? (
            <Empty icon={<ContainerIcon aria-hidden="true" />} title="Nothing runs beside NeuralMesh" />
          ) : (
            <ContainerTable
              label="Containers started outside NeuralMesh"
              rows={others.rows}
              may={may}
              manyNodes={(nodes.data?.length ?? 0) > 1}
            />
          )}
          <Pager {...others.pager} />
        </>
      )}
    </Page>
  );
}

export function ContainerTable(props: { label: string; rows: Container[] | undefined; may: boolean; manyNodes: boolean }) {
  const { rows, may } = props;
  const [ids, setIds] = useState<ReadonlySet<string>>(new Set());
  const nodeName = useNodeName();
  const chosen = rows?.filter((c) => ids.has(c.id)) ?? [];
  const columns: Column<Container>[] = [
    {
      key: "name",
      head: "Name",
      lead: true,
      cell: (c) => (
        <div className="cell-main">
          <Link href={`/containers/${c.id}`} className="truncate max-32" title={c.name}>
            {c.name}
          </Link>
          <span className="sub truncate max-32 mono" title={c.image}>
            {c.image}
          </span>
        </div>
      ),
    },
    {
      key: "status",
      head: "Status",
      cell: (c) => (
        <div className="cell-main">
          <ContainerBadge status={c.status} health={c.health} exitCode={c.exitCode} />
          {!c.reachable && (
            <span className="sub" title="The node can't be reached: this is the last that was seen.">
              last known
            </span>
          )}
        </div>
      ),
    },
    { key: "cpu", head: "CPU", cell: (c) => <CpuUsage container={c} />, empty: (c) => c.status !== "running" },
    { key: "memory", head: "Memory", cell: (c) => <MemoryUsage container={c} />, empty: (c) => c.status !== "running" },
    { key: "ports", head: "Ports", cell: (c) => <PortList ports={c.ports} most={2} />, empty: (c) => c.ports.length === 0 },
    ...(props.manyNodes
      ? [
          {
            key: "node",
            head: "Node",
            cell: (c: Container) => <Link href={`/nodes/${c.nodeId}`}>{nodeName(c.nodeId)}</Link>,
          } satisfies Column<Container>,
        ]
      : []),
    { key: "created", head: "Created", cell: (c) => <Time at={c.created} /> },
  ];
  return (
    <>
      <Table
        label={props.label}
        columns={columns}
        rows={rows}
        id={(c) => c.id}
        selection={may ? { ids, onIds: setIds } : undefined}
        selectLabel={(c) => c.name}
        {...(may ? { actions: (c: Container) => <RowActions container={c} /> } : {})}
      />
      {may && chosen.length > 0 && <SelectionBar chosen={chosen} clear={() => setIds(new Set())} />}
    </>
  );
}

function CpuUsage({ container: c }: { container: Container }) {
  if (c.status !== "running") return <span className="faint">–</span>;
  const { cpuUsage, cpuLimit } = c.resources;
  return (
    <Usage
      label="CPU"
      text={percent(cpuUsage)}
      share={cpuLimit === null ? null : cpuUsage / 100 / cpuLimit}
      title={cpuLimit === null ? "no limit" : `of ${plural(cpuLimit, "core")}`}
    />
  );
}

function MemoryUsage({ container: c }: { container: Container }) {
  if (c.status !== "running" && c.status !== "paused") return <span className="faint">–</span>;
  const { memoryUsage, memoryLimit } = c.resources;
  const limit = memoryLimit ? memoryBytes(memoryLimit) : Number.NaN;
  return (
    <Usage
      label="Memory"
      text={mebibytes(memoryUsage)}
      share={Number.isNaN(limit) ? null : (memoryUsage * 1024 * 1024) / limit}
      title={memoryLimit ? `of ${memoryLimit}` : "no limit"}
    />
  );
}

function RowActions({ container }: { container: Container }) {
  const { plain, items, dialog } = useContainerActions(container);
  const first = plain[0];
  return (
    <>
      {first && (
        <IconButton small label={`${first.label} ${container.name}`} busy={first.busy} disabled={first.disabled} onClick={first.run}>
          {first.icon}
        </IconButton>
      )}
      <Link
        className="btn ghost icon small"
        href={`/containers/${container.id}/logs`}
        aria-label={`Logs of ${container.name}`}
        title="Logs"
      >
        <ScrollText />
      </Link>
      <Menu
        small
        label={`More actions for ${container.name}`}
        items={[...plain.slice(1).map((p) => ({ label: p.label, icon: p.icon, onSelect: p.run, disabled: p.disabled })), ...items]}
      />
      {dialog}
    </>
  );
}

function SelectionBar({ chosen, clear }: { chosen: Container[]; clear: () => void }) {
  const [removing, setRemoving] = useState(false);
  const [busy, setBusy] = useState<"start" | "stop" | null>(null);
  const able = (action: "start" | "stop") => chosen.filter((c) => actionsFor(c).includes(action));
  const run = async (action: "start" | "stop") => {
    const list = able(action);
    setBusy(action);
    // Docker itself takes eight at a time; the server queues the rest.
    const results = await Promise.allSettled(list.map((c) => calls.containers.act(c.id, action)));
    setBusy(null);
    const failed = results.flatMap((r, i) => (r.status === "rejected" ? [{ name: list[i]?.name ?? "", reason: r.reason as unknown }] : []));
    const good = list.length - failed.length;
    if (good > 0) toast.done(`${action === "start" ? "Started" : "Stopped"} ${plural(good, "container")}.`);
    for (const f of failed) toast.failed(`${f.name}:`, f.reason);
    void queries.invalidateQueries({ queryKey: ["containers"] });
  };
  return (
    <section className="selection-bar" aria-label="Actions for the selected">
      <Badge tone="blue">{chosen.length} selected</Badge>
      <Button
        small
        icon={<Play />}
        busy={busy === "start"}
        disabled={able("start").length === 0 || busy !== null}
        onClick={() => void run("start")}
      >
        Start
      </Button>
      <Button
        small
        icon={<Square />}
        busy={busy === "stop"}
        disabled={able("stop").length === 0 || busy !== null}
        onClick={() => void run("stop")}
      >
        Stop
      </Button>
      <Button small icon={<Trash2 />} disabled={busy !== null} onClick={() => setRemoving(true)}>
        Remove…
      </Button>
      <Button small variant="ghost" onClick={clear}>
        Clear
      </Button>
      {removing && <RemoveDialog containers={chosen} onClose={() => setRemoving(false)} onRemoved={clear} />}
    </section>
  );
}
