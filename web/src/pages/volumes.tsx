import { useQuery } from "@tanstack/react-query";
import { HardDrive, Plus, Trash2 } from "lucide-react";
import { useState } from "react";
import * as calls from "../api/calls";
import type { Volume } from "../api/types";
import { problemsOf, useAct, useMayOperate, useNodeName, useNodes } from "../lib/data";
import { useQueryValue } from "../lib/router";
import * as check from "../lib/validate";
import { Badge, Time } from "../ui/bits";
import { Button, IconButton } from "../ui/button";
import { Confirm, Dialog } from "../ui/dialog";
import { Field, Input } from "../ui/field";
import { Page } from "../ui/page";
import { SearchBox } from "../ui/search";
import { Empty, Failure } from "../ui/states";
import { Table } from "../ui/table";
import { DialogButtons } from "./containers/actions";
import type { PairRow } from "./containers/form";
import { LabelRows, labelsOf, NodeField, NodeFilter } from "./parts";

/** Docker names anonymous volumes by 64 hex digits. */
const anonymous = (v: Volume) => /^[0-9a-f]{64}$/.test(v.name);

export function VolumesPage() {
  const may = useMayOperate();
  const nodeName = useNodeName();
  const many = (useNodes().data?.length ?? 0) > 1;
  const [node, setNode] = useQueryValue("node");
  const [search, setSearch] = useQueryValue("search");
  const [creating, setCreating] = useState(false);
  const [removing, setRemoving] = useState<Volume | null>(null);
  const query = useQuery({
    queryKey: ["volumes", node],
    queryFn: ({ signal }) => calls.volumes.list(node || undefined, signal),
    refetchInterval: 15_000,
  });
  const rows = query.data?.filter((v) => v.name.toLowerCase().includes(search.toLowerCase()));
  const create = (
    <Button variant="primary" icon={<Plus />} onClick={() => setCreating(true)}>
      Create
    </Button>
  );
  return (
    <Page title="Volumes" actions={may && create}>
      <div className="filters">
        <SearchBox label="Search volumes" value={search} onValue={setSearch} />
        <NodeFilter value={node} onValue={setNode} />
      </div>
      {query.error && <Failure what="The volumes could not be read." error={query.error} retry={() => void query.refetch()} />}
      {rows?.length === 0 ? (
        <Empty
          icon={<HardDrive aria-hidden="true" />}
          title={search ? "No volume fits" : "No volumes yet"}
          actions={may && !search && create}
        >
          {search
            ? "Try another part of its name."
            : "A volume keeps data when its container is replaced. A container that names one makes it by itself, too."}
        </Empty>
      ) : (
        !(query.error && !rows) && (
          <Table
            label="Volumes"
            rows={rows}
            id={(v) => `${v.nodeId} ${v.name}`}
            columns={[
              {
                key: "name",
                head: "Name",
                lead: true,
                cell: (v) => (
                  <div className="cell-main">
                    <span className="row">
                      <span className="name mono truncate max-48" title={v.name}>
                        {anonymous(v) ? v.name.slice(0, 12) : v.name}
                      </span>
                      {anonymous(v) && <Badge>anonymous</Badge>}
                    </span>
                    <span className="sub mono truncate max-48" title={v.mountpoint}>
                      {v.mountpoint}
                    </span>
                  </div>
                ),
              },
              {
                key: "used",
                head: "Used by",
                cell: (v) =>
                  v.usedBy.length === 0 ? (
                    <span className="faint">nothing</span>
                  ) : (
                    <span className="tags">
                      {v.usedBy.map((name) => (
                        <Badge key={name}>{name}</Badge>
                      ))}
                    </span>
                  ),
              },
              { key: "driver", head: "Driver", cell: (v) => v.driver },
              ...(many ? [{ key: "node", head: "Node", cell: (v: Volume) => nodeName(v.nodeId) }] : []),
              { key: "created", head: "Created", cell: (v) => <Time at={v.created} /> },
            ]}
            menuOnly
            {...(may
              ? {
                  actions: (v: Volume) => (
                    <IconButton small label={`Remove ${v.name}`} onClick={() => setRemoving(v)}>
                      <Trash2 />
                    </IconButton>
                  ),
                }
              : {})}
          />
        )
      )}
      {creating && <CreateVolume onClose={() => setCreating(false)} />}
      {removing && <RemoveVolume volume={removing} onClose={() => setRemoving(null)} />}
    </Page>
  );
}

function CreateVolume({ onClose }: { onClose: () => void }) {
  const [name, setName] = useState("");
  const [node, setNode] = useState("");
  const [rows, setRows] = useState<PairRow[]>([]);
  const [tried, setTried] = useState(false);
  const { labels, problems } = labelsOf(rows);
  const own = check.volumeName(name.trim());
  const create = useAct({
    run: () => calls.volumes.create({ name: name.trim(), nodeId: node || undefined, labels }),
    done: (v) => `Created the volume ${v.name}.`,
    stale: ["volumes"],
    quiet: true,
    after: onClose,
  });
  const server = problemsOf(create.error);
  return (
    <Dialog
      title="Create a volume"
      onClose={onClose}
      onSubmit={() => {
        setTried(true);
        if (!own && Object.keys(problems).length === 0) create.mutate();
      }}
      footer={<DialogButtons action="Create" busy={create.isPending} onClose={onClose} />}
    >
      <Field label="Name" problem={(tried ? own : undefined) ?? server.name}>
        {(d) => <Input {...d} mono value={name} onValue={setName} placeholder="data" />}
      </Field>
      <NodeField value={node} onValue={setNode} problem={server.nodeId} />
      <LabelRows rows={rows} onRows={setRows} problems={tried ? problems : {}} />
      {create.error !== null && !server.name && !server.nodeId && <Failure error={create.error} />}
    </Dialog>
  );
}

function RemoveVolume({ volume, onClose }: { volume: Volume; onClose: () => void }) {
  const [typed, setTyped] = useState("");
  const remove = useAct({
    run: () => calls.volumes.remove(volume.name, volume.nodeId),
    done: () => `Removed the volume ${volume.name}.`,
    stale: ["volumes"],
    quiet: true,
    after: onClose,
  });
  const named = !anonymous(volume);
  return (
    <Confirm
      title="Remove this volume?"
      action="Remove with its data"
      busy={remove.isPending}
      error={remove.error}
      disabled={named && typed !== volume.name}
      onConfirm={() => remove.mutate()}
      onClose={onClose}
    >
      <p className="muted">
        All data in <strong className="break">{volume.name}</strong> will be gone for good.
        {volume.usedBy.length > 0 &&
          ` ${volume.usedBy.join(", ")} ${volume.usedBy.length === 1 ? "uses" : "use"} it: Docker refuses while a container does.`}
      </p>
      {named && (
        <Field label={<>Type its name, {volume.name}, to confirm</>}>{(d) => <Input {...d} mono value={typed} onValue={setTyped} />}</Field>
      )}
    </Confirm>
  );
}
