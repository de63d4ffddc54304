#!/usr/bin/env python3
"""Create and start a container: by our API, and by the same two calls on Docker's socket, from one client program in one run.

One at a time (rounds alternate between the two), then many at once. Removing is not timed. Goal: at most 1.05 times Docker's time.

    create_start.py [--short] [--rounds N] [--at-once N] [--url URL --token TOKEN]

Without --url it starts `neuralmesh up` for itself. Use a release build: NM_BINARY=target/release/neuralmesh.
"""

import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e/lib"))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from docker import Docker
from nm import PREFIX, median, quantile, timed
from report import options, report, service

IMAGE = "busybox:latest"
COMMAND = ["sleep", "600"]


class Ours:
    name = "neuralmesh"

    def __init__(self, client):
        self.client = client

    def create_start(self, name):
        body = {"name": name, "image": IMAGE, "command": COMMAND, "stopGrace": 0}
        made = self.client.post("/api/containers", body).expect(201).data["id"]
        self.client.post(f"/api/containers/{made}/start").expect(200)

    def remove(self, name):
        self.client.remove(name)


class Docker_:
    name = "docker"

    def __init__(self):
        self.docker = Docker()

    def create_start(self, name):
        self.docker.start(self.docker.create(name, IMAGE, COMMAND))

    def remove(self, name):
        self.docker.remove(name)


def at_once(side, names):
    """Seconds until the last of them runs, one thread each, all let go together."""
    gate, failed = threading.Barrier(len(names) + 1), []

    def one(name):
        gate.wait()
        try:
            side.create_start(name)
        except Exception as e:  # told after the run, the clock must stop first
            failed.append(e)

    threads = [threading.Thread(target=one, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    gate.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - started
    if failed:
        raise failed[0]
    return took


def main():
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--at-once", type=int)
    chosen = parser.parse_args()
    rounds = chosen.rounds or (5 if chosen.short else 20)
    many = chosen.at_once or (10 if chosen.short else 50)
    many_rounds = 1 if chosen.short else 3
    with service(chosen) as mesh:
        sides = [Ours(mesh.client), Docker_()]
        try:
            one = {side.name: [] for side in sides}
            for round_ in range(-1, rounds):  # the first round warms both up and is not counted
                for side in sides if round_ % 2 else reversed(sides):
                    name = f"{PREFIX}one"
                    took, _ = timed(side.create_start, name)
                    side.remove(name)
                    if round_ >= 0:
                        one[side.name].append(took)
            together = {side.name: [] for side in sides}
            for round_ in range(many_rounds):
                for side in sides if round_ % 2 else reversed(sides):
                    names = [f"{PREFIX}{i}" for i in range(many)]
                    together[side.name].append(at_once(side, names))
                    for name in names:
                        side.remove(name)
        finally:
            sides[1].docker.remove_prefix(PREFIX)
    rows = []
    for what, seen in (("one", one), (f"{many} at once", together)):
        ours, theirs = median(seen["neuralmesh"]), median(seen["docker"])
        rows.append(
            {
                "what": f"create+start, {what}",
                "neuralmesh_ms": round(ours * 1e3, 1),
                "docker_ms": round(theirs * 1e3, 1),
                "neuralmesh_p90_ms": round(quantile(seen["neuralmesh"], 0.9) * 1e3, 1),
                "docker_p90_ms": round(quantile(seen["docker"], 0.9) * 1e3, 1),
                "ratio": round(ours / theirs, 3),
                "goal": "ratio <= 1.05",
                "reached": ours / theirs <= 1.05,
            }
        )
    report("create_start", rows)


main()
