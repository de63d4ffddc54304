#!/usr/bin/env python3
"""Several real nodes as one fleet: containers on each by name, by label and by placement; what is asked goes to the right node;
who may join, and who no longer may. In the lab (e2e/lab/fleet.sh)."""

import json
import sys
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))
from checks import Suite, eventually
from docker import LABEL
from fleet import Fleet, body
from nm import PREFIX, binary

suite = Suite("fleet")
fleet = Fleet()
NODES = ("n1", "n2", "n3")
made = {}  # name -> id, of the containers that checks leave to later ones


def setup():
    suite.on_exit(fleet.close)
    fleet.up()


def create(name, node=None, **fields):
    return fleet.client.post("/api/containers", body(PREFIX + name, node, **fields))


def made_on(name, **fields):
    """Made without a node's name: the name of the node it came to."""
    row = create(name, **fields).expect(201).data
    return name_of(row["nodeId"])


def name_of(node_id):
    return next(name for name, row in fleet.rows().items() if row["id"] == node_id)


def where(name):
    """The nodes whose engine really has a container of this name."""
    return [node for node in sorted(fleet.rows()) if node in NODES and PREFIX + name in fleet.docker(node).managed(PREFIX)]


def remove_all(*names):
    for name in names:
        fleet.client.remove(PREFIX + name)


# ---- as one ----------------------------------------------------------------------------------------------------------


@suite.check("three nodes, joined by token: ready, each with its labels and its own engine")
def _():
    rows = fleet.rows()
    assert sorted(rows) == list(NODES), sorted(rows)
    for node, zone in zip(NODES, "abc"):
        assert rows[node]["status"] == "ready" and rows[node]["labels"].get("zone") == zone, rows[node]
        assert rows[node]["info"]["docker"]["available"] and rows[node]["info"]["hostname"] == node, rows[node]
    engines = {fleet.docker(node).request("GET", "/info")["ID"] for node in NODES}
    assert len(engines) == 3, f"{len(engines)} engines for three nodes"


@suite.check("a container on each node, by the node's name and by its id: only that node has it")
def _():
    for node in NODES:
        by = node if node != "n2" else fleet.node("n2")["id"]
        command = ["sh", "-c", "echo I am at $(hostname -i); exec sleep 3600"]
        volumes = [{"container": "/data", "host": f"{PREFIX}data"}]
        row = create(f"on-{node}", by, command=command, volumes=volumes).expect(201).data
        made[f"on-{node}"] = row["id"]
        assert name_of(row["nodeId"]) == node, row
        assert where(f"on-{node}") == [node], where(f"on-{node}")
        assert fleet.docker(node).of(row["id"])["State"]["Running"]


@suite.check("one list of all nodes; by node; page by page, each once")
def _():
    mine = {row["id"]: name_of(row["nodeId"]) for row in fleet.client.every("/api/containers") if row["name"].startswith(PREFIX)}
    assert mine == {made[f"on-{node}"]: node for node in NODES}, mine
    for node in NODES:
        rows = fleet.client.every(f"/api/containers?nodeId={node}")
        assert [row["id"] for row in rows] == [made[f"on-{node}"]], rows
    seen, cursor = [], ""
    while True:
        page = fleet.client.get(f"/api/containers?limit=1{cursor}").expect(200)
        seen += [row["id"] for row in page.data]
        if not page.json.get("nextCursor"):
            break
        cursor = f"&cursor={page.json['nextCursor']}"
    assert sorted(seen) == sorted(made.values()), seen
    counts = {name: row["containers"] for name, row in fleet.rows().items()}
    assert counts == dict.fromkeys(NODES, 1), counts


