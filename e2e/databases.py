#!/usr/bin/env python3
"""Database clusters in the lab: made by one call, written and read through their two ports, while who is primary changes by hand and by
crash, members come and go, and parameters are changed."""

import contextlib
import os
import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))
os.environ.setdefault("LAB_ID", "74")
from checks import Suite, eventually
from clusters import CLUSTERS, since
from fleet import Fleet
from postgres_ha import IMAGE, TABLE, Base, Broken, Reader, built_image, once, overlaps, psql

os.environ.setdefault("FLEET_IMAGES", built_image())
NODES = ("n1", "n2", "n3")
BACK_WITHIN = 15
LAG_LIMIT = 6
suite = Suite("databases")
fleet = Fleet()
kept = {}


def setup():
    suite.on_exit(fleet.close)
    fleet.up()


def base():
    return kept["base"]


@suite.check("POST as the chapter has it: 201, then a primary and two replicas by themselves, and strings to connect by")
def _():
    began = time.monotonic()
    parameters = {"max_connections": "120", "work_mem": "8MB"}
    made = kept["base"] = Base(fleet, "shop", readLagLimit=LAG_LIMIT, parameters=parameters, extensions=["pgcrypto", "pg_trgm"])
    assert re.match(r"^cluster_\d+_[a-z0-9]+$", made.id), made.id
    told = made.made.data["database"]
    assert told["state"] == "creating" and "connectionStrings" not in told, told
    view = made.until_well()
    print(f"    well {since(began):.1f} s after it was asked for; the primary is {made.name(view['primary'])}")
    assert view["highlyAvailable"] and view["synchronous"] and sorted(made.members()) == list(NODES)
    strings = view["connectionStrings"]
    assert all("password" not in text and text.count(":") >= 4 and "/shop" in text for text in strings.values()), strings
    assert str(view["readWritePort"]) in strings["readWrite"] and str(view["readOnlyPort"]) in strings["readOnly"], strings
    assert strings["direct"].endswith("target_session_attrs=read-write"), strings


@suite.check("one port takes writes; the other one gives to read what was written, from replicas")
def _():
    once(base().write, TABLE)
    once(base().write, "INSERT INTO writes (writer, n) VALUES ('hand', 1)")
    eventually(lambda: once(base().read, "SELECT count(*) FROM writes") == ["1"], 5, "a replica to have it")
    answered = {tuple(once(base().read, "SELECT pg_is_in_recovery(), inet_server_addr()")) for _ in range(12)}
    assert {row[0].split("|")[0] for row in answered} == {"t"} and len(answered) >= 1, answered
    with base().read() as session, contextlib.suppress(Broken):
        session.rows("INSERT INTO writes (writer, n) VALUES ('hand', 2)")
        raise AssertionError("the read-only port took a write")
    with base().write() as session:
        assert session.value("SHOW max_connections") == "120" and session.value("SHOW work_mem") == "8MB"
        assert session.value("SELECT count(*) FROM pg_extension WHERE extname IN ('pgcrypto', 'pg_trgm')") == "2"
        assert session.value("SHOW data_checksums") == "on"


def refused(open_session, *whys):
    """Nobody is let in, for one of these reasons."""
    try:
        once(open_session, "SELECT 1")
    except Broken as e:
        assert any(why in str(e) for why in whys), f"refused, but so: {e}"
    else:
        raise AssertionError(f"was let in; expected: {whys}")


@suite.check("nothing goes in clear text; each role has what it needs and no more; a certificate of another authority is not taken")
def _():
    credentials = base().credentials()
    url, authority = credentials["readWrite"], str(base().authority)
    refused(lambda: psql(url.replace("sslmode=verify-ca", "sslmode=disable")), "no encryption")
    refused(lambda: psql(url.replace(f":{credentials['application']['password']}@", ":wrong@"), PGSSLROOTCERT=authority), "password")
    with base().write() as session:
        many = "rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication"
        assert session.value(f"SELECT {many} FROM pg_roles WHERE rolname = current_user") == "f"
        assert session.value("SELECT ssl AND version >= 'TLSv1.2' FROM pg_stat_ssl WHERE pid = pg_backend_pid()") == "t"
    with base().admin() as session:
        assert session.value("SELECT rolcreaterole AND rolcreatedb AND NOT rolsuper FROM pg_roles WHERE rolname = current_user") == "t"
        assert session.value("SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_replication USING (pid)") == "t"
        assert session.value("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'") == "1"
    document = base().document(base().primary())
    for role, password in (("postgres", "superuser"), ("replicator", "replication")):
        told = {"host": document["address"], "port": document["ports"]["postgres"], "dbname": "shop", "user": role, "sslmode": "require"}
        told["password"] = document["passwords"][password]
        refused(lambda told=told: psql(" ".join(f"{key}={value}" for key, value in told.items())), "rejects")
    stranger = Base(fleet, "other", servers=["n1"])
    with stranger.deleted():
        stranger.until_well(replicas=0)
        assert not stranger.database()["highlyAvailable"]
        stranger.credentials()
        refused(lambda: psql(url, PGSSLROOTCERT=str(stranger.authority)), "certificate")


