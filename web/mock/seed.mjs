// What the mock begins with.

import { createHash } from "node:crypto";

const now = Date.now();
const ago = (minutes) => new Date(now - minutes * 60_000).toISOString();
const digest = (text) => createHash("sha256").update(text).digest("hex");
const MIB = 1024 * 1024;
let serial = 0;
const id = (prefix, minutes) => `${prefix}_${now - minutes * 60_000}_${digest(`${prefix}${serial++}`).slice(0, 9)}`;

const NODES = [
  { id: "node_1770000000000_aaaaaaaaa", name: "atlas", cpus: 8, memory: 32 * 1024 * MIB, status: "ready" },
  { id: "node_1770000000000_bbbbbbbbb", name: "borealis", cpus: 4, memory: 16 * 1024 * MIB, status: "ready" },
  { id: "node_1770000000000_ccccccccc", name: "cygnus", cpus: 2, memory: 4 * 1024 * MIB, status: "notReady" },
];

function spread(cpu, memory) {
  return { cpu, memory, phase: Math.random() * 6 };
}

export function container(spec) {
  const c = {
    id: spec.id ?? id("cont", spec.minutes ?? 0),
    name: spec.name,
    image: spec.image,
    status: spec.status ?? "created",
    nodeId: spec.nodeId ?? NODES[0].id,
    ports: spec.ports ?? [],
    resources: { cpuLimit: spec.cpuLimit ?? null, memoryLimit: spec.memoryLimit ?? null, cpuUsage: 0, memoryUsage: 0 },
    volumes: (spec.volumes ?? []).map((v) => ({ container: v.container, host: v.host ?? "", mode: v.mode ?? "rw" })),
    environment: spec.environment ?? {},
    labels: spec.labels ?? {},
    restart: spec.restart ?? "no",
    networks: (spec.networks ?? ["bridge"]).map((n, i) => ({ network: n, ip: `172.17.0.${2 + i + (serial % 200)}` })),
    created: spec.minutes === undefined ? new Date().toISOString() : ago(spec.minutes),
    managed: spec.managed ?? true,
    reachable: spec.reachable ?? true,
    dockerId: digest(spec.name),
    restarts: spec.restarts ?? 0,
    samples: [],
  };
  if (spec.status === "running" || spec.status === "paused") c.started = ago(spec.up ?? spec.minutes ?? 1);
  for (const k of ["exitCode", "health", "message"]) if (spec[k] !== undefined) c[k] = spec[k];
  if (spec.status === "exited" || spec.status === "stopped") {
    c.started = ago((spec.up ?? 20) + 3);
    c.finished = ago(spec.up ?? 20);
  }
  Object.defineProperty(c, "load", { value: spec.load ?? spread(4 + Math.random() * 30, 40 + Math.random() * 120), enumerable: false });
  Object.defineProperty(c, "samples", { value: [], enumerable: false });
  if (c.status === "running") for (let i = 300; i > 0; i--) sample(c, Date.now() - i * 1000);
  return c;
}

function sample(c, at) {
  const last = c.samples.at(-1);
  const wave = Math.sin(at / 17_000 + c.load.phase) * 0.35 + Math.sin(at / 4_100 + c.load.phase * 2) * 0.2;
  const burst = Math.sin(at / 61_000 + c.load.phase) > 0.93 ? 2.2 : 1;
  const cpu = Math.max(0.1, c.load.cpu * (1 + wave) * burst * (0.85 + Math.random() * 0.3));
  const limit = c.resources.cpuLimit ? c.resources.cpuLimit * 100 : 800;
  const flow = (n) => Math.floor(n * (1 + wave) * (0.5 + Math.random()) * burst);
  c.samples.push({
    containerId: c.id,
    cpu: Math.round(Math.min(cpu, limit) * 10) / 10,
    memory: Math.round(c.load.memory * (1 + wave * 0.06) * 10) / 10,
    memoryLimit: c.resources.memoryLimit ? parse(c.resources.memoryLimit) : 32 * 1024 * MIB,
    networkRx: (last?.networkRx ?? 1e7) + flow(90_000),
    networkTx: (last?.networkTx ?? 3e7) + flow(240_000),
    blockRead: (last?.blockRead ?? 4e6) + (Math.random() < 0.15 ? flow(400_000) : 0),
    blockWrite: (last?.blockWrite ?? 2e6) + flow(20_000),
    pids: 5 + Math.round(c.load.phase),
    oomKills: 0,
    throttledSeconds: c.resources.cpuLimit ? 1.4 : 0,
    timestamp: new Date(at).toISOString(),
  });
  if (c.samples.length > 300) c.samples.shift();
}
const parse = (t) => Number.parseInt(t, 10) * (/g$/i.test(t) ? 1024 * MIB : MIB);

