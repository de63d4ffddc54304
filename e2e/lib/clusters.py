"""Clusters in the lab's fleet: servers that say who they are, clusters of them, and what the entry says.

    web = Web(fleet)
    web.server("a", "n1"); web.server("b", "n2")
    shop = web.cluster("shop", ["a", "b"], loadBalancer={"algorithm": "weighted"})
    shop.entry()                      # ("10.77.0.11", 30000)
"""

import http.client
import json
import sys
import time

from checks import eventually
from docker import SocketConnection
from load import Load
from nm import PREFIX

CLUSTERS = "/api/capabilities/clusters"
PAGE = "server {{ listen 80 backlog=4096; access_log off; keepalive_requests 1000000; location / {{ return 200 '{name}'; }} {more} }}"
MEMBER_METRICS = ("totalRequests", "averageResponseTime", "errorRate", "totalBandwidth")


def program(name, more=""):
    """nginx that answers everything with this name."""
    page = PAGE.format(name=name, more=more)
    return ["sh", "-c", f'echo "{page}" >/etc/nginx/conf.d/default.conf; exec nginx -g "daemon off;"']


class Web:
    """Containers that serve, by short names; on the engine their names begin with this run's prefix."""

    def __init__(self, fleet):
        self.fleet = fleet
        self.ids, self.nodes = {}, {}

    @property
    def client(self):
        return self.fleet.client

    def server(self, name, node, command=None, more="", **fields):
        """A container that answers with its name; its id."""
        body = {"name": PREFIX + name, "image": "nginx:latest", "command": command or program(name, more), "nodeId": node, "start": True}
        body |= {"ports": [{"container": 80, "host": 0}], "restart": "always", "stopGrace": 1} | fields
        self.ids[name] = self.client.post("/api/containers", body).expect(201).data["id"]
        self.nodes[name] = node
        return self.ids[name]

    def id(self, name):
        return self.ids.get(name, name)

    def name(self, member):
        return next((name for name, number in self.ids.items() if number == member), member)

    def remove(self, *names):
        for name in names:
            self.client.remove(self.ids.pop(name))

    def docker_kill(self, name):
        """Behind everybody's back, as a crash would; it does not come back."""
        engine = self.fleet.docker(self.nodes[name])
        engine.request("POST", f"/containers/{PREFIX}{name}/update", {"RestartPolicy": {"Name": "no"}})
        engine.request("POST", f"/containers/{PREFIX}{name}/kill?signal=KILL")

    def docker_start(self, name):
        self.fleet.docker(self.nodes[name]).start(PREFIX + name)

    def cluster(self, name, servers, wait=True, **fields):
        """One that is up, unless `wait` says that it need not be: each of `servers` a short name, or what the API takes."""
        body = {"name": PREFIX + name, "type": "load-balanced", "servers": [self.entry(s) for s in servers]} | fields
        cluster = Cluster(self, self.client.post(CLUSTERS, body).expect(201).data["id"])
        if wait:
            cluster.until_up()
        return cluster

    def entry(self, server):
        return self.id(server) if isinstance(server, str) else server | {"id": self.id(server["id"])}


class Cluster:
    def __init__(self, web, id):
        self.web, self.id, self.path = web, id, f"{CLUSTERS}/{id}"

    def look(self):
        return self.web.client.get(self.path).expect(200).data

    def patch(self, **change):
        return self.web.client.patch(self.path, change).expect(200).data

    def delete(self):
        self.web.client.delete(self.path).expect(200)

    def add(self, *servers):
        return self.web.client.post(f"{self.path}/servers", {"servers": [self.web.entry(s) for s in servers]}).expect(200).data

    def take(self, name):
        return self.web.client.delete(f"{self.path}/servers/{self.web.id(name)}").expect(200).data

    def events(self, *kinds):
        """Oldest first; all, or those of these kinds."""
        return [e for e in reversed(self.web.client.every(f"{self.path}/events")) if not kinds or e["kind"] in kinds]

    def metrics(self, query=""):
        return self.web.client.get(f"{self.path}/metrics{query}").expect(200).data

    def states(self):
        return {self.web.name(m["id"]): m["state"] for m in self.look()["members"]}

    def until(self, what, condition, seconds=30):
        """Its view, once the condition holds of it."""
        last = {}

        def so():
            last.update(self.look())
            return condition(last)

        try:
            eventually(so, seconds, what)
        except AssertionError as e:
            e.add_note(f"last seen: {last}")
            raise
        return last

    def until_up(self, seconds=30):
        def up(view):
            current = all(entry["current"] for entry in view["entryNodes"])
            return view["status"] == "healthy" and current and all(m["state"] == "up" for m in view["members"])

        return self.until("the cluster to be healthy", up, seconds)

    def entry(self, place=0):
        """Where traffic goes in: address and port."""
        view = self.look()
        host, _, port = view["endpoints"][place].rpartition("//")[2].rpartition(":")
        return host.strip("[]"), int(port)

    def load(self, **more):
        return Load(*self.entry(), **more)

    def settled(self, requests, seconds=15):
        """The metrics, once they have counted so many requests: they are looked at every few seconds."""
        last = {}

        def counted():
            last.update(self.metrics())
            return last["totalRequests"] >= requests

        try:
            eventually(counted, seconds, f"{requests} requests to be counted", every=0.2)
        except AssertionError as e:
            e.add_note(f"last seen: {last}")
            raise
        return last


