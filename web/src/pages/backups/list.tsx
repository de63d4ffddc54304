import { Archive, Pause, Pencil, Play, Plus, Trash2 } from "lucide-react";
import { useState } from "react";
import type { Backup, BackupConfig } from "../../api/types";
import { useMayOperate } from "../../lib/data";
import { Link, navigate, useQueryValue } from "../../lib/router";
import { Time } from "../../ui/bits";
import { Button } from "../../ui/button";
import { Select } from "../../ui/field";
import { Menu, type MenuItem } from "../../ui/menu";
import { Page } from "../../ui/page";
import { SearchBox } from "../../ui/search";
import { Empty, Failure } from "../../ui/states";
import { type Column, Table } from "../../ui/table";
import { useConfigs, useRecentBackups, useServerName } from "./data";
import { RemoveConfig, usePause, usePerform } from "./dialogs";
import { BackupProgress, ConfigBadge, DestinationText, ServerLink, Size } from "./parts";
import { cronWords } from "./cron";
import { isKept, TYPE_NAME, troubleOf } from "./words";

const STATUSES = [
  ["", "Any status"],
  ["active", "Active"],
  ["paused", "Paused"],
  ["error", "Error"],
] as const;

export function BackupsPage() {
  const may = useMayOperate();
  const [name, setName] = useQueryValue("name");
  const [status, setStatus] = useQueryValue("status");
  const [asked, setAsked] = useState<BackupConfig | null>(null);
  const query = useConfigs();
  const recent = useRecentBackups();
  const serverName = useServerName();
  const actions = useConfigActions();
  const wanted = name.trim().toLowerCase();
  const rows = query.data
    ?.filter((c) => !status || c.status === status)
    .filter((c) => [c.name, serverName(c.serverId), c.destination].some((t) => t.toLowerCase().includes(wanted)))
    .sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
  const create = may && (
    <Link className="btn primary" href="/backups/new">
      <Plus />
      Create
    </Link>
  );
  return (
    <Page title="Backups" actions={create}>
      <div className="filters">
        <SearchBox label="Search backups" placeholder="Search by name, server, destination" value={name} onValue={setName} />
        <Select aria-label="Status" value={status} onValue={setStatus} options={STATUSES} />
      </div>
      {query.error && <Failure what="The backups could not be read." error={query.error} retry={() => void query.refetch()} />}
      {rows?.length === 0 ? (
        query.data?.length === 0 ? (
          <Empty icon={<Archive aria-hidden="true" />} title="No backups yet" actions={create}>
            A config says what of a node, a container or a database cluster is backed up, when, where to and for how long it is kept. Each backup is
            checked once it is made, and any of them restores alone.
          </Empty>
        ) : (
          <Empty
            icon={<Archive aria-hidden="true" />}
            title="No config fits"
            actions={<Button onClick={() => navigate("/backups")}>Clear the filters</Button>}
          >
            None of the configs has this name and status.
          </Empty>
        )
      ) : (
        !(query.error && !rows) && (
          <Table
            label="Backup configs"
            rows={rows}
            id={(c) => c.id}
            placeholders={4}
            columns={columns(recent.data)}
            menuOnly
            {...(may
              ? {
                  actions: (c: BackupConfig) => (
                    <Menu
                      small
                      label={`Actions for ${c.name}`}
                      items={[
                        ...actions(c),
                        { label: "Edit", icon: <Pencil />, href: `/backups/configs/${c.id}/edit` },
                        "line",
                        { label: "Remove…", icon: <Trash2 />, danger: true, onSelect: () => setAsked(c) },
                      ]}
                    />
                  ),
                }
              : {})}
          />
        )
      )}
      {asked && <RemoveConfig config={asked} onClose={() => setAsked(null)} />}
    </Page>
  );
}

/** What can be done with a config at once. */
function useConfigActions(): (config: BackupConfig) => MenuItem[] {
  const perform = usePerform();
  const pause = usePause();
  return (config) => [
    { label: "Back up now", icon: <Archive />, onSelect: () => perform.mutate(config) },
    config.status === "paused"
      ? { label: "Resume", icon: <Play />, onSelect: () => pause.mutate(config) }
      : { label: "Pause", icon: <Pause />, onSelect: () => pause.mutate(config) },
  ];
}

function columns(recent: readonly Backup[] | undefined): Column<BackupConfig>[] {
  const of = (c: BackupConfig) => recent?.filter((b) => b.configId === c.id) ?? [];
  return [
    {
      key: "name",
      head: "Config",
      lead: true,
      cell: (c) => (
        <div className="cell-main">
          <Link href={`/backups/configs/${c.id}`} className="truncate max-32">
            {c.name}
          </Link>
          <span className="sub nowrap">{TYPE_NAME[c.type]}</span>
        </div>
      ),
    },
    { key: "server", head: "Server", cell: (c) => <ServerLink id={c.serverId} /> },
    {
      key: "status",
      head: "Status",
      wide: true,
      cell: (c) => {
        const trouble = troubleOf(c);
        return (
          <div className="cell-main">
            <ConfigBadge status={c.status} />
            {trouble && (
              <span className="sub reason" title={trouble}>
                {trouble}
              </span>
            )}
          </div>
        );
      },
    },
    {
      key: "schedule",
      head: "Schedule",
      cell: (c) => (
        <div className="cell-main">
          <span>{c.schedule ? cronWords(c.schedule) || c.schedule : "Only when asked for"}</span>
          {c.schedule && <span className="sub">{c.timeZone}</span>}
        </div>
      ),
    },
    {
      key: "last",
      head: "Last backup",
      cell: (c) => {
        const made = of(c).find((b) => b.status === "in-progress");
        return made ? <BackupProgress backup={made} /> : <Time at={c.lastBackup} />;
      },
    },
    { key: "next", head: "Next", cell: (c) => <Time at={c.nextBackup} />, empty: (c) => !c.nextBackup },
    {
      key: "size",
      head: "Last size",
      right: true,
      cell: (c) => <Size bytes={of(c).find(isKept)?.size} />,
      empty: (c) => of(c).find(isKept)?.size === undefined,
    },
    { key: "destination", head: "Destination", wide: true, cell: (c) => <DestinationText text={c.destination} /> },
  ];
}
