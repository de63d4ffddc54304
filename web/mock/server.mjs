// A control plane for the eye: enough of the API to build and photograph the dashboard without one. Only for development, only
// on loopback, nothing is kept. Sign in as admin, operator or viewer, each with the password `<name>-mock`.

import { createHash, randomBytes } from "node:crypto";
import { createReadStream, existsSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join } from "node:path";
import { fileURLToPath } from "node:url";
import * as seed from "./seed.mjs";

const port = Number(process.env.PORT ?? 4010);
const dist = join(fileURLToPath(new URL(".", import.meta.url)), "../dist");
const state = seed.make();
const iso = (ms = Date.now()) => new Date(ms).toISOString();
const id = (prefix) => `${prefix}_${Date.now()}_${randomBytes(5).toString("hex").slice(0, 9)}`;

// ---- events ----------------------------------------------------------------------------------------------------------

let revision = 1000;
const watchers = new Set();
function changed(kind, thing, what, status) {
  const event = { revision: ++revision, kind, id: thing.id, what, time: iso() };
  if (thing.name) event.name = thing.name;
  if (status) event.status = status;
  for (const w of watchers) w(event);
}

// ---- who is asking ---------------------------------------------------------------------------------------------------

const access = new Map();
const refresh = new Map();
const tickets = new Map();
const RANK = { viewer: 0, operator: 1, admin: 2 };

function signedIn(user) {
  const accessToken = `nma_${randomBytes(18).toString("base64url")}`;
  const refreshToken = `nmr_${randomBytes(18).toString("base64url")}`;
  access.set(accessToken, { user, until: Date.now() + 15 * 60_000 });
  refresh.set(refreshToken, user);
  return { accessToken, refreshToken, expiresIn: 900, user };
}

class Failure extends Error {
  constructor(status, code, message, more = {}) {
    super(message);
    Object.assign(this, { status, code, more });
  }
}
const invalid = (field, message) => new Failure(422, "invalid_field", `\`${field}\`: ${message}`, { details: [{ field, message }] });
const missing = (what, key) => new Failure(404, `${what}_not_found`, `there is no ${what} \`${key}\``);

function who(request, url) {
  const token = request.headers.authorization?.replace(/^Bearer /, "");
  const held = token ? access.get(token) : undefined;
  if (held && held.until > Date.now()) return held.user;
  const ticket = url.searchParams.get("ticket");
  if (ticket && tickets.has(ticket)) {
    const user = tickets.get(ticket);
    tickets.delete(ticket);
    return user;
  }
  throw new Failure(401, "unauthorized", "sign in first: send `Authorization: Bearer …`");
}
const needs = (user, role) => {
  if (RANK[user.role] < RANK[role]) throw new Failure(403, "forbidden", `that needs the role ${role}`);
};

// ---- life ------------------------------------------------------------------------------------------------------------

const find = (key) => {
  const c = state.containers.find((x) => x.id === key || x.name === key);
  if (!c) throw missing("container", key);
  return c;
};

setInterval(() => {
  for (const c of state.containers) seed.tick(c);
}, 1000);
setInterval(() => {
  const c = state.containers[Math.floor(Math.random() * state.containers.length)];
  if (c?.status === "running") changed("container", c, "updated", c.status);
}, 20_000);

function setStatus(c, status) {
  c.status = status;
  if (status === "running") Object.assign(c, { started: iso(), exitCode: undefined, finished: undefined, message: undefined });
  if (status === "stopped") Object.assign(c, { finished: iso(), exitCode: 0 });
  changed("container", c, "status", status);
  return c;
}

