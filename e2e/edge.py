#!/usr/bin/env python3
"""A node's load balancer beside its agent: a real agent, linked, and the processes it runs. Agents and load balancers are killed,
replaced and left alone under load; an address moves between two machines and back.

The control plane is a stand-in (crates/link/examples/stand_in.rs) that passes on what is asked of the agent. The machines of the
second part are network namespaces; that part needs root and keepalived.
"""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))
from checks import Suite, eventually
from load import Load
from member import member
from nm import ROOT, Process, binary, free_port, working_in

suite = Suite("edge")
FOLDER = tempfile.TemporaryDirectory(prefix="nm-edge-", ignore_cleanup_errors=True)
HERE = Path(FOLDER.name)


def stand_in():
    path = Path(os.environ.get("NM_STAND_IN", Path(binary()).parent / "examples/stand_in"))
    assert path.exists(), f"{path} is missing; build it with: cargo build -p nm-link --example stand_in"
    return str(path)


class Node:
    """A machine: an agent with its data folder, and a control plane's stand-in of its own. `netns` is where the agent runs."""

    def __init__(self, name, netns=None, program=None):
        self.name, self.dir = name, HERE / name
        self.dir.mkdir()
        self.program = program or binary()
        self.inside = ["ip", "netns", "exec", netns] if netns else []
        self.rights = []
        self.control = self.agent = None
        self.agents, self.api = free_port(), free_port()
        self.joined = False

    def start_control(self):
        arguments = [*self.inside, stand_in(), f"127.0.0.1:{self.agents}", f"127.0.0.1:{self.api}"]
        self.control = Process(f"{self.name}'s control plane", arguments, self.dir / "control.log").start()
        self.token = eventually(lambda: self.control.running() and (self.dir / "control.log").read_text().strip(), 20, "the stand-in listens")
        return self

    def start_agent(self, program=None):
        self.program = program or self.program
        server = f"https://127.0.0.1:{self.agents}"
        arguments = [*self.inside, *self.rights, self.program, "agent", "--server", server, "--data-dir", self.dir / "data", "--name", self.name]
        arguments += ["--docker-socket", self.dir / "no-docker.sock"]
        env = {} if self.joined else {"NEURALMESH_JOIN": self.token}
        self.agent = Process(f"{self.name}'s agent", arguments, self.dir / "agent.log", env).start()
        return self

    def up(self):
        self.start_control().start_agent()
        eventually(lambda: self.ask("GET", "/v1/edge")[0] == 200, 30, f"{self.name} is linked\n{self.agent.tail()}")
        self.joined = True
        return self

    def ask(self, method, path, body=None, seconds=60):
        """What its agent answers. Through `curl` where it is in a network of its own."""
        url = f"http://127.0.0.1:{self.api}{path}"
        if self.inside:
            data = ["--data-binary", "@-"] if body is not None else []
            command = [*self.inside, "curl", "-s", "-m", str(seconds), "-X", method, *data, "-w", "\n%{http_code}", url]
            done = subprocess.run(command, input=json.dumps(body) if body is not None else "", capture_output=True, text=True)
            text, _, code = done.stdout.rpartition("\n")
            return int(code or 0), json.loads(text) if text.startswith("{") else text
        connection = http.client.HTTPConnection("127.0.0.1", self.api, timeout=seconds)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None)
            answer = connection.getresponse()
            text = answer.read().decode()
            return answer.status, json.loads(text) if text.startswith("{") else text
        except OSError:
            return 0, "no connection"

    def put(self, document):
        status, answer = self.ask("PUT", "/v1/edge", document)
        assert status == 200, f"{status}: {answer}\n{self.agent.tail()}"
        return answer

    def state(self):
        status, answer = self.ask("GET", "/v1/edge")
        return answer if status == 200 else None

    def proxy(self):
        """What its load balancer says of itself, None while none answers."""
        return (self.state() or {}).get("proxy")

    def log(self, name):
        path = self.dir / "data/agent/edge" / name
        return f"--- {name} of {self.name}\n{path.read_text()[-3000:] if path.exists() else ''}"

    def processes(self):
        return working_in(self.dir)

    def power_off(self):
        """Everything of it ends at once, as with its machine."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.agent:
            self.agent.sweep()

    def close(self):
        self.power_off()
        if self.control:
            self.control.sweep()


PORT, MEMBERS = free_port(), [member(), member(), member()]
NODES = []


def document(generation, members=None, listeners=True, port=None, address="127.0.0.1", addresses=()):
    members = MEMBERS if members is None else members
    listener = {"id": "web", "address": address, "port": port or PORT, "protocol": "http", "routes": [{"cluster": "c"}]}
    cluster = {"id": "c", "members": [{"id": f"m{p}", "address": "127.0.0.1", "port": p} for p in members]}
    proxy = {"generation": generation, "listeners": [listener] if listeners else [], "clusters": [cluster]}
    return {"proxy": proxy, "virtualAddresses": list(addresses)}


def get(port=PORT):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/")
    return connection.getresponse().status


def carried(node, generation, not_by=None):
    """Its load balancer, once it carries that and nothing is wrong; another one than `not_by`."""

    def look():
        state = node.state() or {}
        proxy = state.get("proxy") or {}
        right = proxy.get("generation") == generation and not state.get("problem")
        return proxy if right and proxy["instance"] != not_by else None

    return eventually(look, 30, f"{node.name} carries {generation}: {node.state()}")


@suite.check("a document is carried, and refused when it is older or reads a file of the node")
def _():
    node = Node("first")
    NODES.append(node.up())
    assert node.state().get("generation") is None
    node.put(document(7))
    assert get() == 200
    status, answer = node.ask("PUT", "/v1/edge", document(6))
    assert status == 412 and answer["code"] == "stale", answer
    files = document(8)
    files["proxy"]["listeners"][0]["tls"] = {"certificates": [{"source": {"files": {"certificate": "/etc/hostname", "key": "/etc/shadow"}}}]}
    status, answer = node.ask("PUT", "/v1/edge", files)
    assert status == 403 and answer["code"] == "forbidden", answer
    carried(node, 7)


@suite.check("the agent is killed ten times under load, and once its control plane: no request fails, the load balancer is the same")
def _():
    node, load = NODES[0], Load("127.0.0.1", PORT, fresh=4)
    before = carried(node, 7)
    for _round in range(10):
        load.more(200)
        node.agent.kill()
        load.more(100)
        node.start_agent()
        after = carried(node, 7)
        assert (after["pid"], after["instance"]) == (before["pid"], before["instance"]), after
    node.control.kill()
    load.more(500)
    # An agent without a control plane finds its load balancer all the same.
    node.agent.kill()
    node.start_agent()
    load.more(500)
    assert after["pid"] in node.processes()
    print(f"    0 of {load.end()['done']} requests failed")


@suite.check("without a control plane and after the machine was off, the agent brings up what it held")
def _():
    node = NODES[0]
    node.power_off()
    assert not node.processes()
    began = time.monotonic()
    node.start_agent()

    def answers():
        with contextlib.suppress(OSError):
            return get() == 200

    eventually(answers, 30, f"traffic\n{node.agent.tail()}\n{node.log('proxy.log')}", every=0.02)
    print(f"    {time.monotonic() - began:.2f} s after the agent was started")
    # A stand-in that was started again knows nobody: the machine joins it anew.
    node.power_off()
    shutil.rmtree(node.dir / "data")
    node.joined = False
    (node.dir / "control.log").unlink()
    node.up().put(document(7))


@suite.check("a killed load balancer is back by itself")
def _():
    node = NODES[0]
    for _round in range(3):
        before, began = carried(node, 7), time.monotonic()
        os.kill(before["pid"], signal.SIGKILL)

        def answers():
            with contextlib.suppress(OSError):
                return get() == 200

        eventually(answers, 10, "traffic", every=0.01)
        took = time.monotonic() - began
        carried(node, 7, not_by=before["instance"])
    print(f"    {took:.2f} s until traffic flowed")


@suite.check("two hundred changes of members under load: no request fails")
def _():
    node, load = NODES[0], Load("127.0.0.1", PORT, fresh=4)
    for i in range(200):
        node.put(document(8 + i, members=[m for j, m in enumerate(MEMBERS) if j != i % 4]))
    load.more(200)
    print(f"    0 of {load.end()['done']} requests failed")


@suite.check("another version takes over under load: no request fails, no figure is lost")
def _():
    node = NODES[0]
    before = carried(node, 207)
    next_version = HERE / "neuralmesh-next"
    shutil.copy2(binary(), next_version)
    load = Load("127.0.0.1", PORT, fresh=4)
    load.more(500)
    node.agent.kill()
    node.start_agent(next_version)
    after = carried(node, 207, not_by=before["instance"])
    assert os.readlink(f"/proc/{after['pid']}/exe") == str(next_version)
    load.more(500)
    done = load.end()["done"]
    eventually(lambda: before["pid"] not in node.processes(), 60, "the old one has ended")
    figures = node.ask("GET", "/v1/edge/metrics")[1]
    counted = {m["instance"]: m["clusters"][0]["totals"]["requests"] for m in [figures, *figures["former"]]}
    assert set(counted) == {before["instance"], after["instance"]}, counted
    print(f"    0 of {done} requests failed; counted by the two: {counted[before['instance']]} and {counted[after['instance']]}")


@suite.check("events are waited for; without listeners the load balancer ends")
def _():
    node, dead, seen = NODES[0], free_port(), []
    instance = carried(node, 207)["instance"]

    def listen():
        after = 0
        while not any(e["member"] == f"m{dead}" for e in seen):
            status, told = node.ask("GET", f"/v1/edge/events?instance={instance}&after={after}")
            assert status == 200 and told["instance"] == instance, told
            after = told["last"]
            seen.extend(told["events"])

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    checked = document(208, members=[*MEMBERS, dead])
    checked["proxy"]["clusters"][0]["healthCheck"] = {"probe": {"type": "tcp"}, "intervalMs": 200, "timeoutMs": 100}
    node.put(checked)
    listener.join(40)
    assert not listener.is_alive() and seen[-1]["kind"] == "memberDown", seen
    pid = node.proxy()["pid"]
    assert node.put(document(209, listeners=False)).get("proxy") is None
    eventually(lambda: pid not in node.processes(), 40, "it has ended")
    node.agent.kill()
    node.start_agent()
    eventually(lambda: (node.state() or {}).get("generation") == 209, 20, "the agent is back")
    assert node.proxy() is None


# ---- an address that two machines share ---------------------------------------------------------------------------------

NET, SHARED, TAG = "10.213.77", "10.213.77.100", f"nme{os.getpid()}"
NET6, SHARED6 = "fd00:77:", "fd00:77::100"


def run(*command, check=True):
    done = subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0 or not check, f"{' '.join(map(str, command))}: {done.stderr}"
    return done.stdout


def network():
    """A switch, two machines and a client, each a network of its own."""
    for name in ("switch", "a", "b", "client"):
        run("ip", "netns", "add", f"{TAG}-{name}")
        run("ip", "-n", f"{TAG}-{name}", "link", "set", "lo", "up")
    run("ip", "-n", f"{TAG}-switch", "link", "add", "bridge", "type", "bridge", "forward_delay", "0")
    run("ip", "-n", f"{TAG}-switch", "link", "set", "bridge", "up")
    for i, name in enumerate(("a", "b", "client"), 1):
        run("ip", "-n", f"{TAG}-switch", "link", "add", f"to-{name}", "type", "veth", "peer", "name", "eth0", "netns", f"{TAG}-{name}")
        run("ip", "-n", f"{TAG}-switch", "link", "set", f"to-{name}", "master", "bridge", "up")
        run("ip", "-n", f"{TAG}-{name}", "address", "add", f"{NET}.{i}/24", "dev", "eth0")
        run("ip", "-n", f"{TAG}-{name}", "link", "set", "eth0", "up")
        run("ip", "-n", f"{TAG}-{name}", "address", "add", f"{NET6}:{i}/64", "dev", "eth0", "nodad")


def no_network():
    for name in ("switch", "a", "b", "client"):
        run("ip", "netns", "delete", f"{TAG}-{name}", check=False)


def unit_rights():
    """What systemd leaves of root's capabilities to an agent, and so to what it starts."""
    unit = (ROOT / "contrib/systemd/neuralmesh-agent.service").read_text()
    line = next(line for line in unit.splitlines() if line.startswith("CapabilityBoundingSet="))
    kept = [f"+{name.removeprefix('CAP_').lower()}" for name in line.split("=", 1)[1].split()]
    return ["setpriv", "--no-new-privs", "--bounding-set", ",".join(["-all", *kept])]


