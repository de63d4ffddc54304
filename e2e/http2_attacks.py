#!/usr/bin/env python3
"""Attacks on HTTP/2 against `neuralmesh proxy` as a process: each costs the attacker's connection and nothing else.

While each attack runs, somebody else asks over HTTP/1.1 and must be answered as ever. What the proxy's process takes of memory and CPU is
read from the kernel. The attacks are those that had names: rapid reset (CVE-2023-44487), CONTINUATION flood (CVE-2024-27316 and others),
SETTINGS and PING floods (CVE-2019-9515, -9512), HPACK bomb (CVE-2016-6581), zero windows (CVE-2019-9517), empty frames (CVE-2019-9518),
self-made resets ("MadeYouReset", CVE-2025-8671).
"""

import http.client
import json
import select
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))
from checks import Suite, eventually
from nm import Process, binary, free_port, memory_mb

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS = 1, 4
ENHANCE_YOUR_CALM = 11
LARGE = 8 << 20
STALL_MS = 1500

suite = Suite("http2_attacks")
FOLDER = tempfile.TemporaryDirectory(prefix="nm-h2-attacks-")
PORT = free_port()


class Member(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen = 0
    writing = 0

    def do_GET(self):
        Member.seen += 1
        self.send_response(200)
        self.send_header("Content-Length", str(LARGE if self.path == "/large" else 2))
        self.end_headers()
        if self.path != "/large":
            self.wfile.write(b"ok")
            return
        Member.writing += 1
        try:
            self.wfile.write(b"x" * LARGE)
        except OSError:
            self.close_connection = True
        finally:
            Member.writing -= 1

    def log_message(self, *args):
        pass


class Listener(ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True

    def handle_error(self, *_):
        """The proxy cuts connections whose request was given up."""


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name, value, indexed=False):
    """A header without Huffman coding (RFC 7541, 6.2.1 and 6.2.2)."""

    def text(t):
        if len(t) < 127:
            return bytes([len(t)]) + t
        rest, out = len(t) - 127, [127]
        while rest >= 128:
            out.append(rest % 128 + 128)
            rest //= 128
        return bytes([*out, rest]) + t

    return bytes([0x40 if indexed else 0]) + text(name) + text(value)


def head(path="/", more=b""):
    # :method GET, :scheme http of the static table
    return b"\x82\x86" + literal(b":path", path.encode()) + literal(b":authority", b"a") + more


class Client:
    """An HTTP/2 connection that says what it likes."""

    def __init__(self, settings=b""):
        self.socket = socket.create_connection(("127.0.0.1", PORT), timeout=20)
        self.buffer, self.frames, self.closed = b"", [], False
        self.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, settings))

    def send(self, data):
        """Whether all of it could be sent; reads meanwhile, as not to be the one who blocks."""
        view = memoryview(data)
        self.socket.setblocking(False)
        deadline = time.monotonic() + 20
        while view and not self.closed:
            readable, writable, _ = select.select([self.socket], [self.socket], [], 1)
            if readable:
                self.read()
            if writable:
                try:
                    view = view[self.socket.send(view[: 1 << 18]) :]
                except BlockingIOError:
                    pass
                except OSError:
                    self.closed = True
            assert time.monotonic() < deadline, "the proxy neither takes it nor closes"
        return not self.closed

    def read(self):
        try:
            got = self.socket.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            got = b""
        self.closed = not got
        self.buffer += got
        while len(self.buffer) >= 9:
            length = int.from_bytes(self.buffer[:3], "big")
            if len(self.buffer) < 9 + length:
                break
            stream = int.from_bytes(self.buffer[5:9], "big")
            self.frames.append((self.buffer[3], self.buffer[4], stream, self.buffer[9 : 9 + length]))
            self.buffer = self.buffer[9 + length :]

    def until(self, what, condition, seconds=20):
        deadline = time.monotonic() + seconds
        self.socket.setblocking(False)
        while not condition():
            assert not self.closed, f"closed before {what}: {self.short()}"
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}: {self.short()}"
            if select.select([self.socket], [], [], 0.2)[0]:
                self.read()

    def ended(self, seconds=20):
        """Waits for the connection's end; the code of its GOAWAY, if one came."""
        deadline = time.monotonic() + seconds
        self.socket.setblocking(False)
        while not self.closed:
            assert time.monotonic() < deadline, f"it is still open: {self.short()}"
            if select.select([self.socket], [], [], 0.2)[0]:
                self.read()
        codes = [int.from_bytes(f[3][4:8], "big") for f in self.frames if f[0] == GOAWAY]
        return codes[-1] if codes else None

    def ping(self, payload=b"are you?"):
        self.send(frame(PING, 0, 0, payload))
        self.until("a ping's answer", lambda: any(f[0] == PING and f[1] == 1 and f[3] == payload for f in self.frames))

    def has(self, kind, stream):
        return [f for f in self.frames if f[0] == kind and f[2] == stream]

    def short(self):
        return [(f[0], f[1], f[2], f[3][:12]) for f in self.frames[-5:]]

    def close(self):
        self.socket.close()


