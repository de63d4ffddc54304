import { ClipboardPaste, Dices, Plus, X } from "lucide-react";
import { useState } from "react";
import { parseEnvFile } from "../../lib/shell";
import { looksSecret } from "../../lib/validate";
import { Button, IconButton } from "../../ui/button";
import { Dialog } from "../../ui/dialog";
import { Cell, Field, Input, Select, Textarea } from "../../ui/field";
import { DialogButtons } from "./actions";
import { type PairRow, type PortRow, type Problems, pairRow, portRow, randomSecret, type VolumeRow, volumeRow } from "./form";

function replace<T extends { key: number }>(rows: T[], key: number, change: Partial<T>): T[] {
  return rows.map((r) => (r.key === key ? { ...r, ...change } : r));
}

export function PortRows({ rows, onRows, problems }: { rows: PortRow[]; onRows: (rows: PortRow[]) => void; problems: Problems }) {
  return (
    <div className="rows">
      {rows.length > 0 && (
        <div className="rows-line rows-port rows-head" aria-hidden="true">
          <span>Container's port</span>
          <span>Node's port</span>
          <span>Protocol</span>
          <span>Node's address</span>
        </div>
      )}
      {rows.map((row, i) => {
        const set = (change: Partial<PortRow>) => onRows(replace(rows, row.key, change));
        return (
          <div key={row.key} className="rows-line rows-port">
            <Cell label={`Port ${i + 1}, of the container`} problem={problems[`ports[${i}].container`] ?? problems[`ports[${i}]`]}>
              {(d) => (
                <Input {...d} inputMode="numeric" placeholder="80" value={row.container} onValue={(container) => set({ container })} />
              )}
            </Cell>
            <Cell label={`Port ${i + 1}, of the node`} problem={problems[`ports[${i}].host`]}>
              {(d) => <Input {...d} inputMode="numeric" placeholder="chosen" value={row.host} onValue={(host) => set({ host })} />}
            </Cell>
            <Cell label={`Port ${i + 1}, protocol`}>
              {(d) => (
                <Select
                  {...d}
                  value={row.protocol}
                  onValue={(protocol) => set({ protocol })}
                  options={[
                    ["tcp", "TCP"],
                    ["udp", "UDP"],
                  ]}
                />
              )}
            </Cell>
            <Cell label={`Port ${i + 1}, address of the node`} problem={problems[`ports[${i}].hostIp`]}>
              {(d) => <Input {...d} placeholder="all" value={row.hostIp} onValue={(hostIp) => set({ hostIp })} />}
            </Cell>
            <IconButton label={`Remove port ${i + 1}`} onClick={() => onRows(rows.filter((r) => r.key !== row.key))}>
              <X />
            </IconButton>
          </div>
        );
      })}
      <div>
        <Button small icon={<Plus />} onClick={() => onRows([...rows, portRow()])}>
          Add a port
        </Button>
      </div>
    </div>
  );
}

export function VolumeRows({ rows, onRows, problems }: { rows: VolumeRow[]; onRows: (rows: VolumeRow[]) => void; problems: Problems }) {
  return (
    <div className="rows">
      {rows.length > 0 && (
        <div className="rows-line rows-volume rows-head" aria-hidden="true">
          <span>Volume, or path on the node</span>
          <span>Path in the container</span>
          <span>Mode</span>
        </div>
      )}
      {rows.map((row, i) => {
        const set = (change: Partial<VolumeRow>) => onRows(replace(rows, row.key, change));
        return (
          <div key={row.key} className="rows-line rows-volume">
            <Cell label={`Volume ${i + 1}, name or path on the node`} problem={problems[`volumes[${i}].host`]}>
              {(d) => <Input {...d} mono placeholder="anonymous" value={row.host} onValue={(host) => set({ host })} />}
            </Cell>
            <Cell
              label={`Volume ${i + 1}, path in the container`}
              problem={problems[`volumes[${i}].container`] ?? problems[`volumes[${i}]`]}
            >
              {(d) => <Input {...d} mono placeholder="/data" value={row.container} onValue={(container) => set({ container })} />}
            </Cell>
            <Cell label={`Volume ${i + 1}, mode`}>
              {(d) => (
                <Select
                  {...d}
                  value={row.mode}
                  onValue={(mode) => set({ mode })}
                  options={[
                    ["rw", "Read, write"],
                    ["ro", "Read only"],
                  ]}
                />
              )}
            </Cell>
            <IconButton label={`Remove volume ${i + 1}`} onClick={() => onRows(rows.filter((r) => r.key !== row.key))}>
              <X />
            </IconButton>
          </div>
        );
      })}
      <div>
        <Button small icon={<Plus />} onClick={() => onRows([...rows, volumeRow()])}>
          Add a volume
        </Button>
      </div>
    </div>
  );
}