class Machine(Node):
    """A node that shares the address, with a server of its own behind it."""

    def __init__(self, name, peer, priority):
        super().__init__(name, netns=f"{TAG}-{name}")
        self.server, self.rights = None, unit_rights()
        self.shared = [
            {"address": SHARED, "prefix": 24, "routerId": 77, "priority": priority, "peers": [f"{NET}.{peer}"]},
            {"address": SHARED6, "prefix": 64, "routerId": 77, "priority": priority, "peers": [f"{NET6}:{peer}"]},
        ]
        self.generation = 0

    def boot(self):
        run("ip", "-n", f"{TAG}-{self.name}", "link", "set", "eth0", "up")
        # A cable that is pulled takes an interface's addresses of IPv6 along.
        own = 1 if self.name == "a" else 2
        run("ip", "-n", f"{TAG}-{self.name}", "address", "replace", f"{NET6}:{own}/64", "dev", "eth0", "nodad")
        self.server = Process(f"{self.name}'s server", [*self.inside, binary(), "hello", "--listen", "127.0.0.1:8081"], self.dir / "server.log").start()
        return self

    def carry(self, shared=True):
        self.generation += 1
        listener = {"id": "web", "address": SHARED, "port": 80, "protocol": "http", "routes": [{"cluster": "c"}]}
        wanted = document(self.generation, members=[8081], addresses=self.shared if shared else [])
        wanted["proxy"]["listeners"] = [listener if shared else listener | {"address": "0.0.0.0"}]
        return self.put(wanted)

    def holds(self):
        """As the kernel has it."""
        there = run("ip", "-n", f"{TAG}-{self.name}", "address", "show", "dev", "eth0")
        return f" {SHARED}/" in there and f" {SHARED6}/" in there

    def holds_none(self):
        there = run("ip", "-n", f"{TAG}-{self.name}", "address", "show", "dev", "eth0")
        return f" {SHARED}/" not in there and f" {SHARED6}/" not in there

    def keepalived(self):
        path = self.dir / "data/agent/edge/keepalived.pid"
        return int(path.read_text()) if path.exists() else None

    def close(self):
        super().close()
        if self.server:
            self.server.sweep()

    def crash(self):
        """Power off: what is left of it in its network goes, too."""
        run("ip", "-n", f"{TAG}-{self.name}", "link", "set", "eth0", "down")
        self.power_off()
        self.server.sweep()
        for shared in (f"{SHARED}/24", f"{SHARED6}/64"):
            run("ip", "-n", f"{TAG}-{self.name}", "address", "delete", shared, "dev", "eth0", check=False)


