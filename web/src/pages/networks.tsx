import { useQuery } from "@tanstack/react-query";
import { Network as NetworkIcon, Plus, Trash2, Unplug } from "lucide-react";
import { useState } from "react";
import * as calls from "../api/calls";
import type { Network } from "../api/types";
import { problemsOf, useAct, useMayOperate, useNodeName, useNodes } from "../lib/data";
import { useQueryValue } from "../lib/router";
import * as check from "../lib/validate";
import { Badge, Time } from "../ui/bits";
import { Button, IconButton } from "../ui/button";
import { Confirm, Dialog } from "../ui/dialog";
import { Check, Field, Input, Select } from "../ui/field";
import { Menu } from "../ui/menu";
import { Page } from "../ui/page";
import { SearchBox } from "../ui/search";
import { Empty, Failure, Loading } from "../ui/states";
import { Table } from "../ui/table";
import { DialogButtons } from "./containers/actions";
import type { PairRow } from "./containers/form";
import { LabelRows, labelsOf, NodeField, NodeFilter } from "./parts";

/** Docker's own three can't be removed. */
const builtIn = (n: Network) => ["bridge", "host", "none"].includes(n.name);

export function NetworksPage() {
  const may = useMayOperate();
  const nodeName = useNodeName();
  const many = (useNodes().data?.length ?? 0) > 1;
  const [node, setNode] = useQueryValue("node");
  const [search, setSearch] = useQueryValue("search");
  const [creating, setCreating] = useState(false);
  const [removing, setRemoving] = useState<Network | null>(null);
  const [members, setMembers] = useState<string | null>(null);
  const query = useQuery({
    queryKey: ["networks", node],
    queryFn: ({ signal }) => calls.networks.list(node || undefined, signal),
    refetchInterval: 15_000,
  });
  const rows = query.data?.filter((n) => n.name.toLowerCase().includes(search.toLowerCase()));
  const open = query.data?.find((n) => `${n.nodeId} ${n.id}` === members);
  const create = (
    <Button variant="primary" icon={<Plus />} onClick={() => setCreating(true)}>
      Create
    </Button>
  );
  return (
    <Page title="Networks" actions={may && create}>
      <div className="filters">
        <SearchBox label="Search networks" value={search} onValue={setSearch} />
        <NodeFilter value={node} onValue={setNode} />
      </div>
      {query.error && <Failure what="The networks could not be read." error={query.error} retry={() => void query.refetch()} />}
      {rows?.length === 0 ? (
        <Empty
          icon={<NetworkIcon aria-hidden="true" />}
          title={search ? "No network fits" : "No networks"}
          actions={may && !search && create}
        >
          {search ? "Try another part of its name." : "Containers on one network reach each other by name."}
        </Empty>
      ) : (
        !(query.error && !rows) && (
          <Table
            label="Networks"
            rows={rows}
            id={(n) => `${n.nodeId} ${n.id}`}
            columns={[
              {
                key: "name",
                head: "Name",
                lead: true,
                cell: (n) => (
                  <span className="row">
                    <span className="cell-main">
                      <span className="name">{n.name}</span>
                    </span>
                    {n.internal && (
                      <Badge tone="amber" title="No way out to the world">
                        internal
                      </Badge>
                    )}
                    {builtIn(n) && <Badge title="One of Docker's own">built in</Badge>}
                  </span>
                ),
              },
              { key: "driver", head: "Driver", cell: (n) => n.driver },
              { key: "subnets", head: "Subnets", cell: (n) => <span className="mono">{n.subnets.join(", ") || "–"}</span> },
              {
                key: "containers",
                head: "Containers",
                wide: true,
                cell: (n) =>
                  n.containers.length === 0 ? (
                    <span className="faint">none</span>
                  ) : (
                    <span className="tags">
                      {n.containers.slice(0, 4).map((name) => (
                        <Badge key={name}>{name}</Badge>
                      ))}
                      {n.containers.length > 4 && <Badge title={n.containers.slice(4).join(", ")}>+{n.containers.length - 4}</Badge>}
                    </span>
                  ),
              },
              ...(many ? [{ key: "node", head: "Node", cell: (n: Network) => nodeName(n.nodeId) }] : []),
              { key: "created", head: "Created", cell: (n) => <Time at={n.created} /> },
            ]}
            menuOnly
            {...(may
              ? {
                  actions: (n: Network) =>
                    n.name === "host" || n.name === "none" ? null : (
                      <Menu
                        small
                        label={`Actions for ${n.name}`}
                        items={[
                          { label: "Containers on it…", icon: <NetworkIcon />, onSelect: () => setMembers(`${n.nodeId} ${n.id}`) },
                          ...(builtIn(n)
                            ? []
                            : ["line" as const, { label: "Remove…", icon: <Trash2 />, danger: true, onSelect: () => setRemoving(n) }]),
                        ]}
                      />
                    ),
                }
              : {})}
          />
        )
      )}
      {creating && <CreateNetwork onClose={() => setCreating(false)} />}
      {removing && <RemoveNetwork network={removing} onClose={() => setRemoving(null)} />}
      {open && <Members network={open} onClose={() => setMembers(null)} />}
    </Page>
  );
}

