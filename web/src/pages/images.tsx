import { useQuery } from "@tanstack/react-query";
import { Download, Eraser, Layers as LayersIcon, Trash2 } from "lucide-react";
import { useRef, useState } from "react";
import { queries } from "../api";
import * as calls from "../api/calls";
import type { Image, Operation } from "../api/types";
import { finished, problemsOf, takesWork, useAct, useMayOperate, useNodeName, useNodes } from "../lib/data";
import { bytes, plural, shortId } from "../lib/format";
import { useQueryValue } from "../lib/router";
import * as check from "../lib/validate";
import { Badge, Time } from "../ui/bits";
import { Button, IconButton } from "../ui/button";
import { Confirm, Dialog } from "../ui/dialog";
import { Check, Field, Input, Select } from "../ui/field";
import { Page } from "../ui/page";
import { SearchBox } from "../ui/search";
import { Empty, Failure } from "../ui/states";
import { Table } from "../ui/table";
import { toast } from "../ui/toast";
import { OperationProgress } from "./operation-parts";
import { NodeFilter } from "./parts";

export function ImagesPage() {
  const may = useMayOperate();
  const nodeName = useNodeName();
  const nodes = useNodes();
  const [node, setNode] = useQueryValue("node");
  const [search, setSearch] = useQueryValue("search");
  const [dialog, setDialog] = useState<"pull" | "prune" | null>(null);
  const [removing, setRemoving] = useState<Image | null>(null);
  const query = useQuery({
    queryKey: ["images", node],
    queryFn: ({ signal }) => calls.images.list(node || undefined, signal),
    refetchInterval: 15_000,
  });
  const rows = query.data?.filter((i) => [i.id, ...i.tags].some((t) => t.toLowerCase().includes(search.toLowerCase())));
  const total = query.data?.reduce((sum, i) => sum + i.size, 0) ?? 0;
  const many = (nodes.data?.length ?? 0) > 1;
  return (
    <Page
      title="Images"
      actions={
        may && (
          <>
            <Button icon={<Eraser />} onClick={() => setDialog("prune")}>
              Prune
            </Button>
            <Button variant="primary" icon={<Download />} onClick={() => setDialog("pull")}>
              Pull
            </Button>
          </>
        )
      }
    >
      <div className="filters">
        <SearchBox label="Search images" value={search} onValue={setSearch} />
        <NodeFilter value={node} onValue={setNode} />
        {query.data && query.data.length > 0 && (
          <span className="faint">
            {plural(query.data.length, "image")}, {bytes(total)}
          </span>
        )}
      </div>
      {query.error && <Failure what="The images could not be read." error={query.error} retry={() => void query.refetch()} />}
      {rows?.length === 0 ? (
        <Empty
          icon={<LayersIcon aria-hidden="true" />}
          title={search ? "No image fits" : "No images yet"}
          actions={
            may &&
            !search && (
              <Button variant="primary" icon={<Download />} onClick={() => setDialog("pull")}>
                Pull one
              </Button>
            )
          }
        >
          {search ? "Try another part of its name." : "Creating a container pulls its image by itself; here one can be fetched ahead."}
        </Empty>
      ) : (
        !(query.error && !rows) && (
          <Table
            label="Images"
            rows={rows}
            id={(i) => `${i.nodeId} ${i.id}`}
            columns={[
              {
                key: "name",
                head: "Name",
                lead: true,
                cell: (i) => (
                  <div className="cell-main">
                    {i.tags.length === 0 ? <span className="faint">untagged</span> : <span className="name mono break">{i.tags[0]}</span>}
                    {i.tags.length > 1 && (
                      <span className="tags">
                        {i.tags.slice(1).map((t) => (
                          <Badge key={t} mono>
                            {t}
                          </Badge>
                        ))}
                      </span>
                    )}
                  </div>
                ),
              },
              { key: "id", head: "Id", cell: (i) => <code title={i.id}>{shortId(i.id)}</code> },
              { key: "size", head: "Size", cell: (i) => bytes(i.size) },
              {
                key: "used",
                head: "Used by",
                cell: (i) => (i.containers === 0 ? <span className="faint">nothing</span> : plural(i.containers, "container")),
              },
              ...(many ? [{ key: "node", head: "Node", cell: (i: Image) => nodeName(i.nodeId) }] : []),
              {
                key: "created",
                head: "Built",
                cell: (i) => (Date.parse(i.created) > 0 ? <Time at={i.created} /> : <span className="faint">not said</span>),
              },
            ]}
            menuOnly
            {...(may
              ? {
                  actions: (i: Image) => (
                    <IconButton small label={`Remove ${i.tags[0] ?? shortId(i.id)}`} onClick={() => setRemoving(i)}>
                      <Trash2 />
                    </IconButton>
                  ),
                }
              : {})}
          />
        )
      )}
      {dialog === "pull" && <PullDialog onClose={() => setDialog(null)} />}
      {dialog === "prune" && <PruneDialog onClose={() => setDialog(null)} />}
      {removing && <RemoveImage image={removing} onClose={() => setRemoving(null)} />}
    </Page>
  );
}

