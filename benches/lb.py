#!/usr/bin/env python3
"""The load balancer beside HAProxy, nginx and Caddy: the same backend, the same client program, rounds that alternate, one run.

Each proxy has core 0 and one worker; wrk and the backend (nginx) share core 1. CPU time is what the kernel counted for the proxy's
threads (schedstat). Ratios are taken within a round, against HAProxy, and the median round is told: that is steadier than any figure of
its own. Goals: CPU per HTTP request at most 1.15 times HAProxy's, and p99 at most 1.15 times; memory at most 10 MB at 64 connections and
45 MB at 2,000; TCP with small messages at most 1.0 times its CPU, in bulk 0.3 times. MB are 1,000,000 bytes of resident memory.

    lb.py [--short] [--rounds N] [--seconds N] [--only SCENARIO,...]

Needs Debian's haproxy, nginx-light, caddy and wrk. Use a release build: NM_BINARY=target/release/neuralmesh.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e/lib"))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from checks import eventually
from nm import Process, binary, free_port, median, memory_mb
from report import options, report

SMALL, MEDIUM, BULK = 100, 10 << 10, 4 << 20
PROXY_CORE, OTHER_CORE = 0, 1
TIMEOUT_SECONDS = 10


def pinned(core, *command):
    return ["taskset", "-c", str(core), *command]


def tool(name):
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def processes(root):
    """A process and all that it started."""
    found, look = [], [root]
    while look:
        pid = look.pop()
        found.append(pid)
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            look.extend(int(child) for child in task.read_text().split())
    return found


def cpu_nanoseconds(root):
    return sum(int(f.read_text().split()[0]) for pid in processes(root) for f in Path(f"/proc/{pid}/task").glob("*/schedstat"))


class Side:
    """One proxy: a port for HTTP, one for HTTPS, one for TCP where it does that."""

    def __init__(self, folder, backend):
        self.folder, self.backend = folder / self.name, backend
        self.folder.mkdir()
        self.ports = {kind: free_port() for kind in self.kinds}
        self.pem, self.cert, self.key = (folder / f for f in ("both.pem", "cert.pem", "key.pem"))
        self.process = None

    def start(self):
        self.process = Process(self.name, pinned(PROXY_CORE, *self.command()), self.folder / "log", env={"HOME": str(self.folder)}).start()
        for port in self.ports.values():
            eventually(lambda: accepts(port), seconds=15, what=f"{self.name} listens on {port}")

    def write(self, name, text):
        (self.folder / name).write_text(text)
        return str(self.folder / name)


class HAProxy(Side):
    name, kinds = "haproxy", ("http", "https", "tcp")

    def command(self):
        config = f"""
global
  nbthread 1
  maxconn 8000
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend plain
  bind 127.0.0.1:{self.ports["http"]}
  option forwardfor
  default_backend web
frontend tls
  bind 127.0.0.1:{self.ports["https"]} ssl crt {self.pem} alpn h2,http/1.1
  option forwardfor
  default_backend web
backend web
  http-reuse always
  server one 127.0.0.1:{self.backend}
listen tcp
  mode tcp
  bind 127.0.0.1:{self.ports["tcp"]}
  server one 127.0.0.1:{self.backend}
"""
        return [tool("haproxy"), "-db", "-f", self.write("haproxy.cfg", config)]


class Nginx(Side):
    name, kinds = "nginx", ("http", "https")

    def command(self):
        config = f"""
