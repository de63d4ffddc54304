import { useQuery } from "@tanstack/react-query";
import { Ban, Pencil, Plus, Server, Trash2 } from "lucide-react";
import { useEffect, useState } from "react";
import * as calls from "../api/calls";
import type { JoinToken, Node } from "../api/types";
import { problemsOf, useAct, useIsAdmin } from "../lib/data";
import { bytes, plural } from "../lib/format";
import { Link, navigate } from "../lib/router";
import * as check from "../lib/validate";
import { CopyBox, CopyButton, Labels, NodeBadge, Time } from "../ui/bits";
import { Button } from "../ui/button";
import { Confirm, Dialog } from "../ui/dialog";
import { Field, Input } from "../ui/field";
import { Menu } from "../ui/menu";
import { Page } from "../ui/page";
import { Empty, Failure, Loading, Notice } from "../ui/states";
import { Table } from "../ui/table";
import { DialogButtons } from "./containers/actions";
import { type PairRow, pairRow } from "./containers/form";
import { Tile } from "./containers/overview";
import { LabelRows, labelsOf } from "./parts";

export function NodesPage() {
  const admin = useIsAdmin();
  const [joining, setJoining] = useState(false);
  const query = useQuery({ queryKey: ["nodes"], queryFn: ({ signal }) => calls.nodes.list(signal), refetchInterval: 15_000 });
  const add = (
    <Button variant="primary" icon={<Plus />} onClick={() => setJoining(true)}>
      Add a node
    </Button>
  );
  return (
    <Page title="Nodes" actions={admin && add}>
      {query.error && <Failure what="The nodes could not be read." error={query.error} retry={() => void query.refetch()} />}
      {query.data?.length === 0 ? (
        <Empty icon={<Server aria-hidden="true" />} title="No nodes yet" actions={admin && add}>
          A node is a machine with Docker that runs the NeuralMesh agent. <code>neuralmesh up</code> makes this machine the first one.
        </Empty>
      ) : (
        !(query.error && !query.data) && (
          <Table
            label="Nodes"
            rows={query.data}
            id={(n) => n.id}
            placeholders={3}
            columns={[
              {
                key: "name",
                head: "Name",
                lead: true,
                cell: (n) => (
                  <div className="cell-main">
                    <Link href={`/nodes/${n.id}`}>{n.name}</Link>
                    {n.info && <span className="sub">{n.info.hostname}</span>}
                  </div>
                ),
              },
              { key: "status", head: "Status", cell: (n) => <NodeBadge status={n.status} /> },
              {
                key: "containers",
                head: "Containers",
                cell: (n) => (
                  <Link className="link" href={`/containers?node=${n.id}`}>
                    {n.containers}
                  </Link>
                ),
              },
              {
                key: "size",
                head: "Machine",
                cell: (n) => (n.info ? `${plural(n.info.cpus, "core")}, ${bytes(n.info.memory)}` : <span className="faint">–</span>),
              },
              { key: "os", head: "System", cell: (n) => (n.info ? `${n.info.os}, ${n.info.arch}` : <span className="faint">–</span>) },
              {
                key: "docker",
                head: "Docker",
                cell: (n) =>
                  n.info?.docker.available ? (
                    (n.info.docker.version ?? "yes")
                  ) : (
                    <span className="danger-text">{n.info ? "does not answer" : "–"}</span>
                  ),
              },
              { key: "seen", head: "Last seen", cell: (n) => <Time at={n.lastSeen} /> },
            ]}
          />
        )
      )}
      {joining && <JoinDialog onClose={() => setJoining(false)} />}
    </Page>
  );
}

