import { KeyRound, Plus, Trash2, UserCheck, UserCog, Users, UserX } from "lucide-react";
import { useState } from "react";
import * as calls from "../api/calls";
import type { Role, User } from "../api/types";
import { problemsOf, useAct, usePaged, useUser } from "../lib/data";
import * as check from "../lib/validate";
import { Badge, Time } from "../ui/bits";
import { Button } from "../ui/button";
import { Confirm, Dialog } from "../ui/dialog";
import { Field, Input, Select } from "../ui/field";
import { Menu } from "../ui/menu";
import { Page } from "../ui/page";
import { Empty, Failure } from "../ui/states";
import { Pager, Table } from "../ui/table";
import { DialogButtons } from "./containers/actions";

export const ROLES: readonly (readonly [Role, string])[] = [
  ["viewer", "Viewer: reads everything but secrets"],
  ["operator", "Operator: changes containers, images, volumes, networks"],
  ["admin", "Admin: also users, nodes, registries, audit"],
];

type Asked = { what: "role" | "password" | "remove"; user: User };

export function UsersPage() {
  const self = useUser();
  const [creating, setCreating] = useState(false);
  const [asked, setAsked] = useState<Asked | null>(null);
  const { query, rows, pager } = usePaged(["users"], (cursor, signal) => calls.users.list({ cursor }, signal));
  const enable = useAct({
    run: ({ user, disabled }: { user: User; disabled: boolean }) => calls.users.update(user.id, { disabled }),
    done: (u) => (u.disabled ? `${u.username} can no longer sign in.` : `${u.username} can sign in again.`),
    failed: "The user was not changed.",
    stale: ["users"],
  });
  return (
    <Page
      title="Users"
      actions={
        <Button variant="primary" icon={<Plus />} onClick={() => setCreating(true)}>
          Add a user
        </Button>
      }
    >
      {query.error && <Failure what="The users could not be read." error={query.error} retry={() => void query.refetch()} />}
      {rows?.length === 0 ? (
        <Empty icon={<Users aria-hidden="true" />} title="No users" />
      ) : (
        !(query.error && !rows) && (
          <Table
            label="Users"
            rows={rows}
            id={(u) => u.id}
            placeholders={3}
            columns={[
              {
                key: "username",
                head: "Username",
                lead: true,
                cell: (u) => (
                  <span className="row">
                    <span className="cell-main">
                      <span className="name">{u.username}</span>
                    </span>
                    {u.id === self.id && <Badge tone="blue">you</Badge>}
                    {u.disabled && <Badge tone="red">disabled</Badge>}
                  </span>
                ),
              },
              { key: "role", head: "Role", cell: (u) => u.role },
              { key: "created", head: "Created", cell: (u) => <Time at={u.created} /> },
              { key: "updated", head: "Changed", cell: (u) => <Time at={u.updated} /> },
            ]}
            menuOnly
            actions={(u) =>
              u.id === self.id ? null : (
                <Menu
                  small
                  label={`Actions for ${u.username}`}
                  items={[
                    { label: "Change the role…", icon: <UserCog />, onSelect: () => setAsked({ what: "role", user: u }) },
                    { label: "Set a new password…", icon: <KeyRound />, onSelect: () => setAsked({ what: "password", user: u }) },
                    u.disabled
                      ? { label: "Enable", icon: <UserCheck />, onSelect: () => enable.mutate({ user: u, disabled: false }) }
                      : { label: "Disable", icon: <UserX />, onSelect: () => enable.mutate({ user: u, disabled: true }) },
                    "line",
                    { label: "Remove…", icon: <Trash2 />, danger: true, onSelect: () => setAsked({ what: "remove", user: u }) },
                  ]}
                />
              )
            }
          />
        )
      )}
      <Pager {...pager} />
      {creating && <CreateUser onClose={() => setCreating(false)} />}
      {asked?.what === "role" && <ChangeRole user={asked.user} onClose={() => setAsked(null)} />}
      {asked?.what === "password" && <SetPassword user={asked.user} onClose={() => setAsked(null)} />}
      {asked?.what === "remove" && <RemoveUser user={asked.user} onClose={() => setAsked(null)} />}
    </Page>
  );
}

