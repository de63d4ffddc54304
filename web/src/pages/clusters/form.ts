import type {
  Algorithm,
  AutoScaling,
  Cluster,
  ClusterHealthCheck,
  ClusterProtocol,
  ClusterRoute,
  ClusterServer,
  ClusterServerEntry,
  ClusterSpec,
  ClusterTls,
  ClusterType,
  ClusterVirtualAddress,
} from "../../api/types";
import * as check from "../../lib/validate";
import {
  type Form as ContainerForm,
  emptyForm as emptyContainer,
  formOf as containerForm,
  placeProblems as placeContainerProblems,
  type Problems,
  rowKey,
  specOf as containerSpec,
} from "../containers/form";
import { databaseForm, type DatabaseForm, databaseOf, emptyDatabase, namesOf, placeDatabaseProblem } from "./database-form";
import { namedServers, serverOf } from "./model";
import { mergePatch } from "../../lib/patch";
import { fieldsOf, TLS_WAYS, type TlsKind, tlsKindOf } from "./tls";
import { isOfNodes, usesWeights } from "./words";

// What stands in the form of a cluster, as text, and the way from there to the request and back. Problems are named as the server
// names them: `servers[0].port`.

export interface ServerRow {
  key: number;
  /** Id, or the name it was added by; empty while none is chosen. */
  id: string;
  port: string;
  weight: string;
  backup: boolean;
}
export interface RouteRow {
  key: number;
  host: string;
  pathPrefix: string;
}

export interface ClusterForm {
  name: string;
  type: ClusterType;
  servers: ServerRow[];
  protocol: ClusterProtocol;
  algorithm: Algorithm;
  listenPort: string;
  entryNodes: string[];
  routes: RouteRow[];
  check: {
    type: "tcp" | "http";
    path: string;
    host: string;
    min: string;
    max: string;
    interval: string;
    timeout: string;
    rise: string;
    fall: string;
  };
  sticky: boolean;
  cookie: string;
  maxAge: string;
  tls: TlsKind;
  certificate: string;
  privateKey: string;
  acmeAgreed: boolean;
  acmeEmail: string;
  acmeDirectory: string;
  serverNames: string;
  redirect: boolean;
  redirectPort: string;
  failback: "automatic" | "manual";
  failbackAfter: string;
  virtualAddress: string;
  prefix: string;
  interfaceName: string;
  retries: string;
  slowStart: string;
  drainTime: string;
  scaling: boolean;
  min: string;
  max: string;
  cpu: string;
  memory: string;
  requests: string;
  /** Of clusters of type `compute`. */
  queue: string;
  up: string;
  down: string;
  tolerance: string;
  window: string;
  /** What new servers are made of: a copy of a member, or a container that is described here. */
  template: "copy" | "own";
  container: ContainerForm;
  /** Of clusters of type `database`. */
  database: DatabaseForm;
}

export const serverRow = (s?: Partial<ClusterServerEntry>): ServerRow => ({
  key: rowKey(),
  id: s?.id ?? "",
  port: text(s?.port),
  weight: s?.weight === undefined || s.weight === 1 ? "" : String(s.weight),
  backup: s?.backup ?? false,
});
export const routeRow = (r?: ClusterRoute): RouteRow => ({ key: rowKey(), host: r?.host ?? "", pathPrefix: r?.pathPrefix ?? "" });

const text = (n: number | undefined | null): string => (n === undefined || n === null ? "" : String(n));

export function emptyClusterForm(): ClusterForm {
  return {
    name: "",
    type: "load-balanced",
    servers: [serverRow(), serverRow()],
    protocol: "http",
    algorithm: "round-robin",
    listenPort: "",
    entryNodes: [],
    routes: [],
    check: { type: "tcp", path: "", host: "", min: "", max: "", interval: "", timeout: "", rise: "", fall: "" },
    sticky: false,
    cookie: "",
    maxAge: "",
    tls: "none",
    certificate: "",
    privateKey: "",
    acmeAgreed: false,
    acmeEmail: "",
    acmeDirectory: "",
    serverNames: "",
    redirect: false,
    redirectPort: "",
    failback: "automatic",
    failbackAfter: "",
    virtualAddress: "",
    prefix: "",
    interfaceName: "",
    retries: "",
    slowStart: "",
    drainTime: "",
    scaling: false,
    min: "",
    max: "",
    cpu: "",
    memory: "",
    requests: "",
    queue: String(QUEUE_LENGTH),
    up: "",
    down: "",
    tolerance: "",
    window: "",
    template: "copy",
    container: emptyContainer(),
    database: emptyDatabase(),
  };
}