/** Runs an operation whose work calls `step`, `layer` and `log`. */
function operate(kind, target, actor, work) {
  const op = {
    id: id("op"),
    kind,
    state: "running",
    target,
    actor,
    steps: [],
    log: [],
    cancelRequested: false,
    created: iso(),
    updated: iso(),
  };
  op.listeners = new Set();
  state.operations.unshift(op);
  const tell = () => {
    op.updated = iso();
    for (const l of op.listeners) l();
  };
  const pause = (ms) => new Promise((r) => setTimeout(r, ms));
  const tools = {
    pause: async (ms) => {
      await pause(ms);
      if (op.cancelRequested) throw new Failure(409, "cancelled", "it was cancelled; nothing of it is left");
    },
    step: (name) => {
      const last = op.steps.at(-1);
      if (last) Object.assign(last, { state: "succeeded", detail: undefined });
      op.steps.push({ name, state: "running" });
      tell();
    },
    detail: (detail, progress) => {
      op.steps.at(-1).detail = detail;
      op.progress = progress;
      tell();
    },
    log: (line) => {
      op.log.push({ time: iso(), line });
      tell();
    },
  };
  changed("operation", op, "created", "running");
  const finish = (end, more) => {
    Object.assign(op, { state: end, finished: iso() }, more);
    const last = op.steps.at(-1);
    if (last?.state === "running") last.state = end;
    changed("operation", op, "status", end);
    tell();
  };
  op.done = work(tools).then(
    (result) => finish("succeeded", { result, progress: 100 }),
    (e) =>
      finish(op.cancelRequested ? "cancelled" : "failed", {
        error: {
          status: e.status ?? 500,
          code: e.code ?? "internal",
          error: e.message,
          details: e.more?.details ?? [],
          logs: e.more?.logs ?? [],
        },
      }),
  );
  return op;
}
const view = ({ listeners: _l, done: _d, ...op }) => op;

async function pullLayers(tools, image) {
  tools.step(`pull ${image}`);
  if (/nope|missing/.test(image)) {
    await tools.pause(600);
    throw new Failure(404, "image_not_found", `there is no image \`${image}\` in its registry: check the name and the tag`, {
      details: [{ field: "image", message: `there is no image \`${image}\` in its registry: check the name and the tag` }],
    });
  }
  const layers = Array.from({ length: 4 }, (_, i) => ({ id: randomBytes(6).toString("hex"), total: 3_000_000 * (i + 1), current: 0 }));
  const total = layers.reduce((s, l) => s + l.total, 0);
  const percent = () => Math.round((layers.reduce((s, l) => s + l.current, 0) / total) * 1000) / 10;
  tools.log(`${image}: Pulling from library/${image.split(":")[0]}`);
  while (layers.some((l) => l.current < l.total)) {
    const l = layers.filter((x) => x.current < x.total)[Math.floor(Math.random() * 2) % layers.filter((x) => x.current < x.total).length];
    l.current = Math.min(l.total, l.current + 900_000);
    const done = l.current === l.total;
    tools.detail(done ? `${l.id}: Pull complete` : `${l.id}: Downloading ${l.current / 1000} of ${l.total / 1000} kB`, percent());
    await tools.pause(110);
  }
  tools.log("Status: Downloaded newer image");
}

// ---- routes ----------------------------------------------------------------------------------------------------------

const ok = (data, more = {}) => ({ status: 200, body: { success: true, data, ...more } });
const list = (items, url) => {
  const limit = Number(url.searchParams.get("limit") ?? 50);
  const from = Number(url.searchParams.get("cursor") ?? 0);
  const rows = items.slice(from, from + limit);
  return ok(rows, { count: rows.length, ...(from + limit < items.length ? { nextCursor: String(from + limit) } : {}) });
};
const routes = [];
const route = (method, path, role, run) =>
  routes.push({ method, pattern: new RegExp(`^${path.replace(/:(\w+)/g, "(?<$1>[^/]+)")}$`), role, run });

