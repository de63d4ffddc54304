"""Database clusters in the lab: one that is made by the API, what asks it, and what writes into it and reads from it meanwhile, by the
stock `psql`.

    base = Base(fleet, "shop", servers=["n1", "n2", "n3"])
    base.until_well()
    with base.writer() as writer:                 # writes numbers, one transaction each, whatever happens
        ...
    writer.lost(base.write)                       # of those that were acknowledged
"""

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import threading
import time
from datetime import datetime, timezone

from checks import eventually
from clusters import CLUSTERS
from nm import PREFIX, ROOT

IMAGE = "neuralmesh/postgres-ha"
DOCUMENT = "NM_POSTGRES_SECRET"

TABLE = "CREATE TABLE writes (writer text, n bigint, at timestamptz DEFAULT clock_timestamp(), PRIMARY KEY (writer, n))"
TIMELINE = "('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int"
END = "--the-end--"
SILENCE_SECONDS = 3  # what has said nothing for so long is given up, as a client with a time-out would


def needs(*programs, packages="postgresql-client postgresql-contrib"):
    """Programs of this machine; PostgreSQL's own clients as a rule."""
    missing = [program for program in programs if not shutil.which(program)]
    if missing:
        sys.exit(f"{', '.join(missing)} missing; install with: apt-get install {packages}")


def built_image():
    """The image of members as this tree has it, made by e2e/images/build.sh; without it each node would build its own."""
    needs("psql")
    made = subprocess.run([str(ROOT / "e2e/images/build.sh"), "--list"], check=True, capture_output=True, text=True).stdout
    return next(line for line in made.split() if line.startswith(IMAGE))


class Broken(Exception):
    """The session is over."""


