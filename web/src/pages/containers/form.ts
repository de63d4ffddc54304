import type { ContainerSpec, Node, OnNodeLost, PortMapping, Protocol, RestartPolicy, VolumeMode, VolumeMount } from "../../api/types";
import { joinWords, splitWords } from "../../lib/shell";
import type { Problems } from "../../lib/editing";
import * as check from "../../lib/validate";

// What stands in the create form, as text, and the way from there to the request and back. Problems are named as the server
// names them: `ports[0].container`.

/** A key for React that stays with its row. */
let lastKey = 0;
export const rowKey = (): number => ++lastKey;

export interface PairRow {
  key: number;
  name: string;
  value: string;
}
export interface PortRow {
  key: number;
  container: string;
  host: string;
  hostIp: string;
  protocol: Protocol;
}
export interface VolumeRow {
  key: number;
  container: string;
  host: string;
  mode: VolumeMode;
}

export interface ConstraintRow {
  key: number;
  text: string;
}

export interface Form {
  name: string;
  image: string;
  /** Empty: it is chosen. */
  nodeId: string;
  constraints: ConstraintRow[];
  spread: string;
  onNodeLost: OnNodeLost;
  start: boolean;
  command: string;
  entrypoint: string;
  environment: PairRow[];
  ports: PortRow[];
  volumes: VolumeRow[];
  cpuLimit: string;
  memoryLimit: string;
  restart: RestartPolicy;
  labels: PairRow[];
  networks: string[];
  user: string;
  workingDir: string;
  hostname: string;
  capDrop: string;
  readOnly: boolean;
  tty: boolean;
  stopGrace: string;
  health: { command: string; interval: string; timeout: string; retries: string; startPeriod: string };
}

export const pairRow = (name = "", value = ""): PairRow => ({ key: rowKey(), name, value });
export const portRow = (p?: Partial<PortMapping>): PortRow => ({
  key: rowKey(),
  container: p?.container ? String(p.container) : "",
  host: p?.host ? String(p.host) : "",
  hostIp: p?.hostIp ?? "",
  protocol: p?.protocol ?? "tcp",
});
export const volumeRow = (v?: Partial<VolumeMount>): VolumeRow => ({
  key: rowKey(),
  container: v?.container ?? "",
  host: v?.host ?? "",
  mode: v?.mode ?? "rw",
});

export const constraintRow = (text = ""): ConstraintRow => ({ key: rowKey(), text });

export function emptyForm(): Form {
  return {
    name: "",
    image: "",
    nodeId: "",
    constraints: [],
    spread: "",
    onNodeLost: "wait",
    start: true,
    command: "",
    entrypoint: "",
    environment: [],
    ports: [],
    volumes: [],
    cpuLimit: "",
    memoryLimit: "",
    restart: "no",
    labels: [],
    networks: [],
    user: "",
    workingDir: "",
    hostname: "",
    capDrop: "",
    readOnly: false,
    tty: false,
    stopGrace: "",
    health: { command: "", interval: "", timeout: "", retries: "", startPeriod: "" },
  };
}

const text = (n: number | undefined): string => (n === undefined ? "" : String(n));

/** A form filled in from a request, such as a template's. */
export function formOf(spec: ContainerSpec): Form {
  return {
    name: spec.name,
    image: spec.image,
    nodeId: spec.nodeId ?? "",
    constraints: (spec.constraints ?? []).map(constraintRow),
    spread: spec.spread ?? "",
    onNodeLost: spec.onNodeLost ?? "wait",
    start: spec.start ?? true,
    command: joinWords(spec.command ?? []),
    entrypoint: joinWords(spec.entrypoint ?? []),
    environment: Object.entries(spec.environment ?? {}).map(([k, v]) => pairRow(k, v)),
    ports: (spec.ports ?? []).map(portRow),
    volumes: (spec.volumes ?? []).map(volumeRow),
    cpuLimit: text(spec.cpuLimit),
    memoryLimit: spec.memoryLimit ?? "",
    restart: spec.restart ?? "no",
    labels: Object.entries(spec.labels ?? {}).map(([k, v]) => pairRow(k, v)),
    networks: spec.networks ?? [],
    user: spec.user ?? "",
    workingDir: spec.workingDir ?? "",
    hostname: spec.hostname ?? "",
    capDrop: (spec.capDrop ?? []).join(" "),
    readOnly: spec.readOnly ?? false,
    tty: spec.tty ?? false,
    stopGrace: text(spec.stopGrace),
    health: {
      command: joinWords(spec.healthCheck?.command ?? []),
      interval: text(spec.healthCheck?.interval),
      timeout: text(spec.healthCheck?.timeout),
      retries: text(spec.healthCheck?.retries),
      startPeriod: text(spec.healthCheck?.startPeriod),
    },
  };
}

