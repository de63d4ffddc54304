"""HTTP requests at a constant rate, evenly spaced, with latency counted from the moment each was due.

A load generator that waits for an answer before it sends the next request hides every stall of the server (coordinated
omission), and one that lets all its connections fire together measures its own bursts. Here a request is sent when it is due,
on any idle connection, and on a new one where none is idle.
"""

import gc
import select
import socket
import time
from dataclasses import dataclass, field

CONNECTIONS_AT_MOST = 256
ANSWER_WITHIN = 10.0


@dataclass
class Seen:
    """`latency` in milliseconds from due to the answer's last byte; `late` how long after it was due a request was sent."""

    latency: list = field(default_factory=list)
    late: list = field(default_factory=list)
    statuses: dict = field(default_factory=dict)
    connections: int = 0
    seconds: float = 0.0

    def failed(self):
        return sum(n for status, n in self.statuses.items() if status != 200)


class _Connection:
    def __init__(self, address):
        self.socket = socket.create_connection(address, timeout=ANSWER_WITHIN)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.due = 0.0
        self.buffer = bytearray()
        self.end = None  # length of the whole answer, once its head is there
        self.status = 0

    def fileno(self):
        return self.socket.fileno()

    def send(self, request, due):
        self.due, self.end = due, None
        self.buffer.clear()
        self.socket.send(request)  # a small request into an idle connection's empty buffer goes in whole

    def receive(self):
        """True when the answer is complete. ConnectionError when it will never be."""
        chunk = self.socket.recv(262_144)
        if not chunk:
            raise ConnectionResetError("closed in the middle of an answer")
        self.buffer += chunk
        if self.end is None:
            head = self.buffer.find(b"\r\n\r\n")
            if head < 0:
                return False
            self.status = int(self.buffer[9:12])
            lines = bytes(self.buffer[:head]).lower().split(b"\r\n")
            length = next((line for line in lines if line.startswith(b"content-length:")), None)
            if length is None:
                raise ConnectionError("an answer without Content-Length; this client reads no other")
            self.end = head + 4 + int(length.split(b":")[1])
        return len(self.buffer) >= self.end


def constant_rate(host, port, path, token, rate, seconds, warm_up=2.0):
    """Sends for `warm_up` + `seconds`; what was due in the warm-up is not counted."""
    request = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    seen, idle, busy = Seen(), [], set()
    began = time.perf_counter() + 0.1
    counted_from = began + warm_up
    due_times = (began + i / rate for i in range(int((warm_up + seconds) * rate)))
    due = next(due_times)
    gc.disable()
    try:
        while due is not None or busy:
            now = time.perf_counter()
            while due is not None and now >= due:
                if not idle and len(busy) >= CONNECTIONS_AT_MOST:
                    break
                connection = idle.pop() if idle else _Connection((host, port))
                busy.add(connection)
                connection.send(request, due)
                now = time.perf_counter()
                if due >= counted_from:
                    seen.late.append((now - due) * 1e3)
                seen.connections = max(seen.connections, len(busy))
                due = next(due_times, None)
            wait = ANSWER_WITHIN if due is None else max(0.0, due - now)
            ready, _, _ = select.select(busy, (), (), wait)
            if due is None and not ready:
                break
            for connection in ready:
                try:
                    complete = connection.receive()
                except BlockingIOError:
                    continue
                except OSError as e:
                    busy.discard(connection)
                    connection.socket.close()
                    _count(seen, type(e).__name__, connection, counted_from)
                    continue
                if complete:
                    busy.discard(connection)
                    idle.append(connection)
                    _count(seen, connection.status, connection, counted_from)
        for connection in busy:
            _count(seen, "no answer", connection, counted_from)
    finally:
        gc.enable()
        for connection in [*idle, *busy]:
            connection.socket.close()
    seen.seconds = seconds
    return seen


def _count(seen, status, connection, counted_from):
    if connection.due >= counted_from:
        seen.statuses[status] = seen.statuses.get(status, 0) + 1
        seen.latency.append((time.perf_counter() - connection.due) * 1e3)