@suite.check("switchover by the API, under writes: to whom was named, nothing is lost")
def _():
    with base().writer(name="switched") as writer:
        writer.until_written(50)
        for _ in range(2):
            view = base().until_well()
            before, timeline = base().name(view["primary"]), view["timeline"]
            to = next(name for name, m in base().members().items() if m["role"] == "replica")
            began = time.monotonic()
            told = fleet.client.post(f"{base().path}/database/switchover", {"to": to}, timeout=60).expect(200).data["database"]
            assert base().name(told["primary"]) == to != before, told
            back = writer.until_back(began, timeline, BACK_WITHIN)
            print(f"    from {before} to {to}: {back:.1f} s until writes went on, {writer.longest_pause(began):.1f} s without")
            assert once(base().direct, "SELECT pg_is_in_recovery()") == ["f"], "the direct address leads to who takes writes"
        base().until_well()
        again = fleet.client.post(f"{base().path}/database/switchover", {"to": base().primary()}).expect(409)
        assert again.code == "is_primary", again
    assert not (lost := writer.lost(base().write)), f"lost: {lost[:10]} of {len(writer.acks)}"


@suite.check("what says that it is the primary stands still for a moment: no client is sent away")
def _():
    view = base().until_well()
    primary, timeline = base().name(view["primary"]), view["timeline"]
    with base().writer(name="patient") as writer:
        writer.until_written(50)
        for program in ("patroni", "supervise"):
            stopped = base().processes(primary, f"nm-postgres.py {program}")
            base().signal(primary, "STOP", *stopped)
            time.sleep(1.5)  # how long it stands still
            base().signal(primary, "CONT", *stopped)
            writer.until_written(100)
    assert not writer.failures and {at for *_, at in writer.acks} == {timeline}, writer.failures


def lose(what, fault):
    """A fault of the primary under writes: back in time, nothing lost, never two that take writes, and the old one follows again."""
    view = base().until_well()
    primary, timeline = base().name(view["primary"]), view["timeline"]
    probes = [base().prober(node, f"{what} at {node}") for node in NODES]
    with contextlib.ExitStack() as running:
        writer = running.enter_context(base().writer(name=what))
        for probe in probes:
            running.enter_context(probe)
        writer.until_written(50)
        began = time.monotonic()
        fault(primary)
        back = writer.until_back(began, timeline, BACK_WITHIN)
        healed = time.monotonic()
        view = base().until_well(120, after=timeline)
        print(f"    {what} of {primary}: writes go on after {back:.1f} s at {base().name(view['primary'])}; all well {since(healed):.1f} s later")
    assert not (lost := writer.lost(base().write)), f"lost: {lost[:10]} of {len(writer.acks)}"
    assert not (both := overlaps([writer, *probes])), both
    kinds = [e["kind"] for e in base().events()]
    assert any("failover" in kind.lower() or "primary" in kind.lower() for kind in kinds), kinds


@suite.check(f"PostgreSQL of the primary is killed -9: writes go on within {BACK_WITHIN} s, nothing is lost, and it rejoins by itself")
def _():
    lose("postmaster", base().kill_postgres)


@suite.check("the primary's whole container is killed -9: the same")
def _():
    lose("container", base().kill_container)


@suite.check("the primary's Patroni hangs: PostgreSQL does not go on without it, and another one takes over")
def _():
    lose("hang", lambda node: base().signal(node, "STOP", *base().processes(node, "nm-postgres.py patroni")))


