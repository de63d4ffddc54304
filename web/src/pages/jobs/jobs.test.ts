import { describe, expect, it } from "vitest";
import type { Page } from "../../api/client";
import type { Cluster, Job, Task } from "../../api/types";
import { bodyOf, clusterForm, emptyClusterForm, patchOf, serverRow, withType } from "../clusters/form";
import { becomes, memberWord, statusReason } from "../clusters/words";
import { pairRow, volumeRow } from "../containers/form";
import { emptyJob, type JobForm, jobOf, placeJobProblems } from "./form";
import { barTone, countOf, countsText, cpuText, exitText, canPrecede, isOver, jobName, newestFirst, openOf, outcomeText, reasonOf, retriesText, tasksPage, tookOf } from "./words";

const form = (more: Partial<JobForm> = {}): JobForm => ({ ...emptyJob(), image: "busybox", ...more });
const COUNTS = { queued: 0, running: 0, succeeded: 0, failed: 0, cancelled: 0, setAside: 0 };

describe("the form of a job", () => {
  it("sends an image alone where nothing else is said", () => {
    expect(jobOf(form())).toEqual({ spec: { image: "busybox" }, problems: {} });
    expect(jobOf(emptyJob()).problems).toEqual({ image: "Name an image" });
  });

  it("sends all that is said", () => {
    const { spec, problems } = jobOf(
      form({
        name: " report ",
        command: "sh -c 'echo $N'",
        environment: [pairRow("MODE", "fast"), pairRow(), pairRow("EMPTY", "")],
        cpu: "1.5",
        memory: "64m",
        many: true,
        size: "3",
        variable: "N",
        retries: "2",
        backoff: "0",
        timeout: "60",
        priority: "0",
        dependsOn: ["job_1_aaaaaaaaa"],
        volumes: [volumeRow(), volumeRow({ container: "/data", host: "inputs", mode: "ro" })],
      }),
    );
    expect(problems).toEqual({});
    expect(spec).toEqual({
      name: "report",
      image: "busybox",
      command: ["sh", "-c", "echo $N"],
      environment: { MODE: "fast", EMPTY: "" },
      cpu: 1.5,
      memory: "64m",
      array: { size: 3, variable: "N" },
      retries: { limit: 2, backoff: 0 },
      timeout: 60,
      priority: 0,
      dependsOn: ["job_1_aaaaaaaaa"],
      volumes: [{ container: "/data", host: "inputs", mode: "ro" }],
    });
  });

  it("leaves out what does not count", () => {
    expect(jobOf(form({ size: "3", variable: "N" })).spec).toEqual({ image: "busybox" });
    expect(jobOf(form({ backoff: "30" })).spec).toEqual({ image: "busybox" });
    expect(jobOf(form({ retries: "0", backoff: "x" }))).toEqual({ spec: { image: "busybox", retries: { limit: 0 } }, problems: {} });
  });

  it("tells what is wrong at its field", () => {
    const { problems } = jobOf(
      form({
        image: "Bad Image",
        command: "echo 'open",
        environment: [pairRow("1X", "a"), pairRow("A", "1"), pairRow("A", "2")],
        cpu: "65",
        memory: "12",
        many: true,
        retries: "21",
        backoff: "4000",
        timeout: "0",
        priority: "101",
        volumes: [volumeRow({ container: "/a" }), volumeRow({ container: "/a" }), volumeRow({ host: "inputs" })],
      }),
    );
    expect(Object.keys(problems).sort()).toEqual(
      [
        "image",
        "command",
        "environment[0]",
        "environment[2]",
        "cpu",
        "memory",
        "array.size",
        "retries.limit",
        "retries.backoff",
        "timeout",
        "priority",
        "volumes[1].container",
        "volumes[2].container",
      ].sort(),
    );
  });

  it("gives a task's number a variable of its own", () => {
    const taken = { many: true, size: "2", environment: [pairRow("NM_TASK_INDEX", "7")] };
    expect(jobOf(form(taken)).problems["array.variable"]).toMatch(/NM_TASK_INDEX is in the environment/);
    expect(jobOf(form({ ...taken, variable: "N" })).problems).toEqual({});
  });

  it("shows what the server refuses at the row it came from", () => {
    const f = form({ environment: [pairRow(), pairRow("A", "1")], volumes: [volumeRow(), volumeRow({ container: "/data" })] });
    expect(
      placeJobProblems(f, { "environment.A": "no", "volumes[0].host": "bad", "command[3]": "long", "dependsOn[0]": "gone", "dependsOn[1]": "too", "array.size": "many" }),
    ).toEqual({ "environment[1]": "no", "volumes[1].host": "bad", command: "long", dependsOn: "gone; too", "array.size": "many" });
  });
});