export function tick(c) {
  if (c.status !== "running") {
    c.resources.cpuUsage = 0;
    if (c.status !== "paused") c.resources.memoryUsage = 0;
    return;
  }
  sample(c, Date.now());
  const last = c.samples.at(-1);
  c.resources.cpuUsage = last.cpu;
  c.resources.memoryUsage = last.memory;
}

export function minutes(c, limit) {
  return Array.from({ length: limit }, (_, i) => {
    const at = Date.now() - (limit - i) * 60_000;
    const wave = Math.sin(at / 9_000_000) * 0.4 + Math.sin(at / 1_700_000) * 0.2;
    return {
      ...(c.samples.at(-1) ?? {
        containerId: c.id,
        pids: 0,
        oomKills: 0,
        throttledSeconds: 0,
        memoryLimit: 1,
        blockRead: 0,
        blockWrite: 0,
      }),
      cpu: Math.max(0, c.load.cpu * (1 + wave)),
      memory: c.load.memory * (1 + wave * 0.1),
      networkRx: i * 4_000_000,
      networkTx: i * 9_000_000,
      timestamp: new Date(at).toISOString(),
    };
  });
}

const PATHS = ["/", "/api/items?page=2", "/health", "/static/app.3fa1.js", "/api/items/41", "/login", "/favicon.ico"];
export function logLine(_c, at, i = Math.floor(Math.random() * 1000)) {
  const time = new Date(at).toISOString();
  const roll = (i * 7919) % 100;
  if (roll < 4)
    return {
      stream: "stderr",
      time,
      line: `[error] 31#31: *${i} upstream timed out (110: Connection timed out) while reading response header from upstream`,
    };
  if (roll < 9)
    return {
      stream: "stderr",
      time,
      line: `[warn] 31#31: *${i} an upstream response is buffered to a temporary file /var/cache/nginx/proxy_temp/${i}`,
    };
  if (roll < 16)
    return {
      stream: "stdout",
      time,
      line: `\x1b[36mINFO\x1b[0m \x1b[2mworker\x1b[0m{id=${i % 8}} job finished took_ms=\x1b[33m${(i * 13) % 900}\x1b[0m`,
    };
  return {
    stream: "stdout",
    time,
    line: `10.0.${i % 4}.${(i * 3) % 250} - - "GET ${PATHS[i % PATHS.length]} HTTP/1.1" ${roll > 94 ? 404 : 200} ${200 + ((i * 97) % 9000)} "-" "Mozilla/5.0"`,
  };
}
export function logs(c, count) {
  const end = c.status === "running" ? Date.now() : Date.parse(c.finished ?? c.created);
  return Array.from({ length: count }, (_, i) => logLine(c, end - (count - i) * 900, i));
}

export function inspect(c) {
  return {
    Id: c.dockerId,
    Created: c.created,
    Path: "/docker-entrypoint.sh",
    Args: ["nginx", "-g", "daemon off;"],
    State: {
      Status: c.status,
      Running: c.status === "running",
      Paused: c.status === "paused",
      OOMKilled: false,
      Pid: 31337,
      ExitCode: c.exitCode ?? 0,
    },
    Image: `sha256:${digest(c.image)}`,
    Name: `/${c.name}`,
    RestartCount: c.restarts,
    HostConfig: {
      NetworkMode: "bridge",
      RestartPolicy: { Name: c.restart, MaximumRetryCount: 0 },
      Privileged: false,
      ReadonlyRootfs: false,
    },
    Config: {
      Hostname: c.dockerId.slice(0, 12),
      Env: Object.entries(c.environment).map(([k, v]) => `${k}=${v}`),
      Labels: { "io.neuralmesh.id": c.id, ...c.labels },
    },
    NetworkSettings: {
      Networks: Object.fromEntries(c.networks.map((n) => [n.network, { IPAddress: n.ip, MacAddress: "02:42:ac:11:00:02" }])),
    },
  };
}