@suite.check("logs, exec and stats come from the container's own node")
def _():
    for node in NODES:
        reference = made[f"on-{node}"]
        network = f"10.78.{node[1:]}."  # each engine of the lab has a network of its own
        lines = eventually(lambda: fleet.client.get(f"/api/containers/{reference}/logs").expect(200).data, 10, "its first line")
        assert lines[0].startswith(f"I am at {network}"), lines
        ran = fleet.client.post(f"/api/containers/{reference}/exec", {"command": ["hostname", "-i"]}).expect(200).data
        assert ran["exitCode"] == 0 and ran["output"].startswith(network), ran

        def sample():
            return fleet.client.get(f"/api/containers/{reference}/stats?limit=1").expect(200).data

        (last,) = eventually(sample, 10, "a sample of what it uses")
        assert last["containerId"] == reference and last["pids"] >= 1, last


@suite.check("one name on two nodes: two containers; the bare name is refused, the ids work")
def _():
    ids = [create("twin", node).expect(201).data["id"] for node in ("n1", "n3")]
    assert where("twin") == ["n1", "n3"]
    create("twin", "n3").expect(409)
    refused = fleet.client.get(f"/api/containers/{PREFIX}twin").expect(409)
    assert "2" in refused.error or "several" in refused.error, refused
    for reference in ids:
        assert fleet.client.container(reference)["id"] == reference
        fleet.client.remove(reference)
    assert where("twin") == []


@suite.check("one host port on every node; a second time on one node it is refused")
def _():
    page = ["sh", "-c", "mkdir /w; echo $HOSTNAME >/w/index.html; exec httpd -f -p 80 -h /w"]
    ports = [{"container": 80, "host": 8088}]
    for node in NODES:
        create(f"web-{node}", node, command=page, ports=ports, hostname=f"web-{node}").expect(201)
        url = f"http://{fleet.address(node)}:8088/"

        def answer(url=url):
            try:
                return urllib.request.urlopen(url, timeout=5).read().decode().strip()
            except OSError:
                return None

        assert eventually(answer, 10, f"{url} to answer") == f"web-{node}"
    refused = create("web-again", "n2", ports=ports).expect(409)
    assert "8088" in refused.error, refused
    remove_all("web-n1", "web-n2", "web-n3")


@suite.check("containers of others on several nodes: listed with their node, and gone when they are")
def _():
    name = f"{PREFIX}foreign"
    for node in ("n1", "n3"):
        fleet.docker(node).create(name, "busybox:latest", ["sleep", "600"])
        fleet.docker(node).start(name)

    def seen():
        return {name_of(c["nodeId"]): c for c in fleet.client.every("/api/containers") if c["name"] == name and c["status"] == "running"}

    rows = eventually(lambda: seen() if len(seen()) == 2 else None, 5, "both of them in the list")
    assert sorted(rows) == ["n1", "n3"] and not any(row["managed"] for row in rows.values()), rows
    assert len({row["id"] for row in rows.values()}) == 2
    fleet.docker("n1").remove(name)
    eventually(lambda: sorted(seen()) == ["n3"], 5, "the one of n1 to be gone")
    fleet.docker("n3").remove(name)
    eventually(lambda: not seen(), 5, "the other to be gone")


@suite.check("images of all nodes in one list, and of one")
def _():
    rows = fleet.client.every("/api/containers/images/list")
    has = {name_of(row["nodeId"]) for row in rows if "busybox:latest" in json.dumps(row)}
    assert has == set(NODES), rows
    rows = fleet.client.every("/api/containers/images/list?nodeId=n2")
    assert rows and {name_of(row["nodeId"]) for row in rows} == {"n2"}, rows


# ---- placed ----------------------------------------------------------------------------------------------------------


@suite.check("by label: constraints choose the node; what no node fits is refused and says why")
def _():
    for node, zone in zip(NODES, "abc"):
        assert made_on(f"zone-{zone}", constraints=[f"zone={zone}"]) == node
    assert made_on("zone-not", constraints=["zone!=a", "zone!=b"]) == "n3"
    refused = create("zone-x", constraints=["zone=x"]).expect(409, 422)
    assert "zone=x" in refused.error, refused
    assert where("zone-x") == []
    remove_all("zone-a", "zone-b", "zone-c", "zone-not")


