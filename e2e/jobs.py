#!/usr/bin/env python3
"""Jobs on a compute cluster of three nodes, in the lab: arrays, dependencies, retries, the ways in which a task ends; and control
planes, agents and nodes that go away in the middle, with every task's effect counted against what was reported of it.

    jobs.py           all of it
    jobs.py --long    a job of 1,000 tasks in its place, in which control plane, an agent and a node are lost; some four minutes
"""

import argparse
import collections
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))
from checks import Suite, eventually
from fleet import Fleet

suite = Suite("jobs")
fleet = Fleet()
CLUSTER = "/api/capabilities/clusters/crunch"
NODES = ("n1", "n2", "n3")
FINAL = ("succeeded", "failed", "cancelled", "set-aside")
place = None


def setup():
    global place
    # A folder that every node sees: what tasks leave in it is their effect.
    place = tempfile.mkdtemp(prefix="nm-jobs-", dir="/srv")
    os.chmod(place, 0o777)
    suite.on_exit(shutil.rmtree, place, True)
    suite.on_exit(fleet.close)
    fleet.up()
    made = fleet.client.post("/api/capabilities/clusters", {"name": "crunch", "type": "compute", "servers": list(NODES)}).expect(201).data
    assert made["type"] == "compute" and made["listenPort"] == 0 and made["entryNodes"] == [], made


def job(**fields):
    return fleet.client.post(f"{CLUSTER}/jobs", {"image": "busybox:latest"} | fields).expect(201).data


def shell(script, **fields):
    return job(command=["sh", "-c", script], volumes=[{"container": "/out", "host": place}], **fields)


def now(made):
    return fleet.client.get(f"{CLUSTER}/jobs/{made['id']}").expect(200).data


def tasks(made):
    return fleet.client.every(f"{CLUSTER}/jobs/{made['id']}/tasks")


def ended(made, seconds=60):
    last = {}

    def look():
        last.update(now(made))
        return last["state"] in FINAL

    try:
        eventually(look, seconds, f"job {made['id']} to end", every=0.1)
    except AssertionError:
        states = collections.Counter((t["state"], t.get("outcome"), t.get("reason")) for t in tasks(made))
        raise AssertionError(f"not ended: {last['state']} {last['counts']} {states}") from None
    return last


def log(made, task=0):
    return [line["line"] for line in fleet.client.get(f"{CLUSTER}/jobs/{made['id']}/logs?task={task}").expect(200).data]


def left():
    """Containers of tasks on all engines."""
    return [row["Names"] for node in NODES for row in fleet.docker(node).containers(label=["io.neuralmesh.task"])]


def effects(name):
    """How many attempts of each task came to their end, by what they left."""
    return collections.Counter(int(line) for file in Path(place).glob(f"{name}.*") for line in file.read_text().split())


@suite.check("a job runs on a node to its end; its state, counts, tasks and log say so")
def _():
    made = job(command=["sh", "-c", "echo hello $WHO; echo oops >&2"], environment={"WHO": "world", "DB_PASSWORD": "hunter2"})
    assert made["state"] in ("queued", "running") and made["environment"]["DB_PASSWORD"] != "hunter2", made
    done = ended(made)
    assert done["state"] == "succeeded" and done["counts"]["succeeded"] == 1 and done["progress"] == 100 and done["attempts"] == 1, done
    (task,) = tasks(made)
    assert task["state"] == "succeeded" and task["exitCode"] == 0 and task["nodeId"], task
    assert sorted(log(made)) == ["hello world", "oops"], log(made)
    assert not [c for c in fleet.client.every("/api/containers") if c["name"].startswith("nm-")], "tasks show among containers"
    eventually(lambda: not left(), 10, "its container to be gone")


@suite.check("an array of 60 over three nodes: each number once, each node has some")
def _():
    made = shell('echo $NM_TASK_INDEX >> /out/array.$(hostname)', array={"size": 60})
    done = ended(made, 120)
    assert done["state"] == "succeeded" and done["counts"]["succeeded"] == 60, done
    assert effects("array") == collections.Counter(range(60)), effects("array")
    assert len({task["nodeId"] for task in tasks(made)}) == 3


