#!/usr/bin/env python3
"""kill -9 of the control plane, again and again, while clients create and remove containers: nothing orphaned, doubled or lost.

Two layouts: `up` (control plane and agent in one program) and `split` (`neuralmesh server` killed, `neuralmesh agent` lives on).

    kill_control.py [--short] [--kills N] [--layout up|split] [--seed N]
"""

import argparse
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from checks import Suite
from docker import Docker
from nm import PREFIX, NeuralMesh, median
from traffic import Book, Traffic, settle


def story(layout, kills, seed):
    """One layout, killed `kills` times. Prints what it saw; AssertionError with every problem."""
    docker, book = Docker(), Book()
    prefix = f"{PREFIX}{layout}-"
    mesh = NeuralMesh("up" if layout == "up" else "server")
    dice = random.Random(f"{seed}-killer")
    starts = []
    try:
        mesh.start()
        mesh.login()
        if layout == "split":
            mesh.add_agent()
        mesh.until_node_ready()
        traffic = Traffic(mesh, book, prefix, seed)
        traffic.start()
        for _ in range(kills):
            traffic.until_in_flight(30)
            time.sleep(dice.uniform(0.05, 1.5))  # the moment of the crash: anywhere in the work
            mesh.process.kill()
            began = time.monotonic()
            mesh.start()
            starts.append(time.monotonic() - began)
        traffic.end()
        began = time.monotonic()
        settle(mesh, book, prefix, docker, seed)
        print(f"    {layout}: {kills} kills; {book}; ready again in {median(starts):.2f} s (median)", flush=True)
        print(f"    {layout}: settled in {time.monotonic() - began:.1f} s", flush=True)
        assert book.answers["created"] >= kills and book.answers["cut off"] > 0, f"too little happened to mean anything: {book}"
    finally:
        mesh.close()
        docker.remove_prefix(prefix)


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--short", action="store_true", help="8 kills in all")
    options.add_argument("--kills", type=int, help="kills a layout (50)")
    options.add_argument("--layout", choices=["up", "split"], help="only this one")
    options.add_argument("--seed", type=int, default=int(time.time()), help="of the dice, to repeat a run")
    chosen = options.parse_args()
    kills = chosen.kills or (4 if chosen.short else 50)
    suite = Suite("kill_control")
    for layout in [chosen.layout] if chosen.layout else ["up", "split"]:
        suite.check(f"{kills} times kill -9 of the control plane ({layout}): nothing orphaned, doubled or lost")(
            lambda layout=layout: story(layout, kills, chosen.seed)
        )
    suite.run()


main()
