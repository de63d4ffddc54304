import { Plus, X } from "lucide-react";
import type { ComponentProps } from "react";
import { plural } from "../../lib/format";
import { Button, IconButton } from "../../ui/button";
import { Cell, Check, Input, Segmented, TextField } from "../../ui/field";
import { Section } from "../../ui/section";
import { type PairRow, pairRow, type Problems } from "../containers/form";
import type { DatabaseForm } from "./database-form";

type TextKey = { [K in keyof DatabaseForm]: DatabaseForm[K] extends string ? (string extends DatabaseForm[K] ? K : never) : never }[keyof DatabaseForm];

/** What is asked of a database. `there`: it is there already, under its name and with its version. */
export function DatabaseFields(props: {
  form: DatabaseForm;
  there: boolean;
  set: (change: Partial<DatabaseForm>, ...fields: string[]) => void;
  problems: Problems;
  count: (fields: readonly string[]) => number;
}) {
  const { form, there, set, problems, count } = props;
  const text = (key: TextKey, label: string, more: Partial<ComponentProps<typeof TextField>> = {}, field: string = key) => (
    <TextField
      label={label}
      problem={problems[`database.${field}`]}
      value={form[key]}
      onValue={(value) => set({ [key]: value }, `database.${field}`)}
      {...more}
    />
  );
  const limits = [form.cpuLimit && `${form.cpuLimit} cores`, form.memoryLimit, form.image].filter(Boolean).join(", ");
  const unset = there ? "unchanged" : "no limit";
  return (
    <>
      <section className="card">
        <header className="card-head">
          <h2>Database</h2>
        </header>
        <div className="card-body stack">
          <div className="form-2">
            {text("name", "Name of the database", {
              mono: true,
              placeholder: "app",
              optional: !there,
              disabled: there,
              hint: there ? "It has its name since it was made" : "Can't be changed later",
              maxLength: 63,
            })}
            {text("extensions", "Extensions", {
              mono: true,
              optional: true,
              placeholder: "pg_trgm citext",
              hint: "Made in the database; those of postgresql-contrib are in the image",
            })}
          </div>
          {problems.database && <p className="problem">{problems.database}</p>}
          <Check
            label="Synchronous"
            hint="A commit is acknowledged once a replica has it on disk, too: what was acknowledged outlives the loss of a node. While no replica is there the primary goes on without."
            checked={form.synchronous}
            onChecked={(synchronous) => set({ synchronous }, "database.synchronous")}
          />
        </div>
      </section>
      <Section
        title="Reads"
        sum={`no older than ${form.readLagLimit || 30} s`}
        problems={count(["database.readLagLimit", "database.readOnlyPort"])}
      >
        <div className="form-2">
          {text("readLagLimit", "Read lag limit", {
            numeric: true,
            suffix: "s",
            placeholder: "30",
            hint: "A replica that is further behind gets no reads",
          })}
          {text("readOnlyPort", "Read-only port", {
            numeric: true,
            optional: true,
            placeholder: "chosen",
            hint: "On each entry node, beside the port for writes",
          })}
        </div>
      </Section>
      <Section
        title="Connection pool"
        sum={form.pool ? `${form.poolSize || 20} connections, by ${form.poolMode}` : "none"}
        problems={count(["database.pool"])}
        open={form.pool}
      >
        <Check
          label="Have clients share connections"
          hint="For many clients that each do little (pgbouncer). Without it each client has a connection of its own."
          checked={form.pool}
          onChecked={(pool) => set({ pool }, "database.pool")}
        />
        {problems["database.pool"] && <p className="problem">{problems["database.pool"]}</p>}
        {form.pool && (
          <>
            <div>
              <Segmented
                label="Pool mode"
                value={form.poolMode}
                onValue={(poolMode) => set({ poolMode }, "database.pool.mode")}
                options={[
                  ["transaction", "By transaction"],
                  ["session", "By session"],
                ]}
              />
            </div>
            <p className="muted">
              {form.poolMode === "transaction"
                ? "A connection is a client's for one transaction. What a session keeps is lost between them: prepared statements, SET, advisory locks."
                : "A connection is a client's for as long as it is connected."}
            </p>
            <div className="form-2">
              {text("poolSize", "Connections", { numeric: true, placeholder: "20", hint: "To the database, of each user" }, "pool.size")}
            </div>
          </>
        )}
      </Section>
      <Section
        title="Parameters"
        sum={form.parameters.length > 0 ? plural(form.parameters.length, "parameter") : "PostgreSQL's own"}
        problems={count(["database.parameters"])}
        open={form.parameters.length > 0}
      >
        <ParameterRows rows={form.parameters} onRows={(parameters) => set({ parameters }, "database.parameters")} problems={problems} />
      </Section>
      <Section
        title="Limits and image"
        sum={limits || (there ? "as they are" : "no limits, the built-in image")}
        problems={count(["database.cpuLimit", "database.memoryLimit", "database.image", "database.version"])}
      >
        {there && <p className="muted">How these are set is not told. What is left empty stays as it is.</p>}
        <div className="form-2">
          {text("cpuLimit", "CPU", { numeric: true, suffix: "cores", optional: true, placeholder: unset, hint: "Of each member" })}
          {text("memoryLimit", "Memory", { mono: true, optional: true, placeholder: unset, hint: "Of each member: 512m, 4g" })}
          {text("image", "Image", {
            mono: true,
            optional: true,
            placeholder: there ? "unchanged" : "the built-in one",
            hint: "One that takes what the built-in one takes",
          })}
          {text("version", "Version of PostgreSQL", {
            numeric: true,
            optional: !there,
            disabled: there,
            placeholder: "15",
            hint: there ? "Can't be changed" : "Another one than 15 needs an image. Can't be changed later",
          })}
        </div>
      </Section>
    </>
  );
}

function ParameterRows({ rows, onRows, problems }: { rows: PairRow[]; onRows: (rows: PairRow[]) => void; problems: Problems }) {
  const set = (key: number, change: Partial<PairRow>) => onRows(rows.map((r) => (r.key === key ? { ...r, ...change } : r)));
  return (
    <div className="rows">
      <p className="muted">Each as PostgreSQL reads it. One that needs a restart gets it: replicas first, and the primary once it has handed over.</p>
      {rows.map((row, i) => (
        <div key={row.key} className="rows-line rows-env">
          <Cell label={`Name of parameter ${i + 1}`} problem={problems[`database.parameters[${i}]`]}>
            {(d) => <Input {...d} mono placeholder="shared_buffers" value={row.name} onValue={(name) => set(row.key, { name })} />}
          </Cell>
          <Cell label={`Value of parameter ${i + 1}`} problem={problems[`database.parameters[${i}].value`]}>
            {(d) => <Input {...d} mono placeholder="1GB" value={row.value} onValue={(value) => set(row.key, { value })} />}
          </Cell>
          <IconButton label={`Remove parameter ${i + 1}`} onClick={() => onRows(rows.filter((r) => r.key !== row.key))}>
            <X />
          </IconButton>
        </div>
      ))}
      {problems["database.parameters"] && <p className="problem">{problems["database.parameters"]}</p>}
      <div>
        <Button small icon={<Plus />} onClick={() => onRows([...rows, pairRow()])}>
          Add a parameter
        </Button>
      </div>
    </div>
  );
}
