#!/usr/bin/env python3
"""A node is lost, by power or by its cable, for longer than it is waited for; then it is back. What asked to be moved runs elsewhere
within 15 s, what did not waits; with the node back each is there exactly once within 30 s, and no data ever had two writers.

    node_lost.py [--short] [--rounds N]
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from checks import Suite, eventually
from docker import LABEL
from fleet import Fleet, body
from nm import PREFIX

SEEN_WITHIN, MOVED_WITHIN, EXACT_WITHIN = 10, 15, 30
suite = Suite("node_lost")
fleet = Fleet()
movers = [f"{PREFIX}move-{i}" for i in range(3)]
waiter, writer = f"{PREFIX}waits", f"{PREFIX}writes"
folder = fleet.dir / "shared"  # one folder under every node, as a network file system would be


def create(name, **fields):
    return fleet.client.post("/api/containers", body(name, "n3", restart="always", **fields))


def setup():
    suite.on_exit(fleet.close)
    fleet.up()
    folder.mkdir()
    for name in movers:
        create(name, onNodeLost="reschedule").expect(201)
    create(waiter).expect(201)
    create(writer, command=["sh", "-c", "while :; do hostname >>/d/writers; sleep 0.1; done"], volumes=[volume()]).expect(201)
    eventually(writers, 10, "the first line of the one that writes")


def volume():
    return {"container": "/d", "host": str(folder)}


def writers():
    """Who wrote, in order."""
    path = folder / "writers"
    return path.read_text().split() if path.exists() else []


def running(name, *nodes):
    """The nodes of these on which it really runs."""
    found = []
    for node in nodes:
        rows = fleet.docker(node).containers(label=[LABEL], status=["running"])
        found += [node for row in rows if f"/{name}" in row["Names"]]
    return found


def two_writers_are_refused():
    refused = create(f"{PREFIX}both", onNodeLost="reschedule", volumes=[volume()]).expect(409, 422)
    assert "onNodeLost" in refused.error, refused
    refused = create(f"{PREFIX}both", onNodeLost="reschedule", volumes=[{"container": "/d", "host": "data"}]).expect(409, 422)
    assert "onNodeLost" in refused.error, refused


def back_to_n3():
    """Each round begins as the first: what was moved is on n3 again, the rest runs there."""
    for name in movers:
        if running(name, "n3") != ["n3"]:
            fleet.client.remove(name)
            create(name, onNodeLost="reschedule").expect(201)
    fleet.until_agreed(seconds=15)


def story(lose, come_back):
    back_to_n3()
    others = {node: fleet.starts(node) for node in ("n1", "n2")}
    with fleet.watch() as watch:
        began = time.monotonic()
        lose("n3")
        seen = fleet.until_status("n3", "notReady", SEEN_WITHIN, began)

        def all_moved():
            for name in movers:
                there, told = running(name, "n1", "n2"), fleet.client.container(name)
                if len(there) != 1 or told["status"] != "running" or told["nodeId"] != fleet.node(there[0])["id"]:
                    return False
            return True

        eventually(all_moved, MOVED_WITHIN - (time.monotonic() - began), "what asked to be moved to run elsewhere, and the API to say so")
        moved = time.monotonic() - began
        print(f"    seen after {seen:.1f} s, moved after {moved:.1f} s", flush=True)
        for name in (waiter, writer):
            assert running(name, "n1", "n2") == [], f"{name} was started elsewhere"
            assert fleet.client.container(name)["reachable"] is False
        assert not watch.lost("n1", "n2"), f"others were told lost: {watch.changes}"
    began = time.monotonic()
    come_back("n3")
    fleet.until_status("n3", "ready", EXACT_WITHIN, began)
    fleet.until_agreed(seconds=EXACT_WITHIN - (time.monotonic() - began))

    def exact():
        return all(len(running(name, "n1", "n2", "n3")) == 1 for name in [*movers, waiter, writer])

    eventually(exact, EXACT_WITHIN - (time.monotonic() - began), "each container to run exactly once")
    print(f"    exact {time.monotonic() - began:.1f} s after it was back", flush=True)
    for name in movers:
        assert running(name, "n3") == [], f"{name} runs on the node that was lost, and was moved"
    assert running(waiter, "n3") and running(writer, "n3")
    length = len(writers())
    eventually(lambda: len(writers()) > length, 10, "the one that writes to go on")
    assert len(set(writers())) == 1, f"more than one wrote: {set(writers())}"
    for node, before in others.items():
        after = fleet.starts(node)
        again = [name for name, start in before.items() if name in after and after[name] != start]
        assert not again, f"on {node} {again} were started anew"


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--short", action="store_true", help="1 round of each")
    options.add_argument("--rounds", type=int, help="of each (3)")
    chosen = options.parse_args()
    suite.check("what writes to its node can't ask to be moved")(two_writers_are_refused)
    for i in range(chosen.rounds or (1 if chosen.short else 3)):
        within = f"moved within {MOVED_WITHIN} s, exact within {EXACT_WITHIN} s of its return"
        suite.check(f"power off, {i + 1}: {within}")(lambda: story(fleet.crash, fleet.boot))
        suite.check(f"cut off past failover, {i + 1}: {within}")(lambda: story(fleet.cut, fleet.heal))
    suite.run(setup)


main()
