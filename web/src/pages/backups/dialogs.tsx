import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { ApiError } from "../../api";
import * as calls from "../../api/calls";
import type { Backup, BackupConfig, RetentionDecision } from "../../api/types";
import { useAct } from "../../lib/data";
import { absolute, plural } from "../../lib/format";
import { navigate } from "../../lib/router";
import { Button } from "../../ui/button";
import { Confirm, Dialog } from "../../ui/dialog";
import { Check, Field, Input } from "../../ui/field";
import { Empty, Failure, Loading, Notice } from "../../ui/states";
import { useServerName } from "./data";
import { REASON, recoveryKit } from "./words";

const STALE = ["backups", "operations"];

/** Makes a backup now. */
export function usePerform() {
  return useAct({
    run: (config: BackupConfig) => calls.backups.perform(config.id),
    done: (_b, config) => `A backup of ${config.name} has begun.`,
    failed: "No backup was begun.",
    stale: STALE,
  });
}

export function usePause() {
  return useAct({
    run: (config: BackupConfig) => calls.backups.updateConfig(config.id, { status: config.status === "paused" ? "active" : "paused" }),
    done: (c) => (c.status === "paused" ? `${c.name} is paused: nothing runs by itself.` : `${c.name} is active.`),
    failed: "It was not changed.",
    stale: STALE,
  });
}

/** Looks whether the repository is whole. */
export function useCheck() {
  return useAct({
    run: (config: BackupConfig) => calls.backups.check(config.id),
    done: (_r, config) => `The repository of ${config.name} is checked.`,
    failed: "The check did not begin.",
    stale: STALE,
    after: (begun) => begun.operation && navigate(`/operations/${begun.operation.id}`),
  });
}

export function useVerify() {
  return useAct({
    run: (backup: Backup) => calls.backups.verify(backup.id),
    done: () => "It is restored into a scratch folder and compared.",
    failed: "The test did not begin.",
    stale: STALE,
    after: (begun) => begun.operation && navigate(`/operations/${begun.operation.id}`),
  });
}

export function usePin() {
  return useAct({
    run: (backup: Backup) => calls.backups.pin(backup.id, !backup.pinned),
    done: (b) => (b.pinned ? "Pinned: retention does not remove it." : "No longer pinned."),
    failed: "It was not changed.",
    stale: STALE,
  });
}

export function RemoveConfig({ config, onClose }: { config: BackupConfig; onClose: () => void }) {
  const [typed, setTyped] = useState("");
  const [known, setKnown] = useState(false);
  /** The password of its repository is kept nowhere else. */
  const secret = config.encryption && config.repository !== undefined;
  const remove = useAct({
    // Whoever typed its name knows that the repository stays, and what becomes of its password.
    run: () => calls.backups.removeConfig(config.id, config.repository !== undefined),
    done: () => `Removed ${config.name}.`,
    stale: STALE,
    quiet: true,
    after: () => {
      onClose();
      navigate("/backups");
    },
  });
  return (
    <Confirm
      title={`Remove ${config.name}?`}
      action="Remove the config"
      busy={remove.isPending}
      error={remove.error}
      disabled={typed !== config.name || (secret && !known)}
      onConfirm={() => remove.mutate()}
      onClose={onClose}
    >
      <p className="muted">
        No more backups are made by it, and its list of backups goes. The repository itself stays where it is
        {config.repository && (
          <>
            {" "}
            (<code className="break">{config.repository.location}</code>)
          </>
        )}
.
      </p>
      {secret && (
        <Check
          label="The recovery kit is kept, or these backups are not needed any more"
          hint="The repository's password goes with the config: without the kit, which an admin can download, nobody can restore them."
          checked={known}
          onChecked={setKnown}
        />
      )}
      <Field label={<>Type its name, {config.name}, to confirm</>}>{(d) => <Input {...d} mono value={typed} onValue={setTyped} />}</Field>
    </Confirm>
  );
}

