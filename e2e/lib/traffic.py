"""Clients that create and remove containers without pause, a book of what they were told, and a look at whether it holds.

Programs that break something while the clients work use it: at the end there must be no container in Docker that the API does
not list (orphan), none twice (duplicate), and nothing lost that was acknowledged: what answered 201 is there, what answered 200
to a removal is gone. What got no answer may have happened or not, but the API and Docker agree on it; sent again with its
Idempotency-Key, it happens once.
"""

import random
import threading

from checks import eventually
from nm import Client, Unreachable

IMAGE = "busybox:latest"
CLIENTS = 6
SETTLE_SECONDS = 30
LIVE_AT_MOST = 24
REQUEST_SECONDS = 60
NOTHING_DONE = ("node_offline", "operation_in_progress", "idempotency_in_progress", "in_progress")


class Book:
    """What the clients know: the last thing each container's client was told."""

    def __init__(self):
        self.lock = threading.Lock()
        self.ids = {}  # name -> id, of acknowledged creates
        self.present, self.absent, self.unknown = set(), set(), set()
        self.wrong = []  # answers that must not be
        self.answers = {"created": 0, "removed": 0, "cut off": 0, "sent again": 0, "busy": 0}

    def __str__(self):
        return ", ".join(f"{n} {what}" for what, n in self.answers.items()) + f", {len(self.present)} left"

    def count(self, what):
        with self.lock:
            self.answers[what] += 1

    def move(self, name, to):
        with self.lock:
            for group in (self.present, self.absent, self.unknown):
                group.discard(name)
            to.add(name)

    def take_present(self, dice):
        """One container for a client to remove: nobody else will."""
        with self.lock:
            if not self.present:
                return None
            name = dice.choice(sorted(self.present))
            self.present.discard(name)
            self.unknown.add(name)
            return name


class Traffic:
    def __init__(self, mesh, book, prefix, seed):
        self.mesh, self.book, self.prefix, self.seed = mesh, book, prefix, seed
        self.stop = threading.Event()
        self.in_flight = 0
        self.flying = threading.Condition()
        self.threads = [threading.Thread(target=self._client, args=(i,), daemon=True) for i in range(CLIENTS)]

    def start(self):
        for thread in self.threads:
            thread.start()

    def end(self):
        self.stop.set()
        for thread in self.threads:
            thread.join(REQUEST_SECONDS * 2)
            assert not thread.is_alive(), "a client is still waiting for an answer"

    def until_in_flight(self, seconds):
        with self.flying:
            assert self.flying.wait_for(lambda: self.in_flight > 0, seconds), f"no request was sent within {seconds} s"

    def _send(self, method, path, body=None, headers=None):
        with self.flying:
            self.in_flight += 1
            self.flying.notify_all()
        try:
            return self.mesh.client.request(method, path, body, headers=headers, timeout=REQUEST_SECONDS)
        finally:
            with self.flying:
                self.in_flight -= 1

    def _client(self, index):
        dice = random.Random(f"{self.seed}-{index}")
        made = 0
        while not self.stop.is_set():
            with self.book.lock:
                live = len(self.book.present)
            if live < LIVE_AT_MOST and (live < 4 or dice.random() < 0.55):
                made += 1
                self._create(f"{self.prefix}{index}-{made}", dice)
            else:
                name = self.book.take_present(dice)
                if name:
                    self._remove(name, dice)

    def _create(self, name, dice):
        body = {"name": name, "image": IMAGE, "command": ["sleep", "600"], "start": dice.random() < 0.5, "stopGrace": 0}
        self.book.move(name, self.book.unknown)
        reply, _ = self._until_answered("POST", "/api/containers", body, {"Idempotency-Key": name}, dice)
        if reply is None:
            return
        if reply.status == 201:
            self.book.ids[name] = reply.data["id"]
            self.book.move(name, self.book.present)
            self.book.count("created")
        else:
            self.book.wrong.append(str(reply))

    def _remove(self, name, dice):
        reply, tries = self._until_answered("DELETE", f"/api/containers/{self.book.ids[name]}?force=true", None, None, dice)
        if reply is None:
            return
        if reply.status == 200 or (reply.status == 404 and tries > 1):  # 404: an earlier try that got no word of its end did it
            self.book.move(name, self.book.absent)
            self.book.count("removed")
        else:
            self.book.wrong.append(str(reply))

    def _until_answered(self, method, path, body, headers, dice):
        """The answer and how often it was sent in earnest; no answer when it was cut off and this client does not ask again (every second one does)."""
        tries = 0
        while True:
            tries += 1
            try:
                reply = self._send(method, path, body, headers)
            except Unreachable:
                self.book.count("cut off")
                self._until_back()
                if dice.random() < 0.5 or self.stop.is_set():
                    return None, tries
                self.book.count("sent again")
                continue
            # 409 on a repeated key: the first try is still being carried out.
            if reply.status == 503 or reply.code in NOTHING_DONE:
                self.book.count("busy")
                if reply.code in NOTHING_DONE:
                    tries -= 1
                if self.stop.wait(0.1):
                    return None, tries
                continue
            return reply, tries

    def _until_back(self):
        probe = Client("127.0.0.1", self.mesh.port)
        while not self.stop.wait(0.02):
            try:
                if probe.get("/readyz", timeout=5).status == 200:
                    return
            except Unreachable:
                pass


def problems(mesh, book, prefix, docker):
    """What is not as it must be, in words; nothing when all is settled."""
    listed = {}
    for row in mesh.client.every("/api/containers"):
        if row["managed"] and row["name"].startswith(prefix):
            listed.setdefault(row["name"], []).append(row["id"])
    real = docker.managed(prefix)
    found = []
    for name in sorted(listed.keys() | real.keys() | book.present):
        ours, theirs = listed.get(name, []), real.get(name, [])
        if len(ours) > 1 or len(theirs) > 1:
            found.append(f"{name} is there twice: the API has {ours}, Docker has {theirs}")
        elif theirs and not ours:
            found.append(f"{name} is an orphan: Docker has {theirs}, the API does not list it")
        elif ours and not theirs:
            found.append(f"{name} is listed as {ours}, but Docker does not have it")
        elif ours != theirs:
            found.append(f"{name} has the id {ours} in the API and {theirs} in Docker")
        if name in book.present and (ours or theirs) and (ours or theirs) != [book.ids[name]]:
            found.append(f"{name} was acknowledged as {book.ids[name]}, and is now {ours or theirs}")
    for name in sorted(book.present - (listed.keys() & real.keys())):
        found.append(f"{name} was acknowledged and is lost")
    for name in sorted(book.absent & (listed.keys() | real.keys())):
        found.append(f"{name} was removed and is there again")
    return found


def settle(mesh, book, prefix, docker, seed):
    """Waits until all agree; AssertionError with every problem when they do not within 30 s, or when an answer was wrong."""
    last = []

    def settled():
        try:
            last[:] = problems(mesh, book, prefix, docker)
        except Unreachable:
            return False
        return not last

    try:
        eventually(settled, SETTLE_SECONDS, "the API and Docker to agree", every=0.2)
    except AssertionError:
        raise AssertionError(f"after {SETTLE_SECONDS} s (seed {seed}):\n" + "\n".join(last) + f"\n{mesh.process.tail()}") from None
    assert not book.wrong, f"{len(book.wrong)} answers that must not be, the first of them:\n" + "\n".join(book.wrong[:5])
