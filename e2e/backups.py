#!/usr/bin/env python3
"""Backups in the lab, with real containers, volumes and databases: the specification's requests, the three types restored to identical
trees, by stock restic too, what must never be called completed, and agents and control planes that are killed meanwhile."""

import os
import re
import shutil
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))
os.environ.setdefault("FLEET_IMAGES", "busybox:latest mariadb:latest postgres:latest redis:latest")
from backups import BACKUPS, CONFIGS, World, fingerprint, odd_tree, same, still, workers_of
from checks import Suite, eventually
from databases import PASSWORD, Database, MariaDb, Postgres, Writer
from fleet import Fleet, body
from nm import PREFIX
from rest import RestServer

suite = Suite("backups")
fleet = Fleet(2)
world = World(fleet)
ids = {}  # name -> id, of containers
world.databases = {}
# Begun first, too: what they are, and their volumes.
DATABASES = {
    "blog": (
        MariaDb,
        {"image": "mariadb:latest", "command": [], "environment": {"MARIADB_ROOT_PASSWORD": PASSWORD}},
        {"/var/lib/mysql": "mysql", "/uploads": "uploads"},
    ),
    "postgres": (
        Postgres,
        {"image": "postgres:latest", "command": []}
        | {"environment": {"POSTGRES_PASSWORD": PASSWORD, "POSTGRES_USER": "keeper", "POSTGRES_DB": "shop"}},
        {"/var/lib/postgresql/data": "postgres"},
    ),
    "redis": (
        Database,
        {"image": "redis:latest", "command": ["redis-server", "--appendonly", "yes", "--requirepass", PASSWORD]}
        | {"environment": {"REDIS_PASSWORD": PASSWORD}},
        {"/data": "redis"},
    ),
}


def setup():
    suite.on_exit(world.close)
    suite.on_exit(fleet.close)
    fleet.up()
    # Begun first, since it takes its minutes: what came of it is looked at in the end.
    folder = world.folder("minutes")
    (Path(folder) / "file").write_text("x")
    world.minutes = world.config("n2", paths=[folder], schedule="* * * * *", name="each minute")
    for name, (kind, fields, places) in DATABASES.items():
        mounts = [{"container": place, "host": volume(what)} for place, what in places.items()]
        world.databases[name] = kind(fleet, "n1", server(name, "n1", volumes=mounts, **fields))


def server(name, node, **fields):
    fields = {"labels": {"of": "backups"}} | fields
    row = fleet.client.post("/api/containers", body(PREFIX + name, node, **fields)).expect(201).data
    ids[name] = row["id"]
    return row["id"]


def volume(name):
    return f"{PREFIX}{name}"


def inside(node, path):
    """A path as the node sees it, with what is mounted there in it."""
    init = (fleet.dir / "nodes" / node / "init.pid").read_text().strip()
    return Path(f"/proc/{init}/root{path}")


def data(node, name):
    """The folder of a volume, past everybody."""
    return inside(node, fleet.docker(node).request("GET", f"/volumes/{volume(name)}")["Mountpoint"])


def state(node, name):
    return fleet.docker(node).of(ids[name])["State"]["Status"]


# ---- as the specification has it -------------------------------------------------------------------------------------

SPEC = {
    "name": "Daily Production Backup",
    "schedule": "0 2 * * *",
    "retention": 30,
    "type": "incremental",
    "destination": "/backups/production",
    "encryption": True,
    "compression": True,
}