class Bystander:
    """Somebody else, who asks again and again and wants to be answered in time: a process of its own, for the attacker is busy."""

    def __enter__(self):
        command = [sys.executable, __file__, "--bystander", str(PORT)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "asks\n"
        return self

    def __exit__(self, *_):
        out, _ = self.process.communicate(timeout=60)
        self.asked, self.worst, self.failures = json.loads(out)


def bystand(port):
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    asked, worst, failures = 0, 0, []
    while not ended.is_set() or asked < 20:
        began = time.monotonic()
        try:
            connection.request("GET", "/")
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                failures.append(answer.status)
        except (OSError, http.client.HTTPException) as e:
            failures.append(repr(e))
            connection.close()
        worst = max(worst, time.monotonic() - began)
        asked += 1
        if asked == 1:
            print("asks", flush=True)
    print(json.dumps([asked, worst, failures[:5]]))


def cpu_seconds(pid):
    return sum(int(f.read_text().split()[0]) for f in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def attack(run, memory=24, slowest=2.0, cpu=5.0):
    """Runs it beside a bystander; checks what it cost."""
    pid = RUNNING[0].pid
    before, cpu_before, peak = memory_mb(pid)[0], cpu_seconds(pid), 0
    done = threading.Event()

    def watch():
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, memory_mb(pid)[0])

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.monotonic()
    try:
        with Bystander() as bystander:
            run()
    finally:
        done.set()
        watcher.join()
    grown, spent, worst = peak - before, cpu_seconds(pid) - cpu_before, bystander.worst
    print(f"    {time.monotonic() - began:.1f} s, memory +{max(grown, 0):.1f} MB, CPU {spent:.2f} s, a bystander's {bystander.asked} requests: {worst * 1e3:.0f} ms at most")
    assert not bystander.failures, f"a bystander suffered: {bystander.failures}"
    assert grown < memory, f"the proxy grew by {grown:.1f} MB"
    assert worst < slowest, f"a bystander waited {worst:.2f} s"
    assert spent < cpu, f"the proxy spent {spent:.2f} s of CPU"


RUNNING = []


def start():
    member = Listener(("127.0.0.1", 0), Member)
    threading.Thread(target=member.serve_forever, daemon=True).start()
    listener = {"id": "web", "address": "127.0.0.1", "port": PORT, "protocol": "http", "routes": [{"cluster": "c"}]}
    listener["limits"] = {"bodyIdleTimeoutMs": STALL_MS}
    document = {
        "generation": 1,
        "listeners": [listener],
        "clusters": [{"id": "c", "members": [{"id": "m", "address": "127.0.0.1", "port": member.server_port}]}],
    }
    folder = Path(FOLDER.name)
    (folder / "proxy.json").write_text(json.dumps(document))
    command = [binary(), "proxy", "--config", folder / "proxy.json", "--control-socket", folder / "control.sock", "--workers", "1"]
    process = Process("proxy", command, folder / "log").start()
    RUNNING.append(process)
    suite.on_exit(FOLDER.cleanup)
    suite.on_exit(process.sweep)

    def answers():
        try:
            connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=5)
            connection.request("GET", "/")
            return connection.getresponse().status == 200
        except OSError:
            return False

    eventually(answers, seconds=20, what=f"the proxy answers\n{process.tail()}")


@suite.check("rapid reset: requests taken back at once end the connection, and few of them reach the member")
def _():
    before = Member.seen
    codes = []

    def run():
        for _round in range(5):
            client = Client()
            block = head("/rapid")
            both = b"".join(frame(HEADERS, 5, s, block) + frame(RST_STREAM, 0, s, b"\0\0\0\x08") for s in range(1, 40_000, 2))
            client.send(both)
            codes.append(client.ended())

    attack(run)
    reached = Member.seen - before
    print(f"    of 100,000 requests the member saw {reached} with the bystander's; GOAWAY {codes}")
    assert set(codes) <= {ENHANCE_YOUR_CALM, None}, codes


@suite.check("rapid reset, slowly: requests taken back once they have reached the member end the connection, too")
def _():
    def run():
        client = Client()
        for stream in range(1, 4_000, 2):
            if not client.send(frame(HEADERS, 5, stream, head("/large")) + frame(RST_STREAM, 0, stream, b"\0\0\0\x08") + frame(PING, 0, 0, b"%08d" % stream)):
                break
            if not client.closed:
                try:
                    client.until("the ping", lambda: any(f[0] in (PING, GOAWAY) for f in client.frames[-3:]), 5)
                except AssertionError:
                    break
            client.frames = [f for f in client.frames if f[0] == GOAWAY]
        code = client.ended()
        print(f"    ended at stream {stream} with GOAWAY {code}")
        assert stream < 1_000, stream

    attack(run)


@suite.check("self-made resets: a client that makes the proxy reset its streams is ended")
def _():
    def run():
        client = Client()
        # A window update of 0 is an error of the stream (RFC 9113, 6.9).
        client.send(b"".join(frame(HEADERS, 5, s, head()) + frame(WINDOW_UPDATE, 0, s, b"\0\0\0\0") for s in range(1, 40_000, 2)))
        client.ended()

    attack(run)


