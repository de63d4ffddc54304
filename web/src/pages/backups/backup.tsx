import { Archive, Ban, Pin, PinOff, RotateCcw, ShieldCheck, Trash2 } from "lucide-react";
import { useState } from "react";
import { ApiError } from "../../api";
import type { Backup } from "../../api/types";
import { useIsAdmin, useMayOperate } from "../../lib/data";
import { absolute, bytes, duration, plural } from "../../lib/format";
import { Link, navigate } from "../../lib/router";
import { Moment, Tile, Time } from "../../ui/bits";
import { Button } from "../../ui/button";
import { Card } from "../../ui/card";
import { Copyable, type Fact, Facts } from "../../ui/facts";
import { Menu, type MenuItem } from "../../ui/menu";
import { Page } from "../../ui/page";
import { Empty, Failure, Loading, Notice } from "../../ui/states";
import { useBackup } from "./data";
import { CancelBackup, RemoveBackup, usePin, useVerify } from "./dialogs";
import { Files } from "./files";
import { kindOf } from "./form";
import { BackupBadge, BackupProgress, FileProblems, PinSign, ServerLink } from "./parts";
import { RecoverBackup } from "./recover";
import { RestoreDialog } from "./restore";
import { isKept, TYPE_NAME } from "./words";

export function BackupPage({ id, tab }: { id: string; tab: string }) {
  const query = useBackup(id);
  const gone = query.error instanceof ApiError && query.error.status === 404;
  if (query.data && !gone) return <Loaded backup={query.data} tab={tab} error={query.error} />;
  return (
    <Page title="Backup" crumbs={[["Backups", "/backups"]]}>
      {gone ? (
        <Empty
          icon={<Archive aria-hidden="true" />}
          title="This backup is not there"
          actions={
            <Link className="btn" href="/backups">
              To the backups
            </Link>
          }
        >
          Retention or somebody removed it, or it never was.
        </Empty>
      ) : query.error ? (
        <Failure what="The backup could not be read." error={query.error} retry={() => void query.refetch()} />
      ) : (
        <Loading what="the backup" />
      )}
    </Page>
  );
}

function Loaded({ backup: b, tab, error }: { backup: Backup; tab: string; error: unknown }) {
  const may = useMayOperate();
  const admin = useIsAdmin();
  const [asked, setAsked] = useState<"restore" | "remove" | "cancel" | null>(null);
  const [pin, verify] = [usePin(), useVerify()];
  const close = () => setAsked(null);
  const kept = isKept(b);
  const database = kindOf(b.serverId) === "cluster";
  const home = `/backups/configs/${b.configId}`;
  const known = tab === "files" && kept ? "files" : "overview";
  const items: MenuItem[] = [
    ...(kept
      ? ([
          { label: b.pinned ? "Unpin" : "Pin", icon: b.pinned ? <PinOff /> : <Pin />, onSelect: () => pin.mutate(b) },
          { label: "Test by restoring", icon: <ShieldCheck />, onSelect: () => verify.mutate(b) },
          "line",
        ] as MenuItem[])
      : []),
    { label: "Delete…", icon: <Trash2 />, danger: true, onSelect: () => setAsked("remove") },
  ];
  return (
    <Page
      title={`${b.name}, ${absolute(b.timestamp)}`}
      crumbs={[
        ["Backups", "/backups"],
        [b.name, home],
      ]}
      heading={
        <>
          <span className="truncate">{absolute(b.timestamp)}</span>
          {b.pinned && <PinSign />}
          <span style={{ fontSize: 13, letterSpacing: 0 }}>
            <BackupBadge status={b.status} />
          </span>
        </>
      }
      actions={
        may &&
        (b.status === "in-progress" ? (
          <Button icon={<Ban />} onClick={() => setAsked("cancel")}>
            Stop it…
          </Button>
        ) : (
          <>
            {/* A database becomes a cluster on nodes, which only an admin can name. */}
            {kept && (admin || !database) && (
              <Button icon={<RotateCcw />} onClick={() => setAsked("restore")}>
                Restore…
              </Button>
            )}
            <Menu label="More actions" items={items} />
          </>
        ))
      }
    >
      {kept && (
        <nav className="tabs" aria-label="Backup">
          {(
            [
              ["overview", "Overview", ""],
              ["files", "Files", "/files"],
            ] as const
          ).map(([key, text, path]) => (
            <Link key={key} href={`/backups/${b.id}${path}`} aria-current={key === known ? "page" : undefined}>
              {text}
            </Link>
          ))}
        </nav>
      )}
      {error !== null && <Failure what="What is shown may be old." error={error} />}
      {known === "files" ? <Files backup={b} /> : <Overview backup={b} />}
      {asked === "restore" && database && <RecoverBackup backup={b} onClose={close} />}
      {asked === "restore" && !database && <RestoreDialog backup={b} paths={[]} onClose={close} />}
      {asked === "remove" && <RemoveBackup backup={b} onClose={close} after={() => navigate(home)} />}
      {asked === "cancel" && <CancelBackup backup={b} onClose={close} />}
    </Page>
  );
}

