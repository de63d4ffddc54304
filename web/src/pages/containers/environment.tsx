import { Eye, EyeOff, ListTree } from "lucide-react";
import { useState } from "react";
import type { Container } from "../../api/types";
import { looksSecret } from "../../lib/validate";
import { CopyButton } from "../../ui/bits";
import { Button, IconButton } from "../../ui/button";
import { SearchBox } from "../../ui/search";
import { Empty } from "../../ui/states";
import { Table } from "../../ui/table";

const MASK = "********";

export function EnvironmentTab({ container }: { container: Container }) {
  const [search, setSearch] = useState("");
  const [open, setOpen] = useState<ReadonlySet<string>>(new Set());
  const all = Object.entries(container.environment).sort(([a], [b]) => a.localeCompare(b));
  const rows = all.filter(([name]) => name.toLowerCase().includes(search.toLowerCase()));
  if (all.length === 0) {
    return (
      <Empty icon={<ListTree aria-hidden="true" />} title="No environment variables were given">
        The image may still set some of its own; the Inspect tab lists those.
      </Empty>
    );
  }
  const secret = all.filter(([name, value]) => looksSecret(name) && value !== MASK).map(([name]) => name);
  const toggle = (name: string) => {
    const next = new Set(open);
    if (!next.delete(name)) next.add(name);
    setOpen(next);
  };
  const allOpen = secret.length > 0 && secret.every((n) => open.has(n));
  return (
    <div className="stack">
      <div className="filters">
        <SearchBox label="Search variables" value={search} onValue={setSearch} />
        {secret.length > 0 && (
          <Button icon={allOpen ? <EyeOff /> : <Eye />} onClick={() => setOpen(new Set(allOpen ? [] : secret))}>
            {allOpen ? "Cover secrets" : "Show secrets"}
          </Button>
        )}
      </div>
      <Table
        label="Environment variables"
        rows={rows}
        id={([name]) => name}
        columns={[
          { key: "name", head: "Name", lead: true, cell: ([name]) => <code className="break">{name}</code> },
          {
            key: "value",
            head: "Value",
            wide: true,
            cell: ([name, value]) => (
              <code className="break">
                {looksSecret(name) && !open.has(name) ? (
                  <span className="faint">{MASK}</span>
                ) : (
                  value || <span className="faint">empty</span>
                )}
              </code>
            ),
          },
        ]}
        actions={([name, value]) =>
          value === MASK ? (
            <span className="faint" title="Your role does not see it">
              covered
            </span>
          ) : (
            <>
              {looksSecret(name) && (
                <IconButton small label={open.has(name) ? `Cover ${name}` : `Show ${name}`} onClick={() => toggle(name)}>
                  {open.has(name) ? <EyeOff /> : <Eye />}
                </IconButton>
              )}
              <CopyButton text={value} label={`Copy the value of ${name}`} />
            </>
          )
        }
        menuOnly
      />
    </div>
  );
}