class Visitor:
    """A client of the address that asks again and again, each time over a new connection: when it was answered."""

    def __init__(self):
        code = (
            "import http.client, time\n"
            "while True:\n"
            "    try:\n"
            f"        c = http.client.HTTPConnection('{SHARED}', 80, timeout=0.3); c.request('GET', '/'); ok = c.getresponse().status == 200; c.close()\n"
            "    except (OSError, http.client.HTTPException):\n"
            "        ok = False\n"
            "    print(time.monotonic(), int(ok), flush=True)\n"
            "    time.sleep(0.02)\n"
        )
        self.log = HERE / "visitor.log"
        self.process = Process("visitor", ["ip", "netns", "exec", f"{TAG}-client", sys.executable, "-c", code], self.log).start()

    def close(self):
        self.process.sweep()

    def answers(self):
        rows = [line.split() for line in self.log.read_text().splitlines()]
        return [(float(at), ok == "1") for at, ok in (row for row in rows if len(row) == 2)]

    def until_answered(self, after, seconds=20):
        """The first answer later than that."""
        return eventually(lambda: next((at for at, ok in self.answers() if ok and at > after), None), seconds, "an answer")

    def gap(self, since):
        """The longest time without an answer since then, and how many requests failed."""
        self.until_answered(time.monotonic())
        rows = [(at, ok) for at, ok in self.answers() if at >= since]
        good = [since, *(at for at, ok in rows if ok)]
        return max(b - a for a, b in zip(good, good[1:])), sum(not ok for _, ok in rows)


