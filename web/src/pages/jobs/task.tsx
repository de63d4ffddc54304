import { ListChecks } from "lucide-react";
import * as calls from "../../api/calls";
import type { Task } from "../../api/types";
import { useNodeName } from "../../lib/data";
import { duration } from "../../lib/format";
import { useNow } from "../../lib/hooks";
import { Link } from "../../lib/router";
import { Time } from "../../ui/bits";
import { Page } from "../../ui/page";
import { Empty, Failure, Loading } from "../../ui/states";
import { Log } from "../containers/logs";
import { useJob, useTask } from "./data";
import { Outcome, useCrumbs } from "./job";
import { TaskBadge } from "./parts";
import { jobName, tookOf } from "./words";

/** One task of a job, and what its last attempt wrote. */
export function TaskPage({ cluster, job, task }: { cluster: string; job: string; task: string }) {
  const index = /^\d{1,5}$/.test(task) ? Number(task) : -1;
  const query = useTask(cluster, job, index);
  const { data: whole } = useJob(cluster, job);
  const crumbs: [string, string][] = [...useCrumbs(cluster), [whole ? jobName(whole) : "Job", `/clusters/${cluster}/jobs/${job}`]];
  if (query.data) return <Loaded cluster={cluster} job={job} task={query.data} crumbs={crumbs} />;
  return (
    <Page title={`Task ${task}`} crumbs={crumbs}>
      {query.data === null ? (
        <Empty icon={<ListChecks aria-hidden="true" />} title="The job has no such task" />
      ) : query.error ? (
        <Failure what="The task could not be read." error={query.error} retry={() => void query.refetch()} />
      ) : (
        <Loading what="the task" />
      )}
    </Page>
  );
}

function Loaded({ cluster, job, task: t, crumbs }: { cluster: string; job: string; task: Task; crumbs: [string, string][] }) {
  const nodeName = useNodeName();
  const took = tookOf(t, useNow());
  return (
    <Page
      title={`Task ${t.index}`}
      crumbs={crumbs}
      heading={
        <>
          <span>Task {t.index}</span>
          <span className="row" style={{ fontSize: 13, letterSpacing: 0 }}>
            <TaskBadge state={t.state} />
            {t.state !== "succeeded" && t.outcome && <Outcome task={t} />}
          </span>
        </>
      }
    >
      <p className="muted">
        {t.attempts === 0 ? "It was never given to a node." : `Attempt ${t.attempts}`}
        {t.attempts > 0 && t.nodeId && (
          <>
            {" "}
            on{" "}
            <Link className="link" href={`/nodes/${t.nodeId}`}>
              {nodeName(t.nodeId)}
            </Link>
          </>
        )}
        {t.exitCode !== undefined && `, exit code ${t.exitCode}`}
        {took !== undefined && `, ${t.finished ? "took" : "for"} ${duration(took)}`}
        {t.reason && `: ${t.reason}`}
        {t.notBefore && t.state === "queued" && (
          <>
            , tried again <Time at={t.notBefore} />
          </>
        )}
      </p>
      <Log
        source={{
          id: `${job}/${t.index}/${t.attempts}`,
          file: `${job}-${t.index}`,
          again: `${t.state === "running"}`,
          ended: t.attempts === 0 ? "Nothing has run" : "The attempt has ended",
          follow: ({ tail }, signal) => calls.jobs.followLog(cluster, job, { task: t.index, tail }, signal),
        }}
      />
    </Page>
  );
}
