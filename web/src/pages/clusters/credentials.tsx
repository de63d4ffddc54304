import { Download, Eye, EyeOff } from "lucide-react";
import { useEffect, useRef, useState } from "react";
import * as calls from "../../api/calls";
import type { Cluster, DatabaseCredentials } from "../../api/types";
import { CopyButton } from "../../ui/bits";
import { Button } from "../../ui/button";
import { type Fact, Facts } from "../../ui/facts";
import { Failure } from "../../ui/states";

const COVERED = "••••••••••••";

/**
 * The passwords of a database, for as long as they are shown. They are asked for when somebody wants to see them, and are in this
 * component's state alone: neither a query nor a mutation, whose caches would keep them.
 */
export function Credentials({ cluster: c }: { cluster: Cluster }) {
  const [shown, setShown] = useState<DatabaseCredentials | null>(null);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const asked = useRef<AbortController | null>(null);
  useEffect(() => () => asked.current?.abort(), []);

  const show = async () => {
    const own = new AbortController();
    asked.current = own;
    setBusy(true);
    setError(null);
    try {
      const got = await calls.clusters.databaseCredentials(c.id, own.signal);
      if (!own.signal.aborted) setShown(got);
    } catch (cause) {
      if (!own.signal.aborted) setError(cause);
    } finally {
      if (!own.signal.aborted) setBusy(false);
    }
  };
  return (
    <section className="card">
      <header className="card-head">
        <h2 className="grow">Passwords</h2>
        {shown ? (
          <Button small icon={<EyeOff />} onClick={() => setShown(null)}>
            Hide passwords
          </Button>
        ) : (
          <Button small icon={<Eye />} busy={busy} onClick={() => void show()}>
            Show passwords
          </Button>
        )}
      </header>
      <div className="card-body stack">
        {error !== null && <Failure what="The passwords could not be read." error={error} />}
        <Facts rows={facts(shown)} />
        {shown ? (
          <div className="row wrap">
            <Button small icon={<Download />} onClick={() => download(shown.certificateAuthority, fileName(c.name))}>
              Download the certificate
            </Button>
            <span className="faint grow">
              Who signed the members' certificates. Clients take it as <code>sslrootcert</code>.
            </span>
          </div>
        ) : (
          <p className="faint">That you looked at them is written into the audit log.</p>
        )}
      </div>
    </section>
  );
}

function facts(shown: DatabaseCredentials | null): Fact[] {
  const row = (name: string, what: string, text: string | undefined): Fact => [
    name,
    text === undefined ? (
      <span className="faint" key={what}>
        <span aria-hidden="true">{COVERED}</span>
        <span className="sr-only">not shown</span>
      </span>
    ) : (
      <span key={what} className="copy-line">
        <code className="break">{text}</code>
        <CopyButton text={text} label={`Copy ${what}`} />
      </span>
    ),
  ];
  return [
    row(shown?.application.user ?? "Application", "the application's password", shown?.application.password),
    row(shown?.admin.user ?? "Administrator", "the administrator's password", shown?.admin.password),
    row("For writes", "the address for writes with its password", shown?.readWrite),
    row("For reads", "the address for reads with its password", shown?.readOnly),
    row("Direct", "the address of the members themselves with its password", shown?.direct),
  ];
}

const fileName = (cluster: string): string => `${cluster.replace(/[^A-Za-z0-9_.-]+/g, "-")}-ca.pem`;

function download(text: string, name: string): void {
  const url = URL.createObjectURL(new Blob([text], { type: "application/x-pem-file" }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  URL.revokeObjectURL(url);
}
