#!/usr/bin/env python3
"""A cluster that grows and shrinks with its load, in the lab, with real containers and real requests.

    scaling.py                     out to four by its load, in by its bounds; what was made goes with the cluster
    scaling.py --long [--plot F]   2 -> 5 -> 2 and a square wave, with the shortest cooldowns there are; some ten minutes
    scaling.py --wrk [--plot F]    2 -> 5 -> 2 by the processors' use, under wrk; some six minutes
    scaling.py --draw F            draws F anew from what the last --plot of its kind recorded beside it
"""

import argparse
import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))
from checks import Suite, eventually
from clusters import Web, since
from fleet import Fleet
from load import Load
from nm import PREFIX
from plot import Line, Panel, draw

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


# ---- under wrk -------------------------------------------------------------------------------------------------------

CPU_TARGET, CORES = 50, 0.1  # percent of what a server may have, and what it may have: so little that wrk keeps five busy
WRK_SECONDS = 200


def wrk(host, port):
    """It asks as fast as it is answered, over 16 connections; what it printed, and what failed by it."""
    command = ["wrk", "-t1", "-c16", f"-d{WRK_SECONDS}", "--timeout", "10", f"http://{host}:{port}/"]
    said = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout
    done = int(re.search(r"(\d+) requests in", said)[1])
    return said, done, re.findall(r"(?:Socket errors|Non-2xx or 3xx responses):.*", said)


def under_wrk(record):
    for name, node in (("c", "n1"), ("d", "n2")):
        web.server(name, node, restart="no", cpuLimit=CORES)
    policy = {k: v for k, v in POLICY.items() if k != "targetRequestsPerSecond"} | {"targetCpuPercent": CPU_TARGET}
    cluster = web.cluster("hot", ("c", "d"), listenPort=30083, autoScaling=policy)
    rows, stop, began = [], threading.Event(), time.monotonic()

    def look():
        while not stop.wait(1):
            view, metrics = cluster.look(), cluster.metrics("?limit=1")
            cpu = [f.get("value") for f in (view.get("scaling") or {}).get("figures", []) if f["figure"] == "cpu"]
            rows.append((round(since(began), 1), metrics["requestsPerSecond"], cpu[0] if cpu else None, serving(view), len(view["members"])))

    watch = threading.Thread(target=look, daemon=True)
    watch.start()
    wait(20)
    high, answer = time.monotonic(), {}
    load = threading.Thread(target=lambda: answer.update(zip(("said", "done", "failed"), wrk(*cluster.entry()))))
    load.start()
    try:
        cluster.until("five servers to be up", lambda v: serving(v) == 5, 60 + 2 * COOLDOWN + 2 * LOOK)
        out = since(high)
        load.join()
        low = time.monotonic()
        cluster.until("two servers", lambda v: len(v["members"]) == 2, 60 + 3 * COOLDOWN + 2 * LOOK)
        back = since(low)
    except AssertionError as e:
        e.add_note(f"{decisions(cluster)}; each ten seconds: {rows[::10]}")
        raise
    finally:
        stop.set()
        watch.join()
    told = decisions(cluster)
    for row in told:
        print(f"    {row}")
    assert answer, "wrk did not run to its end"
    print(f"    five after {out:.0f} s, two again {back:.0f} s after its end; {len(answer['failed'])} kinds of failure in {answer['done']} requests")
    assert not answer["failed"], answer["said"]
    kinds = [kind for kind, *_ in told]
    assert kinds == sorted(kinds, reverse=True), f"it flapped: {told}"
    record |= {"rows": rows, "decisions": told, "requests": answer["done"], "out": round(out), "in": round(back)}
    cluster.delete()


def plot_wrk(path):
    rows = json.loads(path.with_suffix(".json").read_text())["rows"]
    load = Panel("requests/s", [Line("as the cluster sees it, over a minute", [(r[0], r[1]) for r in rows], "b")])
    cpu = Panel("% CPU a server", [Line("used, of what it may have", [(r[0], r[2] or 0) for r in rows], "a")])
    cpu.lines.append(Line("target", [(r[0], CPU_TARGET) for r in rows], "b", True))
    servers = Panel("servers", [Line("there", [(r[0], r[4]) for r in rows], "a", True), Line("up", [(r[0], r[3]) for r in rows], "c", True)])
    draw(path, f"A cluster under wrk: {CPU_TARGET} % CPU a server, two to five servers, cooldowns of {COOLDOWN} s", [load, cpu, servers])


# ---- the plot of the long run ----------------------------------------------------------------------------------------


def plot(path):
    rows = json.loads(path.with_suffix(".json").read_text())["wave"]["rows"]
    smooth = [(row[0], sum(r[1] for r in rows[max(0, i - 4) : i + 1]) / len(rows[max(0, i - 4) : i + 1])) for i, row in enumerate(rows)]
    load = Panel("requests/s", [Line("sent", smooth, "a"), Line("as the cluster sees it, over a minute", [(r[0], r[2]) for r in rows], "b")])
    wanted = [(r[0], max(2, min(5, -(-r[2] // EACH)))) for r in rows]
    servers = Panel("servers", [Line("load / target, within the bounds", wanted, "b", True), Line("there", [(r[0], r[4]) for r in rows], "a", True)])
    servers.lines.append(Line("up", [(r[0], r[3]) for r in rows], "c", True))
    draw(path, f"A cluster under load: {EACH} requests/s a server, two to five servers, cooldowns of {COOLDOWN} s", [load, servers])


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--long", action="store_true")
    options.add_argument("--wrk", action="store_true")
    options.add_argument("--plot", type=Path, metavar="SVG")
    options.add_argument("--draw", type=Path, metavar="SVG")
    chosen = options.parse_args()
    picture = plot_wrk if chosen.wrk else plot
    if chosen.draw:
        picture(chosen.draw)
        return
    record = {}
    if chosen.long:
        suite.check(f"2 -> 5 -> 2 by requests, cooldowns of {COOLDOWN} s: each direction once, no request fails")(lambda: two_to_five_to_two(record))
        suite.check("a square wave of 40 s: it does not flap")(lambda: square(record))
    elif chosen.wrk:
        suite.check(f"2 -> 5 -> 2 by CPU under wrk, cooldowns of {COOLDOWN} s: out, then in, no request fails")(lambda: under_wrk(record))
    else:
        suite.check("by its load it goes from two to four, which all answer; the event has the numbers")(out_by_load)
        suite.check("bounds hold at once: with maxServers 3 the newest is drained and removed; no request fails")(in_by_bounds)
        suite.check("with the cluster goes what scaling made, and nothing else")(gone_with_it)
    if chosen.plot and (chosen.long or chosen.wrk):

        def keep():
            chosen.plot.parent.mkdir(parents=True, exist_ok=True)
            chosen.plot.with_suffix(".json").write_text(json.dumps(record) + "\n")
            picture(chosen.plot)

        suite.check("the run is recorded and drawn")(keep)
    suite.run(setup)


main()
