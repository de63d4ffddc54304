import { useQuery } from "@tanstack/react-query";
import { Bell, BellOff, Pencil, Plus, Trash2 } from "lucide-react";
import { useState } from "react";
import * as calls from "../../api/calls";
import { type AlertChannel, type AlertRule, CHECKS, METRICS } from "../../api/types";
import { problemsOf, useAct, useMayOperate } from "../../lib/data";
import { Badge } from "../../ui/bits";
import { Button } from "../../ui/button";
import { Confirm, Dialog } from "../../ui/dialog";
import { Check, Field, Input, Segmented, Select, Textarea } from "../../ui/field";
import { Menu } from "../../ui/menu";
import { Page } from "../../ui/page";
import { Empty, Failure } from "../../ui/states";
import { Table } from "../../ui/table";
import { DialogButtons } from "../containers/actions";
import { AlertTabs, SEVERITIES, SeverityBadge } from "./parts";
import { conditionText, kindOf, METRIC_NAME, type RuleForm, ruleForm, ruleOf, targetText } from "./rule-form";

const useChannels = () => useQuery({ queryKey: ["channels"], queryFn: ({ signal }) => calls.alerts.channels(signal) });

export function RulesPage() {
  const may = useMayOperate();
  const [asked, setAsked] = useState<{ what: "edit"; rule?: AlertRule } | { what: "remove"; rule: AlertRule } | null>(null);
  const query = useQuery({ queryKey: ["rules"], queryFn: ({ signal }) => calls.alerts.rules(signal) });
  const channels = useChannels();
  const turn = useAct({
    run: ({ rule, enabled }: { rule: AlertRule; enabled: boolean }) => calls.alerts.updateRule(rule.id, { enabled }),
    done: (r) => (r.enabled ? `${r.name} looks again.` : `${r.name} looks no more.`),
    failed: "The rule was not changed.",
    stale: ["rules", "alerts"],
  });
  const add = (
    <Button variant="primary" icon={<Plus />} onClick={() => setAsked({ what: "edit" })}>
      Create a rule
    </Button>
  );
  return (
    <Page title="Alert rules" actions={may && add}>
      <AlertTabs here="/alerts/rules" />
      {query.error && <Failure what="The rules could not be read." error={query.error} retry={() => void query.refetch()} />}
      {query.data?.length === 0 ? (
        <Empty icon={<Bell aria-hidden="true" />} title="No rules" actions={may && add}>
          A rule says what is bad, for how long it has to be, and who is told.
        </Empty>
      ) : (
        !(query.error && !query.data) && (
          <Table
            label="Alert rules"
            rows={query.data}
            id={(r) => r.id}
            placeholders={4}
            columns={[
              {
                key: "name",
                head: "Rule",
                lead: true,
                cell: (r) => (
                  <div className="cell-main">
                    <span className="name break">{r.name}</span>
                    <span className="sub break">{conditionText(r)}</span>
                  </div>
                ),
              },
              { key: "target", head: "Of", cell: (r) => <span className="break">{targetText(r.target)}</span> },
              { key: "severity", head: "Severity", cell: (r) => <SeverityBadge severity={r.severity} /> },
              {
                key: "state",
                head: "State",
                cell: (r) => <span className={`status ${r.enabled ? "tone-green" : "tone-grey hollow"}`}>{r.enabled ? "on" : "off"}</span>,
              },
              { key: "channels", head: "Told to", cell: (r) => <Told rule={r} channels={channels.data} /> },
            ]}
            menuOnly
            {...(may
              ? {
                  actions: (r: AlertRule) => (
                    <Menu
                      small
                      label={`Actions for ${r.name}`}
                      items={[
                        { label: "Change…", icon: <Pencil />, onSelect: () => setAsked({ what: "edit", rule: r }) },
                        r.enabled
                          ? { label: "Turn off", icon: <BellOff />, onSelect: () => turn.mutate({ rule: r, enabled: false }) }
                          : { label: "Turn on", icon: <Bell />, onSelect: () => turn.mutate({ rule: r, enabled: true }) },
                        "line",
                        { label: "Remove…", icon: <Trash2 />, danger: true, onSelect: () => setAsked({ what: "remove", rule: r }) },
                      ]}
                    />
                  ),
                }
              : {})}
          />
        )
      )}
      {asked?.what === "edit" && <RuleDialog rule={asked.rule} channels={channels.data ?? []} onClose={() => setAsked(null)} />}
      {asked?.what === "remove" && <RemoveRule rule={asked.rule} onClose={() => setAsked(null)} />}
    </Page>
  );
}

