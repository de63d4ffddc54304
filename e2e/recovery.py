#!/usr/bin/env python3
"""Point-in-time recovery in the lab: a database cluster of three nodes with a base backup and its write-ahead log in a folder of a node,
brought back into new clusters as it was at moments between two commits, across a failover, and after it is gone."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))
os.environ.setdefault("LAB_ID", "79")
from backups import BACKUPS, CONFIGS, World, describe
from checks import Suite, eventually
from clusters import CLUSTERS, since
from fleet import Fleet
from nm import PREFIX, binary
from postgres_ha import Base, Broken, built_image, once, psql

os.environ.setdefault("FLEET_IMAGES", built_image())
NODES = ["n1", "n2", "n3"]
suite = Suite("recovery")
fleet = Fleet()
world = World(fleet)
kept = {}


def setup():
    suite.on_exit(world.close)
    suite.on_exit(fleet.close)
    fleet.up()
    kept["place"] = world.folder("backups")
    base = kept["base"] = Base(fleet, "shop", extensions=["pgcrypto"], parameters={"work_mem": "8MB"})
    base.until_well()
    once(base.write, "CREATE TABLE notes (n bigint PRIMARY KEY, at timestamptz DEFAULT clock_timestamp())")


def note(*numbers):
    """Each in a transaction of its own."""
    for n in numbers:
        once(kept["base"].write, f"INSERT INTO notes (n) VALUES ({n})")


def notes(base):
    return [int(row) for row in once(base.write, "SELECT n FROM notes ORDER BY n")]


def moment():
    """A moment by the database's clock that lies after every commit until now, and before every one from now on."""
    told = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC' + interval '1 ms', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')"
    (at,) = once(kept["base"].write, told)
    later = f"SELECT clock_timestamp() > timestamptz '{at}' + interval '1 ms'"
    eventually(lambda: once(kept["base"].write, later) == ["t"], 5, "the next millisecond", every=0.001)
    return at


def config():
    return kept["config"]


def windows():
    return config().look()["recovery"]["windows"]


def until_reached(at, seconds=60):
    """Waits until a moment lies in a window, as the log is shipped by itself."""
    eventually(lambda: any(w["from"] <= at <= w["to"] for w in windows()), seconds, f"{at} to be shipped: {config().look()['recovery']}", every=0.5)


def recovered(backup, name, servers=NODES, seconds=180, **asked):
    """A new cluster that is made of it."""
    began = time.monotonic()
    done = world.restore(backup, seconds=seconds, cluster={"name": PREFIX + name, "type": "database", "servers": servers}, **asked)
    assert done["verified"] and done["clusterId"], done
    again = Base.of(fleet, done["clusterId"])
    print(f"    {name}: takes writes {since(began):.1f} s after it was asked for, {done['files']} files, {done['bytes'] / 1e6:.0f} MB")
    return again


@suite.check("a config whose server is the cluster: what does not fit is refused by name, and the log is kept from then on")
def _():
    asked = {"serverId": PREFIX + "shop", "name": "shop", "destination": f"node:n2:{kept['place']}", "walInterval": 15}
    for field, wrong in {"destination": "/backups", "paths": ["/etc"], "consistency": "stop", "dump": {"command": ["true"]}, "excludes": ["x"]}.items():
        refused = world.client.post(CONFIGS, asked | {field: wrong}).expect(409)
        assert [d["field"] for d in refused.json["details"]] == [field], refused
    refused = world.client.post(CONFIGS, asked | {"walInterval": 1})
    assert refused.status == 422 and refused.json["details"][0]["field"] == "walInterval", refused
    refused = world.client.post(CONFIGS, asked | {"serverId": "n1"}).expect(409)
    assert [d["field"] for d in refused.json["details"]] == ["walInterval"], refused
    kept["config"] = world.config(PREFIX + "shop", asked["destination"], name="shop", walInterval=15)
    row = config().look()
    assert row["serverKind"] == "cluster" and row["serverId"] == kept["base"].id and row["recovery"]["windows"] == [], row
    eventually(lambda: (kept["base"].database().get("archive") or {}).get("enabled"), 30, "the log to be kept")
    eventually(lambda: config().look()["recovery"].get("shipped"), 60, "the log to be shipped by itself")