function CreateUser({ onClose }: { onClose: () => void }) {
  const [username, setUsername] = useState("");
  const [password, setPassword] = useState("");
  const [role, setRole] = useState<Role>("viewer");
  const [tried, setTried] = useState(false);
  const own = { username: check.username(username.trim()), password: check.password(password) };
  const create = useAct({
    run: () => calls.users.create({ username: username.trim(), password, role }),
    done: (u) => `${u.username} can sign in now.`,
    stale: ["users"],
    quiet: true,
    after: onClose,
  });
  const server = problemsOf(create.error);
  return (
    <Dialog
      title="Add a user"
      onClose={onClose}
      onSubmit={() => {
        setTried(true);
        if (!own.username && !own.password) create.mutate();
      }}
      footer={<DialogButtons action="Add" busy={create.isPending} onClose={onClose} />}
    >
      <Field label="Username" problem={(tried ? own.username : undefined) ?? server.username}>
        {(d) => <Input {...d} value={username} onValue={setUsername} autoCapitalize="none" />}
      </Field>
      <Field
        label="Password"
        hint="At least 10 characters; they can change it once signed in"
        problem={(tried ? own.password : undefined) ?? server.password}
      >
        {(d) => <Input {...d} type="password" autoComplete="new-password" value={password} onValue={setPassword} />}
      </Field>
      <Field label="Role" problem={server.role}>
        {(d) => <Select {...d} value={role} onValue={setRole} options={ROLES} />}
      </Field>
      {create.error !== null && Object.keys(server).length === 0 && <Failure error={create.error} />}
    </Dialog>
  );
}

function ChangeRole({ user, onClose }: { user: User; onClose: () => void }) {
  const [role, setRole] = useState(user.role);
  const save = useAct({
    run: () => calls.users.update(user.id, { role }),
    done: (u) => `${u.username} is ${u.role === "viewer" ? "a" : "an"} ${u.role} now.`,
    stale: ["users"],
    quiet: true,
    after: onClose,
  });
  return (
    <Dialog
      title={`Role of ${user.username}`}
      onClose={onClose}
      onSubmit={() => save.mutate()}
      footer={<DialogButtons action="Save" busy={save.isPending} onClose={onClose} disabled={role === user.role} />}
    >
      <Field label="Role">{(d) => <Select {...d} value={role} onValue={setRole} options={ROLES} />}</Field>
      {save.error !== null && <Failure error={save.error} />}
    </Dialog>
  );
}

function SetPassword({ user, onClose }: { user: User; onClose: () => void }) {
  const [password, setPassword] = useState("");
  const [tried, setTried] = useState(false);
  const own = check.password(password);
  const save = useAct({
    run: () => calls.users.update(user.id, { password }),
    done: (u) => `${u.username} has a new password.`,
    stale: ["users"],
    quiet: true,
    after: onClose,
  });
  const server = problemsOf(save.error);
  return (
    <Dialog
      title={`New password for ${user.username}`}
      onClose={onClose}
      onSubmit={() => {
        setTried(true);
        if (!own) save.mutate();
      }}
      footer={<DialogButtons action="Set it" busy={save.isPending} onClose={onClose} />}
    >
      <p className="muted">Their sessions end: they have to sign in again with it.</p>
      <Field label="Password" hint="At least 10 characters" problem={(tried ? own : undefined) ?? server.password}>
        {(d) => <Input {...d} type="password" autoComplete="new-password" value={password} onValue={setPassword} />}
      </Field>
      {save.error !== null && !server.password && <Failure error={save.error} />}
    </Dialog>
  );
}

function RemoveUser({ user, onClose }: { user: User; onClose: () => void }) {
  const remove = useAct({
    run: () => calls.users.remove(user.id),
    done: () => `Removed ${user.username}.`,
    stale: ["users"],
    quiet: true,
    after: onClose,
  });
  return (
    <Confirm
      title={`Remove ${user.username}?`}
      action="Remove"
      busy={remove.isPending}
      error={remove.error}
      onConfirm={() => remove.mutate()}
      onClose={onClose}
    >
      <p className="muted">Their sessions and API tokens end at once. What they made stays.</p>
    </Confirm>
  );
}
