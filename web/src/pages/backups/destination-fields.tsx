import type { ReactNode } from "react";
import type { BackupCredentials } from "../../api/types";
import { useNodes } from "../../lib/data";
import type { Problems } from "../../lib/editing";
import { Field, Select, Textarea, TextField } from "../../ui/field";
import { DESTINATION_KINDS, DESTINATIONS, SHARED_KINDS, type DestinationForm, type DestinationKind } from "./destination";

interface Part {
  form: DestinationForm;
  /** The fields that were changed, so that what the server said of them goes. */
  set: (change: Partial<DestinationForm>, ...fields: string[]) => void;
  problems: Problems;
  /** What stands before the names of the fields: `copy.` of a copy. */
  at: string;
  /** Credentials are there already; what is left empty stays. */
  kept: boolean;
  /** It has a repository already, so that it stays where it is. */
  fixed: boolean;
  /** It is reached from several nodes. */
  shared: boolean;
}
type Text = (key: Exclude<keyof DestinationForm, "kind">, label: string, placeholder: string, hint?: string, optional?: boolean) => ReactNode;

/** What each kind of destination asks for. */
const FIELDS: Record<DestinationKind, (text: Text, part: Part) => ReactNode> = {
  path: (text) => text("path", "Folder", "/backups"),
  node: (text, part) => (
    <div className="form-2">
      <NodeChoice {...part} />
      {text("path", "Folder", "/backups")}
    </div>
  ),
  s3: (text) => (
    <div className="form-3">
      {text("endpoint", "Endpoint", "https://s3.eu-central-1.amazonaws.com")}
      {text("bucket", "Bucket", "backups")}
      {text("prefix", "Prefix", "production", undefined, true)}
    </div>
  ),
  sftp: (text) => (
    <div className="form-2">
      {text("host", "Host", "backup.example.com")}
      {text("port", "Port", "22", undefined, true)}
      {text("user", "User", "root", undefined, true)}
      {text("path", "Folder", "/srv/backups")}
    </div>
  ),
  rest: (text) => text("url", "Address", "https://backup.example.com:8000/production"),
};

const CREDENTIALS: Record<DestinationKind, (secret: Text, part: Part) => ReactNode> = {
  path: () => null,
  node: () => null,
  s3: (secret) => (
    <div className="form-3">
      {secret("accessKey", "Access key", "")}
      {secret("secretKey", "Secret key", "")}
      {secret("region", "Region", "us-east-1", undefined, true)}
    </div>
  ),
  sftp: (secret, part) => (
    <>
      {secret("hostKey", "The server's key", "ssh-ed25519 AAAA…", "A line of ssh-keyscan, without the host")}
      <PrivateKey {...part} />
    </>
  ),
  rest: (secret) => (
    <div className="form-2">
      {secret("username", "User", "", undefined, true)}
      {secret("password", "Password", "", undefined, true)}
    </div>
  ),
};
const COVERED: ReadonlySet<keyof DestinationForm> = new Set<keyof DestinationForm>(["secretKey", "password"]);

export function DestinationFields(part: Part) {
  const { form, set, problems, at, kept, fixed, shared } = part;
  const kind = DESTINATIONS[form.kind];
  const text: Text = (key, label, placeholder, hint, optional) => (
    <TextField
      mono
      label={label}
      optional={optional ?? false}
      problem={problems[`${at}destination.${key}`]}
      hint={hint}
      disabled={fixed}
      placeholder={placeholder}
      value={form[key]}
      onValue={(value) => set({ [key]: value }, `${at}destination`)}
    />
  );
  const secret: Text = (key, label, placeholder, hint, optional) => (
    <TextField
      mono
      label={label}
      optional={optional ?? false}
      type={COVERED.has(key) ? "password" : "text"}
      problem={problems[`${at}credentials.${key}`]}
      hint={hint}
      placeholder={placeholder}
      value={form[key]}
      onValue={(value) => set({ [key]: value }, `${at}credentials`)}
    />
  );
  const whole = problems[`${at}credentials`] ?? problems[`${at}destination`];
  return (
    <>
      <Field label="Kind" hint={fixed ? "It stays where it is: its repository is there. Make another config for another place" : kind.says}>
        {(d) => (
          <Select
            {...d}
            value={form.kind}
            disabled={fixed}
            onValue={(value) => set({ kind: value }, `${at}destination`, `${at}credentials`)}
            options={DESTINATION_KINDS.filter((k) => !shared || SHARED_KINDS.includes(k) || k === form.kind).map((k) => [k, DESTINATIONS[k].label] as const)}
          />
        )}
      </Field>
      {FIELDS[form.kind](text, part)}
      {CREDENTIALS[form.kind](secret, part)}
      {whole && (
        <p className="problem" role="alert">
          {whole}
        </p>
      )}
      {kind.credentials.length > 0 && (
        <p className="faint">{kept ? "Credentials are kept sealed. Those that are there stay where these fields are empty." : "Credentials are kept sealed, and never shown again."}</p>
      )}
    </>
  );
}

/** Nodes are named as people name them, as in a destination that is written by hand. */
function NodeChoice({ form, set, problems, at, fixed }: Part) {
  const nodes = useNodes().data ?? [];
  const known = nodes.some((n) => n.name === form.node);
  return (
    <Field label="Node" problem={problems[`${at}destination.node`]}>
      {(d) => (
        <Select
          {...d}
          value={form.node}
          disabled={fixed}
          onValue={(node) => set({ node }, `${at}destination`)}
          options={[
            ["", "Choose a node…"],
            ...(form.node !== "" && !known ? [[form.node, form.node] as const] : []),
            ...nodes.map((n) => [n.name, n.name] as const),
          ]}
        />
      )}
    </Field>
  );
}

function PrivateKey({ form, set, problems, at, kept }: Part) {
  const field: keyof BackupCredentials = "privateKey";
  return (
    <Field label="Private key" problem={problems[`${at}credentials.${field}`]} hint={kept ? "Empty keeps the one it has" : "In OpenSSH's form, without a passphrase"}>
      {(d) => (
        <Textarea
          {...d}
          className="mono covered"
          rows={4}
          autoComplete="off"
          placeholder="-----BEGIN OPENSSH PRIVATE KEY-----"
          value={form.privateKey}
          onValue={(privateKey) => set({ privateKey }, `${at}credentials`)}
        />
      )}
    </Field>
  );
}
