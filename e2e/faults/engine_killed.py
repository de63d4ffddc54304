#!/usr/bin/env python3
"""kill -9 of one node's Docker engine, in a fleet: the node is told not to be ready and the others go on; with the engine back it
is found within 10 s, and nothing is there twice. (kill_engine.py does it to a single machine.)

    engine_killed.py [--short] [--kills N]
"""

import argparse
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from checks import Suite
from fleet import Fleet, body
from nm import PREFIX

WITHIN = 10
suite = Suite("engine_killed")
fleet = Fleet()
names = {f"{PREFIX}{policy}": policy for policy in ("no", "always", "unless-stopped")}


def setup():
    suite.on_exit(fleet.close)
    fleet.up()
    for name, policy in names.items():
        fleet.client.post("/api/containers", body(name, "n2", restart=policy)).expect(201)
    for node in ("n1", "n3"):
        fleet.client.post("/api/containers", body(f"{PREFIX}on-{node}", node)).expect(201)


def create(name, node):
    return fleet.client.post("/api/containers", body(name, node), timeout=90)


def one_kill():
    others = {node: fleet.starts(node) for node in ("n1", "n3")}
    late = [f"{PREFIX}late{i}" for i in range(4)]
    with fleet.watch() as watch:
        # Creates under way when it dies: each ends in an answer, and is there whole or not at all.
        answers = []
        under_way = [threading.Thread(target=lambda name=name: answers.append(create(name, "n2"))) for name in late]
        for thread in under_way:
            thread.start()
        began = time.monotonic()
        fleet.kill_engine("n2")
        print(f"    seen after {fleet.until_status('n2', 'notReady', WITHIN, began):.1f} s", flush=True)
        for thread in under_way:
            thread.join(60)
            assert not thread.is_alive(), "a create got no answer within 60 s of the engine's end"
        refused = fleet.client.post("/api/containers", body(f"{PREFIX}now", "n2")).expect(503)
        assert "Docker" in refused.error, f"the sentence does not say that Docker is the trouble: {refused}"
        assert names.keys() <= {c["name"] for c in fleet.client.every("/api/containers")}, "the list forgot containers"
        fleet.client.post("/api/containers", body(f"{PREFIX}other", "n1")).expect(201)
        fleet.client.remove(f"{PREFIX}other")
        fleet.start_engine("n2")
        began = time.monotonic()
        fleet.until_status("n2", "ready", WITHIN, began)
        fleet.until_agreed(seconds=WITHIN - (time.monotonic() - began))
        print(f"    found again after {time.monotonic() - began:.1f} s", flush=True)
        assert not watch.lost("n1", "n3"), f"others were told lost: {watch.changes}"
    # What else it starts again is its own affair: 20.10 takes what it finds dead for stopped, where that is `unless-stopped`.
    fleet.client.until_status(f"{PREFIX}always", "running", seconds=15)
    for name in names:
        fleet.client.post(f"/api/containers/{name}/start").expect(200)
    for name in late:
        fleet.client.remove(name)
    fleet.until_agreed(seconds=10)
    real = fleet.docker("n2").managed(PREFIX)
    assert real.keys() == names.keys(), real
    after = {node: fleet.starts(node) for node in ("n1", "n3")}
    assert after == others, f"something was started anew on the other nodes: {others} before, {after} after"


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--short", action="store_true", help="1 kill")
    options.add_argument("--kills", type=int, help="(5)")
    chosen = options.parse_args()
    for i in range(chosen.kills or (1 if chosen.short else 5)):
        suite.check(f"kill -9 of one node's engine, {i + 1}: told, found again within {WITHIN} s, 0 duplicates")(one_kill)
    suite.run(setup)


main()
