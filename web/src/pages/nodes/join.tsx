import { useEffect, useState } from "react";
import * as calls from "../../api/calls";
import type { JoinToken, Node } from "../../api/types";
import { useAct, useNodes } from "../../lib/data";
import { joinCommand } from "../../lib/nodes";
import { Link } from "../../lib/router";
import { CopyBox, Time } from "../../ui/bits";
import { Button } from "../../ui/button";
import { Dialog } from "../../ui/dialog";
import { Field, Input, Segmented } from "../../ui/field";
import { Failure, Loading, Notice } from "../../ui/states";

const AGENTS_PORT = 7443;

/**
 * A join token and the command that uses it. Made as the dialog opens, shown this once. With a node, the machine that joins is that
 * node again.
 */
export function JoinDialog({ node, onClose }: { node?: Node; onClose: () => void }) {
  const [token, setToken] = useState<JoinToken | null>(null);
  const [by, setBy] = useState<"systemd" | "hand">("systemd");
  const host = location.hostname;
  const local = host === "localhost" || host === "127.0.0.1" || host === "[::1]";
  const [address, setAddress] = useState(`${host}:${AGENTS_PORT}`);
  const make = useAct({
    run: () => (node ? calls.nodes.rejoinToken(node.id) : calls.nodes.joinToken()),
    stale: [],
    quiet: true,
    after: setToken,
  });
  const { mutate } = make;
  useEffect(() => mutate(), [mutate]);
  const joined = useJoined(node?.id);
  return (
    <Dialog
      wide
      title={node ? `Let ${node.name} join again` : "Add a node"}
      onClose={onClose}
      footer={<Button onClick={onClose}>Done</Button>}
    >
      {joined.map((n) => (
        <Notice key={n.id} tone="green">
          <Link className="link" href={`/nodes/${n.id}`} onClick={onClose}>
            {n.name}
          </Link>{" "}
          has joined.
        </Notice>
      ))}
      <p className="muted">
        {node
          ? "On its machine, run as root. It forgets the certificate that it has, and joins as this node again; older certificates stay refused."
          : "On the new machine, which needs Docker and the neuralmesh program, run as root:"}
      </p>
      {make.error !== null && <Failure what="No join token could be made." error={make.error} retry={() => mutate()} />}
      {token ? (
        <>
          <CopyBox text={joinCommand(token.token, address.trim(), by)} label="Copy the command" />
          <div className="form-2">
            <Field
              label="Address of the control plane"
              hint="Where agents dial in, as the new machine reaches it; nothing has to be open on the node itself"
            >
              {(d) => <Input {...d} mono value={address} onValue={setAddress} />}
            </Field>
            <div className="field">
              <span className="field-label">The agent runs</span>
              <div>
                <Segmented
                  label="The agent runs"
                  value={by}
                  onValue={setBy}
                  options={[
                    ["systemd", "As a service"],
                    ["hand", "While the command does"],
                  ]}
                />
              </div>
            </div>
          </div>
          {local && address.startsWith(host) && (
            <Notice tone="amber">
              {host} is this machine only. Another one needs the control plane's name or address here, and the control plane to listen
              there: <code>--agent-listen 0.0.0.0:{AGENTS_PORT}</code>.
            </Notice>
          )}
          <p className="faint">
            The token is good once, and ends <Time at={token.expires} />. It is not shown again. The node appears here and in the list as
            soon as it has joined.
          </p>
        </>
      ) : (
        make.error === null && <Loading what="the token" />
      )}
    </Dialog>
  );
}

/** Nodes that have joined since this was first drawn; of one node, once its certificates count again. */
function useJoined(id: string | undefined): Node[] {
  const { data } = useNodes();
  const [before, setBefore] = useState<ReadonlySet<string> | null>(null);
  useEffect(() => {
    if (data && before === null) setBefore(new Set(data.filter((n) => !(n.id === id && n.revoked)).map((n) => n.id)));
  }, [data, before, id]);
  if (before === null) return [];
  return (data ?? []).filter((n) => !before.has(n.id) && !n.revoked && (id === undefined || n.id === id));
}
