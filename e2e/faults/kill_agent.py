#!/usr/bin/env python3
"""kill -9 of the agent, again and again: no container is started anew, and work in flight is done once or not at all.

    kill_agent.py [--short] [--kills N] [--seed N]
"""

import argparse
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from checks import Suite
from docker import Docker
from nm import PREFIX, NeuralMesh, Process, binary, median, socket_flag
from traffic import Book, Traffic, settle

STEADY = 5
docker = Docker()


def steady_starts():
    """When each of the containers that nobody touches was started."""
    return {name: docker.inspect(name)["State"]["StartedAt"] for name in (f"{PREFIX}steady{i}" for i in range(STEADY))}


def story(kills, seed):
    book, prefix, dice = Book(), f"{PREFIX}agent-", random.Random(f"{seed}-killer")
    mesh = NeuralMesh("server")
    back = []
    try:
        mesh.start()
        client = mesh.login()
        agent = mesh.add_agent()
        mesh.until_node_ready()
        for i in range(STEADY):
            body = {"name": f"{PREFIX}steady{i}", "image": "busybox:latest", "command": ["sleep", "3600"], "start": True, "restart": "always"}
            client.post("/api/containers", body).expect(201)
        before = steady_starts()
        # As a machine's start-up would: no join token any more.
        again = [binary(), "agent", "--server", f"https://127.0.0.1:{mesh.agent_port}", "--data-dir", mesh.dir / "agent0", *socket_flag()]
        traffic = Traffic(mesh, book, prefix, seed)
        traffic.start()
        for _ in range(kills):
            traffic.until_in_flight(30)
            time.sleep(dice.uniform(0.05, 1.0))  # the moment of the crash: anywhere in the work
            agent.kill()
            began = time.monotonic()
            agent = Process("agent", again, mesh.dir / "agent0.log").start()
            mesh.agents.append(agent)
            mesh.until_node_ready(15)
            back.append(time.monotonic() - began)
        traffic.end()
        settle(mesh, book, prefix, docker, seed)
        print(f"    {kills} kills; {book}; back in {median(back):.2f} s (median), {max(back):.2f} s (longest)", flush=True)
        after = steady_starts()
        assert after == before, f"started anew: {[name for name in before if after[name] != before[name]]}"
        assert book.answers["created"] > 0, f"too little happened to mean anything: {book}"
    finally:
        mesh.close()
        docker.remove_prefix(PREFIX)


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--short", action="store_true", help="5 kills")
    options.add_argument("--kills", type=int, help="(100)")
    options.add_argument("--seed", type=int, default=int(time.time()), help="of the dice, to repeat a run")
    chosen = options.parse_args()
    kills = chosen.kills or (5 if chosen.short else 100)
    suite = Suite("kill_agent")
    suite.check(f"{kills} times kill -9 of the agent: every StartedAt unchanged, nothing orphaned, doubled or lost")(
        lambda: story(kills, chosen.seed)
    )
    suite.run()


main()
