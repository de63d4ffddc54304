#!/usr/bin/env python3
"""pgbench through a database cluster's port, through HAProxy in TCP mode and straight to the same PostgreSQL, in turn: the ratios of their
mean latencies, the median of the rounds. Goal: at most 1.05 times straight.

Straight, and where HAProxy goes, is the member's published port on loopback, as a client on the machine has it: there Docker's own program
(docker-proxy) is between. `bridge` is the same port at the machine's address on Docker's bridge, where only the kernel is.

    database.py [--short] [--rounds N] [--seconds N]

Needs Debian's haproxy and postgresql-contrib (pgbench). Use a release build: NM_BINARY=target/release/neuralmesh.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from report import options, report, service

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e/lib"))
from checks import eventually
from clusters import CLUSTERS
from docker import Docker
from nm import PREFIX, Process, free_port, median
from postgres_ha import DOCUMENT, needs

GOAL = 1.05
KINDS = {"select": ["-S"], "tpcb": ["-N"]}


class Target:
    def __init__(self, port, password, authority, host="127.0.0.1"):
        self.host, self.port = host, port
        self.env = os.environ | {"PGPASSWORD": password, "PGSSLMODE": "verify-ca", "PGSSLROOTCERT": str(authority)}

    def pgbench(self, *arguments):
        command = ["pgbench", "-h", self.host, "-p", self.port, "-U", "app", *arguments, "shop"]
        done = subprocess.run([str(word) for word in command], env=self.env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-1000:]
        return done.stdout

    def answers(self):
        command = ["psql", "-h", self.host, "-p", str(self.port), "-U", "app", "-Atc", "SELECT 1", "shop"]
        return subprocess.run(command, env=self.env, capture_output=True, timeout=30).returncode == 0

    def latency(self, kind, clients, seconds):
        """The mean, in ms."""
        told = self.pgbench("-n", *KINDS[kind], "-c", clients, "-j", 1, "-T", seconds, "-M", "prepared")
        return float(re.search(r"latency average = ([\d.]+) ms", told)[1])


@contextlib.contextmanager
def haproxy(folder, server):
    """HAProxy with one thread before a port of this machine; its own port."""
    port, config = free_port(), Path(folder) / "haproxy.cfg"
    config.write_text(f"""
global
  nbthread 1
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen postgres
  bind 127.0.0.1:{port}
  server one 127.0.0.1:{server}
""")
    process = Process("haproxy", ["haproxy", "-db", "-f", str(config)], Path(folder) / "haproxy.log").start()
    try:
        yield port
    finally:
        process.stop()


def ready(client, cluster):
    database = client.get(f"{CLUSTERS}/{cluster}").expect(200).data["database"]
    return database if database["state"] == "ready" and database.get("primary") else None


def measure(sides, kind, clients, rounds, seconds):
    taken = []
    for i in range(rounds):
        # Who is first changes from round to round.
        order = [*sides][i % len(sides) :] + [*sides][: i % len(sides)]
        taken.append({name: sides[name].latency(kind, clients, seconds) for name in order})
    ratio = {name: round(median([latency[name] / latency["straight"] for latency in taken]), 3) for name in sides}
    return {
        "what": kind,
        "clients": clients,
        "rounds": rounds,
        **{f"{name}_ms": round(median([latency[name] for latency in taken]), 3) for name in sides},
        "haproxy_ratio": ratio["haproxy"],
        "bridge_ratio": ratio["bridge"],
        "ratio": ratio["through"],
        "goal": f"ratio <= {GOAL}",
        "reached": ratio["through"] <= GOAL,
    }


def main():
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=int)
    chosen = parser.parse_args()
    needs("psql", "pgbench")
    needs("haproxy", packages="haproxy")
    rounds = chosen.rounds or (2 if chosen.short else 7)
    seconds = chosen.seconds or (2 if chosen.short else 10)
    with service(chosen) as mesh, tempfile.TemporaryDirectory(prefix="nm-bench-") as folder:
        client, docker = mesh.client, Docker()
        node = client.every("/api/nodes")[0]
        body = {"name": f"{PREFIX}bench", "type": "database", "servers": [node["name"]], "database": {"name": "shop"}}
        cluster = client.post(CLUSTERS, body).expect(201).data["id"]
        member = None
        try:
            database = eventually(lambda: ready(client, cluster), 300, "the database to be ready", every=0.5)
            member = docker.of(database["members"][0]["containerId"])
            document = json.loads(dict(word.split("=", 1) for word in member["Config"]["Env"])[DOCUMENT])
            credentials = client.get(f"{CLUSTERS}/{cluster}/database/credentials").expect(200).data
            authority = Path(folder) / "ca.pem"
            authority.write_text(credentials["certificateAuthority"])
            password = credentials["application"]["password"]
            through = Target(database["readWritePort"], password, authority)
            straight = Target(document["ports"]["postgres"], password, authority)
            bridge = Target(straight.port, password, authority, node["info"]["docker"]["bridge"])
            straight.pgbench("-i", "-q", "-s", 1 if chosen.short else 10)
            with haproxy(folder, straight.port) as port:
                sides = {"through": through, "haproxy": Target(port, password, authority), "straight": straight, "bridge": bridge}
                assert through.answers(), "a cluster that is ready answers on its port"
                eventually(sides["haproxy"].answers, 15, "HAProxy to answer", every=0.2)
                rows = [measure(sides, kind, clients, rounds, seconds) for kind in KINDS for clients in (1, 8)]
        finally:
            client.get(f"{CLUSTERS}/{cluster}")  # on a fresh connection: the one before may have been idle for too long to send a DELETE on
            client.delete(f"{CLUSTERS}/{cluster}").expect(200)
            if member:
                eventually(lambda: docker.inspect(member["Id"]) is None, 90, "the member's container to be gone", every=0.5)
                for mount in member["Mounts"]:
                    docker.request("DELETE", f"/volumes/{mount['Name']}")
    report("database", rows)


main()