/** A join token and the command that uses it. Made as the dialog opens, shown this once. */
function JoinDialog({ onClose }: { onClose: () => void }) {
  const [token, setToken] = useState<JoinToken | null>(null);
  const make = useAct({
    run: () => calls.nodes.joinToken(),
    stale: [],
    quiet: true,
    after: (reply) => setToken(reply.data),
  });
  const { mutate } = make;
  useEffect(() => mutate(), [mutate]);
  const host = location.hostname;
  const local = host === "localhost" || host === "127.0.0.1" || host === "[::1]";
  const command = `neuralmesh agent --join ${token?.token ?? ""} --server https://${local ? "CONTROL-PLANE" : host}:7443`;
  return (
    <Dialog wide title="Add a node" onClose={onClose} footer={<Button onClick={onClose}>Done</Button>}>
      <p className="muted">On the new machine, which needs Docker and the neuralmesh program, run as root:</p>
      {make.error !== null && <Failure what="No join token could be made." error={make.error} retry={() => mutate()} />}
      {token ? (
        <>
          <CopyBox text={command} label="Copy the command" />
          {local && (
            <Notice tone="amber">
              Put in place of <code>CONTROL-PLANE</code> the name or address under which the new machine reaches this one; port 7443 has to
              be open to it.
            </Notice>
          )}
          <p className="faint">
            The token is good once, and ends <Time at={token.expires} />. It is not shown again. The node appears in the list as soon as it
            has joined.
          </p>
        </>
      ) : (
        make.error === null && <Loading what="the token" />
      )}
    </Dialog>
  );
}

export function NodePage({ id }: { id: string }) {
  const admin = useIsAdmin();
  const query = useQuery({ queryKey: ["nodes", "one", id], queryFn: ({ signal }) => calls.nodes.get(id, signal), refetchInterval: 10_000 });
  const [dialog, setDialog] = useState<"edit" | "remove" | null>(null);
  const cordon = useAct({
    run: (cordoned: boolean) => calls.nodes.update(id, { cordoned }),
    done: (n, cordoned) => (cordoned ? `${n.name} takes no new containers.` : `${n.name} takes new containers again.`),
    failed: "The node was not changed.",
    stale: ["nodes"],
  });
  const node = query.data;
  if (!node) {
    return (
      <Page title="Node" crumbs={[["Nodes", "/nodes"]]}>
        {query.error ? (
          <Failure what="The node could not be read." error={query.error} retry={() => void query.refetch()} />
        ) : (
          <Loading what="the node" />
        )}
      </Page>
    );
  }
  const { info } = node;
  return (
    <Page
      narrow
      title={node.name}
      crumbs={[["Nodes", "/nodes"]]}
      heading={
        <>
          <span className="truncate">{node.name}</span>
          <span style={{ fontSize: 13, letterSpacing: 0 }}>
            <NodeBadge status={node.status} />
          </span>
        </>
      }
      actions={
        admin && (
          <>
            <Button icon={<Ban />} busy={cordon.isPending} onClick={() => cordon.mutate(node.status !== "cordoned")}>
              {node.status === "cordoned" ? "Uncordon" : "Cordon"}
            </Button>
            <Menu
              label="More actions"
              items={[
                { label: "Rename, label…", icon: <Pencil />, onSelect: () => setDialog("edit") },
                "line",
                { label: "Remove…", icon: <Trash2 />, danger: true, onSelect: () => setDialog("remove") },
              ]}
            />
          </>
        )
      }
    >
      {query.error && <Failure what="What is shown may be old." error={query.error} />}
      {node.status === "notReady" && (
        <Notice tone="red">
          {info && !info.docker.available && info.docker.error
            ? info.docker.error
            : "Its agent is not connected. Its containers go on running; they can be changed again once it is back."}
        </Notice>
      )}
      {node.status === "cordoned" && <Notice tone="amber">It takes no new containers. Those it has go on.</Notice>}
      <div className="tiles">
        <Tile
          label="Containers"
          value={
            <Link className="link" href={`/containers?node=${node.id}`}>
              {node.containers}
            </Link>
          }
        />
        <Tile label="CPU" value={info ? plural(info.cpus, "core") : "–"} />
        <Tile label="Memory" value={info ? bytes(info.memory) : "–"} />
        <Tile label="Docker" value={info?.docker.version ?? "–"} of={info?.docker.apiVersion ? `API ${info.docker.apiVersion}` : ""} />
      </div>
      <section className="card">
        <header className="card-head">
          <h2>Details</h2>
        </header>
        <dl className="facts card-body">
          <dt>Id</dt>
          <dd className="copy-line">
            <code className="break">{node.id}</code>
            <CopyButton text={node.id} label="Copy the id" />
          </dd>
          {info && (
            <>
              <dt>Host name</dt>
              <dd>{info.hostname}</dd>
              <dt>System</dt>
              <dd>{info.os}</dd>
              <dt>Kernel</dt>
              <dd>
                {info.kernel}, {info.arch}
              </dd>
              <dt>Agent</dt>
              <dd>{info.agentVersion}</dd>
            </>
          )}
          <dt>Joined</dt>
          <dd>
            <Time at={node.created} />
          </dd>
          <dt>Last seen</dt>
          <dd>
            <Time at={node.lastSeen} />
          </dd>
          <dt>Labels</dt>
          <dd>
            <Labels labels={node.labels} />
          </dd>
        </dl>
      </section>
      {dialog === "edit" && <EditNode node={node} onClose={() => setDialog(null)} />}
      {dialog === "remove" && <RemoveNode node={node} onClose={() => setDialog(null)} />}
    </Page>
  );
}

