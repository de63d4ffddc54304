import { Archive, CalendarClock, KeyRound, Pause, Pencil, Play, RotateCcw, ShieldCheck, Trash2 } from "lucide-react";
import { useState } from "react";
import { ApiError } from "../../api";
import type { Backup, BackupConfig, BackupRepository } from "../../api/types";
import { useIsAdmin, useMayOperate } from "../../lib/data";
import { bytes, duration, plural } from "../../lib/format";
import { Link } from "../../lib/router";
import { Tile, Time } from "../../ui/bits";
import { Button } from "../../ui/button";
import { Card } from "../../ui/card";
import { Copyable, type Fact, Facts } from "../../ui/facts";
import { Menu, type MenuItem } from "../../ui/menu";
import { Page } from "../../ui/page";
import { Empty, Failure, Loading, Notice } from "../../ui/states";
import { Pager, Table } from "../../ui/table";
import { RecentOperations } from "../operation-parts";
import { cronWords } from "./cron";
import { useBackupsOf, useConfig } from "./data";
import { KitDialog, RemoveConfig, RetentionDialog, useCheck, usePause, usePerform } from "./dialogs";
import { BackupBadge, BackupProgress, ConfigBadge, DestinationText, PinSign, ServerLink, Size } from "./parts";
import { RecoverConfig } from "./recover";
import { Recovery } from "./recovery";
import { CONSISTENCY_NAME, isKept, proofWords, retentionWords, scheduleWords, TYPE_NAME, troubleOf } from "./words";

export function ConfigPage({ id }: { id: string }) {
  const query = useConfig(id);
  const gone = query.error instanceof ApiError && query.error.status === 404;
  if (query.data && !gone) return <Loaded config={query.data} error={query.error} />;
  return (
    <Page title="Backup config" crumbs={[["Backups", "/backups"]]}>
      {gone ? (
        <Empty
          icon={<Archive aria-hidden="true" />}
          title="This config is not there"
          actions={
            <Link className="btn" href="/backups">
              To the backups
            </Link>
          }
        >
          It was removed, or never existed under this name.
        </Empty>
      ) : query.error ? (
        <Failure what="The config could not be read." error={query.error} retry={() => void query.refetch()} />
      ) : (
        <Loading what="the config" />
      )}
    </Page>
  );
}

