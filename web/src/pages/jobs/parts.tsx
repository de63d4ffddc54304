import { Ban, Trash2 } from "lucide-react";
import * as calls from "../../api/calls";
import type { Job, JobState, TaskState } from "../../api/types";
import { useAct } from "../../lib/data";
import { plural } from "../../lib/format";
import { Progress } from "../../ui/bits";
import { Confirm } from "../../ui/dialog";
import type { MenuItem } from "../../ui/menu";
import { barTone, countsText, isOver, jobName, STATE_SAYS, STATE_TONE, STATE_WORD } from "./words";

export function JobBadge({ state }: { state: JobState }) {
  return (
    <span className={`status ${STATE_TONE[state]}`} title={STATE_SAYS[state]}>
      {STATE_WORD[state]}
    </span>
  );
}

export function TaskBadge({ state }: { state: TaskState }) {
  return <span className={`status ${STATE_TONE[state]}`}>{STATE_WORD[state]}</span>;
}

/** How far a job is: a bar, and how many of its tasks are where. */
export function JobProgress({ job }: { job: Job }) {
  return (
    <div className="job-progress stack tight">
      <Progress value={job.progress} tone={barTone(job)} />
      <span className="faint num">{countsText(job.counts)}</span>
    </div>
  );
}

export type Asked = { what: "cancel" | "remove"; job: Job };

/** What can be done with a job now. */
export function jobItems(job: Job, ask: (asked: Asked) => void): MenuItem[] {
  return isOver(job.state)
    ? [{ label: "Remove…", icon: <Trash2 />, danger: true, onSelect: () => ask({ what: "remove", job }) }]
    : [{ label: "Cancel…", icon: <Ban />, danger: true, onSelect: () => ask({ what: "cancel", job }) }];
}

export function JobDialogs({ asked, onClose, removed }: { asked: Asked | null; onClose: () => void; removed?: () => void }) {
  if (!asked) return null;
  return asked.what === "cancel" ? <CancelJob job={asked.job} onClose={onClose} /> : <RemoveJob job={asked.job} onClose={onClose} removed={removed} />;
}

function CancelJob({ job, onClose }: { job: Job; onClose: () => void }) {
  const cancel = useAct({
    run: () => calls.jobs.cancel(job.clusterId, job.id),
    done: (j) => (isOver(j.state) ? `${jobName(j)} is ${STATE_WORD[j.state]}.` : `${jobName(j)} is being ended.`),
    stale: ["jobs"],
    quiet: true,
    after: onClose,
  });
  return (
    <Confirm title={`Cancel ${jobName(job)}?`} action="Cancel the job" busy={cancel.isPending} error={cancel.error} onConfirm={() => cancel.mutate()} onClose={onClose}>
      <p className="muted">
        Nothing more of it begins.{" "}
        {job.counts.running > 0 &&
          `${plural(job.counts.running, "task that runs gets", "tasks that run get")} the stop signal, and five seconds later the kill. `}
        Jobs that wait for it are cancelled, too.
      </p>
    </Confirm>
  );
}

function RemoveJob({ job, onClose, removed }: { job: Job; onClose: () => void; removed?: (() => void) | undefined }) {
  const remove = useAct({
    run: () => calls.jobs.remove(job.clusterId, job.id),
    done: () => `Removed ${jobName(job)}.`,
    stale: ["jobs"],
    quiet: true,
    after: () => {
      onClose();
      removed?.();
    },
  });
  return (
    <Confirm title={`Remove ${jobName(job)}?`} action="Remove the job" busy={remove.isPending} error={remove.error} onConfirm={() => remove.mutate()} onClose={onClose}>
      <p className="muted">Its tasks and what they wrote go with it.</p>
    </Confirm>
  );
}
