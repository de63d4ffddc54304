"""The commands for `docker exec`: each takes the document and its own arguments, and gives its answer."""

import concurrent.futures
import contextlib
import json
import re
import time

import nm_archive
import nm_restore
import psycopg2
import psycopg2.extras
from nm_common import ANSWER_SECONDS, COMMAND_SECONDS, Refused, connect, one_row
from nm_database import extend, quoted
from nm_document import RESERVED
from nm_etcd import TROUBLE, Etcd, ask


class Cluster:
    """What etcd has of the cluster at this moment."""

    def __init__(self, document):
        self.document, self.etcd = document, Etcd(document)
        self.refresh()

    def refresh(self):
        self.keys, self.sure = self.etcd.keys()
        self.members = {key.partition("/")[2]: json.loads(value) for key, value in self.keys.items() if key.startswith("members/")}
        self.config = json.loads(self.keys.get("config") or "{}")
        sync = json.loads(self.keys.get("sync") or "{}")
        self.synchronous = [name for name in (sync.get("sync_standby") or "").split(",") if name]
        # Without a majority a lease does not end: who holds it is then no word on who is primary.
        self.leader = self.keys.get("leader") if self.sure else None

    def primary(self):
        row = self.members.get(self.leader) or {}
        return self.leader if row.get("role") in ("master", "primary") and row.get("state") == "running" else None

    def address(self, name):
        """Of its PostgreSQL: host:port."""
        return re.match(r"postgres://([^/]+)/", self.member(name)["conn_url"])[1]

    def member(self, name):
        if name not in self.members:
            raise Refused(f"There is no member called {name}; there are: {', '.join(sorted(self.members)) or 'none'}.")
        return self.members[name]

    def patroni(self, name, method, path, body=None, timeout=COMMAND_SECONDS):
        """An answer of that member's Patroni; Refused where it says no."""
        host, _, port = re.match(r"https://([^/]+)/", self.member(name)["api_url"])[1].rpartition(":")
        try:
            status, text = ask(host, port, method, path, body, timeout)
        except TROUBLE as e:
            raise Refused(f"Patroni of {name} does not answer ({e}).") from None
        if status >= 300:
            raise Refused(f"{name} says: {text.strip()[:300]}.")
        return text

    def anybody(self, method, path, body=None):
        """The same of whoever answers, the leader first."""
        last = None
        for name in sorted(self.members, key=lambda name: name != self.leader):
            try:
                return self.patroni(name, method, path, body, ANSWER_SECONDS)
            except Refused as e:
                last = e
        raise last or Refused("There is no member yet.")


REPLICAS = """SELECT application_name, state, pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::bigint, extract(epoch FROM replay_lag)::float
    FROM pg_stat_replication WHERE usename = 'replicator'"""
SLOTS = "SELECT slot_name, active, greatest(0, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn))::bigint FROM pg_replication_slots ORDER BY 1"
NUMBERS = """SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'), current_setting('max_connections')::int,
    pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint, ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int"""


def told_by_primary(cluster, primary):
    with contextlib.closing(connect(cluster.document, cluster.address(primary), "admin")) as made, made.cursor() as cursor:
        cursor.execute(NUMBERS)
        told = dict(zip(("connections", "maxConnections", "position", "timeline"), cursor.fetchone()))
        cursor.execute(REPLICAS)
        told["replicas"] = {name: (state, behind, lag) for name, state, behind, lag in cursor.fetchall()}
        cursor.execute(SLOTS)
        told["slots"] = [{"name": name, "active": active, "retainedBytes": kept} for name, active, kept in cursor.fetchall()]
        told["archiver"] = one_row(made, nm_archive.ARCHIVER)
        return told


