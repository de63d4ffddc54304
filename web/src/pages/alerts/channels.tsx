import { useQuery } from "@tanstack/react-query";
import { Megaphone, Pencil, Plus, Send, Trash2 } from "lucide-react";
import { useState } from "react";
import * as calls from "../../api/calls";
import { type AlertChannel, CHANNEL_TYPES, type ChannelFields, type ChannelType } from "../../api/types";
import { problemsOf, useAct, useIsAdmin } from "../../lib/data";
import * as check from "../../lib/validate";
import { Badge, CopyBox, Time } from "../../ui/bits";
import { Button } from "../../ui/button";
import { Confirm, Dialog } from "../../ui/dialog";
import { Field, Input, Select } from "../../ui/field";
import { Menu } from "../../ui/menu";
import { Page } from "../../ui/page";
import { Empty, Failure, Notice } from "../../ui/states";
import { Table } from "../../ui/table";
import { toast } from "../../ui/toast";
import { DialogButtons } from "../containers/actions";
import { CHANNEL_NAME, type ChannelField, type ChannelForm, channelForm, channelOf, FIELDS, placeText } from "./channel-form";
import { AlertTabs } from "./parts";

export function ChannelsPage() {
  const admin = useIsAdmin();
  const [asked, setAsked] = useState<{ what: "edit"; channel?: AlertChannel } | { what: "remove"; channel: AlertChannel } | null>(null);
  const query = useQuery({ queryKey: ["channels"], queryFn: ({ signal }) => calls.alerts.channels(signal) });
  const send = useAct({
    run: (c: AlertChannel) => calls.alerts.testChannel(c.id),
    failed: "The test could not be sent.",
    stale: [],
    after: (result, c) => {
      if (result.delivered) toast.done(`${c.name} took it: ${result.message}`);
      else toast.failed(`${c.name} did not take it.`, new Error(result.message));
    },
  });
  const add = (
    <Button variant="primary" icon={<Plus />} onClick={() => setAsked({ what: "edit" })}>
      Add a channel
    </Button>
  );
  return (
    <Page title="Alert channels" actions={admin && add}>
      <AlertTabs here="/alerts/channels" />
      {query.error && <Failure what="The channels could not be read." error={query.error} retry={() => void query.refetch()} />}
      {query.data?.length === 0 ? (
        <Empty icon={<Megaphone aria-hidden="true" />} title="Nobody is told yet" actions={admin && add}>
          {admin
            ? "Alerts can go to a webhook, by e-mail, to Slack, Discord, Telegram or ntfy. Then name the channel in the rules."
            : "An admin adds the places where alerts are told."}
        </Empty>
      ) : (
        !(query.error && !query.data) && (
          <Table
            label="Alert channels"
            rows={query.data}
            id={(c) => c.id}
            placeholders={2}
            columns={[
              {
                key: "name",
                head: "Channel",
                lead: true,
                cell: (c) => (
                  <div className="cell-main">
                    <span className="name break">{c.name}</span>
                    <span className="sub mono break">{placeText(c)}</span>
                  </div>
                ),
              },
              { key: "type", head: "Type", cell: (c) => CHANNEL_NAME[c.type] },
              {
                key: "secrets",
                head: "Sealed",
                cell: (c) =>
                  c.secrets.length === 0 ? (
                    <span className="faint">none</span>
                  ) : (
                    <span className="tags">
                      {c.secrets.map((s) => (
                        <Badge key={s}>{s}</Badge>
                      ))}
                    </span>
                  ),
              },
              { key: "updated", head: "Changed", cell: (c) => <Time at={c.updated} /> },
            ]}
            {...(admin
              ? {
                  actions: (c: AlertChannel) => (
                    <>
                      <Button
                        small
                        icon={<Send />}
                        aria-label={`Send a test to ${c.name}`}
                        busy={send.isPending && send.variables?.id === c.id}
                        onClick={() => send.mutate(c)}
                      >
                        Test
                      </Button>
                      <Menu
                        small
                        label={`Actions for ${c.name}`}
                        items={[
                          { label: "Change…", icon: <Pencil />, onSelect: () => setAsked({ what: "edit", channel: c }) },
                          "line",
                          { label: "Remove…", icon: <Trash2 />, danger: true, onSelect: () => setAsked({ what: "remove", channel: c }) },
                        ]}
                      />
                    </>
                  ),
                }
              : {})}
          />
        )
      )}
      {asked?.what === "edit" && <ChannelDialog channel={asked.channel} onClose={() => setAsked(null)} />}
      {asked?.what === "remove" && <RemoveChannel channel={asked.channel} onClose={() => setAsked(null)} />}
    </Page>
  );
}

