#!/usr/bin/env python3
"""A page of 100 out of 10,000 containers, at a constant 1,000 requests a second. Goal: p99 at most 10 ms.

    list_page.py [--short] [--containers 10000] [--rate 1000] [--seconds 30] [--path '/api/containers?limit=100']
    list_page.py --url URL --token TOKEN ...       on a service that runs already, with the containers it has

The containers are made through the API, on an engine that only remembers them (fake_engine.py); all else is real. The load
comes from pace.py: evenly spaced, each latency counted from the moment its request was due. How late the client itself was with
sending is part of that latency, and shown apart. At the end the service is started again, to see how long it takes with so many
containers in its store (goal: ready within 1 s).
"""

import contextlib
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e/lib"))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from nm import PREFIX, memory_mb, quantile
from pace import constant_rate
from report import options, report, service


@contextlib.contextmanager
def fake_engine():
    """The socket of an engine that only remembers."""
    with tempfile.TemporaryDirectory(prefix="nm-fake-engine-") as folder:
        socket = f"{folder}/docker.sock"
        engine = subprocess.Popen([sys.executable, Path(__file__).with_name("fake_engine.py"), socket], stdout=subprocess.PIPE)
        try:
            engine.stdout.readline()  # says when it listens
            yield socket
        finally:
            engine.terminate()
            engine.wait()


def fill(client, count):
    """As varied as people's containers are: ports, variables, labels, limits."""

    def one(i):
        body = {
            "name": f"{PREFIX}{i}",
            "image": f"registry.example.com/team{i % 17}/service{i % 101}:1.{i % 30}.{i % 7}",
            "environment": {"LOG_LEVEL": "info", "DATABASE_URL": f"postgres://db{i % 9}.internal/app", "WORKERS": str(i % 16)},
            "ports": [{"container": 8080, "host": 20000 + i}],
            "labels": {"app": f"service{i % 101}", "team": f"team{i % 17}", "tier": "web" if i % 3 else "batch"},
            "cpuLimit": 0.5,
            "memoryLimit": "256m",
            "restart": "unless-stopped",
        }
        client.post("/api/containers", body).expect(201)

    began = time.monotonic()
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(one, range(count)))
    print(f"  made {count} containers in {time.monotonic() - began:.0f} s", file=sys.stderr)


def measure(mesh, chosen, seconds):
    client = mesh.client
    containers = len(client.every("/api/containers"))
    first = client.get(chosen.path).expect(200)
    seen = constant_rate(client.host, client.port, chosen.path, client.token, chosen.rate, seconds)
    p99, achieved = quantile(seen.latency, 0.99), len(seen.latency) / seconds
    if seen.failed():
        sys.exit(f"list_page.py: {seen.failed()} of {len(seen.latency)} requests failed: {seen.statuses}")
    return {
        "what": f"a page of {first.json['count']} out of {containers}",
        "page_bytes": len(first.raw),
        "rate": chosen.rate,
        "achieved": round(achieved, 1),
        "p50_ms": round(quantile(seen.latency, 0.5), 2),
        "p99_ms": round(p99, 2),
        "max_ms": round(max(seen.latency), 2),
        "client_late_p99_ms": round(quantile(seen.late, 0.99), 2),
        "goal": "p99 <= 10 ms",
        "reached": p99 <= 10 and achieved >= 0.99 * chosen.rate,
    }


def main():
    parser = options(__doc__)
    parser.add_argument("--containers", type=int, help="(10000)")
    parser.add_argument("--rate", type=int, default=1000, help="requests a second")
    parser.add_argument("--seconds", type=int, help="of load (30)")
    parser.add_argument("--path", default="/api/containers?limit=100")
    chosen = parser.parse_args()
    seconds = chosen.seconds or (5 if chosen.short else 30)
    if chosen.url:
        with service(chosen) as mesh:
            report("list_page", [measure(mesh, chosen, seconds)])
        return
    count = chosen.containers or (200 if chosen.short else 10_000)
    with fake_engine() as socket, service(chosen, arguments=["--docker-socket", socket]) as mesh:
        fill(mesh.client, count)
        page = measure(mesh, chosen, seconds)
        memory = memory_mb(mesh.process.pid)[0]
        mesh.process.stop()
        began = time.monotonic()
        mesh.start()
        ready = time.monotonic() - began
    start = {"what": f"start-up with {count} containers", "seconds": round(ready, 2), "goal": "<= 1 s", "reached": ready <= 1}
    report("list_page", [page, start, {"what": f"control plane and agent, {count} containers", "memory_mb": round(memory, 1)}])


main()