def status(document):
    cluster = Cluster(document)
    primary, told = cluster.primary(), {}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        try:
            rows = cluster.etcd.members()
        except Refused:
            rows = [{"name": name, "address": address} for name, address in document.etcd_members.items()]
        healthy = pool.map(cluster.etcd.healthy, [row["address"] for row in rows])
        if primary:
            try:
                told = told_by_primary(cluster, primary)
            except psycopg2.Error:
                primary = None  # the lease alone does not make one that takes writes
        # One that learns says that it is well, too, and has no vote.
        etcd = [{"name": row["name"] or row["address"], "healthy": well and not row.get("learner")} for row, well in zip(rows, healthy)]
    archives = nm_archive.COMMAND in (cluster.config.get("postgresql", {}).get("parameters", {}).get("archive_command") or "")
    try:
        facts = json.loads(primary and cluster.etcd.value(nm_archive.key(document, primary)) or "{}")
    except Refused:
        facts = {}
    members = []
    for name, row in sorted(cluster.members.items()):
        streaming, behind, lag = told.get("replicas", {}).get(name, (None, None, None))
        role = "primary" if name == primary else "sync-standby" if name in cluster.synchronous else "replica"
        if name == primary:
            behind, lag = 0, 0.0
        elif behind is None and told and row.get("xlog_location") is not None:
            behind = max(0, told["position"] - row["xlog_location"])
        if lag is None and behind == 0 and streaming == "streaming":
            lag = 0.0
        members.append({
            "name": name,
            "address": cluster.address(name).rpartition(":")[0],
            "role": role,
            "state": "streaming" if streaming == "streaming" and row.get("state") == "running" else row.get("state"),
            "timeline": told["timeline"] if name == primary else row.get("timeline"),
            "lagBytes": behind,
            "lagSeconds": None if lag is None else round(lag, 3),
            "pendingRestart": bool(row.get("pending_restart")),
        })  # fmt: skip
    return {
        "primary": primary,
        "timeline": told.get("timeline"),
        "members": members,
        "connections": told.get("connections"),
        "maxConnections": told.get("maxConnections"),
        "slots": told.get("slots", []),
        "etcd": sorted(etcd, key=lambda row: row["name"]),
        "paused": bool(cluster.config.get("pause")),
        "archive": nm_archive.state(archives, facts, told.get("archiver")),
    }


