import type { ClusterTls, ClusterTlsView } from "../../api/types";
import type { ClusterForm } from "./form";

// The ways an entry comes by its certificate. Another way is another entry here, and its fields in `tls-fields.tsx`.

export type TlsKind = "none" | "selfSigned" | "upload";

export interface TlsWay {
  label: string;
  says: string;
  /** Its fields of `tls`, which go when another way is chosen. */
  owns: readonly (keyof ClusterTls)[];
  is: (tls: ClusterTlsView) => boolean;
  /** What is sent. `kept`: it has a certificate by this way already, so what is left empty stays. */
  write: (form: ClusterForm, kept: boolean, problem: (field: string, says: string) => void) => ClusterTls;
}

const PEM = /-----BEGIN [A-Z ]+-----[\s\S]+-----END [A-Z ]+-----/;

export const TLS_WAYS: Record<Exclude<TlsKind, "none">, TlsWay> = {
  selfSigned: {
    label: "Made here",
    says: "Signed by itself: encrypted, but browsers warn, for nobody vouches for it.",
    owns: ["selfSigned"],
    is: (tls) => tls.selfSigned,
    write: () => ({ selfSigned: true }),
  },
  upload: {
    label: "Uploaded",
    says: "A certificate of yours and its private key, in PEM form.",
    owns: ["certificate", "key"],
    is: (tls) => !tls.selfSigned,
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

/** What a change of the way takes away. */
export function otherWays(kind: TlsKind): Partial<Record<keyof ClusterTls, null>> {
  const others = TLS_KINDS.filter((k) => k !== kind).flatMap((k) => TLS_WAYS[k].owns);
  return Object.fromEntries(others.map((field) => [field, null]));
}