describe("jobs in words", () => {
  it("counts tasks", () => {
    expect(countsText({ ...COUNTS, queued: 1_200, failed: 1, succeeded: 2 })).toBe("2 succeeded · 1 failed · 1,200 queued");
    expect(countsText(COUNTS)).toBe("");
    expect(countOf({ ...COUNTS, setAside: 3 }, "set-aside")).toBe(3);
    expect(barTone({ state: "running", counts: { ...COUNTS, failed: 1 } })).toBe("tone-red");
    expect(barTone({ state: "running", counts: COUNTS })).toBe("");
    expect(barTone({ state: "succeeded", counts: { ...COUNTS, succeeded: 1 } })).toBe("tone-green");
  });

  it("tells apart how attempts end", () => {
    expect(outcomeText({ outcome: "exit-code", exitCode: 3 })).toBe("exit code 3");
    expect(outcomeText({ outcome: "out-of-memory", exitCode: 137 })).toBe("out of memory");
    expect(outcomeText({ outcome: "timeout", exitCode: 137 })).toBe("ran out of time");
    expect(outcomeText({})).toBe("");
    expect(exitText({ exitCode: 0 })).toBe("0");
    expect(exitText({})).toBe("–");
  });

  it("says the rest", () => {
    expect(jobName({ id: "job_1" })).toBe("job_1");
    expect(jobName({ id: "job_1", name: "report" })).toBe("report");
    expect(["waiting", "queued", "running"].some((s) => isOver(s as Job["state"]))).toBe(false);
    expect(isOver("set-aside")).toBe(true);
    expect(["waiting", "succeeded", "failed", "cancelled"].map((s) => canPrecede({ state: s as Job["state"] }))).toEqual([true, true, false, false]);
    expect(cpuText(2)).toBe("2 cores of its own");
    expect(cpuText(0.5)).toBe("0.5 cores");
    expect(retriesText({ limit: 0, backoff: 10 })).toBe("none");
    expect(retriesText({ limit: 3, backoff: 10 })).toBe("3 at most, the first after 10 s");
    const started = "2026-11-27T12:00:00.000Z";
    expect(tookOf({ started, finished: "2026-11-27T12:00:02.000Z" }, 0)).toBe(2_000);
    expect(tookOf({ started }, Date.parse(started) + 500)).toBe(500);
    expect(tookOf({}, 0)).toBeUndefined();
  });
});

describe("why a job is as it is", () => {
  it("does not name the job again", () => {
    expect(reasonOf({ id: "job_1_aa", reason: "1 of 2 tasks of job `the report` (job_1_aa) failed" })).toBe("1 of 2 tasks failed");
    expect(reasonOf({ id: "job_1_aa", reason: "1 of 2 tasks of job job_1_aa failed" })).toBe("1 of 2 tasks failed");
  });
  it("names other jobs", () => {
    const reason = "2 of 2 tasks of job `first` (job_9_zz) failed";
    expect(reasonOf({ id: "job_1_aa", reason })).toBe(reason);
    expect(reasonOf({ id: "job_1_aa" })).toBe("");
  });
});

describe("a list of jobs", () => {
  const job = (id: string, created: string, state: Job["state"] = "succeeded", counts = {}) => ({ id, created, state, counts: { ...COUNTS, ...counts } }) as Job;

  it("has the newest first", () => {
    const list = [job("job_1_a", "2026-11-27T00:00:00.000Z"), job("job_2_a", "2026-11-27T00:00:02.000Z"), job("job_2_b", "2026-11-27T00:00:02.000Z")];
    expect(newestFirst(list).map((j) => j.id)).toEqual(["job_2_b", "job_2_a", "job_1_a"]);
  });

  it("tells what has not ended", () => {
    const at = "2026-11-27T00:00:00.000Z";
    const list = [job("a", at, "running", { running: 2, queued: 3, failed: 1 }), job("b", at, "waiting", { queued: 1 }), job("c", at, "failed", { failed: 4 })];
    expect(openOf(list)).toEqual({ jobs: 2, running: 2, queued: 4 });
    expect(openOf([])).toEqual({ jobs: 0, running: 0, queued: 0 });
  });
});

describe("a page of tasks", () => {
  /** So many tasks; each tenth failed. */
  const all = (size: number): Task[] => Array.from({ length: size }, (_, index) => ({ index, state: index % 10 === 0 ? "failed" : "succeeded", attempts: 1 }));
  const server = (tasks: readonly Task[]) => {
    const asked: number[] = [];
    const read = ({ limit, cursor }: { limit: number; cursor: string | undefined }): Promise<Page<Task>> => {
      const from = Number(cursor ?? 0);
      asked.push(limit);
      const next = from + limit < tasks.length ? String(from + limit) : undefined;
      return Promise.resolve({ items: tasks.slice(from, from + limit), next });
    };
    return { asked, read };
  };

  it("is the server's where no state is asked for", async () => {
    const { read, asked } = server(all(120));
    const page = await tasksPage(read, undefined, undefined);
    expect([page.items.length, page.next, asked]).toEqual([50, "50", [50]]);
  });

  it("reads on until there are enough of a state", async () => {
    const { read, asked } = server(all(1_000));
    const first = await tasksPage(read, "failed", undefined);
    expect([first.items.length, first.next, asked.length]).toEqual([60, "600", 3]);
    const rest = await tasksPage(read, "failed", first.next);
    expect([rest.items.length, rest.next]).toEqual([40, undefined]);
  });

  it("leaves the rest to the next page where there are few", async () => {
    const { read, asked } = server(all(10_000));
    const page = await tasksPage(read, "running", undefined);
    expect([page.items.length, page.next, asked.length]).toEqual([0, "2000", 10]);
  });
});

