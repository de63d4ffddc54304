#!/usr/bin/env python3
"""Three packets of ten are lost, each way, on every node, for ten minutes: no node is ever told lost, and nothing is moved.

    packet_loss.py [--short] [--seconds N] [--loss P]
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from checks import Suite
from fleet import Fleet, body
from nm import PREFIX, Unreachable, median

NODES = ("n1", "n2", "n3")
CALL_EVERY = 2
suite = Suite("packet_loss")
fleet = Fleet()


def setup():
    suite.on_exit(fleet.close)
    fleet.up()
    for node in NODES:  # each would be moved, were its node taken for lost
        fleet.client.post("/api/containers", body(f"{PREFIX}{node}", node, restart="always", onNodeLost="reschedule")).expect(201)


def counted(node):
    """Packets that came by the rule, and those of them it threw away."""
    rows = fleet.run(node, "iptables", "-w", "-nvxL")[1].splitlines()
    dropped = sum(int(row.split()[0]) for row in rows if "statistic mode random" in row)
    passed = sum(int(row.split()[0]) for row in rows if row.split()[2:3] == ["LAB_LOSS"])
    return passed, dropped


def story(seconds, share):
    before = {node: fleet.starts(node) for node in NODES}
    calls = {"well": [], "failed": 0}
    with fleet.watch() as watch:
        for node in NODES:
            fleet.loss(node, share)
        end = time.monotonic() + seconds
        turn = 0
        while time.monotonic() < end:  # the fault itself: so long it lasts, with some work now and then
            began = time.monotonic()
            try:
                reply = fleet.client.post(f"/api/containers/{PREFIX}{NODES[turn % 3]}/exec", {"command": ["true"]}, timeout=60)
                if reply.status == 200:
                    calls["well"].append(time.monotonic() - began)
                else:
                    calls["failed"] += 1
            except Unreachable:
                calls["failed"] += 1
            turn += 1
            time.sleep(max(0, min(end, began + CALL_EVERY) - time.monotonic()))
        lost = watch.lost()
        packets, dropped = (sum(n) for n in zip(*(counted(node) for node in NODES)))
        for node in NODES:
            fleet.loss(node, 0)
        well = calls["well"]
        print(
            f"    {dropped} of {packets} packets lost; {len(well)} calls well, {median(well or [0]):.2f} s (median), "
            f"{max(well, default=0):.1f} s (longest), {calls['failed']} failed",
            flush=True,
        )
        assert packets > 100 and abs(dropped / packets - share) < 0.1, f"{dropped} of {packets} packets were lost"
        assert not lost, f"{len(lost)} times a node was told lost that was not: (after s, node) {lost[:20]}"
        fleet.until_all_ready(15)
    fleet.until_agreed(seconds=15)
    after = {node: fleet.starts(node) for node in NODES}
    assert after == before, f"started anew or moved: {before} before, {after} after"


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--short", action="store_true", help="60 s")
    options.add_argument("--seconds", type=int, help="how long (600)")
    options.add_argument("--loss", type=float, default=0.3, help="the share of packets lost each way (0.3)")
    chosen = options.parse_args()
    seconds = chosen.seconds or (60 if chosen.short else 600)
    suite.check(f"{chosen.loss:.0%} of packets lost for {seconds} s: 0 nodes told lost, 0 containers moved")(lambda: story(seconds, chosen.loss))
    suite.run(setup)


main()
