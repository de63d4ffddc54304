#!/usr/bin/env python3
"""A member of a highly available PostgreSQL: what runs in its container, and the commands for `docker exec`.

    nm-postgres run                  everything this member runs, as the document in $NM_POSTGRES_SECRET says; the container's own program
    nm-postgres status               the whole cluster as one line of JSON, from any member
    nm-postgres switchover [MEMBER]  makes MEMBER (or whoever is fit) the primary
    nm-postgres configure DOCUMENT   {"parameters": {...}, "synchronous": true, "extensions": [...],
                                     "archive": {"limitBytes": N} or null}: for all members, as they run
    nm-postgres restart MEMBER       PostgreSQL's restart there
    nm-postgres reinitialize MEMBER  throws its data away and copies it anew from the primary
    nm-postgres etcd-add NAME ADDRESS, etcd-promote NAME, etcd-remove NAME
    nm-postgres forget MEMBER        drops what a member that is gone left behind: its slot and its keys
    nm-postgres archive-flush        brings all that is committed into the archive of the log; where the primary is
    nm-postgres archive-trim SEGMENT removes this member's part of it up to there
    nm-postgres archive-reset        ends a gap in this member's part, and removes what was before it
    nm-postgres base-backup          this member's data as a tar to standard output
    nm-postgres restore-status       how far a member is that is to begin with an archive's data

Patroni decides who is primary, by a lease in etcd. What is this program's own: the order in which things start and end; a watchdog,
which kills PostgreSQL when Patroni has not renewed the lease in time (a Patroni that hangs can't demote itself, and the others make a
new primary once the lease is over); a stricter way for Patroni to renew it; and the check server, by which a load balancer learns whom
to send what.
"""

import base64
import concurrent.futures
import contextlib
import http.client
import http.server
import json
import math
import os
import platform
import pwd
import re
import select
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import nm_archive
import nm_restore
import psycopg2
import psycopg2.extras
from nm_common import (
    ARCHIVE, BIN, CA, CERTIFICATE, DATA, KEY, RUN, SOCKETS, Refused, connect, connect_local, one_row, position, private, say,
)  # fmt: skip

EXTENSIONS = Path("/usr/share/postgresql/15/extension")
DOCUMENT, FIFO = RUN / "document.json", RUN / "watchdog"

# Whoever is asked by a command answers within this, so that the command itself ends within ten seconds.
ANSWER_SECONDS, COMMAND_SECONDS = 2.0, 9.5
CHECK_SECONDS = 0.7  # of the second within which a check is answered
CHECK_MARGIN = 2.0  # a balancer goes on for so long after its last good check
SILENCE_SECONDS = 30  # of Patroni, before it is taken to hang
STOP_SECONDS = 25  # for PostgreSQL's own orderly end

# What users may set otherwise.
DEFAULT_PARAMETERS = {
    "wal_level": "replica",
    "max_connections": 100,
    "max_wal_senders": 10,
    "max_replication_slots": 10,
    "wal_keep_size": "512MB",
    "max_slot_wal_keep_size": "16GB",
}
# What holds the cluster together, in each member's own configuration, which wins over everybody's. A standby that is gone is noticed
# within wal_sender_timeout: for so long a synchronous commit waits for it.
FIXED_PARAMETERS = {
    "ssl": "on",
    "ssl_ca_file": str(CA),
    "ssl_cert_file": str(CERTIFICATE),
    "ssl_key_file": str(KEY),
    "ssl_min_protocol_version": "TLSv1.2",
    "password_encryption": "scram-sha-256",
    "unix_socket_directories": SOCKETS,
    "logging_collector": "off",
    "log_destination": "stderr",
    "wal_sender_timeout": "5s",
    "wal_receiver_timeout": "5s",
    "wal_receiver_status_interval": "1s",
    "wal_retrieve_retry_interval": "500ms",
    "tcp_keepalives_idle": 5,
    "tcp_keepalives_interval": 2,
    "tcp_keepalives_count": 3,
    "tcp_user_timeout": 10000,
    # Always and on replicas, too, as it can't be changed while PostgreSQL runs. What is kept the command decides.
    "archive_mode": "always",
    "archive_library": "",
}
# The cluster's own, by `configure`: nobody sets them as parameters.
RESERVED = FIXED_PARAMETERS.keys() | {"archive_command", "restore_command", "archive_cleanup_command", "recovery_end_command"}


