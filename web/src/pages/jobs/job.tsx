import { Ban, ListChecks, ScrollText, Trash2 } from "lucide-react";
import { useState } from "react";
import { ApiError } from "../../api";
import { sentence } from "../../api/errors";
import { type Job, type Task, TASK_STATES, type TaskState } from "../../api/types";
import { useMayOperate, useNodeName } from "../../lib/data";
import { absolute, duration, plural } from "../../lib/format";
import { useNow } from "../../lib/hooks";
import { Link, navigate, useQueryValue } from "../../lib/router";
import { joinWords } from "../../lib/shell";
import { Tile, Time } from "../../ui/bits";
import { Button } from "../../ui/button";
import { Card } from "../../ui/card";
import { Copyable, type Fact, Facts } from "../../ui/facts";
import { Select } from "../../ui/field";
import { Page } from "../../ui/page";
import { Empty, Failure, Loading, Notice } from "../../ui/states";
import { type Column, Pager, Table } from "../../ui/table";
import { useCluster } from "../clusters/data";
import { useJob, useTasks } from "./data";
import { INDEX_VARIABLE } from "./form";
import { type Asked, JobBadge, JobDialogs, JobProgress, TaskBadge } from "./parts";
import { countOf, cpuText, exitText, isOver, jobName, memoryText, outcomeText, reasonOf, retriesText, sizeOf, STATE_WORD, tookOf } from "./words";

export function useCrumbs(cluster: string): [string, string][] {
  const { data } = useCluster(cluster);
  return [
    ["Clusters", "/clusters"],
    [data?.name ?? "Cluster", `/clusters/${cluster}/jobs`],
  ];
}

export function JobPage({ cluster, id }: { cluster: string; id: string }) {
  const query = useJob(cluster, id);
  const crumbs = useCrumbs(cluster);
  const gone = query.error instanceof ApiError && query.error.status === 404;
  if (query.data && !gone) return <Loaded job={query.data} error={query.error} crumbs={crumbs} />;
  return (
    <Page title="Job" crumbs={crumbs}>
      {gone ? (
        <Empty
          icon={<ListChecks aria-hidden="true" />}
          title="This job is not there"
          actions={
            <Link className="btn" href={`/clusters/${cluster}/jobs`}>
              To the jobs
            </Link>
          }
        >
          Somebody removed it, it ended long ago, or it never was.
        </Empty>
      ) : query.error ? (
        <Failure what="The job could not be read." error={query.error} retry={() => void query.refetch()} />
      ) : (
        <Loading what="the job" />
      )}
    </Page>
  );
}

function Loaded({ job: j, error, crumbs }: { job: Job; error: unknown; crumbs: [string, string][] }) {
  const may = useMayOperate();
  const now = useNow();
  const [asked, setAsked] = useState<Asked | null>(null);
  const took = tookOf(j, now);
  const [ended, size] = [sizeOf(j) - j.counts.queued - j.counts.running, sizeOf(j)];
  return (
    <Page
      title={jobName(j)}
      crumbs={crumbs}
      heading={
        <>
          <span className="truncate">{jobName(j)}</span>
          <span style={{ fontSize: 13, letterSpacing: 0 }}>
            <JobBadge state={j.state} />
          </span>
        </>
      }
      actions={
        may &&
        (isOver(j.state) ? (
          <Button icon={<Trash2 />} onClick={() => setAsked({ what: "remove", job: j })}>
            Remove…
          </Button>
        ) : (
          <Button icon={<Ban />} onClick={() => setAsked({ what: "cancel", job: j })}>
            Cancel it…
          </Button>
        ))
      }
    >
      {error !== null && <Failure what="What is shown may be old." error={error} />}
      <div className="stack">
        {j.reason && <Notice tone={j.state === "failed" || j.state === "set-aside" ? "red" : isOver(j.state) ? "amber" : "blue"}>{sentence(reasonOf(j))}.</Notice>}
        <JobProgress job={j} />
        <div className="tiles">
          <Tile label="Tasks that ended" value={ended.toLocaleString("en")} of={`of ${size.toLocaleString("en")}`} />
          <Tile label="Attempts" value={j.attempts.toLocaleString("en")} of={j.attempts > size ? `for ${plural(size, "task")}` : ""} />
          <Tile label={j.finished ? "Took" : "Runs for"} value={took === undefined ? "–" : duration(took)} />
          <Tile label="Priority" value={j.priority} />
        </div>
        <Tasks job={j} />
        <div className="grid">
          <div className="stack span-7">
            <Card title="What was asked for">
              <Facts rows={askedFor(j)} />
            </Card>
          </div>
          <div className="stack span-5">
            <Card title="Details">
              <Facts
                rows={[
                  ["Made", absolute(j.created)],
                  ["Begun", j.started ? absolute(j.started) : "–"],
                  ["Ended", j.finished ? absolute(j.finished) : "–"],
                  ["Id", <Copyable key="id" text={j.id} what="the id" />],
                ]}
              />
            </Card>
          </div>
        </div>
      </div>
      <JobDialogs asked={asked} onClose={() => setAsked(null)} removed={() => navigate(`/clusters/${j.clusterId}/jobs`)} />
    </Page>
  );
}

