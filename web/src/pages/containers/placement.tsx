import { Plus, X } from "lucide-react";
import { useId } from "react";
import type { Node, OnNodeLost } from "../../api/types";
import { plural } from "../../lib/format";
import { nodeState } from "../../lib/nodes";
import { Button, IconButton } from "../../ui/button";
import { Cell, Field, Input, Select } from "../../ui/field";
import { constraintRow, type Form, knownConstraints, type Problems } from "./form";

export const PLACEMENT_FIELDS = ["nodeId", "constraints", "spread", "onNodeLost"];

const WHEN_LOST: readonly (readonly [OnNodeLost, string])[] = [
  ["wait", "Wait until it is back"],
  ["reschedule", "Move to another node"],
];

export function placementText(form: Form, nodes: readonly Node[]): string {
  const parts: string[] = [];
  if (form.nodeId) parts.push(`on ${nodes.find((n) => n.id === form.nodeId)?.name ?? form.nodeId}`);
  else parts.push(nodes.length > 1 ? "the node is chosen" : "the only node");
  const wanted = form.constraints.filter((c) => c.text.trim() !== "").length;
  if (wanted > 0) parts.push(plural(wanted, "constraint"));
  if (!form.nodeId && form.spread.trim()) parts.push(`spread over ${form.spread.trim()}`);
  if (form.onNodeLost === "reschedule") parts.push("moves when it is lost");
  return parts.join(", ");
}

/** Where a container may run, and what becomes of it when its node is lost. */
export function PlacementFields(props: { form: Form; set: (change: Partial<Form>) => void; problems: Problems; nodes: readonly Node[] }) {
  const { form, set, problems, nodes } = props;
  const list = useId();
  const known = knownConstraints(nodes);
  return (
    <>
      <div className="form-2">
        <Field
          label="Node"
          problem={problems.nodeId}
          hint={form.nodeId ? undefined : "By free CPU and memory, ports and constraints; its operation says why"}
        >
          {(d) => (
            <Select
              {...d}
              value={form.nodeId}
              onValue={(nodeId) => set({ nodeId })}
              options={[
                ["", "Any that fits"],
                ...nodes.map((n) => {
                  const state = nodeState(n);
                  return [n.id, state === "ready" ? n.name : `${n.name} (${state === "notReady" ? "not ready" : state})`] as const;
                }),
              ]}
            />
          )}
        </Field>
        <Field
          label="When its node is lost"
          problem={problems.onNodeLost}
          hint={form.onNodeLost === "reschedule" ? "What it wrote is lost; not with a writable volume or folder" : undefined}
        >
          {(d) => <Select {...d} value={form.onNodeLost} onValue={(onNodeLost) => set({ onNodeLost })} options={WHEN_LOST} />}
        </Field>
        {!form.nodeId && (
          <Field
            label="Spread over"
            optional
            problem={problems.spread}
            hint="A label of nodes: containers of its kind are spread evenly over its values"
          >
            {(d) => (
              <Input {...d} mono list={`${list}-keys`} value={form.spread} onValue={(spread) => set({ spread })} placeholder="zone" />
            )}
          </Field>
        )}
      </div>
      <datalist id={`${list}-keys`}>
        {known.keys.map((k) => (
          <option key={k} value={k} />
        ))}
      </datalist>
      <datalist id={`${list}-texts`}>
        {known.texts.map((k) => (
          <option key={k} value={k} />
        ))}
      </datalist>
      <div className="field">
        <span className="field-label">
          Constraints<span className="optional"> · optional</span>
        </span>
        <div className="rows">
          {form.constraints.map((row, i) => (
            <div key={row.key} className="rows-line rows-constraint">
              <Cell label={`Constraint ${i + 1}`} problem={problems[`constraints[${i}]`]}>
                {(d) => (
                  <Input
                    {...d}
                    mono
                    list={`${list}-texts`}
                    placeholder="zone=a, disk!=hdd, gpu"
                    value={row.text}
                    onValue={(text) => set({ constraints: form.constraints.map((c) => (c.key === row.key ? { ...c, text } : c)) })}
                  />
                )}
              </Cell>
              <IconButton
                label={`Remove constraint ${i + 1}`}
                onClick={() => set({ constraints: form.constraints.filter((c) => c.key !== row.key) })}
              >
                <X />
              </IconButton>
            </div>
          ))}
          {problems.constraints && <p className="problem">{problems.constraints}</p>}
          <div>
            <Button
              small
              icon={<Plus />}
              disabled={form.constraints.length >= 20}
              onClick={() => set({ constraints: [...form.constraints, constraintRow()] })}
            >
              Add a constraint
            </Button>
          </div>
        </div>
      </div>
    </>
  );
}
