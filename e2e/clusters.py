#!/usr/bin/env python3
"""Clusters in the lab, with real containers and real load: the specification's requests, the four algorithms by what they do, servers that
die or are all replaced, and control plane, agent and load balancer that are killed or replaced meanwhile.

    clusters.py [--requests N]     so many (6,000) while all servers are replaced
"""

import argparse
import re
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))
from checks import Suite, eventually
from clusters import CLUSTERS, MEMBER_METRICS, Cluster, Web, ask_from, edge, get, program, shares, since, slow
from fleet import Fleet
from nm import PREFIX, binary

INTERVAL = 10  # the shortest that the specification has
suite = Suite("clusters")
fleet = Fleet()
web = Web(fleet)
NODES = ("n1", "n2", "n3")
REQUESTS = 6000
THREE = ("a", "b", "c")


def setup():
    suite.on_exit(fleet.close)
    fleet.up()
    for name, node in zip(THREE, NODES):
        web.server(name, node)


# ---- as the specification has it -------------------------------------------------------------------------------------

SPEC = {
    "name": "Production Web Cluster",
    "type": "load-balanced",
    "servers": ["web-1", "web-2", "web-3"],
    "loadBalancer": {"algorithm": "least-connections", "healthCheckInterval": 30, "healthCheckTimeout": 5},
    "autoScaling": {
        "enabled": True,
        "minServers": 2,
        "maxServers": 10,
        "targetCpuPercent": 70,
        "targetMemoryPercent": 80,
        "scaleUpCooldown": 300,
        "scaleDownCooldown": 600,
    },
}


@suite.check("POST as the specification has it: 201, the shape it shows, and the endpoint answers")
def _():
    for name, node in zip(SPEC["servers"], NODES):
        body = {"name": name, "image": "nginx:latest", "command": program(name), "nodeId": node, "start": True}
        body |= {"ports": [{"container": 80, "host": 0}]}
        web.ids[name], web.nodes[name] = fleet.client.post("/api/containers", body).expect(201).data["id"], node
    made = fleet.client.post(CLUSTERS, SPEC).expect(201)
    view = made.data
    assert re.match(r"^cluster_\d+_[a-z0-9]+$", view["id"]), view["id"]
    assert (view["name"], view["type"], view["servers"]) == (SPEC["name"], SPEC["type"], SPEC["servers"]), view
    assert view["status"] == "healthy" and {key: view["metrics"][key] for key in MEMBER_METRICS} == dict.fromkeys(MEMBER_METRICS, 0), view
    assert view["loadBalancer"] == SPEC["loadBalancer"], view["loadBalancer"]
    assert view["autoScaling"].items() >= SPEC["autoScaling"].items(), view["autoScaling"]
    assert view["endpoint"] in made.json["message"], made.json["message"]
    host, _, port = view["endpoint"].removeprefix("http://").rpartition(":")
    answers = [get(host, int(port)) for _ in range(30)]
    assert {status for status, _, _ in answers} == {200} and {text for _, _, text in answers} == set(SPEC["servers"]), answers
    web.production = Cluster(web, view["id"])
    print(f"    {view['endpoint']} is answered by {', '.join(sorted({text for _, _, text in answers}))}")


@suite.check("GET of all and of one; PATCH as the specification has it changes what is sent and nothing else")
def _():
    production = web.production
    (listed,) = [row for row in fleet.client.get(CLUSTERS).expect(200).data if row["id"] == production.id]
    one = production.look()
    assert listed.keys() == one.keys() and listed["servers"] == one["servers"] == SPEC["servers"]
    assert fleet.client.get(f"{CLUSTERS}/Production%20Web%20Cluster").expect(200).data["id"] == production.id
    patch = {"autoScaling": {"enabled": True, "maxServers": 15, "targetCpuPercent": 60}}
    view = production.patch(**patch)
    assert view["autoScaling"].items() >= (SPEC["autoScaling"] | patch["autoScaling"]).items(), view["autoScaling"]
    assert view["loadBalancer"] == SPEC["loadBalancer"] and view["servers"] == SPEC["servers"] and view["generation"] == one["generation"] + 1