function askedFor(j: Job): Fact[] {
  const variables = Object.entries(j.environment);
  const rows: Fact[] = [
    ["Image", <code key="image" className="break">{j.image}</code>],
    ["Command", j.command.length > 0 ? <Copyable key="command" text={joinWords(j.command)} what="the command" /> : "the image's own"],
  ];
  if (j.array) {
    rows.push([
      "Tasks",
      <>
        {j.array.size.toLocaleString("en")}, each told its number by <code>{j.array.variable ?? INDEX_VARIABLE}</code>
      </>,
    ]);
  }
  rows.push(
    ["CPU", cpuText(j.cpu)],
    ["Memory", memoryText(j.memory)],
    ["Retries", retriesText(j.retries)],
    ["Time", j.timeout === undefined ? "no limit" : `${duration(j.timeout * 1000)} at most`],
  );
  if (variables.length > 0) {
    rows.push([
      "Environment",
      <ul key="environment" className="stack tight" aria-label="Environment">
        {variables.map(([name, value]) => (
          <li key={name}>
            <code className="break">
              {name}={value}
            </code>
          </li>
        ))}
      </ul>,
    ]);
  }
  if (j.volumes.length > 0) {
    rows.push([
      "Volumes",
      <ul key="volumes" className="stack tight" aria-label="Volumes">
        {j.volumes.map((v) => (
          <li key={v.container}>
            <code className="break">
              {v.host ? `${v.host}:` : ""}
              {v.container}
            </code>
            {v.mode === "ro" && <span className="faint"> read only</span>}
          </li>
        ))}
      </ul>,
    ]);
  }
  if (j.dependsOn.length > 0) {
    rows.push([
      "After",
      <ul key="after" className="stack tight" aria-label="Jobs it waits for">
        {j.dependsOn.map((id) => (
          <li key={id}>
            <Link className="link mono break" href={`/clusters/${j.clusterId}/jobs/${id}`}>
              {id}
            </Link>
          </li>
        ))}
      </ul>,
    ]);
  }
  return rows;
}

function Tasks({ job }: { job: Job }) {
  const nodeName = useNodeName();
  const now = useNow();
  const [wanted, setState] = useQueryValue("tasks");
  const state = TASK_STATES.find((s) => s === wanted) ?? "";
  const { query, rows, pager } = useTasks(job, state);
  const columns: Column<Task>[] = [
    {
      key: "index",
      head: "Task",
      lead: true,
      cell: (t) => (
        <Link href={`/clusters/${job.clusterId}/jobs/${job.id}/tasks/${t.index}`} className="link num">
          {t.index}
        </Link>
      ),
    },
    {
      key: "state",
      head: "State",
      wide: true,
      cell: (t) => (
        <div className="cell-main">
          <span className="row wrap">
            <TaskBadge state={t.state} />
            {t.state !== "succeeded" && t.outcome && <Outcome task={t} />}
          </span>
          {t.reason && (
            <span className="sub reason" title={t.reason}>
              {t.reason}
            </span>
          )}
          {t.notBefore && t.state === "queued" && (
            <span className="sub">
              tried again <Time at={t.notBefore} />
            </span>
          )}
        </div>
      ),
    },
    { key: "exit", head: "Exit code", right: true, cell: (t) => <span className="num">{exitText(t)}</span>, empty: (t) => t.exitCode === undefined },
    { key: "attempts", head: "Attempts", right: true, cell: (t) => <span className="num">{t.attempts}</span> },
    {
      key: "node",
      head: "Node",
      cell: (t) =>
        t.nodeId ? (
          <span>
            <Link className="link" href={`/nodes/${t.nodeId}`}>
              {nodeName(t.nodeId)}
            </Link>
            {t.cores && t.cores.length > 0 && <span className="faint"> cores {t.cores.join(", ")}</span>}
          </span>
        ) : (
          <span className="faint">–</span>
        ),
      empty: (t) => !t.nodeId,
    },
    {
      key: "took",
      head: "Took",
      right: true,
      cell: (t) => {
        const ms = tookOf(t, now);
        return <span className="num nowrap">{ms === undefined ? "–" : duration(ms)}</span>;
      },
      empty: (t) => !t.started,
    },
  ];
  return (
    <section className="stack tight">
      <header className="row wrap">
        <h2 className="grow">Tasks</h2>
        {(sizeOf(job) > 1 || state !== "") && (
          <Select
            aria-label="State of tasks"
            style={{ width: "auto" }}
            value={state}
            onValue={setState}
            options={[
              ["", "Any state"],
              ...TASK_STATES.filter((s) => s === state || countOf(job.counts, s) > 0).map((s): [TaskState, string] => [
                s,
                `${STATE_WORD[s]}, ${countOf(job.counts, s).toLocaleString("en")}`,
              ]),
            ]}
          />
        )}
      </header>
      {query.error && <Failure what="The tasks could not be read." error={query.error} retry={() => void query.refetch()} />}
      {rows?.length === 0 ? (
        <Empty flat icon={<ListChecks aria-hidden="true" />} title={pager.hasNext ? "None among these" : "No task fits"}>
          {pager.hasNext ? "Go on to those of higher numbers." : state ? `None of its tasks is ${STATE_WORD[state]}.` : ""}
        </Empty>
      ) : (
        !(query.error && !rows) && (
          <Table
            label="Tasks"
            rows={rows}
            id={(t) => String(t.index)}
            placeholders={Math.min(5, sizeOf(job))}
            columns={columns}
            actions={(t) => (
              <Link className="btn small" href={`/clusters/${job.clusterId}/jobs/${job.id}/tasks/${t.index}`} aria-label={`Log of task ${t.index}`}>
                <ScrollText />
                Log
              </Link>
            )}
          />
        )
      )}
      <Pager {...pager} words={["Lower numbers", "Higher numbers"]} />
    </section>
  );
}

/** How an attempt ended; what hit a limit is told apart from what failed by itself. */
export function Outcome({ task }: { task: Task }) {
  const limit = task.outcome === "out-of-memory" || task.outcome === "timeout";
  return <span className={`badge tone-${limit ? "amber" : task.outcome === "succeeded" ? "green" : "grey"}`}>{outcomeText(task)}</span>;
}
