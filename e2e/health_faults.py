#!/usr/bin/env python3
"""Each of the five health checks made to fail for real, and to recover: busy loops, memory hogs, a full disk, a dropped link, a
stopped engine; of nodes, containers and addresses. In the lab (e2e/lab/fleet.sh).

The lab's nodes share the machine's processors and memory, so for a node those two limits are set beside what the machine uses
anyway. A container is held to limits of its own, and fails against the usual ones.
"""

import os
import re
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))
from checks import Suite, eventually
from fleet import Fleet, body
from nm import PREFIX

CHECKS = ("cpu", "memory", "disk", "network", "services")
INTERVAL = 10
SOON = 40  # two looks, and what is only measured now and then
CALM = 180  # for what else this machine does to end
TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
HEALTH = "/api/capabilities/health"
suite = Suite("health_faults")
fleet = Fleet()
load, web = f"{PREFIX}load", f"{PREFIX}web"
caused = []  # what the node n2 was made to fail and failed for alone, in this order


def setup():
    suite.on_exit(fleet.close)
    fleet.up()
    # Whatever else this machine does must not count: a processor is busy only after twenty looks in a row.
    fleet.client.patch(f"{HEALTH}/settings", {"interval": INTERVAL, "thresholds": {"cpuChecks": 20}}).expect(200)
    idle = "while :; do [ -e /busy ] || sleep 0.2; done"
    create(load, command=["sh", "-c", idle], cpuLimit=0.5, memoryLimit="64m")
    create(web, command=["httpd", "-f", "-p", "80", "-h", "/etc"], ports=[{"container": 80, "host": 8088}], restart="always")


def create(name, **fields):
    return fleet.client.post("/api/containers", body(name, "n2", **fields)).expect(201).data


def check(server):
    return fleet.client.post(f"{HEALTH}/{server}/check").expect(200).data


def look(server):
    """What the last of the continuous checks saw."""
    return fleet.client.get(f"{HEALTH}/{server}").expect(200).data


def configure(server, **config):
    fleet.client.request("PUT", f"{HEALTH}/{server}/config", config).expect(200)


def detail(view, name):
    """Why the check fails, or what it saw."""
    rows = [d for d in view["details"] if d["check"] == name]
    return next((d for d in rows if not d["ok"]), rows[0])


def until(server, what, condition, by=check, seconds=SOON):
    """The server's health, once the condition holds of it."""
    last = {}

    def so():
        last.update(by(server))
        return condition(last)

    try:
        eventually(so, seconds, f"{server} {what}", every=1)
    except AssertionError as e:
        e.add_note(f"last seen: {last}")
        raise
    return last


def failed(view):
    """The checks it fails, but for the processors of a node: all nodes of the lab have this machine's, and it may have other work.
    Where they are what is looked at, `view["checks"]` itself is asked."""
    count = sum(not ok for ok in view["checks"].values())
    reachable = detail(view, "network")["measured"] != "not reachable"
    status = "unhealthy" if count >= 3 or not reachable else "unknown" if count else "healthy"
    assert (view["status"], view["degraded"]) == (status, status == "unknown"), f"not what {count} failed checks make of it: {view}"
    return [c for c in CHECKS if not view["checks"][c] and not (c == "cpu" and view["kind"] == "node")]


def until_failed(server, name, by=check):
    return until(server, f"to fail {name}", lambda view: not view["checks"][name], by)


def fails(server, name, by=check):
    """It fails alone, and says what it saw beside what it may be."""
    view = until_failed(server, name, by)
    others = [c for c in failed(view) if c != name]
    assert not others, f"{others} fail too: {view['details']}"
    why = detail(view, name)
    assert why["measured"] and why["limit"] and why["message"], why
    print(f"    {name}: {why['measured']}, must be {why['limit']}: {why['message']}", flush=True)
    if server == "n2" and [c for c in CHECKS if not view["checks"][c]] == [name]:
        caused.append(name)
    return view


def recovers(server, by=check):
    until(server, "to be well", lambda view: not failed(view), by)


# ---- as the specification has it -------------------------------------------------------------------------------------


@suite.check("POST /check, the list and one server: the shape of the specification, every node and container healthy")
def _():
    for server, kind in [("n1", "node"), ("n2", "node"), ("n3", "node"), (load, "container"), (web, "container")]:
        real = fleet.node(server)["id"] if kind == "node" else fleet.client.container(server)["id"]
        view = check(real)
        assert view["serverId"] == real and view["kind"] == kind, view
        assert view["status"] == "healthy" and view["checks"] == dict.fromkeys(CHECKS, True), view
        assert TIME.match(view["lastCheck"]) and view["uptime"] >= 0 and view["responseTime"] >= 0, view
        assert check(server)["serverId"] == real, "its name does not stand for it"
        again = look(server)
        assert again["serverId"] == real and again["lastCheck"] >= view["lastCheck"], again
    listed = {row["serverId"]: row for row in fleet.client.every(HEALTH)}
    assert {fleet.node(n)["id"] for n in ("n1", "n2", "n3")} <= listed.keys()
    assert all(row["status"] == "healthy" for row in listed.values()), listed
    fleet.client.post(f"{HEALTH}/node_1_abcdefghi/check").expect(404)
    fleet.client.get(f"{HEALTH}/nobody").expect(404)


