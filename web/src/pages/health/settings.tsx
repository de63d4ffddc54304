import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import * as calls from "../../api/calls";
import type { HealthConfig, HealthSettings, Thresholds } from "../../api/types";
import { problemsOf, useAct } from "../../lib/data";
import * as check from "../../lib/validate";
import { Dialog } from "../../ui/dialog";
import { Cell, Check, Field, Input } from "../../ui/field";
import { Failure, Loading } from "../../ui/states";
import { DialogButtons } from "../containers/actions";
import { LIMITS, type LimitForm, limitForm, limitsOf } from "./limits";

/** The limits that hold for every server that says nothing else. */
export function SettingsDialog({ onClose }: { onClose: () => void }) {
  const query = useQuery({ queryKey: ["health", "settings"], queryFn: ({ signal }) => calls.health.settings(signal), staleTime: 0 });
  if (!query.data) return <Waiting title="Limits of the checks" error={query.error} onClose={onClose} />;
  return <SettingsForm settings={query.data} onClose={onClose} />;
}

function Waiting({ title, error, onClose }: { title: string; error: unknown; onClose: () => void }) {
  return (
    <Dialog wide title={title} onClose={onClose}>
      {error ? <Failure what="The limits could not be read." error={error} /> : <Loading what="the limits" />}
    </Dialog>
  );
}

function SettingsForm({ settings, onClose }: { settings: HealthSettings; onClose: () => void }) {
  const [form, setForm] = useState(() => limitForm(settings.thresholds));
  const [interval, setInterval] = useState(String(settings.interval));
  const [tried, setTried] = useState(false);
  const { thresholds, problems: own } = limitsOf(form, settings.thresholds);
  const wrong = check.whole(10, 300)(interval.trim());
  const save = useAct({
    run: () => calls.health.setSettings({ interval: Number(interval), thresholds }),
    done: () => "The limits hold from now on.",
    stale: ["health"],
    quiet: true,
    after: onClose,
  });
  const server = problemsOf(save.error);
  return (
    <Dialog
      wide
      title="Limits of the checks"
      onClose={onClose}
      onSubmit={() => {
        setTried(true);
        if (Object.keys(own).length === 0 && !wrong) save.mutate();
      }}
      footer={<DialogButtons action="Save" busy={save.isPending} onClose={onClose} />}
    >
      <p className="muted">For every server that has none of its own. A check fails at the first figure, and passes again at the second.</p>
      <IntervalField value={interval} onValue={setInterval} problem={(tried ? wrong : undefined) ?? server.interval} placeholder="30" />
      <LimitRows form={form} onForm={setForm} base={settings.thresholds} problems={{ ...server, ...(tried ? own : {}) }} />
      {save.error !== null && Object.keys(server).length === 0 && <Failure error={save.error} />}
    </Dialog>
  );
}

/** How one server is checked, where that differs from the settings. */
export function ConfigDialog({ id, name, onClose }: { id: string; name: string; onClose: () => void }) {
  const settings = useQuery({ queryKey: ["health", "settings"], queryFn: ({ signal }) => calls.health.settings(signal) });
  const config = useQuery({ queryKey: ["health", "config", id], queryFn: ({ signal }) => calls.health.config(id, signal), staleTime: 0 });
  const title = `How ${name} is checked`;
  if (!settings.data || !config.data) return <Waiting title={title} error={settings.error ?? config.error} onClose={onClose} />;
  return <ConfigForm id={id} title={title} settings={settings.data} config={config.data} onClose={onClose} />;
}