@suite.check("the specification's requests: create, list, perform, list, restore, each with the answer it shows")
def _():
    server("shop", "n1", volumes=[{"container": "/data", "host": volume("shop")}])
    (data("n1", "shop") / "order").write_text("first")
    for folder in ("/backups", "/backups/production"):
        if not os.path.exists(folder):
            suite.on_exit(lambda folder=folder: shutil.rmtree(folder, ignore_errors=True))
    made = fleet.client.post(CONFIGS, {"serverId": ids["shop"]} | SPEC).expect(201).data
    assert {key: made[key] for key in SPEC} == SPEC and made["serverId"] == ids["shop"] and made["status"] == "active", made
    assert re.search(r"T02:00:00(\.000)?Z$", made["nextBackup"]) and "lastBackup" not in made, made
    (listed,) = fleet.client.get(f"{CONFIGS}?serverId={ids['shop']}").expect(200).data
    assert listed["id"] == made["id"]
    begun = fleet.client.post(f"{BACKUPS}/perform/{made['id']}").expect(202).data
    assert re.match(r"^backup_\d+_[a-z0-9]+$", begun["id"]), begun
    assert (begun["status"], begun["serverId"], begun["type"]) == ("in-progress", ids["shop"], "incremental"), begun
    assert begun["location"] == f"/backups/production/{begun['id']}", begun
    done = world.until(begun)
    assert done["status"] == "completed" and done["files"] >= 1 and done["duration"] > 0 and done["verification"]["checked"], done
    world.ended(done["operationId"])
    (row,) = fleet.client.get(f"{BACKUPS}/{ids['shop']}").expect(200).data
    assert row["id"] == done["id"] and row["status"] == "completed"
    (data("n1", "shop") / "order").write_text("lost")
    restored = world.restore(done)
    assert restored["backupId"] == done["id"] and restored["verified"], restored
    assert (data("n1", "shop") / "order").read_text() == "first"
    assert state("n1", "shop") == "running", "its container was not started again"
    eventually(lambda: fleet.client.container(ids["shop"])["status"] == "running", 10, "the API to see it run")
    assert fleet.client.get(f"{CONFIGS}/{made['id']}").expect(200).data["lastBackup"] == done["timestamp"]
    fleet.client.delete(f"{CONFIGS}/{made['id']}?force=true").expect(200)


@suite.check("a bad cron line, type, path or server is refused and names the field")
def _():
    good = {"serverId": "n1", "name": "x", "destination": "/srv/x", "paths": ["/srv/y"]}
    wrong = [{"schedule": line} for line in ("0 25 * * *", "* * * *", "61 * * * *", "0 0 31 2 *", "@never", "", "0 2 * * * *", "a b c d e")]
    wrong += [{"type": "half"}, {"retention": 0}, {"retention": 366}, {"destination": "backups"}, {"destination": "/srv/../etc"}]
    wrong += [{"timeZone": "Mars/Base"}, {"paths": ["srv"]}, {"unknown": 1}]
    for fields in wrong:
        refused = fleet.client.post(CONFIGS, good | fields).expect(400, 404, 409, 422)
        field = next(iter(fields))
        assert field in refused.raw.decode(), f"{fields}: {refused}"
    assert fleet.client.post(CONFIGS, good | {"serverId": "server_123"}).expect(404).code == "server_not_found"
    fleet.client.post(f"{BACKUPS}/perform/backupconfig_1_abcdefghi").expect(400, 404)
    fleet.client.post(f"{BACKUPS}/backup_1_abcdefghi/restore").expect(404)
    for destination in ("/etc/backups", "/root/x", "/var/lib/docker/x"):
        refused = fleet.client.post(CONFIGS, good | {"destination": destination}).expect(403)
        assert refused.code == "path_forbidden", refused


# ---- what is restored ------------------------------------------------------------------------------------------------


@suite.check("full, incremental and differential of a volume of odd files: each restored alone to the identical tree")
def _():
    server("odd", "n1", volumes=[{"container": "/data", "host": volume("odd")}])
    root = data("n1", "odd")
    odd_tree(root)
    config = world.config(ids["odd"], type="full", retention=365)
    trees, made = [], []

    def backup(kind):
        config.patch(type=kind)
        trees.append(fingerprint(root))
        made.append(config.completed())
        assert made[-1]["type"] == kind, made[-1]

    backup("full")
    (root / "text").write_text("two\n" * 1000)
    (root / "deep/new").write_bytes(os.urandom(100_000))
    backup("incremental")
    (root / "binary").unlink()
    os.chmod(root / "setuid", 0o4700)
    backup("incremental")
    (root / "deep/newer").write_text("x")
    backup("differential")
    assert made[1]["newBytes"] < made[0]["newBytes"] / 5, [row["newBytes"] for row in made]
    for number, (tree, row) in enumerate(zip(trees, made)):
        target = f"{world.dir}/restored-{number}"
        assert world.restore(row, target=target)["verified"]
        same(tree, fingerprint(Path(target) / "volumes" / volume("odd")))
    world.odd = (config, trees, made)
    assert state("n1", "odd") == "running"


