import { Activity, Bell, Box, Container as ContainerIcon, HeartPulse, KeyRound, ListTodo, Server, User } from "lucide-react";
import { type ReactNode, useState } from "react";
import { useEvents, useLiveState } from "../api/live";
import type { ChangeEvent } from "../api/types";
import { absolute, clock } from "../lib/format";
import { Link, useQueryValue } from "../lib/router";
import { Badge } from "../ui/bits";
import { Button } from "../ui/button";
import { Select } from "../ui/field";
import { Page } from "../ui/page";
import { SearchBox } from "../ui/search";
import { Empty } from "../ui/states";

const ICON: Record<string, ReactNode> = {
  container: <ContainerIcon />,
  node: <Server />,
  operation: <ListTodo />,
  server: <HeartPulse />,
  health: <HeartPulse />,
  alert: <Bell />,
  registry: <Box />,
  user: <User />,
  token: <KeyRound />,
};
const PAGE: Record<string, string> = {
  container: "containers",
  node: "nodes",
  operation: "operations",
  server: "health",
  health: "health",
  alert: "alerts",
};
const WHAT: Record<string, [string, string]> = {
  created: ["created", "green"],
  updated: ["changed", "blue"],
  status: ["status", "grey"],
  deleted: ["removed", "red"],
};

export function EventsPage() {
  const events = useEvents();
  const live = useLiveState();
  const [kind, setKind] = useQueryValue("kind");
  const [search, setSearch] = useQueryValue("search");
  const [held, setHeld] = useState<readonly ChangeEvent[] | null>(null);
  const wanted = search.toLowerCase();
  const kinds = [...new Set(events.map((e) => e.kind))].sort();
  const rows = (held ?? events).filter(
    (e) => (!kind || e.kind === kind) && (!wanted || `${e.name ?? ""} ${e.id} ${e.status ?? ""}`.toLowerCase().includes(wanted)),
  );
  const missed = held ? events.findIndex((e) => e.revision === held[0]?.revision) : 0;
  return (
    <Page
      title="Events"
      actions={
        <Button aria-pressed={held !== null} onClick={() => setHeld(held ? null : events)}>
          {held ? `Go on${missed > 0 ? ` (${missed} new)` : ""}` : "Hold"}
        </Button>
      }
    >
      <div className="filters">
        <SearchBox label="Search events" value={search} onValue={setSearch} />
        <Select aria-label="Kind" value={kind} onValue={setKind} options={[["", "Any kind"], ...kinds.map((k) => [k, k] as const)]} />
        <span className="faint">The newest 500 since this page was opened</span>
      </div>
      {rows.length === 0 ? (
        <Empty icon={<Activity aria-hidden="true" />} title={events.length === 0 ? "Waiting for something to happen" : "No event fits"}>
          {live === "open" ? "Whatever changes in the fleet, by whomever, shows here at once." : "The stream of events is not connected."}
        </Empty>
      ) : (
        <ul className="event-list">
          {rows.map((e) => (
            <Row key={e.revision} event={e} />
          ))}
        </ul>
      )}
    </Page>
  );
}

function Row({ event: e }: { event: ChangeEvent }) {
  const [text, tone] = WHAT[e.what] ?? [e.what, "grey"];
  const page = PAGE[e.kind];
  const name = e.name ?? e.id;
  return (
    <li className="event">
      <time dateTime={e.time} title={absolute(e.time)}>
        {clock(e.time)}
      </time>
      <span className="row faint">
        {ICON[e.kind] ?? <Activity />}
        {e.kind}
      </span>
      <span className="truncate" title={e.id}>
        {page && e.what !== "deleted" ? (
          <Link className="link" href={`/${page}/${e.id}`}>
            {name}
          </Link>
        ) : (
          name
        )}
      </span>
      <Badge tone={tone}>{e.status && e.what !== "deleted" ? e.status : text}</Badge>
    </li>
  );
}
