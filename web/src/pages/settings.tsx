import { useQuery } from "@tanstack/react-query";
import { LogOut } from "lucide-react";
import { type FormEvent, useState } from "react";
import { session } from "../api";
import * as calls from "../api/calls";
import { problemsOf, useAct, useUser } from "../lib/data";
import { duration, plural } from "../lib/format";
import { setTheme, useThemeChoice } from "../lib/theme";
import * as check from "../lib/validate";
import { Time } from "../ui/bits";
import { Button } from "../ui/button";
import { Field, Input, Segmented } from "../ui/field";
import { Page } from "../ui/page";
import { Failure, Loading } from "../ui/states";
import { Table } from "../ui/table";

export function SettingsPage() {
  const user = useUser();
  const theme = useThemeChoice();
  return (
    <Page
      narrow
      title="Settings"
      actions={
        <Button icon={<LogOut />} onClick={() => void session.signOut()}>
          Sign out
        </Button>
      }
    >
      <div className="grid">
        <section className="card span-6">
          <header className="card-head">
            <h2>You</h2>
          </header>
          <dl className="facts card-body">
            <dt>Username</dt>
            <dd>{user.username}</dd>
            <dt>Role</dt>
            <dd>{user.role}</dd>
            <dt>Since</dt>
            <dd>
              <Time at={user.created} />
            </dd>
            <dt>Theme</dt>
            <dd>
              <Segmented
                label="Theme"
                value={theme}
                onValue={setTheme}
                options={[
                  ["system", "System"],
                  ["light", "Light"],
                  ["dark", "Dark"],
                ]}
              />
            </dd>
          </dl>
        </section>
        <SystemCard />
        <PasswordCard />
      </div>
      <Sessions />
    </Page>
  );
}

function SystemCard() {
  const query = useQuery({ queryKey: ["system"], queryFn: ({ signal }) => calls.system.info(signal), refetchInterval: 30_000 });
  const info = query.data;
  return (
    <section className="card span-6">
      <header className="card-head">
        <h2>Control plane</h2>
        <a className="link" href="/docs" target="_blank" rel="noreferrer">
          API reference
        </a>
      </header>
      <div className="card-body">
        {query.error ? (
          <Failure error={query.error} retry={() => void query.refetch()} />
        ) : !info ? (
          <Loading what="the control plane's state" />
        ) : (
          <dl className="facts">
            <dt>Version</dt>
            <dd>{info.version}</dd>
            <dt>Database</dt>
            <dd>{info.database === "sqlite" ? "SQLite" : "PostgreSQL"}</dd>
            <dt>Up for</dt>
            <dd>{duration(info.uptime * 1000)}</dd>
            <dt>Fleet</dt>
            <dd>
              {info.nodesConnected} of {plural(info.nodes, "node")} connected, {plural(info.containers, "container")}
            </dd>
          </dl>
        )}
      </div>
    </section>
  );
}

function PasswordCard() {
  const [current, setCurrent] = useState("");
  const [next, setNext] = useState("");
  const [again, setAgain] = useState("");
  const [tried, setTried] = useState(false);
  const own = {
    current: current === "" ? "Enter your present password" : undefined,
    next: check.password(next),
    again: again !== next ? "This is not the same" : undefined,
  };
  const change = useAct({
    run: () => calls.auth.changePassword({ currentPassword: current, newPassword: next }),
    done: () => "Your password is changed. Your other sessions have ended.",
    stale: ["sessions"],
    quiet: true,
    after: () => {
      setCurrent("");
      setNext("");
      setAgain("");
      setTried(false);
    },
  });
  const server = problemsOf(change.error);
  const submit = (event: FormEvent) => {
    event.preventDefault();
    setTried(true);
    if (!own.current && !own.next && !own.again) change.mutate();
  };
  return (
    <section className="card span-12">
      <header className="card-head">
        <h2>Change the password</h2>
      </header>
      <form className="card-body stack" onSubmit={submit} noValidate>
        <div className="form-3">
          <Field label="Present password" problem={(tried ? own.current : undefined) ?? server.currentPassword}>
            {(d) => <Input {...d} type="password" autoComplete="current-password" value={current} onValue={setCurrent} />}
          </Field>
          <Field label="New password" hint="At least 10 characters" problem={(tried ? own.next : undefined) ?? server.newPassword}>
            {(d) => <Input {...d} type="password" autoComplete="new-password" value={next} onValue={setNext} />}
          </Field>
          <Field label="New password again" problem={tried ? own.again : undefined}>
            {(d) => <Input {...d} type="password" autoComplete="new-password" value={again} onValue={setAgain} />}
          </Field>
        </div>
        {change.error !== null && Object.keys(server).length === 0 && <Failure error={change.error} />}
        <div>
          <Button type="submit" variant="primary" busy={change.isPending}>
            Change it
          </Button>
        </div>
      </form>
    </section>
  );
}

function Sessions() {
  const query = useQuery({ queryKey: ["sessions"], queryFn: ({ signal }) => calls.auth.sessions(signal) });
  const end = useAct({
    run: (id: string) => calls.auth.endSession(id),
    done: () => "The session has ended.",
    failed: "The session could not be ended.",
    stale: ["sessions"],
  });
  return (
    <>
      <div className="group-head">
        <h2>Sessions</h2>
        <p>Each browser and command line you are signed in with.</p>
      </div>
      {query.error && <Failure what="Your sessions could not be read." error={query.error} retry={() => void query.refetch()} />}
      <Table
        label="Sessions"
        rows={query.data}
        placeholders={2}
        id={(s) => s.id}
        columns={[
          { key: "id", head: "Session", lead: true, cell: (s) => <code className="break">{s.id}</code> },
          { key: "created", head: "Signed in", cell: (s) => <Time at={s.created} /> },
          { key: "used", head: "Last used", cell: (s) => <Time at={s.lastUsed} /> },
          { key: "expires", head: "Ends", cell: (s) => <Time at={s.expires} /> },
        ]}
        menuOnly
        actions={(s) => (
          <Button small variant="ghost" busy={end.isPending && end.variables === s.id} onClick={() => end.mutate(s.id)}>
            End
          </Button>
        )}
      />
    </>
  );
}
