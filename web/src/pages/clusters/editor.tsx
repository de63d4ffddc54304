import { type ComponentProps, useEffect, useMemo, useState } from "react";
import * as calls from "../../api/calls";
import { ALGORITHMS, type Cluster, CLUSTER_TYPES } from "../../api/types";
import { useIsAdmin, useNodes } from "../../lib/data";
import { useEditing } from "../../lib/editing";
import { plural } from "../../lib/format";
import { Link, navigate, useQueryValue } from "../../lib/router";
import { Button } from "../../ui/button";
import { Check, Field, Segmented, Select, TextField } from "../../ui/field";
import { RequestPreview } from "../../ui/json";
import { Page } from "../../ui/page";
import { Section } from "../../ui/section";
import { Failure, Loading, Notice } from "../../ui/states";
import { toast } from "../../ui/toast";
import { useCluster } from "./data";
import { DatabaseFields } from "./database-fields";
import type { DatabaseForm } from "./database-form";
import { bodyOf, type ClusterForm, clusterForm, emptyClusterForm, patchOf, placeClusterProblems, withType } from "./form";
import { RouteRows } from "./routes";
import { QueueFields, ScalingFields } from "./scaling-fields";
import { Fragile, ServerRows, useChoices } from "./servers";
import { TLS_WAYS } from "./tls";
import { TlsFields } from "./tls-fields";
import { ALGORITHM_NAME, ALGORITHM_SAYS, becomes, isOfNodes, TYPE_NAME, TYPE_SAYS } from "./words";

/** The fields of the form that are plain text. */
type TextKey = { [K in keyof ClusterForm]: ClusterForm[K] extends string ? (string extends ClusterForm[K] ? K : never) : never }[keyof ClusterForm];
type TextMore = Partial<ComponentProps<typeof TextField>>;

/** Makes a cluster, or changes the one with this id. */
export default function ClusterEditor({ id }: { id?: string }) {
  const query = useCluster(id ?? "", { enabled: id !== undefined });
  // What is seen of it goes on changing; the form begins with what it was when it was opened.
  const [cluster, setCluster] = useState<Cluster | null>(null);
  useEffect(() => {
    if (query.data) setCluster((c) => c ?? (query.data as Cluster));
  }, [query.data]);
  if (id === undefined) return <Editor />;
  if (cluster) return <Editor cluster={cluster} />;
  return (
    <Page title="Edit a cluster" crumbs={[["Clusters", "/clusters"]]}>
      {query.error ? (
        <Failure what="The cluster could not be read." error={query.error} retry={() => void query.refetch()} />
      ) : (
        <Loading what="the cluster" />
      )}
    </Page>
  );
}