export const image = (name, nodeId, containers = 0, size = 60 * MIB, days = 9) => ({
  id: `sha256:${digest(name + nodeId)}`,
  tags: name ? [name] : [],
  size,
  created: ago(days * 1440),
  containers,
  nodeId,
});
export const volume = (name, nodeId, more = {}) => ({
  name,
  driver: "local",
  mountpoint: `/var/lib/docker/volumes/${name}/_data`,
  labels: more.labels ?? {},
  created: more.created ?? new Date().toISOString(),
  nodeId,
  usedBy: more.usedBy ?? [],
});
export const network = (name, nodeId, more = {}) => ({
  id: digest(name + nodeId),
  name,
  driver: more.driver ?? "bridge",
  subnets: more.subnets ?? [`172.${18 + (serial++ % 10)}.0.0/16`],
  internal: more.internal ?? false,
  labels: more.labels ?? {},
  created: more.created ?? new Date().toISOString(),
  nodeId,
  containers: more.containers ?? [],
});

const config = (name, image, port, cpuLimit, memoryLimit, more = {}) => ({
  name,
  image,
  environment: {},
  ports: port ? [{ container: port[0], host: port[1], protocol: "tcp" }] : [],
  volumes: [],
  cpuLimit,
  memoryLimit,
  restart: "always",
  labels: {},
  start: true,
  ...more,
});
export const templates = [
  {
    id: "nginx",
    name: "Nginx Web Server",
    description: "High-performance HTTP server",
    image: "nginx:latest",
    config: config("nginx", "nginx:latest", [80, 8080], 1, "512m"),
    generated: [],
  },
  {
    id: "postgresql",
    name: "PostgreSQL Database",
    description: "Production-ready database",
    image: "postgres:16",
    config: config("postgresql", "postgres:16", [5432, 5432], 2, "1g", {
      volumes: [{ container: "/var/lib/postgresql/data", host: "/data/postgres", mode: "rw" }],
    }),
    generated: ["POSTGRES_PASSWORD"],
  },
  {
    id: "redis",
    name: "Redis Cache",
    description: "In-memory data store",
    image: "redis:7",
    config: config("redis", "redis:7", [6379, 6379], 1, "512m"),
    generated: [],
  },
  {
    id: "nodejs",
    name: "Node.js App",
    description: "Node.js application runtime",
    image: "node:20",
    config: config("nodejs", "node:20", null, 2, "1g", {
      command: ["node", "-e", "require('http').createServer((_, r) => r.end('Hello\\n')).listen(3000)"],
    }),
    generated: [],
  },
];

