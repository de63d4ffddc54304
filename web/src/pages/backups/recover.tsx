import { useEffect, useRef, useState } from "react";
import * as calls from "../../api/calls";
import type { Backup, BackupConfig, NewRestore, Operation, RecoveryWindow, Restored } from "../../api/types";
import { finished, problemsOf, useAct } from "../../lib/data";
import { absolute, duration, precise } from "../../lib/format";
import { Link } from "../../lib/router";
import { Moment } from "../../ui/bits";
import { Button } from "../../ui/button";
import { Dialog } from "../../ui/dialog";
import { Field, Input, Segmented, TextField } from "../../ui/field";
import { Failure, Loading, Notice } from "../../ui/states";
import type { ClusterForm } from "../clusters/form";
import { Fragile, ServerRows, useChoices } from "../clusters/servers";
import { OperationProgress } from "../operation-parts";
import { useCompleted, useConfig, useServerName } from "./data";
import { emptyRecover, momentOf, placeRecoverProblems, reachOf, type RecoverForm, recoverOf, typed, withZone } from "./recover-form";
import { Windows } from "./recovery";

/** Makes a database cluster of this backup, as it was at a moment that the backup reaches. */
export function RecoverBackup({ backup, onClose }: { backup: Backup; onClose: () => void }) {
  const config = useConfig(backup.configId);
  return <Known config={config.data} backups={[backup]} one={backup} error={config.error} onClose={onClose} />;
}

/** Makes a database cluster as it was at a moment, of whichever backup reaches that. */
export function RecoverConfig({ config, onClose }: { config: BackupConfig; onClose: () => void }) {
  const backups = useCompleted(config.id);
  return <Known config={config} backups={backups.data} error={backups.error} onClose={onClose} />;
}

interface Part {
  config: BackupConfig;
  backups: readonly Backup[];
  /** It is this one, and no other one is chosen. */
  one?: Backup | undefined;
  onClose: () => void;
}

function Known(props: Omit<Part, "config" | "backups"> & { config: BackupConfig | undefined; backups: readonly Backup[] | undefined; error: unknown }) {
  const { config, backups, error } = props;
  if (config && backups) return <RecoverDialog {...props} config={config} backups={backups} />;
  return (
    <Dialog wide title="Restore" onClose={props.onClose}>
      {error ? <Failure what="What can be restored could not be read." error={error} /> : <Loading what="what can be restored" />}
    </Dialog>
  );
}

