#!/usr/bin/env python3
"""Memory of an idle control plane and agent, and the agent's CPU while it samples 50 containers once a second.

Goals: control plane at most 60 MB, agent at most 20 MB, agent at most 1% of a core. MB are 1,000,000 bytes of resident memory.

    footprint.py [--short] [--containers N] [--seconds N]

It starts `neuralmesh server` and `neuralmesh agent` as two processes. Use a release build: NM_BINARY=target/release/neuralmesh.
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e/lib"))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from checks import eventually
from docker import Docker
from nm import PREFIX, NeuralMesh, cpu_seconds, memory_mb
from report import options, report


def main():
    parser = options(__doc__)
    parser.add_argument("--containers", type=int)
    parser.add_argument("--seconds", type=int)
    chosen = parser.parse_args()
    count = chosen.containers or (10 if chosen.short else 50)
    seconds = chosen.seconds or (10 if chosen.short else 60)
    docker, mesh = Docker(), NeuralMesh("server")
    try:
        mesh.start()
        client = mesh.login()
        agent = mesh.add_agent()
        mesh.until_node_ready()
        time.sleep(2 if chosen.short else 10)  # what idle looks like once the start's work is over
        control_mb, control_anon = memory_mb(mesh.process.pid)
        agent_mb, agent_anon = memory_mb(agent.pid)

        def run(i):
            body = {"name": f"{PREFIX}{i}", "image": "busybox:latest", "command": ["sleep", "600"], "start": True, "stopGrace": 0}
            return client.post("/api/containers", body).expect(201).data["id"]

        with ThreadPoolExecutor(8) as pool:
            ids = list(pool.map(run, range(count)))

        def sampled():
            return all(len(client.get(f"/api/containers/{i}/stats?limit=2").expect(200).data) == 2 for i in ids)

        eventually(sampled, 30, "two samples of each container", every=0.5)
        before = {"control plane": cpu_seconds(mesh.process.pid), "agent": cpu_seconds(agent.pid)}
        began = time.monotonic()
        time.sleep(seconds)  # the measured interval
        took = time.monotonic() - began
        cpu = {
            "control plane": (cpu_seconds(mesh.process.pid) - before["control plane"]) / took * 100,
            "agent": (cpu_seconds(agent.pid) - before["agent"]) / took * 100,
        }
        loaded_control, loaded_agent = memory_mb(mesh.process.pid)[0], memory_mb(agent.pid)[0]
        samples = client.get(f"/api/containers/{ids[0]}/stats?limit=300").expect(200).data
        assert len(samples) >= 0.9 * took, f"{len(samples)} samples in {took:.0f} s: it does not sample once a second"
    finally:
        mesh.close()
        docker.remove_prefix(PREFIX)

    def row(what, value, unit, goal):
        return {"what": what, "value": round(value, 2), "unit": unit, "goal": f"<= {goal}" if goal else None, "reached": value <= goal if goal else None}

    report(
        "footprint",
        [
            row("control plane, idle", control_mb, "MB", 60),
            row("control plane, idle, not backed by a file", control_anon, "MB", None),
            row("agent, idle", agent_mb, "MB", 20),
            row("agent, idle, not backed by a file", agent_anon, "MB", None),
            row(f"control plane, {count} containers", loaded_control, "MB", None),
            row(f"agent, {count} containers", loaded_agent, "MB", None),
            row(f"agent's CPU, {count} containers", cpu["agent"], "% of a core", 1.0),
            row(f"control plane's CPU, {count} containers", cpu["control plane"], "% of a core", None),
        ],
    )


main()
