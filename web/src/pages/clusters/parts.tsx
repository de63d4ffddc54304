import { ExternalLink } from "lucide-react";
import type { Cluster, ClusterMember, ClusterStatus, DatabaseMember, DatabaseState } from "../../api/types";
import { CopyButton } from "../../ui/bits";
import { memberOf, memberSays, ROLE_SAYS, serves } from "./database-words";
import { isWeb, type MemberWord, memberWord } from "./words";

const STATUS_TONE: Record<ClusterStatus, string> = {
  healthy: "tone-green",
  degraded: "tone-amber",
  critical: "tone-red",
  offline: "tone-red hollow",
};
export function ClusterBadge({ cluster }: { cluster: Pick<Cluster, "status" | "database"> }) {
  const { status } = cluster;
  // It was never there to be lost.
  if (cluster.database?.state === "creating") return <span className="status tone-blue busy">being made</span>;
  return <span className={`status ${STATUS_TONE[status]}`}>{status}</span>;
}

const MEMBER_TONE: Record<MemberWord, string> = {
  up: "tone-green",
  ready: "tone-green",
  active: "tone-green",
  standby: "tone-blue hollow",
  down: "tone-red",
  ejected: "tone-amber",
  draining: "tone-amber busy",
  drained: "tone-amber hollow",
  starting: "tone-blue busy",
  unreachable: "tone-red hollow",
  unknown: "tone-grey hollow",
};
export function MemberBadge({ member, cluster }: { member: ClusterMember; cluster: Pick<Cluster, "type" | "activeMember" | "database"> }) {
  const inside = memberOf(cluster.database, member.id);
  if (cluster.database && inside) return <DatabaseMemberBadge member={inside} state={cluster.database.state} />;
  const word = memberWord(member, cluster);
  return <span className={`status ${MEMBER_TONE[word]}`}>{word}</span>;
}

export function DatabaseMemberBadge({ member: m, state }: { member: DatabaseMember; state: DatabaseState }) {
  const [tone, text] = memberSays(m, state);
  return (
    <span className={`status ${tone}`} title={serves(m) && m.role ? ROLE_SAYS[m.role] : m.message}>
      {text}
    </span>
  );
}

/** Where a cluster is reached; a link where a browser can go there. */
export function Endpoint({ url, short }: { url: string; short?: boolean }) {
  const text = short ? url.replace(/^https?:\/\//, "") : url;
  return (
    <span className="endpoint">
      {isWeb(url) ? (
        <a className="link mono" href={url} target="_blank" rel="noreferrer" title={`Open ${url}`}>
          {text}
          <ExternalLink aria-hidden="true" />
        </a>
      ) : (
        <code>{text}</code>
      )}
      <CopyButton text={url} label={`Copy ${url}`} />
    </span>
  );
}

export function Endpoints({ cluster, short }: { cluster: Cluster; short?: boolean }) {
  if (cluster.type === "compute") return <span className="faint">–</span>;
  if (cluster.endpoints.length === 0) return <span className="faint">no entry node's address is known</span>;
  return (
    <span className="endpoints">
      {cluster.endpoints.map((url) => (
        <Endpoint key={url} url={url} short={short ?? false} />
      ))}
    </span>
  );
}

/** What tells nothing is shown as such, and not as a nought. */
export function Figure({ value, text }: { value: number | undefined; text: (n: number) => string }) {
  return value === undefined ? <span className="faint">–</span> : <span className="num nowrap">{text(value)}</span>;
}