function CreateNetwork({ onClose }: { onClose: () => void }) {
  const [name, setName] = useState("");
  const [node, setNode] = useState("");
  const [internal, setInternal] = useState(false);
  const [rows, setRows] = useState<PairRow[]>([]);
  const [tried, setTried] = useState(false);
  const { labels, problems } = labelsOf(rows);
  const own = check.networkName(name.trim());
  const create = useAct({
    run: () => calls.networks.create({ name: name.trim(), nodeId: node || undefined, internal, labels }),
    done: (n) => `Created the network ${n.name}.`,
    stale: ["networks"],
    quiet: true,
    after: onClose,
  });
  const server = problemsOf(create.error);
  return (
    <Dialog
      title="Create a network"
      onClose={onClose}
      onSubmit={() => {
        setTried(true);
        if (!own && Object.keys(problems).length === 0) create.mutate();
      }}
      footer={<DialogButtons action="Create" busy={create.isPending} onClose={onClose} />}
    >
      <Field label="Name" problem={(tried ? own : undefined) ?? server.name}>
        {(d) => <Input {...d} mono value={name} onValue={setName} placeholder="backend" />}
      </Field>
      <NodeField value={node} onValue={setNode} problem={server.nodeId} />
      <Check label="Internal" hint="Its containers reach each other, but nothing outside" checked={internal} onChecked={setInternal} />
      <LabelRows rows={rows} onRows={setRows} problems={tried ? problems : {}} />
      {create.error !== null && !server.name && !server.nodeId && <Failure error={create.error} />}
    </Dialog>
  );
}

function RemoveNetwork({ network, onClose }: { network: Network; onClose: () => void }) {
  const remove = useAct({
    run: () => calls.networks.remove(network.name, network.nodeId),
    done: () => `Removed the network ${network.name}.`,
    stale: ["networks"],
    quiet: true,
    after: onClose,
  });
  return (
    <Confirm
      title={`Remove ${network.name}?`}
      action="Remove"
      busy={remove.isPending}
      error={remove.error}
      onConfirm={() => remove.mutate()}
      onClose={onClose}
    >
      <p className="muted">
        {network.containers.length > 0
          ? `${network.containers.join(", ")} ${network.containers.length === 1 ? "is" : "are"} on it: Docker refuses while a container is.`
          : "No container is on it."}
      </p>
    </Confirm>
  );
}

/** Who is on a network: take one off, put another on. */
function Members({ network, onClose }: { network: Network; onClose: () => void }) {
  const [chosen, setChosen] = useState("");
  const containers = useQuery({
    queryKey: ["containers", "on", network.nodeId],
    queryFn: ({ signal }) => calls.containers.list({ nodeId: network.nodeId, limit: 200 }, signal),
  });
  const change = useAct({
    run: ({ action, id }: { action: "attach" | "detach"; id: string }) => calls.networks.member(network.name, action, id),
    done: (_r, { action }) => (action === "attach" ? `It is on ${network.name} now.` : `It is off ${network.name} now.`),
    stale: ["networks", "containers"],
    quiet: true,
    after: () => setChosen(""),
  });
  const all = containers.data?.items ?? [];
  const here = all.filter((c) => network.containers.includes(c.name));
  const elsewhere = all.filter((c) => !network.containers.includes(c.name));
  const unknown = network.containers.filter((name) => !all.some((c) => c.name === name));
  return (
    <Dialog title={`Containers on ${network.name}`} onClose={onClose} footer={<Button onClick={onClose}>Close</Button>}>
      {containers.isLoading ? (
        <Loading what="the containers" />
      ) : (
        <ul className="stack tight">
          {here.map((c) => (
            <li key={c.id} className="row">
              <span className="grow truncate">{c.name}</span>
              <IconButton
                small
                label={`Take ${c.name} off`}
                busy={change.isPending && change.variables?.id === c.id}
                onClick={() => change.mutate({ action: "detach", id: c.id })}
              >
                <Unplug />
              </IconButton>
            </li>
          ))}
          {unknown.map((name) => (
            <li key={name} className="row">
              <span className="grow truncate faint">{name}</span>
            </li>
          ))}
          {network.containers.length === 0 && <li className="faint">No container is on it.</li>}
        </ul>
      )}
      {elsewhere.length > 0 && (
        <Field label="Put another on it">
          {(d) => (
            <div className="row">
              <Select
                {...d}
                value={chosen}
                onValue={setChosen}
                options={[["", "Choose a container…"], ...elsewhere.map((c) => [c.id, c.name] as const)]}
              />
              <Button
                disabled={!chosen}
                busy={change.isPending && change.variables?.action === "attach"}
                onClick={() => change.mutate({ action: "attach", id: chosen })}
              >
                Attach
              </Button>
            </div>
          )}
        </Field>
      )}
      {change.error !== null && <Failure error={change.error} />}
    </Dialog>
  );
}
