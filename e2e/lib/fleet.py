"""A whole fleet on this machine, by e2e/lab/fleet.sh: a control plane, and nodes with a Docker engine and an agent of their own.

    fleet = Fleet()
    suite.on_exit(fleet.close)
    client = fleet.up()                # n1, n2, n3: ready, labelled zone=a, b, c
    fleet.docker("n2").containers()    # what node n2 really has
    fleet.cut("n2"); fleet.heal("n2")
"""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from checks import eventually
from docker import LABEL, Docker
from nm import ROOT, Client, binary

SCRIPT = ROOT / "e2e/lab/fleet.sh"


class Fleet:
    """`node` in every call is a name: n1, n2, …"""

    def __init__(self, nodes=3):
        as_root()
        self.count = nodes
        self.id = int(os.environ.get("LAB_ID", "77"))
        self.dir = Path(os.environ.get("LAB_STATE", Path(tempfile.gettempdir()) / f"nmlab{self.id}"))
        self.host, self.port = f"10.{self.id}.0.1", 3001
        self.url, self.agents = f"http://{self.host}:{self.port}", f"https://{self.host}:7443"
        self.client = None
        self._up = False
        self._dockers = {}

    # ---- up and down -------------------------------------------------------------------------------------------------

    def up(self):
        """All nodes ready: the client, with an admin's token."""
        binary()  # or else nothing is begun
        self._up = True
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what is to be done on exit is done
        self.script("up", str(self.count), seconds=180)
        self.client = Client(self.host, self.port, (self.dir / "control/token").read_text().strip())
        return self.client

    def close(self):
        """Ends everything; AssertionError when anything of it is left on the machine."""
        if self._up:
            self._up = False
            self.script("down", seconds=120)
            assert not (left := self.left()), "the lab left behind: " + "; ".join(left)

    def left(self):
        """What there still is of the lab on this machine, in words."""
        found = [f"the folder {self.dir}"] if self.dir.exists() else []
        found += [f"the link {link}" for link in os.listdir("/sys/class/net") if link.startswith((f"labbr{self.id}", f"lab{self.id}-"))]
        found += [f"the cgroup {folder}" for folder in Path("/sys/fs/cgroup").glob(f"**/lab{self.id}")]
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        found += [f"the mount {line.split()[1]}" for line in mounts if str(self.dir) in line]
        for loop in Path("/sys/block").glob("loop*/loop/backing_file"):
            with contextlib.suppress(OSError):
                if str(self.dir) in loop.read_text():
                    found.append(f"the loop device {loop.parts[3]}")
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                arguments = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if f"{self.dir}/" in arguments:
                    found.append(f"process {folder.name}: {arguments[:100]}")
        return found

    def script(self, *arguments, seconds=60, check=True, env=None):
        """fleet.sh, or through it lab.sh: what it printed on stdout."""
        # Files, not pipes: what it starts and leaves running would hold a pipe open.
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            variables = os.environ | {"NM_BINARY": binary(), "LAB_ID": str(self.id), "FLEET_OWNER": str(os.getpid())} | (env or {})
            command = [str(SCRIPT), *map(str, arguments)]
            code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=variables, timeout=seconds).returncode
            out.seek(0), err.seek(0)
            text = out.read()
            assert code == 0 or not check, f"fleet.sh {' '.join(map(str, arguments[:3]))} ended with {code}\n{err.read()[-3000:]}{text[-1000:]}"
            return text

    def run(self, node, *command, seconds=60, env=None):
        """A program inside the node, to its end: its exit code and all it said."""
        place = ["nsenter", "-t", self._init(node), "-m", "-u", "-n", "-p", "--"]
        done = subprocess.run(
            [*place, *map(str, command)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=os.environ | (env or {}), timeout=seconds,
        )  # fmt: skip
        return done.returncode, done.stdout.decode(errors="replace")

    def spawn(self, node, *command):
        """A program inside the node, started: it ends with the node, or by kill() of what is given back."""
        place = ["nsenter", "-t", self._init(node), "-m", "-u", "-n", "-p", "--"]
        quiet = subprocess.DEVNULL
        return subprocess.Popen([*place, *map(str, command)], stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)

    def _init(self, node):
        return (self.dir / "nodes" / node / "init.pid").read_text().strip()

    # ---- looking -----------------------------------------------------------------------------------------------------

    def rows(self):
        """The nodes as the API shows them, by name."""
        return {row["name"]: row for row in self.client.every("/api/nodes")}

    def node(self, name):
        return self.client.get(f"/api/nodes/{name}").expect(200).data

    def status(self, node):
        return self.node(node)["status"]

    def until_status(self, node, status, seconds, began=None):
        """Waits for it, until so many seconds after `began` (now): how long it took."""
        began = time.monotonic() if began is None else began
        seconds -= time.monotonic() - began
        eventually(lambda: self.status(node) == status, seconds, f"{node} to be {status}")
        return time.monotonic() - began

    def until_all_ready(self, seconds=30):
        def ready():
            return all(row["status"] == "ready" for row in self.rows().values())

        eventually(ready, seconds, "every node to be ready", every=0.1)

    def docker(self, node):
        """The node's own engine, past NeuralMesh."""
        if node not in self._dockers:
            self._dockers[node] = Docker(str(self.dir / "nodes" / node / "run/docker.sock"))
        return self._dockers[node]

    def address(self, node):
        return f"10.{self.id}.0.{10 + int(node[1:])}"

    def log(self, node, lines=25):
        """The end of its agent's log; of the control plane's for `control`."""
        path = self.dir / ("control/log" if node == "control" else f"nodes/{node}/log/agent.log")
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

    def disagreements(self, *nodes):
        """Where the API and these nodes' engines (all of them, where none is named) differ over containers of ours, in words."""
        names = {row["id"]: name for name, row in self.rows().items()}
        listed = {}
        for row in self.client.every("/api/containers"):
            if row["managed"]:
                listed.setdefault(names.get(row["nodeId"]), {})[row["id"]] = (row["name"], row["status"] == "running")
        found, holders = [], {}
        for node in nodes or sorted(names.values()):
            real = {}
            for row in self.docker(node).containers(label=[LABEL]):
                container = row["Labels"][LABEL]
                name = row["Names"][0].lstrip("/")
                if container in real:
                    found.append(f"{node} has {name} twice")
                real[container] = (name, row["State"] == "running")
                holders.setdefault(container, []).append(node)
            for container in real.keys() | listed.get(node, {}).keys():
                told, is_there = listed.get(node, {}).get(container), real.get(container)
                if told != is_there:
                    found.append(f"of {container} on {node} the API has {told}, the engine {is_there} (name, running)")
        found += [f"{container} is on {' and '.join(at)}" for container, at in holders.items() if len(at) > 1]
        return found

    def until_agreed(self, *nodes, seconds):
        """Waits until the API and the engines have the same containers, each once, in the same state: how long it took."""
        began, last = time.monotonic(), []

        def agreed():
            last[:] = self.disagreements(*nodes)
            return not last

        try:
            eventually(agreed, seconds, "the API and the engines to agree", every=0.2)
        except AssertionError:
            raise AssertionError(f"after {seconds} s the API and the engines do not agree: " + "; ".join(last)) from None
        return time.monotonic() - began

    def starts(self, node):
        """When each running container of the node was started, by name, and how often Docker did it again."""
        rows = [self.docker(node).inspect(row["Id"]) for row in self.docker(node).containers(status=["running"])]
        return {row["Name"].lstrip("/"): (row["State"]["StartedAt"], row["RestartCount"]) for row in rows}

    def watch(self):
        """Follows every node's status from now on, to be used by `with`."""
        return NodeWatch(self)

    # ---- making and breaking -----------------------------------------------------------------------------------------

    def add(self, node):
        """One more server, without an agent."""
        self.script("boot", node)

    def service(self, node, name, *command, env=None):
        self.script("service", node, name, *command, env=env)

    def cut(self, node):
        """Pulls its cable."""
        self.script("cut", node)

    def heal(self, node):
        self.script("heal", node)

    def crash(self, node):
        """Powers it off: no program of it says goodbye."""
        self.script("crash", node)

    def boot(self, node):
        """Powers it on; its engine is started, and its agent, as its services."""
        self.script("boot", node)

    def loss(self, node, share):
        """Throws away this share of its packets each way; 0 ends it."""
        self.script("loss", node, share)

    def agent_pid(self, node):
        """As the node sees it; None while its supervisor waits to start it again."""
        pid = (self.dir / "nodes" / node / "run/svc-agent.child").read_text().strip()
        code, name = self.run(node, "cat", f"/proc/{pid}/comm")
        return pid if code == 0 and name.strip() == Path(binary()).name[:15] else None

    def kill_agent(self, node, lives=True):
        """kill -9, and back by its supervisor; one that ends at once, as it is refused, may never be seen to run (`lives=False`)."""
        before = eventually(lambda: self.agent_pid(node), 10, f"the agent of {node} to run")
        self.script("service-kill", node, "agent")
        if lives:
            eventually(lambda: self.agent_pid(node) not in (None, before), 10, f"the agent of {node} to run again")

    def kill_engine(self, node):
        """kill -9; only start_engine brings it back."""
        self.script("kill-engine", node)

    def start_engine(self, node):
        self.script("start-engine", node)

    def control(self, what):
        """start, stop or kill."""
        self.script("control", what)


class NodeWatch:
    """Every change of a node's status, from the stream of events: `(seconds since the start, node, status)`."""

    def __init__(self, fleet):
        self.fleet, self.changes, self.broken = fleet, [], None
        self._stop = threading.Event()
        self._last = {name: row["status"] for name, row in fleet.rows().items()}
        self._names = {row["id"]: name for name, row in fleet.rows().items()}
        self._began = time.monotonic()
        self._connection = http.client.HTTPConnection(fleet.host, fleet.port, timeout=30)  # a silent stream says so every ten
        self._connection.request("GET", "/api/events", headers={"Authorization": f"Bearer {fleet.client.token}"})
        self._stream = self._connection.getresponse()
        assert self._stream.status == 200, self._stream.read()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        with contextlib.suppress(OSError):
            self._connection.sock.shutdown(2)
        self._thread.join(30)
        self._connection.close()

    def _follow(self):
        try:
            for line in self._stream:
                if line.startswith(b"data: ") and not self._stop.is_set():
                    self._take(json.loads(line[6:]))
            if not self._stop.is_set():
                self.broken = "the stream of events ended by itself"
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as e:
            if not self._stop.is_set():
                self.broken = f"the stream of events broke: {type(e).__name__}: {e}"

    def _take(self, event):
        if event.get("kind") != "node" or "status" not in event:
            return
        name = self._names.get(event["id"], event["id"])
        if self._last.get(name) != event["status"]:
            self._last[name] = event["status"]
            self.changes.append((round(time.monotonic() - self._began, 1), name, event["status"]))

    def lost(self, *nodes):
        """Each time one of these (any, where none is named) was told not to be ready."""
        assert self.broken is None, self.broken
        return [(at, name) for at, name, status in self.changes if status == "notReady" and (not nodes or name in nodes)]


def as_root():
    """The lab needs root: run by another user, the program starts itself again by sudo."""
    if os.geteuid() != 0:
        kept = [f"{k}={v}" for k, v in os.environ.items() if k.startswith(("NM_", "LAB_", "ENGINE_", "FLEET_")) or k in ("PATH", "TMPDIR", "GOLDEN")]
        os.execvp("sudo", ["sudo", "env", *kept, "PYTHONDONTWRITEBYTECODE=1", sys.executable, *sys.argv])


def body(name, node=None, **fields):
    """A container that does nothing for an hour."""
    where = {} if node is None else {"nodeId": node}
    return {"name": name, "image": "busybox:latest", "command": ["sleep", "3600"], "start": True, "stopGrace": 0} | where | fields