@suite.check(f"the read-only port gives nothing older than {LAG_LIMIT} s, though a replica's replay stands still")
def _():
    base().until_well()
    names = [name for name, m in base().members().items() if m["role"] != "primary"]
    stopped = {name: base().processes(name, "startup recovering") for name in names}
    with base().writer(name="aged") as writer, Reader(base().read, writer) as reader:
        writer.until_written(50)
        eventually(lambda: len(reader.ages) > 20, 15, "reads")
        fresh = reader.oldest()
        try:
            base().signal(names[0], "STOP", *stopped[names[0]])
            began = time.monotonic()
            eventually(lambda: any(at > began + LAG_LIMIT + 4 for at, _ in reader.ages), LAG_LIMIT + 30, "reads after its limit")
        finally:
            base().signal(names[0], "CONT", *stopped[names[0]])
    told = f"at most {fresh:.2f} s old before, {reader.oldest(began):.2f} s with one that stood still"
    print(f"    {len(reader.ages)} reads, {reader.replicas} from replicas: {told}")
    assert reader.oldest() <= LAG_LIMIT, reader.oldest()
    assert not writer.lost(base().write)


@suite.check("a parameter that needs a restart gets it, replicas first and the primary after it handed over; one taken out has its default again")
def _():
    base().until_well()
    with base().writer(name="restarted") as writer:
        writer.until_written(50)
        began = time.monotonic()
        fleet.client.patch(base().path, {"database": {"parameters": {"max_connections": "150", "work_mem": None}}}).expect(200)

        def applied():
            with contextlib.suppress(Broken):
                with base().write() as session:
                    return (session.value("SHOW max_connections"), session.value("SHOW work_mem")) == ("150", "4MB")

        eventually(applied, 90, "the parameter to be in force", every=0.5)
        base().until_well(90)
        print(f"    in force on all after {since(began):.1f} s, {writer.longest_pause(began):.1f} s without a write")
        assert writer.longest_pause(began) <= BACK_WITHIN
    assert not writer.lost(base().write)


@suite.check("a replica is taken away and added again under writes: its data goes and comes, and etcd has three members again")
def _():
    view = base().until_well()
    gone = next(base().name(m["server"]) for m in view["members"] if m["role"] == "replica")
    with base().writer(name="grown") as writer:
        writer.until_written(50)
        began = time.monotonic()
        fleet.client.delete(f"{base().path}/servers/{gone}").expect(200)
        base().until("it to be gone", lambda v: len(v["members"]) == 2 and len(v["slots"]) <= 1, 60)
        away = since(began)
        began = time.monotonic()
        fleet.client.post(f"{base().path}/servers", {"servers": [gone]}).expect(200)
        base().until_well(120)
        base().until("etcd on three", lambda v: sum(m["etcd"] for m in v["members"]) == 3, 60)
        print(f"    {gone} gone after {away:.1f} s, there again after {since(began):.1f} s; {writer.longest_pause(began):.1f} s without a write")
    assert not writer.lost(base().write)


@suite.check("a pool between: clients share connections, and the read-only port has one, too")
def _():
    pooled = Base(fleet, "pooled", servers=["n1", "n2"], pool={"mode": "transaction", "size": 2})
    with pooled.deleted():
        pooled.until_well(replicas=1)
        with contextlib.ExitStack() as all_of_them:
            sessions = [all_of_them.enter_context(pooled.write()) for _ in range(10)]
            servers = {session.value("SELECT pg_backend_pid()") for session in sessions}
            assert 1 <= len(servers) <= 2, servers
        assert once(pooled.read, "SELECT pg_is_in_recovery()") == ["t"]


@suite.check("DELETE: members are gone from every node, their ports are closed, their data stays in its volumes")
def _():
    document, path = base().document("n1"), base().path
    base().delete()
    fleet.client.get(path).expect(404)

    def gone():
        return not any(row["Image"].startswith(IMAGE) for node in NODES for row in fleet.docker(node).containers())

    eventually(gone, 90, "the members' containers to be gone", every=0.5)
    for node in NODES:
        volumes = [v["Name"] for v in fleet.docker(node).request("GET", "/volumes")["Volumes"] or []]
        assert any(document["cluster"] in name for name in volumes), volumes
    assert fleet.client.get(CLUSTERS).expect(200).data == []


suite.run(setup)
