#!/usr/bin/env python3
"""A cluster that grows and shrinks with its load, in the lab, with real containers and real requests.

    scaling.py                     out to four by its load, in by its bounds; what was made goes with the cluster
    scaling.py --long [--plot F]   2 -> 5 -> 2 and a square wave, with the shortest cooldowns there are; some ten minutes
    scaling.py --draw F            draws F anew from docs/images/scaling.json, what the last --long --plot recorded
"""

import argparse
import json
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))
from checks import Suite, eventually
from clusters import Web, since
from fleet import Fleet
from load import Load
from nm import PREFIX, ROOT
from plot import Line, Panel, draw

RECORD = ROOT / "docs/images/scaling.json"
EACH = 50  # requests a second that one server is to have
COOLDOWN = 60  # the shortest that the specification has
LOOK = 15  # seconds between two decisions
POLICY = {"enabled": True, "minServers": 2, "maxServers": 5, "targetRequestsPerSecond": EACH, "scaleUpCooldown": COOLDOWN}
POLICY |= {"scaleDownCooldown": COOLDOWN, "stabilizationWindow": COOLDOWN}
suite = Suite("scaling")
fleet = Fleet()
web = Web(fleet)


def setup():
    suite.on_exit(fleet.close)
    fleet.up()
    for name, node in (("a", "n1"), ("b", "n2")):
        web.server(name, node, restart="no")


def serving(view):
    """Those that take traffic: not those that are made or that leave."""
    return sum(m["state"] == "up" for m in view["members"])


def decisions(cluster):
    """Each change that was decided: kind, from, to, and the numbers it was made by."""
    rows = []
    for event in cluster.events("scaledOut", "scaledIn"):
        detail = event["detail"]
        rows.append((event["kind"], detail["current"], detail["wanted"], [(f["figure"], f["value"], f["target"]) for f in detail["figures"]]))
    return rows


def made(cluster):
    """The containers that scaling made for it, as the engines have them."""
    tail = f"-{cluster.id[:-5:-1]}"
    return sorted(name for node in ("n1", "n2", "n3") for name in fleet.docker(node).managed() if tail in name)


def out_by_load():
    cluster = web.shop = web.cluster("shop", ("a", "b"), listenPort=30080)
    web.load = cluster.load(clients=12, fresh=4, rate=3.6 * EACH)
    suite.on_exit(web.load.close)
    eventually(lambda: cluster.metrics()["requestsPerSecond"] > 3.2 * EACH, 90, "the rate to be counted", every=0.5)
    began = time.monotonic()
    cluster.patch(autoScaling=POLICY | {"maxServers": 6})
    view = cluster.until("four servers to be up", lambda v: serving(v) == 4, LOOK + 45)
    ((kind, current, wanted, figures),) = decisions(cluster)
    print(f"    up after {since(began):.1f} s: {kind} {current} -> {wanted} by {figures}")
    assert (kind, current, wanted) == ("scaledOut", 2, 4), decisions(cluster)
    assert figures[0][0] == "requestsPerSecond" and figures[0][2] == EACH and figures[0][1] > EACH, figures
    new = [m for m in view["members"] if m["scaled"]]
    before = {m["id"]: m["metrics"]["totalRequests"] for m in new}
    assert len(new) == 2 and len(made(cluster)) == 2

    def answer():
        now = {m["id"]: m["metrics"]["totalRequests"] for m in cluster.look()["members"] if m["scaled"]}
        return all(now[member] > before[member] + 50 for member in before)

    eventually(answer, 20, "both new servers to answer", every=0.2)


def in_by_bounds():
    cluster, began = web.shop, time.monotonic()
    cluster.patch(autoScaling={"maxServers": 3})
    cluster.until("three servers", lambda v: len(v["members"]) == 3, LOOK + 45)
    eventually(lambda: len(made(cluster)) == 1, 10, "its container to be gone")
    print(f"    after {since(began):.1f} s")
    assert [d[0] for d in decisions(cluster)] == ["scaledOut", "scaledIn"], decisions(cluster)
    assert cluster.events("memberRemoved"), cluster.events()
    result = web.load.end()
    print(f"    0 of {result['done']} requests failed")


def gone_with_it():
    web.shop.delete()
    eventually(lambda: not made(web.shop), 20, "the containers that scaling made to be gone")
    for name in ("a", "b"):
        assert fleet.client.container(web.id(name))["status"] == "running"


# ---- the long run ----------------------------------------------------------------------------------------------------


class Recorder:
    """What a cluster is at each second."""

    def __init__(self, cluster, entry):
        self.cluster, self.entry, self.rows, self.began = cluster, entry, [], time.monotonic()
        self.done = self.failed = 0
        self.load, self.stop, self.failures = None, threading.Event(), []
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        last = 0
        while not self.stop.wait(1):
            done = self.done + (self.load.done if self.load else 0)
            view, metrics = self.cluster.look(), self.cluster.metrics("?limit=1")
            self.rows.append((round(since(self.began), 1), max(0, done - last), metrics["requestsPerSecond"], serving(view), len(view["members"])))
            last = done

    def at(self, rate):
        """From now on so many requests a second."""
        if self.load:
            last = self.load.close()
            self.done, self.failed, self.load = self.done + last["done"], self.failed + last["failed"], None
            self.failures += last["failures"]
        if rate:
            self.load = Load(*self.entry, clients=12, fresh=4, rate=rate)

    def close(self):
        self.at(None)
        self.stop.set()
        self.thread.join()
        assert not self.failed, f"{self.failed} of {self.done} requests failed: {self.failures[:5]}"