# ---- the document ----------------------------------------------------------------------------------------------------


class Document:
    """What $NM_POSTGRES_SECRET said, and what follows from it."""

    def __init__(self, told):
        self.told = told
        self.cluster, self.member, self.address = told["cluster"], told["member"], told["address"]
        self.ports, self.passwords, self.database = told["ports"], told["passwords"], told["database"]
        self.etcd_members = told["etcd"]["members"]
        self.timing = {"ttl": 5, "loopWait": 1, "retryTimeout": 2} | told.get("timing", {})
        self.pooler = {"enabled": False, "mode": "transaction", "size": 20} | told.get("pooler", {})
        self.read_lag_limit = float(told.get("readLagLimit", 30))
        self.restore = told.get("restore")  # what to begin with instead of with nothing
        self.joins = bool(told.get("joins"))  # begins no database, whoever is first
        self.runs_etcd = self.member in self.etcd_members
        self.prefix = f"/service/{self.cluster}/"

    @classmethod
    def load(cls):
        try:
            return cls(json.loads(DOCUMENT.read_text()))
        except FileNotFoundError:
            raise Refused("This container has not been started yet.") from None

    def check(self):
        """Refuses what could only fail later, where nobody looks."""
        missing = [e for e in self.database.get("extensions", []) if not (EXTENSIONS / f"{e}.control").exists()]
        if missing:
            raise Refused(f"There is no extension called {', '.join(missing)} in this image.")
        nm_restore.target(self)
        timing = self.timing
        if timing["ttl"] < timing["loopWait"] + 2 * timing["retryTimeout"]:
            raise Refused(f"The time to live of {timing['ttl']} s is shorter than loopWait + 2 * retryTimeout: a good primary would be demoted.")

    def etcd_endpoints(self):
        """Client addresses, this member's own first."""
        others = [(name, address) for name, address in self.etcd_members.items() if name != self.member]
        own = [(self.member, "127.0.0.1")] if self.runs_etcd else []
        return [(name, address, self.ports["etcdClient"]) for name, address in own + others]

    def safety_margin(self):
        """How long before the lease's end the watchdog bites. The lease was renewed when etcd was asked, the watchdog when it had
        answered: for so long Patroni 3.0 waits for one member of etcd before it asks another."""
        return math.ceil(max(1, self.timing["retryTimeout"] / 3))

    def parameters(self, wanted):
        return DEFAULT_PARAMETERS | {key: value for key, value in (wanted or {}).items() if key not in RESERVED}

    def write(self):
        """Everything that programs here are told by files."""
        tls = self.told["tls"]
        for path, text in ((CA, tls["ca"]), (CERTIFICATE, tls["certificate"]), (KEY, tls["key"])):
            private(path, text if text.endswith("\n") else text + "\n")
        private(DOCUMENT, json.dumps(self.told))
        private(RUN / "patroni.yml", json.dumps(self.patroni(), indent=1))  # JSON is YAML
        private(RUN / "pgbouncer.ini", self.pgbouncer())
        users = {self.database["owner"]: self.passwords["application"], self.database["admin"]: self.passwords["admin"]}
        quoted = {name: password.replace('"', '""') for name, password in users.items()}
        private(RUN / "pgbouncer.users", "".join(f'"{name}" "{password}"\n' for name, password in quoted.items()))

    def patroni(self):
        ports, timing = self.ports, self.timing
        verified = {"sslmode": "verify-ca", "sslrootcert": str(CA)}

        def role(name, password):
            return {"username": name, "password": self.passwords[password]} | verified

        dynamic = {
            "ttl": timing["ttl"],
            "loop_wait": timing["loopWait"],
            "retry_timeout": timing["retryTimeout"],
            "maximum_lag_on_failover": 1 << 20,
            "check_timeline": True,
            "primary_start_timeout": 0,  # one that crashed is not waited for where another can take over
            "failsafe_mode": False,  # it would let a primary go on that the others can't see
            "synchronous_mode": bool(self.database.get("synchronous")),
            "synchronous_mode_strict": False,  # alone it takes writes all the same
            "postgresql": {
                "use_slots": True,
                "use_pg_rewind": True,
                "remove_data_directory_on_rewind_failure": True,
                "remove_data_directory_on_diverged_timelines": True,
                "parameters": self.parameters(self.database.get("parameters")),
            },
        }
        begin = {
            "dcs": dynamic,
            "initdb": [{"encoding": "UTF8"}, {"locale": "C.UTF-8"}, "data-checksums"],
            "restore": {"command": "/usr/local/bin/nm-postgres restore", "no_params": True},
            "method": "initdb" if self.restore is None else "restore",
            "post_bootstrap": "/usr/local/bin/nm-postgres bootstrap",
        }
        return ({} if self.joins else {"bootstrap": begin}) | {
            "scope": self.cluster,
            "namespace": "/service/",
            "name": self.member,
            "log": {"level": "INFO", "loggers": {"patroni.__main__": "WARNING"}},  # or else it tells every second that nothing is to be done
            "restapi": {
                "listen": f"0.0.0.0:{ports['patroni']}",
                "connect_address": f"{self.address}:{ports['patroni']}",
                "certfile": str(CERTIFICATE),
                "keyfile": str(KEY),
                "cafile": str(CA),
                "verify_client": "optional",  # whoever changes something needs a certificate; who looks does not
            },
            "ctl": {"cacert": str(CA), "certfile": str(CERTIFICATE), "keyfile": str(KEY)},
            "etcd3": {
                "hosts": [f"{address}:{ports['etcdClient']}" for address in self.etcd_members.values()],
                "protocol": "https",
                "cacert": str(CA),
                "cert": str(CERTIFICATE),
                "key": str(KEY),
            },
            "postgresql": {
                "listen": f"0.0.0.0:{ports['postgres']}",
                "connect_address": f"{self.address}:{ports['postgres']}",
                "data_dir": str(DATA / "data"),
                "bin_dir": BIN,
                "pgpass": str(RUN / "pgpass"),
                "use_unix_socket": True,
                "authentication": {
                    "superuser": role("postgres", "superuser"),
                    "replication": role("replicator", "replication"),
                    "rewind": role("rewinder", "rewind"),
                },
                "parameters": FIXED_PARAMETERS,
                "pg_hba": [
                    "local all postgres peer",
                    "hostssl replication replicator all scram-sha-256",
                    "hostssl all replicator all reject",
                    "hostssl all postgres 127.0.0.1/32 scram-sha-256",
                    "hostssl all postgres all reject",
                    "hostssl all all all scram-sha-256",
                ],
                "basebackup": [{"checkpoint": "fast"}],
            },
            "watchdog": {"mode": "required", "driver": "testing", "device": str(FIFO), "safety_margin": self.safety_margin()},
        }

    def pgbouncer(self):
        options = {
            "listen_addr": "0.0.0.0",
            "listen_port": self.ports["pooler"],
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": RUN / "pgbouncer.users",
            "client_tls_sslmode": "require",
            "client_tls_ca_file": CA,
            "client_tls_cert_file": CERTIFICATE,
            "client_tls_key_file": KEY,
            "server_tls_sslmode": "verify-full",
            "server_tls_ca_file": CA,
            "pool_mode": self.pooler["mode"],
            "default_pool_size": self.pooler["size"],
            "max_client_conn": 5000,
            "ignore_startup_parameters": "extra_float_digits,options",
            # So that nobody waits long at a server that is gone: the balancer then sends them elsewhere.
            "server_connect_timeout": 3,
            "server_login_retry": 1,
            "query_wait_timeout": 10,
            "server_check_delay": 5,
            "log_connections": 0,
            "log_disconnections": 0,
            "stats_period": 3600,
        }
        lines = "\n".join(f"{key} = {value}" for key, value in options.items())
        return f"[databases]\n* = host=127.0.0.1 port={self.ports['postgres']}\n\n[pgbouncer]\n{lines}\n"

    def etcd(self):
        """The command line of this member's etcd; of a data directory that is there it takes who the members are."""
        peer, client = self.ports["etcdPeer"], self.ports["etcdClient"]
        everybody = ",".join(f"{name}=https://{address}:{peer}" for name, address in self.etcd_members.items())
        flags = {
            "name": self.member,
            "data-dir": DATA / "etcd",
            "listen-peer-urls": f"https://0.0.0.0:{peer}",
            "listen-client-urls": f"https://0.0.0.0:{client}",
            "initial-advertise-peer-urls": f"https://{self.address}:{peer}",
            "advertise-client-urls": f"https://{self.address}:{client}",
            "initial-cluster": everybody,
            "initial-cluster-token": self.cluster,
            "initial-cluster-state": self.told["etcd"].get("state", "new"),
            "cert-file": CERTIFICATE,
            "key-file": KEY,
            "trusted-ca-file": CA,
            "client-cert-auth": "true",
            "peer-cert-file": CERTIFICATE,
            "peer-key-file": KEY,
            "peer-trusted-ca-file": CA,
            "peer-client-cert-auth": "true",
            # Behind a node's address translation a member comes from another address than its certificate has.
            "experimental-peer-skip-client-san-verification": "true",
            "heartbeat-interval": 100,
            "election-timeout": 1000,
            "pre-vote": "true",
            "auto-compaction-mode": "periodic",
            "auto-compaction-retention": "1h",
            "quota-backend-bytes": 1 << 30,
            "logger": "zap",
            "log-outputs": "stderr",
            "log-level": "warn",
        }
        return ["/usr/bin/etcd", *(f"--{key}={value}" for key, value in flags.items())]


