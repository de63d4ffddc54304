import { useQuery } from "@tanstack/react-query";
import { BellOff, Plus, X } from "lucide-react";
import { useState } from "react";
import * as calls from "../../api/calls";
import type { AlertMatcher, AlertSeverity, Silence } from "../../api/types";
import { problemsOf, useAct, useMayOperate } from "../../lib/data";
import { useNow } from "../../lib/hooks";
import * as check from "../../lib/validate";
import { Badge, Time } from "../../ui/bits";
import { Button, IconButton } from "../../ui/button";
import { Confirm, Dialog } from "../../ui/dialog";
import { Field, Input, Select, Textarea } from "../../ui/field";
import { Page } from "../../ui/page";
import { Empty, Failure } from "../../ui/states";
import { Table } from "../../ui/table";
import { DialogButtons } from "../containers/actions";
import { AlertTabs, SEVERITIES } from "./parts";
import { matcherText } from "./rule-form";

export function SilencesPage() {
  const may = useMayOperate();
  const now = useNow();
  const [making, setMaking] = useState(false);
  const [ending, setEnding] = useState<Silence | null>(null);
  const query = useQuery({ queryKey: ["silences"], queryFn: ({ signal }) => calls.alerts.silences(signal) });
  const rules = useQuery({ queryKey: ["rules"], queryFn: ({ signal }) => calls.alerts.rules(signal) });
  const ruleName = (id: string) => rules.data?.find((r) => r.id === id)?.name ?? id;
  const add = (
    <Button variant="primary" icon={<Plus />} onClick={() => setMaking(true)}>
      Make a silence
    </Button>
  );
  return (
    <Page title="Silences" actions={may && add}>
      <AlertTabs here="/alerts/silences" />
      {query.error && <Failure what="The silences could not be read." error={query.error} retry={() => void query.refetch()} />}
      {query.data?.length === 0 ? (
        <Empty icon={<BellOff aria-hidden="true" />} title="No silences" actions={may && add}>
          During planned work a silence keeps alerts from being told. They still show here, and what still fires when it ends is told then.
        </Empty>
      ) : (
        !(query.error && !query.data) && (
          <Table
            label="Silences"
            rows={query.data}
            id={(s) => s.id}
            placeholders={2}
            columns={[
              {
                key: "what",
                head: "For",
                lead: true,
                cell: (s) => (
                  <div className="cell-main">
                    <span className="name break">
                      <MatcherText matcher={s.matcher} ruleName={ruleName} />
                    </span>
                    <span className="sub break">{s.comment}</span>
                  </div>
                ),
              },
              {
                key: "state",
                head: "State",
                cell: (s) =>
                  s.active ? (
                    <span className="status tone-blue">in force</span>
                  ) : (
                    <span className="status tone-grey hollow">{Date.parse(s.until) > now ? "to come" : "over"}</span>
                  ),
              },
              { key: "from", head: "From", cell: (s) => <Time at={s.from} /> },
              { key: "until", head: "Until", cell: (s) => <Time at={s.until} /> },
              { key: "by", head: "Made by", cell: (s) => <Badge>{s.createdBy}</Badge> },
            ]}
            menuOnly
            {...(may
              ? {
                  actions: (s: Silence) => (
                    <IconButton small label={`End the silence for ${matcherText(s.matcher, ruleName)}`} onClick={() => setEnding(s)}>
                      <X />
                    </IconButton>
                  ),
                }
              : {})}
          />
        )
      )}
      {making && <SilenceDialog matcher={{}} names={{}} onClose={() => setMaking(false)} />}
      {ending && <EndSilence silence={ending} what={matcherText(ending.matcher, ruleName)} onClose={() => setEnding(null)} />}
    </Page>
  );
}

/** With the server's name, as long as it is there. */
function MatcherText({ matcher, ruleName }: { matcher: AlertMatcher; ruleName: (id: string) => string }) {
  const id = matcher.serverId ?? "";
  const server = useQuery({
    queryKey: ["servers", "one", id],
    queryFn: ({ signal }) => calls.servers.get(id, signal),
    enabled: id !== "",
  });
  return <>{matcherText(matcher, ruleName, server.data?.name)}</>;
}