function Overview({ backup: b }: { backup: Backup }) {
  const v = b.verification;
  return (
    <div className="stack">
      {b.status === "in-progress" && <BackupProgress backup={b} />}
      {b.message && <Notice tone={b.status === "failed" ? "red" : "amber"}>{b.message}</Notice>}
      {v?.finding && <Notice tone="red">{v.finding}</Notice>}
      <div className="tiles">
        <Tile label="Size" value={b.size === undefined ? "–" : bytes(b.size)} of={b.files !== undefined && plural(b.files, "file")} />
        <Tile label="New in the repository" value={b.newBytes === undefined ? "–" : bytes(b.newBytes)} />
        <Tile label="Took" value={b.duration === undefined ? "–" : duration(b.duration * 1000)} />
        <Tile label="Type" value={TYPE_NAME[b.type]} />
      </div>
      {b.problemCount > 0 && (
        <Card title={`${plural(b.problemCount, "file")} missing`} tight>
          <p className="muted">These could not be read. All else is in the backup.</p>
          <FileProblems problems={b.problems ?? []} count={b.problemCount} />
        </Card>
      )}
      <div className="grid">
        <div className="stack span-7">
          <Card title="Details">
            <Facts rows={facts(b)} />
          </Card>
        </div>
        <div className="stack span-5">
          <Card title="What proves it">
            <Facts
              rows={[
                ["Structure checked with it", <Time key="checked" at={v?.checked} />],
                ["Restored for a test", <Time key="restored" at={v?.restored} />],
                ["Copied", b.copied ? <code key="copied" className="break">{b.copied}</code> : "–"],
              ]}
            />
          </Card>
        </div>
      </div>
    </div>
  );
}

function facts(b: Backup): Fact[] {
  const rows: Fact[] = [
    ["Server", <ServerLink key="server" id={b.serverId} />],
    ["Begun", absolute(b.timestamp)],
    ["Why", b.slot ? <>by schedule, for {absolute(b.slot)}</> : "asked for"],
    ["Where", <Copyable key="where" text={b.location} what="where it is" />],
  ];
  if (b.recoverableFrom) {
    rows.push([
      "Can be brought to",
      <span key="from">
        any moment from <Moment at={b.recoverableFrom} /> on, as far as its log is kept without a gap
      </span>,
    ]);
  }
  if (b.snapshot) rows.push(["Snapshot of restic", <Copyable key="snapshot" text={b.snapshot} what="the snapshot's id" />]);
  rows.push(
    ["Encryption", b.encryption ? "with a random password" : "none to speak of"],
    ["Compression", b.compression ? "zstd" : "none"],
  );
  if (b.operationId) {
    rows.push([
      "Operation",
      <Link key="operation" className="link mono" href={`/operations/${b.operationId}`}>
        {b.operationId}
      </Link>,
    ]);
  }
  rows.push(["Id", <Copyable key="id" text={b.id} what="the id" />]);
  return rows;
}