A, B = Machine("a", 2, 150), Machine("b", 1, 100)
VISITORS = []


def moved(to, away, began, visitor, limit=5):
    """Waits until `to` has the address; says how long clients were without."""
    eventually(to.holds, 15, f"{to.name} has the address\n{to.state()}\n{to.log('keepalived.log')}\n{away.log('keepalived.log')}", every=0.02)
    gap, failed = visitor.gap(began)
    print(f"    {gap:.1f} s without an answer ({failed} tries)")
    assert gap <= limit, f"{gap:.1f} s"


@suite.check("two machines share an address: the first has it, and a listener on it")
def _():
    assert os.geteuid() == 0, "this needs root, for network namespaces"
    assert shutil.which("keepalived") or Path("/usr/sbin/keepalived").exists(), "install keepalived"
    network()
    for machine in (A, B):
        NODES.append(machine.boot().up())
        state = machine.carry()
        assert not state.get("problem"), f"{state}\n{machine.log('keepalived.log')}"
    eventually(lambda: A.holds() and B.holds_none(), 15, f"a has it\n{A.log('keepalived.log')}\n{B.log('keepalived.log')}")
    held = [m.state()["virtualAddresses"] for m in (A, B)]
    assert held == [[{"address": SHARED, "held": h}, {"address": SHARED6, "held": h}] for h in (True, False)], held
    assert (A.dir / "data/agent/edge/keepalived.conf").stat().st_mode & 0o777 == 0o600
    VISITORS.append(Visitor())
    VISITORS[0].until_answered(0)