@suite.check("stock restic lists, checks with all data and restores the same, by the exported key and by the recovery password")
def _():
    config, trees, made = world.odd
    listed = config.restic("snapshots")
    assert all(row["snapshot"][:8] in listed for row in made), listed
    config.restic("check", "--read-data", recovery=True)
    for number in (0, 2):
        target = f"{world.dir}/restic-{number}"
        config.restic("restore", made[number]["snapshot"], "--target", target)
        same(trees[number], fingerprint(Path(target) / "volumes" / volume("odd")))


@suite.check("in its place: what is changed, added and removed since is as it was; a dry run tells and changes nothing")
def _():
    config, trees, made = world.odd
    root = data("n1", "odd")
    (root / "added").write_text("x")
    shutil.rmtree(root / "deep")
    # As long and as old as before: only reading finds it.
    seen = (root / "text").stat()
    (root / "text").write_text("tw0\n" * 1000)
    os.utime(root / "text", ns=(seen.st_atime_ns, seen.st_mtime_ns))
    altered = fingerprint(root)
    told = world.restore(made[3], dryRun=True)
    assert told["changed"] >= 1 and told["created"] >= 4 and told["removed"] >= 1 and told["changes"], told
    same(altered, fingerprint(root))
    world.restore(made[3])
    same(trees[3], fingerprint(data("n1", "odd")))
    assert state("n1", "odd") == "running"
    part = world.restore(made[0], paths=[f"/volumes/{volume('odd')}/binary"])
    assert part["files"] == 1 and (data("n1", "odd") / "binary").exists() and (data("n1", "odd") / "deep/newer").exists(), part


@suite.check("a link planted in the target leads nowhere: nothing is written outside")
def _():
    config, trees, made = world.odd
    outside = Path(world.folder("outside"))
    (outside / "text").write_text("mine")
    before = fingerprint(outside)
    root = data("n1", "odd")
    shutil.rmtree(root / "deep")
    os.symlink(outside, root / "deep")
    (root / "text").unlink()
    os.symlink(outside / "text", root / "text")
    world.restore(made[3], replace=False)
    same(before, fingerprint(outside))
    assert not (data("n1", "odd") / "deep").is_symlink() and (data("n1", "odd") / "deep/newer").read_text() == "x"
    target = Path(world.folder("planted"))
    os.symlink(outside, target / "volumes")
    world.begin_restore(made[0], target=str(target))  # whatever comes of it
    same(before, fingerprint(outside))


# ---- what must never be called completed -----------------------------------------------------------------------------


@suite.check("a file that can't be read: partial, and named; all else is in it")
def _():
    folder = world.folder("unreadable")
    for name in ("good", "bad", "better"):
        (Path(folder) / name).write_text(name)
    # Not even root reads that one.
    code, said = fleet.run("n1", "mount", "--bind", "/sys/bus/platform/drivers_probe", f"{folder}/bad")
    assert code == 0, said
    made = world.config("n1", paths=[folder]).perform()
    fleet.run("n1", "umount", f"{folder}/bad")
    assert made["status"] == "partial" and made["problemCount"] == 1, made
    assert made["problems"][0]["path"] == f"{folder}/bad" and made["problems"][0]["error"], made["problems"]
    target = world.folder("unreadable-restored")
    world.restore(made, target=target)
    assert (Path(target + folder) / "better").read_text() == "better" and not (Path(target + folder) / "bad").exists()


