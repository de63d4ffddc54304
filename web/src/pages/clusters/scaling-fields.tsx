import { Check, Segmented, TextField } from "../../ui/field";
import type { Form as ContainerForm, Problems } from "../containers/form";
import { EnvironmentRows, PortRows } from "../containers/rows";
import type { ClusterForm } from "./form";

type Key = "min" | "max" | "cpu" | "memory" | "requests" | "queue" | "up" | "down" | "tolerance" | "window";
/** Field of the form, of the API, its label, unit, what holds where it is empty, and what is to be said of it. */
type Row = readonly [Key, string, string, string, string, string?];
const FIELDS: readonly Row[] = [
  ["min", "minServers", "At least", "servers", "1"],
  ["max", "maxServers", "At most", "servers", "10"],
  ["cpu", "targetCpuPercent", "CPU", "%", "no target", "Of a container's limit, or of one core"],
  ["memory", "targetMemoryPercent", "Memory", "%", "no target", "Of a container's limit, or of its node's memory"],
  ["requests", "targetRequestsPerSecond", "Requests", "/s", "no target", "That one server is to have"],
  ["up", "scaleUpCooldown", "Pause after adding", "s", "300", "60 to 3,600"],
  ["down", "scaleDownCooldown", "Pause before removing", "s", "600", "After any change; 60 to 3,600"],
  ["tolerance", "tolerance", "Tolerance", "%", "10", "A smaller miss of the target counts as none"],
  ["window", "stabilizationWindow", "Calm before removing", "s", "300", "The load has to stay low so long"],
];

/** Of a queue of jobs: how many of its nodes are in use. */
const QUEUE_FIELDS: readonly Row[] = [
  ["queue", "targetQueueLength", "Tasks that wait", "tasks", "10", "For each node in use; more of them, and another node is used"],
  ["min", "minServers", "At least", "nodes", "1"],
  ["max", "maxServers", "At most", "nodes", "10"],
  ["up", "scaleUpCooldown", "Pause after more", "s", "300", "60 to 3,600"],
  ["down", "scaleDownCooldown", "Pause before fewer", "s", "600", "60 to 3,600"],
];

interface Props {
  form: ClusterForm;
  set: (change: Partial<ClusterForm>, ...fields: string[]) => void;
  problems: Problems;
}
/** Draws a row of fields. */
const drawn = ({ form, set, problems }: Props) =>
  ([key, name, label, unit, fallback, hint]: Row) => (
    <TextField
      key={key}
      numeric
      label={label}
      problem={problems[`autoScaling.${name}`]}
      hint={hint}
      placeholder={fallback}
      suffix={unit}
      value={form[key]}
      onValue={(value) => set({ [key]: value } as Partial<ClusterForm>, `autoScaling.${name}`)}
    />
  );

export function QueueFields(props: Props) {
  const { form, set, problems } = props;
  const field = drawn(props);
  return (
    <>
      <Check
        label="Use only as many nodes as the queue asks for"
        hint="The first ones that are named. On the others nothing new begins; what runs there goes on to its end."
        checked={form.scaling}
        onChecked={(scaling) => set({ scaling }, "autoScaling")}
      />
      {problems.autoScaling && <p className="problem">{problems.autoScaling}</p>}
      {form.scaling && (
        <>
          <div className="form-3">{QUEUE_FIELDS.slice(0, 3).map(field)}</div>
          <div className="form-2">{QUEUE_FIELDS.slice(3).map(field)}</div>
        </>
      )}
    </>
  );
}

export function ScalingFields(props: Props) {
  const { form, set, problems } = props;
  const field = drawn(props);
  return (
    <>
      <Check
        label="Add and remove servers by themselves"
        hint="By the formula of the Kubernetes autoscaler, every 15 seconds. Only servers that it made are removed."
        checked={form.scaling}
        onChecked={(scaling) => set({ scaling }, "autoScaling", "serverTemplate")}
      />
      {problems.autoScaling && <p className="problem">{problems.autoScaling}</p>}
      {form.scaling && (
        <>
          <div className="form-2">{FIELDS.slice(0, 2).map(field)}</div>
          <div className="field">
            <span className="field-label">Targets, of each server on average</span>
            <div className="form-3">{FIELDS.slice(2, 5).map(field)}</div>
          </div>
          <details className="more">
            <summary>Pauses and tolerance</summary>
            <div className="form-2">{FIELDS.slice(5).map(field)}</div>
          </details>
          <div className="field">
            <span className="field-label">New servers are</span>
            <div>
              <Segmented
                label="New servers are"
                value={form.template}
                onValue={(template) => set({ template }, "serverTemplate")}
                options={[
                  ["copy", "Copies of the first container"],
                  ["own", "Made as described"],
                ]}
              />
            </div>
            {problems.serverTemplate && <p className="problem">{problems.serverTemplate}</p>}
          </div>
          {form.template === "copy" ? (
            <p className="faint">
              A copy of the first of its containers that writes to no volume or folder of its node and has no privileges, with ports at the
              node's choice.
            </p>
          ) : (
            <TemplateFields
              form={form.container}
              problems={problems}
              set={(change, ...fields) =>
                set({ container: { ...form.container, ...change } }, ...fields.map((f) => `serverTemplate.container.${f}`))
              }
            />
          )}
        </>
      )}
    </>
  );
}

function TemplateFields(props: {
  form: ContainerForm;
  set: (change: Partial<ContainerForm>, ...fields: string[]) => void;
  problems: Problems;
}) {
  const { form, set } = props;
  const at = "serverTemplate.container.";
  const problems = Object.fromEntries(
    Object.entries(props.problems).flatMap(([field, says]) => (field.startsWith(at) ? [[field.slice(at.length), says]] : [])),
  );
  const input = (key: "name" | "image" | "command" | "cpuLimit" | "memoryLimit", label: string, placeholder: string, hint?: string) => (
    <TextField
      mono
      label={label}
      problem={problems[key]}
      hint={hint}
      optional={key !== "name" && key !== "image"}
      placeholder={placeholder}
      value={form[key]}
      onValue={(value) => set({ [key]: value }, key)}
    />
  );
  return (
    <div className="stack">
      <div className="form-2">
        {input("name", "Container's name", "web", "With something behind it that tells them apart")}
        {input("image", "Image", "nginx:latest")}
        {input("cpuLimit", "CPU limit", "no limit", "Cores; what the CPU target is measured by")}
        {input("memoryLimit", "Memory limit", "no limit", "512m, 1g")}
      </div>
      {input("command", "Command", "", "Words as in a shell, with quotes")}
      <div className="field">
        <span className="field-label">Ports</span>
        <PortRows rows={form.ports} onRows={(ports) => set({ ports }, "ports")} problems={problems} />
      </div>
      <div className="field">
        <span className="field-label">Environment</span>
        <EnvironmentRows rows={form.environment} onRows={(environment) => set({ environment }, "environment")} problems={problems} />
      </div>
      {Object.entries(problems)
        .filter(([field]) => !/^(name|image|cpuLimit|memoryLimit|command|ports|environment)/.test(field))
        .map(([field, says]) => (
          <p key={field} className="problem">
            <code>{field}</code> {says}
          </p>
        ))}
    </div>
  );
}
