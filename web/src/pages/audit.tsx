import { useQuery } from "@tanstack/react-query";
import { ScrollText, ShieldCheck } from "lucide-react";
import { useState } from "react";
import * as calls from "../api/calls";
import type { AuditEntry } from "../api/types";
import { usePaged } from "../lib/data";
import { plural } from "../lib/format";
import { useSettled } from "../lib/hooks";
import { useQueryValue } from "../lib/router";
import { Badge, Time } from "../ui/bits";
import { Button } from "../ui/button";
import { Dialog } from "../ui/dialog";
import { Input } from "../ui/field";
import { Json } from "../ui/json";
import { Page } from "../ui/page";
import { Empty, Failure, Notice } from "../ui/states";
import { Pager, Table } from "../ui/table";

export function AuditPage() {
  const [actor, setActor] = useQueryValue("actor");
  const [action, setAction] = useQueryValue("action");
  const filter = { actor: useSettled(actor.trim()) || undefined, action: useSettled(action.trim()) || undefined };
  const [open, setOpen] = useState<AuditEntry | null>(null);
  const { query, rows, pager } = usePaged(["audit", filter], (cursor, signal) => calls.system.audit({ ...filter, cursor }, signal));
  const verify = useQuery({ queryKey: ["audit-verify"], queryFn: () => calls.system.verifyAudit(), enabled: false });
  return (
    <Page
      title="Audit log"
      actions={
        <Button icon={<ShieldCheck />} busy={verify.isFetching} onClick={() => void verify.refetch()}>
          Verify
        </Button>
      }
    >
      {verify.data &&
        !verify.isFetching &&
        (verify.data.intact ? (
          <Notice tone="green">The log is whole: {plural(verify.data.entries, "entry is", "entries are")} as they were written.</Notice>
        ) : (
          <Notice tone="red">
            The log was changed from outside: entry {verify.data.firstBroken?.sequence}, {verify.data.firstBroken?.reason}. The{" "}
            {verify.data.entries} before it are as they were written.
          </Notice>
        ))}
      {verify.error && <Failure what="The log could not be verified." error={verify.error} />}
      <div className="filters">
        <Input aria-label="Who" placeholder="Who: admin" value={actor} onValue={setActor} style={{ width: 180 }} />
        <Input aria-label="What" placeholder="What: container.create" value={action} onValue={setAction} style={{ width: 220 }} />
      </div>
      {query.error && <Failure what="The audit log could not be read." error={query.error} retry={() => void query.refetch()} />}
      {rows?.length === 0 ? (
        <Empty icon={<ScrollText aria-hidden="true" />} title="No entry fits">
          Who and what are compared as a whole, not by a part.
        </Empty>
      ) : (
        !(query.error && !rows) && (
          <Table
            label="Audit log"
            rows={rows}
            id={(e) => String(e.sequence)}
            placeholders={10}
            columns={[
              {
                key: "action",
                head: "What",
                lead: true,
                cell: (e) => (
                  <div className="cell-main">
                    <span className="name mono">{e.action}</span>
                    {e.target && (
                      <span className="sub mono truncate max-48" title={e.target}>
                        {e.target}
                      </span>
                    )}
                  </div>
                ),
              },
              { key: "actor", head: "Who", cell: (e) => e.actor },
              { key: "outcome", head: "Outcome", cell: (e) => <Badge tone={e.outcome === "ok" ? "green" : "red"}>{e.outcome}</Badge> },
              { key: "address", head: "From", cell: (e) => <span className="mono">{e.address ?? "–"}</span> },
              { key: "time", head: "When", cell: (e) => <Time at={e.time} /> },
            ]}
            menuOnly
            actions={(e) => (
              <Button small variant="ghost" onClick={() => setOpen(e)}>
                Details
              </Button>
            )}
          />
        )
      )}
      <Pager {...pager} />
      {open && (
        <Dialog
          wide
          title={`Entry ${open.sequence}`}
          onClose={() => setOpen(null)}
          footer={<Button onClick={() => setOpen(null)}>Close</Button>}
        >
          <Json value={open} />
        </Dialog>
      )}
    </Page>
  );
}