@suite.check("CONTINUATION flood: a head without an end ends the connection")
def _():
    def run():
        for piece in (b"", b"\x00\x01x\x01y" * 3_000):
            client = Client()
            client.send(frame(HEADERS, 1, 1, head()) + frame(CONTINUATION, 0, 1, piece) * 2_000)
            client.ended()

    attack(run)


@suite.check("SETTINGS, PING, PRIORITY and unknown frames by the hundred thousand, answers unread: memory stays as it is")
def _():
    def run():
        for flood in (frame(SETTINGS, 0, 0, b"\0\x03\0\0\0\x64"), frame(PING, 0, 0, b"\0" * 8), frame(2, 0, 1, b"\0\0\0\0\1"), frame(0x77, 0, 0, b"x")):
            client = Client()
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.socket.setblocking(False)
            view, deadline = memoryview(flood * 200_000), time.monotonic() + 3
            sent = 0
            # Not a byte is read: the proxy must stop reading, too, or close.
            while time.monotonic() < deadline:
                if select.select([], [client.socket], [], 0.1)[1]:
                    try:
                        at = sent % len(view)
                        sent += client.socket.send(view[at : at + (1 << 18)])
                    except OSError:
                        break
            told.append(f"{sent / 1e6:.1f} MB")
            client.close()

    told = []
    attack(run, cpu=15.0)
    print(f"    taken within 3 s, or until it stopped reading: {', '.join(told)}")


@suite.check("empty DATA frames without an end are not worked on for ever")
def _():
    def run():
        client = Client()
        client.send(frame(HEADERS, 4, 1, head()) + frame(DATA, 0, 1, b"") * 300_000)
        client.close()

    attack(run)


@suite.check("HPACK bomb: a small block that unpacks to 60 MB is refused, and unpacked no further than allowed")
def _():
    def run():
        for _round in range(20):
            client = Client()
            big = literal(b"x", b"y" * 4_000, indexed=True)
            client.send(frame(HEADERS, 5, 1, head("/bomb", big)))
            # Index 62 is the entry just made.
            client.send(frame(HEADERS, 5, 3, head("/bomb", b"\xbe" * 15_000)))
            client.until("an answer", lambda: client.has(HEADERS, 3) or client.has(RST_STREAM, 3) or client.has(GOAWAY, 0))
            client.close()

    attack(run)


@suite.check("a list of headers beyond the limit gets 431 or a reset; the connection goes on")
def _():
    def run():
        client = Client()
        block = head("/list", b"".join(literal(b"x-%d" % i, b"y" * 1_000) for i in range(20)))
        client.send(frame(HEADERS, 1, 1, block[:16_000]) + frame(CONTINUATION, 4, 1, block[16_000:]))
        client.until("a refusal", lambda: client.has(HEADERS, 1) or client.has(RST_STREAM, 1))
        client.send(frame(HEADERS, 5, 3, head()))
        client.until("an answer", lambda: client.has(HEADERS, 3))

    attack(run)


@suite.check("zero windows: answers that a client does not take are given up in time, and their members' connections with them")
def _():
    def run():
        # SETTINGS_INITIAL_WINDOW_SIZE 0
        clients = [Client(b"\0\x04\0\0\0\0") for _ in range(4)]
        for client in clients:
            client.send(b"".join(frame(HEADERS, 5, s, head("/large")) for s in range(1, 101, 2)))
        for client in clients:
            client.until("heads", lambda: client.has(HEADERS, 99))
        assert Member.writing > 0
        # One stream that goes on must not save the others.
        waiting = time.monotonic()
        keeps = 101
        while any(not client.has(RST_STREAM, 1) for client in clients):
            assert time.monotonic() - waiting < 20, f"the streams are still open: {clients[0].short()}"
            for client in clients:
                client.send(frame(HEADERS, 5, keeps, head()) + frame(WINDOW_UPDATE, 0, keeps, b"\0\0\0\x64"))
                client.until("the live one", lambda: client.has(DATA, keeps))
            keeps += 2
        for client in clients:
            client.until("all resets", lambda: all(client.has(RST_STREAM, s) for s in range(1, 101, 2)))
        eventually(lambda: Member.writing == 0, seconds=10, what="the member's connections are free")
        print(f"    200 streams were given up after {time.monotonic() - waiting:.1f} s; the limit is {STALL_MS / 1e3} s")

    attack(run, memory=60)


@suite.check("after all that the proxy is as it was")
def _():
    with Bystander() as bystander:
        client = Client()
        client.ping()
        client.close()
    assert not bystander.failures, bystander.failures
    grown = memory_mb(RUNNING[0].pid)[0]
    print(f"    {grown:.1f} MB")
    assert RUNNING[0].popen.poll() is None and grown < 100


if sys.argv[1:2] == ["--bystander"]:
    bystand(int(sys.argv[2]))
else:
    suite.run(setup=start)