const HOURS: readonly (readonly [string, string])[] = [
  ["1", "1 hour"],
  ["4", "4 hours"],
  ["24", "a day"],
  ["168", "a week"],
  ["720", "30 days"],
];

/** What is known of the alert it is made for; the rest is chosen here. */
export function SilenceDialog(props: { matcher: AlertMatcher; names: { rule?: string; server?: string }; onClose: () => void }) {
  const { matcher, names, onClose } = props;
  const [rule, setRule] = useState(matcher.ruleId ?? "");
  const [server, setServer] = useState(names.server ?? matcher.serverId ?? "");
  const [severity, setSeverity] = useState<AlertSeverity | "">(matcher.severity ?? "");
  const [hours, setHours] = useState("4");
  const [comment, setComment] = useState("");
  const [tried, setTried] = useState(false);
  const rules = useQuery({ queryKey: ["rules"], queryFn: ({ signal }) => calls.alerts.rules(signal) });
  const own = { comment: comment.trim() === "" ? "Say why, for whoever looks" : check.note(comment.trim()) };
  const make = useAct({
    run: () => {
      const chosen: AlertMatcher = {};
      if (rule) chosen.ruleId = rule;
      // A name as it was found stands for its id, which only one server has.
      if (server.trim()) chosen.serverId = server.trim() === names.server && matcher.serverId ? matcher.serverId : server.trim();
      if (severity) chosen.severity = severity;
      const until = new Date(Date.now() + Number(hours) * 3_600_000).toISOString();
      return calls.alerts.createSilence({ matcher: chosen, until, comment: comment.trim() });
    },
    done: () => "It is quiet.",
    stale: ["silences", "alerts"],
    quiet: true,
    after: onClose,
  });
  const refused = problemsOf(make.error);
  const wide = !rule && !server.trim() && !severity;
  return (
    <Dialog
      title="Make a silence"
      onClose={onClose}
      onSubmit={() => {
        setTried(true);
        if (!own.comment) make.mutate();
      }}
      footer={<DialogButtons action="Silence" busy={make.isPending} onClose={onClose} />}
    >
      <p className="muted">Alerts that meet all of this are not told to anybody. They still show.</p>
      <div className="form-2">
        <Field label="Rule" problem={refused["matcher.ruleId"]}>
          {(d) => (
            <Select
              {...d}
              value={rule}
              onValue={setRule}
              options={[["", "Any rule"], ...(rules.data ?? []).map((r) => [r.id, r.name] as const)]}
            />
          )}
        </Field>
        <Field label="Severity">
          {(d) => <Select {...d} value={severity} onValue={setSeverity} options={[["", "Any severity"], ...SEVERITIES]} />}
        </Field>
        <Field label="Server" optional hint="Its name or id" problem={refused["matcher.serverId"]}>
          {(d) => <Input {...d} mono value={server} onValue={setServer} placeholder="any server" />}
        </Field>
        <Field label="For" problem={refused.until}>
          {(d) => <Select {...d} value={hours} onValue={setHours} options={HOURS} />}
        </Field>
        <Field label="Why" className="full" problem={(tried ? own.comment : undefined) ?? refused.comment}>
          {(d) => <Textarea {...d} rows={2} value={comment} onValue={setComment} placeholder="moving the rack" />}
        </Field>
      </div>
      {wide && <p className="faint">Nothing is named, so it is for every alert there is.</p>}
      {make.error !== null && Object.keys(refused).length === 0 && <Failure error={make.error} />}
    </Dialog>
  );
}

function EndSilence({ silence, what, onClose }: { silence: Silence; what: string; onClose: () => void }) {
  const end = useAct({
    run: () => calls.alerts.removeSilence(silence.id),
    done: () => "The silence is ended.",
    stale: ["silences", "alerts"],
    quiet: true,
    after: onClose,
  });
  return (
    <Confirm
      title="End this silence?"
      action="End it"
      danger={false}
      busy={end.isPending}
      error={end.error}
      onConfirm={() => end.mutate()}
      onClose={onClose}
    >
      <p className="muted">It is for {what}. Whatever still fires is told now.</p>
    </Confirm>
  );
}
