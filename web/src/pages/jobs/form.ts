import type { JobSpec, VolumeMount } from "../../api/types";
import type { Problems } from "../../lib/editing";
import { splitWords } from "../../lib/shell";
import * as check from "../../lib/validate";
import type { PairRow, VolumeRow } from "../containers/form";

// What stands in the form of a job, as text, and the way from there to the request and back. Problems are named as the server names
// them, but for variables: `environment[0]` is the first row.

export interface JobForm {
  name: string;
  image: string;
  command: string;
  environment: PairRow[];
  cpu: string;
  memory: string;
  /** Whether it has many tasks. */
  many: boolean;
  size: string;
  variable: string;
  retries: string;
  backoff: string;
  timeout: string;
  priority: string;
  dependsOn: string[];
  volumes: VolumeRow[];
}

export const INDEX_VARIABLE = "NM_TASK_INDEX";

export const emptyJob = (): JobForm => ({
  name: "",
  image: "",
  command: "",
  environment: [],
  cpu: "",
  memory: "",
  many: false,
  size: "",
  variable: "",
  retries: "",
  backoff: "",
  timeout: "",
  priority: "",
  dependsOn: [],
  volumes: [],
});

const isFilled = (row: VolumeRow): boolean => row.container.trim() !== "" || row.host.trim() !== "";

/** The request the form stands for, and what is wrong with it. Rows left wholly empty do not count. */
export function jobOf(form: JobForm): { spec: JobSpec; problems: Problems } {
  const problems: Problems = {};
  const problem = (field: string, says: string | undefined) => {
    if (says) problems[field] ??= says;
  };
  const text = (field: string, value: string, rule: check.Check): string | undefined => {
    const kept = value.trim();
    if (kept === "") return undefined;
    problem(field, rule(kept));
    return kept;
  };
  const number = (field: string, value: string, rule: check.Check): number | undefined => {
    const kept = text(field, value, rule);
    return kept === undefined ? undefined : Number(kept);
  };

  const image = form.image.trim();
  problem("image", image === "" ? "Name an image" : check.image(image));
  const spec: JobSpec = { image };
  const put = <K extends keyof JobSpec>(key: K, value: JobSpec[K] | undefined) => {
    if (value !== undefined) spec[key] = value;
  };
  put("name", text("name", form.name, check.title));
  const split = splitWords(form.command);
  problem("command", split.problem);
  if (split.words && split.words.length > 100) problem("command", "100 words at most");
  if (split.words && split.words.length > 0) spec.command = split.words;

  const environment: Record<string, string> = {};
  form.environment.forEach((row, i) => {
    const name = row.name.trim();
    if (name === "" && row.value === "") return;
    problem(`environment[${i}]`, name === "" ? "Say which variable" : check.envName(name));
    if (Object.hasOwn(environment, name)) problem(`environment[${i}]`, `${name} stands here twice`);
    environment[name] = row.value;
  });
  if (Object.keys(environment).length > 0) spec.environment = environment;

  put("cpu", number("cpu", form.cpu, check.cpu));
  put("memory", text("memory", form.memory, check.memory));
  if (form.many) {
    const size = number("array.size", form.size, check.whole(1, 10_000));
    if (size === undefined) problem("array.size", "Say how many tasks");
    const variable = text("array.variable", form.variable, check.envName);
    if (Object.hasOwn(environment, variable ?? INDEX_VARIABLE)) problem("array.variable", `${variable ?? INDEX_VARIABLE} is in the environment already: choose another one`);
    if (size !== undefined) spec.array = { size, ...(variable === undefined ? {} : { variable }) };
  }
  const limit = number("retries.limit", form.retries, check.whole(0, 20));
  // Without another attempt there is nothing to wait for.
  const backoff = limit ? number("retries.backoff", form.backoff, check.whole(0, 3_600)) : undefined;
  if (limit !== undefined) spec.retries = { limit, ...(backoff === undefined ? {} : { backoff }) };
  put("timeout", number("timeout", form.timeout, check.whole(1, 2_592_000)));
  put("priority", number("priority", form.priority, check.whole(0, 100)));
  if (form.dependsOn.length > 0) spec.dependsOn = form.dependsOn;

  const volumes: VolumeMount[] = [];
  form.volumes.forEach((row, i) => {
    if (!isFilled(row)) return;
    const at = `volumes[${i}]`;
    const container = row.container.trim();
    problem(`${at}.container`, container === "" ? "Say where in the container" : check.containerPath(container));
    if (volumes.some((v) => v.container === container)) problem(`${at}.container`, `${container} is mounted twice`);
    const host = text(`${at}.host`, row.host, check.mountSource);
    volumes.push({ container, ...(host === undefined ? {} : { host }), ...(row.mode === "ro" ? { mode: "ro" as const } : {}) });
  });
  if (volumes.length > 0) spec.volumes = volumes;
  return { spec, problems };
}

/** The server counts only the rows it was sent, and names variables by their names; on the form each problem belongs to its row. */
export function placeJobProblems(form: JobForm, problems: Problems): Problems {
  const sent = form.volumes.flatMap((row, i) => (isFilled(row) ? [i] : []));
  const out: Problems = {};
  const put = (field: string, says: string) => {
    out[field] = out[field] ? `${out[field]}; ${says}` : says;
  };
  for (const [field, says] of Object.entries(problems)) {
    const volume = /^volumes\[(\d+)\](.*)$/.exec(field);
    const variable = /^environment(?:\.|\[["']?)([^"'\]]+)["']?\]?$/.exec(field);
    if (volume) put(`volumes[${sent[Number(volume[1])] ?? volume[1]}]${volume[2]}`, says);
    else if (variable) {
      const at = form.environment.findIndex((r) => r.name.trim() === variable[1]);
      put(at < 0 ? "environment" : `environment[${at}]`, says);
    } else put(field.replace(/^(command|dependsOn)\[\d+\]$/, "$1"), says);
  }
  return out;
}
