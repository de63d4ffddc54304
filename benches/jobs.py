#!/usr/bin/env python3
"""Short tasks on three nodes: as a job of a compute cluster, and by the same work on the engines' sockets (create, start, wait, remove; eight at
once an engine), from one client program in one run, in the lab. Rounds alternate between the two. Goal: at least 0.9 of the engines' own rate.

    jobs.py [--short] [--tasks N] [--rounds N]

Use a release build: NM_BINARY=target/release/neuralmesh.
"""

import queue
import sys
import threading
import time
from pathlib import Path

# The lab's fleet, and not the bench of that name.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e/lib"))
from checks import eventually
from fleet import Fleet
from nm import PREFIX, median
from report import options, report

IMAGE, COMMAND = "busybox:latest", ["true"]
NODES = ("n1", "n2", "n3")
AT_ONCE = 8
JOBS = "/api/capabilities/clusters/bench/jobs"


def ours(fleet, count):
    """Tasks a second, from the request to the end of the last one."""
    began = time.perf_counter()
    made = fleet.client.post(JOBS, {"image": IMAGE, "command": COMMAND, "array": {"size": count}}).expect(201).data
    path = f"{JOBS}/{made['id']}"

    def ended():
        state = fleet.client.get(path).expect(200).data
        return state if state["state"] in ("succeeded", "failed", "cancelled", "set-aside") else None

    done = eventually(ended, 900, "the job to end", every=0.1)
    took = time.perf_counter() - began
    assert done["state"] == "succeeded" and done["counts"]["succeeded"] == count, done
    return count / took


def engines(fleet, count):
    """The same work, from one queue that all engines take from."""
    work = queue.SimpleQueue()
    for number in range(count):
        work.put(number)
    failed = []

    def one(node):
        docker = fleet.docker(node)
        try:
            while True:
                try:
                    number = work.get_nowait()
                except queue.Empty:
                    return
                container = docker.create(f"{PREFIX}{number}", IMAGE, COMMAND)
                docker.start(container)
                docker.request("POST", f"/containers/{container}/wait")
                docker.request("DELETE", f"/containers/{container}?v=1")
        except Exception as e:  # told after the run, the clock must stop first
            failed.append(e)

    threads = [threading.Thread(target=one, args=(node,)) for node in NODES for _ in range(AT_ONCE)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    if failed:
        raise failed[0]
    return count / took


def main():
    parser = options(__doc__)
    parser.add_argument("--tasks", type=int)
    parser.add_argument("--rounds", type=int)
    chosen = parser.parse_args()
    count = chosen.tasks or (150 if chosen.short else 1000)
    rounds = chosen.rounds or (1 if chosen.short else 3)
    fleet = Fleet()
    rates = {"neuralmesh": [], "docker": []}
    try:
        fleet.up()
        fleet.client.post("/api/capabilities/clusters", {"name": "bench", "type": "compute", "servers": list(NODES)}).expect(201)
        sides = [("neuralmesh", ours), ("docker", engines)]
        for _, side in sides:  # warms both up and is not counted
            side(fleet, 24)
        for round_ in range(rounds):
            for name, side in sides if round_ % 2 else reversed(sides):
                rates[name].append(side(fleet, count))
    finally:
        fleet.close()
    mine, theirs = median(rates["neuralmesh"]), median(rates["docker"])
    row = {
        "what": f"{count} short tasks on {len(NODES)} nodes",
        "neuralmesh_per_s": round(mine, 1),
        "docker_per_s": round(theirs, 1),
        "ratio": round(mine / theirs, 3),
        "goal": "ratio >= 0.9",
        "reached": mine / theirs >= 0.9,
    }
    report("jobs", [row])


main()