describe("a compute cluster", () => {
  const asked = (more = {}) => ({ ...emptyClusterForm(), name: "batch", type: "compute" as const, servers: [serverRow({ id: "node_a" })], ...more });
  const there = (more: Partial<Cluster> = {}): Cluster => ({
    id: "cluster_1",
    name: "batch",
    type: "compute",
    status: "healthy",
    servers: ["node_a"],
    metrics: { totalRequests: 0, averageResponseTime: 0, errorRate: 0, totalBandwidth: 0, p50: 0, p95: 0, p99: 0 },
    endpoints: [],
    protocol: "http",
    listenPort: 0,
    members: [
      {
        id: "node_a",
        name: "a",
        kind: "node",
        weight: 1,
        backup: false,
        state: "up",
        reason: "the node is ready",
        inFlight: 0,
        scaled: false,
        metrics: { totalRequests: 0, averageResponseTime: 0, errorRate: 0, totalBandwidth: 0, p50: 0, p95: 0, p99: 0 },
      },
    ],
    entryNodes: [],
    conditions: [],
    loadBalancer: { algorithm: "round-robin", healthCheckInterval: 30, healthCheckTimeout: 5 },
    healthCheck: { type: "http", interval: 30, rise: 1, fall: 2 },
    retries: 2,
    slowStart: 0,
    drainTime: 30,
    created: "2026-11-27T00:00:00.000Z",
    updated: "2026-11-27T00:00:00.000Z",
    generation: 1,
    ...more,
  });

  it("sends nothing that belongs to an entry, whatever was filled in before", () => {
    const filled = asked({
      listenPort: "8080",
      retries: "3",
      slowStart: "5",
      drainTime: "6",
      virtualAddress: "10.0.0.9",
      sticky: true,
      tls: "self-signed",
      protocol: "tcp",
      algorithm: "weighted",
      entryNodes: ["node_b"],
      servers: [{ ...serverRow({ id: "node_a", port: 80, weight: 3 }), backup: true }],
    });
    expect(bodyOf(filled)).toEqual({ body: { name: "batch", type: "compute", servers: ["node_a"] }, problems: {} });
  });

  it("asks for the length of the queue where that says how many nodes are in use", () => {
    expect(bodyOf(asked({ scaling: true, queue: "" })).problems).toHaveProperty(["autoScaling.targetQueueLength"]);
    const { body, problems } = bodyOf(asked({ scaling: true, queue: "20", min: "1", max: "4", cpu: "70", requests: "9" }));
    expect(bodyOf(asked({ scaling: true })).body.autoScaling).toEqual({ enabled: true, targetQueueLength: 10 });
    expect(problems).toEqual({});
    expect(body.autoScaling).toEqual({ enabled: true, minServers: 1, maxServers: 4, targetQueueLength: 20 });
    expect(bodyOf(asked({ scaling: true, queue: "20", min: "5", max: "4" })).problems).toEqual({ "autoScaling.minServers": "Not more than the most" });
  });

  it("changes what was changed alone, and becomes nothing else", () => {
    const c = there({ autoScaling: { enabled: true, minServers: 1, maxServers: 10, targetQueueLength: 10, scaleUpCooldown: 300, scaleDownCooldown: 600 } });
    const f = clusterForm(c);
    expect(patchOf(c, f).body).toEqual({});
    expect(patchOf(c, { ...f, queue: "25" }).body).toEqual({ autoScaling: { targetQueueLength: 25 } });
    expect(patchOf(c, { ...f, scaling: false }).body).toEqual({ autoScaling: { enabled: false } });
    expect(becomes("compute")).toEqual(["compute"]);
  });

  it("takes nodes over from another type, and gives them back to none", () => {
    const isNode = (id: string) => id.startsWith("node_");
    const mixed = { ...emptyClusterForm(), servers: [serverRow({ id: "cont_a" }), serverRow({ id: "node_a", port: 80 })] };
    const compute = withType(mixed, "compute", isNode);
    expect(compute.servers.map((s) => [s.id, s.port])).toEqual([["node_a", ""]]);
    expect(withType(emptyClusterForm(), "compute", isNode).servers.map((s) => s.id)).toEqual([""]);
    expect(withType(compute, "load-balanced", isNode).servers.map((s) => s.id)).toEqual(["", ""]);
    expect(withType(compute, "database", isNode).servers.map((s) => s.id)).toEqual(["node_a", "", ""]);
  });

  it("says how its nodes are", () => {
    const c = there();
    expect(statusReason(c)).toBe("every node is ready");
    expect(memberWord(c.members[0] as Cluster["members"][number], c)).toBe("ready");
  });
});