route("POST", "/api/auth/login", null, ({ body }) => {
  const user = state.users.find((u) => u.username === body.username);
  if (!user || body.password !== `${user.username}-mock`)
    throw new Failure(401, "bad_credentials", "the username or the password is not right");
  return ok(signedIn(user));
});
route("POST", "/api/auth/refresh", null, ({ body }) => {
  const user = refresh.get(body.refreshToken);
  if (!user) throw new Failure(401, "unauthorized", "the session is over: sign in again");
  refresh.delete(body.refreshToken);
  return ok(signedIn(user));
});
route("POST", "/api/auth/logout", "viewer", () => ok({}));
route("GET", "/api/auth/me", "viewer", ({ user }) => ok(user));
route("POST", "/api/auth/password", "viewer", ({ body, user }) => {
  if (body.currentPassword !== `${user.username}-mock`) throw invalid("currentPassword", "that is not your present password");
  return ok({}, { message: "the password was changed" });
});
route("GET", "/api/auth/sessions", "viewer", () => ok(state.sessions));
route("DELETE", "/api/auth/sessions/:id", "viewer", ({ params }) => {
  state.sessions = state.sessions.filter((s) => s.id !== params.id);
  return ok({});
});
route("POST", "/api/auth/tickets", "viewer", ({ user }) => {
  const ticket = randomBytes(12).toString("base64url");
  tickets.set(ticket, user);
  return ok({ ticket, expires: iso(Date.now() + 30_000) });
});

route("GET", "/api/containers", "viewer", ({ url }) => {
  const q = url.searchParams;
  let rows = state.containers;
  if (q.get("managed")) rows = rows.filter((c) => String(c.managed) === q.get("managed"));
  if (q.get("status")) rows = rows.filter((c) => c.status === q.get("status"));
  if (q.get("name")) rows = rows.filter((c) => c.name.includes(q.get("name")));
  if (q.get("nodeId")) rows = rows.filter((c) => c.nodeId === q.get("nodeId"));
  return list(rows, url);
});
route("POST", "/api/containers", "operator", ({ body, user }) => {
  if (state.containers.some((c) => c.name === body.name)) {
    throw new Failure(409, "name_taken", `there is a container called \`${body.name}\` already`, {
      details: [{ field: "name", message: `there is a container called \`${body.name}\` already: choose another name` }],
    });
  }
  const clash = (body.ports ?? []).findIndex(
    (p) => p.host && state.containers.some((c) => c.status === "running" && c.ports.some((o) => o.host === p.host)),
  );
  const cid = id("cont");
  const op = operate("container.create", cid, user.username, async (tools) => {
    if (!state.images.some((i) => i.tags.includes(body.image))) await pullLayers(tools, body.image);
    if (clash >= 0) {
      const port = body.ports[clash].host;
      throw new Failure(409, "port_in_use", `port ${port} of the node is taken: choose another one, or 0 to let the node choose`, {
        details: [{ field: `ports[${clash}].host`, message: `port ${port} of the node is taken` }],
      });
    }
    tools.step("create");
    await tools.pause(300);
    const c = seed.container({
      ...body,
      id: cid,
      nodeId: body.nodeId ?? state.nodes[0].id,
      ports: (body.ports ?? []).map((p) => ({ ...p, host: p.host || 32768 + Math.floor(Math.random() * 999) })),
    });
    state.containers.unshift(c);
    changed("container", c, "created", "created");
    if (body.start) {
      tools.step("start");
      await tools.pause(300);
      setStatus(c, "running");
    }
    return { containerId: cid };
  });
  return { status: 202, body: { success: true, data: view(op), message: "it goes on; follow the operation" } };
});
route("GET", "/api/containers/templates/list", "viewer", () => ok(seed.templates));
route("GET", "/api/containers/:id", "viewer", ({ params }) => ok(find(params.id)));
route("PATCH", "/api/containers/:id", "operator", ({ params, body }) => {
  const c = find(params.id);
  if (body.cpuLimit > 8) throw invalid("cpuLimit", "the node has 8 cores");
  if (body.cpuLimit) c.resources.cpuLimit = body.cpuLimit;
  if (body.memoryLimit) c.resources.memoryLimit = body.memoryLimit;
  if (body.restart) c.restart = body.restart;
  changed("container", c, "updated", c.status);
  return ok(c);
});
route("DELETE", "/api/containers/:id", "operator", ({ params, url }) => {
  const c = find(params.id);
  if ((c.status === "running" || c.status === "paused") && url.searchParams.get("force") !== "true") {
    throw new Failure(409, "in_use", `container \`${c.name}\` runs: stop it first, or remove it with force=true`);
  }
  state.containers = state.containers.filter((x) => x !== c);
  changed("container", c, "deleted");
  return ok({});
});
const ENDS = { start: "running", stop: "stopped", restart: "running", pause: "paused", unpause: "running", kill: "exited" };
for (const [action, status] of Object.entries(ENDS)) {
  route("POST", `/api/containers/:id/${action}`, "operator", async ({ params }) => {
    const c = find(params.id);
    await new Promise((r) => setTimeout(r, 350));
    if (action === "kill") c.exitCode = 137;
    return ok(setStatus(c, status));
  });
}
route("POST", "/api/containers/:id/rename", "operator", ({ params, body }) => {
  const c = find(params.id);
  if (state.containers.some((x) => x.name === body.name))
    throw new Failure(409, "name_taken", "that name is taken", { details: [{ field: "name", message: "that name is taken" }] });
  c.name = body.name;
  changed("container", c, "updated", c.status);
  return ok(c);
});
route("GET", "/api/containers/:id/inspect", "viewer", ({ params }) => ok(seed.inspect(find(params.id))));
route("GET", "/api/containers/:id/logs", "viewer", ({ params, url, stream }) => {
  const c = find(params.id);
  const tail = Number(url.searchParams.get("tail") ?? 100);
  const lines = seed.logs(c, Math.min(tail, 800));
  if (url.searchParams.get("follow") !== "true") return ok(url.searchParams.get("format") === "objects" ? lines : lines.map((l) => l.line));
  const since = url.searchParams.get("since");
  return stream((send, end) => {
    for (const l of since ? lines.filter((x) => x.time >= since) : lines) send("log", l);
    if (c.status !== "running") {
      end();
      return () => {};
    }
    const timer = setInterval(() => {
      for (let i = 0; i < 1 + Math.random() * 3; i++) send("log", seed.logLine(c, Date.now()));
      if (c.status !== "running") end();
    }, 700);
    return () => clearInterval(timer);
  });
});
route("GET", "/api/containers/:id/stats", "viewer", ({ params, url, stream }) => {
  const c = find(params.id);
  if (url.searchParams.get("follow") === "true") {
    return stream((send, end) => {
      const timer = setInterval(() => {
        if (c.status !== "running") end();
        else send("stats", c.samples.at(-1));
      }, 1000);
      return () => clearInterval(timer);
    });
  }
  if (url.searchParams.get("resolution") === "minute") return ok(seed.minutes(c, Number(url.searchParams.get("limit") ?? 60)));
  return ok(c.samples.slice(-Number(url.searchParams.get("limit") ?? 60)));
});