def get(host, port, path="/", timeout=10, headers=None, method="GET", body=None):
    """Status, headers and body of one request, over a connection of its own."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode(errors="replace")
    finally:
        connection.close()


def edge(fleet, node):
    """What the node's load balancer says of itself, past agent and control plane; None while none answers."""
    connection = SocketConnection(str(fleet.dir / "nodes" / node / "neuralmesh/agent/edge/proxy.sock"))
    try:
        connection.request("GET", "/v1/status")
        return json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def shares(counts):
    """Each one's part of the whole, in percent."""
    whole = sum(counts.values())
    return {name: round(n * 100 / whole, 2) for name, n in sorted(counts.items())}


def since(began):
    return time.monotonic() - began


# What asks from many addresses of its own machine: each source's answers, as {source: [names]}.
ASK_FROM = """
import json, socket, sys
port, asks = int(sys.argv[1]), int(sys.argv[2])
found = {}
for source in sys.argv[3:]:
    for _ in range(asks):
        with socket.create_connection(("127.0.0.1", port), 10, (source, 0)) as s:
            s.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
            answer = b""
            while part := s.recv(4096):
                answer += part
        head, _, body = answer.partition(b"\\r\\n\\r\\n")
        assert b" 200 " in head.split(b"\\r\\n")[0], answer
        found.setdefault(source, []).append(body.decode())
print(json.dumps(found))
"""


def ask_from(fleet, node, port, sources, asks=1):
    """Asks the entry on this node from each of these addresses of 127.0.0.0/8: who answered each one."""
    code, said = fleet.run(node, sys.executable, "-c", ASK_FROM, port, asks, *sources, seconds=120)
    assert code == 0, said
    found = json.loads(said)
    for source, names in found.items():
        assert len(set(names)) == 1, f"{source} was answered by {names}"
    return {source: names[0] for source, names in found.items()}


# Servers that nginx can't be: each a program of perl that does one thing wrong.
PERL = """
use IO::Socket::INET; $SIG{CHLD} = "IGNORE"; $SIG{TERM} = sub { exit 0 };
my $listen = IO::Socket::INET->new(LocalPort => 80, Listen => 512, ReuseAddr => 1) or die;
while (1) {
    my $c = $listen->accept or next;
    if (fork) { close $c; next }
    while (1) {
        my $head = "";
        while ($head !~ /\\r\\n\\r\\n/) { sysread($c, my $part, 65536) or exit; $head .= $part }
        %s
    }
}
"""
SLOW = 'select undef, undef, undef, %s; syswrite $c, "HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s";'
HANGS = "sleep 3600;"
RESETS = "setsockopt $c, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0); close $c; exit;"
SAYS_MORE = 'syswrite $c, "HTTP/1.1 200 OK\\r\\nContent-Length: 1000\\r\\n\\r\\nliar"; close $c; exit;'
SAYS_LESS = 'syswrite $c, "HTTP/1.1 200 OK\\r\\nContent-Length: 4\\r\\n\\r\\nliarHTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\n\\r\\nworse";'


def perl(answer):
    return ["perl", "-e", PERL % answer]


def slow(name, seconds):
    return perl(SLOW % (seconds, len(name), name))
