import { useQuery } from "@tanstack/react-query";
import { FilePlus2 } from "lucide-react";
import { useEffect, useRef, useState } from "react";
import { ApiError } from "../../api";
import * as calls from "../../api/calls";
import type { ContainerTemplate, Operation } from "../../api/types";
import { finished, useNodes } from "../../lib/data";
import { useEditing } from "../../lib/editing";
import { plural } from "../../lib/format";
import { Link, navigate, useQueryValue } from "../../lib/router";
import { Button } from "../../ui/button";
import { Check, Field, Input, Select } from "../../ui/field";
import { RequestPreview } from "../../ui/json";
import { Page } from "../../ui/page";
import { Section } from "../../ui/section";
import { Failure, Notice } from "../../ui/states";
import { toast } from "../../ui/toast";
import { OperationProgress } from "../operation-parts";
import { RESTART_OPTIONS } from "./actions";
import { emptyForm, type Form, formOf, pairRow, placeProblems, randomSecret, specOf } from "./form";
import { PLACEMENT_FIELDS, PlacementFields, placementText } from "./placement";
import { EnvironmentRows, PairRows, PortRows, VolumeRows } from "./rows";

export default function CreatePage() {
  const [form, setForm] = useState(emptyForm);
  const [template, setTemplate] = useQueryValue("template");
  const [operation, setOperation] = useState<Operation | null>(null);
  const nodes = useNodes();
  const templates = useQuery({
    queryKey: ["templates"],
    queryFn: ({ signal }) => calls.containers.templates(signal),
    staleTime: Number.POSITIVE_INFINITY,
  });
  const networks = useQuery({
    queryKey: ["networks", form.nodeId],
    queryFn: ({ signal }) => calls.networks.list(form.nodeId || undefined, signal),
  });

  const { spec, problems: own } = specOf(form);
  const editing = useEditing({
    body: spec,
    problems: own,
    send: async (key) => {
      try {
        const begun = await calls.containers.create(spec, key);
        return begun.operation ? (await finished(begun.operation, setOperation)).target : begun.done.id;
      } finally {
        setOperation(null);
      }
    },
    // Where no node can take it there is a reason for each of them, more than a field can show.
    place: (said, cause) => (cause instanceof ApiError && cause.code === "no_place" ? {} : placeProblems(form, said)),
    done: (id, left) => {
      toast.done(`Created ${spec.name}.`);
      if (!left) navigate(id ? `/containers/${id}` : "/containers");
    },
    failed: `${spec.name} was not created.`,
    stale: ["containers"],
  });
  const { problems, busy, count } = editing;
  const set = (change: Partial<Form>, ...fields: string[]) => {
    setForm((f) => ({ ...f, ...change }));
    editing.touched([...Object.keys(change), ...fields]);
  };

  const use = (t: ContainerTemplate | null) => {
    setTemplate(t?.id ?? "");
    editing.reset();
    if (!t) {
      setForm(emptyForm());
      return;
    }
    const filled = formOf(t.config);
    setForm({ ...filled, environment: [...filled.environment, ...t.generated.map((name) => pairRow(name, randomSecret()))] });
  };
  // A link may name a template.
  const linked = useRef(template);
  useEffect(() => {
    const found = templates.data?.find((t) => t.id === linked.current);
    if (!found) return;
    linked.current = "";
    const filled = formOf(found.config);
    setForm({ ...filled, environment: [...filled.environment, ...found.generated.map((name) => pairRow(name, randomSecret()))] });
  }, [templates.data]);

  const networkNames = [...new Set((networks.data ?? []).map((n) => n.name))].filter((n) => n !== "host" && n !== "none" && n !== "bridge");

  return (
    <Page title="Create a container" crumbs={[["Containers", "/containers"]]}>
      <section className="stack tight" aria-label="Templates">
        <div className="templates">
          <button type="button" className="template" aria-pressed={template === ""} onClick={() => use(null)}>
            <b className="row">
              <FilePlus2 /> From an image
            </b>
            <span>Fill in everything yourself</span>
          </button>
          {templates.data?.map((t) => (
            <button key={t.id} type="button" className="template" aria-pressed={template === t.id} onClick={() => use(t)}>
              <b>{t.name}</b>
              <span>{t.description}</span>
              <code>{t.image}</code>
            </button>
          ))}
        </div>
        {templates.error && (
          <Failure what="The templates could not be read." error={templates.error} retry={() => void templates.refetch()} />
        )}
      </section>
      <form ref={editing.form} className="form-grid" onSubmit={editing.submit} noValidate>
        <div className="form-main">
          <fieldset disabled={busy} style={{ display: "contents" }}>
            <section className="card">
              <div className="card-body form-2">
                <Field label="Name" problem={problems.name}>
                  {(d) => <Input {...d} mono name="name" value={form.name} onValue={(name) => set({ name })} placeholder="web" />}
                </Field>
                <Field label="Image" problem={problems.image} hint="Pulled to the node where it is not there yet">
                  {(d) => (
                    <Input {...d} mono name="image" value={form.image} onValue={(image) => set({ image })} placeholder="nginx:latest" />
                  )}
                </Field>
                <Field label="Restart" problem={problems.restart}>
                  {(d) => <Select {...d} value={form.restart} onValue={(restart) => set({ restart })} options={RESTART_OPTIONS} />}
                </Field>
                <div className="full">
                  <Check label="Start it at once" checked={form.start} onChecked={(start) => set({ start })} />
                </div>
              </div>
            </section>
            <Section
              title="Placement"
              sum={placementText(form, nodes.data ?? [])}
              problems={count(PLACEMENT_FIELDS)}
              open={form.constraints.length > 0 || form.spread !== ""}
            >
              <PlacementFields form={form} set={set} problems={problems} nodes={nodes.data ?? []} />
            </Section>
            <Section title="Ports" open sum={sumOf(form.ports.length, "port")} problems={count(["ports"])}>
              <PortRows rows={form.ports} onRows={(ports) => set({ ports })} problems={problems} />
            </Section>
            <Section
              title="Resources"
              open
              sum={[form.cpuLimit && `${form.cpuLimit} CPU`, form.memoryLimit].filter(Boolean).join(", ") || "no limits"}
              problems={count(["cpuLimit", "memoryLimit"])}
            >
              <div className="form-2">
                <Field label="CPU limit" optional problem={problems.cpuLimit} hint="Cores, 0.1 to 64">
                  {(d) => (
                    <Input
                      {...d}
                      name="cpuLimit"
                      inputMode="decimal"
                      value={form.cpuLimit}
                      onValue={(cpuLimit) => set({ cpuLimit })}
                      placeholder="no limit"
                    />
                  )}
                </Field>
                <Field label="Memory limit" optional problem={problems.memoryLimit} hint="512m, 1g; at least 6m">
                  {(d) => (
                    <Input
                      {...d}
                      name="memoryLimit"
                      value={form.memoryLimit}
                      onValue={(memoryLimit) => set({ memoryLimit })}
                      placeholder="no limit"
                    />
                  )}
                </Field>
              </div>
            </Section>
            <Section
              title="Environment"
              sum={sumOf(form.environment.length, "variable")}
              problems={count(["environment"])}
              open={form.environment.length > 0}
            >
              <EnvironmentRows rows={form.environment} onRows={(environment) => set({ environment })} problems={problems} />
            </Section>
            <Section
              title="Volumes"
              sum={sumOf(form.volumes.length, "volume")}
              problems={count(["volumes"])}
              open={form.volumes.length > 0}
            >
              <VolumeRows rows={form.volumes} onRows={(volumes) => set({ volumes })} problems={problems} />
            </Section>
            <Section
              title="Command"
              sum={form.command || form.entrypoint ? "changed" : "the image's own"}
              problems={count(["command", "entrypoint"])}
              open={form.command !== ""}
            >
              <Field label="Command" optional problem={problems.command} hint="Words as in a shell, with quotes; no shell runs it">
                {(d) => <Input {...d} mono value={form.command} onValue={(command) => set({ command })} />}
              </Field>
              <Field label="Entrypoint" optional problem={problems.entrypoint}>
                {(d) => <Input {...d} mono value={form.entrypoint} onValue={(entrypoint) => set({ entrypoint })} />}
              </Field>
            </Section>
            <Section
              title="Networks"
              sum={form.networks.length > 0 ? form.networks.join(", ") : "Docker's default"}
              problems={count(["networks"])}
            >
              {networkNames.length === 0 ? (
                <p className="faint">
                  There are no networks of your own yet.{" "}
                  <Link className="link" href="/networks">
                    Make one
                  </Link>{" "}
                  to let containers reach each other by name.
                </p>
              ) : (
                <div className="stack tight">
                  {networkNames.map((n) => (
                    <Check
                      key={n}
                      label={n}
                      checked={form.networks.includes(n)}
                      onChecked={(on) => set({ networks: on ? [...form.networks, n] : form.networks.filter((m) => m !== n) })}
                    />
                  ))}
                </div>
              )}
              {problems.networks && <p className="problem">{problems.networks}</p>}
            </Section>
            <Section title="Health check" sum={form.health.command || "none"} problems={count(["healthCheck"])}>
              <Field
                label="Checking command"
                optional
                problem={problems["healthCheck.command"]}
                hint="Runs inside the container; healthy where it ends with 0"
              >
                {(d) => (
                  <Input
                    {...d}
                    mono
                    value={form.health.command}
                    onValue={(command) => set({ health: { ...form.health, command } }, "healthCheck.command")}
                    placeholder="wget -qO- http://localhost/"
                  />
                )}
              </Field>
              <div className="form-2">
                {(
                  [
                    ["interval", "Every", "30"],
                    ["timeout", "At most", "30"],
                    ["retries", "Failures until unhealthy", "3"],
                    ["startPeriod", "Not counted after the start", "0"],
                  ] as const
                ).map(([key, label, fallback]) => (
                  <Field key={key} label={label} problem={problems[`healthCheck.${key}`]}>
                    {(d) => (
                      <div className="with-suffix">
                        <Input
                          {...d}
                          inputMode="numeric"
                          value={form.health[key]}
                          onValue={(v) => set({ health: { ...form.health, [key]: v } }, `healthCheck.${key}`)}
                          placeholder={fallback}
                        />
                        {key !== "retries" && <span className="suffix">s</span>}
                      </div>
                    )}
                  </Field>
                ))}
              </div>
            </Section>
            <Section title="Labels" sum={sumOf(form.labels.length, "label")} problems={count(["labels"])} open={form.labels.length > 0}>
              <PairRows field="labels" what="label" rows={form.labels} onRows={(labels) => set({ labels })} problems={problems} />
            </Section>
            <Section
              title="Advanced"
              sum="user, folder, host name, rights"
              problems={count(["user", "workingDir", "hostname", "capDrop", "stopGrace", "readOnly", "tty"])}
            >
              <div className="form-2">
                <Field label="User" optional problem={problems.user} hint="name, uid or uid:gid">
                  {(d) => <Input {...d} mono value={form.user} onValue={(user) => set({ user })} />}
                </Field>
                <Field label="Working directory" optional problem={problems.workingDir}>
                  {(d) => <Input {...d} mono value={form.workingDir} onValue={(workingDir) => set({ workingDir })} placeholder="/app" />}
                </Field>
                <Field label="Host name" optional problem={problems.hostname}>
                  {(d) => <Input {...d} mono value={form.hostname} onValue={(hostname) => set({ hostname })} />}
                </Field>
                <Field label="Grace to stop" optional problem={problems.stopGrace} hint="Before it is killed">
                  {(d) => (
                    <div className="with-suffix">
                      <Input
                        {...d}
                        inputMode="numeric"
                        value={form.stopGrace}
                        onValue={(stopGrace) => set({ stopGrace })}
                        placeholder="10"
                      />
                      <span className="suffix">s</span>
                    </div>
                  )}
                </Field>
                <Field
                  label="Capabilities to drop"
                  optional
                  className="full"
                  problem={problems.capDrop}
                  hint="ALL, or names such as NET_RAW, with spaces between"
                >
                  {(d) => <Input {...d} mono value={form.capDrop} onValue={(capDrop) => set({ capDrop })} />}
                </Field>
              </div>
              <Check
                label="Read-only file system"
                hint="Only its volumes can be written"
                checked={form.readOnly}
                onChecked={(readOnly) => set({ readOnly })}
              />
              <Check label="Terminal for the main process" checked={form.tty} onChecked={(tty) => set({ tty })} />
            </Section>
          </fieldset>
          {editing.wrong > 0 && <Notice tone="amber">{plural(editing.wrong, "field needs", "fields need")} another look.</Notice>}
          {editing.error !== null && <Failure what={`${spec.name} was not created.`} error={editing.error} />}
          {operation && <OperationProgress operation={operation} cancellable />}
          <div className="form-foot">
            <Button type="submit" variant="primary" busy={busy}>
              {form.start ? "Create and start" : "Create"}
            </Button>
            <Link className="btn" href="/containers">
              {busy ? "Leave, it goes on" : "Cancel"}
            </Link>
          </div>
        </div>
        <aside className="form-side">
          <RequestPreview line="POST /api/containers" body={spec} />
        </aside>
      </form>
    </Page>
  );
}

const sumOf = (n: number, what: string): string => (n === 0 ? "none" : plural(n, what));