route("GET", "/api/images", "viewer", ({ url }) =>
  ok(state.images.filter((i) => !url.searchParams.get("nodeId") || i.nodeId === url.searchParams.get("nodeId"))),
);
route("POST", "/api/containers/images/pull", "operator", ({ body, user }) => {
  const name = body.name.includes(":") ? body.name : `${body.name}:latest`;
  const op = operate("image.pull", body.nodeId ?? state.nodes[0].id, user.username, async (tools) => {
    await pullLayers(tools, name);
    const image = seed.image(name, body.nodeId ?? state.nodes[0].id);
    state.images.unshift(image);
    return image;
  });
  return { status: 202, body: { success: true, data: view(op) } };
});
route("DELETE", "/api/images", "operator", ({ url }) => {
  const name = url.searchParams.get("name");
  const image = state.images.find((i) => i.tags.includes(name) || i.id === name);
  if (image?.containers && url.searchParams.get("force") !== "true") {
    throw new Failure(409, "in_use", `image \`${name}\` is used by ${image.containers} containers: remove those first, or use force=true`);
  }
  state.images = state.images.filter((i) => i !== image);
  return ok({});
});
route("POST", "/api/images/prune", "operator", () => {
  const gone = state.images.filter((i) => i.tags.length === 0);
  state.images = state.images.filter((i) => i.tags.length > 0);
  return ok({ removed: gone.map((i) => i.id), freed: gone.reduce((s, i) => s + i.size, 0) });
});
for (const kind of ["volumes", "networks"]) {
  route("GET", `/api/${kind}`, "viewer", ({ url }) =>
    ok(state[kind].filter((i) => !url.searchParams.get("nodeId") || i.nodeId === url.searchParams.get("nodeId"))),
  );
  route("POST", `/api/${kind}`, "operator", ({ body }) => {
    if (state[kind].some((x) => x.name === body.name))
      throw new Failure(409, "name_taken", `\`${body.name}\` is there already`, {
        details: [{ field: "name", message: `\`${body.name}\` is there already` }],
      });
    const made = (kind === "volumes" ? seed.volume : seed.network)(body.name, body.nodeId ?? state.nodes[0].id, body);
    state[kind].unshift(made);
    return { status: 201, body: { success: true, data: made } };
  });
  route("DELETE", `/api/${kind}/:name`, "operator", ({ params }) => {
    const it = state[kind].find((x) => x.name === params.name);
    if ((it?.usedBy ?? it?.containers)?.length)
      throw new Failure(409, "in_use", `\`${params.name}\` is in use: remove the containers that use it first`);
    state[kind] = state[kind].filter((x) => x !== it);
    return ok({});
  });
}
for (const action of ["attach", "detach"]) {
  route("POST", `/api/networks/:name/${action}`, "operator", ({ params, body }) => {
    const n = state.networks.find((x) => x.name === params.name);
    const c = find(body.container);
    n.containers = n.containers.filter((x) => x !== c.name);
    if (action === "attach") n.containers.push(c.name);
    return ok({});
  });
}
route("GET", "/api/registries", "viewer", () => ok(state.registries));
route("POST", "/api/registries", "admin", ({ body }) => {
  const r = { id: id("reg"), host: body.host, username: body.username, created: iso(), updated: iso() };
  state.registries.push(r);
  changed("registry", r, "created");
  return { status: 201, body: { success: true, data: r } };
});
route("PUT", "/api/registries/:id", "admin", ({ params, body }) => {
  const r = state.registries.find((x) => x.id === params.id);
  Object.assign(r, { host: body.host, username: body.username, updated: iso() });
  return ok(r);
});
route("DELETE", "/api/registries/:id", "admin", ({ params }) => {
  state.registries = state.registries.filter((x) => x.id !== params.id);
  return ok({});
});
const node = (key) => {
  const n = state.nodes.find((x) => x.id === key || x.name === key);
  if (!n) throw missing("node", key);
  return n;
};
route("GET", "/api/nodes", "viewer", () => ok(state.nodes));
route("GET", "/api/nodes/:id", "viewer", ({ params }) => ok(node(params.id)));
route("PATCH", "/api/nodes/:id", "admin", ({ params, body }) => {
  const n = node(params.id);
  if (body.name) n.name = body.name;
  if (body.labels) n.labels = body.labels;
  if (body.cordoned !== undefined) n.status = body.cordoned ? "cordoned" : "ready";
  changed("node", n, "updated", n.status);
  return ok(n);
});
route("DELETE", "/api/nodes/:id", "admin", ({ params }) => {
  state.nodes = state.nodes.filter((n) => n.id !== params.id);
  return ok({});
});
route("POST", "/api/nodes/join-tokens", "admin", () => ({
  status: 201,
  body: {
    success: true,
    data: {
      id: id("join"),
      token: `nm1.${createHash("sha256").update("key").digest("hex")}.${randomBytes(20).toString("base64url")}`,
      expires: iso(Date.now() + 900_000),
    },
  },
}));
route("GET", "/api/operations", "viewer", ({ url }) => {
  const q = url.searchParams;
  return list(
    state.operations
      .filter((o) => (!q.get("state") || o.state === q.get("state")) && (!q.get("target") || o.target === q.get("target")))
      .map(view),
    url,
  );
});
const operation = (key) => {
  const op = state.operations.find((o) => o.id === key);
  if (!op) throw missing("operation", key);
  return op;
};
route("GET", "/api/operations/:id", "viewer", ({ params, url, stream }) => {
  const op = operation(params.id);
  if (url.searchParams.get("follow") !== "true") return ok(view(op));
  return stream((send, end) => {
    const tell = () => {
      send("operation", view(op));
      if (op.state !== "running") end();
    };
    op.listeners?.add(tell);
    tell();
    return () => op.listeners?.delete(tell);
  });
});
route("POST", "/api/operations/:id/cancel", "operator", ({ params }) => {
  const op = operation(params.id);
  op.cancelRequested = true;
  return ok(view(op));
});
route("GET", "/api/users", "admin", ({ url }) => list(state.users, url));
route("POST", "/api/users", "admin", ({ body }) => {
  if (state.users.some((u) => u.username === body.username))
    throw new Failure(409, "already_exists", "that username is taken", {
      details: [{ field: "username", message: "that username is taken" }],
    });
  const u = { id: id("user"), username: body.username, role: body.role, disabled: false, created: iso(), updated: iso() };
  state.users.push(u);
  changed("user", u, "created");
  return { status: 201, body: { success: true, data: u } };
});
route("PATCH", "/api/users/:id", "admin", ({ params, body }) => {
  const u = state.users.find((x) => x.id === params.id);
  for (const k of ["role", "disabled"]) if (body[k] !== undefined) u[k] = body[k];
  changed("user", u, "updated");
  return ok(u);
});
route("DELETE", "/api/users/:id", "admin", ({ params }) => {
  state.users = state.users.filter((u) => u.id !== params.id);
  return ok({});
});
route("GET", "/api/tokens", "viewer", ({ url, user }) =>
  list(
    state.tokens.filter((t) => url.searchParams.get("all") === "true" || t.userId === user.id),
    url,
  ),
);
route("POST", "/api/tokens", "viewer", ({ body, user }) => {
  const t = {
    id: id("token"),
    name: body.name,
    userId: user.id,
    role: body.role,
    scopes: body.scopes ?? [],
    created: iso(),
    expires: iso(Date.now() + (body.expiresInDays ?? 90) * 86_400_000),
  };
  state.tokens.push(t);
  return { status: 201, body: { success: true, data: { ...t, token: `nmt_${randomBytes(24).toString("base64url")}` } } };
});
route("DELETE", "/api/tokens/:id", "viewer", ({ params }) => {
  state.tokens = state.tokens.filter((t) => t.id !== params.id);
  return ok({});
});
route("GET", "/api/audit", "admin", ({ url }) => list(state.audit, url));
route("GET", "/api/audit/verify", "admin", () => ok({ intact: true, entries: state.audit.length }));
route("GET", "/api/system/info", "viewer", () =>
  ok({
    version: "0.1.0",
    database: "sqlite",
    uptime: Math.floor(process.uptime()) + 93_000,
    nodes: state.nodes.length,
    nodesConnected: 2,
    containers: state.containers.length,
    operationsRunning: 0,
  }),
);
route("GET", "/api/events", "viewer", ({ stream }) =>
  stream((send) => {
    const tell = (event) => send("change", event, event.revision);
    watchers.add(tell);
    return () => watchers.delete(tell);
  }),
);