function Editor({ cluster }: { cluster?: Cluster }) {
  const admin = useIsAdmin();
  const nodes = useNodes();
  /** A link may lead to one part of the form. */
  const [part] = useQueryValue("part");
  const [form, setForm] = useState<ClusterForm>(() => (cluster ? clusterForm(cluster) : emptyClusterForm()));
  const { choices, ports, error: unread } = useChoices(cluster, form.type);
  const { body, problems: own } = useMemo(
    () => (cluster ? patchOf(cluster, form, ports) : bodyOf(form, ports)),
    [cluster, form, ports],
  );
  const editing = useEditing({
    body,
    problems: own,
    send: (key) => (cluster ? calls.clusters.update(cluster.id, body) : calls.clusters.create(bodyOf(form, ports).body, key)),
    place: (said) => placeClusterProblems(form, said),
    done: (made, left) => {
      toast.done(cluster ? `Changed ${made.name}.` : `Created ${made.name}.`);
      if (!left) navigate(`/clusters/${made.id}`);
    },
    failed: cluster ? `${cluster.name} was not changed.` : `${form.name} was not created.`,
    stale: ["clusters"],
  });
  const { problems, busy, count } = editing;
  const set = (change: Partial<ClusterForm>, ...fields: string[]) => {
    setForm((f) => ({ ...f, ...change }));
    editing.touched([...Object.keys(change), ...fields]);
  };
  /** What the server said of other fields of the database stays. */
  const setDatabase = (change: Partial<DatabaseForm>, ...fields: string[]) => {
    setForm((f) => ({ ...f, database: { ...f.database, ...change } }));
    editing.touched(fields);
  };
  const setCheck = (change: Partial<ClusterForm["check"]>, ...fields: string[]) => set({ check: { ...form.check, ...change } }, ...fields);

  const unchanged = cluster !== undefined && Object.keys(body).length === 0;
  const standby = form.type === "high-availability";
  const database = form.type === "database";
  const compute = form.type === "compute";
  const http = form.protocol === "http" && !isOfNodes(form.type);
  // A database's servers are nodes, which only an admin can name.
  const types = cluster ? becomes(cluster.type) : CLUSTER_TYPES.filter((t) => t !== "database" || admin);
  const isNode = (id: string) => choices?.find((c) => c.value === id)?.kind === "node";
  const home = cluster ? `/clusters/${cluster.id}` : "/clusters";
  /** A field of text whose key in the form is `key`, and whose path at the server is `field`. */
  const text = (key: TextKey, label: string, more: TextMore = {}, field: string = key) => (
    <TextField label={label} problem={problems[field]} value={form[key]} onValue={(value) => set({ [key]: value }, field)} {...more} />
  );
  const checkText = (key: Exclude<keyof ClusterForm["check"], "type">, field: string, label: string, more: TextMore = {}) => (
    <TextField key={key} label={label} problem={problems[field]} value={form.check[key]} onValue={(value) => setCheck({ [key]: value }, field)} {...more} />
  );

  return (
    <Page
      title={cluster ? `Edit ${cluster.name}` : "Create a cluster"}
      crumbs={cluster ? [["Clusters", "/clusters"], [cluster.name, home]] : [["Clusters", "/clusters"]]}
    >
      <form ref={editing.form} className="form-grid" onSubmit={editing.submit} noValidate>
        <div className="form-main">
          <fieldset disabled={busy} style={{ display: "contents" }}>
            <section className="card">
              <div className="card-body stack">
                <div className="form-2">
                  {text("name", "Name", { name: "name", placeholder: "shop", maxLength: 100 })}
                  {!compute && text("listenPort", "Port", {
                    name: "listenPort",
                    numeric: true,
                    optional: true,
                    placeholder: "chosen",
                    hint: database
                      ? "Where its entry nodes listen for who reads and writes; a free one from 30000 to 32767 where nothing is said"
                      : "Where its entry nodes listen; a free one from 30000 to 32767 where nothing is said",
                  })}
                </div>
                <div className="choices" role="group" aria-label="Type">
                  {types.map((type) => (
                    <button
                      key={type}
                      type="button"
                      className="template"
                      aria-pressed={form.type === type}
                      onClick={() => set(withType(form, type, isNode), "autoScaling", "sticky", "failback", "servers")}
                    >
                      <b>{TYPE_NAME[type]}</b>
                      <span>{TYPE_SAYS[type]}</span>
                    </button>
                  ))}
                </div>
                {problems.type && <p className="problem">{problems.type}</p>}
              </div>
            </section>
            <section className="card">
              <header className="card-head">
                <h2>{isOfNodes(form.type) ? "Nodes" : "Servers"}</h2>
              </header>
              <div className="card-body stack">
                {unread !== null && unread !== undefined && <Failure what="The servers could not be read." error={unread} />}
                <ServerRows form={form} onRows={(servers) => set({ servers })} problems={problems} choices={choices} />
                <Fragile form={form} />
                {!standby && !isOfNodes(form.type) && (
                  <Field label="Algorithm" hint={ALGORITHM_SAYS[form.algorithm]} problem={problems["loadBalancer.algorithm"]}>
                    {(d) => (
                      <Select
                        {...d}
                        value={form.algorithm}
                        onValue={(algorithm) => set({ algorithm }, "loadBalancer.algorithm")}
                        options={ALGORITHMS.map((a) => [a, ALGORITHM_NAME[a]] as const)}
                      />
                    )}
                  </Field>
                )}
              </div>
            </section>
            {database && <DatabaseFields form={form.database} there={cluster !== undefined} set={setDatabase} problems={problems} count={count} />}
            {compute && (
              <Section
                title="Nodes in use"
                sum={form.scaling ? `${form.min || 1} to ${form.max || 10}, by the length of the queue` : "all"}
                problems={count(["autoScaling"])}
                open={form.scaling || part === "scaling"}
              >
                <QueueFields form={form} set={set} problems={problems} />
              </Section>
            )}
            {!isOfNodes(form.type) && (
              <Section
                title="Health check"
                sum={`${form.check.type === "http" ? `GET ${form.check.path || "/"}` : "a connection that opens"}, every ${form.check.interval || (standby ? 1 : 30)} s`}
                problems={count(["healthCheck", "loadBalancer.healthCheckTimeout", "loadBalancer.healthCheckInterval"])}
                open={form.check.type === "http"}
              >
                <div>
                  <Segmented
                    label="Check"
                    value={form.check.type}
                    onValue={(type) => setCheck({ type }, "healthCheck")}
                    options={[
                      ["tcp", "A connection opens"],
                      ["http", "An HTTP request is answered"],
                    ]}
                  />
                </div>
                <p className="muted">Traffic takes a server out at once when a connection to it fails, whatever the check says.</p>
                <div className="form-2">
                  {form.check.type === "http" && (
                    <>
                      {checkText("path", "healthCheck.path", "Path", { mono: true, placeholder: "/" })}
                      {checkText("host", "healthCheck.host", "Host header", { mono: true, optional: true, placeholder: "the server's address" })}
                      {checkText("min", "healthCheck.expectedStatus.min", "Status from", { numeric: true, placeholder: "200" })}
                      {checkText("max", "healthCheck.expectedStatus.max", "Status to", { numeric: true, placeholder: "399" })}
                    </>
                  )}
                  {(
                    [
                      ["interval", "healthCheck.interval", "Every", "s", standby ? "1" : "30"],
                      ["timeout", "loadBalancer.healthCheckTimeout", "At most", "s", "5"],
                      ["rise", "healthCheck.rise", "Successes until up", "", standby ? "2" : "1"],
                      ["fall", "healthCheck.fall", "Failures until down", "", "2"],
                    ] as const
                  ).map(([key, field, label, suffix, placeholder]) => checkText(key, field, label, { numeric: true, suffix, placeholder }))}
                </div>
              </Section>
            )}
            {http && (
              <Section
                title="TLS"
                sum={form.tls === "none" ? "none" : TLS_WAYS[form.tls].label.toLowerCase()}
                problems={count(["tls", "redirectToHttps"])}
                open={form.tls !== "none"}
              >
                <TlsFields form={form} set={set} problems={problems} kept={cluster ? clusterForm(cluster).tls : "none"} />
              </Section>
            )}
            {isOfNodes(form.type) ? null : standby ? (
              <Section
                title="Failback"
                sum={form.failback === "manual" ? "by hand" : `automatic, after ${form.failbackAfter || 30} s`}
                problems={count(["failback"])}
              >
                <div>
                  <Segmented
                    label="Failback"
                    value={form.failback}
                    onValue={(failback) => set({ failback })}
                    options={[
                      ["automatic", "Automatic"],
                      ["manual", "By hand"],
                    ]}
                  />
                </div>
                <p className="muted">
                  {form.failback === "manual"
                    ? "Traffic stays where it is until somebody moves it, or the active server is lost."
                    : "Traffic goes back to a server of higher preference once that has been up for so long."}
                </p>
                {form.failback === "automatic" &&
                  text("failbackAfter", "Up for", { numeric: true, suffix: "s", placeholder: "30" }, "failback.after")}
              </Section>
            ) : (
              <Section
                title="Auto-scaling"
                sum={form.scaling ? `${form.min || 1} to ${form.max || 10} servers` : "off"}
                problems={count(["autoScaling", "serverTemplate"])}
                open={form.scaling || part === "scaling"}
              >
                <ScalingFields form={form} set={set} problems={problems} />
              </Section>
            )}
            {http && !standby && (
              <Section
                title="Sticky sessions"
                sum={form.sticky ? `cookie ${form.cookie || "nm_server"}` : "off"}
                problems={count(["sticky"])}
                open={form.sticky}
              >
                <Check
                  label="Keep a client at its server"
                  hint="By a cookie that names the server. A client whose server is lost gets another one."
                  checked={form.sticky}
                  onChecked={(sticky) => set({ sticky })}
                />
                {problems.sticky && <p className="problem">{problems.sticky}</p>}
                {form.sticky && (
                  <div className="form-2">
                    {text("cookie", "Cookie", { mono: true, placeholder: "nm_server" }, "sticky.cookie")}
                    {text(
                      "maxAge",
                      "Kept for",
                      { numeric: true, suffix: "s", hint: "Until the browser is closed where nothing is said" },
                      "sticky.maxAge",
                    )}
                  </div>
                )}
              </Section>
            )}
            {http && (
              <Section
                title="Routes"
                sum={form.routes.length > 0 ? plural(form.routes.length, "route") : "every request"}
                problems={count(["routes"])}
                open={form.routes.length > 0}
              >
                <RouteRows rows={form.routes} onRows={(routes) => set({ routes })} problems={problems} />
              </Section>
            )}
            {!compute && (
              <Section
                title="Advanced"
                sum={database ? "entry nodes, how reads are spread, virtual address" : "protocol, entry nodes, retries, virtual address"}
                problems={count(["protocol", "entryNodes", "retries", "slowStart", "drainTime", "virtualAddress"])}
              >
                {database ? (
                  <Field label="Reads" hint={ALGORITHM_SAYS[form.algorithm]} problem={problems["loadBalancer.algorithm"]}>
                    {(d) => (
                      <Select
                        {...d}
                        value={form.algorithm}
                        onValue={(algorithm) => set({ algorithm }, "loadBalancer.algorithm")}
                        options={ALGORITHMS.map((a) => [a, ALGORITHM_NAME[a]] as const)}
                      />
                    )}
                  </Field>
                ) : (
                  <div className="field">
                    <span className="field-label">Protocol</span>
                    <div>
                      <Segmented
                        label="Protocol"
                        value={form.protocol}
                        onValue={(protocol) => set({ protocol }, "sticky", "tls", "routes")}
                        options={[
                          ["http", "HTTP"],
                          ["tcp", "TCP"],
                        ]}
                      />
                    </div>
                    <p className="hint">
                      {http ? "HTTP/1.1, HTTP/2 and WebSocket." : "Bytes as they come: for databases and whatever else speaks no HTTP."}
                    </p>
                  </div>
                )}
                {(nodes.data?.length ?? 0) > 1 && (
                  <div className="field">
                    <span className="field-label">
                      Entry nodes<span className="optional"> · chosen where none is named</span>
                    </span>
                    <div className="stack tight">
                      {nodes.data?.map((n) => (
                        <Check
                          key={n.id}
                          label={n.name}
                          checked={form.entryNodes.includes(n.id)}
                          onChecked={(on) =>
                            set({ entryNodes: on ? [...form.entryNodes, n.id] : form.entryNodes.filter((x) => x !== n.id) })
                          }
                        />
                      ))}
                    </div>
                    {problems.entryNodes && <p className="problem">{problems.entryNodes}</p>}
                  </div>
                )}
                {!database && (
                  <div className="form-3">
                    {text("retries", "Retries", { numeric: true, placeholder: "2", hint: "Other servers that a request is tried at, where that is safe" })}
                    {text("slowStart", "Slow start", {
                      numeric: true,
                      suffix: "s",
                      placeholder: "0",
                      hint: "Until a server that returns gets its full share",
                    })}
                    {text("drainTime", "Drain time", {
                      numeric: true,
                      suffix: "s",
                      placeholder: "30",
                      hint: "For who is still with a server that scaling removes",
                    })}
                  </div>
                )}
                {admin && (
                  <div className="form-3">
                    {text(
                      "virtualAddress",
                      "Virtual address",
                      {
                        mono: true,
                        optional: true,
                        placeholder: "10.0.0.100",
                        hint: "The first entry node that is alive answers for it (VRRP)",
                        problem: problems["virtualAddress.address"] ?? problems.virtualAddress,
                      },
                      "virtualAddress",
                    )}
                    {text("prefix", "Prefix", { numeric: true, placeholder: "24" }, "virtualAddress.prefix")}
                    {text("interfaceName", "Interface", { mono: true, placeholder: "the one of its network" }, "virtualAddress.interface")}
                  </div>
                )}
              </Section>
            )}
          </fieldset>
          {editing.wrong > 0 && <Notice tone="amber">{plural(editing.wrong, "field needs", "fields need")} another look.</Notice>}
          {editing.error !== null && (
            <Failure what={cluster ? `${cluster.name} was not changed.` : `${form.name} was not created.`} error={editing.error} />
          )}
          <div className="form-foot">
            <Button type="submit" variant="primary" busy={busy} disabled={unchanged}>
              {cluster ? "Save" : "Create"}
            </Button>
            <Link className="btn" href={home}>
              Cancel
            </Link>
            {unchanged && <span className="faint">Nothing is changed yet.</span>}
          </div>
        </div>
        <aside className="form-side">
          <RequestPreview line={cluster ? `PATCH /api/capabilities/clusters/${cluster.id}` : "POST /api/capabilities/clusters"} body={body} />
        </aside>
      </form>
    </Page>
  );
}