@suite.check("a base backup while clients write: completed, checked, and every moment after it can be reached")
def _():
    note(*range(1, 11))
    with kept["base"].write() as session:
        session.rows("CREATE TABLE filler AS SELECT g AS n, gen_random_bytes(64) AS b FROM generate_series(1, 200000) g", 60)
    made = kept["backup"] = config().completed(120)
    assert made["verification"]["checked"] and made["size"] > 10_000_000, made
    seen = world.backup(made["id"])
    assert seen["recoverableFrom"] == windows()[-1]["from"] <= windows()[-1]["to"], (seen, windows())


@suite.check("an accident: back to the moment before it, to the transaction, in a new cluster of three with passwords of its own; the old one serves on")
def _():
    note(*range(11, 16))
    before = moment()
    note(16)
    with kept["base"].write() as session:
        session.rows("BEGIN")
        session.rows("DELETE FROM notes WHERE n <= 10")
        session.rows("COMMIT")
    kept["before"] = before
    until_reached(before)
    told = subprocess.run(
        [str(binary()), "backups", "restore", "shop", "--to", before, "--cluster", PREFIX + "again", *(w for n in NODES for w in ("--node", n))],
        env=os.environ | {"NEURALMESH_SERVER": fleet.url, "NEURALMESH_TOKEN": fleet.client.token}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240,
    )  # fmt: skip
    assert told.returncode == 0, told.stdout
    again = Base.of(fleet, PREFIX + "again")
    again.until_well(120)
    # One after the other becomes a member of etcd, too.
    view = again.until("it to be highly available", lambda v: v["highlyAvailable"], 120)
    assert view["restoredFrom"] == {"backupId": kept["backup"]["id"], "to": before}, view
    assert notes(again) == list(range(1, 16)), notes(again)
    assert once(again.write, "SELECT count(*) FROM filler") == ["200000"]
    assert once(again.write, "SHOW work_mem") == ["8MB"]
    assert once(again.write, "SELECT count(*) FROM pg_extension WHERE extname = 'pgcrypto'") == ["1"]
    assert notes(kept["base"]) == list(range(11, 17))
    mine, old = again.credentials()["application"]["password"], kept["base"].credentials()["application"]["password"]
    assert mine != old
    with contextlib.suppress(Broken):
        once(lambda: psql(again.credentials()["readWrite"].replace(mine, old), PGSSLROOTCERT=str(again.authority)), "SELECT 1")
        raise AssertionError("the old password is taken")
    note(17)
    assert once(again.write, "INSERT INTO notes (n) VALUES (99) RETURNING n") == ["99"]
    again.delete()


@suite.check("moments that are not kept are refused, and so is what has no meaning for a database")
def _():
    backup, cluster = kept["backup"], {"name": "x", "type": "database", "servers": NODES}

    def refused(status, field, **asked):
        reply = world.begin_restore(backup, **asked).expect(status)
        assert field in [d["field"] for d in reply.json["details"]], reply
        return reply

    assert refused(409, "to", cluster=cluster, to="2020-01-01T00:00:00Z").code == "moment_not_kept"
    assert refused(409, "to", cluster=cluster, to="2100-01-01T00:00:00Z").code == "moment_not_kept"
    refused(409, "cluster")
    refused(409, "target", cluster=cluster, target="/x")
    refused(409, "cluster.type", cluster=cluster | {"type": "load-balanced"})
    refused(409, "cluster.database.name", cluster=cluster | {"database": {"name": "other"}})
    refused(409, "cluster.name", cluster=cluster | {"name": PREFIX + "shop"})
    refused(404, "cluster.servers[0]", cluster=cluster | {"servers": ["nowhere"]})
    token = fleet.client.post("/api/tokens", {"name": "backups only", "role": "operator", "scopes": ["backups:write"]}).expect(201).data["token"]
    limited = fleet.client.post(f"{BACKUPS}/{backup['id']}/restore", {"cluster": cluster}, token=token).expect(403)
    assert "clusters:write" in limited.error, limited
    other = world.config("n1", paths=[world.folder("source")]).completed()
    reply = world.begin_restore(other, cluster=cluster).expect(409)
    assert reply.json["details"][0]["field"] == "cluster", reply
    assert [c["name"] for c in fleet.client.get(CLUSTERS).expect(200).data] == [PREFIX + "shop"]