function Loaded({ config: c, error }: { config: BackupConfig; error: unknown }) {
  const may = useMayOperate();
  const admin = useIsAdmin();
  const [asked, setAsked] = useState<"remove" | "retention" | "key" | "recover" | null>(null);
  const [perform, check, pause] = [usePerform(), useCheck(), usePause()];
  const { query, rows, pager } = useBackupsOf(c.id);
  const close = () => setAsked(null);
  const running = rows?.some((b) => b.status === "in-progress") ?? false;
  const items: MenuItem[] = [
    { label: "Check now", icon: <ShieldCheck />, disabled: !c.repository || check.isPending, onSelect: () => check.mutate(c) },
    c.status === "paused"
      ? { label: "Resume", icon: <Play />, onSelect: () => pause.mutate(c) }
      : { label: "Pause", icon: <Pause />, onSelect: () => pause.mutate(c) },
    ...(admin ? [{ label: "Recovery kit…", icon: <KeyRound />, disabled: !c.repository, onSelect: () => setAsked("key") }] : []),
    "line",
    { label: "Remove…", icon: <Trash2 />, danger: true, onSelect: () => setAsked("remove") },
  ];
  return (
    <Page
      title={c.name}
      crumbs={[["Backups", "/backups"]]}
      heading={
        <>
          <span className="truncate">{c.name}</span>
          <span style={{ fontSize: 13, letterSpacing: 0 }}>
            <ConfigBadge status={c.status} />
          </span>
        </>
      }
      actions={
        may && (
          <>
            <Button icon={<Archive />} variant="primary" busy={perform.isPending} disabled={running} onClick={() => perform.mutate(c)}>
              Back up now
            </Button>
            {/* What is made is a cluster on nodes, which only an admin can name. */}
            {admin && c.recovery && (
              <Button icon={<RotateCcw />} disabled={!c.repository} onClick={() => setAsked("recover")}>
                Restore to a moment…
              </Button>
            )}
            <Link className="btn" href={`/backups/configs/${c.id}/edit`}>
              <Pencil />
              Edit
            </Link>
            <Menu label="More actions" items={items} />
          </>
        )
      }
    >
      {error !== null && <Failure what="What is shown may be old." error={error} />}
      <Trouble config={c} />
      <Tiles config={c} newest={rows?.find(isKept)} />
      {c.recovery && <Recovery config={c} recovery={c.recovery} />}
      {query.error && <Failure what="The backups could not be read." error={query.error} retry={() => void query.refetch()} />}
      {rows?.length === 0 ? (
        <Empty icon={<Archive aria-hidden="true" />} title="No backup was made yet">
          {c.nextBackup ? (
            <>
              The first one is made <Time at={c.nextBackup} />.
            </>
          ) : c.status === "paused" ? (
            "The config is paused: a backup is made only when it is asked for."
          ) : (
            "A backup is made when it is asked for."
          )}
        </Empty>
      ) : (
        !(query.error && !rows) && <BackupTable rows={rows} />
      )}
      <Pager {...pager} />
      <div className="grid">
        <div className="stack span-7">
          <Card title="What, when and where to">
            <ConfigFacts config={c} onRetention={() => setAsked("retention")} />
          </Card>
        </div>
        <div className="stack span-5">
          <Card title="Repository">
            <Repository repository={c.repository} />
          </Card>
          {c.copy && (
            <Card title="Copy">
              <p style={{ paddingBottom: 8 }}>
                <DestinationText text={c.copy.destination} />
              </p>
              <Repository repository={c.copy.repository} />
            </Card>
          )}
          <RecentOperations id={c.id} />
        </div>
      </div>
      {asked === "remove" && <RemoveConfig config={c} onClose={close} />}
      {asked === "retention" && <RetentionDialog config={c} onClose={close} />}
      {asked === "recover" && <RecoverConfig config={c} onClose={close} />}
      {asked === "key" && <KitDialog config={c} onClose={close} />}
    </Page>
  );
}

function Trouble({ config: c }: { config: BackupConfig }) {
  const says = troubleOf(c);
  return says ? <Notice tone={c.status === "error" ? "red" : "amber"}>{says}</Notice> : null;
}

function Tiles({ config: c, newest }: { config: BackupConfig; newest: Backup | undefined }) {
  return (
    <div className="tiles">
      <Tile label="Next backup" value={<Time at={c.nextBackup} />} />
      <Tile label="Last backup" value={<Time at={c.lastBackup} />} of={newest?.duration !== undefined && `took ${duration(newest.duration * 1000)}`} />
      <Tile label="Last size" value={newest?.size === undefined ? "–" : bytes(newest.size)} of={newest?.files !== undefined && plural(newest.files, "file")} />
      <Tile label="Repository" value={c.repository?.size === undefined ? "–" : bytes(c.repository.size)} />
      <Tile label="Last check" value={<Time at={c.repository?.lastCheck} />} />
    </div>
  );
}

