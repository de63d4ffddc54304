import type { BackupCredentials } from "../../api/types";
import type { Problems } from "../../lib/editing";
import * as check from "../../lib/validate";

// Where backups go: the parts of a destination as they stand in the form, and the one text that the API takes. Another kind is another
// entry of `DESTINATIONS`, with its fields in `destination-fields.tsx`.

export type DestinationKind = "path" | "node" | "s3" | "sftp" | "rest";

export interface DestinationForm {
  kind: DestinationKind;
  /** A folder: of `path`, `node` and `sftp`. */
  path: string;
  node: string;
  endpoint: string;
  bucket: string;
  prefix: string;
  user: string;
  host: string;
  port: string;
  url: string;
  accessKey: string;
  secretKey: string;
  region: string;
  username: string;
  password: string;
  privateKey: string;
  hostKey: string;
}

export const emptyDestination = (): DestinationForm => ({
  kind: "path",
  path: "",
  node: "",
  endpoint: "",
  bucket: "",
  prefix: "",
  user: "",
  host: "",
  port: "",
  url: "",
  accessKey: "",
  secretKey: "",
  region: "",
  username: "",
  password: "",
  privateKey: "",
  hostKey: "",
});

export const folder: check.Check = (text) =>
  /^(?:\/(?!\.{1,2}(?:\/|$))[^\x00-\x1f\x7f-\x9f/]+)+$/.test(text) && text.length <= 1024
    ? undefined
    : "An absolute path without . or .. parts and without a slash at its end";
const HOST = "[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?";
const PORT = "(?::[1-9][0-9]{0,4})?";
const PLAIN = "(?!\\.{1,2}(?:/|$))[A-Za-z0-9._-]{1,128}";
const rule =
  (pattern: string, says: string): check.Check =>
  (text) =>
    new RegExp(`^${pattern}$`).test(text) ? undefined : says;
const endpoint = rule(`https?://${HOST}${PORT}`, "https://host, with a port where it has one, and nothing behind it");
const bucket = rule("[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", "3 to 63 of a-z, 0-9, . or -");
const prefix = rule(`${PLAIN}(?:/${PLAIN}){0,7}`, "Folders of letters, digits, . _ or -, with / between");
const host = rule(HOST, "A host name or an IPv4 address");
const user = rule("[a-z_][a-z0-9_.-]{0,31}", "1 to 32 of a-z, 0-9, _ . or -");
const remoteFolder = rule(`(?:/${PLAIN}){1,16}`, "An absolute path whose parts are letters, digits, . _ or -");
const url = rule(`https?://${HOST}${PORT}(?:/${PLAIN}){0,8}/?`, "https://host/path, without a name or password in it");
const region = rule("[a-z0-9-]{1,64}", "1 to 64 of a-z, 0-9 or -");
const hostKey = rule("[a-z0-9@.-]{3,64} [A-Za-z0-9+/]{16,8192}={0,2}", "Two words, as in known_hosts without the host: ssh-ed25519 AAAA…");

/** Says of a field what is wrong with it. */
export type Complain = (field: string, says: string | undefined) => void;

interface Kind {
  label: string;
  says: string;
  /** The field that a problem with the destination as a whole stands at. */
  main: keyof DestinationForm;
  write: (form: DestinationForm, problem: Complain) => string;
  read: (text: string) => Partial<DestinationForm> | null;
  credentials: readonly (keyof BackupCredentials)[];
  /** Without these the others open nothing. */
  needed: readonly (keyof BackupCredentials)[];
}

const needs = (problem: Complain, field: string, value: string, rule: check.Check, empty: string) =>
  problem(field, value === "" ? empty : rule(value));

