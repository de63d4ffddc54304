"""Everything a member runs, in the order in which it starts and ends: etcd, pgbouncer and Patroni, with the watchdog and the check server."""

import contextlib
import http.server
import json
import os
import platform
import pwd
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nm_archive
import nm_restore
import psycopg2
from nm_common import ARCHIVE, BIN, DATA, FIFO, RUN, SOCKETS, Refused, connect, connect_local, one_row, position, say
from nm_document import Document
from nm_etcd import TROUBLE, Etcd, ask

CHECK_SECONDS = 0.7  # of the second within which a check is answered
CHECK_MARGIN = 3.0  # a balancer goes on for so long after its last good check
PATRONI_SECONDS = 2  # for which its last answer holds while it gives none
SILENCE_SECONDS = 30  # of Patroni, before it is taken to hang
STOP_SECONDS = 25  # for PostgreSQL's own orderly end


def become_postgres():
    user = pwd.getpwnam("postgres")
    os.initgroups("postgres", user.pw_gid)
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    os.umask(0o077)
    os.environ |= {"HOME": str(RUN), "USER": "postgres", "LOGNAME": "postgres"}


def prepare():
    """As root: folders, files, and on as the user postgres, with no secret in the environment."""
    told = os.environ.pop("NM_POSTGRES_SECRET", None)
    if told is None:
        raise Refused("NM_POSTGRES_SECRET is missing: it is to hold the document that says what this member runs.")
    try:
        document = Document(json.loads(told))
    except (ValueError, KeyError, TypeError) as e:
        raise Refused(f"NM_POSTGRES_SECRET can't be understood: {type(e).__name__} {e}.") from None
    document.check()
    user = pwd.getpwnam("postgres")
    for folder in (RUN, DATA, ARCHIVE, Path(SOCKETS)):
        folder.mkdir(parents=True, exist_ok=True)
        os.chown(folder, user.pw_uid, user.pw_gid)
    for folder in (RUN, DATA, ARCHIVE):
        folder.chmod(0o700)
    for path in ARCHIVE.rglob("*"):  # what is to be restored was put there by somebody else
        os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)
    become_postgres()
    document.write()
    # A fresh program: what this one began with can be read in /proc.
    os.execv(sys.executable, [sys.executable, sys.argv[0], "supervise"])


class Program:
    """A program that is started again when it ends, later each time, until `stop`."""

    def __init__(self, name, command, before=None, environment=None):
        self.name, self.command, self.before, self.environment = name, command, before, environment
        self.popen, self._stopping, self._lock = None, threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._keep, name=name, daemon=True)

    def start(self):
        self._thread.start()

    def _keep(self):
        pause = 0.5
        while not self._stopping.is_set():
            if self.before and not self.before(self._stopping):
                continue
            with self._lock:
                if self._stopping.is_set():
                    return
                began = time.monotonic()
                self.popen = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, env=os.environ | (self.environment or {}), start_new_session=True)
            code = self.popen.wait()
            if self._stopping.is_set():
                return
            pause = 0.5 if time.monotonic() - began > 60 else min(pause * 2, 10)
            say(f"{self.name} ended with {code}; it is started again in {pause:.0f} s")
            self._stopping.wait(pause)

    def kill(self):
        """As a crash would, with what it has started (a copy that is under way, say; not PostgreSQL, which has a session of its own):
        it is started again."""
        with contextlib.suppress(OSError, AttributeError):
            os.killpg(self.popen.pid, signal.SIGKILL)

    def stop(self, seconds, signal_number=signal.SIGTERM):
        self._stopping.set()
        with self._lock:
            running = self.popen
        if running is None or running.poll() is not None:
            return
        running.send_signal(signal_number)
        try:
            running.wait(seconds)
        except subprocess.TimeoutExpired:
            say(f"{self.name} has not ended within {seconds} s, and is killed")
            running.kill()
            running.wait()


