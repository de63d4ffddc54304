#!/usr/bin/env python3
"""A node is cut off for a minute, then its cable is plugged in again: nothing on it was restarted, and what happened there
meanwhile is known within 15 s.

    cut_off.py [--short] [--seconds N]
"""

import argparse
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))
from checks import Suite, eventually
from fleet import Fleet, body
from nm import PREFIX

SEEN_WITHIN = 10
RECONCILED_WITHIN = 15
suite = Suite("cut_off")
fleet = Fleet()
steady = {f"{PREFIX}{policy}": policy for policy in ("no", "always", "unless-stopped", "on-failure")}
kept = {}


def setup():
    suite.on_exit(fleet.close)
    fleet.up()
    for name, policy in [*steady.items(), (f"{PREFIX}dies", "no"), (f"{PREFIX}falls", "always")]:
        fleet.client.post("/api/containers", body(name, "n2", restart=policy)).expect(201)
    for node in ("n1", "n3"):
        fleet.client.post("/api/containers", body(f"{PREFIX}on-{node}", node, restart="always")).expect(201)


def end_process(name):
    """As when a program ends by itself."""
    code, said = fleet.run("n2", "kill", "-9", fleet.docker("n2").inspect(name)["State"]["Pid"])
    assert code == 0, said


def story(seconds):
    kept["before"] = {node: fleet.starts(node) for node in ("n1", "n2", "n3")}
    with fleet.watch() as watch:
        kept["cut"] = datetime.now(timezone.utc)
        began = time.monotonic()
        fleet.cut("n2")
        print(f"    seen after {fleet.until_status('n2', 'notReady', SEEN_WITHIN, began):.1f} s", flush=True)
        for name in steady:
            row = fleet.client.container(name)
            assert row["status"] == "running" and row["reachable"] is False, row
        refused = fleet.client.post(f"/api/containers/{PREFIX}always/stop", timeout=30).expect(503)
        assert refused.code == "node_offline", refused
        fleet.client.post("/api/containers", body(f"{PREFIX}late", "n2"), timeout=30).expect(503)
        fleet.client.post("/api/containers", body(f"{PREFIX}else", "n3"), timeout=30).expect(201)
        # What nobody hears of now.
        end_process(f"{PREFIX}dies")
        end_process(f"{PREFIX}falls")
        fleet.docker("n2").create(f"{PREFIX}foreign", "busybox:latest", ["sleep", "600"])
        fleet.docker("n2").start(f"{PREFIX}foreign")
        time.sleep(max(0, seconds - (time.monotonic() - began)))  # the fault itself: so long it lasts
        assert fleet.client.container(f"{PREFIX}dies")["status"] == "running", "the cut node was heard all the same"
        kept["healed"] = datetime.now(timezone.utc)
        began = time.monotonic()
        fleet.heal("n2")
        fleet.until_status("n2", "ready", RECONCILED_WITHIN, began)
        ready = time.monotonic() - began
        fleet.until_agreed(seconds=RECONCILED_WITHIN - ready)
        print(f"    ready again {ready:.1f} s after the cable was back, all known after {time.monotonic() - began:.1f} s", flush=True)
        assert not watch.lost("n1", "n3"), f"others were told lost: {watch.changes}"


def nothing_restarted():
    for node, before in kept["before"].items():
        after = fleet.starts(node)
        for name, start in before.items():
            if name not in (f"{PREFIX}dies", f"{PREFIX}falls"):
                assert after.get(name) == start, f"{name} on {node}: {start} before, {after.get(name)} after"


def what_happened_is_known():
    dead = fleet.client.container(f"{PREFIX}dies")
    assert dead["status"] == "exited" and dead["exitCode"] == 137 and dead["reachable"], dead
    assert fleet.client.container(f"{PREFIX}falls")["status"] == "running"
    assert fleet.docker("n2").inspect(f"{PREFIX}falls")["RestartCount"] == 1, "its own engine starts it again, once"
    foreign = next((c for c in fleet.client.every("/api/containers") if c["name"] == f"{PREFIX}foreign"), None)
    assert foreign and not foreign["managed"] and foreign["status"] == "running", foreign
    assert fleet.docker("n2").inspect(f"{PREFIX}late") is None, "what was refused was made all the same"


def no_gap_in_what_it_used():
    rows = fleet.client.get(f"/api/containers/{PREFIX}always/stats?limit=300").expect(200).data
    times = [datetime.fromisoformat(row["timestamp"].replace("Z", "+00:00")) for row in rows]
    within = [t for t in times if kept["cut"] <= t <= kept["healed"]]
    length = (kept["healed"] - kept["cut"]).total_seconds()
    assert len(within) >= 0.9 * length - 2, f"{len(within)} samples of the {length:.0f} s in which it was cut off"


def as_before():
    fleet.client.post(f"/api/containers/{PREFIX}always/restart").expect(200)
    fleet.client.post("/api/containers", body(f"{PREFIX}late", "n2")).expect(201)
    ran = fleet.client.post(f"/api/containers/{PREFIX}late/exec", {"command": ["echo", "here"]}).expect(200).data
    assert ran["output"] == "here\n", ran
    eventually(lambda: not fleet.disagreements(), 10, "the API and the engines to agree")


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--short", action="store_true", help="20 s")
    options.add_argument("--seconds", type=int, help="how long it is cut off (60)")
    chosen = options.parse_args()
    seconds = chosen.seconds or (20 if chosen.short else 60)
    suite.check(f"cut off for {seconds} s: seen within {SEEN_WITHIN} s, reconciled within {RECONCILED_WITHIN} s")(lambda: story(seconds))
    suite.check("0 restarts: every StartedAt unchanged, on each node")(nothing_restarted)
    suite.check("what happened meanwhile is known: who died, who came")(what_happened_is_known)
    suite.check("the samples of that time are there")(no_gap_in_what_it_used)
    suite.check("the node works as before")(as_before)
    suite.run(setup)


main()