function ConfigForm(props: { id: string; title: string; settings: HealthSettings; config: HealthConfig; onClose: () => void }) {
  const { settings, config } = props;
  const [enabled, setEnabled] = useState(config.enabled ?? true);
  const [form, setForm] = useState(() => limitForm(config.thresholds ?? {}));
  const [interval, setInterval] = useState(config.interval === undefined ? "" : String(config.interval));
  const [tried, setTried] = useState(false);
  const { thresholds, problems: own } = limitsOf(form, settings.thresholds);
  const wrong = interval.trim() === "" ? undefined : check.whole(10, 300)(interval.trim());
  const save = useAct({
    run: () =>
      calls.health.setConfig(props.id, {
        ...(config.probes?.length ? { probes: config.probes } : {}),
        ...(interval.trim() ? { interval: Number(interval) } : {}),
        thresholds,
        enabled,
      }),
    done: () => "It is checked so from now on.",
    stale: ["health"],
    quiet: true,
    after: props.onClose,
  });
  const server = problemsOf(save.error);
  return (
    <Dialog
      wide
      title={props.title}
      onClose={props.onClose}
      onSubmit={() => {
        setTried(true);
        if (Object.keys(own).length === 0 && !wrong) save.mutate();
      }}
      footer={<DialogButtons action="Save" busy={save.isPending} onClose={props.onClose} />}
    >
      <Check
        label="Check it by itself"
        hint="Without this it is checked only when somebody asks for it."
        checked={enabled}
        onChecked={setEnabled}
      />
      <IntervalField
        value={interval}
        onValue={setInterval}
        problem={(tried ? wrong : undefined) ?? server.interval}
        placeholder={String(settings.interval)}
      />
      <p className="muted">Limits of its own. What is left empty is as the settings of all say, shown in grey.</p>
      <LimitRows form={form} onForm={setForm} base={settings.thresholds} problems={{ ...server, ...(tried ? own : {}) }} />
      {(config.probes?.length ?? 0) > 0 && (
        <p className="faint">Its probes stay as they are: {config.probes?.map((p) => p.name).join(", ")}.</p>
      )}
      {save.error !== null && Object.keys(server).length === 0 && <Failure error={save.error} />}
    </Dialog>
  );
}

function IntervalField(props: { value: string; onValue: (value: string) => void; problem: string | undefined; placeholder: string }) {
  return (
    <Field label="Checked every" hint="10 to 300 seconds" problem={props.problem}>
      {(d) => (
        <div className="with-suffix">
          <Input {...d} inputMode="numeric" value={props.value} onValue={props.onValue} placeholder={props.placeholder} />
          <span className="suffix">s</span>
        </div>
      )}
    </Field>
  );
}

function LimitRows(props: { form: LimitForm; onForm: (form: LimitForm) => void; base: Thresholds; problems: Record<string, string> }) {
  const { form, onForm, base, problems } = props;
  return (
    <div className="rows">
      <div className="rows-line rows-limit rows-head" aria-hidden="true">
        <span>Check</span>
        <span>Fails at</span>
        <span>Passes at</span>
      </div>
      {LIMITS.map(([name, text, unit]) => (
        <div key={name} className="rows-line rows-limit">
          <span className="rows-text">{text}</span>
          {(["fail", "recover"] as const).map((half) => (
            <Cell
              key={half}
              label={`${text}, ${half === "fail" ? "fails at" : "passes again at"}`}
              problem={problems[`thresholds.${name}.${half}`]}
            >
              {(d) => (
                <div className="with-suffix">
                  <Input
                    {...d}
                    inputMode="decimal"
                    value={form[name][half]}
                    placeholder={String(base[name][half])}
                    onValue={(value) => onForm({ ...form, [name]: { ...form[name], [half]: value } })}
                  />
                  <span className="suffix">{unit}</span>
                </div>
              )}
            </Cell>
          ))}
        </div>
      ))}
      <div className="rows-line rows-limit">
        <span className="rows-text">Busy checks in a row until the CPU fails</span>
        <Cell label="Busy checks in a row until the CPU fails" problem={problems["thresholds.cpuChecks"]}>
          {(d) => (
            <Input
              {...d}
              inputMode="numeric"
              value={form.cpuChecks}
              placeholder={String(base.cpuChecks)}
              onValue={(cpuChecks) => onForm({ ...form, cpuChecks })}
            />
          )}
        </Cell>
      </div>
    </div>
  );
}