def kill_postgres():
    """At once, all of it: the postmaster first, so that it starts nothing more."""
    postmaster = None
    with contextlib.suppress(OSError, ValueError, IndexError):
        postmaster = int((DATA / "data/postmaster.pid").read_text().split()[0])
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(entry / "exe").startswith(f"{BIN}/postgres"):
                found.append(int(entry.name))
    for pid in sorted(found, key=lambda pid: pid != postmaster):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    return len(found)


class Watchdog:
    """The device that Patroni's watchdog writes to, as a pipe: "Ctimeout=6", then "1" for each renewal of the lease, "V" once there is no
    need of it. In time no renewal: PostgreSQL is killed, and Patroni, which hangs."""

    def __init__(self, patroni, local):
        self.patroni, self.local, self.timeout, self.deadline = patroni, local, None, None
        FIFO.unlink(missing_ok=True)
        os.mkfifo(FIFO, 0o600)
        self._pipe = os.open(FIFO, os.O_RDWR | os.O_NONBLOCK)  # for writing too: then it never ends, whoever closes it
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def _watch(self):
        while True:
            left = None if self.deadline is None else max(0, self.deadline - time.monotonic())
            readable = select.select([self._pipe], [], [], left)[0]
            told = os.read(self._pipe, 4096).decode(errors="replace") if readable else ""
            # Late is late, whatever Patroni says by now: where all of this stood still, others have gone on.
            if self.deadline is not None and time.monotonic() >= self.deadline:
                self.deadline = None
                if self.local.fresh() and self.local.replica:
                    continue  # a Patroni that was killed could not say so, and its successor has made a replica of it
                count = kill_postgres()
                self.patroni.kill()
                say(f"Patroni has not renewed the primary's lease for {self.timeout} s: PostgreSQL is killed ({count} processes)")
            else:
                self._read(told)

    def _read(self, told):
        for word in re.findall(r"Ctimeout=\d+|1|V", told):
            if word.startswith("C"):
                self.timeout = int(word.partition("=")[2])
            self.deadline = None if word == "V" or self.timeout is None else time.monotonic() + self.timeout


class Local:
    """This member's PostgreSQL, looked at twice a second: what it is, and how old the data is that it shows.

    A replica's age: whom it streams from is asked once a second how far its log is. The newest of these moments whose place in the log
    is replayed here is the moment as of which the data is."""

    LOOK = """SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn(), pg_postmaster_start_time(),
        (SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'),
        (SELECT ARRAY[sender_host, sender_port::text, received_tli::text] FROM pg_stat_wal_receiver WHERE status = 'streaming')"""
    FAR = """SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_lsn() END,
        CASE WHEN NOT pg_is_in_recovery() THEN ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END"""

    def __init__(self, document):
        self.document = document
        self.seen = self.replica = self.streams = None  # when it was seen, whether it is a replica, how many stream from it
        self.as_of = None  # the moment as of which its data is
        self._source, self._points, self._lock = None, [], threading.Lock()
        threading.Thread(target=self._look, name="local", daemon=True).start()
        threading.Thread(target=self._ask, name="source", daemon=True).start()

    def age(self):
        """Of a replica's data, in seconds; None where nothing is known."""
        return None if self.as_of is None else time.monotonic() - self.as_of

    def fresh(self):
        return self.seen is not None and time.monotonic() - self.seen < 2

    def _look(self):
        connection = started = None
        while True:
            try:
                connection = connection or connect_local(self.document)
                asked = time.monotonic()
                replica, replayed, start, streams, source = one_row(connection, self.LOOK)
                with self._lock:
                    # One that was started anew may show less than it did before.
                    if not replica or start != started:
                        self.as_of, self._points, started = None, [], start
                    self._source = source
                    if replica and source and replayed:
                        reached = [when for when, far, timeline in self._points if far <= position(replayed) and timeline == source[2]]
                        self.as_of = max([self.as_of or 0, *reached]) or None
                        self._points = [point for point in self._points if point[0] >= (self.as_of or 0)][-600:]
                    self.replica, self.streams, self.seen = replica, streams, asked
            except psycopg2.Error:
                with contextlib.suppress(Exception):
                    connection.close()
                connection = None
            time.sleep(0.5)

    def _ask(self):
        connection = to = None
        while True:
            source = self._source
            try:
                if source != to or source is None:
                    with contextlib.suppress(Exception):
                        connection.close()
                    connection, to = None, source
                if source:
                    connection = connection or connect(self.document, f"{source[0]}:{source[1]}", "rewinder")
                    asked = time.monotonic()
                    far, timeline = one_row(connection, self.FAR)
                    if far is not None:
                        with self._lock:
                            self._points.append((asked, position(far), str(timeline)))
            except psycopg2.Error:
                with contextlib.suppress(Exception):
                    connection.close()
                connection = None
            time.sleep(min(1, self.document.read_lag_limit / 10))