/** The form of a cluster that is there. */
export function clusterForm(c: Cluster): ClusterForm {
  const { healthCheck: h, autoScaling: a } = c;
  return {
    name: c.name,
    type: c.type,
    servers: namedServers(c).map(serverRow),
    protocol: c.protocol,
    algorithm: c.loadBalancer.algorithm,
    listenPort: String(c.listenPort),
    entryNodes: c.entryNodes.map((n) => n.nodeId),
    routes: (c.routes ?? []).map(routeRow),
    check: {
      type: h.type ?? "tcp",
      path: h.path ?? "",
      host: h.host ?? "",
      min: text(h.expectedStatus?.min),
      max: text(h.expectedStatus?.max),
      interval: text(h.interval),
      timeout: text(c.loadBalancer.healthCheckTimeout),
      rise: text(h.rise),
      fall: text(h.fall),
    },
    sticky: c.sticky !== undefined,
    cookie: c.sticky?.cookie ?? "",
    maxAge: text(c.sticky?.maxAge),
    tls: tlsKindOf(c.tls),
    certificate: "",
    privateKey: "",
    acmeAgreed: c.tls?.acme !== undefined,
    acmeEmail: c.tls?.acme?.email ?? "",
    acmeDirectory: c.tls?.acme?.directory ?? "",
    serverNames: (c.tls?.serverNames ?? []).join(" "),
    redirect: c.redirectToHttps !== undefined,
    redirectPort: text(c.redirectToHttps?.listenPort),
    failback: c.failback?.mode ?? "automatic",
    failbackAfter: text(c.failback?.after),
    virtualAddress: c.virtualAddress?.address ?? "",
    prefix: text(c.virtualAddress?.prefix),
    interfaceName: c.virtualAddress?.interface ?? "",
    retries: String(c.retries),
    slowStart: String(c.slowStart),
    drainTime: String(c.drainTime),
    scaling: a?.enabled ?? false,
    min: text(a?.minServers),
    max: text(a?.maxServers),
    cpu: text(a?.targetCpuPercent),
    memory: text(a?.targetMemoryPercent),
    requests: text(a?.targetRequestsPerSecond),
    queue: a ? text(a.targetQueueLength) : String(QUEUE_LENGTH),
    up: text(a?.scaleUpCooldown),
    down: text(a?.scaleDownCooldown),
    tolerance: text(a?.tolerance),
    window: text(a?.stabilizationWindow),
    template: c.serverTemplate ? "own" : "copy",
    container: c.serverTemplate ? containerForm(c.serverTemplate.container) : emptyContainer(),
    database: c.database ? databaseForm(c.database) : emptyDatabase(),
  };
}

/** Tasks that may wait for each node in use, where nobody says. */
const QUEUE_LENGTH = 10;
/** How many nodes a database is on where it survives the loss of one. */
export const SURVIVES_FROM = 3;

/** A database on so few nodes is lost with one of them. */
export function isFragile(form: ClusterForm): boolean {
  const named = form.servers.filter(chosen).length;
  return form.type === "database" && named > 0 && named < SURVIVES_FROM;
}

/** The form with another type. Only nodes are a database's servers, and those of a queue of jobs: others that were chosen go. */
export function withType(form: ClusterForm, type: ClusterType, isNode: (id: string) => boolean): ClusterForm {
  if (type === form.type) return form;
  // Whoever may name nodes there need not be allowed to name them here.
  if (!isOfNodes(type)) return { ...form, type, servers: form.type === "compute" ? [serverRow(), serverRow()] : form.servers };
  const servers = form.servers.filter((r) => chosen(r) && isNode(r.id)).map((r) => serverRow({ id: r.id }));
  const least = type === "database" ? SURVIVES_FROM : 1;
  while (servers.length < least) servers.push(serverRow());
  return { ...form, type, servers };
}