function RecoverDialog({ config, backups, one, onClose }: Part) {
  const reach = one && reachOf(one, config.recovery);
  const windows = one ? (reach ? [reach] : []) : (config.recovery?.windows ?? []);
  const server = useServerName()(config.serverId);
  const [form, setForm] = useState<RecoverForm>(() => emptyRecover(windows));
  const [tried, setTried] = useState(false);
  const [operation, setOperation] = useState<Operation | null>(null);
  const { choices, error: unread } = useChoices(undefined, "database");
  const fields = useRef<HTMLFieldSetElement>(null);
  /** Counts the times that something new is to be seen. */
  const [looks, setLooks] = useState(0);
  const act = useAct({
    run: async ({ id, body }: { id: string; body: NewRestore }): Promise<Restored> => {
      const begun = await calls.backups.restore(id, body);
      if (!begun.operation) return begun.done;
      setLooks((n) => n + 1);
      return (await finished(begun.operation, setOperation)).result as Restored;
    },
    stale: ["backups", "operations", "clusters", "containers", "volumes"],
    quiet: true,
  });
  const { body, backup, problems: own } = recoverOf(form, backups, windows);
  const refused = placeRecoverProblems(form, problemsOf(act.error));
  const problems = { ...refused, ...(tried ? own : {}) };
  const inside = Object.fromEntries(Object.entries(problems).map(([field, says]) => [field.replace(/^cluster\./, ""), says]));
  const failed = act.error !== null;
  // The dialog is long: what is wrong, or how far it is, may be out of sight.
  useEffect(() => {
    if (looks > 0) fields.current?.parentElement?.querySelector('[aria-invalid="true"], [role="alert"], [aria-label="Progress"]')?.scrollIntoView({ block: "nearest" });
  }, [looks, failed]);
  const set = (change: Partial<RecoverForm>) => {
    setForm((f) => ({ ...f, ...change }));
    act.reset();
  };
  const setCluster = (change: Partial<ClusterForm>) => set({ cluster: { ...form.cluster, ...change } });
  const run = () => {
    setTried(true);
    setLooks((n) => n + 1);
    if (!backup || Object.keys(own).length > 0) return;
    setOperation(null);
    act.mutate({ id: backup.id, body });
  };
  // What stands at no field of this dialog.
  const elsewhere = Object.keys(refused).filter((field) => !/^(to|cluster\.name|cluster\.servers(\[.*)?)$/.test(field));

  if (act.data) return <Outcome result={act.data} name={form.cluster.name.trim()} server={server} to={act.variables?.body.to} onClose={onClose} />;
  return (
    <Dialog
      wide
      title={one ? `Restore “${one.name}” of ${absolute(one.timestamp)}` : `Restore ${server} to a moment`}
      onClose={onClose}
      onSubmit={run}
      footer={
        <>
          <Button onClick={onClose}>{act.isPending ? "Leave it to go on" : "Cancel"}</Button>
          <Button type="submit" variant="primary" busy={act.isPending}>
            Restore
          </Button>
        </>
      }
    >
      <fieldset ref={fields} disabled={act.isPending} style={{ display: "contents" }}>
        {unread !== null && unread !== undefined && <Failure what="The nodes could not be read." error={unread} />}
        {windows.length === 0 ? (
          <Notice tone="amber">
            {one ? "The log after this backup is not kept: it can be restored only as it was when the backup was made." : "No moment is kept yet: only what the newest backup has can be restored."}
          </Notice>
        ) : (
          <When form={form} set={set} windows={windows} newest={backup && reachOf(backup, config.recovery)?.to} problem={problems.to} />
        )}
        {problems.to && (windows.length === 0 || form.when === "newest") && (
          <p className="problem" role="alert">
            {problems.to}
          </p>
        )}
        {!one && backup && (
          <p className="faint">
            Of the backup of{" "}
            <Link className="link" href={`/backups/${backup.id}`}>
              <Moment at={backup.timestamp} />
            </Link>
            , and the log after it
          </p>
        )}
        <TextField
          label="Name of the new cluster"
          name="name"
          placeholder={`${server}-restored`}
          maxLength={100}
          problem={inside.name}
          value={form.cluster.name}
          onValue={(name) => setCluster({ name })}
        />
        <div className="field">
          <span className="field-label">Its nodes</span>
          <ServerRows form={form.cluster} onRows={(servers) => setCluster({ servers })} problems={inside} choices={choices} />
        </div>
        <Fragile form={form.cluster} />
        <p className="muted">
          The name of the database, its version, parameters and extensions are those of the backup. {server} stays as it is, and clients stay with it.
        </p>
      </fieldset>
      {act.isPending && operation && <OperationProgress operation={operation} />}
      {act.error !== null && (Object.keys(refused).length === 0 || elsewhere.length > 0) && <Failure error={act.error} />}
    </Dialog>
  );
}

function When(props: {
  form: RecoverForm;
  set: (change: Partial<RecoverForm>) => void;
  windows: readonly RecoveryWindow[];
  /** How far the newest backup reaches. */
  newest: string | undefined;
  problem: string | undefined;
}) {
  const { form, set, windows, newest, problem } = props;
  const moment = momentOf(form);
  const [first, last] = [windows[0], windows.at(-1)];
  return (
    <>
      <div>
        <Segmented
          label="To which moment"
          value={form.when}
          onValue={(when) => set({ when })}
          options={[
            ["newest", "As new as can be"],
            ["moment", "To a moment"],
          ]}
        />
      </div>
      {form.when === "newest" ? (
        <p className="muted">
          {newest ? (
            <>
              With all that was committed until <Moment at={newest} />, or later where more is shipped by then.
            </>
          ) : (
            "As it was when the newest backup was made: the log after it is not in the destination."
          )}
        </p>
      ) : (
        <>
          <div className="form-2">
            <Field
              label="Moment"
              problem={problem}
              hint={moment ? (form.zone === "utc" ? `${precise(moment)} by this browser's clock` : precise(moment, "utc")) : "Every transaction that was committed by then, and none after"}
            >
              {(d) => (
                <Input
                  {...d}
                  type="datetime-local"
                  step="0.001"
                  min={first && typed(first.from, form.zone)}
                  max={last && typed(last.to, form.zone)}
                  value={form.at}
                  onValue={(at) => set({ at })}
                />
              )}
            </Field>
            <div className="field">
              <span className="field-label">Time zone</span>
              <div>
                <Segmented
                  label="Time zone"
                  value={form.zone}
                  onValue={(zone) => set(withZone(form, zone))}
                  options={[
                    ["local", "This browser's"],
                    ["utc", "UTC"],
                  ]}
                />
              </div>
            </div>
          </div>
          <div className="field">
            <span className="field-label">What is kept</span>
            <Windows windows={windows} zone={form.zone} />
          </div>
        </>
      )}
    </>
  );
}

/** What a restore gave. */
function Outcome(props: { result: Restored; name: string; server: string; to: string | undefined; onClose: () => void }) {
  const { result: r, name, server, to } = props;
  return (
    <Dialog
      wide
      title="Restored"
      onClose={props.onClose}
      footer={
        <>
          <Button onClick={props.onClose}>Close</Button>
          {r.clusterId && (
            <Link className="btn primary" href={`/clusters/${r.clusterId}/database`}>
              To the new cluster
            </Link>
          )}
        </>
      }
    >
      <p>
        {name} takes writes, and has what {server} had {to ? <>at <Moment at={to} /></> : "last in the destination"}. It took {duration(r.duration * 1000)}.
      </p>
      {!r.verified && <Notice tone="amber">What was fetched was not read back and compared.</Notice>}
    </Dialog>
  );
}