class Checks:
    """What load balancers ask, in plain HTTP: no secrets, an answer within a second."""

    def __init__(self, document, local):
        self.document, self.local = document, local
        self._kept, self._lock = {}, threading.Lock()
        checks = self

        class Handler(http.server.BaseHTTPRequestHandler):
            timeout = 5

            def do_GET(self):
                status, text = checks.answer(self.path.partition("?")[0])
                body = (text + "\n").encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/plain")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_OPTIONS = do_GET

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads, request_queue_size = True, 128

            def handle_error(self, *_):
                pass  # a client that went away

        server = Server(("0.0.0.0", document.ports["check"]), Handler)
        threading.Thread(target=server.serve_forever, name="checks", daemon=True).start()

    def answer(self, path):
        if path == "/primary":
            # Patroni says so already while PostgreSQL is still being promoted.
            promoting = self.local.fresh() and self.local.replica
            return (200, "primary") if not promoting and self.patroni("/primary") == 200 else (503, "not the primary")
        if path == "/health":
            return (200, "running") if self.patroni("/health") == 200 else (503, "not running")
        if path == "/replica":
            return self.replica()
        return 404, "there are /primary, /replica and /health"

    def replica(self):
        local = self.local
        if not local.fresh():
            return 503, "PostgreSQL does not answer"
        if not local.replica:
            if local.streams:
                return 503, f"the primary, which {local.streams} replicas follow"
            return (200, "the primary, which no replica follows") if self.patroni("/primary") == 200 else (503, "not the primary")
        age, limit = local.age(), self.document.read_lag_limit
        if age is None:
            return 503, "a replica of unknown age"
        return (200 if age <= limit - CHECK_MARGIN else 503), f"a replica, {age:.1f} s behind at most"

    def patroni(self, path):
        """Patroni's own answer; of those that ask at the same moment one asks it for all. Where it is only slow, or is started again,
        that is no reason to leave a PostgreSQL that runs: its last answer holds for a while."""
        with self._lock:
            asked, answered, status = self._kept.get(path, (0, 0, 503))
            if time.monotonic() - asked <= 0.2:
                return status
            self._kept[path] = (time.monotonic(), answered, status)
        try:
            status, _ = ask("127.0.0.1", self.document.ports["patroni"], "GET", path, timeout=CHECK_SECONDS)
            answered = time.monotonic()
        except TROUBLE:
            if time.monotonic() - answered > PATRONI_SECONDS:
                status = 503
        with self._lock:
            self._kept[path] = (time.monotonic(), answered, status)
        return status


