"""Starts the real binary on free loopback ports with a data folder of its own, and talks to its API.

Standard library only. `NM_BINARY` names the binary; target/debug/neuralmesh by default.
"""

import contextlib
import http.client
import json
import math
import os
import secrets
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path

from checks import eventually

ROOT = Path(__file__).resolve().parents[2]
PREFIX = f"nmt-{os.getpid()}-{secrets.token_hex(2)}-"
"""What the names of this run's containers start with, so that it touches no other's."""


def binary():
    path = Path(os.environ.get("NM_BINARY", ROOT / "target/debug/neuralmesh"))
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; build it with: cargo build --bin neuralmesh")
    return str(path)


def socket_flag(arguments=()):
    """Where DOCKER_HOST names a socket, agents are told to use that engine, unless the arguments name another."""
    host = os.environ.get("DOCKER_HOST", "") if "--docker-socket" not in arguments else ""
    return ["--docker-socket", host.removeprefix("unix://")] if host.startswith("unix://") else []


def free_port():
    """Below the kernel's own range, from which another suite's connections take a port before ours is listened on."""
    while True:
        port = 12_000 + secrets.randbelow(18_000)
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port


class Unreachable(Exception):
    """No answer came: refused, reset or cut off. Whether the request was carried out is not known."""


class Reply:
    """An HTTP answer. `data` is the envelope's, `error` and `code` those of a failure."""

    def __init__(self, request, status, headers, raw):
        self.request, self.status, self.headers, self.raw = request, status, headers, raw

    @property
    def json(self):
        try:
            return json.loads(self.raw)
        except ValueError:
            raise AssertionError(f"not JSON: {self}") from None

    @property
    def data(self):
        assert self.json.get("success") is True and "data" in self.json, f"no data: {self}"
        return self.json["data"]

    @property
    def error(self):
        return self.json.get("error", "")

    @property
    def code(self):
        return self.json.get("code", "")

    def expect(self, *statuses):
        """Itself, when its status is one of these and the envelope is as it should be; AssertionError with the whole answer otherwise."""
        assert self.status in statuses, f"expected {' or '.join(map(str, statuses))}: {self}"
        if self.status < 400:
            assert self.status == 204 or self.json.get("success") is True, f"not the success envelope: {self}"
        else:
            body = self.json
            right = body.get("success") is False and body.get("error") and body.get("code") and body.get("requestId")
            assert right, f"not the failure envelope: {self}"
        return self

    def __str__(self):
        text = self.raw.decode(errors="replace")
        return f"{self.request} -> {self.status} {text[:1500]}"


_SAME = object()


class Client:
    """The API with one token. One connection a thread, kept open between calls."""

    def __init__(self, host, port, token=None):
        self.host, self.port, self.token = host, port, token
        self._local = threading.local()

    @classmethod
    def of_url(cls, url, token=None):
        parts = urllib.parse.urlsplit(url)
        return cls(parts.hostname, parts.port or 80, token)

    def request(self, method, path, body=None, *, raw=None, headers=None, token=_SAME, timeout=60, again=True):
        """Sends `body` as JSON, or `raw` bytes as they are. `token=None` leaves the header out. Raises Unreachable."""
        sent = dict(headers or {})
        if body is not None:
            raw = json.dumps(body).encode()
        if raw is not None:
            sent.setdefault("Content-Type", "application/json")
        token = self.token if token is _SAME else token
        if token:
            sent["Authorization"] = f"Bearer {token}"
        fresh = getattr(self._local, "connection", None) is None
        if fresh:
            self._local.connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        connection = self._local.connection
        try:
            if connection.sock is not None:
                connection.sock.settimeout(timeout)
            connection.request(method, path, raw, sent)
            response = connection.getresponse()
            return Reply(f"{method} {path}", response.status, response.headers, response.read())
        except (OSError, http.client.HTTPException) as e:
            connection.close()
            self._local.connection = None
            # A server may close an idle connection at any time. A read is safe to send again on a fresh one, and so is what could
            # not even be written whole: the server answered (401, say) and closed before it had the body.
            closed = isinstance(e, (http.client.RemoteDisconnected, ConnectionError))
            if again and closed and ((method == "GET" and not fresh) or isinstance(e, BrokenPipeError)):
                return self.request(method, path, raw=raw, headers=sent, token=token, timeout=timeout, again=False)
            raise Unreachable(f"{method} {path}: {type(e).__name__}: {e}") from e

    def get(self, path, **more):
        return self.request("GET", path, **more)

    def post(self, path, body=None, **more):
        return self.request("POST", path, body, **more)

    def patch(self, path, body=None, **more):
        return self.request("PATCH", path, body, **more)

    def delete(self, path, **more):
        return self.request("DELETE", path, **more)

    def every(self, path):
        """All rows of a list, page by page."""
        rows, cursor = [], None
        while True:
            query = {"limit": 200} | ({"cursor": cursor} if cursor else {})
            page = self.get(path + ("&" if "?" in path else "?") + urllib.parse.urlencode(query)).expect(200)
            rows += page.data
            cursor = page.json.get("nextCursor")
            if not cursor:
                return rows

    def container(self, reference):
        return self.get(f"/api/containers/{reference}").expect(200).data

    def until_status(self, reference, *statuses, seconds=15):
        """The container, once it has one of these statuses."""
        last = {}

        def seen():
            last.update(self.container(reference))
            return last["status"] in statuses

        eventually(seen, seconds, f"{reference} to be {' or '.join(statuses)}; it is {last.get('status')}")
        return last

    def remove(self, reference):
        """Running or not; gone already is fine."""
        self.delete(f"/api/containers/{reference}?force=true").expect(200, 204, 404)