@suite.check("a dump that fails, or can't be begun: failed, with its own words, and no snapshot")
def _():
    for command, words in ((["sh", "-c", "echo half; echo 'table is gone' >&2; exit 3"], "table is gone"), (["no-such-tool"], "no-such-tool")):
        config = world.config(ids["shop"], consistency="dump", dump={"command": command})
        message = config.failed("dump_failed")
        assert words in message, message
    good = world.config(ids["shop"], dump={"command": ["echo", "$(id); `id`"], "file": "words"}).completed()
    target = world.folder("words")
    world.restore(good, target=target)
    assert (Path(target) / "dumps/words").read_text() == "$(id); `id`\n"


@suite.check("a destination that is not mounted: failed, and nothing is made in its place; mounted again it goes on")
def _():
    real, place, folder = (world.folder(name) for name in ("disk", "mounted", "mounted-data"))
    (Path(folder) / "file").write_text("x")
    fleet.run("n1", "mount", "--bind", real, place)
    config = world.config("n1", place, paths=[folder])
    first = config.completed()
    fleet.run("n1", "umount", place)
    config.failed("repository_missing")
    assert os.listdir(place) == [], "a fresh repository was begun beside the disk"
    again = config.look()
    assert again["status"] == "error" and again["message"], again
    fleet.run("n1", "mount", "--bind", real, place)
    (Path(folder) / "file").write_text("y")
    second = config.completed()
    assert config.look()["status"] == "active" and {row["id"] for row in config.backups()} >= {first["id"], second["id"]}
    fleet.run("n1", "umount", place)


@suite.check("a full disk: failed, and says so; what was kept before still restores")
def _():
    place, folder = world.folder("small"), world.folder("large")
    (Path(folder) / "first").write_text("kept")
    fleet.run("n1", "mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", place)
    try:
        config = world.config("n1", place, paths=[folder])
        kept = config.completed()
        (Path(folder) / "second").write_bytes(os.urandom(40_000_000))
        message = config.failed("disk_full", "destination_not_writable")
        assert "space" in message, message
        target = world.folder("small-restored")
        world.restore(kept, target=target)
        assert (Path(target + folder) / "first").read_text() == "kept"
        (Path(folder) / "second").unlink()
        config.completed()
    finally:
        fleet.run("n1", "umount", place)


@suite.check("cancelled while it runs: at an end at once, its worker gone, and the next one is good")
def _():
    config = world.config(ids["shop"], dump={"command": ["sh", "-c", "echo begin; exec sleep 300"]})
    begun = config.begin()
    eventually(lambda: workers_of(fleet, "n1"), 20, "its worker")
    fleet.client.post(f"{BACKUPS}/{begun['id']}/cancel").expect(200)
    done = world.until(begun, seconds=15)
    assert done["status"] == "cancelled", done
    eventually(lambda: not workers_of(fleet, "n1"), 10, "its worker to end")
    config.patch(dump=None)
    assert config.completed() and [row["status"] for row in config.backups()] == ["completed", "cancelled"]


@suite.check("an agent killed -9 in a backup: its container runs again, and the backup is taken up to a good end")
def _():
    server("paused", "n1", volumes=[{"container": "/data", "host": volume("paused")}])
    for number in range(12):
        (data("n1", "paused") / f"file-{number}").write_bytes(os.urandom(16_000_000))
    world.before = fingerprint(data("n1", "paused"))
    config = world.paused = world.config(ids["paused"], consistency="pause")
    begun = config.begin()
    with still(fleet, "n1") as worker:
        assert state("n1", "paused") == "paused", "the worker reads what moves"
        fleet.kill_agent("n1")
        eventually(lambda: state("n1", "paused") == "running", 20, "the container to run again")
    eventually(lambda: worker not in workers_of(fleet, "n1"), 10, "the worker of an agent that is gone to end")
    done = world.until(begun, seconds=60)
    assert done["status"] == "completed", done
    assert state("n1", "paused") == "running" and len(config.snapshots()) == 1, config.snapshots()


