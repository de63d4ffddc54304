import { Plus } from "lucide-react";
import { useMayOperate } from "../../lib/data";
import { Link } from "../../lib/router";
import { Time } from "../../ui/bits";
import { useConfigs } from "./data";
import { ConfigBadge } from "./parts";

/** The configs by which a server is backed up, and how long ago that was. */
export function BackupsOf({ serverId }: { serverId: string }) {
  const may = useMayOperate();
  const { data } = useConfigs();
  const rows = data?.filter((c) => c.serverId === serverId);
  if (!rows || (rows.length === 0 && !may)) return null;
  return (
    <section className="card">
      <header className="card-head">
        <h2>Backups</h2>
        {may && (
          <Link className="btn small" href={`/backups/new?server=${encodeURIComponent(serverId)}`}>
            <Plus />
            Add
          </Link>
        )}
      </header>
      {rows.length === 0 ? (
        <p className="faint card-body">It is not backed up.</p>
      ) : (
        <ul className="stack tight card-body">
          {rows.map((c) => (
            <li key={c.id} className="row wrap">
              <span className="row grow">
                <Link className="link" href={`/backups/configs/${c.id}`}>
                  {c.name}
                </Link>
                <ConfigBadge status={c.status} />
              </span>
              <span className="faint">{c.lastBackup ? <Time at={c.lastBackup} /> : "no backup yet"}</span>
            </li>
          ))}
        </ul>
      )}
    </section>
  );
}