class Process:
    """A program in a session of its own, its output in a file."""

    def __init__(self, name, arguments, log, env=None):
        self.name, self.arguments, self.log = name, [str(a) for a in arguments], Path(log)
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("NEURALMESH_")} | (env or {})
        self.popen = None

    @property
    def pid(self):
        return self.popen.pid

    def start(self):
        with self.log.open("ab") as out:
            self.popen = subprocess.Popen(
                self.arguments, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=self.env, start_new_session=True
            )
        return self

    def running(self):
        return self.popen is not None and self.popen.poll() is None

    def kill(self):
        """kill -9 of the one process, as a crash would."""
        self.popen.kill()
        self.popen.wait()

    def stop(self, seconds=30):
        """SIGTERM, its exit code; AssertionError when it has not ended by then."""
        if self.popen is None:
            return None
        self.popen.terminate()
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.sweep()
            raise AssertionError(f"{self.name} did not end within {seconds} s of SIGTERM\n{self.tail()}") from None

    def sweep(self):
        """Ends it and whatever it left in its session."""
        if self.popen is None:
            return
        try:
            os.killpg(self.popen.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.popen.wait()

    def tail(self, lines=25):
        if not self.log.exists():
            return ""
        return f"--- the last lines of {self.name}'s log\n" + "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def working_in(folder):
    """The numbers of the processes that name something in this folder: load balancers and what else goes on without its agent."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{folder}/".encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


class NeuralMesh:
    """`neuralmesh up` (or, with mode="server", the control plane alone) on free ports."""

    def __init__(self, mode="up", arguments=(), env=None):
        self._folder = tempfile.TemporaryDirectory(prefix="nm-e2e-", ignore_cleanup_errors=True)  # goes with this process
        self.dir = Path(self._folder.name)
        self.data_dir = self.dir / "data"
        self.port, self.agent_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = Process(
            "neuralmesh",
            [binary(), mode, "--data-dir", self.data_dir, "--listen", f"127.0.0.1:{self.port}"]
            + ["--agent-listen", f"127.0.0.1:{self.agent_port}", *(socket_flag(arguments) if mode == "up" else []), *arguments],
            self.dir / "log",
            env,
        )
        self.agents = []
        self.client = None

    def start(self, seconds=60):
        """Starts it and waits until it says it is ready."""
        self.process.start()
        self.until_ready(seconds)
        return self

    def until_ready(self, seconds=60):
        probe = Client("127.0.0.1", self.port)

        def ready():
            if not self.process.running():
                raise AssertionError(f"neuralmesh ended with {self.process.popen.returncode}\n{self.process.tail()}")
            try:
                return probe.get("/readyz", timeout=5).status == 200
            except Unreachable:
                return False

        try:
            eventually(ready, seconds, "/readyz to answer 200", every=0.02)
        except AssertionError as e:
            if self.process.running():
                e.add_note(self.process.tail())
            raise

    def password(self):
        return (self.data_dir / "initial-admin-password").read_text().strip()

    def login(self):
        """A client with the admin's token; also kept as `self.client`."""
        body = {"username": "admin", "password": self.password()}
        anonymous = Client("127.0.0.1", self.port)
        token = anonymous.post("/api/auth/login", body).expect(200).data["accessToken"]
        self.client = Client("127.0.0.1", self.port, token)
        return self.client

    def until_node_ready(self, seconds=30):
        """The first node that is ready, as the API shows it."""

        def look():
            return next((n for n in self.client.every("/api/nodes") if n["status"] == "ready"), None)

        return eventually(look, seconds, "a node to be ready")

    def up(self):
        """Started, logged in, its node ready: the client."""
        self.start()
        self.login()
        self.until_node_ready()
        return self.client

    def add_agent(self, arguments=()):
        """An agent of its own beside the control plane, joined by a token; the process, already started."""
        token = self.client.post("/api/nodes/join-tokens", {}).expect(200, 201).data["token"]
        index = len(self.agents)
        agent = Process(
            f"agent {index}",
            [binary(), "agent", "--server", f"https://127.0.0.1:{self.agent_port}", "--data-dir", self.dir / f"agent{index}"]
            + [*socket_flag(arguments), *arguments],
            self.dir / f"agent{index}.log",
            {"NEURALMESH_JOIN": token},
        ).start()
        self.agents.append(agent)
        return agent

    def close(self):
        """Ends every process and removes the data folder."""
        for process in [*self.agents, self.process]:
            process.sweep()
        for pid in working_in(self.dir):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._folder.cleanup()


def memory_mb(pid):
    """Resident memory of a process in MB (1,000,000 bytes), and the part of it that no file backs."""
    fields = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        key, _, value = line.partition(":")
        fields[key] = value.split()[0] if value.split() else ""
    return int(fields["VmRSS"]) * 1024 / 1e6, int(fields["RssAnon"]) * 1024 / 1e6


def stat_fields(pid):
    """What /proc/PID/stat says after the name: the state is the first."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def cpu_seconds(pid):
    """CPU time a process has used, in user and kernel mode together."""
    fields = stat_fields(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def median(values):
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def quantile(values, q):
    """The nearest-rank quantile: quantile(xs, 0.99) is the smallest value that 99% of xs do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * q) - 1)]


def timed(function, *args):
    started = time.perf_counter()
    result = function(*args)
    return time.perf_counter() - started, result