@suite.check("an agent killed -9 in a restore: its container runs again, with all of the old or all of the new")
def _():
    (made,) = [row for row in world.paused.backups() if row["status"] == "completed"]
    root = data("n1", "paused")
    for path in sorted(root.iterdir()):
        path.write_bytes(os.urandom(16_000_000))
    (root / "added").write_text("x")
    old = fingerprint(root)
    answers = []
    asking = threading.Thread(target=lambda: answers.append(world.begin_restore(made)), daemon=True)
    asking.start()
    # Workers that only look at the tree come before it, while the container still runs.
    eventually(lambda: state("n1", "paused") == "exited", 20, "the container to be stopped", every=0.01)
    with still(fleet, "n1") as worker:
        fleet.kill_agent("n1")
    eventually(lambda: state("n1", "paused") in ("running", "exited") and worker not in workers_of(fleet, "n1"), 20, "the worker to end")
    asking.join(120)
    (answer,) = answers
    eventually(lambda: state("n1", "paused") == "running", 20, "the container to run again")
    new = fingerprint(data("n1", "paused"))
    if answer.status == 202:
        assert world.ended(answer.data["id"])["state"] == "succeeded"
    same(old if answer.status >= 400 else world.before, new)
    print(f"    the restore was answered by {answer.status}")


# ---- databases -------------------------------------------------------------------------------------------------------


@suite.check("a MariaDB and its uploads, backed up while written to, destroyed, restored on another node: consistent")
def _():
    elsewhere = RestServer(world.folder("offsite"), fleet.host)
    suite.on_exit(elsewhere.close)
    database = world.databases["blog"]
    database.until_up()
    config = world.config(ids["blog"], elsewhere.destination, name="blog")
    with Writer(database) as writer:
        before = writer.written
        made = config.completed()
        after = writer.written
    listed = fleet.client.get(f"{BACKUPS}/{made['id']}/files?path=/volumes").expect(200).data
    assert [entry["name"] for entry in listed["entries"]] == [volume("uploads")], "the database's own files are in it, too"
    # In its place first: the volume goes back while the server stands still, the dump once it runs again.
    database.sql("DROP TABLE shop.orders")
    given = world.restore(made, seconds=120)
    assert given["dumps"] == ["/dumps/mysql.sql"] and database.sql("SELECT COUNT(*) > 0 FROM shop.orders") == "1", given
    fleet.client.remove(ids["blog"])
    for name in ("mysql", "uploads"):
        fleet.docker("n1").request("DELETE", f"/volumes/{volume(name)}")
    given = world.restore(made, serverId="n2", seconds=120)
    ids["blog"] = given["containerId"]
    restored = MariaDb(fleet, "n2", ids["blog"])
    total, orders, rows, added = restored.sql("SELECT s.total, s.orders, COUNT(o.id), SUM(o.amount) FROM shop.sums s, shop.orders o GROUP BY s.id").split()
    assert (total, orders) == (added, rows) and before <= int(rows) <= after + 100, (total, orders, rows, added, before, after)
    lines = (data("n2", "uploads") / "log").read_text().split()
    assert lines == [str(n) for n in range(100, 100 * len(lines) + 100, 100)], "its log has a gap"
    print(f"    {rows} orders of {before} to {after} written meanwhile, {len(lines)} lines; dump and volume on n2")


