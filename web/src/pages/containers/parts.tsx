import type { PortMapping } from "../../api/types";
import { Badge } from "../../ui/bits";

/** Ports as `8080→80`; one that listens on all addresses of this host is a link where the browser may reach it. */
export function PortList({ ports, most = 50 }: { ports: PortMapping[]; most?: number }) {
  if (ports.length === 0) return <span className="faint">–</span>;
  const rest = ports.length - most;
  return (
    <span className="tags">
      {ports.slice(0, most).map((p) => (
        <Badge key={`${p.hostIp ?? ""}:${p.host ?? 0}:${p.container}/${p.protocol ?? "tcp"}`} mono title={portTitle(p)}>
          {portText(p)}
        </Badge>
      ))}
      {rest > 0 && <Badge title={ports.slice(most).map(portText).join(", ")}>+{rest}</Badge>}
    </span>
  );
}

export function portText(p: PortMapping): string {
  const udp = p.protocol === "udp" ? "/udp" : "";
  if (!p.host) return `${p.container}${udp}`;
  return `${p.hostIp ? `${p.hostIp}:` : ""}${p.host}→${p.container}${udp}`;
}

function portTitle(p: PortMapping): string {
  const protocol = p.protocol ?? "tcp";
  return p.host
    ? `Port ${p.host} of the node${p.hostIp ? ` at ${p.hostIp}` : ""} leads to ${p.container} (${protocol})`
    : `Port ${p.container} (${protocol}); the node chooses its own when it runs`;
}