# ---- asking others ---------------------------------------------------------------------------------------------------


def context():
    made = ssl.create_default_context(cafile=str(CA))
    made.load_cert_chain(str(CERTIFICATE), str(KEY))
    return made


def ask(address, port, method, path, body=None, timeout=ANSWER_SECONDS):
    """Status and text of an answer over mutual TLS."""
    connection = http.client.HTTPSConnection(address, port, timeout=timeout, context=context())
    try:
        connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()


TROUBLE = (OSError, http.client.HTTPException, ValueError)


class Etcd:
    """etcd by its JSON gateway: keys and members."""

    def __init__(self, document):
        self.document = document

    def call(self, path, body, timeout=ANSWER_SECONDS):
        last = "it has no members"
        for name, address, port in self.document.etcd_endpoints():
            try:
                status, text = ask(address, port, "POST", "/v3" + path, body, timeout)
                if status == 200:
                    return json.loads(text)
                last = f"{name} answered {status}: {text.strip()[:200]}"
            except TROUBLE as e:
                last = f"{name}: {e}"
        raise Refused(f"etcd does not answer ({last}).")

    def keys(self):
        """The cluster's keys, {name without prefix: value}; and whether a majority of etcd vouches for them."""
        prefix = self.document.prefix
        body = {"key": b64(prefix), "range_end": b64(prefix[:-1] + chr(ord(prefix[-1]) + 1))}
        try:
            rows, sure = self.call("/kv/range", body), True
        except Refused:
            rows, sure = self.call("/kv/range", body | {"serializable": True}), False
        found = {base64.b64decode(row["key"]).decode(): base64.b64decode(row.get("value", "")).decode() for row in rows.get("kvs", [])}
        return {key[len(prefix) :]: value for key, value in found.items()}, sure

    def value(self, key):
        """Of a key of another name than the cluster's."""
        rows = self.call("/kv/range", {"key": b64(key)}).get("kvs", [])
        return base64.b64decode(rows[0].get("value", "")).decode() if rows else None

    def put(self, key, value):
        self.call("/kv/put", {"key": b64(key), "value": b64(value)})

    def delete(self, key):
        self.call("/kv/deleterange", {"key": b64(self.document.prefix + key if not key.startswith("/") else key)})

    def members(self):
        """Rows of name, address, id; one that never started has no name of its own yet."""
        rows = self.call("/cluster/member/list", {}).get("members", [])
        urls = [row["peerURLs"][0].rpartition("//")[2].rpartition(":")[0] for row in rows]
        names = {address: name for name, address in self.document.etcd_members.items()}
        return [
            {"name": row.get("name") or names.get(url), "address": url, "id": row["ID"]}
            | {"learner": row.get("isLearner", False), "began": bool(row.get("name"))}
            for row, url in zip(rows, urls)
        ]

    def healthy(self, address):
        try:
            status, text = ask(address, self.document.ports["etcdClient"], "GET", "/health", timeout=ANSWER_SECONDS)
            return status == 200 and json.loads(text)["health"] == "true"
        except TROUBLE:
            return False