class Session:
    """One connection: a psql that is told statements and asked for rows."""

    def __init__(self, command, env=None, seconds=SILENCE_SECONDS):
        self._seconds, self._buffer = seconds, b""
        self.popen = subprocess.Popen(
            [*map(str, command), "-XqtA", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=terse"], env=os.environ | (env or {}),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def rows(self, sql, seconds=None):
        """The lines of its answer; Broken where it has none."""
        try:
            self.popen.stdin.write(f"{sql};\n\\echo {END}\n".encode())
            self.popen.stdin.flush()
        except OSError:
            raise Broken(self._rest()) from None
        deadline, found = time.monotonic() + (seconds or self._seconds), []
        while True:
            line, newline, rest = self._buffer.partition(b"\n")
            if newline:
                self._buffer = rest
                if line == END.encode():
                    return found
                found.append(line.decode(errors="replace"))
            elif not select.select([self.popen.stdout], [], [], max(0, deadline - time.monotonic()))[0]:
                raise Broken("no answer in time")
            elif not (more := os.read(self.popen.stdout.fileno(), 65536)):
                raise Broken(" ".join([*found, self._buffer.decode(errors="replace")]).strip() or "it ended")
            else:
                self._buffer += more

    def value(self, sql, seconds=None):
        rows = self.rows(sql, seconds)
        return rows[0] if rows else None

    def _rest(self):
        with contextlib.suppress(OSError):
            if select.select([self.popen.stdout], [], [], 0.2)[0]:
                self._buffer += os.read(self.popen.stdout.fileno(), 65536)
        return self._buffer.decode(errors="replace").strip() or "it ended"

    def close(self):
        self.popen.kill()
        self.popen.wait()
        for pipe in (self.popen.stdin, self.popen.stdout):
            with contextlib.suppress(OSError):
                pipe.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def psql(url, seconds=SILENCE_SECONDS, **env):
    """A session at a connection string."""
    return Session(["psql", url], {"PGCONNECT_TIMEOUT": "2"} | env, seconds)


def once(open_session, sql, seconds=10):
    """One statement in a session of its own: its rows."""
    with open_session() as session:
        return session.rows(sql, seconds)


class Client:
    """Works over one session after another, for as long as the block of `with` lasts."""

    def __init__(self, open_session, name, pause, again):
        self.open_session, self.name, self.pause, self.again = open_session, name, pause, again
        self.failures = []  # when it was begun, when it failed, and why
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        self._stop.set()
        self._thread.join(30)

    def _work(self):
        session = None
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                session = session or self.open_session()
                session = self.turn(session, began)
                self._stop.wait(self.pause)
            except Broken as e:
                self.failures.append((began, time.monotonic(), str(e)))
                if session:
                    session.close()
                session = None
                self._stop.wait(self.again)
        if session:
            session.close()


class Writer(Client):
    """Writes numbers, each in a transaction of its own.

    `acks` has of each that was acknowledged: when it was begun, when it was acknowledged, its number, and the timeline it went to."""

    def __init__(self, open_session, name="writer", pause=0.02, again=0.1):
        super().__init__(open_session, name, pause, again)
        self.acks, self._number = [], 0

    def turn(self, session, began):
        self._number += 1
        timeline = session.value(f"INSERT INTO writes (writer, n) VALUES ('{self.name}', {self._number}) RETURNING {TIMELINE}")
        if not (timeline or "").isdigit():
            raise Broken(timeline)
        self.acks.append((began, time.monotonic(), self._number, int(timeline)))
        return session

    def until_written(self, more=10, seconds=30):
        """Waits until so many more are acknowledged."""
        goal = len(self.acks) + more
        eventually(lambda: len(self.acks) >= goal, seconds, f"{self.name} to have {more} more writes acknowledged")

    def until_back(self, moment, timeline, seconds):
        """Waits until a write is acknowledged on a later timeline: how many seconds after that moment that was."""

        def later():
            return next((ack for ack in reversed(self.acks) if ack[3] > timeline), None)

        eventually(later, seconds - (time.monotonic() - moment), f"{self.name} to have a write acknowledged by a new primary")
        return next(acked for _, acked, _, at in list(self.acks) if at > timeline) - moment

    def longest_pause(self, moment):
        """Between two writes that were acknowledged since then, in seconds."""
        times = [moment, *(acked for _, acked, *_ in list(self.acks) if acked > moment)]
        return max((later - earlier for earlier, later in zip(times, times[1:])), default=0)

    def lost(self, open_session):
        """Numbers that were acknowledged and are not there."""
        there = {int(row) for row in once(open_session, f"SELECT n FROM writes WHERE writer = '{self.name}'", 60)}
        return sorted({number for _, _, number, _ in list(self.acks)} - there)


class Reader(Client):
    """Asks, each time over a connection of its own, how far a writer's numbers are: how old is what it is shown?

    What was acknowledged a second before the answer and is not shown makes it a second old. `ages` has when each read began, and that
    age."""

    def __init__(self, open_session, writer, pause=0.1, again=0.1):
        super().__init__(open_session, f"reader of {writer.name}", pause, again)
        self.writer, self.ages, self.replicas = writer, [], 0

    def turn(self, session, began):
        asked = f"SELECT pg_is_in_recovery(), coalesce(max(n), 0) FROM writes WHERE writer = '{self.writer.name}'"
        replica, _, number = (session.value(asked) or "").partition("|")
        if not number.isdigit():
            raise Broken(replica)
        shown = time.monotonic()
        # Numbers grow: the first that was acknowledged and is not shown tells since when this is not all.
        missed = next((acked for _, acked, n, _ in list(self.writer.acks) if n > int(number)), shown)
        self.ages.append((began, max(0.0, shown - missed)))
        self.replicas += replica == "t"
        session.close()
        return None

    def oldest(self, since=0.0):
        return max((age for began, age in list(self.ages) if began >= since), default=0.0)


def overlaps(writers):
    """Where two primaries took writes at one time, in words: what was begun on a timeline after the next one had acknowledged."""
    reigns = {}
    for writer in writers:
        for began, acked, _, timeline in list(writer.acks):
            first, last = reigns.get(timeline, (acked, began))
            reigns[timeline] = (min(first, acked), max(last, began))
    found = []
    ordered = sorted(reigns)
    for earlier, later in zip(ordered, ordered[1:]):
        if reigns[earlier][1] > reigns[later][0]:
            found.append(f"timeline {earlier} took writes for {reigns[earlier][1] - reigns[later][0]:.2f} s after timeline {later} had")
    return found


class Base:
    """A database cluster of the lab's fleet; `name` in calls is a node's."""

    def __init__(self, fleet, name, servers=("n1", "n2", "n3"), load_balancer=None, **database):
        self.fleet = fleet
        body = {"name": PREFIX + name, "type": "database", "servers": list(servers), "database": {"name": "shop"} | database}
        body |= {"loadBalancer": load_balancer} if load_balancer else {}
        self.made = fleet.client.post(CLUSTERS, body).expect(201)
        self._know(self.made.data["id"])

    @classmethod
    def of(cls, fleet, key):
        """One that is there, by its id or name."""
        base = cls.__new__(cls)
        base.fleet = fleet
        base._know(fleet.client.get(f"{CLUSTERS}/{key}").expect(200).data["id"])
        return base

    def _know(self, cluster):
        self.id = cluster
        self.path = f"{CLUSTERS}/{self.id}"
        self._names = {row["id"]: name for name, row in self.fleet.rows().items()}
        self._credentials = None

    # ---- looking -----------------------------------------------------------------------------------------------------

    def look(self):
        return self.fleet.client.get(self.path).expect(200).data

    def database(self):
        return self.look()["database"]

    def until(self, what, condition, seconds=60):
        """What is told of the database, once the condition holds of it."""
        last = {}

        def so():
            last.clear()
            last.update(self.database())
            return condition(last)

        try:
            eventually(so, seconds, what, every=0.2)
        except AssertionError as e:
            e.add_note(f"last seen: {json.dumps(last)}")
            raise
        return last

    def until_well(self, seconds=90, replicas=2, after=0):
        """As it is seen from now on: a primary, of a timeline after that one, all replicas streaming on its timeline, one of them
        synchronous where that is asked for, nothing under way."""
        began = datetime.now(timezone.utc)

        def well(view):
            if "seen" not in view or datetime.fromisoformat(view["seen"].replace("Z", "+00:00")) < began or view.get("timeline", 0) <= after:
                return False
            members = view["members"]
            following = [m for m in members if m.get("role") != "primary"]
            streaming = all(m["state"] == "streaming" and m.get("timeline") == view.get("timeline") for m in following)
            safe = not view["synchronous"] or not following or any(m.get("role") == "sync-standby" for m in following)
            quiet = not any(m["pendingRestart"] for m in members)
            return view["state"] == "ready" and view.get("primary") and len(following) == replicas and streaming and safe and quiet

        return self.until("the database to be well", well, seconds)

    def name(self, node_id):
        return self._names[node_id]

    def primary(self):
        return self.name(self.database()["primary"])

    def members(self):
        return {self.name(m["server"]): m for m in self.database()["members"]}

    def events(self):
        """Oldest first."""
        return list(reversed(self.fleet.client.every(f"{self.path}/events")))

    def credentials(self):
        if self._credentials is None:
            self._credentials = self.fleet.client.get(f"{self.path}/database/credentials").expect(200).data
            self.authority = self.fleet.dir / f"{self.id}.pem"
            self.authority.write_text(self._credentials["certificateAuthority"])
        return self._credentials

    # ---- asking ------------------------------------------------------------------------------------------------------

    def _psql(self, url, seconds):
        return psql(url, seconds, PGSSLROOTCERT=str(self.authority))

    def write(self, seconds=SILENCE_SECONDS):
        """A session at the read-write port, as the application."""
        return self._psql(self.credentials()["readWrite"], seconds)

    def read(self, seconds=SILENCE_SECONDS):
        return self._psql(self.credentials()["readOnly"], seconds)

    def direct(self, seconds=SILENCE_SECONDS):
        """At the member that takes writes, which libpq finds itself."""
        return self._psql(self.credentials()["direct"], seconds)

    def admin(self, seconds=SILENCE_SECONDS):
        """At the read-write port, as the admin."""
        login, application = self.credentials()["admin"], self._credentials["application"]
        known = (f"{application['user']}:{application['password']}@", f"{login['user']}:{login['password']}@")
        return self._psql(self._credentials["readWrite"].replace(*known), seconds)

    def writer(self, **more):
        return Writer(self.write, **more)

    def prober(self, node, name):
        """A writer at that member itself, which has no answer for as long as it is no primary."""
        return Writer(self.local(node), name, pause=0.1, again=0.5)

    # ---- past NeuralMesh ---------------------------------------------------------------------------------------------

    def container(self, node):
        """Docker's inspection of the member on this node."""
        return self.fleet.docker(node).of(self.members()[node]["containerId"])

    def document(self, node):
        """What the member was told; holds secrets."""
        variables = dict(word.split("=", 1) for word in self.container(node)["Config"]["Env"])
        return json.loads(variables[DOCUMENT])

    def local(self, node):
        """What opens sessions at that member itself, whatever becomes of its node's network."""
        engine, container = self.fleet.dir / "nodes" / node / "run/docker.sock", self.container(node)["Id"]
        document = self.document(node)
        sign_in, port = f"app:{document['passwords']['application']}", document["ports"]["postgres"]
        url = f"postgresql://{sign_in}@127.0.0.1:{port}/shop?sslmode=require&connect_timeout=2"
        return lambda: Session(["docker", "-H", f"unix://{engine}", "exec", "-i", container, "psql", url])

    def processes(self, node, what):
        """Numbers, as the node sees them, of the member's processes whose command has this in it."""
        rows = self.fleet.docker(node).request("GET", f"/containers/{self.container(node)['Id']}/top?ps_args=-eo%20pid,args")
        return [row[0] for row in rows["Processes"] if what in row[1]]

    def signal(self, node, name, *numbers):
        code, said = self.fleet.run(node, "kill", f"-{name}", *numbers)
        assert code == 0, said

    def kill_postgres(self, node):
        self.signal(node, "KILL", *self.processes(node, "bin/postgres -D"))

    def kill_container(self, node):
        """All of it at once, as a crash would; its engine starts it again."""
        self.signal(node, "KILL", self.container(node)["State"]["Pid"])

    def delete(self):
        self.fleet.client.delete(self.path).expect(200)

    @contextlib.contextmanager
    def deleted(self):
        """It is deleted in the end. What happened to it is told where the block fails."""
        try:
            yield self
        except Exception as e:
            e.add_note("\n".join(f"{event['at']} {event['kind']}: {event['reason']}" for event in self.events()))
            raise
        finally:
            self.delete()