@suite.check("servers are taken away and added, and traffic follows at once; the last one stays")
def _():
    production = web.production

    def answering():
        return {get(*production.entry())[2] for _ in range(12)}

    view = production.take("web-2")
    assert view["servers"] == ["web-1", "web-3"] and answering() == {"web-1", "web-3"}
    view = production.add({"id": "web-2", "weight": 3}, "a")
    assert len(view["servers"]) == 4 and [m["weight"] for m in view["members"]] == [1, 1, 3, 1], view["members"]
    assert answering() == {*SPEC["servers"], "a"}
    for name in ("a", "web-2", "web-3"):
        production.take(name)
    assert answering() == {"web-1"}
    refused = fleet.client.delete(f"{production.path}/servers/{web.id('web-1')}").expect(409)
    assert refused.code == "last_server", refused
    assert fleet.client.delete(f"{production.path}/servers/web-2").expect(404).code == "server_not_found"


@suite.check("metrics count every request, of the cluster and of each server; events tell who did what, page by page")
def _():
    production = web.production
    production.add("web-2", "web-3")
    before = production.settled(12)["totalRequests"]
    sent, began = 90, time.monotonic()
    for _ in range(sent):
        get(*production.entry())
    metrics = production.settled(before + sent)
    assert metrics["totalRequests"] == before + sent, f"{sent} after {before} make {metrics['totalRequests']}"
    assert metrics["errorRate"] == 0 and 0 < metrics["averageResponseTime"] < 1000 and metrics["totalBandwidth"] > 0, metrics
    assert metrics["clusterId"] == production.id and len(metrics["members"]) == 3
    assert sum(m["totalRequests"] for m in metrics["members"]) <= metrics["totalRequests"]
    assert production.look()["metrics"]["totalRequests"] == before + sent
    print(f"    {metrics['totalRequests']} requests counted, {since(began):.1f} s after the first of the last {sent}")
    kinds = [e["kind"] for e in production.events()]
    assert kinds[0] == "created" and kinds.count("updated") >= 6 and kinds.count("memberAdded") == 4 and kinds.count("memberRemoved") == 4, kinds
    gone = production.events("memberRemoved")[0]
    assert gone["member"] == web.id("web-2") and "admin" in gone["reason"], gone
    page = fleet.client.get(f"{production.path}/events?limit=2").expect(200)
    after = fleet.client.get(f"{production.path}/events?limit=2&cursor={page.json['nextCursor']}").expect(200)
    numbers = [e["sequence"] for e in page.data + after.data]
    assert numbers == sorted(numbers, reverse=True) and len(set(numbers)) == 4, numbers


@suite.check("DELETE: the entry is closed, the servers run on")
def _():
    entry, production = web.production.entry(), web.production
    production.delete()
    fleet.client.get(production.path).expect(404)

    def closed():
        try:
            return get(*entry, timeout=2)[0] >= 400
        except OSError:
            return True

    eventually(closed, 10, "the entry to be closed")
    for name in SPEC["servers"]:
        assert fleet.client.container(web.id(name))["status"] == "running"
    web.remove(*SPEC["servers"])


# ---- what the algorithms do ------------------------------------------------------------------------------------------


def run_of(cluster, requests, **more):
    load = cluster.load(**more)
    try:
        load.more(requests)
    finally:
        result = load.close()
    assert not result["failed"], result["failures"]
    return result


@suite.check("round-robin: equal shares within 1 %")
def _():
    cluster = web.cluster("round", THREE)
    counts = run_of(cluster, 3000, clients=12, fresh=4)["by"]
    print(f"    {shares(counts)} % of {sum(counts.values())} requests")
    assert all(abs(part - 100 / 3) <= 1 for part in shares(counts).values()) and len(counts) == 3, counts
    cluster.delete()


