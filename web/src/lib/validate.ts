// The rules of crates/types, so that a mistake shows while it is made. The server checks again and has the last word.

/** A sentence on what is wrong; nothing where all is well. */
export type Check = (text: string) => string | undefined;

const rule =
  (pattern: RegExp, says: string): Check =>
  (text) =>
    pattern.test(text) ? undefined : says;

export const containerName: Check = (text) => {
  if (!/^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,99}$/.test(text)) return "1 to 100 letters, digits, _ . or -, starting with a letter or digit";
  if (
    /^(images|templates|list|stats|events)$/.test(text) ||
    /^(cont|node|server|inst|provider|cluster|backup_cfg|backup|deploy|job|op|user|token|reg|sess|join|evt)_/.test(text)
  )
    return "This name is reserved";
  return undefined;
};
export const networkName = rule(/^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,99}$/, "1 to 100 letters, digits, _ . or -, starting with a letter or digit");
export const volumeName = rule(/^[a-zA-Z0-9][a-zA-Z0-9_.-]{1,99}$/, "2 to 100 letters, digits, _ . or -, starting with a letter or digit");
export const nodeName = rule(/^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$/, "1 to 63 letters, digits, _ . or -, starting with a letter or digit");
export const username = rule(/^[a-z0-9][a-z0-9_.@-]{0,63}$/, "1 to 64 of a-z, 0-9, _ . @ or -, starting with a letter or digit");
export const title = rule(/^[^\x00-\x1f\x7f-\x9f]{1,100}$/, "1 to 100 characters on one line");
export const password: Check = (text) => {
  const length = [...text].length;
  if (length < 10) return "At least 10 characters";
  return length > 200 ? "At most 200 characters" : undefined;
};
export const image = rule(
  /^(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]{0,100}[a-zA-Z0-9])?(?::[0-9]{1,5})?\/)?[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:\/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[a-f0-9]{64})?$/,
  "An image is name, name:tag or registry/name:tag, in lower case",
);
export const registryHost = rule(
  /^[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?(?::[1-9][0-9]{0,4})?$/,
  "A host name in lower case, with a port where it has one: registry.example.com:5000",
);
export const envName = rule(/^[A-Za-z_][A-Za-z0-9_.-]{0,254}$/, "Starts with a letter or _, goes on with letters, digits, _ . or -");
export const labelKey: Check = (text) => {
  if (text.startsWith("io.neuralmesh.")) return "io.neuralmesh. is reserved";
  return /^[a-zA-Z0-9](?:[a-zA-Z0-9_./-]{0,126}[a-zA-Z0-9])?$/.test(text)
    ? undefined
    : "Letters, digits, _ . / or -, starting and ending with a letter or digit";
};
export const containerPath = rule(/^\/[^\x00-\x1f\x7f-\x9f:]{1,511}$/, "An absolute path, without : in it");
export const mountSource: Check = (text) => {
  if (!text.startsWith("/")) return volumeName(text) && "A volume's name, or an absolute path of the node";
  const clean = text.length <= 512 && !/[:\x00-\x1f\x7f-\x9f]/.test(text) && text.split("/").every((p) => p !== "." && p !== "..");
  return clean ? undefined : "An absolute path without : and without . or .. parts";
};
export const memory: Check = (text) => {
  const match = /^([1-9][0-9]{0,9})([kmg])$/i.exec(text);
  const says = "Digits and k, m or g, from 6m to 9999g: 512m, 1g";
  if (!match) return says;
  const size = Number(match[1]) * 1024 ** { k: 1, m: 2, g: 3 }[match[2]?.toLowerCase() as "k" | "m" | "g"];
  return size >= 6 * 1024 ** 2 && size <= 9999 * 1024 ** 3 ? undefined : says;
};
export const cpu: Check = (text) => {
  const n = Number(text);
  return /^\d*\.?\d+$/.test(text) && n >= 0.1 && n <= 64 ? undefined : "Cores, from 0.1 to 64";
};
export const port: Check = (text) => whole(1, 65_535)(text) && "A port, from 1 to 65535";
export const hostPort: Check = (text) => whole(0, 65_535)(text) && "A port from 1 to 65535, or empty to let the node choose";
export const hostIp = rule(/^(?:(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(?:\.(?!$)|$)){4}$/, "An IPv4 address of the node");
export const runAs = rule(/^[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,31}(?::[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,31})?$/, "name, uid, name:group or uid:gid");
export const hostName = rule(
  /^[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$/,
  "Letters, digits or -, starting and ending with a letter or digit",
);
export const capability = rule(/^(?:ALL|(?:CAP_)?[A-Z][A-Z_]{2,30})$/, "ALL, or a name such as NET_RAW");

export function whole(min: number, max: number): Check {
  return (text) => {
    const n = Number(text);
    return /^\d+$/.test(text) && n >= min && n <= max
      ? undefined
      : `A whole number from ${min.toLocaleString("en")} to ${max.toLocaleString("en")}`;
  };
}

export const serverName: Check = (text) => {
  if (containerName(text) === "This name is reserved" || text === "settings") return "This name is reserved";
  return networkName(text);
};
const ADDRESS_HOST = /^(?=.{1,253}$)(?:[a-zA-Z0-9_](?:[a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?\.)*[a-zA-Z](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$/;
export const serverAddress: Check = (text) =>
  ADDRESS_HOST.test(text) || !hostIp(text) || /^[0-9a-fA-F:.]*:[0-9a-fA-F:.]*$/.test(text)
    ? undefined
    : "A host name or an IP address, without scheme or port";
export const probePath = rule(/^\/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]{0,1023}$/, "Starts with /, and holds what a URL may, without #");
/** What a container asks of its node. */
export const constraint = rule(
  /^[a-zA-Z0-9](?:[a-zA-Z0-9_./-]{0,126}[a-zA-Z0-9])?(?:!?=[^=\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]{0,254})?$/,
  "key=value, key!=value, or a key alone",
);
export const databaseName: Check = (text) =>
  /^(?!(?:postgres|template0|template1)$)(?!pg_)[a-z_][a-z0-9_]{0,62}$/.test(text)
    ? undefined
    : "1 to 63 of a-z, 0-9 and _, not starting with a digit or pg_, and none of PostgreSQL's own";
export const parameterName = rule(/^[a-z_][a-z0-9_]{0,62}(?:\.[a-z_][a-z0-9_]{0,62})?$/, "a-z, 0-9 and _; that of an extension has one . in it");
export const parameterValue = rule(/^[^\x00-\x1f\x7f-\x9f]{1,1000}$/, "1 to 1,000 characters on one line");
export const extensionName = rule(/^[a-z_][a-z0-9_-]{0,62}$/, "1 to 63 of a-z, 0-9, _ and -, starting with a letter or _");
export const alertLabel = rule(/^[a-zA-Z0-9](?:[a-zA-Z0-9_./-]{0,126}[a-zA-Z0-9])?(?:=[^\x00-\x1f\x7f-\x9f]*)?$/, "key, or key=value");
export const note = rule(/^[^\x00-\x09\x0b-\x1f\x7f-\x9f]{1,1000}$/, "1 to 1,000 characters");
export const webUrl = rule(
  /^https?:\/\/(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?(?:[/?][\x21\x22\x24-\x7e]*)?$/,
  "https://host/path, or http:// within a private network",
);
export const mailHost = rule(/^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$/, "A host name or an IPv4 address");
export const mailAddress = rule(
  /^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,186}[A-Za-z0-9])?$/,
  "An address, name@host",
);
export const telegramChat = rule(/^(?:-?[0-9]{1,20}|@[A-Za-z][A-Za-z0-9_]{3,63})$/, "Its number, -1001234567890, or a channel's @name");
export const ntfyTopic = rule(/^[A-Za-z0-9_-]{1,64}$/, "1 to 64 letters, digits, _ or -");
export const signingKey = rule(/^[\x21-\x7e]{16,200}$/, "16 to 200 visible ASCII characters");
export const accessToken = rule(/^[A-Za-z0-9_:.~+/=-]{1,500}$/, "Letters, digits or any of _:.~+/=-");

const SECRET = ["PASSWORD", "PASSWD", "SECRET", "TOKEN", "KEY", "CREDENTIAL", "PRIVATE", "_PASS", "DSN", "DATABASE_URL"];
/** Whether a variable of this name usually holds a secret. */
export function looksSecret(name: string): boolean {
  const upper = name.toUpperCase();
  return SECRET.some((word) => upper.includes(word));
}