@suite.check("exit code, memory, time and a missing program are told apart; retries come after their pause")
def _():
    plain = job(command=["sh", "-c", "exit 7"])
    hungry = job(command=["sh", "-c", "x=a; while true; do x=$x$x$x; done"], memory="16m")
    slow = job(command=["sleep", "60"], timeout=1)
    missing = job(command=["/no/such/program"])
    again = shell("echo x >> /out/again; [ $(wc -l < /out/again) -ge 3 ]", retries={"limit": 3, "backoff": 1})
    began = time.monotonic()
    outcomes = {}
    for name, made in (("plain", plain), ("hungry", hungry), ("slow", slow), ("missing", missing)):
        assert ended(made)["state"] == "failed", name
        outcomes[name] = (tasks(made)[0]["outcome"], tasks(made)[0].get("exitCode"))
    assert outcomes["plain"] == ("exit-code", 7), outcomes
    assert outcomes["hungry"][0] == "out-of-memory" and outcomes["slow"][0] == "timeout" and outcomes["missing"][0] == "not-started", outcomes
    done = ended(again)
    assert done["state"] == "succeeded" and done["attempts"] == 3, done
    assert time.monotonic() - began >= 3, "pauses of one and two seconds"


@suite.check("a job waits for another, goes on after it, and is cancelled where that failed")
def _():
    first = shell("sleep 1; touch /out/first")
    second = shell("[ -e /out/first ]", dependsOn=[first["id"]])
    assert now(second)["state"] == "waiting", now(second)
    assert ended(second)["state"] == "succeeded"
    bad = job(command=["sh", "-c", "sleep 1; exit 1"])
    after = job(command=["true"], dependsOn=[bad["id"]])
    done = ended(after)
    assert done["state"] == "cancelled" and bad["id"] in done["reason"], done


@suite.check("cancel ends what runs and what waits; only a finished job is removed")
def _():
    made = job(command=["sh", "-c", "trap 'exit 0' TERM; echo up; while true; do sleep 0.1; done"], array={"size": 40}, cpu=0.5)
    eventually(lambda: now(made)["counts"]["running"] >= 3, 30, "some to run")
    fleet.client.delete(f"{CLUSTER}/jobs/{made['id']}").expect(409)
    fleet.client.post(f"{CLUSTER}/jobs/{made['id']}/cancel").expect(200)
    done = ended(made)
    assert done["state"] == "cancelled" and done["counts"]["cancelled"] == 40, done
    fleet.client.delete(f"{CLUSTER}/jobs/{made['id']}").expect(200)
    fleet.client.get(f"{CLUSTER}/jobs/{made['id']}").expect(404)
    eventually(lambda: not left(), 20, "their containers to be gone")


@suite.check("whole cores are bound, and no core to two tasks at once")
def _():
    made = shell("grep Cpus_allowed_list /proc/self/status | cut -f2; sleep 2", array={"size": 6}, cpu=1)
    seen = set()

    def look():
        per_node = collections.defaultdict(list)
        for task in tasks(made):
            if task["state"] == "running":
                per_node[task["nodeId"]] += task["cores"]
        for node, cores in per_node.items():
            assert len(cores) == len(set(cores)), (node, cores)
            seen.update((node, core) for core in cores)
        return now(made)["state"] in FINAL

    eventually(look, 90, "them to end", every=0.1)
    assert now(made)["state"] == "succeeded" and len(seen) >= 3, seen
    for task in tasks(made):
        (line,) = log(made, task["index"])
        assert line == ",".join(map(str, task["cores"])), (line, task)


def count(made, name, extra=()):
    """Each task that was reported to have succeeded had its effect once, but for attempts that are known to have been cut off."""
    done = now(made)
    assert done["state"] == "succeeded", done
    seen = effects(name)
    doubled = {index for index, times in seen.items() if times != 1}
    assert set(seen) == set(range(done["counts"]["succeeded"])), "an effect is missing"
    assert doubled <= set(extra), f"more than once: {sorted(doubled)}"


@suite.check("kill -9 of the control plane three times in the middle: every effect once")
def _():
    made = shell("sleep 1; echo $NM_TASK_INDEX >> /out/plane.$(hostname)", array={"size": 60})
    for _ in range(3):
        eventually(lambda: now(made)["counts"]["running"] >= 3, 60, "some to run")
        fleet.control("kill")
        fleet.control("start")
        fleet.until_all_ready(40)
    assert ended(made, 180)["attempts"] == 60, now(made)
    count(made, "plane")


