import { useQuery } from "@tanstack/react-query";
import { useRef, useState } from "react";
import * as calls from "../../api/calls";
import type { Job, JobState, Task, TaskState } from "../../api/types";
import { usePaged } from "../../lib/data";
import { newestFirst, tasksPage } from "./words";

// The event stream tells of each change of a job, and so of its tasks; but not of when a task that a node has begins there.
const refresh = (tasks: readonly Task[] | undefined): number | false => (tasks?.some((t) => t.state === "running" && !t.started) ? 2_000 : false);

/** All jobs of a cluster, the newest first. The API has the oldest first, and keeps a few thousand at most. */
export function useJobs(cluster: string) {
  return useQuery({
    queryKey: ["jobs", "all", cluster],
    queryFn: async ({ signal }) => newestFirst(await calls.jobs.all(cluster, signal)),
  });
}

const PAGE = 50;
/** A page of them, of one state or of any. */
export function useJobsPage(cluster: string, state: JobState | "") {
  const query = useJobs(cluster);
  const [place, setPlace] = useState({ state, page: 0 });
  const all = query.data?.filter((j) => state === "" || j.state === state);
  const last = Math.max(0, Math.ceil((all?.length ?? 0) / PAGE) - 1);
  const page = place.state === state ? Math.min(place.page, last) : 0;
  const go = (to: number) => setPlace({ state, page: to });
  return {
    query,
    rows: all?.slice(page * PAGE, (page + 1) * PAGE),
    pager: { page, hasNext: page < last, busy: false, onNext: () => go(page + 1), onBack: () => go(page - 1) },
  };
}

export function useJob(cluster: string, id: string) {
  return useQuery({ queryKey: ["jobs", "one", cluster, id], queryFn: ({ signal }) => calls.jobs.get(cluster, id, signal) });
}

export function useTasks(job: Job, state: TaskState | "") {
  return usePaged(
    ["jobs", "tasks", job.clusterId, job.id, state],
    (cursor, signal) => tasksPage((query) => calls.jobs.tasks(job.clusterId, job.id, query, signal), state || undefined, cursor),
    { refetchInterval: (query) => refresh(query.state.data?.items) },
  );
}

/** One task; none where the job has no such. */
export function useTask(cluster: string, job: string, index: number) {
  /** Before the page that has it: tasks keep their places. */
  const before = useRef<string>(undefined);
  return useQuery({
    queryKey: ["jobs", "task", cluster, job, index],
    queryFn: async ({ signal }) => {
      let cursor = before.current;
      do {
        const page = await calls.jobs.tasks(cluster, job, { limit: 200, cursor }, signal);
        const found = page.items.find((t) => t.index === index);
        if (found) {
          before.current = cursor;
          return found;
        }
        cursor = page.next;
      } while (cursor);
      return null;
    },
    refetchInterval: (query) => refresh(query.state.data ? [query.state.data] : undefined),
  });
}