@suite.check("by placement: spread over zones evenly, and the operation's log says why")
def _():
    names = [f"spread-{i}" for i in range(6)]
    nodes = [made_on(name, spread="zone") for name in names]
    assert sorted(nodes[:3]) == list(NODES), nodes
    assert sorted(nodes) == sorted(NODES * 2), nodes
    last = fleet.client.container(PREFIX + names[-1])["id"]
    made_by = next(o for o in fleet.client.every("/api/operations") if o.get("target") == last)
    log = "\n".join(json.dumps(line) for line in fleet.client.get(f"/api/operations/{made_by['id']}").expect(200).data["log"])
    assert nodes[-1] in log and "zone" in log, f"it does not say why {nodes[-1]}: {log}"
    remove_all(*names)


@suite.check("by free port: goes where the port is free, and is refused once it is nowhere")
def _():
    ports = [{"container": 80, "host": 8099}]
    nodes = [made_on(f"port-{i}", ports=ports) for i in range(3)]
    assert sorted(nodes) == list(NODES), nodes
    refused = create("port-3", ports=ports).expect(409, 422)
    assert "8099" in refused.error, refused
    remove_all("port-0", "port-1", "port-2")


@suite.check("by free CPU: two that need most of a node's cores are not put on one")
def _():
    most = fleet.node("n1")["info"]["cpus"] * 0.6
    nodes = [made_on(f"big-{i}", cpuLimit=most) for i in range(3)]
    assert sorted(nodes) == list(NODES), nodes
    create("big-3", cpuLimit=most).expect(409, 422)
    remove_all("big-0", "big-1", "big-2")


@suite.check("a cordoned node takes nothing new, by placement or by name")
def _():
    fleet.client.patch("/api/nodes/n1", {"cordoned": True}).expect(200)
    assert fleet.status("n1") == "cordoned"
    nodes = [made_on(f"cordon-{i}", spread="zone") for i in range(4)]
    assert sorted(nodes) == ["n2", "n2", "n3", "n3"], nodes
    create("cordon-named", "n1").expect(409)
    create("cordon-label", constraints=["zone=a"]).expect(409, 422)
    fleet.client.patch("/api/nodes/n1", {"cordoned": False}).expect(200)
    remove_all(*(f"cordon-{i}" for i in range(4)))


@suite.check("what writes to its node can't ask to be moved when the node is lost")
def _():
    volumes = [{"container": "/data", "host": f"{PREFIX}data"}]
    refused = create("two-writers", onNodeLost="reschedule", volumes=volumes).expect(409, 422)
    assert "onNodeLost" in refused.error, refused
    assert where("two-writers") == []


@suite.check("drain: what may move runs elsewhere, what writes to the node is stopped; the node stays cordoned")
def _():
    moves = [create(f"drain-{i}", "n2").expect(201).data["id"] for i in range(2)]
    reply = fleet.client.post("/api/nodes/n2/drain", {}, timeout=90).expect(200, 202)
    assert reply.json.get("message"), reply

    def drained():
        return not fleet.docker("n2").containers(label=[LABEL], status=["running"])

    eventually(drained, 60, "n2 to be empty of running containers", every=0.2)
    for i, container in enumerate(moves):
        row = fleet.client.until_status(container, "running", seconds=30)
        target = name_of(row["nodeId"])
        assert target in ("n1", "n3"), target
        eventually(lambda i=i, target=target: where(f"drain-{i}") == [target], 15, f"drain-{i} to be on {target} alone")
    stayed = fleet.client.container(made["on-n2"])
    assert name_of(stayed["nodeId"]) == "n2" and stayed["status"] != "running", stayed
    assert fleet.status("n2") == "cordoned"
    fleet.client.patch("/api/nodes/n2", {"cordoned": False}).expect(200)
    fleet.until_all_ready()
    fleet.client.post(f"/api/containers/{made['on-n2']}/start").expect(200)
    remove_all("drain-0", "drain-1")
    fleet.until_agreed(*NODES, seconds=10)


# ---- who may join ----------------------------------------------------------------------------------------------------

token = {}