function EditNode({ node, onClose }: { node: Node; onClose: () => void }) {
  const [name, setName] = useState<string>(node.name);
  const [rows, setRows] = useState<PairRow[]>(() => Object.entries(node.labels).map(([k, v]) => pairRow(k, v)));
  const [tried, setTried] = useState(false);
  const { labels, problems } = labelsOf(rows);
  const own = check.nodeName(name.trim());
  const save = useAct({
    run: () => calls.nodes.update(node.id, { ...(name.trim() !== node.name ? { name: name.trim() } : {}), labels }),
    done: (n) => `Changed ${n.name}.`,
    stale: ["nodes"],
    quiet: true,
    after: onClose,
  });
  const server = problemsOf(save.error);
  return (
    <Dialog
      title={`Change ${node.name}`}
      onClose={onClose}
      onSubmit={() => {
        setTried(true);
        if (!own && Object.keys(problems).length === 0) save.mutate();
      }}
      footer={<DialogButtons action="Save" busy={save.isPending} onClose={onClose} />}
    >
      <Field label="Name" problem={(tried ? own : undefined) ?? server.name}>
        {(d) => <Input {...d} mono value={name} onValue={setName} />}
      </Field>
      <LabelRows rows={rows} onRows={setRows} problems={tried ? problems : {}} />
      {save.error !== null && !server.name && <Failure error={save.error} />}
    </Dialog>
  );
}

function RemoveNode({ node, onClose }: { node: Node; onClose: () => void }) {
  const [typed, setTyped] = useState("");
  const remove = useAct({
    run: () => calls.nodes.remove(node.id),
    done: () => `${node.name} is no longer in the fleet.`,
    stale: ["nodes", "containers"],
    quiet: true,
    after: () => {
      onClose();
      navigate("/nodes");
    },
  });
  return (
    <Confirm
      title={`Take ${node.name} out of the fleet?`}
      action="Remove the node"
      busy={remove.isPending}
      error={remove.error}
      disabled={typed !== node.name}
      onConfirm={() => remove.mutate()}
      onClose={onClose}
    >
      <p className="muted">
        Its certificate is revoked at once and its agent can't come back without a new join token.{" "}
        {node.containers > 0 && `Its ${plural(node.containers, "container")} go on running there, but are no longer seen here.`}
      </p>
      <Field label={<>Type its name, {node.name}, to confirm</>}>{(d) => <Input {...d} mono value={typed} onValue={setTyped} />}</Field>
    </Confirm>
  );
}
