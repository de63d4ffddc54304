import type { ReactNode } from "react";
import { Check, Field, Segmented, Textarea, TextField } from "../../ui/field";
import type { Problems } from "../containers/form";
import type { ClusterForm } from "./form";
import { TLS_KINDS, TLS_WAYS, type TlsKind } from "./tls";

interface Part {
  form: ClusterForm;
  set: (change: Partial<ClusterForm>, ...fields: string[]) => void;
  problems: Problems;
  /** How the cluster that is changed comes by its certificate. */
  kept: TlsKind;
}

/** What each way of coming by a certificate asks for, beside names. */
const FIELDS: Record<Exclude<TlsKind, "none">, (part: Part) => ReactNode> = {
  acme: (part) => <AcmeFields {...part} />,
  selfSigned: () => null,
  upload: (part) => <UploadFields {...part} />,
};

export function TlsFields(part: Part) {
  const { form, set, problems } = part;
  const way = form.tls === "none" ? null : TLS_WAYS[form.tls];
  return (
    <>
      <div>
        <Segmented
          label="Where the certificate comes from"
          value={form.tls}
          onValue={(tls) => set({ tls }, "tls", "redirectToHttps")}
          options={[["none", "No TLS"], ...TLS_KINDS.map((kind) => [kind, TLS_WAYS[kind].label] as const)]}
        />
      </div>
      {way && form.tls !== "none" && (
        <>
          <p className="muted">{way.says}</p>
          {FIELDS[form.tls](part)}
          {problems.tls && <p className="problem">{problems.tls}</p>}
          <TextField
            mono
            optional
            label="Names"
            problem={problems["tls.serverNames"]}
            hint="The names it is for, with spaces between. Needed where clusters share a port."
            placeholder="app.example.com"
            value={form.serverNames}
            onValue={(serverNames) => set({ serverNames }, "tls.serverNames")}
          />
          <Check
            label="Send requests without TLS here"
            hint="Another port of the entry nodes, 80 by default, answers them with where to go."
            checked={form.redirect}
            onChecked={(redirect) => set({ redirect }, "redirectToHttps")}
          />
          {form.redirect && (
            <div className="form-2">
              <TextField
                numeric
                label="Their port"
                problem={problems["redirectToHttps.listenPort"] ?? problems.redirectToHttps}
                placeholder="80"
                value={form.redirectPort}
                onValue={(redirectPort) => set({ redirectPort }, "redirectToHttps")}
              />
            </div>
          )}
        </>
      )}
    </>
  );
}

function AcmeFields({ form, set, problems }: Part) {
  return (
    <>
      <Check
        label="I agree to the ACME server's terms of service"
        hint={problems["tls.acme.termsOfServiceAgreed"] ?? problems["tls.acme"] ?? "The server asks for that before it gives a certificate."}
        checked={form.acmeAgreed}
        onChecked={(acmeAgreed) => set({ acmeAgreed }, "tls.acme.termsOfServiceAgreed", "tls.acme")}
      />
      <div className="form-2">
        <TextField
          optional
          type="email"
          label="E-mail"
          problem={problems["tls.acme.email"]}
          hint="Where the server may write to"
          placeholder="ops@example.com"
          value={form.acmeEmail}
          onValue={(acmeEmail) => set({ acmeEmail }, "tls.acme.email")}
        />
        <TextField
          mono
          optional
          label="Directory"
          problem={problems["tls.acme.directory"]}
          hint="Of a server other than Let's Encrypt"
          placeholder="https://ca.example.com/directory"
          value={form.acmeDirectory}
          onValue={(acmeDirectory) => set({ acmeDirectory }, "tls.acme.directory")}
        />
      </div>
    </>
  );
}

function UploadFields({ form, set, problems, kept }: Part) {
  const there = kept === "upload" ? "Empty keeps the one it has" : undefined;
  return (
    <>
      <Field label="Certificate" problem={problems["tls.certificate"]} hint={there ?? "The server's own first, then those that signed it"}>
        {(d) => (
          <Textarea
            {...d}
            className="mono"
            rows={4}
            value={form.certificate}
            onValue={(certificate) => set({ certificate }, "tls.certificate")}
            placeholder="-----BEGIN CERTIFICATE-----"
          />
        )}
      </Field>
      <Field label="Private key" problem={problems["tls.key"]} hint={there ?? "Kept sealed, and never shown again"}>
        {(d) => (
          <Textarea
            {...d}
            className="mono covered"
            rows={4}
            autoComplete="off"
            value={form.privateKey}
            onValue={(privateKey) => set({ privateKey }, "tls.key")}
            placeholder="-----BEGIN PRIVATE KEY-----"
          />
        )}
      </Field>
    </>
  );
}