@suite.check("both agents are killed and come back: nobody notices, keepalived is the same")
def _():
    began, before = time.monotonic(), (A.keepalived(), B.keepalived())
    for machine in (A, B):
        machine.agent.kill()
    eventually(lambda: len(VISITORS[0].answers()) > 100 and time.monotonic() > began + 3, 20, "three seconds of traffic")
    for machine in (A, B):
        machine.start_agent()
    for machine in (A, B):
        carried(machine, machine.generation)
    assert (A.keepalived(), B.keepalived()) == before
    assert A.holds() and B.holds_none()
    assert VISITORS[0].gap(began)[1] == 0, VISITORS[0].gap(began)


@suite.check("a load balancer that is killed is started again before its address moves")
def _():
    before, began = carried(A, A.generation), time.monotonic()
    os.kill(before["pid"], signal.SIGKILL)
    carried(A, A.generation, not_by=before["instance"])
    gap, failed = VISITORS[0].gap(began)
    print(f"    {gap:.1f} s without an answer ({failed} tries)")
    assert gap < 1 and A.holds() and B.holds_none()


@suite.check("a load balancer that dies and can't be started: the address goes to the other machine within 5 s, and back")
def _():
    # Without its agent nobody starts it.
    A.agent.kill()
    pid = next(p for p in A.processes() if b"--control-socket" in Path(f"/proc/{p}/cmdline").read_bytes())
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    moved(B, A, began, VISITORS[0])
    eventually(A.holds_none, 5, "a has it no more")
    began = time.monotonic()
    A.start_agent()
    moved(A, B, began, VISITORS[0])


@suite.check("a load balancer that hangs loses the address as one that is dead")
def _():
    pid, began = carried(A, A.generation)["pid"], time.monotonic()
    os.kill(pid, signal.SIGSTOP)
    moved(B, A, began, VISITORS[0], limit=6)
    os.kill(pid, signal.SIGCONT)
    eventually(A.holds, 15, "a has it again")


@suite.check("the first machine loses its power: the address moves within 5 s, and back once it runs again")
def _():
    began = time.monotonic()
    A.crash()
    moved(B, A, began, VISITORS[0])
    A.boot()
    began = time.monotonic()
    A.start_agent()
    moved(A, B, began, VISITORS[0])


@suite.check("keepalived is killed: it is back by itself")
def _():
    before = eventually(A.keepalived, 10, "keepalived runs")
    os.kill(before, signal.SIGKILL)
    eventually(lambda: A.keepalived() not in (None, before) and A.holds() and B.holds_none(), 20, f"it is back\n{A.log('keepalived.log')}")
    began = time.monotonic()
    VISITORS[0].until_answered(began)


@suite.check("a machine that is to share no address gives it away at once, and its keepalived ends")
def _():
    pid, began = A.keepalived(), time.monotonic()
    state = A.carry(shared=False)
    assert "virtualAddresses" not in state and not state.get("problem"), state
    eventually(A.holds_none, 5, "a has it no more")
    moved(B, A, began, VISITORS[0], limit=1.5)
    assert not Path(f"/proc/{pid}").exists()
    A.carry()
    eventually(A.holds, 15, "a has it again")


def sweep():
    for process in [*VISITORS, *NODES]:
        process.close()
    no_network()
    FOLDER.cleanup()


suite.on_exit(sweep)
suite.run()