const clusterHost: check.Check = (t) =>
  /^(?=.{1,253}$)(?:\*\.)?[A-Za-z0-9_][A-Za-z0-9_-]{0,62}(?:\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*$/.test(t)
    ? undefined
    : "A name such as app.example.com or *.example.com, without a port";
const pathPrefix: check.Check = (t) =>
  /^\/[!-"$->@-~]{0,1023}$/.test(t) ? undefined : "Begins with /, without spaces, ? or #";
const cookieName: check.Check = (t) => (/^[A-Za-z0-9_.-]{1,64}$/.test(t) ? undefined : "1 to 64 letters, digits, _, - or .");
const interfaceName: check.Check = (t) =>
  /^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$/.test(t) ? undefined : "1 to 15 letters, digits, _, . or -";

/** What a row says beyond the server itself counts only where a server is chosen. */
const chosen = (row: ServerRow): boolean => row.id !== "";

/** Ports a server can be reached at, by its id; a server with one needs none named, one with several does. */
export type KnownPorts = (id: string) => readonly number[] | undefined;

/**
 * The request the form stands for, and what is wrong with it. `editing` is the way in which the cluster that is changed comes by its
 * certificate: what of it is left empty stays.
 */
export function bodyOf(
  form: ClusterForm,
  ports: KnownPorts = () => undefined,
  editing?: TlsKind,
): { body: ClusterSpec; problems: Problems } {
  const problems: Problems = {};
  const problem = (field: string, says: string | undefined) => {
    if (says) problems[field] ??= says;
  };
  const optional = (field: string, value: string, rule: check.Check): string | undefined => {
    const kept = value.trim();
    if (kept === "") return undefined;
    problem(field, rule(kept));
    return kept;
  };
  const number = (field: string, value: string, min: number, max: number): number | undefined => {
    const kept = optional(field, value, check.whole(min, max));
    return kept === undefined ? undefined : Number(kept);
  };
  const given = <T extends object>(object: T): T | undefined => {
    const entries = Object.entries(object).filter(([, v]) => v !== undefined);
    return entries.length > 0 ? (Object.fromEntries(entries) as T) : undefined;
  };
  const virtualAddress = (): ClusterVirtualAddress | undefined => {
    const address = optional("virtualAddress.address", form.virtualAddress, (t) =>
      check.hostIp(t) && !/^[0-9a-fA-F:.]*:[0-9a-fA-F:.]*$/.test(t) ? "An IP address" : undefined,
    );
    if (address === undefined) return undefined;
    const prefix = number("virtualAddress.prefix", form.prefix, 1, 128);
    return { address, ...given({ prefix, interface: optional("virtualAddress.interface", form.interfaceName, interfaceName) }) };
  };
  const bounds = () => {
    const found = {
      minServers: number("autoScaling.minServers", form.min, 1, 100),
      maxServers: number("autoScaling.maxServers", form.max, 1, 100),
      scaleUpCooldown: number("autoScaling.scaleUpCooldown", form.up, 60, 3_600),
      scaleDownCooldown: number("autoScaling.scaleDownCooldown", form.down, 60, 3_600),
    };
    if ((found.minServers ?? 1) > (found.maxServers ?? 10)) problem("autoScaling.minServers", "Not more than the most");
    return found;
  };
  const queueScaling = (): AutoScaling => {
    const targetQueueLength = number("autoScaling.targetQueueLength", form.queue, 1, 100_000);
    if (targetQueueLength === undefined) problem("autoScaling.targetQueueLength", "Say how many tasks may wait for each node in use");
    return given({ ...bounds(), targetQueueLength }) ?? {};
  };
  const standby = form.type === "high-availability";
  const database = form.type === "database";
  const ofNodes = isOfNodes(form.type);
  const http = form.protocol === "http" && !ofNodes;

  const name = form.name.trim();
  problem("name", name === "" ? "Give it a name" : check.title(name));
  const servers: ClusterServer[] = [];
  form.servers.forEach((row, i) => {
    if (!chosen(row)) return;
    const at = `servers[${i}]`;
    if (form.servers.some((other, j) => j < i && other.id === row.id)) problem(at, "It is named twice");
    // A database's members have their ports from the cluster, and those of a queue of jobs have none.
    const port = ofNodes ? undefined : number(`${at}.port`, row.port, 1, 65_535);
    const known = ofNodes ? undefined : ports(row.id);
    if (port === undefined && known && known.length !== 1) {
      problem(`${at}.port`, known.length === 0 ? "Say which port" : `Say which port: ${known.join(", ")}`);
    }
    // Where one server takes all traffic, a weight says only that it gets none.
    const weighs = form.type !== "compute" && (!standby || row.weight.trim() === "0");
    const weight = weighs ? number(`${at}.weight`, row.weight, 0, 256) : undefined;
    servers.push(serverOf({ id: row.id, ...given({ port, weight, backup: !standby && !ofNodes && row.backup ? true : undefined }) }));
  });
  if (servers.length === 0) problem("servers[0]", ofNodes ? "Choose a node" : "Choose a server");

  const body: ClusterSpec = { name, type: form.type, servers };
  if (form.type === "compute") {
    if (form.scaling) body.autoScaling = { enabled: true, ...queueScaling() };
    return { body, problems };
  }
  if (form.protocol === "tcp" && !database) body.protocol = "tcp";
  const listenPort = number("listenPort", form.listenPort, 1, 65_535);
  if (listenPort !== undefined) body.listenPort = listenPort;
  if (form.entryNodes.length > 0) body.entryNodes = form.entryNodes;

  const algorithm = standby || form.algorithm === "round-robin" ? undefined : form.algorithm;
  if (database) {
    const { spec, problems: inside } = databaseOf(form.database, { listenPort, editing: editing !== undefined });
    for (const [field, says] of Object.entries(inside)) problem(field, says);
    if (algorithm) body.loadBalancer = { algorithm };
    if (spec) body.database = spec;
    const shared = virtualAddress();
    if (shared) body.virtualAddress = shared;
    return { body, problems };
  }

  const c = form.check;
  const interval = number("healthCheck.interval", c.interval, 1, 300);
  const timeout = number("loadBalancer.healthCheckTimeout", c.timeout, 1, 60);
  // The specification's own interval bounds how long a check may take, and begins at ten seconds.
  const own = interval === undefined ? undefined : Math.max(10, interval);
  if (timeout !== undefined && timeout >= (own ?? 30)) {
    problem("loadBalancer.healthCheckTimeout", `Less than ${own ?? 30}: a check has to end before the next one begins`);
  }
  const loadBalancer = given({ algorithm, healthCheckInterval: own, healthCheckTimeout: timeout });
  if (loadBalancer) body.loadBalancer = loadBalancer;
  const healthCheck: ClusterHealthCheck = {
    ...given({ interval, rise: number("healthCheck.rise", c.rise, 1, 100), fall: number("healthCheck.fall", c.fall, 1, 100) }),
  };
  if (c.type === "http") {
    healthCheck.type = "http";
    const path = optional("healthCheck.path", c.path, check.probePath);
    const host = optional("healthCheck.host", c.host, clusterHost);
    const min = number("healthCheck.expectedStatus.min", c.min, 200, 599);
    const max = number("healthCheck.expectedStatus.max", c.max, 200, 599);
    if ((min ?? 200) > (max ?? 399)) problem("healthCheck.expectedStatus.max", "Not less than the first");
    const expectedStatus = given({ min, max });
    Object.assign(healthCheck, given({ path, host, expectedStatus }));
  } else {
    healthCheck.type = "tcp";
  }
  // What is checked by a connection alone need not say so.
  if (c.type === "http" || Object.keys(healthCheck).length > 1) body.healthCheck = healthCheck;

  if (form.sticky && http && !standby) {
    body.sticky = given({
      cookie: optional("sticky.cookie", form.cookie, cookieName),
      maxAge: number("sticky.maxAge", form.maxAge, 1, 31_536_000),
    }) ?? {};
  }
  if (form.tls !== "none" && http) {
    const tls: ClusterTls = TLS_WAYS[form.tls].write(form, editing === form.tls, problem);
    const names = namesOf(form.serverNames);
    for (const host of names) problem("tls.serverNames", clusterHost(host));
    if (names.length > 0) tls.serverNames = names;
    body.tls = tls;
    if (form.redirect) {
      const port = number("redirectToHttps.listenPort", form.redirectPort, 1, 65_535);
      if (listenPort !== undefined && listenPort === (port ?? 80)) problem("redirectToHttps.listenPort", "The entry itself listens there");
      body.redirectToHttps = port === undefined ? {} : { listenPort: port };
    }
  }
  if (http) {
    const routes: ClusterRoute[] = [];
    form.routes.forEach((row, i) => {
      if (row.host.trim() === "" && row.pathPrefix.trim() === "") return;
      routes.push(
        given({
          host: optional(`routes[${i}].host`, row.host, clusterHost),
          pathPrefix: optional(`routes[${i}].pathPrefix`, row.pathPrefix, pathPrefix),
        }) ?? {},
      );
    });
    if (routes.length > 0) body.routes = routes;
  }
  if (standby) {
    const after = form.failback === "automatic" ? number("failback.after", form.failbackAfter, 0, 86_400) : undefined;
    const failback = given({ mode: form.failback === "manual" ? ("manual" as const) : undefined, after });
    if (failback) body.failback = failback;
  }
  const shared = virtualAddress();
  if (shared) body.virtualAddress = shared;
  Object.assign(
    body,
    given({
      retries: number("retries", form.retries, 0, 10),
      slowStart: number("slowStart", form.slowStart, 0, 3_600),
      drainTime: number("drainTime", form.drainTime, 0, 3_600),
    }),
  );

  if (form.scaling && !standby) {
    const scaling: AutoScaling =
      given({
        ...bounds(),
        targetCpuPercent: number("autoScaling.targetCpuPercent", form.cpu, 10, 100),
        targetMemoryPercent: number("autoScaling.targetMemoryPercent", form.memory, 10, 100),
        targetRequestsPerSecond: number("autoScaling.targetRequestsPerSecond", form.requests, 1, 1_000_000),
        tolerance: number("autoScaling.tolerance", form.tolerance, 0, 50),
        stabilizationWindow: number("autoScaling.stabilizationWindow", form.window, 0, 3_600),
      }) ?? {};
    const { targetCpuPercent: cpu, targetMemoryPercent: memory, targetRequestsPerSecond: requests } = scaling;
    if (cpu === undefined && memory === undefined && requests === undefined) {
      problem("autoScaling.targetCpuPercent", "Name one target at least: CPU, memory or requests");
    }
    body.autoScaling = { enabled: true, ...scaling };
  }
  // One that is there stays while scaling is off: its secrets are covered, and could not be sent again.
  if (form.template === "own" && (body.autoScaling || editing)) {
    const { spec, problems: inside } = containerSpec(form.container);
    if (body.autoScaling) for (const [field, says] of Object.entries(inside)) problem(`serverTemplate.container.${field}`, says);
    body.serverTemplate = { container: spec };
  }
  return { body, problems };
}

/** Only what was changed: the request that makes of the cluster what the form says. */
export function patchOf(cluster: Cluster, form: ClusterForm, ports?: KnownPorts): { body: object; problems: Problems } {
  const before = clusterForm(cluster);
  const { body, problems } = bodyOf(form, ports, before.tls);
  const patch = mergePatch(bodyOf(before, undefined, before.tls).body, body);
  // Switched off, it is not forgotten how it was set.
  if (before.scaling && !body.autoScaling) patch.autoScaling = { enabled: false };
  if (form.tls !== before.tls && form.tls !== "none" && before.tls !== "none") {
    patch.tls = { ...fieldsOf(before.tls), ...(patch.tls as object) };
  }
  return { body: patch, problems };
}

export const showsWeights = (form: ClusterForm): boolean =>
  form.type === "load-balanced" && (usesWeights(form.algorithm) || form.servers.some((s) => s.weight !== ""));

/** The server counts only the rows it was sent; on the form each problem belongs to the row it came from. */
export function placeClusterProblems(form: ClusterForm, problems: Problems): Problems {
  const sent = {
    servers: form.servers.flatMap((row, i) => (chosen(row) ? [i] : [])),
    routes: form.routes.flatMap((row, i) => (row.host.trim() || row.pathPrefix.trim() ? [i] : [])),
  };
  const out: Problems = {};
  const inside: Problems = {};
  for (const [field, says] of Object.entries(problems)) {
    const row = /^(servers|routes)\[(\d+)\](.*)$/.exec(field);
    const template = /^serverTemplate\.container\.(.*)$/.exec(field);
    if (row) {
      const list = sent[row[1] as keyof typeof sent];
      out[`${row[1]}[${list[Number(row[2])] ?? row[2]}]${row[3]}`] = says;
    } else if (template) {
      inside[template[1] as string] = says;
    } else {
      const plain = field.replace(/^(entryNodes|tls\.serverNames)\[\d+\]$/, "$1");
      out[placeDatabaseProblem(form.database, plain)] = says;
    }
  }
  for (const [field, says] of Object.entries(placeContainerProblems(form.container, inside))) out[`serverTemplate.container.${field}`] = says;
  return out;
}
