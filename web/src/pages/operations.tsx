import { useQuery } from "@tanstack/react-query";
import { ListTodo } from "lucide-react";
import { ApiError } from "../api";
import * as calls from "../api/calls";
import { sentence } from "../api/errors";
import type { Operation } from "../api/types";
import { isFinal, useOperation, usePaged } from "../lib/data";
import { duration } from "../lib/format";
import { useNow } from "../lib/hooks";
import { Link, useQueryValue } from "../lib/router";
import { OperationBadge, Progress, Time } from "../ui/bits";
import { Select } from "../ui/field";
import { Json } from "../ui/json";
import { Page } from "../ui/page";
import { Empty, Failure, Loading, Notice } from "../ui/states";
import { Pager, Table } from "../ui/table";
import { CancelButton, kindText, Layers, OperationLog, Steps, useLayers } from "./operation-parts";

const STATES = [
  ["", "Any state"],
  ["running", "Running"],
  ["succeeded", "Succeeded"],
  ["failed", "Failed"],
  ["cancelled", "Cancelled"],
] as const;

export function OperationsPage() {
  const [state, setState] = useQueryValue("state");
  const { query, rows, pager } = usePaged(["operations", "list", state], (cursor, signal) =>
    calls.operations.list({ state: state || undefined, cursor }, signal),
  );
  return (
    <Page title="Operations">
      <div className="filters">
        <Select aria-label="State" value={state} onValue={setState} options={STATES} />
      </div>
      {query.error && <Failure what="The operations could not be read." error={query.error} retry={() => void query.refetch()} />}
      {rows?.length === 0 ? (
        <Empty icon={<ListTodo aria-hidden="true" />} title={state ? "No operation is in this state" : "No operations yet"}>
          What takes longer than a moment, such as pulling an image, shows here with its steps and its log. Finished ones are kept for a
          week.
        </Empty>
      ) : (
        !(query.error && !rows) && (
          <Table
            label="Operations"
            rows={rows}
            id={(o) => o.id}
            columns={[
              {
                key: "kind",
                head: "Operation",
                lead: true,
                cell: (o) => (
                  <div className="cell-main">
                    <Link href={`/operations/${o.id}`}>{kindText(o.kind)}</Link>
                    <span className="sub mono truncate max-48">{o.target ?? o.id}</span>
                  </div>
                ),
              },
              { key: "state", head: "State", cell: (o) => <OperationBadge state={o.state} /> },
              {
                key: "progress",
                head: "Progress",
                cell: (o) =>
                  isFinal(o.state) ? (
                    <span className="faint truncate max-32">{o.error?.error ?? "–"}</span>
                  ) : (
                    <div style={{ width: 120 }}>{<Progress value={o.progress} />}</div>
                  ),
              },
              { key: "actor", head: "By", cell: (o) => o.actor },
              { key: "created", head: "Begun", cell: (o) => <Time at={o.created} /> },
              { key: "took", head: "Took", cell: (o) => <Took operation={o} /> },
            ]}
          />
        )
      )}
      <Pager {...pager} />
    </Page>
  );
}

function Took({ operation }: { operation: Operation }) {
  const now = useNow();
  const end = operation.finished ? Date.parse(operation.finished) : now;
  return <span className="nowrap">{duration(end - Date.parse(operation.created))}</span>;
}

export function OperationPage({ id }: { id: string }) {
  const first = useQuery({ queryKey: ["operations", "one", id], queryFn: ({ signal }) => calls.operations.get(id, signal) });
  const followed = useOperation(first.data && !isFinal(first.data.state) ? id : null);
  const operation = followed.operation ?? first.data ?? null;
  const layers = useLayers(operation);
  if (!operation) {
    return (
      <Page title="Operation" crumbs={[["Operations", "/operations"]]}>
        {first.error ? (
          <Failure what="The operation could not be read." error={first.error} retry={() => void first.refetch()} />
        ) : (
          <Loading what="the operation" />
        )}
      </Page>
    );
  }
  const running = !isFinal(operation.state);
  return (
    <Page
      narrow
      title={kindText(operation.kind)}
      crumbs={[["Operations", "/operations"]]}
      heading={
        <>
          <span className="truncate">{kindText(operation.kind)}</span>
          <span style={{ fontSize: 13, letterSpacing: 0 }}>
            <OperationBadge state={operation.state} />
          </span>
        </>
      }
      actions={<CancelButton operation={operation} />}
    >
      {operation.error &&
        (operation.state === "cancelled" ? (
          <Notice tone="amber">{sentence(operation.error.error)}</Notice>
        ) : (
          <Failure error={ApiError.ofOperation(operation.error)} />
        ))}
      {running && <Progress value={operation.progress} />}
      <section className="card">
        <dl className="facts card-body">
          <dt>Kind</dt>
          <dd>
            <code>{operation.kind}</code>
          </dd>
          {operation.target && (
            <>
              <dt>Target</dt>
              <dd>
                <TargetLink target={operation.target} />
              </dd>
            </>
          )}
          <dt>Asked for by</dt>
          <dd>{operation.actor}</dd>
          <dt>Begun</dt>
          <dd>
            <Time at={operation.created} />
          </dd>
          <dt>{running ? "Runs for" : "Took"}</dt>
          <dd>
            <Took operation={operation} />
          </dd>
          <dt>Id</dt>
          <dd>
            <code>{operation.id}</code>
          </dd>
        </dl>
      </section>
      {(operation.steps.length > 0 || operation.log.length > 0) && (
        <section className="card">
          <header className="card-head">
            <h2>Steps</h2>
          </header>
          <div className="card-body stack">
            <Steps operation={operation} />
            <Layers layers={layers} done={operation.state === "succeeded"} />
          </div>
          <OperationLog operation={operation} />
        </section>
      )}
      {operation.result !== undefined && operation.result !== null && (
        <section className="card">
          <header className="card-head">
            <h2>Result</h2>
          </header>
          <Json value={operation.result} />
        </section>
      )}
    </Page>
  );
}

/** Where what an operation works on has its page, by how its id begins. */
const PAGE_OF = [
  ["cont_", "containers"],
  ["node_", "nodes"],
  ["backup_cfg_", "backups/configs"],
  ["backup_", "backups"],
] as const;

function TargetLink({ target }: { target: string }) {
  const page = PAGE_OF.find(([prefix]) => target.startsWith(prefix))?.[1];
  if (!page) return <code>{target}</code>;
  return (
    <Link className="link mono" href={`/${page}/${target}`}>
      {target}
    </Link>
  );
}