/** Pulls an image and shows how far it is; closed meanwhile, the pull goes on. */
function PullDialog({ onClose }: { onClose: () => void }) {
  const nodes = useNodes();
  const ready = (nodes.data ?? []).filter((n) => n.status !== "notReady");
  const [name, setName] = useState("");
  const [node, setNode] = useState("");
  const [tried, setTried] = useState(false);
  const [operation, setOperation] = useState<Operation | null>(null);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const closed = useRef(false);
  const many = (nodes.data?.length ?? 0) > 1;
  const own = {
    name: name.trim() === "" ? "Name an image" : check.image(name.trim()),
    nodeId: many && !node ? "Choose a node" : undefined,
  };
  const server = problemsOf(error);

  const pull = async () => {
    setTried(true);
    setError(null);
    if (own.name || own.nodeId) return;
    setBusy(true);
    try {
      const begun = await calls.images.pull({ name: name.trim(), nodeId: node || undefined });
      if (begun.operation) await finished(begun.operation, setOperation);
      toast.done(`Pulled ${name.trim()}.`);
      if (!closed.current) onClose();
    } catch (cause) {
      if (closed.current) toast.failed(`${name.trim()} was not pulled.`, cause);
      else setError(cause);
    } finally {
      setBusy(false);
      void queries.invalidateQueries({ queryKey: ["images"] });
    }
  };
  const close = () => {
    closed.current = true;
    if (busy) toast.info(`Pulling ${name.trim()} goes on; see Operations.`);
    onClose();
  };

  return (
    <Dialog
      title="Pull an image"
      onClose={close}
      onSubmit={() => void pull()}
      footer={
        <>
          <Button onClick={close}>{busy ? "Close, it goes on" : "Cancel"}</Button>
          <Button type="submit" variant="primary" busy={busy}>
            Pull
          </Button>
        </>
      }
    >
      <Field
        label="Image"
        hint="name:tag; latest where no tag is given"
        problem={(tried ? own.name : undefined) ?? server.name ?? server.tag}
      >
        {(d) => <Input {...d} mono disabled={busy} value={name} onValue={setName} placeholder="redis:7" />}
      </Field>
      {many && (
        <Field label="Node" problem={(tried ? own.nodeId : undefined) ?? server.nodeId}>
          {(d) => (
            <Select
              {...d}
              disabled={busy}
              value={node}
              onValue={setNode}
              options={[["", "Choose a node…"], ...ready.map((n) => [n.id, n.name] as const)]}
            />
          )}
        </Field>
      )}
      {error !== null && !server.name && !server.tag && !server.nodeId && <Failure what="It was not pulled." error={error} />}
      {operation && busy && <OperationProgress operation={operation} cancellable />}
    </Dialog>
  );
}

function RemoveImage({ image, onClose }: { image: Image; onClose: () => void }) {
  const [force, setForce] = useState(false);
  // By its name where it has one: an image with several loses only that, unless it is forced.
  const name = image.tags[0] ?? image.id;
  const remove = useAct({
    run: () => calls.images.remove(force ? image.id : name, image.nodeId, force),
    done: () => `Removed ${image.tags[0] ?? shortId(image.id)}.`,
    stale: ["images"],
    quiet: true,
    after: onClose,
  });
  return (
    <Confirm
      title={`Remove ${image.tags[0] ?? shortId(image.id)}?`}
      action="Remove"
      busy={remove.isPending}
      error={remove.error}
      onConfirm={() => remove.mutate()}
      onClose={onClose}
    >
      <p className="muted">
        {bytes(image.size)} at most are freed.
        {image.containers > 0 &&
          ` ${plural(image.containers, "container uses", "containers use")} it: Docker refuses while one of them is there.`}
      </p>
      {(image.tags.length > 1 || image.containers > 0) && (
        <Check
          label={image.tags.length > 1 ? `Remove all of its ${image.tags.length} names` : "Remove it although stopped containers use it"}
          checked={force}
          onChecked={setForce}
        />
      )}
    </Confirm>
  );
}

function PruneDialog({ onClose }: { onClose: () => void }) {
  const nodes = useNodes();
  const nodeName = useNodeName();
  const ready = (nodes.data ?? []).filter((n) => takesWork(n) || n.status === "cordoned");
  const [node, setNode] = useState("");
  const target = node || (ready.length === 1 ? (ready[0]?.id ?? "") : "");
  const prune = useAct({
    run: () => calls.images.prune(target),
    done: (p) =>
      p.removed.length === 0 ? "There was nothing to remove." : `Removed ${plural(p.removed.length, "image")}, ${bytes(p.freed)} freed.`,
    stale: ["images"],
    quiet: true,
    after: onClose,
  });
  return (
    <Confirm
      title="Prune images?"
      action="Prune"
      busy={prune.isPending}
      error={prune.error}
      disabled={!target}
      onConfirm={() => prune.mutate()}
      onClose={onClose}
    >
      <p className="muted">Images that no name points to and no container uses are removed{target && ` from ${nodeName(target)}`}.</p>
      {ready.length > 1 && (
        <Field label="Node">
          {(d) => (
            <Select
              {...d}
              value={node}
              onValue={setNode}
              options={[["", "Choose a node…"], ...ready.map((n) => [n.id, n.name] as const)]}
            />
          )}
        </Field>
      )}
    </Confirm>
  );
}