@suite.check("a PostgreSQL in its place, by its dump, with clients that stay connected: all as it was, nothing of both")
def _():
    container, database = ids["postgres"], world.databases["postgres"]
    database.until_up()
    database.sql("CREATE ROLE clerk LOGIN; CREATE TABLE orders AS SELECT n FROM generate_series(1, 1000) n; ALTER TABLE orders OWNER TO clerk;")
    # Rows as the dump itself has lines.
    rows = "SET row_security = off;||DROP DATABASE postgres;"
    database.sql(f"CREATE TABLE lines AS SELECT string_to_table('{rows}', '|') AS line;", base="postgres")
    config = world.config(container)
    made = config.completed()
    database.sql("DELETE FROM orders WHERE n > 10; UPDATE orders SET n = n + 5000; CREATE TABLE later (n int);")
    database.sql("UPDATE lines SET line = 'x'; CREATE DATABASE later;", base="postgres")
    database.sql("CREATE TABLE his (n int); ALTER TABLE his OWNER TO clerk;", base="later")
    for base in ("shop", "postgres"):
        stays = threading.Thread(target=database.sql, args=("SELECT pg_sleep(120)",), kwargs={"check": False, "base": base}, daemon=True)
        stays.start()
    connected = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'"
    eventually(lambda: database.sql(connected) == "2", 10, "two clients to be connected")
    given = world.restore(made)
    assert given["dumps"] == ["/dumps/postgres.sql"], given
    assert database.sql("SELECT count(*), max(n) FROM orders") == "1000|1000" and database.sql("SELECT to_regclass('later')") == ""
    assert database.sql("SELECT tableowner FROM pg_tables WHERE tablename = 'orders'") == "clerk"
    assert database.sql("SELECT string_agg(line, '|') FROM lines", base="postgres") == rows
    assert database.sql("SELECT count(*) FROM his", base="later") == "0", "a database that the backup does not know of is gone"


@suite.check("a Redis with a password and an append-only file, in its place: all of it is as it was, also after its next start")
def _():
    container, database, secret = ids["redis"], world.databases["redis"], {"REDISCLI_AUTH": PASSWORD}

    def redis(*words):
        return database.run("redis-cli", *words, variables=secret, check=False)

    eventually(lambda: redis("ping") == "PONG", 20, "Redis to answer")
    redis("set", "kept", "value")
    made = world.config(container).completed()
    target = world.folder("redis")
    world.restore(made, target=target)
    assert (Path(target) / "dumps/redis.rdb").read_bytes().startswith(b"REDIS")
    redis("flushall"), redis("set", "later", "x")
    given = world.restore(made)
    assert given["dumps"] == ["/dumps/redis.rdb"] and redis("keys", "*") == "kept" and redis("role").startswith("master"), (given, redis("keys", "*"))
    fleet.client.post(f"/api/containers/{container}/restart").expect(200)
    eventually(lambda: redis("get", "kept") == "value", 20, "its key to be there after a start")


# ---- by the clock ----------------------------------------------------------------------------------------------------


@suite.check("each minute has exactly one backup, over a kill -9 of the control plane at the turn of a minute")
def _():
    time.sleep(max(0.0, 59.7 - time.time() % 60))
    turn = (int(time.time()) // 60 + 1) * 60
    eventually(lambda: time.time() > turn + 0.05, 2, "the minute to turn", every=0.005)
    fleet.control("kill")
    fleet.control("start")
    fleet.until_all_ready()
    stamp = time.strftime("%Y-%m-%dT%H:%M", time.gmtime(turn))

    def made():
        rows = [row for row in world.minutes.backups() if row["slot"].startswith(stamp)]
        return rows if rows and rows[0]["status"] != "in-progress" else None

    eventually(made, 45, f"the backup of {stamp}", every=0.2)
    rows = world.minutes.backups()
    slots = sorted(row["slot"] for row in rows)
    assert len(set(slots)) == len(slots), f"a slot ran twice: {slots}"
    minutes = [time.mktime(time.strptime(slot[:16], "%Y-%m-%dT%H:%M")) // 60 for slot in slots]
    assert minutes == list(range(int(minutes[0]), int(minutes[0]) + len(minutes))), f"a slot was left out: {slots}"
    assert {row["status"] for row in rows} == {"completed"}, rows
    print(f"    {len(slots)} minutes, {len(slots)} backups: {slots[0][11:16]} to {slots[-1][11:16]}")


suite.run(setup)
