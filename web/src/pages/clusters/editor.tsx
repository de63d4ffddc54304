import { type FormEvent, useEffect, useMemo, useRef, useState } from "react";
import { ApiError, queries } from "../../api";
import * as calls from "../../api/calls";
import { randomKey } from "../../api/session";
import { ALGORITHMS, type Cluster, CLUSTER_TYPES } from "../../api/types";
import { problemsOf, useIsAdmin, useNodes } from "../../lib/data";
import { plural } from "../../lib/format";
import { Link, navigate, useQueryValue } from "../../lib/router";
import { looksSecret } from "../../lib/validate";
import { Button } from "../../ui/button";
import { Check, Field, Input, Segmented, Select } from "../../ui/field";
import { Json } from "../../ui/json";
import { Page } from "../../ui/page";
import { Section } from "../../ui/section";
import { Failure, Loading, Notice } from "../../ui/states";
import { toast } from "../../ui/toast";
import type { Problems } from "../containers/form";
import { useCluster } from "./data";
import { bodyOf, type ClusterForm, clusterForm, emptyClusterForm, patchOf, placeClusterProblems } from "./form";
import { RouteRows } from "./routes";
import { ScalingFields } from "./scaling-fields";
import { ServerRows, useChoices } from "./servers";
import { TLS_WAYS } from "./tls";
import { TlsFields } from "./tls-fields";
import { ALGORITHM_NAME, ALGORITHM_SAYS, TYPE_NAME, TYPE_SAYS } from "./words";

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
  const { choices, ports, error: unread } = useChoices(cluster);
  const [form, setForm] = useState<ClusterForm>(() => (cluster ? clusterForm(cluster) : emptyClusterForm()));
  const [tried, setTried] = useState(false);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  /** What the server refused, until the field it named is touched. */
  const [refused, setRefused] = useState<Problems>({});
  /** Counts the times the first problem is to be shown. */
  const [looks, setLooks] = useState(0);
  const formElement = useRef<HTMLFormElement>(null);
  /** The same request sent again is the same cluster: its key changes only with the form. */
  const attempt = useRef({ body: "", key: "" });

  const { body, problems: own } = useMemo(
    () => (cluster ? patchOf(cluster, form, ports) : bodyOf(form, ports)),
    [cluster, form, ports],
  );
  const problems: Problems = { ...refused, ...(tried ? own : {}) };
  const set = (change: Partial<ClusterForm>, ...fields: string[]) => {
    setForm((f) => ({ ...f, ...change }));
    const touched = [...Object.keys(change), ...fields];
    setRefused((r) =>
      Object.fromEntries(
        Object.entries(r).filter(([field]) => !touched.some((t) => field === t || field.startsWith(`${t}[`) || field.startsWith(`${t}.`))),
      ),
    );
  };
  const setCheck = (change: Partial<ClusterForm["check"]>, ...fields: string[]) => set({ check: { ...form.check, ...change } }, ...fields);

  // Once the problems are drawn and the fields take input again.
  useEffect(() => {
    if (looks === 0) return;
    const first = formElement.current?.querySelector<HTMLElement>('[aria-invalid="true"]');
    first?.focus();
    first?.scrollIntoView({ block: "center" });
  }, [looks]);

  const unchanged = cluster !== undefined && Object.keys(body).length === 0;
  const submit = async (event: FormEvent) => {
    event.preventDefault();
    if (busy) return;
    setTried(true);
    setError(null);
    setRefused({});
    if (Object.keys(own).length > 0) {
      setLooks((n) => n + 1);
      return;
    }
    const text = JSON.stringify(body);
    if (attempt.current.body !== text) attempt.current = { body: text, key: randomKey() };
    setBusy(true);
    try {
      const made = cluster
        ? await calls.clusters.update(cluster.id, body)
        : await calls.clusters.create(bodyOf(form, ports).body, attempt.current.key);
      toast.done(cluster ? `Changed ${made.name}.` : `Created ${made.name}.`);
      navigate(`/clusters/${made.id}`);
    } catch (cause) {
      // The next try is another request, also where the form stays as it is.
      attempt.current = { body: "", key: "" };
      setError(cause);
      setRefused(placeClusterProblems(form, problemsOf(cause)));
      setLooks((n) => n + 1);
    } finally {
      void queries.invalidateQueries({ queryKey: ["clusters"] });
      setBusy(false);
    }
  };

  const count = (fields: string[]) =>
    Object.keys(problems).filter((p) => fields.some((f) => p === f || p.startsWith(`${f}[`) || p.startsWith(`${f}.`))).length;
  const standby = form.type === "high-availability";
  const http = form.protocol === "http";
  const placed = error instanceof ApiError && error.details.length > 0 && Object.keys(refused).length > 0;
  const home = cluster ? `/clusters/${cluster.id}` : "/clusters";
  const seconds = (key: "retries" | "slowStart" | "drainTime", label: string, fallback: string, unit: string, hint: string) => (
    <Field label={label} problem={problems[key]} hint={hint}>
      {(d) => (
        <div className="with-suffix">
          <Input {...d} inputMode="numeric" placeholder={fallback} value={form[key]} onValue={(value) => set({ [key]: value })} />
          {unit && <span className="suffix">{unit}</span>}
        </div>
      )}
    </Field>
  );

  return (
    <Page
      title={cluster ? `Edit ${cluster.name}` : "Create a cluster"}
      crumbs={cluster ? [["Clusters", "/clusters"], [cluster.name, home]] : [["Clusters", "/clusters"]]}
    >
      <form ref={formElement} className="form-grid" onSubmit={submit} noValidate>
        <div className="form-main">
          <fieldset disabled={busy} style={{ display: "contents" }}>
            <section className="card">
              <div className="card-body stack">
                <div className="form-2">
                  <Field label="Name" problem={problems.name}>
                    {(d) => <Input {...d} name="name" value={form.name} onValue={(name) => set({ name })} placeholder="shop" maxLength={100} />}
                  </Field>
                  <Field
                    label="Port"
                    optional
                    problem={problems.listenPort}
                    hint="Where its entry nodes listen; a free one from 30000 to 32767 where nothing is said"
                  >
                    {(d) => (
                      <Input
                        {...d}
                        inputMode="numeric"
                        name="listenPort"
                        value={form.listenPort}
                        onValue={(listenPort) => set({ listenPort })}
                        placeholder="chosen"
                      />
                    )}
                  </Field>
                </div>
                <div className="choices" role="group" aria-label="Type">
                  {CLUSTER_TYPES.map((type) => (
                    <button
                      key={type}
                      type="button"
                      className="template"
                      aria-pressed={form.type === type}
                      onClick={() => set({ type }, "autoScaling", "sticky", "failback", "servers")}
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
                <h2>Servers</h2>
              </header>
              <div className="card-body stack">
                {unread !== null && unread !== undefined && <Failure what="The servers could not be read." error={unread} />}
                <ServerRows form={form} onRows={(servers) => set({ servers })} problems={problems} choices={choices} />
                {!standby && (
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
                    <Field label="Path" problem={problems["healthCheck.path"]}>
                      {(d) => (
                        <Input
                          {...d}
                          mono
                          placeholder="/"
                          value={form.check.path}
                          onValue={(path) => setCheck({ path }, "healthCheck.path")}
                        />
                      )}
                    </Field>
                    <Field label="Host header" optional problem={problems["healthCheck.host"]}>
                      {(d) => (
                        <Input
                          {...d}
                          mono
                          placeholder="the server's address"
                          value={form.check.host}
                          onValue={(host) => setCheck({ host }, "healthCheck.host")}
                        />
                      )}
                    </Field>
                    <Field label="Status from" problem={problems["healthCheck.expectedStatus.min"]}>
                      {(d) => (
                        <Input
                          {...d}
                          inputMode="numeric"
                          placeholder="200"
                          value={form.check.min}
                          onValue={(min) => setCheck({ min }, "healthCheck.expectedStatus")}
                        />
                      )}
                    </Field>
                    <Field label="Status to" problem={problems["healthCheck.expectedStatus.max"]}>
                      {(d) => (
                        <Input
                          {...d}
                          inputMode="numeric"
                          placeholder="399"
                          value={form.check.max}
                          onValue={(max) => setCheck({ max }, "healthCheck.expectedStatus")}
                        />
                      )}
                    </Field>
                  </>
                )}
                {(
                  [
                    ["interval", "healthCheck.interval", "Every", "s", standby ? "1" : "30"],
                    ["timeout", "loadBalancer.healthCheckTimeout", "At most", "s", "5"],
                    ["rise", "healthCheck.rise", "Successes until up", "", standby ? "2" : "1"],
                    ["fall", "healthCheck.fall", "Failures until down", "", "2"],
                  ] as const
                ).map(([key, field, label, unit, fallback]) => (
                  <Field key={key} label={label} problem={problems[field]}>
                    {(d) => (
                      <div className="with-suffix">
                        <Input
                          {...d}
                          inputMode="numeric"
                          placeholder={fallback}
                          value={form.check[key]}
                          onValue={(value) => setCheck({ [key]: value }, field)}
                        />
                        {unit && <span className="suffix">{unit}</span>}
                      </div>
                    )}
                  </Field>
                ))}
              </div>
            </Section>
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
            {standby ? (
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
                {form.failback === "automatic" && (
                  <Field label="Up for" problem={problems["failback.after"]}>
                    {(d) => (
                      <div className="with-suffix">
                        <Input
                          {...d}
                          inputMode="numeric"
                          placeholder="30"
                          value={form.failbackAfter}
                          onValue={(failbackAfter) => set({ failbackAfter }, "failback.after")}
                        />
                        <span className="suffix">s</span>
                      </div>
                    )}
                  </Field>
                )}
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
                    <Field label="Cookie" problem={problems["sticky.cookie"]}>
                      {(d) => (
                        <Input
                          {...d}
                          mono
                          placeholder="nm_server"
                          value={form.cookie}
                          onValue={(cookie) => set({ cookie }, "sticky.cookie")}
                        />
                      )}
                    </Field>
                    <Field label="Kept for" problem={problems["sticky.maxAge"]} hint="Until the browser is closed where nothing is said">
                      {(d) => (
                        <div className="with-suffix">
                          <Input {...d} inputMode="numeric" value={form.maxAge} onValue={(maxAge) => set({ maxAge }, "sticky.maxAge")} />
                          <span className="suffix">s</span>
                        </div>
                      )}
                    </Field>
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
            <Section
              title="Advanced"
              sum="protocol, entry nodes, retries, virtual address"
              problems={count(["protocol", "entryNodes", "retries", "slowStart", "drainTime", "virtualAddress"])}
            >
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
              <div className="form-3">
                {seconds("retries", "Retries", "2", "", "Other servers that a request is tried at, where that is safe")}
                {seconds("slowStart", "Slow start", "0", "s", "Until a server that returns gets its full share")}
                {seconds("drainTime", "Drain time", "30", "s", "For who is still with a server that scaling removes")}
              </div>
              {admin && (
                <div className="form-3">
                  <Field
                    label="Virtual address"
                    optional
                    problem={problems["virtualAddress.address"] ?? problems.virtualAddress}
                    hint="The first entry node that is alive answers for it (VRRP)"
                  >
                    {(d) => (
                      <Input
                        {...d}
                        mono
                        placeholder="10.0.0.100"
                        value={form.virtualAddress}
                        onValue={(virtualAddress) => set({ virtualAddress })}
                      />
                    )}
                  </Field>
                  <Field label="Prefix" problem={problems["virtualAddress.prefix"]}>
                    {(d) => (
                      <Input
                        {...d}
                        inputMode="numeric"
                        placeholder="24"
                        value={form.prefix}
                        onValue={(prefix) => set({ prefix }, "virtualAddress.prefix")}
                      />
                    )}
                  </Field>
                  <Field label="Interface" problem={problems["virtualAddress.interface"]}>
                    {(d) => (
                      <Input
                        {...d}
                        mono
                        placeholder="the one of its network"
                        value={form.interfaceName}
                        onValue={(interfaceName) => set({ interfaceName }, "virtualAddress.interface")}
                      />
                    )}
                  </Field>
                </div>
              )}
            </Section>
          </fieldset>
          {tried && Object.keys(own).length > 0 && (
            <Notice tone="amber">{plural(Object.keys(own).length, "field needs", "fields need")} another look.</Notice>
          )}
          {error !== null && !placed && (
            <Failure what={cluster ? `${cluster.name} was not changed.` : `${form.name} was not created.`} error={error} />
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
          <section className="card preview">
            <header className="card-head">
              <h2>The request</h2>
            </header>
            <p className="faint" style={{ padding: "10px 16px 0" }}>
              <code className="break">{cluster ? `PATCH /api/capabilities/clusters/${cluster.id}` : "POST /api/capabilities/clusters"}</code>
            </p>
            <Json value={covered(body)} />
          </section>
        </aside>
      </form>
    </Page>
  );
}

/** The request as it is shown: secrets are for nobody who looks over a shoulder. */
function covered(value: unknown, name = ""): unknown {
  if (typeof value === "string") return (name === "key" || looksSecret(name)) && value !== "" ? "********" : value;
  if (Array.isArray(value)) return value.map((v) => covered(v));
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, covered(v, k)]));
}