export function PairRows(props: {
  field: string;
  what: string;
  rows: PairRow[];
  onRows: (rows: PairRow[]) => void;
  problems: Problems;
  /** Values of these names are covered while they are not being changed. */
  secret?: (name: string) => boolean;
  more?: React.ReactNode;
}) {
  const { field, what, rows, onRows, problems } = props;
  return (
    <div className="rows">
      {rows.map((row, i) => {
        const set = (change: Partial<PairRow>) => onRows(replace(rows, row.key, change));
        const secret = props.secret?.(row.name) ?? false;
        return (
          <div key={row.key} className="rows-line rows-env">
            <Cell label={`Name of ${what} ${i + 1}`} problem={problems[`${field}[${i}]`]}>
              {(d) => <Input {...d} mono placeholder="NAME" value={row.name} onValue={(name) => set({ name })} />}
            </Cell>
            <Cell label={`Value of ${what} ${i + 1}`}>
              {(d) => (
                <div className={secret ? "with-suffix" : ""}>
                  <Input
                    {...d}
                    mono
                    placeholder="value"
                    type={secret ? "password" : "text"}
                    autoComplete="new-password"
                    value={row.value}
                    onValue={(value) => set({ value })}
                    onFocus={(e) => {
                      if (secret) e.target.type = "text";
                    }}
                    onBlur={(e) => {
                      if (secret) e.target.type = "password";
                    }}
                  />
                  {secret && row.value === "" && (
                    <IconButton small label="Make a random value" onClick={() => set({ value: randomSecret() })}>
                      <Dices />
                    </IconButton>
                  )}
                </div>
              )}
            </Cell>
            <IconButton label={`Remove ${what} ${i + 1}`} onClick={() => onRows(rows.filter((r) => r.key !== row.key))}>
              <X />
            </IconButton>
          </div>
        );
      })}
      {problems[field] && <p className="problem">{problems[field]}</p>}
      <div className="row wrap">
        <Button small icon={<Plus />} onClick={() => onRows([...rows, pairRow()])}>
          Add a {what}
        </Button>
        {props.more}
      </div>
    </div>
  );
}

export function EnvironmentRows({ rows, onRows, problems }: { rows: PairRow[]; onRows: (rows: PairRow[]) => void; problems: Problems }) {
  const [pasting, setPasting] = useState(false);
  const [text, setText] = useState("");
  const paste = () => {
    const read = parseEnvFile(text);
    const names = new Set(read.map(([name]) => name));
    onRows([
      ...rows.filter((r) => !names.has(r.name) && (r.name !== "" || r.value !== "")),
      ...read.map(([name, value]) => pairRow(name, value)),
    ]);
    setPasting(false);
    setText("");
  };
  return (
    <>
      <PairRows
        field="environment"
        what="variable"
        rows={rows}
        onRows={onRows}
        problems={problems}
        secret={looksSecret}
        more={
          <Button small variant="ghost" icon={<ClipboardPaste />} onClick={() => setPasting(true)}>
            Paste an .env file
          </Button>
        }
      />
      {pasting && (
        <Dialog
          title="Paste an .env file"
          onClose={() => setPasting(false)}
          onSubmit={paste}
          footer={
            <DialogButtons
              action="Take them over"
              busy={false}
              onClose={() => setPasting(false)}
              disabled={parseEnvFile(text).length === 0}
            />
          }
        >
          <Field label="Lines NAME=value" hint="Names that are there already get the new value.">
            {(d) => (
              <Textarea
                {...d}
                className="mono"
                rows={10}
                value={text}
                onValue={setText}
                placeholder={"# comments are left out\nPORT=8080\nDATABASE_URL=postgres://…"}
              />
            )}
          </Field>
        </Dialog>
      )}
    </>
  );
}
