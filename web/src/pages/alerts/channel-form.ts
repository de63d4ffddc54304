import type { AlertChannel, ChannelFields, ChannelType } from "../../api/types";
import * as check from "../../lib/validate";

// Which fields a channel of each type has, and the way from the form to the request. Secrets come in and never come back.

export interface ChannelField {
  name: keyof ChannelFields;
  label: string;
  hint?: string;
  placeholder?: string;
  needed?: boolean;
  secret?: boolean;
  rule: check.Check;
}

const any: check.Check = () => undefined;

export const CHANNEL_NAME: Record<ChannelType, string> = {
  webhook: "Webhook",
  email: "E-mail",
  slack: "Slack",
  discord: "Discord",
  telegram: "Telegram",
  ntfy: "ntfy",
};

export const FIELDS: Record<ChannelType, ChannelField[]> = {
  webhook: [
    { name: "url", label: "URL", needed: true, placeholder: "https://example.com/alerts", rule: check.webUrl },
    { name: "secret", label: "Signing key", secret: true, hint: "Made and shown once where none is given", rule: check.signingKey },
  ],
  email: [
    { name: "host", label: "Mail server", needed: true, placeholder: "smtp.example.com", rule: check.mailHost },
    { name: "port", label: "Port", placeholder: "by encryption", rule: check.port },
    { name: "tls", label: "Encryption", rule: any },
    { name: "username", label: "Username", rule: check.title },
    { name: "password", label: "Password", secret: true, rule: any },
    { name: "from", label: "From", needed: true, placeholder: "mesh@example.com", rule: check.mailAddress },
    { name: "to", label: "To", needed: true, hint: "1 to 20 addresses, with spaces between", rule: receivers },
  ],
  slack: [
    {
      name: "url",
      label: "Webhook URL",
      needed: true,
      secret: true,
      placeholder: "https://hooks.slack.com/services/…",
      rule: check.webUrl,
    },
  ],
  discord: [
    {
      name: "url",
      label: "Webhook URL",
      needed: true,
      secret: true,
      placeholder: "https://discord.com/api/webhooks/…",
      rule: check.webUrl,
    },
  ],
  telegram: [
    { name: "token", label: "Bot token", needed: true, secret: true, rule: check.accessToken },
    {
      name: "chatId",
      label: "Chat",
      needed: true,
      hint: "Its number, or a channel's @name",
      placeholder: "-1001234567890",
      rule: check.telegramChat,
    },
    { name: "apiBase", label: "Bot API", hint: "A server of your own", placeholder: "https://api.telegram.org", rule: check.webUrl },
  ],
  ntfy: [
    { name: "topic", label: "Topic", needed: true, placeholder: "my-fleet", rule: check.ntfyTopic },
    { name: "server", label: "Server", placeholder: "https://ntfy.sh", rule: check.webUrl },
    { name: "token", label: "Access token", secret: true, hint: "Where the server wants one", rule: check.accessToken },
  ],
};

function receivers(text: string): string | undefined {
  const list = words(text);
  if (list.length > 20) return "At most 20 addresses";
  const wrong = list.find(check.mailAddress);
  return wrong && `${wrong} is no address: name@host`;
}
const words = (text: string): string[] => text.split(/[\s,;]+/).filter(Boolean);

export type ChannelForm = Partial<Record<keyof ChannelFields, string>>;

export function channelForm(channel?: AlertChannel): ChannelForm {
  if (!channel) return { tls: "starttls" };
  const out: ChannelForm = {};
  for (const field of FIELDS[channel.type]) {
    if (field.secret) continue;
    const value = (channel as ChannelFields)[field.name];
    if (value !== undefined) out[field.name] = Array.isArray(value) ? value.join(" ") : String(value);
  }
  // Of Slack and Discord only the host is shown, and it is no field of theirs.
  return out;
}

/** The fields to be sent: all that are filled in; of a channel that is there, those that differ. */
export function channelOf(
  type: ChannelType,
  form: ChannelForm,
  before?: AlertChannel,
): { fields: ChannelFields; problems: Record<string, string> } {
  const problems: Record<string, string> = {};
  const old = before ? channelForm(before) : {};
  const fields: Record<string, unknown> = {};
  for (const field of FIELDS[type]) {
    const value = (form[field.name] ?? "").trim();
    if (value === "") {
      const kept = field.secret && before?.secrets.includes(field.name);
      if (field.needed && !kept) problems[field.name] = "This is needed";
      else if (before && old[field.name]) problems[field.name] = "Can be changed, but not taken away again";
      continue;
    }
    const says = field.rule(value);
    if (says) problems[field.name] = says;
    if (before && !field.secret && old[field.name] === value) continue;
    fields[field.name] = field.name === "port" ? Number(value) : field.name === "to" ? words(value) : value;
  }
  return { fields: fields as ChannelFields, problems };
}

/** Where a channel leads, for a list. */
export function placeText(c: AlertChannel): string {
  switch (c.type) {
    case "webhook":
      return c.url ?? "";
    case "email":
      return c.to?.join(", ") ?? "";
    case "slack":
    case "discord":
      return c.host ?? "";
    case "telegram":
      return c.chatId ?? "";
    case "ntfy":
      return `${c.server ?? ""}/${c.topic ?? ""}`;
  }
}