def b64(text):
    return base64.b64encode(text.encode()).decode()


# ---- run -------------------------------------------------------------------------------------------------------------


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
            time.sleep(1)


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
        """Patroni's own answer; of those that ask at the same moment one asks it for all."""
        with self._lock:
            when, status = self._kept.get(path, (0, 0))
            asking = time.monotonic() - when > 0.2
            if not asking:
                return status
            self._kept[path] = (time.monotonic(), status)
        try:
            status, _ = ask("127.0.0.1", self.document.ports["patroni"], "GET", path, timeout=CHECK_SECONDS)
        except TROUBLE:
            status = 503
        with self._lock:
            self._kept[path] = (time.monotonic(), status)
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


def bootstrap():
    """Patroni's first primary: roles, the database, its extensions. May run again."""
    document = Document.load()
    with contextlib.nullcontext() if document.restore is None else nm_restore.reporting():
        make_roles(document)
        extend(document, document.database.get("extensions", []))
    return 0


def make_roles(document):
    database, passwords = document.database, document.passwords
    with contextlib.closing(connect_local(document)) as made:
        cursor = made.cursor()
        cursor.execute("SET log_statement = none; SET log_min_duration_statement = -1; SET log_min_error_statement = panic")

        def role(name, password, options):
            cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (name,))
            what = "ALTER" if cursor.fetchone() else "CREATE"
            cursor.execute(f"{what} ROLE {quoted(name)} WITH LOGIN {options} PASSWORD %s", (passwords[password],))

        role(database["owner"], "application", "NOSUPERUSER NOCREATEDB NOCREATEROLE")
        role(database["admin"], "admin", "NOSUPERUSER CREATEDB CREATEROLE")
        cursor.execute(f"GRANT pg_monitor, {quoted(database['owner'])} TO {quoted(database['admin'])}")
        cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database["name"],))
        if cursor.fetchone():
            cursor.execute(f"ALTER DATABASE {quoted(database['name'])} OWNER TO {quoted(database['owner'])}")
        else:
            cursor.execute(f"CREATE DATABASE {quoted(database['name'])} OWNER {quoted(database['owner'])}")
        cursor.execute(f"REVOKE CONNECT, TEMPORARY ON DATABASE {quoted(database['name'])} FROM PUBLIC")
        cursor.execute(f"GRANT CONNECT, TEMPORARY ON DATABASE {quoted(database['name'])} TO {quoted(database['admin'])}")


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


