#!/usr/bin/env python3
"""A page of 100 out of many containers, at a constant 1,000 requests a second. Goal: p99 at most 10 ms.

    list_page.py --url URL --token TOKEN [--rate 1000] [--seconds 30] [--path '/api/containers?limit=100'] [--at-least 10000]

The load comes from pace.py: evenly spaced, each latency counted from the moment its request was due. How late the client itself
was with sending is part of that latency, and shown apart.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e/lib"))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from nm import quantile
from pace import constant_rate
from report import options, report, service


def main():
    parser = options(__doc__)
    parser.add_argument("--rate", type=int, default=1000, help="requests a second")
    parser.add_argument("--seconds", type=int, help="of load (30)")
    parser.add_argument("--path", default="/api/containers?limit=100")
    parser.add_argument("--at-least", type=int, default=0, help="fail when fewer containers are listed")
    chosen = parser.parse_args()
    seconds = chosen.seconds or (5 if chosen.short else 30)
    with service(chosen) as mesh:
        containers = len(mesh.client.every("/api/containers"))
        if containers < chosen.at_least:
            sys.exit(f"list_page.py: {containers} containers are listed, --at-least asks for {chosen.at_least}")
        rows = mesh.client.get(chosen.path).expect(200).json["count"]
        seen = constant_rate(mesh.client.host, mesh.client.port, chosen.path, mesh.client.token, chosen.rate, seconds)
    failed = seen.failed()
    achieved = len(seen.latency) / seconds
    p99 = quantile(seen.latency, 0.99)
    report(
        "list_page",
        [
            {
                "what": f"{rows} rows a page",
                "containers": containers,
                "rate": chosen.rate,
                "achieved": round(achieved, 1),
                "failed": failed,
                "p50_ms": round(quantile(seen.latency, 0.5), 2),
                "p99_ms": round(p99, 2),
                "client_late_p99_ms": round(quantile(seen.late, 0.99), 2),
                "connections": seen.connections,
                "max_ms": round(max(seen.latency), 2),
                "goal": "p99 <= 10 ms",
                "reached": p99 <= 10 and failed == 0 and achieved >= 0.99 * chosen.rate,
            }
        ],
    )
    if failed:
        sys.exit(f"list_page.py: {failed} of {len(seen.latency)} requests failed: {seen.statuses}")


main()