export function RemoveBackup({ backup, onClose, after }: { backup: Backup; onClose: () => void; after?: () => void }) {
  const [force, setForce] = useState(false);
  const remove = useAct({
    run: () => calls.backups.remove(backup.id, force),
    done: (operation) => (operation ? "It is being removed." : "It is removed."),
    stale: STALE,
    quiet: true,
    after: () => {
      onClose();
      after?.();
    },
  });
  const lastGood = remove.error instanceof ApiError && remove.error.code === "last_good";
  return (
    <Confirm
      title="Delete this backup?"
      action="Delete the backup"
      busy={remove.isPending}
      error={remove.error}
      disabled={backup.pinned || (lastGood && !force)}
      onConfirm={() => remove.mutate()}
      onClose={onClose}
    >
      <p className="muted">
        The backup of “{backup.name}” of {absolute(backup.timestamp)} can't be restored any more. The others stay whole; what only this one needed
        leaves the repository with a later clean-up.
      </p>
      {backup.pinned && <Notice tone="amber">It is pinned: unpin it first.</Notice>}
      {lastGood && (
        <Check label="Delete it although it is the last good one" hint="Nothing could be restored then." checked={force} onChecked={setForce} />
      )}
    </Confirm>
  );
}

export function CancelBackup({ backup, onClose }: { backup: Backup; onClose: () => void }) {
  const cancel = useAct({
    run: () => calls.backups.cancel(backup.id),
    done: () => "It was asked to end.",
    stale: STALE,
    quiet: true,
    after: onClose,
  });
  return (
    <Confirm
      title="Stop this backup?"
      action="Stop it"
      busy={cancel.isPending}
      error={cancel.error}
      onConfirm={() => cancel.mutate()}
      onClose={onClose}
    >
      <p className="muted">There will be no backup of this time. What was written already saves the next one work.</p>
    </Confirm>
  );
}

/** What retention would do now, backup by backup. */
export function RetentionDialog({ config, onClose }: { config: BackupConfig; onClose: () => void }) {
  const query = useQuery({
    queryKey: ["backups", "retention", config.id],
    queryFn: ({ signal }) => calls.backups.retention(config.id, signal),
  });
  const rows: (RetentionDecision & { goes: boolean })[] = [
    ...(query.data?.keep ?? []).map((d) => ({ ...d, goes: false })),
    ...(query.data?.remove ?? []).map((d) => ({ ...d, goes: true })),
  ].sort((a, b) => b.timestamp.localeCompare(a.timestamp));
  return (
    <Dialog wide title={`What retention keeps of ${config.name}`} onClose={onClose} footer={<Button onClick={onClose}>Close</Button>}>
      {query.error ? (
        <Failure what="It could not be read." error={query.error} retry={() => void query.refetch()} />
      ) : !query.data ? (
        <Loading what="what would be kept" />
      ) : rows.length === 0 ? (
        <Empty flat icon={null} title="There are no backups yet" />
      ) : (
        <>
          <p className="muted">
            {query.data.remove.length === 0
              ? `All ${plural(rows.length, "backup")} stay.`
              : `${plural(query.data.remove.length, "backup")} of ${rows.length} would go with the next one.`}{" "}
            Nothing was changed.
          </p>
          <ul className="stack tight" aria-label="Backups">
            {rows.map((d) => (
              <li key={d.backupId} className="row wrap">
                <span className={`status ${d.goes ? "tone-red hollow" : "tone-green"}`}>{d.goes ? "goes" : "stays"}</span>
                <span className="num">{absolute(d.timestamp)}</span>
                <span className="faint grow">{d.reasons.map((r) => REASON[r] ?? r).join(", ")}</span>
              </li>
            ))}
          </ul>
        </>
      )}
    </Dialog>
  );
}

/** Hands an admin all that opens the repository without us. */
export function KitDialog({ config, onClose }: { config: BackupConfig; onClose: () => void }) {
  const server = useServerName()(config.serverId);
  const take = useAct({
    run: () => calls.backups.key(config.id),
    done: () => "The recovery kit is downloaded. Keep it apart from the backups.",
    stale: [],
    quiet: true,
    after: (key) => {
      const text = recoveryKit(config, key, new Date().toISOString());
      const url = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
      const link = document.createElement("a");
      link.href = url;
      link.download = `recovery-kit-${config.id}.txt`;
      link.click();
      URL.revokeObjectURL(url);
      onClose();
    },
  });
  return (
    <Confirm
      title={`Recovery kit of ${config.name}`}
      action="Download it"
      danger={false}
      busy={take.isPending}
      error={take.error}
      onConfirm={() => take.mutate()}
      onClose={onClose}
    >
      <p className="muted">
        A text file with where the repository is and the passwords that open it. With it and stock restic the backups of {server} can be read and
        restored when NeuralMesh and its store are lost. Whoever has it can read them: keep it offline. That you took it is written into the audit log.
      </p>
    </Confirm>
  );
}