@suite.check("it is checked continuously, at the interval that was set")
def _():
    before = look("n3")["lastCheck"]
    eventually(lambda: look("n3")["lastCheck"] > before, INTERVAL + 5, "the next check", every=0.5)


# ---- cpu -------------------------------------------------------------------------------------------------------------


@suite.check("cpu of a container: a busy loop at its limit, then none")
def _():
    configure(load, interval=INTERVAL, thresholds={"cpuChecks": 1, "memory": {"fail": 20, "recover": 40}})
    fleet.client.post(f"/api/containers/{load}/exec", {"command": ["touch", "/busy"]}).expect(200)
    fails(load, "cpu")
    fleet.client.post(f"/api/containers/{load}/exec", {"command": ["rm", "/busy"]}).expect(200)
    recovers(load)


@suite.check("cpu of a node: a busy loop on every processor, then none")
def _():
    def calm():  # with the machine's own work done, as far as it ends
        percent = figure(detail(check("n2"), "cpu")["measured"])
        return percent if percent < 80 else None

    idle = eventually(calm, CALM, "this machine to leave some of its processors idle", every=2)
    limit = (idle + 100) / 2
    configure("n2", interval=INTERVAL, thresholds={"cpuChecks": 1, "cpu": {"fail": limit, "recover": limit - 5}})
    loops = [fleet.spawn("n2", "sh", "-c", "while :; do :; done") for _ in range(os.cpu_count())]
    try:
        fails("n2", "cpu")
    finally:
        for loop in loops:
            end(loop)
    until("n2", "to be healthy", lambda view: view["status"] == "healthy", seconds=CALM)
    configure("n2", interval=INTERVAL)


def figure(text):
    """`97.3 %` as a number."""
    return float(re.match(r"-?[\d.]+", text).group())