// ---- serving ---------------------------------------------------------------------------------------------------------

const TYPES = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".woff2": "font/woff2" };

const server = createServer(async (request, response) => {
  const url = new URL(request.url, "http://mock");
  response.setHeader(
    "content-security-policy",
    "default-src 'self'; connect-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'",
  );
  if (!url.pathname.startsWith("/api")) return file(url.pathname, response);
  const json = (status, body) => {
    response.writeHead(status, { "content-type": "application/json" });
    response.end(JSON.stringify(body, (k, v) => (k === "samples" ? undefined : v)));
  };
  try {
    const found = routes.find((r) => r.method === request.method && r.pattern.test(url.pathname));
    if (!found) throw new Failure(404, "not_found", `there is nothing at ${url.pathname}`);
    const user = found.role ? who(request, url) : null;
    if (user) needs(user, found.role);
    let text = "";
    for await (const part of request) text += part;
    const params = Object.fromEntries(
      Object.entries(found.pattern.exec(url.pathname).groups ?? {}).map(([k, v]) => [k, decodeURIComponent(v)]),
    );
    const stream = (begin) => {
      response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
      const send = (event, data, eid) => response.write(`${eid ? `id: ${eid}\n` : ""}event: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
      response.write(": here\n\n");
      let stop = () => {};
      const end = () => {
        send("end", {});
        response.end();
        stop();
      };
      const beat = setInterval(() => response.write(": here\n\n"), 10_000);
      stop = begin(send, end) ?? stop;
      request.on("close", () => {
        clearInterval(beat);
        stop();
      });
      return null;
    };
    const answer = await found.run({ url, params, user, stream, body: text ? JSON.parse(text) : {} });
    if (answer) json(answer.status, answer.body);
  } catch (e) {
    if (!(e instanceof Failure)) console.error(e);
    json(e.status ?? 500, {
      success: false,
      error: e.message,
      code: e.code ?? "internal",
      requestId: randomBytes(8).toString("hex"),
      ...e.more,
    });
  }
});

function file(path, response) {
  let name = join(dist, path);
  if (!existsSync(name) || statSync(name).isDirectory()) name = join(dist, "index.html");
  if (!existsSync(name)) {
    response.writeHead(404).end("no dist: use `npm run dev`, or build first");
    return;
  }
  response.writeHead(200, { "content-type": TYPES[extname(name)] ?? "application/octet-stream" });
  createReadStream(name).pipe(response);
}

// A terminal that says back what it is told.
server.on("upgrade", (request, socket) => {
  const url = new URL(request.url, "http://mock");
  if (!tickets.delete(url.searchParams.get("ticket"))) {
    socket.end("HTTP/1.1 401 Unauthorized\r\n\r\n");
    return;
  }
  const accept = createHash("sha1").update(`${request.headers["sec-websocket-key"]}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest("base64");
  socket.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`);
  const send = (data, text = false) => {
    const bytes = Buffer.from(data);
    const head =
      bytes.length < 126
        ? Buffer.from([text ? 0x81 : 0x82, bytes.length])
        : Buffer.from([text ? 0x81 : 0x82, 126, bytes.length >> 8, bytes.length & 255]);
    socket.write(Buffer.concat([head, bytes]));
  };
  const prompt = () => send("\x1b[32m/ #\x1b[0m ");
  let line = "";
  prompt();
  socket.on("error", () => {});
  socket.on("data", (frame) => {
    const op = frame[0] & 15;
    let at = 2;
    let length = frame[1] & 127;
    if (length === 126) {
      length = frame.readUInt16BE(2);
      at = 4;
    }
    const mask = frame.subarray(at, at + 4);
    const data = Buffer.from(frame.subarray(at + 4, at + 4 + length).map((b, i) => b ^ mask[i % 4]));
    if (op === 8) return socket.end();
    if (op !== 2) return;
    for (const c of data.toString()) {
      if (c === "\r") {
        send("\r\n");
        if (line.startsWith("echo ")) send(`${line.slice(5)}\r\n`);
        else if (line === "exit") {
          send(JSON.stringify({ type: "exit", code: 0 }), true);
          socket.end(Buffer.from([0x88, 0]));
          return;
        } else if (line) send(`sh: ${line.split(" ")[0]}: not found\r\n`);
        line = "";
        prompt();
      } else if (c === "\x7f") {
        if (line) send("\b \b");
        line = line.slice(0, -1);
      } else {
        line += c;
        send(c);
      }
    }
  });
});

server.listen(port, "127.0.0.1", () => console.log(`the mock listens on http://127.0.0.1:${port}`));