export type { Problems };

/** The request the form stands for, and what is wrong with it. Rows left wholly empty do not count. */
export function specOf(form: Form): { spec: ContainerSpec; problems: Problems } {
  const problems: Problems = {};
  const test = (field: string, value: string, rule: check.Check): string => {
    const says = rule(value);
    if (says) problems[field] ??= says;
    return value;
  };
  const optional = (field: string, value: string, rule: check.Check): string | undefined =>
    value.trim() === "" ? undefined : test(field, value.trim(), rule);
  const number = (field: string, value: string, rule: check.Check): number | undefined => {
    const kept = optional(field, value, rule);
    return kept === undefined ? undefined : Number(kept);
  };
  const words = (field: string, line: string): string[] => {
    const split = splitWords(line);
    if (split.problem) problems[field] = split.problem;
    return split.words ?? [];
  };
  const pairs = (field: string, rows: PairRow[], rule: check.Check): Record<string, string> => {
    const out: Record<string, string> = {};
    rows.forEach((row, i) => {
      const name = row.name.trim();
      if (name === "" && row.value === "") return;
      const at = `${field}[${i}]`;
      if (Object.hasOwn(out, name)) problems[at] = `${name} stands here twice`;
      test(at, name, rule);
      out[name] = row.value;
    });
    return out;
  };

  const name = test("name", form.name.trim(), (t) => (t === "" ? "Give it a name" : check.containerName(t)));
  const image = test("image", form.image.trim(), (t) => (t === "" ? "Name an image" : check.image(t)));
  const spec: ContainerSpec = { name, image };
  if (form.nodeId) spec.nodeId = form.nodeId;
  const constraints = [...indexed(form.constraints, (c) => c.text.trim() !== "")].map(([row, i]) =>
    test(`constraints[${i}]`, row.text.trim(), check.constraint),
  );
  if (constraints.length > 0) spec.constraints = constraints;
  // Where the node is named there is nothing to spread.
  const spread = form.nodeId ? undefined : optional("spread", form.spread, check.labelKey);
  if (spread) spec.spread = spread;
  if (form.onNodeLost === "reschedule") spec.onNodeLost = "reschedule";
  if (form.start) spec.start = true;

  const command = words("command", form.command);
  if (command.length > 0) spec.command = command;
  const entrypoint = words("entrypoint", form.entrypoint);
  if (entrypoint.length > 0) spec.entrypoint = entrypoint;

  const environment = pairs("environment", form.environment, check.envName);
  if (Object.keys(environment).length > 0) spec.environment = environment;
  const labels = pairs("labels", form.labels, check.labelKey);
  if (Object.keys(labels).length > 0) spec.labels = labels;

  const ports: PortMapping[] = [];
  for (const [row, i] of indexed(form.ports, (p) => p.container !== "" || p.host !== "" || p.hostIp !== "")) {
    const at = `ports[${i}]`;
    const port: PortMapping = {
      container: Number(test(`${at}.container`, row.container.trim(), check.port)),
      host: number(`${at}.host`, row.host, check.hostPort) ?? 0,
    };
    if (row.protocol !== "tcp") port.protocol = row.protocol;
    const ip = optional(`${at}.hostIp`, row.hostIp, check.hostIp);
    if (ip) port.hostIp = ip;
    const clash = ports.some(
      (p) => p.host && p.host === port.host && (p.protocol ?? "tcp") === row.protocol && (p.hostIp === ip || !p.hostIp || !ip),
    );
    if (clash) problems[`${at}.host`] ??= `Port ${port.host} is mapped twice`;
    ports.push(port);
  }
  if (ports.length > 0) spec.ports = ports;

  const volumes: VolumeMount[] = [];
  for (const [row, i] of indexed(form.volumes, (v) => v.container !== "" || v.host !== "")) {
    const at = `volumes[${i}]`;
    const mount: VolumeMount = { container: test(`${at}.container`, row.container.trim(), check.containerPath) };
    const host = optional(`${at}.host`, row.host, check.mountSource);
    if (host) mount.host = host;
    if (row.mode === "ro") mount.mode = "ro";
    if (volumes.some((v) => v.container === mount.container)) problems[`${at}.container`] ??= `${mount.container} is mounted twice`;
    volumes.push(mount);
  }
  if (volumes.length > 0) spec.volumes = volumes;

  const cpuLimit = number("cpuLimit", form.cpuLimit, check.cpu);
  if (cpuLimit !== undefined) spec.cpuLimit = cpuLimit;
  const memoryLimit = optional("memoryLimit", form.memoryLimit, check.memory);
  if (memoryLimit) spec.memoryLimit = memoryLimit;
  if (form.restart !== "no") spec.restart = form.restart;
  if (form.networks.length > 0) spec.networks = form.networks;

  const user = optional("user", form.user, check.runAs);
  if (user) spec.user = user;
  const workingDir = optional("workingDir", form.workingDir, check.containerPath);
  if (workingDir) spec.workingDir = workingDir;
  const hostname = optional("hostname", form.hostname, check.hostName);
  if (hostname) spec.hostname = hostname;
  const capDrop = form.capDrop.split(/[\s,]+/).filter(Boolean);
  for (const capability of capDrop) test("capDrop", capability, check.capability);
  if (capDrop.length > 0) spec.capDrop = capDrop;
  if (form.readOnly) spec.readOnly = true;
  if (form.tty) spec.tty = true;
  const stopGrace = number("stopGrace", form.stopGrace, check.whole(0, 3_600));
  if (stopGrace !== undefined) spec.stopGrace = stopGrace;

  const health = form.health;
  const healthCommand = words("healthCheck.command", health.command);
  const timing = {
    interval: number("healthCheck.interval", health.interval, check.whole(1, 86_400)),
    timeout: number("healthCheck.timeout", health.timeout, check.whole(1, 3_600)),
    retries: number("healthCheck.retries", health.retries, check.whole(1, 100)),
    startPeriod: number("healthCheck.startPeriod", health.startPeriod, check.whole(0, 86_400)),
  };
  const given = Object.fromEntries(Object.entries(timing).filter(([, v]) => v !== undefined));
  if (healthCommand.length > 0) spec.healthCheck = { command: healthCommand, ...given };
  else if (Object.keys(given).length > 0) problems["healthCheck.command"] ??= "Say which command checks it";

  return { spec, problems };
}