export function make() {
  const [a, b, c] = NODES.map((n) => n.id);
  const containers = [
    container({
      name: "web",
      image: "nginx:1.27",
      status: "running",
      minutes: 2880,
      up: 1200,
      ports: [
        { container: 80, host: 8080, protocol: "tcp" },
        { container: 443, host: 8443, protocol: "tcp" },
      ],
      cpuLimit: 1,
      memoryLimit: "512m",
      restart: "always",
      health: "healthy",
      networks: ["frontend"],
      environment: {
        NGINX_HOST: "shop.example.com",
        NGINX_ENTRYPOINT_QUIET_LOGS: "1",
        TLS_KEY_PASSWORD: "a-long-passphrase",
        LOG_LEVEL: "info",
      },
      labels: { app: "shop", tier: "web" },
      volumes: [
        { container: "/etc/nginx/conf.d", host: "/srv/shop/nginx", mode: "ro" },
        { container: "/var/cache/nginx", host: "nginx-cache" },
      ],
      load: { cpu: 28, memory: 118, phase: 1 },
    }),
    container({
      name: "shop-api",
      image: "registry.example.com/shop/api:2026.7.1",
      status: "running",
      minutes: 300,
      ports: [{ container: 3000, host: 32801, protocol: "tcp" }],
      cpuLimit: 2,
      memoryLimit: "1g",
      restart: "always",
      health: "starting",
      nodeId: b,
      load: { cpu: 96, memory: 790, phase: 2 },
    }),
    container({
      name: "shop-db",
      image: "postgres:16",
      status: "running",
      minutes: 43_000,
      ports: [{ container: 5432, host: 5432, protocol: "tcp", hostIp: "127.0.0.1" }],
      cpuLimit: 2,
      memoryLimit: "2g",
      restart: "always",
      environment: { POSTGRES_PASSWORD: "********", POSTGRES_DB: "shop" },
      volumes: [{ container: "/var/lib/postgresql/data", host: "/data/postgres" }],
      load: { cpu: 14, memory: 1900, phase: 3 },
    }),
    container({
      name: "cache",
      image: "redis:7",
      status: "running",
      minutes: 43_000,
      ports: [{ container: 6379, host: 6379, protocol: "tcp" }],
      memoryLimit: "512m",
      restart: "always",
      load: { cpu: 3, memory: 44, phase: 4 },
    }),
    container({ name: "mailer", image: "registry.example.com/shop/mailer:1.9", status: "paused", minutes: 900, nodeId: b }),
    container({
      name: "migrate-2026-07",
      image: "registry.example.com/shop/api:2026.7.1",
      status: "exited",
      exitCode: 1,
      minutes: 240,
      up: 239,
      message: 'It exited with code 1 within 2 s of its start. Last lines: relation "orders" already exists',
    }),
    container({ name: "report-nightly", image: "python:3.12-slim", status: "exited", exitCode: 0, minutes: 700, up: 650 }),
    container({
      name: "search",
      image: "opensearchproject/opensearch:2",
      status: "running",
      minutes: 9000,
      nodeId: c,
      reachable: false,
      cpuLimit: 2,
      memoryLimit: "2g",
      load: { cpu: 40, memory: 1500, phase: 5 },
    }),
    container({ name: "staging-web", image: "nginx:latest", status: "stopped", minutes: 20_000, up: 4000 }),
    container({ name: "canary", image: "nginx:latest", status: "created", minutes: 3 }),
    container({
      name: "watchtower",
      image: "containrrr/watchtower:latest",
      status: "running",
      minutes: 90_000,
      managed: false,
      load: { cpu: 0.4, memory: 18, phase: 1 },
    }),
    container({
      name: "portainer_agent",
      image: "portainer/agent:2.19",
      status: "running",
      minutes: 90_000,
      managed: false,
      nodeId: b,
      ports: [{ container: 9001, host: 9001, protocol: "tcp" }],
      load: { cpu: 1.1, memory: 32, phase: 2 },
    }),
    container({ name: "buildkit", image: "moby/buildkit:v0.13", status: "exited", exitCode: 0, minutes: 90_000, managed: false }),
  ];
  const step = (name, state, detail) => ({ name, state, detail });
  const operations = [
    {
      id: id("op", 240),
      kind: "container.create",
      state: "failed",
      target: containers[5].id,
      actor: "admin",
      steps: [step("pull registry.example.com/shop/api:2026.7.1", "succeeded"), step("create", "succeeded"), step("start", "failed")],
      log: [
        { time: ago(240), line: "Pulling from shop/api" },
        { time: ago(240), line: "the container exited with code 1" },
      ],
      error: {
        status: 409,
        code: "command_failed",
        error: "the container exited at once with code 1: its command failed",
        logs: ['ERROR:  relation "orders" already exists', "migration 20260714 failed"],
      },
      cancelRequested: false,
      created: ago(241),
      updated: ago(240),
      finished: ago(240),
    },
    {
      id: id("op", 300),
      kind: "container.create",
      state: "succeeded",
      target: containers[1].id,
      actor: "token:deploy",
      progress: 100,
      steps: [step("pull registry.example.com/shop/api:2026.7.1", "succeeded"), step("create", "succeeded"), step("start", "succeeded")],
      log: [],
      result: { containerId: containers[1].id },
      cancelRequested: false,
      created: ago(301),
      updated: ago(300),
      finished: ago(300),
    },
    {
      id: id("op", 800),
      kind: "image.pull",
      state: "cancelled",
      target: b,
      actor: "admin",
      steps: [step("pull node:20", "cancelled")],
      log: [],
      error: { status: 409, code: "cancelled", error: "the pull was cancelled" },
      cancelRequested: true,
      created: ago(801),
      updated: ago(800),
      finished: ago(800),
    },
  ];
  const user = (username, role, minutes, disabled = false) => ({
    id: id("user", minutes),
    username,
    role,
    disabled,
    created: ago(minutes),
    updated: ago(minutes / 2),
  });
  const users = [
    user("admin", "admin", 90_000),
    user("operator", "operator", 40_000),
    user("viewer", "viewer", 20_000),
    user("former", "operator", 80_000, true),
  ];
  const audit = Array.from({ length: 120 }, (_, i) => ({
    sequence: 480 - i,
    time: ago(i * 7 + 1),
    actor: ["admin", "operator", "token:deploy", "system"][i % 4],
    action: ["container.start", "auth.login", "image.pull", "container.create", "node.update", "container.remove"][i % 6],
    target: i % 6 === 1 ? undefined : containers[i % containers.length].id,
    outcome: i % 17 === 3 ? "bad_credentials" : "ok",
    address: `10.0.0.${(i * 7) % 90}`,
    requestId: digest(String(i)).slice(0, 16),
    detail: { name: containers[i % containers.length].name },
  }));
  return {
    containers,
    operations,
    users,
    audit,
    nodes: NODES.map((n, i) => ({
      id: n.id,
      name: n.name,
      status: n.status,
      labels: i === 0 ? { zone: "eu-1", disk: "nvme" } : {},
      info: {
        agentVersion: "0.1.0",
        hostname: `${n.name}.example.net`,
        os: "Debian GNU/Linux 12 (bookworm)",
        kernel: "6.1.0-28-amd64",
        arch: "x86_64",
        cpus: n.cpus,
        memory: n.memory,
        docker: { available: i < 2, version: "26.1.5", apiVersion: "1.45" },
      },
      containers: containers.filter((x) => x.nodeId === n.id).length,
      created: ago(90_000 - i * 1000),
      lastSeen: i === 2 ? ago(17) : ago(0),
    })),
    images: [
      image("nginx:1.27", a, 1, 187 * MIB, 30),
      { ...image("nginx:latest", a, 2, 187 * MIB, 4), tags: ["nginx:latest", "registry.example.com/mirror/nginx:latest"] },
      image("postgres:16", a, 1, 431 * MIB, 12),
      image("redis:7", a, 1, 117 * MIB, 21),
      image("registry.example.com/shop/api:2026.7.1", b, 2, 942 * MIB, 1),
      image("python:3.12-slim", a, 1, 124 * MIB, 14),
      { ...image("old", a, 0, 905 * MIB, 60), tags: [] },
      { ...image("older", b, 0, 899 * MIB, 90), tags: [] },
    ],
    volumes: [
      volume("nginx-cache", a, { created: ago(2880), usedBy: ["web"] }),
      volume("shop-uploads", b, { created: ago(30_000), usedBy: ["shop-api", "mailer"] }),
      volume(digest("anon"), a, { created: ago(4000) }),
    ],
    networks: [
      network("frontend", a, { created: ago(2880), containers: ["web"] }),
      network("backend", a, { created: ago(2880), internal: true, containers: ["shop-db", "cache"] }),
      network("bridge", a, { subnets: ["172.17.0.0/16"], created: ago(90_000), containers: ["report-nightly", "canary"] }),
      network("host", a, { driver: "host", subnets: [], created: ago(90_000) }),
      network("none", a, { driver: "null", subnets: [], created: ago(90_000) }),
    ],
    registries: [{ id: id("reg", 5000), host: "registry.example.com", username: "shop-ci", created: ago(5000), updated: ago(900) }],
    tokens: [
      {
        id: id("token", 900),
        name: "deploy from CI",
        userId: users[0].id,
        role: "operator",
        scopes: ["containers:write", "images:write"],
        created: ago(900),
        expires: new Date(now + 80 * 86_400_000).toISOString(),
        lastUsed: ago(12),
      },
      {
        id: id("token", 90_000),
        name: "dashboards",
        userId: users[0].id,
        role: "viewer",
        scopes: ["*:read"],
        created: ago(90_000),
        expires: ago(100),
        lastUsed: ago(900),
      },
    ],
    sessions: [
      { id: id("sess", 30), created: ago(30), lastUsed: ago(0), expires: new Date(now + 7 * 86_400_000).toISOString() },
      { id: id("sess", 3000), created: ago(3000), lastUsed: ago(400), expires: new Date(now + 5 * 86_400_000).toISOString() },
    ],
  };
}