export const DESTINATIONS: Record<DestinationKind, Kind> = {
  path: {
    label: "Folder of the server's node",
    says: "On a disk of its own, best of all one that is mounted from elsewhere: a node that is lost takes its folders with it.",
    main: "path",
    write: ({ path }, problem) => {
      needs(problem, "path", path, folder, "Say which folder");
      return path;
    },
    read: (text) => (text.startsWith("/") ? { path: text } : null),
    credentials: [],
    needed: [],
  },
  node: {
    label: "Folder of a node",
    says: "Other nodes reach it through the control plane.",
    main: "path",
    write: ({ node, path }, problem) => {
      problem("node", node === "" ? "Choose a node" : undefined);
      needs(problem, "path", path, folder, "Say which folder");
      return `node:${node}:${path}`;
    },
    read: (text) => {
      const [, node, path] = /^node:([^:]+):(.*)$/.exec(text) ?? [];
      return node && path ? { node, path } : null;
    },
    credentials: [],
    needed: [],
  },
  s3: {
    label: "S3",
    says: "A bucket of Amazon S3, or of anything that speaks as it does.",
    main: "bucket",
    write: (form, problem) => {
      needs(problem, "endpoint", form.endpoint, endpoint, "Say where it is");
      needs(problem, "bucket", form.bucket, bucket, "Say which bucket");
      if (form.prefix !== "") problem("prefix", prefix(form.prefix));
      return `s3:${form.endpoint}/${form.bucket}${form.prefix && `/${form.prefix}`}`;
    },
    read: (text) => {
      const [, at, name, rest] = /^s3:(https?:\/\/[^/]+)\/([^/]+)(?:\/(.*))?$/.exec(text) ?? [];
      return at && name ? { endpoint: at, bucket: name, prefix: rest ?? "" } : null;
    },
    credentials: ["accessKey", "secretKey", "region"],
    needed: ["accessKey", "secretKey"],
  },
  sftp: {
    label: "SFTP",
    says: "A server that is reached over SSH. It has to show the key named here, and no other.",
    main: "path",
    write: (form, problem) => {
      if (form.user !== "") problem("user", user(form.user));
      needs(problem, "host", form.host, host, "Say which host");
      if (form.port !== "") problem("port", check.port(form.port));
      needs(problem, "path", form.path, remoteFolder, "Say which folder");
      const login = `${form.user && `${form.user}@`}${form.host}`;
      return form.port === "" || form.port === "22" ? `sftp:${login}:${form.path}` : `sftp://${login}:${form.port}${form.path}`;
    },
    read: (text) => {
      const plain = /^sftp:(?!\/\/)(?:([^@:]+)@)?([^:]+):(\/.*)$/.exec(text);
      if (plain) return { user: plain[1] ?? "", host: plain[2] ?? "", path: plain[3] ?? "" };
      const long = /^sftp:\/\/(?:([^@/]+)@)?([^:/]+)(?::(\d+))?(\/.*)$/.exec(text);
      return long ? { user: long[1] ?? "", host: long[2] ?? "", port: long[3] ?? "", path: long[4] ?? "" } : null;
    },
    credentials: ["privateKey", "hostKey"],
    needed: ["privateKey", "hostKey"],
  },
  rest: {
    label: "REST server",
    says: "restic's own server, which can be told to take backups and remove none.",
    main: "url",
    write: (form, problem) => {
      needs(problem, "url", form.url, url, "Say where it is");
      return `rest:${form.url}`;
    },
    read: (text) => (text.startsWith("rest:") ? { url: text.slice(5) } : null),
    credentials: ["username", "password"],
    needed: [],
  },
};
export const DESTINATION_KINDS = Object.keys(DESTINATIONS) as DestinationKind[];
/** The members of a database cluster are on several nodes, and a folder would be another one on each. */
export const SHARED_KINDS: readonly DestinationKind[] = DESTINATION_KINDS.filter((kind) => kind !== "path");

/** The form of a destination that is there. Its credentials are never given back. */
export function destinationForm(text: string): DestinationForm {
  for (const kind of DESTINATION_KINDS) {
    const parts = DESTINATIONS[kind].read(text);
    if (parts) return { ...emptyDestination(), kind, ...parts };
  }
  return { ...emptyDestination(), path: text };
}

const CREDENTIAL_RULES: Partial<Record<keyof BackupCredentials, check.Check>> = {
  region,
  hostKey,
  privateKey: (text) =>
    /-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]+-----END [A-Z ]*PRIVATE KEY-----/.test(text)
      ? undefined
      : "A private key in OpenSSH's form, from -----BEGIN to -----END",
};

/**
 * The destination that the form stands for, and what opens it; no credentials where none are typed, which keeps those that are there.
 * Problems are named `destination.bucket` and `credentials.accessKey`.
 */
export function writeDestination(
  form: DestinationForm,
  kept: boolean,
  problem: Complain,
): { destination: string; credentials: BackupCredentials | undefined } {
  const kind = DESTINATIONS[form.kind];
  const trimmed = Object.fromEntries(Object.entries(form).map(([k, v]) => [k, v.trim()])) as unknown as DestinationForm;
  const destination = kind.write(trimmed, (field, says) => problem(`destination.${field}`, says));
  const given = kind.credentials.filter((name) => trimmed[name] !== "");
  if (given.length === 0 && (kept || kind.needed.length === 0)) return { destination, credentials: undefined };
  // What is left empty of those that are there stays.
  if (!kept) for (const name of kind.needed) if (!given.includes(name)) problem(`credentials.${name}`, "It is needed to open the destination");
  for (const name of given) problem(`credentials.${name}`, CREDENTIAL_RULES[name]?.(trimmed[name]));
  if (form.kind === "rest" && given.length === 1 && !kept) {
    problem(`credentials.${given[0] === "username" ? "password" : "username"}`, "A name and a password go together");
  }
  const credentials: BackupCredentials = {};
  // A key in PEM form ends with its line.
  for (const name of given) credentials[name] = name === "privateKey" ? `${trimmed[name]}\n` : trimmed[name];
  return { destination, credentials };
}

/** What the server says of a destination as a whole stands at its main field. */
export function placeDestination(form: DestinationForm, at: string, problems: Problems): Problems {
  const out: Problems = {};
  for (const [field, says] of Object.entries(problems)) {
    out[field === `${at}destination` ? `${at}destination.${DESTINATIONS[form.kind].main}` : field] = says;
  }
  return out;
}

/** A destination in words that are shorter than itself. */
export function destinationWords(text: string, nodeName: (id: string) => string = (n) => n): string {
  const form = destinationForm(text);
  switch (form.kind) {
    case "path":
      return form.path;
    case "node":
      return `${form.path} on ${nodeName(form.node)}`;
    case "s3":
      return `S3 ${form.bucket}${form.prefix && `/${form.prefix}`}`;
    case "sftp":
      return `SFTP ${form.host}${form.path}`;
    case "rest":
      return `REST ${form.url.replace(/^https?:\/\//, "").replace(/\/$/, "")}`;
  }
}