function Told({ rule, channels }: { rule: AlertRule; channels: AlertChannel[] | undefined }) {
  if (rule.channels.length === 0) return <span className="faint">nobody, it only shows</span>;
  return (
    <span className="tags">
      {rule.channels.map((id) => (
        <Badge key={id}>{channels?.find((c) => c.id === id)?.name ?? id}</Badge>
      ))}
    </span>
  );
}

const TYPES: readonly (readonly [RuleForm["type"], string])[] = [
  ["metric", "A figure goes beyond a limit"],
  ["health", "A server is not healthy"],
  ["nodeLost", "A node is not connected"],
  ["containerDown", "A container that should run does not"],
];

function RuleDialog({ rule, channels, onClose }: { rule: AlertRule | undefined; channels: AlertChannel[]; onClose: () => void }) {
  const [form, setForm] = useState(() => ruleForm(rule));
  const [tried, setTried] = useState(false);
  const set = (change: Partial<RuleForm>) => setForm((f) => ({ ...f, ...change }));
  const { body, problems: own } = ruleOf(form);
  const save = useAct({
    run: () => (rule ? calls.alerts.updateRule(rule.id, body) : calls.alerts.createRule(body)),
    done: (r) => (rule ? `Changed ${r.name}.` : `${r.name} looks from now on.`),
    stale: ["rules", "alerts"],
    quiet: true,
    after: onClose,
  });
  const server = problemsOf(save.error);
  const problems = { ...server, ...(tried ? own : {}) };
  const kind = kindOf(form);
  const unit = METRIC_NAME[form.metric][1];
  const fields = ["name", "condition.value", "condition.resolveAt", "target.label", "target.id", "for", "repeat", "message"];
  return (
    <Dialog
      wide
      title={rule ? `Change ${rule.name}` : "Create a rule"}
      onClose={onClose}
      onSubmit={() => {
        setTried(true);
        if (Object.keys(own).length === 0) save.mutate();
      }}
      footer={<DialogButtons action={rule ? "Save" : "Create"} busy={save.isPending} onClose={onClose} />}
    >
      <div className="form-2">
        <Field label="Name" problem={problems.name}>
          {(d) => <Input {...d} value={form.name} onValue={(name) => set({ name })} placeholder="busy" maxLength={100} />}
        </Field>
        <Field label="Severity">
          {(d) => <Select {...d} value={form.severity} onValue={(severity) => set({ severity })} options={SEVERITIES} />}
        </Field>
        <Field label="When" className="full">
          {(d) => <Select {...d} value={form.type} onValue={(type) => set({ type })} options={TYPES} />}
        </Field>
        {form.type === "metric" && (
          <>
            <Field label="Figure">
              {(d) => (
                <Select
                  {...d}
                  value={form.metric}
                  onValue={(metric) => set({ metric })}
                  options={METRICS.map((m) => [m, METRIC_NAME[m][0]] as const)}
                />
              )}
            </Field>
            <Field label="Is">
              {(d) => (
                <Select
                  {...d}
                  value={form.op}
                  onValue={(op) => set({ op })}
                  options={[
                    ["above", "above"],
                    ["below", "below"],
                  ]}
                />
              )}
            </Field>
            <Field label="Limit" problem={problems["condition.value"]}>
              {(d) => (
                <div className="with-suffix">
                  <Input {...d} inputMode="decimal" value={form.value} onValue={(value) => set({ value })} placeholder="90" />
                  <span className="suffix">{unit}</span>
                </div>
              )}
            </Field>
            <Field label="Over at" optional hint="The limit itself where nothing is said" problem={problems["condition.resolveAt"]}>
              {(d) => (
                <div className="with-suffix">
                  <Input {...d} inputMode="decimal" value={form.resolveAt} onValue={(resolveAt) => set({ resolveAt })} />
                  <span className="suffix">{unit}</span>
                </div>
              )}
            </Field>
          </>
        )}
        {form.type === "health" && (
          <>
            <Field label="Health">
              {(d) => (
                <Select
                  {...d}
                  value={form.status}
                  onValue={(status) => set({ status })}
                  options={[
                    ["unhealthy", "unhealthy"],
                    ["notHealthy", "unhealthy, degraded or unknown"],
                  ]}
                />
              )}
            </Field>
            <Field label="Of">
              {(d) => (
                <Select
                  {...d}
                  value={form.check}
                  onValue={(check) => set({ check })}
                  options={[["", "the server as a whole"], ...CHECKS.map((c) => [c, `the check ${c}`] as const)]}
                />
              )}
            </Field>
          </>
        )}
        <Field label="For" hint="It fires once it held so long" problem={problems.for}>
          {(d) => (
            <div className="with-suffix">
              <Input {...d} inputMode="numeric" value={form.hold} onValue={(hold) => set({ hold })} placeholder="0" />
              <span className="suffix">s</span>
            </div>
          )}
        </Field>
        <Field label="Told again after" optional hint="While it goes on; never where nothing is said" problem={problems.repeat}>
          {(d) => (
            <div className="with-suffix">
              <Input {...d} inputMode="numeric" value={form.repeat} onValue={(repeat) => set({ repeat })} />
              <span className="suffix">s</span>
            </div>
          )}
        </Field>
        <div className="field">
          <span className="field-label">Servers</span>
          <div>
            <Segmented
              label="Servers"
              value={form.which}
              onValue={(which) => set({ which })}
              options={[
                ["all", "All"],
                ["label", "By label"],
                ["id", "One"],
              ]}
            />
          </div>
        </div>
        {form.which === "label" && (
          <Field label="Label" hint="key, or key=value" problem={problems["target.label"]}>
            {(d) => <Input {...d} mono value={form.label} onValue={(label) => set({ label })} placeholder="zone=a" />}
          </Field>
        )}
        {form.which === "id" && (
          <Field label="Server" hint="Its name or id" problem={problems["target.id"]}>
            {(d) => <Input {...d} mono value={form.id} onValue={(id) => set({ id })} />}
          </Field>
        )}
        {kind === null && (
          <Field label="Kind">
            {(d) => (
              <Select
                {...d}
                value={form.kind}
                onValue={(k) => set({ kind: k })}
                options={[
                  ["", "Servers of any kind"],
                  ["node", "Nodes"],
                  ["container", "Containers"],
                  ["address", "Addresses"],
                ]}
              />
            )}
          </Field>
        )}
      </div>
      <div className="field">
        <span className="field-label">Told to</span>
        {channels.length === 0 ? (
          <p className="faint">There are no channels yet. Without one it only shows here.</p>
        ) : (
          <div className="stack tight">
            {channels.map((c) => (
              <Check
                key={c.id}
                label={c.name}
                checked={form.channels.includes(c.id)}
                onChecked={(on) => set({ channels: on ? [...form.channels, c.id] : form.channels.filter((x) => x !== c.id) })}
              />
            ))}
          </div>
        )}
      </div>
      <Field label="What to do" optional hint="Sent along to whoever is told" problem={problems.message}>
        {(d) => <Textarea {...d} rows={2} value={form.message} onValue={(message) => set({ message })} />}
      </Field>
      <Check label="It looks from now on" checked={form.enabled} onChecked={(enabled) => set({ enabled })} />
      {save.error !== null && !Object.keys(server).some((f) => fields.includes(f)) && <Failure error={save.error} />}
    </Dialog>
  );
}

function RemoveRule({ rule, onClose }: { rule: AlertRule; onClose: () => void }) {
  const remove = useAct({
    run: () => calls.alerts.removeRule(rule.id),
    done: () => `Removed ${rule.name}.`,
    stale: ["rules", "alerts"],
    quiet: true,
    after: onClose,
  });
  return (
    <Confirm
      title={`Remove ${rule.name}?`}
      action="Remove"
      busy={remove.isPending}
      error={remove.error}
      onConfirm={() => remove.mutate()}
      onClose={onClose}
    >
      <p className="muted">What it found and still fires ends with it. To have it quiet for a while, turn it off or make a silence.</p>
    </Confirm>
  );
}