@suite.check("kill -9 of each agent in the middle: every effect once, and nothing ran twice")
def _():
    made = shell("sleep 1; echo $NM_TASK_INDEX >> /out/agent.$(hostname)", array={"size": 60})
    for node in NODES:
        eventually(lambda: now(made)["counts"]["running"] >= 3, 60, "some to run")
        fleet.kill_agent(node)
    ended(made, 180)
    count(made, "agent")
    eventually(lambda: not left(), 30, "their containers to be gone")


@suite.check("a node powered off in the middle: its tasks run elsewhere, and each success has its effect")
def _():
    made = shell("sleep 3; echo $NM_TASK_INDEX >> /out/crash.$(hostname)", array={"size": 40})
    eventually(lambda: any(t["state"] == "running" and t["nodeId"] == fleet.node("n2")["id"] for t in tasks(made)), 60, "n2 to have some")
    fleet.crash("n2")
    done = ended(made, 240)
    assert done["state"] == "succeeded" and done["attempts"] > 40, done
    # What n2 had done and could not tell any more was done once more.
    again = [task["index"] for task in tasks(made) if task["attempts"] > 1]
    count(made, "crash", extra=again)
    fleet.boot("n2")
    fleet.until_all_ready(60)
    eventually(lambda: not left(), 60, "what n2 had to be gone")


@suite.check("a cut cable: n3 ends its tasks itself before others get them")
def _():
    script = "while true; do date +%s%N > /out/beat.$NM_TASK_INDEX.$(hostname); sleep 0.2; done"
    made = shell(script, array={"size": 6}, cpu=0.3)
    n3 = fleet.node("n3")["id"]
    eventually(lambda: any(t["state"] == "running" and t["nodeId"] == n3 for t in tasks(made)), 60, "n3 to have some")
    mine = [t["index"] for t in tasks(made) if t.get("nodeId") == n3 and t["state"] == "running"]
    fleet.cut("n3")
    began = time.monotonic()
    eventually(lambda: all(t["attempts"] == 2 and t["state"] == "running" for t in tasks(made) if t["index"] in mine), 60, "others to have them")
    assert time.monotonic() - began > 20, "given away before n3 had to end them"
    for index in mine:
        beats = sorted(Path(place).glob(f"beat.{index}.*"), key=lambda f: f.stat().st_mtime)
        ages = [time.time() - beat.stat().st_mtime for beat in beats]
        assert all(age > 3 for age in ages[:-1]), f"task {index} ran twice at once: {ages}"
    fleet.heal("n3")
    fleet.until_all_ready(60)
    fleet.client.post(f"{CLUSTER}/jobs/{made['id']}/cancel").expect(200)
    assert ended(made, 60)["state"] == "cancelled"


def a_thousand():
    made = shell("echo $NM_TASK_INDEX >> /out/thousand.$(hostname)", array={"size": 1000})

    def until(done):
        eventually(lambda: now(made)["counts"]["succeeded"] >= done, 200, f"{done} to have succeeded")

    until(200)
    fleet.control("kill")
    fleet.control("start")
    fleet.until_all_ready(40)
    until(400)
    fleet.kill_agent("n1")
    until(600)
    fleet.crash("n2")
    done = ended(made, 400)
    again = [task["index"] for task in tasks(made) if task["attempts"] > 1]
    doubled = sum(times - 1 for times in effects("thousand").values())
    print(f"    {done['counts']['succeeded']} succeeded in {done['attempts']} attempts, {len(again)} tasks had more than one; {doubled} effects twice")
    count(made, "thousand", extra=again)
    assert done["counts"]["succeeded"] == 1000, done
    fleet.boot("n2")
    fleet.until_all_ready(60)
    eventually(lambda: not left(), 60, "their containers to be gone")


options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
options.add_argument("--long", action="store_true")
if options.parse_args().long:
    suite = Suite("jobs")
    suite.check("1,000 tasks; control plane and an agent killed, a node powered off: each success has its effect, once but for what was reported anew")(a_thousand)
suite.run(setup)