def until(condition, deadline):
    """Whether it came to hold before the deadline."""
    while not (held := condition()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return held


def switchover(document, to=None):
    deadline = time.monotonic() + COMMAND_SECONDS
    cluster = Cluster(document)
    leader = cluster.primary()
    if leader is None:
        raise Refused("There is no primary now: whoever is fit becomes it by itself.")
    if to is not None:
        cluster.member(to)
        if to == leader:
            return {"primary": leader}
    count = cluster.config.get("synchronous_node_count")
    widened = bool(to and cluster.config.get("synchronous_mode") and to not in cluster.synchronous)
    try:
        if widened:
            # Only a synchronous standby may take over, as it has every write: for this moment all of them are.
            cluster.anybody("PATCH", "/config", {"synchronous_node_count": max(2, len(cluster.members) - 1)})

            def ready():
                cluster.refresh()
                return to in cluster.synchronous

            if not until(ready, deadline - 4):
                raise Refused(f"{to} is not up to date with {leader}, so it can't take over without loss.")
        body = {"leader": leader} | ({"candidate": to} if to else {})
        cluster.patroni(leader, "POST", "/switchover", body, timeout=max(1, deadline - time.monotonic()))

        def done():
            cluster.refresh()
            return cluster.primary() not in (None, leader)

        if not until(done, deadline):
            raise Refused(f"The switchover from {leader} has begun, and no new primary is there yet.")
    finally:
        if widened:
            with contextlib.suppress(Refused):
                cluster.anybody("PATCH", "/config", {"synchronous_node_count": count})
    if to and cluster.primary() != to:
        raise Refused(f"{cluster.primary()} has become the primary instead of {to}.")
    return {"primary": cluster.primary()}


def configure(document, text):
    wanted = json.loads(text)
    cluster = Cluster(document)
    change, changed = {}, {}
    if "parameters" in wanted:
        fixed = sorted(wanted["parameters"].keys() & RESERVED)
        if fixed:
            raise Refused(f"{', '.join(fixed)} can't be set: the cluster depends on it.")
        now = cluster.config.get("postgresql", {}).get("parameters", {})
        new = document.parameters(wanted["parameters"])
        changed |= {key: None for key in now if key not in new and key not in RESERVED} | new
    if "archive" in wanted:
        changed["archive_command"] = nm_archive.command(wanted["archive"])
    if changed:
        change["postgresql"] = {"parameters": changed}
    if "synchronous" in wanted:
        change["synchronous_mode"] = bool(wanted["synchronous"])
    if change:
        cluster.anybody("PATCH", "/config", change)
    if wanted.get("extensions"):
        # Only the superuser may make any of them, and it is let in by its own socket alone.
        if cluster.primary() != document.member:
            raise Refused("Extensions are made where the primary is.")
        extend(document, wanted["extensions"])
    return {"configured": True}


def restart(document, name):
    Cluster(document).patroni(name, "POST", "/restart", {"timeout": 60})
    return {"restarted": name}


def reinitialize(document, name):
    Cluster(document).patroni(name, "POST", "/reinitialize", {"force": True})
    return {"reinitializing": name}


def etcd_add(document, name, address):
    etcd = Etcd(document)
    if any(row["address"] == address for row in etcd.members()):
        return {"added": name}
    # One that learns has no vote: until it runs and has everything nobody waits for it.
    etcd.call("/cluster/member/add", {"peerURLs": [f"https://{address}:{document.ports['etcdPeer']}"], "isLearner": True}, 5)
    return {"added": name}


def etcd_promote(document, name):
    etcd = Etcd(document)
    for row in etcd.members():
        if name in (row["name"], row["address"]) and row["learner"]:
            etcd.call("/cluster/member/promote", {"ID": row["id"]}, 5)
    return {"promoted": name}


def etcd_remove(document, name):
    etcd = Etcd(document)
    for row in etcd.members():
        if name in (row["name"], row["address"]):
            etcd.call("/cluster/member/remove", {"ID": row["id"]}, 5)
    return {"removed": name}


def forget(document, name):
    cluster = Cluster(document)
    if name == cluster.leader:
        raise Refused(f"{name} is the primary.")
    if name in cluster.members:
        cluster.etcd.delete(f"members/{name}")
    cluster.etcd.delete(nm_archive.key(document, name))
    primary = cluster.primary()
    if primary is None:
        raise Refused("There is no primary now, at which its slot could be dropped.")
    slot = re.sub("[^a-z0-9_]", lambda found: "_" if found[0] in "-." else f"u{ord(found[0]):04d}", name.lower())[:63]
    if not any(row["name"] == slot for row in told_by_primary(cluster, primary)["slots"]):
        return {"forgotten": name}
    # The one role that may drop it may only speak the protocol of replication.
    more = {"connection_factory": psycopg2.extras.PhysicalReplicationConnection, "options": ""}
    with contextlib.closing(connect(document, cluster.address(primary), "replicator", **more)) as made:
        try:
            made.cursor().execute(f"DROP_REPLICATION_SLOT {quoted(slot)}")
        except psycopg2.errors.UndefinedObject:
            pass  # Patroni was faster
        except psycopg2.Error as e:
            raise Refused(f"The slot of {name} can't be dropped: {str(e).strip()}.") from None
    return {"forgotten": name}


COMMANDS = {
    "status": (status, 0, 0),
    "switchover": (switchover, 0, 1),
    "configure": (configure, 1, 1),
    "restart": (restart, 1, 1),
    "reinitialize": (reinitialize, 1, 1),
    "etcd-add": (etcd_add, 2, 2),
    "etcd-promote": (etcd_promote, 1, 1),
    "etcd-remove": (etcd_remove, 1, 1),
    "forget": (forget, 1, 1),
    "archive-flush": (nm_archive.flush, 0, 0),
    "archive-trim": (nm_archive.trim, 1, 1),
    "archive-reset": (nm_archive.reset, 0, 0),
    "base-backup": (nm_archive.base_backup, 0, 0),
    "restore-status": (nm_restore.told, 0, 0),
}