def end(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# ---- memory ----------------------------------------------------------------------------------------------------------


@suite.check("memory of a container: a hog in its cgroup, then none")
def _():
    hog = ["dd", "if=/dev/zero", "of=/dev/shm/hog", "bs=1M", "count=54"]
    fleet.client.post(f"/api/containers/{load}/exec", {"command": hog}).expect(200)
    fails(load, "memory")
    fleet.client.post(f"/api/containers/{load}/exec", {"command": ["rm", "/dev/shm/hog"]}).expect(200)
    recovers(load)


@suite.check("memory of a node: an eighth of it taken, then given back")
def _():
    rows = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    kib = {row[0]: int(row[1]) for row in rows}
    total, available = kib["MemTotal:"], kib["MemAvailable:"]
    size = total // 8
    assert available > 2 * size, f"this machine has too little memory free: {available >> 10} MiB"
    percent = 100 * available / total
    configure("n2", interval=INTERVAL, thresholds={"memory": {"fail": percent - 7, "recover": percent - 5}})
    take = f"hog = b'x' * ({size} << 10); import signal; signal.pause()"
    hog = fleet.spawn("n2", sys.executable, "-c", take)
    try:
        fails("n2", "memory")
    finally:
        end(hog)
    recovers("n2")
    configure("n2", interval=INTERVAL)


# ---- disk ------------------------------------------------------------------------------------------------------------


@suite.check("disk: a full file system of the node, then room; and one without inodes left")
def _():
    image, place = fleet.dir / "disk.img", fleet.dir / "nodes/n2/disk"
    place.mkdir()
    image.touch()
    os.truncate(image, 64 << 20)
    inside("mkfs.ext4", "-q", "-F", "-N", "512", image)
    inside("mount", "-o", "loop", image, place)  # in the node's own namespace: nobody else sees it
    try:
        recovers("n2")
        inside("dd", "if=/dev/zero", f"of={place}/fill", "bs=64k", well=False)
        assert str(place) in str(fails("n2", "disk")["details"])
        inside("rm", f"{place}/fill")
        recovers("n2")
        inside("sh", "-c", f"cd {place} && i=0; while [ $i -lt 600 ] && : >f$i; do i=$((i+1)); done", well=False)
        assert "inode" in detail(fails("n2", "disk"), "disk")["message"]
        inside("sh", "-c", f"rm {place}/f*")
        recovers("n2")
    finally:
        inside("umount", place)


def inside(*command, well=True):
    code, said = fleet.run("n2", *command)
    assert code == 0 or not well, f"{command}: {said}"


# ---- network ---------------------------------------------------------------------------------------------------------


@suite.check("network: the node's link dropped: unhealthy, it can't be reached; then plugged in again")
def _():
    fleet.cut("n2")
    try:
        view = until_failed("n2", "network")
        assert view["status"] == "unhealthy" and view["uptime"] == 0, view
        print(f"    network: {detail(view, 'network')['message']}", flush=True)
        assert check(web)["status"] == "unhealthy", "its container is still taken for healthy"
        assert not failed(check("n1")), "another node is taken for unreachable"
        caused.append("network")
    finally:
        fleet.heal("n2")
    fleet.until_status("n2", "ready", 20)
    recovers("n2")
    recovers(web)


# ---- services --------------------------------------------------------------------------------------------------------


@suite.check("services: the node's engine stopped, seen without being asked; then started again")
def _():
    fleet.kill_engine("n2")
    try:
        fails("n2", "services", by=look)
    finally:
        fleet.start_engine("n2")
    for name in (load, web):
        fleet.client.post(f"/api/containers/{name}/start").expect(200)
    recovers("n2", by=look)


@suite.check("services: a container that should run and does not; it is unhealthy itself; then started again")
def _():
    pid = fleet.docker("n2").inspect(load)["State"]["Pid"]
    inside("kill", "-9", pid)
    fleet.client.until_status(load, "exited", seconds=10)
    fails("n2", "services")
    view = until_failed(load, "services")
    assert view["status"] == "unhealthy" and not view["checks"]["cpu"] and not view["checks"]["memory"], view
    fleet.client.post(f"/api/containers/{load}/start").expect(200)
    recovers("n2")
    recovers(load)


@suite.check("services: probes of one's own, by HTTP, TCP and a command, fail and pass")
def _():
    probes = [
        {"name": "page", "type": "http", "port": 8088, "path": "/passwd"},
        {"name": "port", "type": "tcp", "port": 8088},
        {"name": "flag", "type": "command", "container": load, "command": ["test", "-e", "/flag"]},
    ]
    configure("n2", interval=INTERVAL, probes=probes)
    assert "flag" in str(fails("n2", "services")["details"])
    fleet.client.post(f"/api/containers/{load}/exec", {"command": ["touch", "/flag"]}).expect(200)
    recovers("n2")
    fleet.client.post(f"/api/containers/{web}/stop").expect(200)  # on purpose: only the probes fail
    why = str(fails("n2", "services")["details"])
    assert "page" in why and "port" in why, why
    fleet.client.post(f"/api/containers/{web}/start").expect(200)
    recovers("n2")
    configure("n2", interval=INTERVAL)


# ---- addresses, history ----------------------------------------------------------------------------------------------


@suite.check("an address registered by hand: healthy while it answers, unhealthy when it does not")
def _():
    new = {"name": f"{PREFIX}by-hand", "address": fleet.address("n2"), "port": 8088}
    server = fleet.client.post("/api/servers", new).expect(201).data["id"]
    assert check(server)["status"] == "healthy", check(server)
    fleet.client.post(f"/api/containers/{web}/stop").expect(200)
    view = until_failed(server, "network")
    assert view["status"] == "unhealthy", view
    fleet.client.post(f"/api/containers/{web}/start").expect(200)
    recovers(server)
    kinds = {row["kind"] for row in fleet.client.every("/api/servers")}
    assert {"node", "container", "address"} <= kinds, kinds
    fleet.client.delete(f"/api/servers/{server}").expect(200)


@suite.check("the history has every fault, in order, and availability counts the time in which it could not be reached")
def _():
    recovers("n2")
    rows = fleet.client.every(f"{HEALTH}/n2/history")
    assert rows[0]["to"] is None and set(rows[0]["failed"]) <= {"cpu"}, rows[0]
    assert all(later["from"] == earlier["to"] for later, earlier in zip(rows, rows[1:])), "a gap, or the wrong order"
    told = [row["failed"] for row in reversed(rows) if row["failed"]]
    at = 0
    for name in caused:
        at = next((i for i in range(at, len(told)) if name in told[i]), None)
        assert at is not None, f"{name} is not in its place: caused {caused}, the history has {told}"
        at += 1
    day = look("n2")["availability"]["24h"]
    assert 0 < day < 100, day
    quiet = look("n3")["availability"]["24h"]
    assert quiet == 100, quiet
    eventually(lambda: not any(failed(row) for row in fleet.client.every(HEALTH)), SOON, "every server to be well", every=1)
    assert fleet.client.every(f"{HEALTH}?status=unhealthy") == []


suite.run(setup)