# ---- commands --------------------------------------------------------------------------------------------------------


class Cluster:
    """What etcd has of the cluster at this moment."""

    def __init__(self, document):
        self.document, self.etcd = document, Etcd(document)
        self.refresh()

    def refresh(self):
        self.keys, self.sure = self.etcd.keys()
        self.members = {key.partition("/")[2]: json.loads(value) for key, value in self.keys.items() if key.startswith("members/")}
        self.config = json.loads(self.keys.get("config") or "{}")
        sync = json.loads(self.keys.get("sync") or "{}")
        self.synchronous = [name for name in (sync.get("sync_standby") or "").split(",") if name]
        # Without a majority a lease does not end: who holds it is then no word on who is primary.
        self.leader = self.keys.get("leader") if self.sure else None

    def primary(self):
        row = self.members.get(self.leader) or {}
        return self.leader if row.get("role") in ("master", "primary") and row.get("state") == "running" else None

    def address(self, name):
        """Of its PostgreSQL: host:port."""
        return re.match(r"postgres://([^/]+)/", self.member(name)["conn_url"])[1]

    def member(self, name):
        if name not in self.members:
            raise Refused(f"There is no member called {name}; there are: {', '.join(sorted(self.members)) or 'none'}.")
        return self.members[name]

    def patroni(self, name, method, path, body=None, timeout=COMMAND_SECONDS):
        """An answer of that member's Patroni; Refused where it says no."""
        host, _, port = re.match(r"https://([^/]+)/", self.member(name)["api_url"])[1].rpartition(":")
        try:
            status, text = ask(host, port, method, path, body, timeout)
        except TROUBLE as e:
            raise Refused(f"Patroni of {name} does not answer ({e}).") from None
        if status >= 300:
            raise Refused(f"{name} says: {text.strip()[:300]}.")
        return text

    def anybody(self, method, path, body=None):
        """The same of whoever answers, the leader first."""
        last = None
        for name in sorted(self.members, key=lambda name: name != self.leader):
            try:
                return self.patroni(name, method, path, body, ANSWER_SECONDS)
            except Refused as e:
                last = e
        raise last or Refused("There is no member yet.")


