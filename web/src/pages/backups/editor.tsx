import { type ComponentProps, useEffect, useMemo, useState } from "react";
import * as calls from "../../api/calls";
import { BACKUP_TYPES, type BackupConfig, CONSISTENCIES, KEEPS } from "../../api/types";
import { useEditing } from "../../lib/editing";
import { plural } from "../../lib/format";
import { Link, navigate, useQueryValue } from "../../lib/router";
import { Button } from "../../ui/button";
import { Check, Field, Select, Textarea, TextField } from "../../ui/field";
import { RequestPreview } from "../../ui/json";
import { Page } from "../../ui/page";
import { Section } from "../../ui/section";
import { Failure, Loading, Notice } from "../../ui/states";
import { toast } from "../../ui/toast";
import { cronWords } from "./cron";
import { useConfig, useSubjects } from "./data";
import { DESTINATIONS } from "./destination";
import { DestinationFields } from "./destination-fields";
import { backupForm, type BackupForm, emptyBackupForm, kindOf, linesOf, patchOf, placeBackupProblems, specOf, withServer } from "./form";
import { ServerField } from "./parts";
import { ScheduleFields } from "./schedule-fields";
import { CONSISTENCY_NAME, CONSISTENCY_SAYS, TYPE_NAME, TYPE_SAYS } from "./words";

/** Makes a config, or changes the one with this id. */
export default function BackupEditor({ id }: { id?: string }) {
  const query = useConfig(id ?? "", { enabled: id !== undefined });
  // What is seen of it goes on changing; the form begins with what it was when it was opened.
  const [config, setConfig] = useState<BackupConfig | null>(null);
  useEffect(() => {
    if (query.data) setConfig((c) => c ?? (query.data as BackupConfig));
  }, [query.data]);
  if (id === undefined) return <Editor />;
  if (config) return <Editor config={config} />;
  return (
    <Page title="Edit a backup config" crumbs={[["Backups", "/backups"]]}>
      {query.error ? (
        <Failure what="The config could not be read." error={query.error} retry={() => void query.refetch()} />
      ) : (
        <Loading what="the config" />
      )}
    </Page>
  );
}

type TextMore = Partial<ComponentProps<typeof TextField>>;
type TextKey =
  | "name"
  | "retention"
  | "checkSchedule"
  | "checkParts"
  | "testRestore"
  | "dumpCommand"
  | "dumpRestore"
  | "dumpFile"
  | "walInterval";

const KEEP_LABEL = { last: "Last", hourly: "Hourly", daily: "Daily", weekly: "Weekly", monthly: "Monthly", yearly: "Yearly" } as const;