def supervise():
    document = Document.load()
    os.chdir(RUN)
    etcd = Etcd(document)
    restoration = nm_restore.Restoration(document, etcd, kill_postgres)
    facts = nm_archive.Facts(document, etcd)
    wake = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: wake.set())

    def etcd_answers(stopping):
        """Patroni waits five seconds each time that etcd does not answer: it is started once it does."""
        told = time.monotonic() + 10
        while not stopping.wait(0.2):
            if any(etcd.healthy(address) for _, address, _ in document.etcd_endpoints()):
                return True
            if time.monotonic() > told:
                say("etcd has no majority yet")
                told = time.monotonic() + 60
        return False

    def etcd_begins(_):
        """A member that was taken out of etcd and added again is another one: what the first one left behind would never be let in."""
        data = DATA / "etcd"
        if document.told["etcd"].get("state") == "existing" and data.exists():
            with contextlib.suppress(Refused):
                if any(row["address"] == document.address and not row["began"] for row in etcd.members()):
                    say("etcd begins anew: what is here is of a member that was taken out")
                    shutil.rmtree(data)
        return True

    programs = []
    if document.runs_etcd:
        unsupported = {"ETCD_UNSUPPORTED_ARCH": "arm64"} if platform.machine() == "aarch64" else {}
        programs.append((Program("etcd", document.etcd(), before=etcd_begins, environment=unsupported), 10))
    else:
        shutil.rmtree(DATA / "etcd", ignore_errors=True)  # of a member that it is no more
    if document.pooler["enabled"]:
        programs.append((Program("pgbouncer", ["/usr/sbin/pgbouncer", "-q", str(RUN / "pgbouncer.ini")]), 3))

    def may_begin(stopping):
        try:
            return etcd_answers(stopping) and restoration.may_begin(stopping)
        except Refused:  # of etcd
            return False

    patroni = Program("Patroni", [sys.executable, sys.argv[0], "patroni"], before=may_begin)
    programs.append((patroni, STOP_SECONDS))
    local = Local(document)
    Watchdog(patroni, local)
    for program, _ in programs:
        program.start()
    Checks(document, local)

    def tend():
        """Apart from the rest, as etcd may take its time."""
        while True:
            with contextlib.suppress(Refused, OSError, ValueError):
                restoration.tend()
                if local.fresh() and not local.replica:
                    facts.tell()
            time.sleep(2)

    threading.Thread(target=tend, name="tend", daemon=True).start()
    heard = time.monotonic()
    while not wake.wait(2):
        if answers(document, patroni):
            heard = time.monotonic()
        elif time.monotonic() - heard > SILENCE_SECONDS:  # a replica's, which the watchdog does not watch
            say(f"Patroni has not answered for {SILENCE_SECONDS} s, and is started anew")
            patroni.kill()
            heard = time.monotonic()
    say("told to end: Patroni hands over, then the others end")
    for program, seconds in reversed(programs):
        program.stop(seconds)
        if program is patroni:
            kill_postgres()  # what Patroni could not end in time
    return 0


def answers(document, patroni):
    """Whether Patroni answers, where it runs."""
    if patroni.popen is None or patroni.popen.poll() is not None:
        return True
    try:
        ask("127.0.0.1", document.ports["patroni"], "GET", "/liveness")
        return True
    except TROUBLE:
        return False


def patroni():
    """Patroni, which renews its lease or is primary no more.

    Patroni 3.0 takes the leader's key back, whoever holds it, when its own lease has ended meanwhile: a primary that stood still for
    longer than its lease (a paused container, a frozen machine) would then take over from the one that was made in its place, and throw
    away what was written there. Here the key is written only where it is still the one that this member had."""
    from patroni import __main__ as program
    from patroni.config import Config
    from patroni.dcs import Leader, catch_return_false_exception, etcd3

    @catch_return_false_exception
    def renew(self):
        retry = self._retry.copy()

        def within(*arguments, **named):
            return retry(*arguments, **(named | {"retry": retry}))

        self._run_and_handle_exceptions(self._do_refresh_lease, True, retry=within)
        leader = self.cluster and self.cluster.leader
        if not self._lease or not isinstance(leader, Leader):
            return False
        if leader.session == self._lease:
            return True
        retry.deadline = retry.stoptime - time.time()
        if retry.deadline < 1:
            raise etcd3.Etcd3Error("no time left to renew the leader's key")
        named = {"mod_revision": leader.index, "retry": within}
        return bool(self._run_and_handle_exceptions(self._client.put, self.leader_path, self._name, self._lease, **named))

    etcd3.Etcd3._update_leader = renew
    # Without a command PostgreSQL would keep all of its log. Patroni's own configuration would win over the cluster's: its defaults do not.
    Config._Config__DEFAULT_CONFIG["postgresql"]["parameters"]["archive_command"] = nm_archive.OFF
    sys.argv[:] = ["patroni", str(RUN / "patroni.yml")]
    program.main()
