import { useQuery } from "@tanstack/react-query";
import { Activity, BellOff, CircleCheck, CircleX, HeartPulse, Pencil, Settings2, Trash2 } from "lucide-react";
import { useState } from "react";
import { ApiError } from "../../api";
import * as calls from "../../api/calls";
import type { CheckDetail, Health, Server } from "../../api/types";
import { useMayOperate, useNodeName } from "../../lib/data";
import { duration } from "../../lib/format";
import { useNow } from "../../lib/hooks";
import { Link } from "../../lib/router";
import { CopyButton, Tile } from "../../ui/bits";
import { Button } from "../../ui/button";
import { Menu, type MenuItem } from "../../ui/menu";
import { Page } from "../../ui/page";
import { Empty, Failure, Loading, Notice } from "../../ui/states";
import { AlertsOf } from "../alerts/list";
import { ClustersOf } from "../clusters/of";
import { SilenceDialog } from "../alerts/silences";
import { AddressDialog, ForgetAddress } from "./address";
import { HealthHistory } from "./history";
import { useCheckNow } from "./list";
import { HealthBadge, KIND_NAME, LastCheck } from "./parts";
import { ConfigDialog } from "./settings";
import { availability, responseTime } from "./words";

type Asked = "edit" | "forget" | "config" | "silence";
const CRUMBS: [string, string][] = [["Health", "/health"]];

export function ServerPage({ id }: { id: string }) {
  const health = useQuery({
    queryKey: ["health", "one", id],
    queryFn: ({ signal }) => calls.health.get(id, signal),
    // Figures change with each check; only a change of status is an event.
    refetchInterval: 10_000,
  });
  const server = useQuery({ queryKey: ["servers", "one", id], queryFn: ({ signal }) => calls.servers.get(id, signal) });
  const gone = [health.error, server.error].some((e) => e instanceof ApiError && e.status === 404);
  if (health.data && server.data && !gone) {
    return <Loaded health={health.data} server={server.data} error={health.error ?? server.error} />;
  }
  const error = health.error ?? server.error;
  return (
    <Page title="Health" crumbs={CRUMBS}>
      {gone ? (
        <Empty
          icon={<HeartPulse aria-hidden="true" />}
          title="This server is not there"
          actions={
            <Link className="btn" href="/health">
              To the servers
            </Link>
          }
        >
          It was removed, or never existed under this name.
        </Empty>
      ) : error ? (
        <Failure what="The server could not be read." error={error} retry={() => void Promise.all([health.refetch(), server.refetch()])} />
      ) : (
        <Loading what="the server" />
      )}
    </Page>
  );
}

