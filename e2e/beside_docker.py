#!/usr/bin/env python3
"""Docker used beside us: its client sees our containers, and what it does behind our back shows in the API within 2 s."""

import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))
from checks import Suite, eventually
from docker import LABEL, Docker
from nm import PREFIX, NeuralMesh

SEEN_WITHIN = 2.0
IMAGE = "busybox:latest"
suite = Suite("beside_docker")
docker = Docker()
mesh = NeuralMesh()
ours = {"name": f"{PREFIX}ours"}
theirs = f"{PREFIX}theirs"


def setup():
    suite.on_exit(mesh.close)
    suite.on_exit(docker.remove_prefix, PREFIX)
    mesh.up()
    body = {"name": ours["name"], "image": IMAGE, "command": ["sleep", "600"], "start": True, "stopGrace": 0}
    ours["id"] = mesh.client.post("/api/containers", body).expect(201).data["id"]


def row(name):
    """As the list shows it, None when it does not."""
    return next((c for c in mesh.client.every("/api/containers") if c["name"] == name), None)


def soon(condition, what):
    """What must show within 2 s of now."""
    began = time.monotonic()
    eventually(condition, SEEN_WITHIN, what)
    print(f"    seen after {(time.monotonic() - began) * 1000:.0f} ms", flush=True)


@suite.check("Docker lists ours, with our label")
def _():
    rows = docker.containers(label=[f"{LABEL}={ours['id']}"])
    assert [r["Names"] for r in rows] == [[f"/{ours['name']}"]], rows


@suite.check("stopped by Docker: shows within 2 s")
def _():
    docker.request("POST", f"/containers/{ours['name']}/stop?t=0")
    soon(lambda: row(ours["name"])["status"] in ("stopped", "exited"), "the stop")


@suite.check("started by Docker: shows within 2 s")
def _():
    docker.start(ours["name"])
    soon(lambda: row(ours["name"])["status"] == "running", "the start")


@suite.check("paused and unpaused by Docker: shows within 2 s")
def _():
    docker.request("POST", f"/containers/{ours['name']}/pause")
    soon(lambda: row(ours["name"])["status"] == "paused", "the pause")
    docker.request("POST", f"/containers/{ours['name']}/unpause")
    soon(lambda: row(ours["name"])["status"] == "running", "the end of the pause")


@suite.check("renamed by Docker: shows within 2 s, and is found by its new name")
def _():
    other = f"{ours['name']}-renamed"
    docker.request("POST", f"/containers/{ours['name']}/rename?name={other}")
    soon(lambda: row(other), "the new name")
    assert row(ours["name"]) is None and mesh.client.container(other)["id"] == ours["id"]
    docker.request("POST", f"/containers/{other}/rename?name={ours['name']}")
    soon(lambda: row(ours["name"]), "the old name")


@suite.check("limits changed by `docker update`: show within 2 s; our own change shows at once, and the spec makes the next one")
def _():
    def limits():
        seen = mesh.client.container(ours["id"])
        return seen["resources"]["cpuLimit"], seen["resources"]["memoryLimit"], seen["restart"]

    asked = limits()
    change = {"NanoCpus": 500_000_000, "Memory": 96 << 20, "MemorySwap": 192 << 20, "RestartPolicy": {"Name": "unless-stopped"}}
    docker.request("POST", f"/containers/{ours['name']}/update", change)
    soon(lambda: limits() == (0.5, "96m", "unless-stopped"), "the new limits")
    assert row(ours["name"])["resources"]["memoryLimit"] == "96m"
    mesh.client.patch(f"/api/containers/{ours['id']}", {"memoryLimit": "128m", "restart": "no"}).expect(200)
    assert limits() == (0.5, "128m", "no"), limits()
    docker.remove(ours["name"])
    soon(lambda: row(ours["name"])["status"] == "exited", "the removal")
    mesh.client.post(f"/api/containers/{ours['id']}/start").expect(200)
    assert limits() == (asked[0], "128m", "no"), limits()
    assert docker.inspect(ours["name"])["HostConfig"]["NanoCpus"] == 0


@suite.check("a copy of ours with its labels: another container, and ours stays what it is")
def _():
    image, copy = f"{PREFIX}copied:latest", f"{PREFIX}copy"
    repo, tag = image.split(":")
    before = mesh.client.container(ours["id"])["dockerId"]
    docker.request("POST", f"/commit?container={ours['name']}&repo={repo}&tag={tag}", {})
    docker.create(copy, image, ["sleep", "600"])
    docker.start(copy)
    soon(lambda: row(copy), "the copy")
    try:
        assert row(copy)["managed"] is False and row(copy)["id"] != ours["id"], row(copy)
        assert mesh.client.container(ours["id"])["dockerId"] == before
        mesh.client.post(f"/api/containers/{ours['id']}/stop").expect(200)
        assert docker.inspect(copy)["State"]["Running"], "the copy was stopped instead"
        mesh.client.post(f"/api/containers/{ours['id']}/start").expect(200)
        # Nor does it take the place of one that is gone.
        gone = mesh.client.post("/api/containers", {"name": f"{PREFIX}gone", "image": IMAGE, "command": ["sleep", "600"]}).expect(201).data["id"]
        docker.request("POST", f"/commit?container={PREFIX}gone&repo={repo}&tag=gone", {})
        docker.remove(f"{PREFIX}gone")
        docker.create(f"{PREFIX}heir", f"{repo}:gone", ["sleep", "600"])
        docker.start(f"{PREFIX}heir")
        soon(lambda: row(f"{PREFIX}heir"), "the heir")
        assert row(f"{PREFIX}heir")["managed"] is False
        mesh.client.remove(gone)
        assert docker.inspect(f"{PREFIX}heir")["State"]["Running"], "the heir was removed instead"
        docker.remove(f"{PREFIX}heir")
        docker.request("DELETE", f"/images/{repo}:gone")
    finally:
        docker.remove(copy)
        docker.request("DELETE", f"/images/{image}")


@suite.check("its process killed: shows within 2 s, with the exit code")
def _():
    os.kill(docker.inspect(ours["name"])["State"]["Pid"], signal.SIGKILL)
    soon(lambda: row(ours["name"])["status"] == "exited", "the exit")
    assert mesh.client.container(ours["id"])["exitCode"] == 137


@suite.check("made by others: listed within 2 s, not as ours")
def _():
    docker.create(theirs, IMAGE, ["sleep", "600"])
    docker.start(theirs)
    # Its creation and its start are two events: the row may show the first before the second.
    soon(lambda: (row(theirs) or {"status": "absent"})["status"] == "running", "the other container's start")
    seen = row(theirs)
    assert seen["managed"] is False and seen["image"] == IMAGE, seen
    docker.remove(theirs)
    soon(lambda: row(theirs) is None, "its end")


@suite.check("ours, removed by Docker: the API does not show it as running within 2 s, and removing it there is clean")
def _():
    docker.start(ours["name"])
    soon(lambda: row(ours["name"])["status"] == "running", "the start")
    docker.remove(ours["name"])
    soon(lambda: (row(ours["name"]) or {"status": "gone"})["status"] != "running", "the removal")
    mesh.client.remove(ours["id"])
    assert row(ours["name"]) is None
    assert docker.inspect(ours["name"]) is None, "it came back"


suite.run(setup)