function ChannelDialog({ channel, onClose }: { channel: AlertChannel | undefined; onClose: () => void }) {
  const [name, setName] = useState(channel?.name ?? "");
  const [type, setType] = useState<ChannelType>(channel?.type ?? "webhook");
  const [form, setForm] = useState<ChannelForm>(() => channelForm(channel));
  const [tried, setTried] = useState(false);
  const [made, setMade] = useState<{ name: string; secret: string } | null>(null);
  const { fields, problems } = channelOf(type, form, channel);
  const own = { name: check.title(name.trim()), ...problems };
  const save = useAct({
    run: (): Promise<AlertChannel & Pick<ChannelFields, "secret">> =>
      channel
        ? calls.alerts.updateChannel(channel.id, { ...(name.trim() === channel.name ? {} : { name: name.trim() }), ...fields })
        : calls.alerts.createChannel({ name: name.trim(), type, ...fields }),
    done: (c) => `Saved ${c.name}.`,
    stale: ["channels"],
    quiet: true,
    after: (c) => {
      if (c.secret) setMade({ name: c.name, secret: c.secret });
      else onClose();
    },
  });
  const refused = problemsOf(save.error);
  const shown: Record<string, string | undefined> = { ...refused, ...(tried ? own : {}) };
  if (made) {
    return (
      <Dialog
        wide
        title={`The signing key of ${made.name}`}
        onClose={onClose}
        footer={
          <Button variant="primary" onClick={onClose}>
            I have kept it
          </Button>
        }
      >
        <Notice tone="amber">Keep it now: it is not shown again. With it the receiver checks that what comes is from here.</Notice>
        <CopyBox text={made.secret} label="Copy the key" />
      </Dialog>
    );
  }
  return (
    <Dialog
      wide
      title={channel ? `Change ${channel.name}` : "Add a channel"}
      onClose={onClose}
      onSubmit={() => {
        setTried(true);
        if (Object.values(own).every((p) => !p)) save.mutate();
      }}
      footer={<DialogButtons action="Save" busy={save.isPending} onClose={onClose} />}
    >
      <div className="form-2">
        <Field label="Name" problem={shown.name}>
          {(d) => <Input {...d} value={name} onValue={setName} placeholder="ops" maxLength={100} />}
        </Field>
        <Field label="Type" hint={channel ? "Stays what it is" : undefined}>
          {(d) => (
            <Select
              {...d}
              value={type}
              onValue={setType}
              disabled={channel !== undefined}
              options={CHANNEL_TYPES.map((t) => [t, CHANNEL_NAME[t]] as const)}
            />
          )}
        </Field>
        {FIELDS[type].map((field) => (
          <ChannelInput
            key={field.name}
            field={field}
            there={(field.secret && channel?.secrets.includes(field.name)) ?? false}
            value={form[field.name] ?? ""}
            onValue={(value) => setForm((f) => ({ ...f, [field.name]: value }))}
            problem={shown[field.name] ?? shown[`${field.name}[0]`]}
          />
        ))}
      </div>
      {channel && <p className="faint">When the server changes that a secret is sent to, the secret is needed again.</p>}
      {save.error !== null && !["name", ...FIELDS[type].map((f) => f.name)].some((f) => refused[f]) && <Failure error={save.error} />}
    </Dialog>
  );
}

const TLS = [
  ["starttls", "STARTTLS"],
  ["tls", "TLS from the first byte"],
  ["none", "None, within a private network"],
] as const;

function ChannelInput(props: {
  field: ChannelField;
  there: boolean;
  value: string;
  onValue: (value: string) => void;
  problem: string | undefined;
}) {
  const { field, there } = props;
  const hint = there ? "Sealed. Leave it empty to keep it" : (field.hint ?? (field.secret ? "Sealed, and never shown again" : undefined));
  return (
    <Field label={field.label} optional={!field.needed && field.name !== "tls"} hint={hint} problem={props.problem}>
      {(d) =>
        field.name === "tls" ? (
          <Select {...d} value={props.value || "starttls"} onValue={props.onValue} options={TLS} />
        ) : (
          <Input
            {...d}
            mono={field.secret !== true && field.name !== "username"}
            type={field.secret ? "password" : "text"}
            autoComplete={field.secret ? "new-password" : "off"}
            value={props.value}
            onValue={props.onValue}
            placeholder={there ? "••••••••" : field.placeholder}
          />
        )
      }
    </Field>
  );
}

function RemoveChannel({ channel, onClose }: { channel: AlertChannel; onClose: () => void }) {
  const remove = useAct({
    run: () => calls.alerts.removeChannel(channel.id),
    done: () => `Removed ${channel.name}.`,
    stale: ["channels"],
    quiet: true,
    after: onClose,
  });
  return (
    <Confirm
      title={`Remove ${channel.name}?`}
      action="Remove"
      busy={remove.isPending}
      error={remove.error}
      onConfirm={() => remove.mutate()}
      onClose={onClose}
    >
      <p className="muted">Nothing more is told there. Rules that name it have to let go of it first.</p>
    </Confirm>
  );
}