function Editor({ config }: { config?: BackupConfig }) {
  const servers = useSubjects();
  /** A link from a server's page names it. */
  const [asked] = useQueryValue("server");
  const [form, setForm] = useState<BackupForm>(() => (config ? backupForm(config) : emptyBackupForm(asked)));
  const { body, problems: own } = useMemo(() => (config ? patchOf(config, form) : specOf(form)), [config, form]);
  const editing = useEditing({
    body,
    problems: own,
    send: (key) => (config ? calls.backups.updateConfig(config.id, body) : calls.backups.createConfig(specOf(form).body, key)),
    place: (said) => placeBackupProblems(form, said),
    done: (made, left) => {
      toast.done(config ? `Changed ${made.name}.` : `Created ${made.name}.`);
      if (!left) navigate(`/backups/configs/${made.id}`);
    },
    failed: config ? `${config.name} was not changed.` : `${form.name} was not created.`,
    stale: ["backups"],
  });
  const { problems, busy, count } = editing;
  const set = (change: Partial<BackupForm>, ...fields: string[]) => {
    setForm((f) => ({ ...f, ...change }));
    editing.touched([...Object.keys(change), ...fields]);
  };
  const text = (key: TextKey, label: string, more: TextMore = {}, field: string = key) => (
    <TextField label={label} problem={problems[field]} value={form[key]} onValue={(value) => set({ [key]: value }, field)} {...more} />
  );
  const lines = (key: "paths" | "volumes" | "excludes", label: string, placeholder: string, hint: string) => (
    <Field label={label} optional problem={problems[key]} hint={hint}>
      {(d) => <Textarea {...d} className="mono" rows={3} placeholder={placeholder} value={form[key]} onValue={(value) => set({ [key]: value })} />}
    </Field>
  );

  const unchanged = config !== undefined && Object.keys(body).length === 0;
  const kind = kindOf(form.serverId);
  const [container, cluster] = [kind === "container", kind === "cluster"];
  const made = config?.repository !== undefined;
  const home = config ? `/backups/configs/${config.id}` : "/backups";
  const named = linesOf(form.paths).length + linesOf(form.volumes).length;

  return (
    <Page
      title={config ? `Edit ${config.name}` : "Create a backup config"}
      crumbs={config ? [["Backups", "/backups"], [config.name, home]] : [["Backups", "/backups"]]}
    >
      <form ref={editing.form} className="form-grid" onSubmit={editing.submit} noValidate>
        <div className="form-main">
          <fieldset disabled={busy} style={{ display: "contents" }}>
            <section className="card">
              <div className="card-body stack">
                {servers.error !== null && servers.error !== undefined && <Failure what="The servers could not be read." error={servers.error} />}
                <div className="form-2">
                  {text("name", "Name", { name: "name", placeholder: "Daily production backup", maxLength: 100 })}
                  <ServerField
                    label="Server"
                    servers={servers.data}
                    value={form.serverId}
                    onValue={(serverId) => set(withServer(form, serverId), "dump", "credentials")}
                    problem={problems.serverId}
                    disabled={made}
                    hint={made ? "Its backups are of this server: make another config for another one" : undefined}
                  />
                </div>
                <div className="choices" role="group" aria-label="Type">
                  {BACKUP_TYPES.map((type) => (
                    <button key={type} type="button" className="template" aria-pressed={form.type === type} onClick={() => set({ type })}>
                      <b>{TYPE_NAME[type]}</b>
                      <span>{TYPE_SAYS[type]}</span>
                    </button>
                  ))}
                </div>
                <p className="faint">Nothing is stored twice, and every backup restores alone, whatever its type.</p>
                {problems.type && <p className="problem">{problems.type}</p>}
              </div>
            </section>
            <section className="card">
              <header className="card-head">
                <h2>When</h2>
              </header>
              <div className="card-body stack">
                <ScheduleFields form={form} set={set} problems={problems} />
                {cluster && (
                  <>
                    <p className="muted">
                      Between the backups its write-ahead log goes to the destination, so that it can be restored as it was at any moment, and not
                      only as it was when a backup was made.
                    </p>
                    <div className="form-2">
                      {text("walInterval", "Ship the log every", {
                        numeric: true,
                        suffix: "s",
                        placeholder: "300",
                        hint: "15 to 86,400; what is committed is in the destination, too, after so long: with all its nodes no more than that is lost",
                      })}
                    </div>
                  </>
                )}
              </div>
            </section>
            <section className="card">
              <header className="card-head">
                <h2>Where to</h2>
              </header>
              <div className="card-body stack">
                <DestinationFields
                  form={form.destination}
                  set={(change, ...fields) => set({ destination: { ...form.destination, ...change } }, ...fields)}
                  problems={problems}
                  at=""
                  kept={config?.hasCredentials ?? false}
                  fixed={made}
                  shared={cluster}
                />
                <Check
                  label="Encrypt with a random password"
                  hint={
                    made
                      ? "Fixed since the first backup was made"
                      : form.encryption
                        ? "Kept sealed; an admin can take the recovery kit. Right for everything that is not public."
                        : "The format has no unencrypted form: the password is then known, and stands in a file beside the repository. Anybody who has the folder reads it."
                  }
                  checked={form.encryption}
                  disabled={made}
                  onChecked={(encryption) => set({ encryption })}
                />
                {problems.encryption && <p className="problem">{problems.encryption}</p>}
                <Check
                  label="Compress"
                  hint={made ? "Fixed since the first backup was made" : "With zstd"}
                  checked={form.compression}
                  disabled={made}
                  onChecked={(compression) => set({ compression })}
                />
                {problems.compression && <p className="problem">{problems.compression}</p>}
              </div>
            </section>
            <Section
              title="How long"
              sum={form.appendOnly ? "for ever" : `${form.retention || 30} days`}
              problems={count(["retention", "keep", "appendOnly"])}
              open
            >
              <div className="form-2">
                {text("retention", "Days", {
                  numeric: true,
                  suffix: "days",
                  placeholder: "30",
                  hint: "1 to 365; the newest that is whole stays however old it is",
                })}
              </div>
              <div className="field">
                <span className="field-label">Kept beside that, however old: the newest of each of so many</span>
                <div className="form-3">
                  {KEEPS.map((k) => (
                    <TextField
                      key={k}
                      numeric
                      label={KEEP_LABEL[k]}
                      placeholder="none"
                      problem={problems[`keep.${k}`]}
                      value={form.keep[k]}
                      onValue={(value) => set({ keep: { ...form.keep, [k]: value } }, `keep.${k}`)}
                    />
                  ))}
                </div>
                {problems.keep && <p className="problem">{problems.keep}</p>}
              </div>
              <Check
                label="Never remove anything"
                hint="Append-only: neither the days nor the numbers above have an effect."
                checked={form.appendOnly}
                onChecked={(appendOnly) => set({ appendOnly })}
              />
            </Section>
            {!cluster && (
              <Section
                title="What"
                sum={named > 0 ? plural(named, "path or volume", "paths and volumes") : container ? "everything it writes to, and its spec" : "its managed volumes"}
                problems={count(["paths", "volumes", "excludes", "oneFileSystem", "consistency", "dump"])}
                open={form.paths !== "" || form.volumes !== ""}
              >
                {!container && lines("paths", "Paths", "/etc\n/srv/data", "One a line; in place of its managed volumes and the specs of its containers")}
                {lines("volumes", "Volumes", "shop-data", container ? "One a line; where none is named, all of the container, and the folders that are mounted into it" : "One a line; all where neither a path nor a volume is named")}
                {lines("excludes", "Left out", "*.log\n/volumes/cache", "One pattern a line, as .gitignore has them")}
                <Check
                  label="Stay on one file system"
                  hint="What is mounted below a path is left out."
                  checked={form.oneFileSystem}
                  onChecked={(oneFileSystem) => set({ oneFileSystem })}
                />
                {container && (
                  <>
                    <Field label="While it is read" hint={CONSISTENCY_SAYS[form.consistency]} problem={problems.consistency}>
                      {(d) => (
                        <Select
                          {...d}
                          value={form.consistency}
                          onValue={(consistency) => set({ consistency })}
                          options={CONSISTENCIES.map((c) => [c, CONSISTENCY_NAME[c]] as const)}
                        />
                      )}
                    </Field>
                    <Check
                      label="A dump by a command of your own"
                      hint="In place of the one that its image is known for."
                      checked={form.ownDump}
                      onChecked={(ownDump) => set({ ownDump }, "dump")}
                    />
                    {problems.dump && <p className="problem">{problems.dump}</p>}
                    {form.ownDump && (
                      <>
                        {text(
                          "dumpCommand",
                          "Command",
                          { mono: true, placeholder: "pg_dump -U app -Fc app", hint: "Run in the container without a shell; what it writes to its standard output is kept" },
                          "dump.command",
                        )}
                        <div className="form-2">
                          {text(
                            "dumpRestore",
                            "Command to read it in",
                            { mono: true, optional: true, placeholder: "pg_restore -U app -d app --clean", hint: "Reads the dump from its standard input when it is restored" },
                            "dump.restore",
                          )}
                          {text("dumpFile", "File name", { mono: true, optional: true, placeholder: "dump" }, "dump.file")}
                        </div>
                      </>
                    )}
                  </>
                )}
              </Section>
            )}
            <Section
              title="Trust"
              sum={form.testRestore.trim() ? "reads data, restores for a test" : "reads data in turn"}
              problems={count(["check"])}
              open={form.testRestore !== ""}
            >
              <p className="muted">The structure of the repository is checked after every backup, and only then is a backup called completed.</p>
              <div className="form-2">
                {text(
                  "checkSchedule",
                  "Read a part of the data",
                  { mono: true, placeholder: "@weekly", hint: cronWords(form.checkSchedule.trim() || "@weekly") || "A cron line" },
                  "check.schedule",
                )}
                {text("checkParts", "Parts", { numeric: true, placeholder: "4", hint: "Another one each time, until all was read" }, "check.parts")}
                {text(
                  "testRestore",
                  "Restore for a test",
                  {
                    mono: true,
                    optional: true,
                    placeholder: "@monthly",
                    hint: cronWords(form.testRestore.trim()) || "Into a scratch folder, compared and removed again; never where nothing is said",
                  },
                  "check.testRestore",
                )}
              </div>
              {problems.check && <p className="problem">{problems.check}</p>}
            </Section>
            <Section
              title="Copy"
              sum={form.copy ? DESTINATIONS[form.copyTo.kind].label.toLowerCase() : "none"}
              problems={count(["copy"])}
              open={form.copy}
            >
              <Check
                label="Copy every backup to a second place"
                hint="Another repository with a password of its own: off-site, best of all."
                checked={form.copy}
                onChecked={(copy) => set({ copy }, "copy")}
              />
              {problems.copy && <p className="problem">{problems.copy}</p>}
              {form.copy && (
                <DestinationFields
                  form={form.copyTo}
                  set={(change, ...fields) => set({ copyTo: { ...form.copyTo, ...change } }, ...fields)}
                  problems={problems}
                  at="copy."
                  kept={config?.copy?.hasCredentials ?? false}
                  fixed={config?.copy?.repository !== undefined}
                  shared={cluster}
                />
              )}
            </Section>
            <section className="card">
              <div className="card-body">
                <Check
                  label="Paused"
                  hint="Nothing runs by itself; a backup can be asked for nonetheless."
                  checked={form.paused}
                  onChecked={(paused) => set({ paused }, "status")}
                />
                {problems.status && <p className="problem">{problems.status}</p>}
              </div>
            </section>
          </fieldset>
          {editing.wrong > 0 && <Notice tone="amber">{plural(editing.wrong, "field needs", "fields need")} another look.</Notice>}
          {editing.error !== null && (
            <Failure what={config ? `${config.name} was not changed.` : `${form.name} was not created.`} error={editing.error} />
          )}
          <div className="form-foot">
            <Button type="submit" variant="primary" busy={busy} disabled={unchanged}>
              {config ? "Save" : "Create"}
            </Button>
            <Link className="btn" href={home}>
              Cancel
            </Link>
            {unchanged && <span className="faint">Nothing is changed yet.</span>}
          </div>
        </div>
        <aside className="form-side">
          <RequestPreview
            line={config ? `PATCH /api/capabilities/backups/configs/${config.id}` : "POST /api/capabilities/backups/configs"}
            body={body}
          />
        </aside>
      </form>
    </Page>
  );
}