function Loaded({ health: h, server, error }: { health: Health; server: Server; error: unknown }) {
  const may = useMayOperate();
  const nodeName = useNodeName();
  const check = useCheckNow();
  const [asked, setAsked] = useState<Asked | null>(null);
  const close = () => setAsked(null);
  const items: MenuItem[] = [
    { label: "How it is checked…", icon: <Settings2 />, onSelect: () => setAsked("config") },
    { label: "Silence its alerts…", icon: <BellOff />, onSelect: () => setAsked("silence") },
  ];
  if (server.kind === "address") {
    items.push({ label: "Change the address…", icon: <Pencil />, onSelect: () => setAsked("edit") }, "line", {
      label: "Forget it…",
      icon: <Trash2 />,
      danger: true,
      onSelect: () => setAsked("forget"),
    });
  }
  const own = server.kind === "node" ? `/nodes/${server.id}` : server.kind === "container" ? `/containers/${server.id}` : null;
  return (
    <Page
      narrow
      title={server.name}
      crumbs={CRUMBS}
      heading={
        <>
          <span className="truncate">{server.name}</span>
          <span style={{ fontSize: 13, letterSpacing: 0 }}>
            <HealthBadge health={h} />
          </span>
        </>
      }
      actions={
        may && (
          <>
            <Button icon={<Activity />} busy={check.isPending} onClick={() => check.mutate(server.id)}>
              Check now
            </Button>
            <Menu label="More actions" items={items} />
          </>
        )
      }
    >
      {error !== null && <Failure what="What is shown may be old." error={error} />}
      {!h.checked && (
        <Notice tone="blue">
          {server.kind === "container"
            ? "It is not checked by itself: it is not meant to run, was started by others, or its checks are switched off."
            : server.kind === "address" && server.port === undefined && !server.probe
              ? "It is not checked by itself: nothing says how. Change the address and choose what it is checked by."
              : "It is not checked by itself: its checks are switched off."}
        </Notice>
      )}
      <div className="tiles">
        <Tile label="In this state" value={h.since ? <Since at={h.since} /> : "–"} />
        <Tile label="Up for" value={h.uptime > 0 ? duration(h.uptime * 1000) : "–"} />
        <Tile label="Response time" value={responseTime(h.responseTime)} />
        <Tile label="Available, 24 hours" value={availability(h.availability["24h"])} />
        <Tile label="7 days" value={availability(h.availability["7d"])} />
        <Tile label="30 days" value={availability(h.availability["30d"])} />
      </div>
      <section className="card">
        <header className="card-head">
          <h2>Checks</h2>
          <span className="faint">
            <LastCheck health={h} />
          </span>
        </header>
        {h.details.length === 0 ? (
          <p className="card-body faint">It was never checked.{may && " “Check now” does it once."}</p>
        ) : (
          <ul className="check-list" aria-label="Checks">
            {h.details.map((d, i) => (
              <CheckLine key={`${d.check}-${i}`} detail={d} />
            ))}
          </ul>
        )}
      </section>
      <HealthHistory id={server.id} />
      <ClustersOf serverId={server.id} />
      <AlertsOf serverId={server.id} />
      <section className="card">
        <header className="card-head">
          <h2>Details</h2>
        </header>
        <dl className="facts card-body">
          <dt>Kind</dt>
          <dd>
            {KIND_NAME[server.kind].toLowerCase()}{" "}
            {own && (
              <Link className="link" href={own}>
                {server.name}
              </Link>
            )}
          </dd>
          {server.nodeId && (
            <>
              <dt>Node</dt>
              <dd>
                <Link className="link" href={`/health/${server.nodeId}`}>
                  {nodeName(server.nodeId)}
                </Link>
              </dd>
            </>
          )}
          {server.address && (
            <>
              <dt>Address</dt>
              <dd className="mono">
                {server.address}
                {server.port ? `:${server.port}` : ""}
              </dd>
            </>
          )}
          {server.probe && (
            <>
              <dt>Checked by</dt>
              <dd>
                {server.probe.type.toUpperCase()} {server.probe.path && <code>{server.probe.path}</code>}
                {server.probe.expectStatus && `, expecting ${server.probe.expectStatus}`}
              </dd>
            </>
          )}
          <dt>Id</dt>
          <dd className="copy-line">
            <code className="break">{server.id}</code>
            <CopyButton text={server.id} label="Copy the id" />
          </dd>
        </dl>
      </section>
      {asked === "edit" && <AddressDialog server={server} onClose={close} />}
      {asked === "forget" && <ForgetAddress server={server} onClose={close} />}
      {asked === "config" && <ConfigDialog id={server.id} name={server.name} onClose={close} />}
      {asked === "silence" && <SilenceDialog matcher={{ serverId: server.id }} names={{ server: server.name }} onClose={close} />}
    </Page>
  );
}

function Since({ at }: { at: string }) {
  return <>{duration(Math.max(1_000, useNow() - Date.parse(at)))}</>;
}

function CheckLine({ detail: d }: { detail: CheckDetail }) {
  return (
    <li className={d.ok ? "" : "failed"}>
      {d.ok ? <CircleCheck className="tone-green" aria-label="passed" /> : <CircleX className="tone-red" aria-label="failed" />}
      <b>{d.check}</b>
      <span className="num">{d.measured}</span>
      <span className="muted break">{d.message.startsWith(`${d.measured}: `) ? d.message.slice(d.measured.length + 2) : d.message}</span>
      {d.limit && (
        <span className={d.ok ? "faint" : "danger-text"}>
          {d.ok ? "" : "has to be "}
          {d.limit}
        </span>
      )}
    </li>
  );
}