worker_processes 1; daemon off; pid {self.folder}/pid; error_log {self.folder}/error.log;
events {{ worker_connections 8000; }}
http {{
  access_log off; keepalive_requests 1000000000;
  client_body_temp_path {self.folder}/1; proxy_temp_path {self.folder}/2; fastcgi_temp_path {self.folder}/3;
  uwsgi_temp_path {self.folder}/4; scgi_temp_path {self.folder}/5;
  upstream web {{ server 127.0.0.1:{self.backend}; keepalive 2048; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{self.ports["http"]} backlog=4096;
    listen 127.0.0.1:{self.ports["https"]} ssl backlog=4096;
    ssl_certificate {self.cert}; ssl_certificate_key {self.key};
    location / {{
      proxy_pass http://web; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    }}
  }}
}}
"""
        return [tool("nginx"), "-c", self.write("nginx.conf", config)]


class Caddy(Side):
    name, kinds = "caddy", ("http", "https")

    def command(self):
        config = f"""
{{
  admin off
  auto_https off
}}
http://127.0.0.1:{self.ports["http"]} {{
  reverse_proxy 127.0.0.1:{self.backend}
}}
https://127.0.0.1:{self.ports["https"]} {{
  tls {self.cert} {self.key}
  reverse_proxy 127.0.0.1:{self.backend}
}}
"""
        return ["env", "GOMAXPROCS=1", tool("caddy"), "run", "--adapter", "caddyfile", "--config", self.write("Caddyfile", config)]


class Ours(Side):
    name, kinds = "neuralmesh", ("http", "https", "tcp")

    def command(self):
        source = {"files": {"certificate": str(self.cert), "key": str(self.key)}}
        at = {"address": "127.0.0.1"}
        http_ = {**at, "protocol": "http", "routes": [{"cluster": "web"}]}
        document = {
            "generation": 1,
            "listeners": [
                {"id": "plain", "port": self.ports["http"], **http_},
                {"id": "tls", "port": self.ports["https"], **http_, "tls": {"certificates": [{"source": source}]}},
                {"id": "tcp", "port": self.ports["tcp"], **at, "protocol": "tcp", "cluster": "web"},
            ],
            "clusters": [{"id": "web", "members": [{"id": "one", "port": self.backend, **at}]}],
        }
        config = self.write("proxy.json", json.dumps(document))
        return [binary(), "proxy", "--config", config, "--control-socket", str(self.folder / "socket"), "--workers", "1"]


def accepts(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def start_backend(folder):
    port, files = free_port(), folder / "files"
    files.mkdir()
    for name, size in (("medium", MEDIUM), ("bulk", BULK)):
        (files / name).write_bytes(b"x" * size)
    folder.chmod(0o755)
    config = folder / "backend.conf"
    config.write_text(f"""