def wait(seconds):
    """Lets time pass: what must not happen meanwhile has no event."""
    deadline = time.monotonic() + seconds
    eventually(lambda: time.monotonic() >= deadline, seconds + 5, "the time to pass", every=0.5)


def two_to_five_to_two(record):
    cluster = web.cluster("wave", ("a", "b"), listenPort=30081, autoScaling=POLICY)
    recorder = Recorder(cluster, cluster.entry())
    recorder.at(1.5 * EACH)
    wait(45)
    assert not decisions(cluster), decisions(cluster)
    high = time.monotonic()
    recorder.at(4.8 * EACH)
    cluster.until("five servers to be up", lambda v: serving(v) == 5, 60 + 2 * COOLDOWN + 2 * LOOK)
    out = since(high)
    wait(60)
    low = time.monotonic()
    recorder.at(1.5 * EACH)
    # The rate is that of the last minute, then more were asked for within the window, and one cooldown may begin anew.
    cluster.until("two servers", lambda v: len(v["members"]) == 2, 60 + 3 * COOLDOWN + 2 * LOOK)
    back = since(low)
    wait(30)
    recorder.close()
    told = decisions(cluster)
    for row in told:
        print(f"    {row}")
    print(f"    five after {out:.0f} s, two again after {back:.0f} s; 0 of {recorder.done} requests failed")
    kinds = [kind for kind, *_ in told]
    assert kinds == sorted(kinds, reverse=True), f"it flapped: {told}"
    record["wave"] = {"rows": recorder.rows, "decisions": told, "out": round(out), "in": round(back)}
    cluster.delete()


def square(record):
    cluster = web.cluster("square", ("a", "b"), listenPort=30082, autoScaling=POLICY | {"stabilizationWindow": 120})
    recorder = Recorder(cluster, cluster.entry())
    for _round in range(5):
        recorder.at(4.8 * EACH)
        wait(20)
        recorder.at(EACH)
        wait(20)
    recorder.close()
    told = decisions(cluster)
    print(f"    {[row[:3] for row in told]}; 0 of {recorder.done} requests failed")
    kinds = [kind for kind, *_ in told]
    # What the first high part made it ask for is corrected once the last minute has whole waves in it; then it stays.
    assert kinds == sorted(kinds, reverse=True) and kinds.count("scaledIn") <= 1, f"it flapped: {told}"
    record["square"] = {"rows": recorder.rows, "decisions": told}
    cluster.delete()


def plot(path):
    rows = json.loads(RECORD.read_text())["wave"]["rows"]
    smooth = [(row[0], sum(r[1] for r in rows[max(0, i - 4) : i + 1]) / len(rows[max(0, i - 4) : i + 1])) for i, row in enumerate(rows)]
    load = Panel("requests/s", [Line("sent", smooth, "a"), Line("as the cluster sees it, over a minute", [(r[0], r[2]) for r in rows], "b")])
    wanted = [(r[0], max(2, min(5, -(-r[2] // EACH)))) for r in rows]
    servers = Panel("servers", [Line("load / target, within the bounds", wanted, "b", True), Line("there", [(r[0], r[4]) for r in rows], "a", True)])
    servers.lines.append(Line("up", [(r[0], r[3]) for r in rows], "c", True))
    draw(path, f"A cluster under load: {EACH} requests/s a server, two to five servers, cooldowns of {COOLDOWN} s", [load, servers])


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--long", action="store_true")
    options.add_argument("--plot", type=Path, metavar="SVG")
    options.add_argument("--draw", type=Path, metavar="SVG")
    chosen = options.parse_args()
    if chosen.draw:
        plot(chosen.draw)
        return
    if chosen.long:
        record = {}
        suite.check(f"2 -> 5 -> 2 by requests, cooldowns of {COOLDOWN} s: each direction once, no request fails")(lambda: two_to_five_to_two(record))
        suite.check("a square wave of 40 s: it does not flap")(lambda: square(record))
        if chosen.plot:

            def keep():
                RECORD.parent.mkdir(parents=True, exist_ok=True)
                RECORD.write_text(json.dumps(record) + "\n")
                plot(chosen.plot)

            suite.check("the run is recorded and drawn")(keep)
    else:
        suite.check("by its load it goes from two to four, which all answer; the event has the numbers")(out_by_load)
        suite.check("bounds hold at once: with maxServers 3 the newest is drained and removed; no request fails")(in_by_bounds)
        suite.check("with the cluster goes what scaling made, and nothing else")(gone_with_it)
    suite.run(setup)


main()