REPLICAS = """SELECT application_name, state, pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::bigint, extract(epoch FROM replay_lag)::float
    FROM pg_stat_replication WHERE usename = 'replicator'"""
SLOTS = "SELECT slot_name, active, greatest(0, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn))::bigint FROM pg_replication_slots ORDER BY 1"
NUMBERS = """SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'), current_setting('max_connections')::int,
    pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint, ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int"""


def told_by_primary(cluster, primary):
    with contextlib.closing(connect(cluster.document, cluster.address(primary), "admin")) as made, made.cursor() as cursor:
        cursor.execute(NUMBERS)
        told = dict(zip(("connections", "maxConnections", "position", "timeline"), cursor.fetchone()))
        cursor.execute(REPLICAS)
        told["replicas"] = {name: (state, behind, lag) for name, state, behind, lag in cursor.fetchall()}
        cursor.execute(SLOTS)
        told["slots"] = [{"name": name, "active": active, "retainedBytes": kept} for name, active, kept in cursor.fetchall()]
        told["archiver"] = one_row(made, nm_archive.ARCHIVER)
        return told


def status(document):
    cluster = Cluster(document)
    primary, told = cluster.primary(), {}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        try:
            rows = cluster.etcd.members()
        except Refused:
            rows = [{"name": name, "address": address} for name, address in document.etcd_members.items()]
        healthy = pool.map(cluster.etcd.healthy, [row["address"] for row in rows])
        if primary:
            try:
                told = told_by_primary(cluster, primary)
            except psycopg2.Error:
                primary = None  # the lease alone does not make one that takes writes
        # One that learns says that it is well, too, and has no vote.
        etcd = [{"name": row["name"] or row["address"], "healthy": well and not row.get("learner")} for row, well in zip(rows, healthy)]
    archives = nm_archive.COMMAND in (cluster.config.get("postgresql", {}).get("parameters", {}).get("archive_command") or "")
    try:
        facts = json.loads(primary and cluster.etcd.value(nm_archive.key(document, primary)) or "{}")
    except Refused:
        facts = {}
    members = []
    for name, row in sorted(cluster.members.items()):
        streaming, behind, lag = told.get("replicas", {}).get(name, (None, None, None))
        role = "primary" if name == primary else "sync-standby" if name in cluster.synchronous else "replica"
        if name == primary:
            behind, lag = 0, 0.0
        elif behind is None and told and row.get("xlog_location") is not None:
            behind = max(0, told["position"] - row["xlog_location"])
        if lag is None and behind == 0 and streaming == "streaming":
            lag = 0.0
        members.append({
            "name": name,
            "address": cluster.address(name).rpartition(":")[0],
            "role": role,
            "state": "streaming" if streaming == "streaming" and row.get("state") == "running" else row.get("state"),
            "timeline": told["timeline"] if name == primary else row.get("timeline"),
            "lagBytes": behind,
            "lagSeconds": None if lag is None else round(lag, 3),
            "pendingRestart": bool(row.get("pending_restart")),
        })  # fmt: skip
    return {
        "primary": primary,
        "timeline": told.get("timeline"),
        "members": members,
        "connections": told.get("connections"),
        "maxConnections": told.get("maxConnections"),
        "slots": told.get("slots", []),
        "etcd": sorted(etcd, key=lambda row: row["name"]),
        "paused": bool(cluster.config.get("pause")),
        "archive": nm_archive.state(archives, facts, told.get("archiver")),
    }


