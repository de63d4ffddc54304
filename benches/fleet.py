#!/usr/bin/env python3
"""A control plane with 1,000 simulated agents, 50 containers each: what it costs, how long they take to join, when a lost one is seen.

    fleet.py [--short] [--agents 1000] [--small 100] [--containers 50] [--seconds 60] [--at-once 0]

Goals: at most 300 MB and half a core with 1,000 agents; a lost node is seen within 10 s. The agents (crates/testing/examples/fleet.rs)
are real but for Docker: each has joined by a token of its own, has its own certificate and link, beats twice a second by UDP, and tells
every two seconds what its containers and its machine use, as the real agent does, which samples once a second. They share the machine
with what is measured: on few cores the times are worse than on two machines. `--at-once` bounds how many agents join at a time; k3s
advises to join at most 50 at once, here the default is all.

Figures of a node's loss are taken by SIGSTOP on some agents' process: their connections stay open and nobody says goodbye, as
when a cable is cut.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e/lib"))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from checks import eventually
from nm import NeuralMesh, binary, cpu_seconds, memory_mb, quantile
from pace import constant_rate
from report import options, report

LIST = "/api/containers?limit=100"


def fleet_binary():
    path = Path(os.environ.get("NM_FLEET", Path(binary()).parent / "examples/fleet"))
    if not path.exists():
        sys.exit(f"{path} is missing; build it with: cargo build --example fleet")
    return str(path)


class Agents:
    """A process with so many agents."""

    def __init__(self, mesh, count, chosen):
        self.count, self.nodes, self.joined_in = count, [], None
        self.began = time.monotonic()
        client = mesh.client
        with ThreadPoolExecutor(16) as pool:
            made = pool.map(lambda _: client.post("/api/nodes/join-tokens", {}).expect(201).data["token"], range(count))
            tokens = list(made)
        self.tokens_in = time.monotonic() - self.began
        arguments = ["--server", f"https://127.0.0.1:{mesh.agent_port}", "--containers", chosen.containers, "--at-once", chosen.at_once]
        self.process = subprocess.Popen(
            [fleet_binary(), *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self.process.stdin.write("\n".join(tokens) + "\n")
        self.process.stdin.close()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        for text in self.process.stdout:
            said = json.loads(text)
            if "joined" in said:
                self.nodes.append(said["joined"])
            else:
                self.joined_in = said["seconds"]

    def signal(self, number):
        self.process.send_signal(number)
        return time.monotonic()

    def close(self):
        self.process.kill()
        self.process.wait()


def until_there(client, nodes, containers, seconds):
    """Waits until so many are connected and their containers known."""

    def there():
        info = client.get("/api/system/info").expect(200).data
        return info["nodesConnected"] == nodes and info["containers"] == containers

    eventually(there, seconds, f"{nodes} nodes and {containers} containers", every=0.1)


def when(client, nodes, condition, seconds, what):
    """For each node the moment at which its view fulfils the condition, first seen."""
    seen = {}

    def look():
        for node in nodes:
            if node not in seen and condition(client.get(f"/api/nodes/{node}").expect(200).data):
                seen[node] = time.monotonic()
        return len(seen) == len(nodes)

    eventually(look, seconds, what, every=0.05)
    return seen.values()


def loaded(mesh, chosen, nodes, seconds):
    """What the control plane costs with so many agents, and how its lists fare."""
    pid = mesh.process.pid
    time.sleep(2 if chosen.short else 20)  # until what came of the joining is written
    before, began = cpu_seconds(pid), time.monotonic()
    time.sleep(seconds)  # the measured interval
    cpu = (cpu_seconds(pid) - before) / (time.monotonic() - began) * 100
    memory, anonymous = memory_mb(pid)
    lists = constant_rate(mesh.client.host, mesh.client.port, LIST, mesh.client.token, 100, 3 if chosen.short else 20)
    assert not lists.failed(), lists.statuses
    page = mesh.client.get("/api/nodes?limit=200").expect(200)
    lines = [n["link"] for n in page.data]
    assert all(line["transport"] == "udp" for line in lines), "datagrams do not come through"
    return {
        "what": f"control plane, {nodes} agents, {nodes * chosen.containers} containers",
        "memory_mb": round(memory, 1),
        "not_file_backed_mb": round(anonymous, 1),
        "cpu_percent_of_a_core": round(cpu, 1),
        "list_p50_ms": round(quantile(lists.latency, 0.5), 2),
        "list_p99_ms": round(quantile(lists.latency, 0.99), 2),
        "median_rtt_ms": round(quantile([line["rtt"] for line in lines if "rtt" in line], 0.5), 2),
    }


def joined(agents, ready, chosen):
    return {
        "what": f"{agents.count} agents join, {chosen.at_once or 'all'} at once",
        "tokens_s": round(agents.tokens_in, 1),
        "joined_s": round(agents.joined_in, 1),
        "all_there_s": round(ready, 1),
        "per_second": round(agents.count / agents.joined_in, 1),
    }


def main():
    parser = options(__doc__)
    parser.add_argument("--agents", type=int, help="(1000)")
    parser.add_argument("--small", type=int, help="agents of the first measurement (100)")
    parser.add_argument("--containers", type=int, default=50, help="of each agent")
    parser.add_argument("--seconds", type=int, help="each measurement takes (60)")
    parser.add_argument("--at-once", type=int, default=0, help="agents that join at a time; 0 is all")
    chosen = parser.parse_args()
    if chosen.url:
        sys.exit("fleet.py starts its own control plane")
    total = chosen.agents or (50 if chosen.short else 1000)
    small = chosen.small or (10 if chosen.short else 100)
    seconds = chosen.seconds or (5 if chosen.short else 60)
    group = 5 if chosen.short else 20  # that is stopped and killed
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    mesh, rows, running = NeuralMesh("server"), [], []
    try:
        mesh.start()
        client = mesh.login()
        time.sleep(2 if chosen.short else 10)
        rows.append({"what": "control plane, idle", "memory_mb": round(memory_mb(mesh.process.pid)[0], 1)})
        for count, sum_then in ((small, small), (total - small - group, total - group), (group, total)):
            agents = Agents(mesh, count, chosen)
            running.append(agents)
            until_there(client, sum_then, sum_then * chosen.containers, 600)
            ready = time.monotonic() - agents.began
            eventually(lambda agents=agents: agents.joined_in is not None, 60, "the agents' own word that all have joined")
            rows.append(joined(agents, ready, chosen))
            if sum_then == small:
                rows.append(loaded(mesh, chosen, small, seconds))
        at_small = next(row for row in rows if row["what"].startswith(f"control plane, {small} agents"))
        full = loaded(mesh, chosen, total, seconds)
        full |= {"goal": "<= 300 MB, <= 50% of a core", "reached": full["memory_mb"] <= 300 and full["cpu_percent_of_a_core"] <= 50}
        rows.append(full)
        times = total / small
        rows.append(
            {
                "what": f"growth from {small} to {total} agents ({times:.0f}x)",
                "memory_mb": f"{full['memory_mb'] / at_small['memory_mb']:.1f}x",
                "cpu_percent_of_a_core": f"{full['cpu_percent_of_a_core'] / max(at_small['cpu_percent_of_a_core'], 0.1):.1f}x",
            }
        )
        lost = running[-1]
        at = lost.signal(signal.SIGSTOP)
        took = [t - at for t in when(client, lost.nodes, lambda n: "lostSince" in n, 60, "the stopped agents to be lost")]
        rows.append(seen(f"{group} agents cut off: lost", took, 10))
        time.sleep(5)
        at = lost.signal(signal.SIGCONT)
        took = [t - at for t in when(client, lost.nodes, lambda n: n["status"] == "ready", 60, "the agents to be back")]
        rows.append(seen("they are let go on: ready", took, 15))
        at = lost.signal(signal.SIGKILL)
        took = [t - at for t in when(client, lost.nodes, lambda n: "lostSince" in n, 60, "the killed agents to be lost")]
        rows.append(seen("they are killed: lost", took, 10))
        others = [node for agents in running[:-1] for node in agents.nodes]
        assert not [n["id"] for n in client.every("/api/nodes") if "lostSince" in n and n["id"] in others], "others were taken for lost"
        mesh.process.kill()
        at = time.monotonic()
        mesh.start()
        mesh.client = client = mesh.login()
        until_there(client, total - group, total * chosen.containers, 120)
        rows.append(seen(f"control plane killed, started again: {total - group} agents connected", [time.monotonic() - at], 15))
    finally:
        for agents in running:
            agents.close()
        mesh.close()
    report("fleet", rows)


def seen(what, took, goal):
    worst = max(took)
    return {"what": what, "median_s": round(quantile(took, 0.5), 1), "worst_s": round(worst, 1), "goal": f"<= {goal} s", "reached": worst <= goal}


main()
