import { useState } from "react";
import * as calls from "../../api/calls";
import type { Backup, NewRestore, Operation, Restored, RestoreChangeKind } from "../../api/types";
import { finished, problemsOf, useAct } from "../../lib/data";
import { absolute, duration, plural } from "../../lib/format";
import { Link } from "../../lib/router";
import { Button } from "../../ui/button";
import { Dialog } from "../../ui/dialog";
import { Check, Field, Input, Segmented, Select, TextField } from "../../ui/field";
import { Failure, Notice } from "../../ui/states";
import { OperationProgress } from "../operation-parts";
import { useServerName, useServers } from "./data";
import { FileProblems, ServerField } from "./parts";
import { emptyRestore, isAnew, needsConfirming, type RestoreForm, restoreOf, volumeOf } from "./restore-form";
import { remadeWords, replacedWords, restoredWords } from "./words";

/** Restores a backup, or the chosen paths of it; first shows what that would change, where it is asked to. */
export function RestoreDialog({ backup, paths, onClose }: { backup: Backup; paths: readonly string[]; onClose: () => void }) {
  const servers = useServers();
  const serverName = useServerName();
  const [form, setForm] = useState<RestoreForm>(() => emptyRestore(paths));
  const [tried, setTried] = useState(false);
  const [typed, setTyped] = useState("");
  const [operation, setOperation] = useState<Operation | null>(null);
  const act = useAct({
    run: async (body: NewRestore): Promise<Restored> => {
      const begun = await calls.backups.restore(backup.id, body);
      if (!begun.operation) return begun.done;
      return (await finished(begun.operation, setOperation)).result as Restored;
    },
    stale: ["backups", "operations", "containers", "volumes"],
    quiet: true,
  });
  const { body, problems: own } = restoreOf(form);
  const refused = problemsOf(act.error);
  const problems = { ...refused, ...(tried ? own : {}) };
  const set = (change: Partial<RestoreForm>) => {
    setForm((f) => ({ ...f, ...change }));
    setTyped("");
    act.reset();
  };
  const server = serverName(body.serverId ?? backup.serverId);
  const confirming = needsConfirming(form);
  const result = act.data;
  const run = (dryRun: boolean) => {
    setTried(true);
    if (Object.keys(own).length > 0) return;
    setOperation(null);
    act.mutate({ ...body, dryRun });
  };
  const named = Object.keys(refused).filter((field) => !["target", "serverId", "name", "volume"].includes(field));
  const anew = isAnew(form, backup.serverId);

  if (result && !result.dryRun) {
    return (
      <Dialog wide title="Restored" onClose={onClose} footer={<Button onClick={onClose}>Close</Button>}>
        <Outcome result={result} server={serverName(result.serverId)} />
      </Dialog>
    );
  }
  return (
    <Dialog
      wide
      title={`Restore “${backup.name}” of ${absolute(backup.timestamp)}`}
      onClose={onClose}
      onSubmit={() => run(true)}
      footer={
        <>
          <Button onClick={onClose}>{act.isPending ? "Leave it to go on" : "Cancel"}</Button>
          <Button type="submit" busy={act.isPending && act.variables?.dryRun === true} disabled={act.isPending || anew}>
            See what would change
          </Button>
          <Button
            variant="danger"
            busy={act.isPending && act.variables?.dryRun !== true}
            disabled={act.isPending || (confirming && typed !== server)}
            onClick={() => run(false)}
          >
            Restore
          </Button>
        </>
      }
    >
      <fieldset disabled={act.isPending} style={{ display: "contents" }}>
        <div className="field">
          <span className="field-label">What</span>
          {form.paths.length === 0 ? (
            <span>Everything in it</span>
          ) : (
            <ul className="stack tight" aria-label="Chosen paths">
              {form.paths.map((p) => (
                <li key={p}>
                  <code className="break">{p}</code>
                </li>
              ))}
            </ul>
          )}
          {named.map((field) => (
            <p key={field} className="problem" role="alert">
              {refused[field]}
            </p>
          ))}
        </div>
        <div>
          <Segmented
            label="Where to"
            value={form.where}
            onValue={(where) => set({ where })}
            options={[
              ["place", "In its place"],
              ["folder", "Into a folder"],
              ["server", "To another server"],
            ]}
          />
        </div>
        {form.where === "server" && (
          <ServerField
            label="Server"
            servers={servers.data?.filter((s) => (s.kind === "node" || s.kind === "container") && s.id !== backup.serverId)}
            value={form.serverId}
            onValue={(serverId) => set({ serverId })}
            problem={problems.serverId}
          />
        )}
        {form.where !== "place" && (
          <TextField
            mono
            label="Folder"
            optional={form.where === "server"}
            problem={problems.target}
            hint="Everything goes below it with its path in the backup. It is made where it is missing."
            placeholder="/restored"
            value={form.target}
            onValue={(target) => set({ target })}
          />
        )}
        {anew && (
          <TextField
            optional
            label="Name of the container"
            problem={problems.name}
            hint="It is made there again from its spec, with its volumes; under its old name where nothing is said"
            value={form.name}
            onValue={(name) => set({ name })}
          />
        )}
        {volumeOf(form) && (
          <TextField
            optional
            label="Into the volume"
            problem={problems.volume}
            hint={`Another volume than ${volumeOf(form)}`}
            value={form.volume}
            onValue={(volume) => set({ volume })}
          />
        )}
        <Field label="What is there and not in the backup">
          {(d) => (
            <Select
              {...d}
              value={form.replace}
              onValue={(replace) => set({ replace })}
              options={[
                ["usual", "Goes from volumes, stays in folders"],
                ["yes", "Goes"],
                ["no", "Stays"],
              ]}
            />
          )}
        </Field>
        <Check
          label="Read everything back and compare it"
          hint="What is called restored is then known to be the same, byte for byte."
          checked={form.verify}
          onChecked={(verify) => set({ verify })}
        />
        <Notice tone={confirming ? "red" : "amber"}>{anew ? remadeWords(server) : replacedWords(body, backup, server)}</Notice>
        {confirming && (
          <Field label={<>Type the server's name, {server}, to confirm</>}>{(d) => <Input {...d} mono value={typed} onValue={setTyped} />}</Field>
        )}
      </fieldset>
      {act.isPending && operation && <OperationProgress operation={operation} />}
      {act.error !== null && Object.keys(refused).length === 0 && <Failure error={act.error} />}
      {result?.dryRun && <Changes result={result} />}
    </Dialog>
  );
}

const CHANGE: Record<RestoreChangeKind, [string, string]> = {
  create: ["tone-green", "comes"],
  change: ["tone-amber", "changes"],
  remove: ["tone-red", "goes"],
};

/** What a dry run said. */
function Changes({ result }: { result: Restored }) {
  const all = result.created + result.changed + result.removed;
  const shown = result.changes ?? [];
  return (
    <section className="stack tight" aria-label="What would change">
      <p>
        <b>Nothing was changed.</b> It would be: {restoredWords(result)}.
      </p>
      {shown.length > 0 && (
        <ul className="stack tight change-list">
          {shown.map((c) => (
            <li key={c.path} className="row">
              <span className={`status ${CHANGE[c.change][0]}`}>{CHANGE[c.change][1]}</span>
              <code className="break">{c.path}</code>
            </li>
          ))}
        </ul>
      )}
      {all > shown.length && <p className="faint">and {plural(all - shown.length, "more change")}</p>}
      {result.problemCount > 0 && <FileProblems problems={result.problems} count={result.problemCount} />}
    </section>
  );
}

/** What a restore gave. */
function Outcome({ result: r, server }: { result: Restored; server: string }) {
  return (
    <div className="stack">
      <p>
        {r.target ? (
          <>
            <code>{r.target}</code> on {server}
          </>
        ) : (
          server
        )}
        : {restoredWords(r)}, in {duration(r.duration * 1000)}.
      </p>
      {r.problemCount > 0 ? (
        <Notice tone="amber">{plural(r.problemCount, "file")} could not be restored.</Notice>
      ) : r.verified ? (
        <Notice tone="green">Everything was read back and is the same as in the backup.</Notice>
      ) : (
        <Notice tone="amber">It was not read back and compared.</Notice>
      )}
      {r.problemCount > 0 && <FileProblems problems={r.problems} count={r.problemCount} />}
      {(r.dumps?.length ?? 0) > 0 && <p>Read in again: {r.dumps?.join(", ")}.</p>}
      {r.containerId && (
        <p>
          The container was made again:{" "}
          <Link className="link" href={`/containers/${r.containerId}`}>
            see it
          </Link>
        </p>
      )}
    </div>
  );
}