function BackupTable({ rows }: { rows: Backup[] | undefined }) {
  return (
    <Table
      label="Backups"
      rows={rows}
      id={(b) => b.id}
      placeholders={3}
      columns={[
        {
          key: "when",
          head: "Made",
          lead: true,
          cell: (b) => (
            <div className="cell-main">
              <Link href={`/backups/${b.id}`} className="row">
                <Time at={b.timestamp} />
                {b.pinned && <PinSign />}
              </Link>
              <span className="sub nowrap">
                {TYPE_NAME[b.type]}, {b.slot ? "by schedule" : "asked for"}
              </span>
            </div>
          ),
        },
        {
          key: "status",
          head: "Status",
          wide: true,
          cell: (b) => (
            <div className="cell-main">
              <BackupBadge status={b.status} />
              {b.message && (
                <span className="sub reason" title={b.message}>
                  {b.message}
                </span>
              )}
              {b.problemCount > 0 && <span className="sub">{plural(b.problemCount, "file")} missing</span>}
            </div>
          ),
        },
        {
          key: "proof",
          head: "Progress, proof",
          wide: true,
          cell: (b) => (b.status === "in-progress" ? <BackupProgress backup={b} /> : <span className="faint">{isKept(b) ? proofWords(b) : "–"}</span>),
          empty: (b) => b.status !== "in-progress" && !isKept(b),
        },
        { key: "size", head: "Size", right: true, cell: (b) => <Size bytes={b.size} />, empty: (b) => b.size === undefined },
        { key: "new", head: "New bytes", right: true, cell: (b) => <Size bytes={b.newBytes} />, empty: (b) => b.newBytes === undefined },
        {
          key: "took",
          head: "Took",
          right: true,
          cell: (b) => (b.duration === undefined ? <span className="faint">–</span> : <span className="num nowrap">{duration(b.duration * 1000)}</span>),
          empty: (b) => b.duration === undefined,
        },
      ]}
    />
  );
}

function ConfigFacts({ config: c, onRetention }: { config: BackupConfig; onRetention: () => void }) {
  const container = c.serverKind === "container";
  const all = {
    container: "its volumes, the folders mounted into it, and its spec",
    node: "its managed volumes and the specs of its containers",
    cluster: "the whole database, as its primary gives it, and its write-ahead log",
  };
  const what = [...c.paths, ...c.volumes.map((v) => `volume ${v}`)];
  const rows: Fact[] = [
    ["Server", <ServerLink key="server" id={c.serverId} />],
    [
      "What",
      what.length > 0 ? <span className="break">{what.join(", ")}</span> : all[c.serverKind],
    ],
  ];
  if (c.excludes.length > 0) rows.push(["Left out", <code key="excludes">{c.excludes.join(", ")}</code>]);
  if (container) rows.push(["While it is read", CONSISTENCY_NAME[c.consistency]]);
  if (c.dump) rows.push(["Dump", <code key="dump" className="break">{c.dump.command.join(" ")}</code>]);
  rows.push(
    ["Type", TYPE_NAME[c.type]],
    ["Schedule", scheduleWords(c)],
    ["Destination", <DestinationText key="destination" text={c.destination} />],
    [
      "Kept",
      <span key="kept" className="row wrap">
        {retentionWords(c)}
        <Button small icon={<CalendarClock />} onClick={onRetention}>
          What that keeps now
        </Button>
      </span>,
    ],
    ["Encryption", c.encryption ? "with a random password" : "none to speak of: the password stands beside the repository"],
    ["Compression", c.compression ? "zstd" : "none"],
    ["Data is read", `${cronWords(c.check.schedule ?? "@weekly") || c.check.schedule}, in ${plural(c.check.parts ?? 4, "part")}`],
    ["Test restore", c.check.testRestore ? cronWords(c.check.testRestore) || c.check.testRestore : "never by itself"],
    ["Made", <Time key="made" at={c.created} />],
    ["Changed", <Time key="changed" at={c.updated} />],
    ["Id", <Copyable key="id" text={c.id} what="the id" />],
  );
  return <Facts rows={rows} />;
}

function Repository({ repository: r }: { repository: BackupRepository | undefined }) {
  if (!r) return <p className="faint">It is made with the first backup.</p>;
  return (
    <Facts
      rows={[
        ["Where", <Copyable key="where" text={r.location} what="where it is" />],
        ["Size", <Size key="size" bytes={r.size} />],
        ["Structure checked", <Time key="check" at={r.lastCheck} />],
        ["Data read", <Time key="read" at={r.lastRead} />],
        ["Test restore", <Time key="test" at={r.lastTestRestore} />],
        ["Cleaned up", <Time key="prune" at={r.lastPrune} />],
        ["Last check found", r.findings.length > 0 ? <span className="danger-text break">{r.findings.join("; ")}</span> : r.lastCheck ? "nothing wrong" : "–"],
      ]}
    />
  );
}
