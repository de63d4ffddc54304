#!/usr/bin/env python3
"""kill -9 of the Docker engine: what needs it answers 503 and says why, what does not goes on; it is found again in 10 s.

On an engine of the test's own.

    kill_engine.py [--short] [--kills N]
"""

import argparse
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from checks import Suite, eventually
from engine import Engine
from nm import PREFIX, NeuralMesh

IMAGE = "busybox:latest"
engine = Engine(IMAGE)
mesh = NeuralMesh(arguments=["--docker-socket", engine.socket])
suite = Suite("kill_engine")
names = [f"{PREFIX}{i}" for i in range(4)]


def body(name, **fields):
    return {"name": name, "image": IMAGE, "command": ["sleep", "3600"], "stopGrace": 0} | fields


def setup():
    engine.start()
    mesh.up()
    for i, name in enumerate(names):
        mesh.client.post("/api/containers", body(name, start=i % 2 == 0, restart="always" if i == 0 else "no")).expect(201)


def agree():
    """The API and Docker have the same containers, each once, in the same state."""
    listed = {c["name"]: (c["id"], c["status"] == "running") for c in mesh.client.every("/api/containers") if c["managed"]}
    real = {}
    for row in engine.docker.containers(label=["io.neuralmesh.id"]):
        name = row["Names"][0].lstrip("/")
        assert name not in real, f"{name} is there twice"
        real[name] = (row["Labels"]["io.neuralmesh.id"], row["State"] == "running")
    return listed == real and real


def one_kill():
    # Creates under way when it dies: each ends in an answer, and is there whole or not at all.
    under_way = [threading.Thread(target=mesh.client.post, args=("/api/containers", body(f"{PREFIX}late{i}"))) for i in range(4)]
    for thread in under_way:
        thread.start()
    engine.kill()
    for thread in under_way:
        thread.join(60)
        assert not thread.is_alive(), "a create got no answer within 60 s of the engine's end"
    began = time.monotonic()
    eventually(lambda: not any(n["status"] == "ready" for n in mesh.client.every("/api/nodes")), 10, "the node to be not ready")
    print(f"    seen after {time.monotonic() - began:.1f} s", flush=True)
    refused = mesh.client.post("/api/containers", body(f"{PREFIX}now")).expect(503)
    assert "Docker" in refused.error, f"the sentence does not say that Docker is the trouble: {refused}"
    assert {c["name"] for c in mesh.client.every("/api/containers")} >= set(names), "the list forgot containers"
    engine.start()
    began = time.monotonic()
    mesh.until_node_ready(10)
    eventually(agree, 10 - (time.monotonic() - began), "the API and Docker to agree", every=0.2)
    print(f"    found again after {time.monotonic() - began:.1f} s", flush=True)
    mesh.client.post("/api/containers", body(f"{PREFIX}after", start=True)).expect(201)
    mesh.client.remove(f"{PREFIX}after")
    for i in range(4):
        mesh.client.remove(f"{PREFIX}late{i}")
    assert eventually(agree, 5, "the API and Docker to agree").keys() == set(names)


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--short", action="store_true", help="1 kill")
    options.add_argument("--kills", type=int, help="(5)")
    chosen = options.parse_args()
    suite.on_exit(engine.close)
    suite.on_exit(mesh.close)
    for i in range(chosen.kills or (1 if chosen.short else 5)):
        suite.check(f"kill -9 of the Docker engine, {i + 1}: told, and found again without a duplicate")(one_kill)
    suite.run(setup)


main()