def until(condition, deadline):
    """Whether it came to hold before the deadline."""
    while not (held := condition()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return held


def switchover(document, to=None):
    deadline = time.monotonic() + COMMAND_SECONDS
    cluster = Cluster(document)
    leader = cluster.primary()
    if leader is None:
        raise Refused("There is no primary now: whoever is fit becomes it by itself.")
    if to is not None:
        cluster.member(to)
        if to == leader:
            return {"primary": leader}
    count = cluster.config.get("synchronous_node_count")
    widened = bool(to and cluster.config.get("synchronous_mode") and to not in cluster.synchronous)
    try:
        if widened:
            # Only a synchronous standby may take over, as it has every write: for this moment all of them are.
            cluster.anybody("PATCH", "/config", {"synchronous_node_count": max(2, len(cluster.members) - 1)})

            def ready():
                cluster.refresh()
                return to in cluster.synchronous

            if not until(ready, deadline - 4):
                raise Refused(f"{to} is not up to date with {leader}, so it can't take over without loss.")
        body = {"leader": leader} | ({"candidate": to} if to else {})
        cluster.patroni(leader, "POST", "/switchover", body, timeout=max(1, deadline - time.monotonic()))

        def done():
            cluster.refresh()
            return cluster.primary() not in (None, leader)

        if not until(done, deadline):
            raise Refused(f"The switchover from {leader} has begun, and no new primary is there yet.")
    finally:
        if widened:
            with contextlib.suppress(Refused):
                cluster.anybody("PATCH", "/config", {"synchronous_node_count": count})
    if to and cluster.primary() != to:
        raise Refused(f"{cluster.primary()} has become the primary instead of {to}.")
    return {"primary": cluster.primary()}


def configure(document, text):
    wanted = json.loads(text)
    cluster = Cluster(document)
    change, changed = {}, {}
    if "parameters" in wanted:
        fixed = sorted(wanted["parameters"].keys() & RESERVED)
        if fixed:
            raise Refused(f"{', '.join(fixed)} can't be set: the cluster depends on it.")
        now = cluster.config.get("postgresql", {}).get("parameters", {})
        new = document.parameters(wanted["parameters"])
        changed |= {key: None for key in now if key not in new and key not in RESERVED} | new
    if "archive" in wanted:
        changed["archive_command"] = nm_archive.command(wanted["archive"])
    if changed:
        change["postgresql"] = {"parameters": changed}
    if "synchronous" in wanted:
        change["synchronous_mode"] = bool(wanted["synchronous"])
    if change:
        cluster.anybody("PATCH", "/config", change)
    if wanted.get("extensions"):
        # Only the superuser may make any of them, and it is let in by its own socket alone.
        if cluster.primary() != document.member:
            raise Refused("Extensions are made where the primary is.")
        extend(document, wanted["extensions"])
    return {"configured": True}


def extend(document, extensions):
    with contextlib.closing(connect_local(document, document.database["name"])) as made:
        for extension in extensions:
            try:
                made.cursor().execute(f"CREATE EXTENSION IF NOT EXISTS {quoted(extension)} CASCADE")
            except psycopg2.Error as e:
                raise Refused(f"The extension {extension} can't be made: {' '.join(str(e).split())[:300]}.") from None


def restart(document, name):
    Cluster(document).patroni(name, "POST", "/restart", {"timeout": 60})
    return {"restarted": name}


def reinitialize(document, name):
    Cluster(document).patroni(name, "POST", "/reinitialize", {"force": True})
    return {"reinitializing": name}


def etcd_add(document, name, address):
    etcd = Etcd(document)
    if any(row["address"] == address for row in etcd.members()):
        return {"added": name}
    # One that learns has no vote: until it runs and has everything nobody waits for it.
    etcd.call("/cluster/member/add", {"peerURLs": [f"https://{address}:{document.ports['etcdPeer']}"], "isLearner": True}, 5)
    return {"added": name}


def etcd_promote(document, name):
    etcd = Etcd(document)
    for row in etcd.members():
        if name in (row["name"], row["address"]) and row["learner"]:
            etcd.call("/cluster/member/promote", {"ID": row["id"]}, 5)
    return {"promoted": name}


def etcd_remove(document, name):
    etcd = Etcd(document)
    for row in etcd.members():
        if name in (row["name"], row["address"]):
            etcd.call("/cluster/member/remove", {"ID": row["id"]}, 5)
    return {"removed": name}


def forget(document, name):
    cluster = Cluster(document)
    if name == cluster.leader:
        raise Refused(f"{name} is the primary.")
    if name in cluster.members:
        cluster.etcd.delete(f"members/{name}")
    cluster.etcd.delete(nm_archive.key(document, name))
    primary = cluster.primary()
    if primary is None:
        raise Refused("There is no primary now, at which its slot could be dropped.")
    slot = re.sub("[^a-z0-9_]", lambda found: "_" if found[0] in "-." else f"u{ord(found[0]):04d}", name.lower())[:63]
    if not any(row["name"] == slot for row in told_by_primary(cluster, primary)["slots"]):
        return {"forgotten": name}
    # The one role that may drop it may only speak the protocol of replication.
    more = {"connection_factory": psycopg2.extras.PhysicalReplicationConnection, "options": ""}
    with contextlib.closing(connect(document, cluster.address(primary), "replicator", **more)) as made:
        try:
            made.cursor().execute(f"DROP_REPLICATION_SLOT {quoted(slot)}")
        except psycopg2.errors.UndefinedObject:
            pass  # Patroni was faster
        except psycopg2.Error as e:
            raise Refused(f"The slot of {name} can't be dropped: {str(e).strip()}.") from None
    return {"forgotten": name}


COMMANDS = {
    "status": (status, 0, 0),
    "switchover": (switchover, 0, 1),
    "configure": (configure, 1, 1),
    "restart": (restart, 1, 1),
    "reinitialize": (reinitialize, 1, 1),
    "etcd-add": (etcd_add, 2, 2),
    "etcd-promote": (etcd_promote, 1, 1),
    "etcd-remove": (etcd_remove, 1, 1),
    "forget": (forget, 1, 1),
    "archive-flush": (nm_archive.flush, 0, 0),
    "archive-trim": (nm_archive.trim, 1, 1),
    "archive-reset": (nm_archive.reset, 0, 0),
    "base-backup": (nm_archive.base_backup, 0, 0),
    "restore-status": (nm_restore.told, 0, 0),
}


def main(arguments):
    name, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    try:
        if name == "run":
            return prepare()
        if os.getuid() == 0:
            become_postgres()
        if name == "supervise":
            return supervise()
        if name == "patroni":
            return patroni()
        if name == "bootstrap":
            return bootstrap()
        if name == "restore":
            nm_restore.restore(Document.load())
            return 0
        if name not in COMMANDS:
            raise Refused(f"There is no command {name or 'without a name'}; there are: run, {', '.join(COMMANDS)}.")
        command, least, most = COMMANDS[name]
        if not least <= len(rest) <= most:
            raise Refused(f"{name} takes {least if least == most else f'{least} to {most}'} arguments.")
        told = json.dumps(command(Document.load(), *rest), separators=(",", ":"))
        print(told, file=sys.stderr if name == "base-backup" else sys.stdout)  # the backup itself has gone to standard output
        return 0
    except Refused as e:
        print(e, file=sys.stderr)
    except Exception as e:  # whatever it is, whoever reads this wants a sentence
        if name not in COMMANDS:
            raise
        print(f"{name} failed: {type(e).__name__} {' '.join(str(e).split())}", file=sys.stderr)
    return 1


if __name__ == "__main__":  # Patroni's children look into this file, too
    sys.exit(main(sys.argv[1:]))
