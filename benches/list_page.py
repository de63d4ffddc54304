#!/usr/bin/env python3
"""A page of 100 out of many containers, at a constant 1,000 requests a second. Goal: p99 at most 10 ms.

    list_page.py --url URL --token TOKEN [--rate 1000] [--seconds 30] [--path '/api/containers?limit=100'] [--at-least 10000]

The load is h2load's (package nghttp2-client) over HTTP/1.1 on 50 connections, each at an even pace, so that a slow answer holds up
one connection only. Latency counts from sending. A server that cannot keep up shows as an achieved rate below the asked one, which
misses the goal whatever the latencies are.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e/lib"))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from nm import quantile
from report import options, report, service

CONNECTIONS = 50


def load(url, token, rate, seconds):
    """One list of (seconds since start, status, milliseconds) for every request."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "requests")
        subprocess.run(
            ["h2load", "--h1", f"--clients={CONNECTIONS}", f"--rps={rate / CONNECTIONS}", f"--duration={seconds}", "--warm-up-time=2"]
            + [f"--log-file={log}", f"--header=authorization: Bearer {token}", url],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        rows = [line.split("\t") for line in log.read_text().splitlines()]
    return [(int(start) / 1e6, int(status), int(micros) / 1e3) for start, status, micros in rows]


def main():
    parser = options(__doc__)
    parser.add_argument("--rate", type=int, default=1000, help="requests a second")
    parser.add_argument("--seconds", type=int, help="of load (30)")
    parser.add_argument("--path", default="/api/containers?limit=100")
    parser.add_argument("--at-least", type=int, default=0, help="fail when fewer containers are listed")
    chosen = parser.parse_args()
    if not shutil.which("h2load"):
        sys.exit("list_page.py: h2load is missing; install it with: apt-get install nghttp2-client")
    seconds = chosen.seconds or (5 if chosen.short else 30)
    with service(chosen) as mesh:
        containers = len(mesh.client.every("/api/containers"))
        if containers < chosen.at_least:
            sys.exit(f"list_page.py: {containers} containers are listed, --at-least asks for {chosen.at_least}")
        rows = mesh.client.get(chosen.path).expect(200).json["count"]
        began = time.perf_counter()
        seen = load(mesh.url.rstrip("/") + chosen.path, mesh.client.token, chosen.rate, seconds)
        took = time.perf_counter() - began
    times = [milliseconds for _, _, milliseconds in seen]
    failed = sum(status != 200 for _, status, _ in seen)
    achieved = len(seen) / seconds
    p99 = quantile(times, 0.99)
    report(
        "list_page",
        [
            {
                "what": f"{rows} rows a page",
                "containers": containers,
                "rate": chosen.rate,
                "achieved": round(achieved, 1),
                "failed": failed,
                "p50_ms": round(quantile(times, 0.5), 2),
                "p99_ms": round(p99, 2),
                "max_ms": round(max(times), 2),
                "goal": "p99 <= 10 ms",
                "reached": p99 <= 10 and failed == 0 and achieved >= 0.99 * chosen.rate,
            }
        ],
    )
    if failed:
        sys.exit(f"list_page.py: {failed} of {len(seen)} requests failed (in {took:.0f} s)")


main()
