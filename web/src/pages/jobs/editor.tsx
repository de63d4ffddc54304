import { X } from "lucide-react";
import { type ComponentProps, useMemo, useState } from "react";
import * as calls from "../../api/calls";
import { useEditing } from "../../lib/editing";
import { plural } from "../../lib/format";
import { Link, navigate } from "../../lib/router";
import { Button, IconButton } from "../../ui/button";
import { Check, Field, Select, TextField } from "../../ui/field";
import { RequestPreview } from "../../ui/json";
import { Page } from "../../ui/page";
import { Section } from "../../ui/section";
import { Failure, Loading, Notice } from "../../ui/states";
import { toast } from "../../ui/toast";
import { useCluster } from "../clusters/data";
import { TYPE_NAME } from "../clusters/words";
import { EnvironmentRows, VolumeRows } from "../containers/rows";
import { useJobs } from "./data";
import { emptyJob, INDEX_VARIABLE, type JobForm, jobOf, placeJobProblems } from "./form";
import { canPrecede, jobName, STATE_WORD } from "./words";

type TextKey = { [K in keyof JobForm]: JobForm[K] extends string ? K : never }[keyof JobForm];

/** Gives a compute cluster a job. */
export default function JobEditor({ cluster: id }: { cluster: string }) {
  const query = useCluster(id);
  const cluster = query.data;
  const [form, setForm] = useState<JobForm>(emptyJob);
  const { spec, problems: own } = useMemo(() => jobOf(form), [form]);
  const editing = useEditing({
    body: spec,
    problems: own,
    send: (key) => calls.jobs.create(id, spec, key),
    place: (said) => placeJobProblems(form, said),
    done: (job, left) => {
      toast.done(`Gave it ${jobName(job)}.`);
      if (!left) navigate(`/clusters/${job.clusterId}/jobs/${job.id}`);
    },
    failed: "The job was not made.",
    stale: ["jobs"],
  });
  const { problems, busy, count } = editing;
  const set = (change: Partial<JobForm>, ...fields: string[]) => {
    setForm((f) => ({ ...f, ...change }));
    editing.touched([...Object.keys(change), ...fields]);
  };
  const text = (key: TextKey, label: string, more: Partial<ComponentProps<typeof TextField>> = {}, field: string = key) => (
    <TextField label={label} problem={problems[field]} value={form[key]} onValue={(value) => set({ [key]: value }, field)} {...more} />
  );
  const home = `/clusters/${id}/jobs`;
  const title = "Run a job";
  const crumbs: [string, string][] = [
    ["Clusters", "/clusters"],
    [cluster?.name ?? "Cluster", home],
  ];
  if (!cluster) {
    return (
      <Page title={title} crumbs={crumbs}>
        {query.error ? <Failure what="The cluster could not be read." error={query.error} retry={() => void query.refetch()} /> : <Loading what="the cluster" />}
      </Page>
    );
  }
  if (cluster.type !== "compute") {
    return (
      <Page title={title} crumbs={crumbs}>
        <Notice tone="amber">
          {cluster.name} is of type {TYPE_NAME[cluster.type]}: jobs run on clusters of type {TYPE_NAME.compute}.
        </Notice>
      </Page>
    );
  }
  return (
    <Page title={title} crumbs={crumbs}>
      <form ref={editing.form} className="form-grid" onSubmit={editing.submit} noValidate>
        <div className="form-main">
          <fieldset disabled={busy} style={{ display: "contents" }}>
            <section className="card">
              <div className="card-body stack">
                <div className="form-2">
                  {text("image", "Image", { name: "image", mono: true, placeholder: "busybox:latest", hint: "Pulled to the node where it is not there yet" })}
                  {text("name", "Name", { name: "name", optional: true, placeholder: "nightly report", hint: "For people; need not be the only one", maxLength: 100 })}
                </div>
                {text("command", "Command", {
                  mono: true,
                  optional: true,
                  placeholder: "sh -c 'echo hello'",
                  hint: "Words as in a shell, with quotes; no shell runs it. Without one, what the image does by itself",
                })}
                <div className="form-2">
                  {text("cpu", "CPU", { numeric: true, optional: true, suffix: "cores", placeholder: "no limit", hint: "Of each task. A whole number of cores is its own" })}
                  {text("memory", "Memory", { optional: true, mono: true, placeholder: "no limit", hint: "Of each task, such as 512m or 1g. One that wants more is ended" })}
                </div>
                <Check
                  label="Many tasks"
                  hint="The same many times over; a variable tells each its number."
                  checked={form.many}
                  onChecked={(many) => set({ many }, "array")}
                />
                {form.many && (
                  <div className="form-2">
                    {text("size", "How many", { numeric: true, suffix: "tasks", placeholder: "100", hint: "Numbered from 0; 10,000 at most" }, "array.size")}
                    {text("variable", "Variable", { mono: true, placeholder: INDEX_VARIABLE, hint: "That tells each its number" }, "array.variable")}
                  </div>
                )}
              </div>
            </section>
            <Section
              title="Environment"
              sum={form.environment.length > 0 ? plural(form.environment.length, "variable") : "none"}
              problems={count(["environment"])}
              open={form.environment.length > 0}
            >
              <EnvironmentRows rows={form.environment} onRows={(environment) => set({ environment }, "array.variable")} problems={problems} />
            </Section>
            <Section
              title="Retries and time"
              sum={`${form.retries && form.retries !== "0" ? plural(Number(form.retries) || 0, "retry", "retries") : "no retries"}, ${form.timeout ? `${form.timeout} s at most` : "no limit of time"}`}
              problems={count(["retries", "timeout"])}
            >
              <div className="form-3">
                {text("retries", "Retries", { numeric: true, placeholder: "0", hint: "More attempts of a task that failed, 20 at most" }, "retries.limit")}
                {text(
                  "backoff",
                  "Pause before the first",
                  { numeric: true, suffix: "s", placeholder: "10", hint: "Twice as long before each next one", disabled: !Number(form.retries) },
                  "retries.backoff",
                )}
                {text("timeout", "At most", { numeric: true, suffix: "s", optional: true, placeholder: "no limit", hint: "That an attempt may run" })}
              </div>
            </Section>
            <Section
              title="Order"
              sum={`priority ${form.priority || 50}${form.dependsOn.length > 0 ? `, after ${plural(form.dependsOn.length, "job")}` : ""}`}
              problems={count(["priority", "dependsOn"])}
            >
              <div className="form-2">
                {text("priority", "Priority", { numeric: true, placeholder: "50", hint: "0 to 100; 100 gets about twice what 50 gets, and 0 is never without" })}
              </div>
              <Dependencies cluster={cluster.id} chosen={form.dependsOn} onChosen={(dependsOn) => set({ dependsOn })} problem={problems.dependsOn} />
            </Section>
            <Section
              title="Volumes"
              sum={form.volumes.length > 0 ? plural(form.volumes.length, "volume") : "none"}
              problems={count(["volumes"])}
              open={form.volumes.length > 0}
            >
              <VolumeRows rows={form.volumes} onRows={(volumes) => set({ volumes })} problems={problems} />
              {problems.volumes && <p className="problem">{problems.volumes}</p>}
              <p className="faint">Each node has its own: what a task leaves in a volume is on the node it ran on.</p>
            </Section>
          </fieldset>
          {editing.wrong > 0 && <Notice tone="amber">{plural(editing.wrong, "field needs", "fields need")} another look.</Notice>}
          {editing.error !== null && <Failure what="The job was not made." error={editing.error} />}
          <div className="form-foot">
            <Button type="submit" variant="primary" busy={busy}>
              Run it
            </Button>
            <Link className="btn" href={home}>
              Cancel
            </Link>
          </div>
        </div>
        <aside className="form-side">
          <RequestPreview line={`POST /api/capabilities/clusters/${cluster.id}/jobs`} body={spec} />
        </aside>
      </form>
    </Page>
  );
}