worker_processes 1; daemon off; pid {folder}/backend.pid; error_log {folder}/backend.log;
events {{ worker_connections 8000; }}
http {{
  access_log off; sendfile on; keepalive_requests 1000000000; keepalive_timeout 600s;
  client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
  uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
  server {{
    listen 127.0.0.1:{port} backlog=4096; root {files};
    location = /small {{ return 200 "{"x" * SMALL}"; }}
  }}
}}
""")
    process = Process("backend", pinned(OTHER_CORE, tool("nginx"), "-c", config), folder / "backend.out").start()
    eventually(lambda: accepts(port), seconds=15, what="the backend listens")
    return process, port


def certificate(folder):
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert]
    subprocess.run([str(c) for c in command], check=True, capture_output=True)
    (folder / "both.pem").write_text(cert.read_text() + key.read_text())


MILLISECONDS = {"us": 1e-3, "ms": 1, "s": 1e3, "m": 60e3}


def load(side, kind, path, connections, seconds, script=None):
    """One run of wrk: what it saw and what it cost the proxy."""
    url = f"{'https' if kind == 'https' else 'http'}://127.0.0.1:{side.ports[kind]}{path}"
    wrk = ["wrk", "-t2", f"-c{connections}", f"-d{seconds}s", "--timeout", f"{TIMEOUT_SECONDS}s", "--latency", url]
    if script:
        wrk[1:1] = ["-s", str(script)]
    before, peak = cpu_nanoseconds(side.process.pid), 0
    running = subprocess.Popen(pinned(OTHER_CORE, *wrk), stdout=subprocess.PIPE, text=True)
    while running.poll() is None:
        peak = max(peak, sum(memory_mb(pid)[0] for pid in processes(side.process.pid)))
        time.sleep(0.5)
    text = running.stdout.read()
    cpu = (cpu_nanoseconds(side.process.pid) - before) / 1e9
    requests = int(re.search(r"(\d+) requests in", text)[1])
    wrong = re.findall(r"(?:Non-2xx or 3xx responses: \d+|Socket errors: .*)", text)
    assert requests > 0, f"{side.name}: {url}: no answers\n{side.process.tail()}"

    def latency(percent):
        told = re.search(rf"^\s*{percent}%\s+([\d.]+)([a-z]+)\s*$", text, re.M)
        # wrk tells none where nothing came in time.
        return float(told[1]) * MILLISECONDS[told[2]] if told else TIMEOUT_SECONDS * 1e3

    return {
        "req_s": requests / seconds,
        "p50_ms": latency(50),
        "p99_ms": latency(99),
        "cpu_s_100k": cpu / requests * 1e5,
        "cpu_s_gb": cpu / (requests * BULK / 1e9),
        "memory_mb": peak,
        "wrong": wrong,
    }


# Requests that carry a body, by their scenario; all others have none.
BODIES = {"http-post-100B": SMALL}
SCENARIOS = {
    # name: kind, path, connections, CPU's column, goal for CPU, goal for memory
    "http-100B": ("http", "/small", 64, "cpu_s_100k", 1.15, 10),
    "http-10KB": ("http", "/medium", 64, "cpu_s_100k", 1.15, 10),
    "http-post-100B": ("http", "/small", 64, "cpu_s_100k", 1.15, None),
    "http-100B-2000": ("http", "/small", 2000, "cpu_s_100k", 1.15, 45),
    "https-100B": ("https", "/small", 64, "cpu_s_100k", 1.15, None),
    "https-10KB": ("https", "/medium", 64, "cpu_s_100k", 1.15, None),
    "tcp-100B": ("tcp", "/small", 64, "cpu_s_100k", 1.0, None),
    "tcp-4MiB": ("tcp", "/bulk", 16, "cpu_s_gb", 0.3, None),
}


def measure(name, sides, rounds, seconds):
    kind, path, connections, cpu, cpu_goal, memory_goal = SCENARIOS[name]
    sides = [side for side in sides if kind in side.kinds]
    script = None
    if name in BODIES:
        script = sides[0].folder / f"{name}.lua"
        script.write_text(f'wrk.method = "POST"\nwrk.body = string.rep("x", {BODIES[name]})\n')
    seen = {side.name: [] for side in sides}
    for round_ in range(rounds):
        for side in sides if round_ % 2 else reversed(sides):
            seen[side.name].append(load(side, kind, path, connections, seconds, script))
    rows = []
    for side in sides:
        runs = seen[side.name]
        pairs = list(zip(runs, seen["haproxy"]))
        ratio = {c: round(median([ours[c] / theirs[c] for ours, theirs in pairs]), 3) for c in (cpu, "p99_ms")}
        row = {"what": name, "proxy": side.name, "connections": connections, "req_s": round(median([r["req_s"] for r in runs]))}
        row |= {c: round(median([r[c] for r in runs]), 3) for c in ("p50_ms", "p99_ms", cpu)}
        row |= {"memory_mb": round(max(r["memory_mb"] for r in runs), 1), "cpu_x_haproxy": ratio[cpu], "p99_x_haproxy": ratio["p99_ms"]}
        wrong = [what for r in runs for what in r["wrong"]]
        row |= {"errors": "; ".join(wrong) or None}
        if side.name == Ours.name:
            goals = {"no errors": not wrong, f"cpu x <= {cpu_goal}": ratio[cpu] <= cpu_goal}
            if kind != "tcp":
                goals["p99 x <= 1.15"] = ratio["p99_ms"] <= 1.15
            if memory_goal:
                goals[f"memory <= {memory_goal}"] = row["memory_mb"] <= memory_goal
            row |= {"goal": ", ".join(goals), "reached": all(goals.values())}
        rows.append(row)
    return rows


def main():
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=int)
    parser.add_argument("--only", help=f"of {', '.join(SCENARIOS)}")
    chosen = parser.parse_args()
    rounds = chosen.rounds or (1 if chosen.short else 5)
    seconds = chosen.seconds or (1 if chosen.short else 8)
    names = chosen.only.split(",") if chosen.only else list(SCENARIOS)
    needed = [name for name in ("haproxy", "nginx", "caddy", "wrk", "openssl", "taskset") if not tool(name)]
    if needed:
        sys.exit(f"lb.py needs {', '.join(needed)}: apt-get install haproxy nginx-light caddy wrk openssl util-linux")
    if os.cpu_count() < 2:
        sys.exit("lb.py needs two cores: one for the proxies, one for everything else")
    # What this program itself does must not fall on the proxies' core.
    os.sched_setaffinity(0, {OTHER_CORE})
    with tempfile.TemporaryDirectory(prefix="nm-lb-") as folder:
        folder = Path(folder)
        certificate(folder)
        backend, port = start_backend(folder)
        running = [backend]
        try:
            sides = [kind(folder, port) for kind in (Ours, HAProxy, Nginx, Caddy)]
            for side in sides:
                side.start()
                running.append(side.process)
            # The most connections come last: what they left behind is not to be counted for the others.
            rows = [row for name in sorted(names, key=lambda n: SCENARIOS[n][2]) for row in measure(name, sides, rounds, seconds)]
        finally:
            for process in running:
                process.sweep()
    report("lb", rows)


if __name__ == "__main__":
    main()