@suite.check("weighted, 5 : 2 : 1: shares within 1 %")
def _():
    weights = dict(zip(THREE, (5, 2, 1)))
    servers = [{"id": name, "weight": weight} for name, weight in weights.items()]
    cluster = web.cluster("weighted", servers, loadBalancer={"algorithm": "weighted"})
    counts = run_of(cluster, 3000, clients=12, fresh=4)["by"]
    print(f"    {shares(counts)} % of {sum(counts.values())} requests")
    assert all(abs(shares(counts)[name] - weight * 100 / 8) <= 1 for name, weight in weights.items()), counts
    cluster.delete()


@suite.check("least-connections: a server that takes 0.2 s gets what it can do; by round-robin it would get a third")
def _():
    web.server("slow", "n2", command=slow("slow", 0.2))
    web.server("twin", NODES[0])  # on the node of "a": one behind a network is slower, and so rightly gets less
    parts, times = {}, {}
    for algorithm in ("least-connections", "round-robin"):
        cluster = web.cluster("least", ("a", "twin", "slow"), loadBalancer={"algorithm": algorithm})
        result = run_of(cluster, 1500, clients=12, fresh=2)
        parts[algorithm], times[algorithm] = shares(result["by"]), result["p50Ms"]
        cluster.delete()
    print(f"    {parts}, median ms {times}")
    assert parts["least-connections"]["slow"] < 15 < 32 < parts["round-robin"]["slow"] < 35, parts
    fast = [parts["least-connections"][name] for name in ("a", "twin")]
    assert abs(fast[0] - fast[1]) < 10, f"the two that are alike get {fast}"
    web.remove("slow", "twin")


@suite.check("ip-hash: 1,000 addresses stay at their servers; of ten servers one that goes moves only its own, and they come back with it")
def _():
    more = [f"h{i}" for i in range(7)]
    for i, name in enumerate(more):
        web.server(name, NODES[i % 3])
    ten = [*THREE, *more]
    cluster = web.cluster("hash", ten, loadBalancer={"algorithm": "ip-hash"})
    entry, port = cluster.look()["entryNodes"][0]["name"], cluster.entry()[1]
    sources = [f"127.0.{i // 250}.{i % 250 + 1}" for i in range(1000)]
    first = ask_from(fleet, entry, port, sources, asks=3)
    counts = {name: list(first.values()).count(name) for name in ten}
    assert all(50 <= n <= 160 for n in counts.values()), counts
    cluster.take("h3")
    without = ask_from(fleet, entry, port, sources)
    moved = [s for s in sources if without[s] != first[s]]
    assert all(first[s] == "h3" for s in moved) and len(moved) == counts["h3"], f"{len(moved)} moved, h3 had {counts['h3']}"
    assert len(moved) <= len(sources) * 0.15
    cluster.add("h3")
    cluster.until_up()
    assert ask_from(fleet, entry, port, sources) == first
    print(f"    clients of each server: {sorted(counts.values())}; {len(moved) / 10:.1f} % moved")
    # One that dies is left by its own clients alone, too.
    web.docker_kill("h5")
    dead = ask_from(fleet, entry, port, sources)
    assert {first[s] for s in sources if dead[s] != first[s]} == {"h5"} and "h5" not in dead.values()
    cluster.delete()
    web.remove(*more)


# ---- servers that go -------------------------------------------------------------------------------------------------


@suite.check(f"one of three is killed under load: no request fails, out of the rotation within one interval ({INTERVAL} s), back by itself")
def _():
    cluster = web.cluster("killed", THREE, loadBalancer={"healthCheckInterval": INTERVAL})
    load = cluster.load(clients=12, fresh=4, rate=600)
    suite.on_exit(load.close)
    load.more(600)
    began = time.monotonic()
    web.docker_kill("b")
    cluster.until("b to be out of the rotation", lambda v: {m["state"] for m in v["members"] if m["id"] == web.id("b")} <= {"ejected", "down", "unreachable"})
    out = since(began)
    load.more(50)
    answered = load.answered("b")
    load.more(600)
    assert load.answered("b") == answered, f"b answered {load.answered('b') - answered} more"
    assert cluster.look()["status"] == "critical", cluster.look()["status"]  # two of three
    web.docker_start("b")
    began = time.monotonic()
    eventually(lambda: load.answered("b") > answered, INTERVAL + 15, "b to answer again")
    back = since(began)
    cluster.until_up()
    result = load.end()
    print(f"    0 of {result['done']} failed; out after {out:.2f} s, back after {back:.1f} s; p99 {result['p99Ms']} ms, at most {result['slowestMs']} ms")
    assert out <= INTERVAL, f"out of the rotation after {out:.1f} s"
    kinds = [e["kind"] for e in cluster.events()]
    assert {"memberDown", "memberUp", "statusChanged"} <= set(kinds), kinds
    cluster.delete()