/** Which jobs of the cluster have to succeed first. */
function Dependencies(props: { cluster: string; chosen: readonly string[]; onChosen: (ids: string[]) => void; problem: string | undefined }) {
  const { chosen, onChosen } = props;
  const { data: all, error } = useJobs(props.cluster);
  const data = all?.filter(canPrecede);
  const left = data?.filter((j) => !chosen.includes(j.id)) ?? [];
  const nameOf = (id: string) => {
    const job = all?.find((j) => j.id === id);
    return job ? jobName(job) : id;
  };
  return (
    <div className="stack tight">
      {error && <Failure what="The jobs could not be read." error={error} />}
      <Field label="After" optional problem={props.problem} hint="Jobs that have to succeed first; where one does not, this one is cancelled">
        {(d) => (
          <Select
            {...d}
            value=""
            onValue={(id) => id && onChosen([...chosen, id])}
            disabled={left.length === 0}
            options={[
              ["", data ? (left.length > 0 ? "Add a job…" : "No other job it could wait for") : "Loading…"],
              ...left.map((j): [string, string] => [j.id, `${jobName(j)}, ${STATE_WORD[j.state]}`]),
            ]}
          />
        )}
      </Field>
      {chosen.length > 0 && (
        <ul className="stack tight" aria-label="Jobs that have to succeed first">
          {chosen.map((id) => (
            <li key={id} className="row">
              <span className="grow truncate">{nameOf(id)}</span>
              <IconButton small label={`Do not wait for ${nameOf(id)}`} onClick={() => onChosen(chosen.filter((x) => x !== id))}>
                <X />
              </IconButton>
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}
