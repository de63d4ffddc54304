import { ChevronRight, File, FileSymlink, Folder, FileQuestion, RotateCcw } from "lucide-react";
import { type ReactNode, useState } from "react";
import * as calls from "../../api/calls";
import type { Backup, TreeEntry } from "../../api/types";
import { useMayOperate, usePaged } from "../../lib/data";
import { bytes, plural } from "../../lib/format";
import { useQueryValue } from "../../lib/router";
import { Time } from "../../ui/bits";
import { Button, IconButton } from "../../ui/button";
import { Empty, Failure } from "../../ui/states";
import { Pager, Table } from "../../ui/table";
import { kindOf } from "./form";
import { RestoreDialog } from "./restore";
import { trail } from "./trail";

const ICON: Record<TreeEntry["type"], ReactNode> = {
  folder: <Folder aria-label="folder" />,
  file: <File aria-label="file" />,
  symlink: <FileSymlink aria-label="symbolic link" />,
  other: <FileQuestion aria-label="special file" />,
};

/** What is in a backup, folder by folder; what is chosen can be restored alone, but for a database's, which is one whole. */
export function Files({ backup }: { backup: Backup }) {
  const may = useMayOperate();
  const [at, setAt] = useQueryValue("path");
  const path = at || "/";
  const [chosen, setChosen] = useState<ReadonlySet<string>>(new Set());
  /** The paths that are to be restored. */
  const [asked, setAsked] = useState<readonly string[] | null>(null);
  const { query, rows, pager } = usePaged(["backups", "files", backup.id, path], (cursor, signal) =>
    calls.backups.files(backup.id, { path, cursor, limit: 200 }, signal),
  );
  return (
    <div className="stack">
      <nav className="row wrap trail" aria-label="Folder">
        {trail(path).map(([name, to], i, all) => (
          <span key={to} className="row">
            {i > 1 && <ChevronRight aria-hidden="true" />}
            {i === all.length - 1 ? (
              <code aria-current="page">{name}</code>
            ) : (
              <button type="button" className="link mono" onClick={() => setAt(to === "/" ? "" : to)}>
                {name}
              </button>
            )}
          </span>
        ))}
      </nav>
      {query.error && <Failure what="The folder could not be read." error={query.error} retry={() => void query.refetch()} />}
      {rows?.length === 0 ? (
        <Empty icon={<Folder aria-hidden="true" />} title="Nothing is in this folder" />
      ) : (
        !(query.error && !rows) && (
          <Table
            label="Files"
            rows={rows}
            id={(e) => e.path}
            placeholders={6}
            menuOnly
            {...(may && kindOf(backup.serverId) !== "cluster"
              ? {
                  selection: { ids: chosen, onIds: setChosen },
                  selectLabel: (e: TreeEntry) => e.name,
                  actions: (e: TreeEntry) => (
                    <IconButton small label={`Restore ${e.name}`} onClick={() => setAsked([e.path])}>
                      <RotateCcw />
                    </IconButton>
                  ),
                }
              : {})}
            columns={[
              {
                key: "name",
                head: "Name",
                lead: true,
                cell: (e) => (
                  <span className="row file-name">
                    {ICON[e.type]}
                    {e.type === "folder" ? (
                      <button type="button" className="link truncate" onClick={() => setAt(e.path)}>
                        {e.name}
                      </button>
                    ) : (
                      <span className="break">{e.name}</span>
                    )}
                    {e.target !== undefined && <span className="faint break">→ {e.target}</span>}
                  </span>
                ),
              },
              {
                key: "size",
                head: "Size",
                right: true,
                cell: (e) => <span className="num nowrap">{e.size === undefined ? "" : bytes(e.size)}</span>,
                empty: (e) => e.size === undefined,
              },
              { key: "mode", head: "Mode", cell: (e) => <code>{e.mode ?? ""}</code>, empty: (e) => !e.mode },
              {
                key: "owner",
                head: "Owner",
                cell: (e) => <code>{e.uid === undefined ? "" : `${e.uid}:${e.gid ?? ""}`}</code>,
                empty: (e) => e.uid === undefined,
              },
              { key: "modified", head: "Changed", cell: (e) => <Time at={e.modified} />, empty: (e) => !e.modified },
            ]}
          />
        )
      )}
      <Pager {...pager} words={["Before", "Next"]} />
      {rows && rows.length < (query.data?.total ?? 0) && (
        <p className="faint">
          {rows.length.toLocaleString("en")} of {plural(query.data?.total ?? 0, "entry", "entries")}
        </p>
      )}
      {chosen.size > 0 && (
        <div className="selection-bar" role="region" aria-label="What is selected">
          <span>{plural(chosen.size, "path")} selected</span>
          <Button small icon={<RotateCcw />} onClick={() => setAsked([...chosen].sort())}>
            Restore…
          </Button>
          <Button small variant="ghost" onClick={() => setChosen(new Set())}>
            Clear
          </Button>
        </div>
      )}
      {asked && <RestoreDialog backup={backup} paths={asked} onClose={() => setAsked(null)} />}
    </div>
  );
}