def try_to_join(folder, token, seconds=30):
    """An agent in n4 with a data folder of its own, which must give up: its exit code and what it said."""
    command = [binary(), "agent", "--server", fleet.agents, "--data-dir", fleet.dir / "nodes/n4" / folder]
    return fleet.run("n4", *command, seconds=seconds, env={"NEURALMESH_JOIN": token})


@suite.check("a token with another pin: the agent refuses the control plane, and the secret is not used up")
def _():
    fleet.add("n4")
    token["it"] = fleet.client.post("/api/nodes/join-tokens").expect(200, 201).data["token"]
    version, pin, secret = token["it"].split(".")
    forged = ".".join([version, ("0" if pin[0] != "0" else "1") + pin[1:], secret])
    code, said = try_to_join("forged", forged)
    assert code not in (0, -9), f"it ended with {code}: {said}"
    assert "pin" in said or "key" in said, said
    assert secret not in said and secret not in fleet.log("control", 1000), "the secret stands in a log"
    assert sorted(fleet.rows()) == list(NODES), sorted(fleet.rows())


@suite.check("the right token joins the machine")
def _():
    command = [binary(), "agent", "--server", fleet.agents, "--data-dir", fleet.dir / "nodes/n4/neuralmesh"]
    fleet.service("n4", "agent", *command, env={"NEURALMESH_JOIN": token["it"]})
    eventually(lambda: fleet.rows().get("n4", {}).get("status") == "ready", 15, "n4 to be ready")


@suite.check("the same token again is refused, and no node comes of it")
def _():
    code, said = try_to_join("again", token["it"])
    assert code not in (0, -9) and "used" in said, f"it ended with {code}: {said}"
    code, said = try_to_join("made-up", ".".join([*token["it"].split(".")[:2], "A" * len(token["it"].split(".")[2])]))
    assert code not in (0, -9), f"it ended with {code}: {said}"
    assert sorted(fleet.rows()) == [*NODES, "n4"], sorted(fleet.rows())


def links_of(node):
    """Its TCP connections to the agent port that stand, as its kernel lists them."""
    port = f":{7443:04X}"
    rows = fleet.run(node, "cat", "/proc/net/tcp")[1].splitlines()[1:]
    return [row for row in rows if row.split()[2].endswith(port) and row.split()[3] == "01"]


@suite.check("a removed node: its link is closed, its agent is refused, also when started anew; its containers run on")
def _():
    name = f"{PREFIX}theirs"
    fleet.docker("n4").create(name, "busybox:latest", ["sleep", "600"])
    fleet.docker("n4").start(name)
    started = fleet.docker("n4").inspect(name)["State"]["StartedAt"]
    assert links_of("n4"), "the agent's connection is not seen, so its end would not be either"
    create("holds", "n4").expect(201)
    fleet.client.delete("/api/nodes/n4").expect(409)
    remove_all("holds")
    fleet.client.delete("/api/nodes/n4").expect(200)
    eventually(lambda: "removed" in fleet.log("n4"), 10, "its agent to be told so")
    assert "n4" not in fleet.rows()
    fleet.kill_agent("n4", lives=False)
    eventually(lambda: fleet.log("n4").count("removed") > 1, 10, "its agent to be told again")
    eventually(lambda: not links_of("n4"), 5, "no connection of it to stand")
    assert sorted(fleet.rows()) == list(NODES)
    fleet.client.get("/api/nodes/n4").expect(404)
    create("ghost", "n4").expect(404)
    assert not [c for c in fleet.client.every("/api/containers") if c["name"] == name], "its containers are still listed"
    assert fleet.docker("n4").inspect(name)["State"]["StartedAt"] == started, "its container did not run on"


@suite.check("all the while nothing happened to the first containers")
def _():
    for node in NODES:
        real = fleet.docker(node).of(made[f"on-{node}"])
        assert real["State"]["Running"] and real["RestartCount"] == 0, real["State"]
        fleet.client.remove(made[f"on-{node}"])
    left = [row["name"] for row in fleet.client.every("/api/containers") if row["managed"]]
    assert left == [], left


suite.run(setup)
