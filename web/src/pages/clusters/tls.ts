import type { ClusterTls, ClusterTlsView } from "../../api/types";
import type { ClusterForm } from "./form";

// The ways an entry comes by its certificate. Another way is another entry here, and its fields in `tls-fields.tsx`.

export type TlsKind = "none" | "acme" | "selfSigned" | "upload";

export interface TlsWay {
  label: string;
  says: string;
  /** Its fields of `tls`, which go when another way is chosen. */
  owns: readonly (keyof ClusterTls)[];
  is: (tls: ClusterTlsView) => boolean;
  /** What is sent. `kept`: it has a certificate by this way already, so what is left empty stays. */
  write: (form: ClusterForm, kept: boolean, problem: (field: string, says: string) => void) => ClusterTls;
}

const MAIL = /^[^\s@]+@[^\s@]+$/;
const PEM = /-----BEGIN [A-Z ]+-----[\s\S]+-----END [A-Z ]+-----/;

export const TLS_WAYS: Record<Exclude<TlsKind, "none">, TlsWay> = {
  acme: {
    label: "ACME",
    says: "Ordered and renewed by itself, from Let's Encrypt or another ACME server, which looks for an answer at port 80 of each name.",
    owns: ["acme"],
    is: (tls) => tls.acme !== undefined,
    write: ({ acmeAgreed, acmeEmail, acmeDirectory, serverNames }, _kept, problem) => {
      const [email, directory] = [acmeEmail.trim(), acmeDirectory.trim()];
      if (!acmeAgreed) problem("tls.acme.termsOfServiceAgreed", "No certificate is given without it");
      if (serverNames.trim() === "") problem("tls.serverNames", "The names that the certificate is to be for");
      if (email !== "" && !MAIL.test(email)) problem("tls.acme.email", "An address as ops@example.com");
      if (directory !== "" && !directory.startsWith("https://")) problem("tls.acme.directory", "A URL that begins with https://");
      return { acme: { termsOfServiceAgreed: true, ...(email && { email }), ...(directory && { directory }) } };
    },
  },
  selfSigned: {
    label: "Made here",
    says: "Signed by itself: encrypted, but browsers warn, for nobody vouches for it.",
    owns: ["selfSigned"],
    is: (tls) => tls.selfSigned && tls.acme === undefined,
    write: () => ({ selfSigned: true }),
  },
  upload: {
    label: "Uploaded",
    says: "A certificate of yours and its private key, in PEM form.",
    owns: ["certificate", "key"],
    is: (tls) => !tls.selfSigned && tls.acme === undefined,
    write: ({ certificate, privateKey }, kept, problem) => {
      const [chain, key] = [certificate.trim(), privateKey.trim()];
      if (kept && chain === "" && key === "") return {};
      if (!PEM.test(chain)) problem("tls.certificate", "A certificate in PEM form, from -----BEGIN to -----END");
      if (!PEM.test(key)) problem("tls.key", "The certificate's private key in PEM form, from -----BEGIN to -----END");
      return { certificate: `${chain}\n`, key: `${key}\n` };
    },
  },
};

export const TLS_KINDS = Object.keys(TLS_WAYS) as Exclude<TlsKind, "none">[];

export const tlsKindOf = (tls: ClusterTlsView | undefined): TlsKind =>
  tls ? (TLS_KINDS.find((kind) => TLS_WAYS[kind].is(tls)) ?? "selfSigned") : "none";

/** What goes with a way when another one takes its place. */
export const fieldsOf = (kind: Exclude<TlsKind, "none">): Partial<Record<keyof ClusterTls, null>> =>
  Object.fromEntries(TLS_WAYS[kind].owns.map((field) => [field, null]));