/** The rows that count, with the place each has on the form. */
function* indexed<T>(rows: readonly T[], counts: (row: T) => boolean): Generator<[T, number]> {
  for (let i = 0; i < rows.length; i++) {
    const row = rows[i] as T;
    if (counts(row)) yield [row, i];
  }
}

/**
 * The server counts only the rows it was sent, and names variables and labels by their names; on the form each problem
 * belongs to the row it came from.
 */
export function placeProblems(form: Form, problems: Problems): Problems {
  const sent = {
    ports: [...indexed(form.ports, (p) => p.container !== "" || p.host !== "" || p.hostIp !== "")].map(([, i]) => i),
    volumes: [...indexed(form.volumes, (v) => v.container !== "" || v.host !== "")].map(([, i]) => i),
    constraints: [...indexed(form.constraints, (c) => c.text.trim() !== "")].map(([, i]) => i),
  };
  const out: Problems = {};
  for (const [field, message] of Object.entries(problems)) {
    const row = /^(ports|volumes|constraints)\[(\d+)\](.*)$/.exec(field);
    const pair = /^(environment|labels)(?:\.|\[["']?)([^"'\]]+)["']?\]?$/.exec(field);
    if (row) {
      const list = sent[row[1] as keyof typeof sent];
      out[`${row[1]}[${list[Number(row[2])] ?? row[2]}]${row[3]}`] = message;
    } else if (pair) {
      const rows = form[pair[1] as "environment" | "labels"];
      const at = rows.findIndex((r) => r.name.trim() === pair[2]);
      out[at >= 0 ? `${pair[1]}[${at}]` : (pair[1] as string)] = message;
    } else {
      out[field.replace(/^(command|entrypoint|capDrop|networks|healthCheck\.command)\[\d+\]$/, "$1")] = message;
    }
  }
  return out;
}

/** The keys and values a constraint can name, of the nodes that are there. */
export function knownConstraints(nodes: readonly Pick<Node, "name" | "labels" | "info">[]): { keys: string[]; texts: string[] } {
  const keys = new Set<string>();
  const texts = new Set<string>();
  for (const n of nodes) {
    for (const [key, value] of Object.entries(n.labels)) {
      keys.add(key);
      texts.add(value ? `${key}=${value}` : key);
    }
    texts.add(`node.name=${n.name}`);
    if (n.info) texts.add(`node.arch=${n.info.arch}`);
  }
  return { keys: [...keys].sort(), texts: [...texts].sort() };
}

/** A random secret of 24 letters and digits. */
export function randomSecret(): string {
  const letters = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789";
  const out: string[] = [];
  while (out.length < 24) {
    for (const byte of crypto.getRandomValues(new Uint8Array(32))) {
      // Bytes beyond the last whole multiple would favour the first letters.
      if (byte < 256 - (256 % letters.length) && out.length < 24) out.push(letters[byte % letters.length] as string);
    }
  }
  return out.join("");
}
