#!/usr/bin/env python3
"""A database cluster loses its primary, again and again: PostgreSQL killed -9, its container killed -9, its node cut off, its node without
power. Each time writes go on within 15 s, nothing that was acknowledged is lost, never do two take writes, and what is read is never
older than its bound. With --asynchronous commits do not wait for a replica: what was acknowledged and is lost is counted then, the rest
holds as well.

    database.py [--short] [--rounds N] [--only FAULT] [--asynchronous]
"""

import argparse
import contextlib
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
os.environ.setdefault("LAB_ID", "74")
from checks import Suite
from fleet import Fleet
from nm import median
from postgres_ha import TABLE, Base, Reader, built_image, once, overlaps

os.environ.setdefault("FLEET_IMAGES", built_image())
NODES = ("n1", "n2", "n3")
BACK_WITHIN, WELL_WITHIN, LAG_LIMIT = 15, 150, 10
suite = Suite("database")
fleet = Fleet()
kept = {"took": {}, "lost": 0, "asynchronous": False}

FAULTS = {
    "killed": (lambda node: kept["base"].kill_postgres(node), lambda node: None),
    "container killed": (lambda node: kept["base"].kill_container(node), lambda node: None),
    "cut off": (fleet.cut, fleet.heal),
    "without power": (fleet.crash, fleet.boot),
}


def setup():
    suite.on_exit(fleet.close)
    fleet.up()
    base = kept["base"] = Base(fleet, "shop", servers=NODES, readLagLimit=LAG_LIMIT, synchronous=not kept["asynchronous"])
    base.until_well()
    once(base.write, TABLE)


def story(number, fault):
    base, (do, undo) = kept["base"], FAULTS[fault]
    view = base.until_well(WELL_WITHIN)
    primary, timeline = base.name(view["primary"]), view["timeline"]
    with contextlib.ExitStack() as running:
        writer = running.enter_context(base.writer(name=f"round {number}"))
        probes = [running.enter_context(base.prober(node, f"round {number} at {node}")) for node in NODES]
        reader = running.enter_context(Reader(base.read, writer, pause=0.2))
        writer.until_written(30)
        began = time.monotonic()
        do(primary)
        try:
            back = writer.until_back(began, timeline, BACK_WITHIN + 30)
        finally:
            undo(primary)
        healed = time.monotonic()
        view = base.until_well(WELL_WITHIN, after=timeline)
        well = time.monotonic() - healed
    kept["took"].setdefault(fault, []).append(back)
    told = f"{back:.1f} s until writes went on at {base.name(view['primary'])}, all well {well:.1f} s after it was mended"
    print(f"    {primary} {fault}: {told}; reads at most {reader.oldest():.1f} s old", flush=True)
    lost = {client.name: client.lost(base.write) for client in (writer, *probes)}
    lost = {name: numbers for name, numbers in lost.items() if numbers}
    if kept["asynchronous"]:
        kept["lost"] += sum(map(len, lost.values()))
    else:
        assert not lost, "acknowledged and lost: " + "; ".join(f"{name}: {numbers[:10]}" for name, numbers in lost.items())
    assert not (both := overlaps([writer, *probes])), "; ".join(both)
    assert reader.oldest() <= LAG_LIMIT, f"{reader.oldest():.1f} s old data was read"
    assert reader.ages, "nothing was read"
    assert back <= BACK_WITHIN, f"{back:.1f} s"


def in_short():
    for fault, took in kept["took"].items():
        print(f"    {fault}: {len(took)} times, {min(took):.1f} to {max(took):.1f} s, median {median(took):.1f} s")
    if kept["asynchronous"]:
        print(f"    {kept['lost']} acknowledged writes were lost")
    assert kept["took"], "no round was made"


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--short", action="store_true", help="2 rounds")
    options.add_argument("--rounds", type=int, help="(20)")
    options.add_argument("--only", choices=FAULTS, help="this fault alone")
    options.add_argument("--asynchronous", action="store_true", help="with database.synchronous false")
    chosen = options.parse_args()
    kept["asynchronous"] = chosen.asynchronous
    losses = "losses counted" if chosen.asynchronous else "0 lost"
    faults = [chosen.only] if chosen.only else list(FAULTS)
    if chosen.short and not chosen.only:
        faults = ["container killed", "without power"]
    for i in range(chosen.rounds or (2 if chosen.short else 20)):
        fault = faults[i % len(faults)]
        suite.check(f"round {i + 1}, {fault}: back within {BACK_WITHIN} s, {losses}, one primary, no read older than {LAG_LIMIT} s")(
            lambda i=i, fault=fault: story(i + 1, fault)
        )
    suite.check("how long it took")(in_short)
    suite.run(setup)


main()
