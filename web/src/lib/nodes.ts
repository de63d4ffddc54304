import type { Node, NodeStatus, Operation } from "../api/types";

/** A node's status in one word: the API's, and what else is known of it that matters more. */
export type NodeState = NodeStatus | "lost" | "draining" | "revoked";

/** `running` are the operations that go on now. */
export function nodeState(node: Pick<Node, "id" | "status" | "lostSince" | "revoked">, running: readonly Operation[] = []): NodeState {
  if (node.revoked) return "revoked";
  if (node.lostSince) return "lost";
  if (node.status !== "notReady" && running.some((o) => o.kind === "node.drain" && o.target === node.id)) return "draining";
  return node.status;
}

export const NODE_STATES: readonly (readonly [NodeState, string])[] = [
  ["ready", "Ready"],
  ["cordoned", "Cordoned"],
  ["draining", "Draining"],
  ["notReady", "Not ready"],
  ["lost", "Lost"],
  ["revoked", "Revoked"],
];

/** The platform of a node's machine, as executables are named by. */
export const platformOf = (arch: string): string => `linux-${arch}`;

/** Whether version `a` is newer than `b`: by its numbers; of the same numbers, one without an ending (`-rc.1`) is. */
export function newer(a: string, b: string): boolean {
  const read = (v: string) => {
    const [numbers = "", ...rest] = (v.split("+")[0] ?? "").split("-");
    return { numbers: numbers.split(".").map(Number), ending: rest.join("-") };
  };
  const [x, y] = [read(a), read(b)];
  for (let i = 0; i < 3; i++) {
    const difference = (x.numbers[i] ?? 0) - (y.numbers[i] ?? 0);
    if (difference !== 0) return difference > 0;
  }
  if (x.ending === y.ending) return false;
  if (x.ending === "" || y.ending === "") return x.ending === "";
  return x.ending.localeCompare(y.ending, "en", { numeric: true }) > 0;
}

/**
 * What to paste on a machine that is to join, or to join again. The token goes by the environment, so that it is in no list of
 * processes.
 */
export function joinCommand(token: string, address: string, by: "systemd" | "hand"): string {
  const agent = by === "systemd" ? "neuralmesh agent install" : "neuralmesh agent";
  return `NEURALMESH_JOIN=${token} ${agent} --server https://${address}`;
}
