import { ListChecks } from "lucide-react";
import { useState } from "react";
import { type Cluster, type Job, JOB_STATES, type JobState } from "../../api/types";
import { useMayOperate } from "../../lib/data";
import { Link, useQueryValue } from "../../lib/router";
import { Time } from "../../ui/bits";
import { Button } from "../../ui/button";
import { Select } from "../../ui/field";
import { Menu } from "../../ui/menu";
import { Empty, Failure } from "../../ui/states";
import { type Column, Pager, Table } from "../../ui/table";
import { useJobsPage } from "./data";
import { type Asked, JobBadge, JobDialogs, jobItems, JobProgress } from "./parts";
import { jobName, reasonOf, STATE_WORD } from "./words";

/** The jobs of a cluster, the newest first. */
export function Jobs({ cluster }: { cluster: Cluster }) {
  const may = useMayOperate();
  const [wanted, setState] = useQueryValue("state");
  const state = JOB_STATES.find((s) => s === wanted) ?? "";
  const [asked, setAsked] = useState<Asked | null>(null);
  const { query, rows, pager } = useJobsPage(cluster.id, state);
  return (
    <div className="stack">
      <div className="filters">
        <Select
          aria-label="State"
          value={state}
          onValue={setState}
          options={[["", "Any state"], ...JOB_STATES.map((s): [JobState, string] => [s, STATE_WORD[s]])]}
        />
      </div>
      {query.error && <Failure what="The jobs could not be read." error={query.error} retry={() => void query.refetch()} />}
      {rows?.length === 0 ? (
        state === "" ? (
          <Empty icon={<ListChecks aria-hidden="true" />} title="No jobs yet">
            A job is a container that runs to its end, once or as often as it is told to. What waits is given to the cluster's nodes as they have
            room.
          </Empty>
        ) : (
          <Empty icon={<ListChecks aria-hidden="true" />} title="No job fits" actions={<Button onClick={() => setState("")}>Clear the filter</Button>}>
            None of the jobs is {STATE_WORD[state]}.
          </Empty>
        )
      ) : (
        !(query.error && !rows) && (
          <Table
            label={`Jobs of ${cluster.name}`}
            rows={rows}
            id={(j) => j.id}
            placeholders={4}
            columns={COLUMNS}
            menuOnly
            {...(may ? { actions: (j: Job) => <Menu small label={`Actions for ${jobName(j)}`} items={jobItems(j, setAsked)} /> } : {})}
          />
        )
      )}
      <Pager {...pager} />
      <JobDialogs asked={asked} onClose={() => setAsked(null)} />
    </div>
  );
}

const COLUMNS: Column<Job>[] = [
  {
    key: "name",
    head: "Job",
    lead: true,
    cell: (j) => (
      <div className="cell-main">
        <Link href={`/clusters/${j.clusterId}/jobs/${j.id}`} className="truncate max-32">
          {jobName(j)}
        </Link>
        <span className="sub truncate max-32">{j.image}</span>
      </div>
    ),
  },
  {
    key: "state",
    head: "State",
    wide: true,
    cell: (j) => (
      <div className="cell-main">
        <JobBadge state={j.state} />
        {j.reason && (
          <span className="sub reason" title={j.reason}>
            {reasonOf(j)}
          </span>
        )}
      </div>
    ),
  },
  { key: "progress", head: "Tasks", wide: true, cell: (j) => <JobProgress job={j} /> },
  { key: "priority", head: "Priority", right: true, cell: (j) => <span className="num">{j.priority}</span> },
  { key: "created", head: "Made", cell: (j) => <Time at={j.created} /> },
];