@suite.check("all servers are replaced one by one under load: no request fails")
def _():
    for name in ("r0", "r1", "r2"):
        web.server(name, NODES[int(name[1:])])
    serving, number = ["r0", "r1", "r2"], 3
    cluster = web.cluster("replaced", serving)
    load = cluster.load(clients=16, fresh=4)
    suite.on_exit(load.close)
    load.more(200)
    while load.done < REQUESTS or number < 6:
        fresh, old = f"r{number}", serving.pop(0)
        web.server(fresh, NODES[number % 3])
        cluster.add(fresh)
        eventually(lambda: load.answered(fresh) > 10, 30, f"{fresh} to answer")
        cluster.take(old)
        web.remove(old)
        serving.append(fresh)
        number += 1
        load.more(200)
    view = cluster.until_up()
    assert [m["name"] for m in view["members"]] == [PREFIX + name for name in serving], view["members"]
    result = load.end()
    answered = {name: n for name, n in result["by"].items() if n}
    print(f"    0 of {result['done']} failed while {number - 3} servers were replaced; each answered {min(answered.values())} at least")
    cluster.delete()
    web.remove(*serving)


# ---- what carries it goes --------------------------------------------------------------------------------------------


@suite.check("control plane, entry node's agent and its load balancer: killed, killed, replaced under load: no request fails or is not counted")
def _():
    cluster = web.cluster("kills", THREE)
    entry = cluster.look()["entryNodes"][0]["name"]
    load = cluster.load(clients=12, fresh=4, rate=600)
    suite.on_exit(load.close)
    load.more(600)
    before = cluster.settled(300)["totalRequests"]

    began = time.monotonic()
    fleet.control("kill")
    load.more(600)
    fleet.control("start")
    fleet.until_all_ready()
    again = cluster.settled(before)["totalRequests"]
    assert again >= before, f"{before} requests were counted before the control plane was killed, {again} after"
    print(f"    control plane killed and back: {since(began):.1f} s, {again - before} more counted")

    proxy = carrier(entry)
    assert proxy
    fleet.kill_agent(entry)
    load.more(600)
    fleet.until_all_ready()
    cluster.until_up()
    assert carrier(entry) == proxy, "the load balancer is another one after its agent was killed"

    folder = fleet.dir / "nodes" / entry / "next"
    folder.mkdir()
    after = shutil.copy2(binary(), folder)
    fleet.script("service-stop", entry, "agent")
    fleet.service(entry, "agent", after, "agent", "--server", fleet.agents, "--data-dir", fleet.dir / "nodes" / entry / "neuralmesh")
    try:
        eventually(lambda: carrier(entry) not in (None, proxy), 60, "another load balancer to take over")
    except AssertionError as e:
        e.add_note(fleet.log(entry))
        raise
    load.more(600)
    fleet.until_all_ready()
    cluster.until_up()
    result = load.end()
    metrics = cluster.settled(result["done"])
    print(f"    0 of {result['done']} failed; {metrics['totalRequests']} counted; p99 {result['p99Ms']} ms, at most {result['slowestMs']} ms")
    assert metrics["totalRequests"] == result["done"], f"{result['done']} were sent, {metrics['totalRequests']} are counted"
    assert metrics["errorRate"] == 0, metrics
    cluster.delete()


def carrier(node):
    """The process that carries the node's traffic, told apart from any other; None while none answers."""
    return (edge(fleet, node) or {}).get("instance")


def main():
    global REQUESTS
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--requests", type=int, default=REQUESTS, help="while all servers are replaced (6000)")
    REQUESTS = options.parse_args().requests
    suite.run(setup)


main()