@suite.check("the primary is lost with what it had not shipped; a moment after the failover can be reached, and nothing acknowledged is missing")
def _():
    base = kept["base"]
    view = base.until_well()
    note(*range(18, 24))
    base.kill_container(base.name(view["primary"]))
    base.until_well(120, after=view["timeline"])
    note(*range(24, 30))
    after = moment()
    note(30)
    until_reached(after, 90)
    again = recovered(kept["backup"], "after", ["n3"], to=after)
    assert notes(again) == list(range(11, 30)), notes(again)
    again.delete()


@suite.check("the control plane is killed -9 while a database is brought back: it goes on, and makes one")
def _():
    begun = world.client.post(
        f"{BACKUPS}/{kept['backup']['id']}/restore", {"to": kept["before"], "cluster": {"name": PREFIX + "twice", "type": "database", "servers": ["n1"]}},
        headers={"Prefer": "respond-async"},
    ).expect(202).data  # fmt: skip
    eventually(lambda: any(c["name"] == PREFIX + "twice" for c in fleet.client.get(CLUSTERS).expect(200).data), 30, "the cluster", every=0.05)
    fleet.control("kill")
    fleet.control("start")
    fleet.until_all_ready()
    done = world.ended(begun["id"], 180)
    assert done["state"] == "succeeded", describe(done)
    assert [c["name"] for c in fleet.client.get(CLUSTERS).expect(200).data].count(PREFIX + "twice") == 1
    again = Base.of(fleet, PREFIX + "twice")
    assert notes(again) == list(range(1, 16))
    again.delete()


@suite.check("stock restic reads both repositories")
def _():
    key = world.client.get(f"{config().path}/key").expect(200).data
    for repository in (key["repository"], key["logRepository"]):
        code, said = fleet.run("n2", "restic", "-r", repository, "--no-cache", "--no-lock", "check", "--read-data", env={"RESTIC_PASSWORD": key["password"]})
        assert code == 0 and "no errors were found" in said, said


@suite.check("retention: with a backup goes what of the log nobody needs without it")
def _():
    def snapshots():
        return len(os.listdir(Path(kept["place"]) / f"{config().id}-log" / "snapshots"))

    before, many = windows(), snapshots()
    second = kept["second"] = config().completed(120)
    world.client.delete(f"{BACKUPS}/{kept['backup']['id']}?force=true", timeout=60).expect(200, 202, 204)
    third = kept["second"] = config().completed(120)
    after = windows()
    assert after[0]["from"] > before[0]["from"], (before, after)
    assert after[0]["from"] == world.backup(second["id"])["recoverableFrom"] and third["status"] == "completed"
    print(f"    {many} snapshots of the log before, {snapshots()} after")


@suite.check("paused, nothing is kept; resumed, there is a gap until the next backup, and it says so")
def _():
    config().patch(status="paused")
    eventually(lambda: not kept["base"].database()["archive"]["enabled"], 30, "the log not to be kept")
    ended = windows()[-1]["to"]
    missing = moment()
    note(31)
    config().patch(status="active")
    eventually(lambda: (config().look()["recovery"].get("shipped") or "") > missing, 60, "the log to be shipped again", every=0.5)
    told = config().look()["recovery"]
    assert [w["to"] for w in told["windows"]] == [ended] and "no backup was made since" in told["message"], told
    made = kept["second"] = config().completed(120)
    told = config().look()["recovery"]
    assert len(told["windows"]) == 2 and told["windows"][1]["from"] == world.backup(made["id"])["recoverableFrom"] and "message" not in told, told


@suite.check("the cluster is gone: it comes back as new as its log is, on other nodes, under its old name")
def _():
    note(32)
    until_reached(moment())
    kept["base"].delete()
    again = recovered(kept["second"], "shop", ["n2"])
    assert notes(again) == [*range(11, 33)], notes(again)
    assert not again.database()["highlyAvailable"]
    again.delete()


suite.run(setup)
