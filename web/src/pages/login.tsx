import { type FormEvent, useState } from "react";
import { ApiError, messageOf, session } from "../api";
import { useDocumentTitle } from "../lib/hooks";
import { Button } from "../ui/button";
import { Field, Input } from "../ui/field";
import { Notice } from "../ui/states";

export function LoginPage({ notice }: { notice: string | undefined }) {
  useDocumentTitle("Sign in");
  const [username, setUsername] = useState("");
  const [password, setPassword] = useState("");
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<string | null>(null);

  const submit = async (event: FormEvent) => {
    event.preventDefault();
    if (!username || !password) {
      setProblem("Enter a username and a password.");
      return;
    }
    setBusy(true);
    setProblem(null);
    try {
      await session.signIn(username.trim(), password);
    } catch (error) {
      setProblem(explain(error));
      setPassword("");
      setBusy(false);
    }
  };

  return (
    <main className="login">
      <div className="login-box">
        <div className="brand">
          <img src="/favicon.svg" alt="" />
          NeuralMesh
        </div>
        <form onSubmit={submit} noValidate>
          <h1>Sign in</h1>
          {notice && !problem && <Notice tone="blue">{notice}</Notice>}
          {problem && <Notice tone="red">{problem}</Notice>}
          <Field label="Username">
            {(d) => (
              <Input
                {...d}
                name="username"
                autoComplete="username"
                autoCapitalize="none"
                autoFocus
                value={username}
                onValue={setUsername}
              />
            )}
          </Field>
          <Field label="Password">
            {(d) => <Input {...d} name="password" type="password" autoComplete="current-password" value={password} onValue={setPassword} />}
          </Field>
          <Button type="submit" variant="primary" busy={busy}>
            Sign in
          </Button>
        </form>
        <p className="hint">
          The first admin's password is on the control plane's machine, in <code>initial-admin-password</code> of its data directory.
        </p>
      </div>
    </main>
  );
}

function explain(error: unknown): string {
  if (error instanceof ApiError && error.status === 429 && error.retryAfter) {
    return `${messageOf(error)}${/\bsecond/.test(error.message) ? "" : ` Try again in ${error.retryAfter} s.`}`;
  }
  return messageOf(error);
}
