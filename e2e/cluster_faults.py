#!/usr/bin/env python3
"""Clusters in the lab when things go wrong: what can't be asked for, servers and clients that mean harm, the server that takes all traffic
killed or hung, an entry node that loses its power or is taken out of the fleet. Needs keepalived."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))
from checks import Suite, eventually
from clusters import CLUSTERS, HANGS, RESETS, SAYS_LESS, SAYS_MORE, Web, edge, get, perl, since
from fleet import Fleet
from load import Load
from nm import PREFIX

FAILOVER_WITHIN = 5
suite = Suite("cluster_faults")
fleet = Fleet()
web = Web(fleet)
THREE = ("a", "b", "c")


def setup():
    suite.on_exit(fleet.close)
    assert shutil.which("keepalived", path="/usr/sbin:/usr/bin"), "install keepalived"
    fleet.up()
    for name, node in zip(THREE, ("n1", "n2", "n3")):
        web.server(name, node)


def check(what, goes_on=False):
    """Each begins with the three servers up and no cluster, whatever became of the one before; unless it goes on with what that left."""

    def register(function):
        def run():
            if not goes_on:
                begin()
            function()

        suite.check(what)(run)

    return register


def begin():
    for row in fleet.client.every(CLUSTERS):
        fleet.client.delete(f"{CLUSTERS}/{row['id']}").expect(200)
    for name in THREE:
        state = fleet.docker(web.nodes[name]).inspect(PREFIX + name)["State"]
        if not state["Running"]:
            web.docker_start(name)
        fleet.client.until_status(web.id(name), "running")


# ---- what can't be ---------------------------------------------------------------------------------------------------


def refused(status, code, field, **fields):
    body = {"name": PREFIX + "wrong", "type": "load-balanced", "servers": [web.id("a"), web.id("b")]} | fields
    answer = fleet.client.post(CLUSTERS, body).expect(status)
    fields = [d["field"] for d in answer.json.get("details", [])]
    assert answer.code == code and field in fields, f"{field}: {answer}"
    return answer


@check("what can't be is refused with the field that is to blame: 422 where it is wrong by itself or in itself, 404 and 409 by what else there is")
def _():
    scaling = {"enabled": True, "minServers": 5, "maxServers": 3}
    refused(404, "server_not_found", "servers[1]", servers=[web.id("a"), "nobody"])
    refused(422, "conflicting_fields", "servers[1]", servers=[web.id("a"), web.id("a")])
    refused(422, "conflicting_fields", "servers[1]", servers=[web.id("a"), PREFIX + "a"])
    refused(422, "conflicting_fields", "autoScaling.minServers", autoScaling=scaling)
    refused(422, "conflicting_fields", "loadBalancer.healthCheckTimeout", loadBalancer={"healthCheckInterval": 10, "healthCheckTimeout": 20})
    refused(422, "conflicting_fields", "tls.certificate", tls={})
    refused(422, "invalid_field", "loadBalancer.healthCheckInterval", loadBalancer={"healthCheckInterval": 5})
    refused(422, "invalid_field", "loadBalancer.algorithm", loadBalancer={"algorithm": "random"})
    refused(422, "invalid_field", "servers", servers=[])
    refused(422, "invalid_field", "type", type="queue")
    for kind in ("compute", "database"):
        refused(422, "conflicting_fields", "servers[0]", type=kind)
    refused(422, "invalid_field", "autoScaling.scaleUpCooldown", autoScaling=scaling | {"minServers": 1, "scaleUpCooldown": 1})
    refused(404, "node_not_found", "entryNodes[0]", entryNodes=["nowhere"])
    cluster = web.cluster("port", THREE, entryNodes=["n1"])
    refused(409, "port_in_use", "listenPort", listenPort=cluster.entry()[1], entryNodes=["n1"])
    published = fleet.client.container(web.id("b"))["ports"][0]["host"]
    refused(409, "port_in_use", "listenPort", listenPort=published, entryNodes=["n2"])
    cluster.delete()
    assert not fleet.client.every(CLUSTERS), "something that was refused is there"


@check("a port that a program of the node has: its cluster says so, others of the node are not touched, and it is taken once it is free")
def _():
    thief = fleet.spawn("n1", sys.executable, "-m", "http.server", "30500")
    eventually(lambda: answers(fleet.address("n1"), 30500), 10, "the program to listen")
    body = {"name": PREFIX + "late", "type": "load-balanced", "servers": [web.id("a")], "listenPort": 30500, "entryNodes": ["n1"]}
    view = fleet.client.post(CLUSTERS, body).expect(201).data
    (problem,) = [c for c in view["conditions"] if c["type"] == "entryFailed"]
    assert "port 30500" in problem["message"] and view["status"] == "offline", view
    print(f"    {problem['message']}")
    other = web.cluster("other", ["a"], entryNodes=["n1"])
    other.add("b")
    assert {get(*other.entry())[2] for _ in range(6)} == {"a", "b"} and not other.look()["conditions"], other.look()["conditions"]
    os.killpg(thief.pid, signal.SIGKILL)
    thief.wait()
    eventually(lambda: answers(fleet.address("n1"), 30500) == "a", 30, "the entry to answer")
    fleet.client.delete(f"{CLUSTERS}/{view['id']}").expect(200)
    other.delete()


def answers(host, port, timeout=2):
    """What it answers with 200, None where it does not."""
    try:
        status, _, text = get(host, port, timeout=timeout)
        return text if status == 200 else None
    except OSError:
        return None


@check("all servers down: 503 with Retry-After at once, and answers again as soon as one is back")
def _():
    cluster = web.cluster("down", THREE)
    entry = cluster.entry()
    for name in THREE:
        web.docker_kill(name)
    cluster.until("all to be known as down", lambda v: {m["state"] for m in v["members"]} == {"unreachable"} and v["status"] == "offline", 15)
    began = time.monotonic()
    status, headers, text = get(*entry)
    took = since(began)
    assert status == 503 and headers["Retry-After"] and took < 1, (status, dict(headers), text, took)
    everybody = {web.id(name) for name in THREE}
    downs = {}

    def all_told(kind):
        downs.update({e["member"]: e["reason"] for e in cluster.events(kind)})
        return {e["member"] for e in cluster.events(kind)} == everybody

    eventually(lambda: all_told("memberDown"), 5, "an event for each")
    print(f"    503 after {took * 1000:.0f} ms, Retry-After {headers['Retry-After']}; told: {', '.join(set(downs.values()))}")
    began = time.monotonic()
    for name in THREE:
        web.docker_start(name)
    eventually(lambda: answers(*entry), 15, "an answer")
    print(f"    answers {since(began):.1f} s after they were started")
    cluster.until_up()
    eventually(lambda: all_told("memberUp"), 5, "an event for each")
    cluster.delete()


# ---- who means harm --------------------------------------------------------------------------------------------------


def beside(what, harm):
    """Does harm while others are served: none of theirs fails."""
    cluster = web.cluster("others", THREE, entryNodes=["n1"])
    load = cluster.load(clients=8, fresh=4, rate=200)
    suite.on_exit(load.close)
    try:
        load.more(100)
        harm(cluster)
        load.more(200)
        result = load.end()
        print(f"    {what}: 0 of {result['done']} of the others failed, p99 {result['p99Ms']} ms, at most {result['slowestMs']} ms")
        assert result["slowestMs"] < 5000, result
    finally:
        load.close()
        cluster.delete()


@check("200 clients that send their head byte by byte: closed after ten seconds, others are unharmed")
def _():
    def harm(cluster):
        began, sockets = time.monotonic(), []
        for _ in range(200):
            s = socket.create_connection(cluster.entry(), 10)
            s.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-A")
            s.setblocking(False)
            sockets.append(s)

        def closed():
            left = []
            for s in sockets:
                try:
                    s.send(b"a")
                    if s.recv(4096) == b"":
                        continue
                except BlockingIOError:
                    pass
                except OSError:
                    continue
                left.append(s)
            sockets[:] = left
            return not left

        eventually(closed, 20, "all of them to be closed", every=0.5)
        print(f"    closed after {since(began):.1f} s")
        assert since(began) >= 8

    beside("slow heads", harm)


@check("an upload of 1 GB: passed on piece by piece, others are unharmed")
def _():
    web.server("takes", "n2", more="client_max_body_size 0;")
    uploads = web.cluster("uploads", ["takes"], entryNodes=["n1"])
    before = memory_of_edge()

    def harm(_):
        began, piece, size = time.monotonic(), bytes(1 << 20), 1 << 30
        with socket.create_connection(uploads.entry(), 30) as s:
            s.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
            for _ in range(size // len(piece)):
                s.sendall(piece)
            head = s.recv(4096)
        assert b" 200 " in head.split(b"\r\n")[0], head
        print(f"    1 GB in {since(began):.1f} s; the load balancer's memory was {before} MB and is {memory_of_edge()} MB")
        assert memory_of_edge() < before + 64

    beside("upload", harm)
    uploads.delete()
    web.remove("takes")


def memory_of_edge():
    _, text = fleet.run("n1", "cat", f"/proc/{edge(fleet, 'n1')['pid']}/status")
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmRSS"))) // 1024


@check("servers that reset, hang, send less than they say and more than they say: others are unharmed, and so are their own clusters where that can be")
def _():
    for name, command in (("resets", perl(RESETS)), ("hangs", perl(HANGS)), ("more", perl(SAYS_MORE)), ("less", perl(SAYS_LESS))):
        web.server(name, "n2", command=command)
    quick = {"type": "http", "path": "/", "interval": 2, "fall": 1}

    def harm(_):
        resets = web.cluster("resets", ["a", "resets"], entryNodes=["n1"])
        with_load(resets, 200)
        eventually(lambda: resets.events("memberEjected"), 10, "an event that says so")
        resets.delete()
        hangs = web.cluster("hangs", ["a", "hangs"], wait=False, healthCheck=quick, entryNodes=["n1"])
        hangs.until("the one that hangs to be down", lambda v: "down" in [m["state"] for m in v["members"]], 15)
        with_load(hangs, 200)
        hangs.delete()
        less = web.cluster("less", ["less"], entryNodes=["n1"])
        seen = with_load(less, 200)["by"]
        assert set(seen) == {"liar"}, f"what a server sent beyond its answer was given to somebody: {seen}"
        less.delete()
        more = web.cluster("more", ["a", "more"], entryNodes=["n1"])
        load = more.load(clients=4, fresh=0, rate=100)
        load.more(100)
        result = load.close()
        assert result["by"].get("a", 0) >= 40 and set(result["by"]) == {"a"}, result
        assert all("IncompleteRead" in why for _, why in result["failures"]), result["failures"]
        print(f"    {result['failed']} of {result['done']} requests got what the liar broke off, each was told so")
        more.delete()

    beside("servers", harm)
    web.remove("resets", "hangs", "more", "less")


def with_load(cluster, requests):
    load = cluster.load(clients=4, fresh=2, rate=200)
    try:
        load.more(requests)
        return load.end()
    finally:
        load.close()


# ---- one takes all traffic -------------------------------------------------------------------------------------------


@check(f"high availability: the active server is killed under load, traffic goes on within {FAILOVER_WITHIN} s, and back after `failback`")
def _():
    web.high = cluster = web.cluster("high", THREE, type="high-availability", entryNodes=["n1", "n3"], failback={"mode": "automatic", "after": 2})
    assert cluster.look()["activeMember"] == web.id("a")
    load = web.load = cluster.load(clients=8, fresh=4, rate=300)
    suite.on_exit(load.close)
    load.more(300)
    assert set(load.last["by"]) == {"a"}, load.last["by"]
    began = time.monotonic()
    web.docker_kill("a")
    load.more(600)
    gap = load.gap(began)
    view = cluster.until("b to be active", lambda v: v["activeMember"] == web.id("b"), 10)
    assert view["status"] == "critical", view["status"]
    (moved,) = [e for e in cluster.events("failover") if e["member"] == web.id("b") and e["nodeId"] == view["entryNodes"][0]["nodeId"]]
    print(f"    {gap:.2f} s without an answer, {load.last['failed']} failed; told: {moved['reason']}")
    assert gap <= FAILOVER_WITHIN and load.last["failed"] == 0, load.last["failures"]
    began, before = time.monotonic(), load.answered("a")
    web.docker_start("a")
    eventually(lambda: load.answered("a") > before + 20, 30, "a to have the traffic again")
    print(f"    back {since(began):.1f} s after it was started")
    cluster.until_up()


@check(f"one that hangs is left within {FAILOVER_WITHIN} s, too", goes_on=True)
def _():
    cluster, engine = web.high, fleet.docker("n1")
    result = web.load.end()
    entry = cluster.entry()
    pid = engine.inspect(PREFIX + "a")["State"]["Pid"]

    def send(signal):
        code, said = fleet.run("n1", "sh", "-c", f"kill -{signal} {pid} $(cat /proc/{pid}/task/{pid}/children)")
        assert code == 0, said

    def pause(what):
        engine.request("POST", f"/containers/{PREFIX}a/{what}")

    print(f"    0 of {result['done']} requests had failed before")
    for how, stop, go in (("paused", lambda: pause("pause"), lambda: pause("unpause")), ("hung", lambda: send("STOP"), lambda: send("CONT"))):
        stop()
        began = time.monotonic()
        try:
            eventually(lambda: answers(*entry, timeout=0.5) == "b", FAILOVER_WITHIN, f"b to answer while a is {how}")
            print(f"    {how}: b answers after {since(began):.1f} s")
        finally:
            go()
        eventually(lambda: answers(*entry, timeout=0.5) == "a", 30, "a to answer again")
        cluster.until_up()


@check("failback by hand: traffic stays where it went until it is told otherwise; what is not up can't be told to take it", goes_on=True)
def _():
    cluster = web.high
    cluster.patch(failback={"mode": "manual"})
    load = cluster.load(clients=4, fresh=2, rate=200)
    suite.on_exit(load.close)
    load.more(100)
    web.docker_kill("a")
    eventually(lambda: load.answered("b") > 50, FAILOVER_WITHIN + 5, "b to answer")
    answer = fleet.client.post(f"{cluster.path}/failover", {"server": web.id("a")}).expect(409)
    assert answer.code == "failover_refused", answer
    web.docker_start("a")
    cluster.until_up()
    before = load.answered("a")
    load.more(600)
    assert load.answered("a") == before and cluster.look()["activeMember"] == web.id("b")
    moved = fleet.client.post(f"{cluster.path}/failover", {"server": web.id("c")}).expect(200).data
    assert moved["activeMember"] == web.id("c"), moved["activeMember"]
    load.more(50)
    before = {name: load.answered(name) for name in ("a", "b")}
    load.more(200)
    assert {name: load.answered(name) for name in ("a", "b")} == before
    result = load.end()
    print(f"    0 of {result['done']} requests failed; {result['by']}")
    cluster.delete()


# ---- an address that entry nodes share -------------------------------------------------------------------------------


def shares_address(name, address, endpoint, crash):
    web.server(f"{name}2", "n1")
    servers = ["a", f"{name}2"]
    cluster = web.cluster(name, servers, entryNodes=["n2", "n3"], virtualAddress={"address": address})
    view = cluster.until("n2 to hold the address", lambda v: [e.get("holdsVirtualAddress") for e in v["entryNodes"]] == [True, False], 30)
    assert view["endpoint"].startswith(f"http://{endpoint}:") and not view["conditions"], view
    load = Load(address, view["listenPort"], clients=4, fresh=4, rate=100)
    suite.on_exit(load.close)
    load.more(200)
    assert not load.last["failed"], load.last["failures"]
    if crash:
        began = time.monotonic()
        fleet.crash("n2")
        eventually(lambda: load.rows[-1][1] - load.rows[-1][2] > good_at(load, began + 6), 30, "answers by n3")
        gap = load.gap(began)
        cluster.until("n3 to hold it", lambda v: v["entryNodes"][1]["holdsVirtualAddress"], 15)
        print(f"    n2 loses its power: {gap:.1f} s without an answer")
        assert gap <= FAILOVER_WITHIN, f"{gap:.1f} s"
        began = time.monotonic()
        fleet.boot("n2")
        cluster.until("n2 to hold it again", lambda v: [e.get("holdsVirtualAddress") for e in v["entryNodes"]] == [True, False], 60)
        load.more(200)
        gap = load.gap(began)
        print(f"    n2 is back: {gap:.1f} s without an answer")
        assert gap <= FAILOVER_WITHIN, f"{gap:.1f} s"
    load.close()
    cluster.delete()

    def gone():
        return not any(address in fleet.run(node, "ip", "address", "show", "dev", "eth0")[1] for node in ("n2", "n3"))

    eventually(gone, 10, "nobody to have the address any more")
    web.remove(f"{name}2")


def good_at(load, moment):
    """Good answers until then; more than any number while it has not come."""
    rows = [done - failed for at, done, failed in load.rows if at <= moment]
    return rows[-1] if load.rows[-1][0] > moment else float("inf")


@check(f"two entry nodes share an address: it moves within {FAILOVER_WITHIN} s when one loses its power, and back")
def _():
    shares_address("shared", f"10.{fleet.id}.0.200", f"10.{fleet.id}.0.200", crash=True)


@check("an address of IPv6 that two entry nodes share")
def _():
    net, bridge = f"fd00:{fleet.id}:", f"labbr{fleet.id}"
    fleet.until_all_ready()
    for node in ("n2", "n3"):
        own = f"{net}:{10 + int(node[1:])}"
        code, said = fleet.run(node, "ip", "address", "add", f"{own}/64", "dev", "eth0", "nodad")
        assert code == 0, said
        labels = fleet.node(node)["labels"] | {"address": own}
        fleet.client.patch(f"/api/nodes/{node}", {"labels": labels}).expect(200)
    on_host("ip", "address", "replace", f"{net}:1/64", "dev", bridge, "nodad")
    shares_address("six", f"{net}:200", f"[{net}:200]", crash=False)
    for node in ("n2", "n3"):
        labels = {k: v for k, v in fleet.node(node)["labels"].items() if k != "address"}
        fleet.client.patch(f"/api/nodes/{node}", {"labels": labels}).expect(200)


def on_host(*command):
    subprocess.run(command, check=True)


# ---- an entry node that goes -----------------------------------------------------------------------------------------


@check("an entry node is taken out of the fleet: its entry goes elsewhere, it carries nothing more, and the cluster can be changed")
def _():
    fleet.script("join", "n4")
    eventually(lambda: fleet.rows().get("n4", {}).get("status") == "ready", 30, "n4 to be ready")
    fleet.client.post("/api/nodes/n4/cordon").expect(200)
    cluster = web.cluster("leaves", ["a", "c"], entryNodes=["n4"])
    entry = cluster.entry()
    assert entry[0] == fleet.address("n4") and answers(*entry) in ("a", "c")
    began = time.monotonic()
    fleet.client.delete("/api/nodes/n4").expect(200)
    took = since(began)
    eventually(lambda: answers(*entry) is None, 2, "n4 to carry nothing any more")
    eventually(lambda: edge(fleet, "n4") is None, 40, "its load balancer to end")
    view = cluster.until_up()
    (now,) = view["entryNodes"]
    assert now["name"] != "n4" and answers(*cluster.entry()) in ("a", "c"), view
    print(f"    removed after {took:.2f} s; the entry is at {now['name']}")
    cluster.patch(drainTime=10)
    assert [e for e in cluster.events("updated") if "no longer" in e["reason"]], cluster.events("updated")
    cluster.delete()


suite.run(setup)
