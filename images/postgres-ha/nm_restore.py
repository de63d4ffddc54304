"""A database's first member that begins with what an archive has instead of with nothing.

Patroni has it made by `nm-postgres restore` where it would have called initdb. All of the recovery is done there, apart from the cluster:
a PostgreSQL of its own, which nobody can reach, recovers in a folder of its own, and ends. Only what has come to its end well is given
to Patroni, which then makes roles and passwords as for any new database. Until etcd knows that there is one, all of it may be done
again from what was given; what failed is not, until the container is made anew.
"""

import contextlib
import json
import re
import shutil
import subprocess
import threading
import time
from datetime import datetime, timedelta, timezone

import psycopg2
from nm_archive import SEGMENT, segment_name
from nm_common import ARCHIVE, BIN, DATA, RUN, Refused, connect_local, moment, one_row, private, say

GIVEN = ARCHIVE / "restore"
STATE = RUN / "restore.json"  # the container's own: another one begins anew
UNFINISHED = DATA / "restore.unfinished"  # as long as it is there, what data there is is worth nothing
WORK, MADE, FAILED = DATA / "restoring", DATA / "data", DATA / "data.failed"
CONFIG, HBA, LOG = RUN / "restore.conf", RUN / "restore.hba", RUN / "restore.log"
ATTEMPTS = 3
# What a copy brings along of the cluster that it was.
FOREIGN = (
    "standby.signal", "recovery.signal", "recovery.conf", "recovery.done", "postgresql.auto.conf", "postmaster.pid", "postmaster.opts",
    "patroni.dynamic.json", "postgresql.conf", "postgresql.conf.backup", "postgresql.base.conf.backup", "pg_hba.conf", "pg_hba.conf.backup",
    "pg_ident.conf.backup", "backup_manifest",
)  # fmt: skip


def target(document):
    """The moment to recover to; None for as far as the log goes."""
    to = (document.restore or {}).get("to")
    if to is None:
        return None
    try:
        when = datetime.fromisoformat(to)
    except (TypeError, ValueError):
        when = None
    if when is None or when.tzinfo is None:
        raise Refused(f"{to} is no moment: RFC 3339 is, as in 2026-01-31T12:00:00Z.")
    return when


def state():
    try:
        return json.loads(STATE.read_text())
    except FileNotFoundError:
        return {"state": "waiting", "message": None, "attempts": 0}


def tell(name, message=None, attempts=None):
    private(STATE, json.dumps({"state": name, "message": message, "attempts": state()["attempts"] if attempts is None else attempts}))
    if message:
        say(f"restore {name}: {message}")


def told(document):
    """The answer of `restore-status`."""
    if document.restore is None:
        raise Refused("This member has nothing to restore.")
    return {name: state()[name] for name in ("state", "message")}


class Restoration:
    """What is to happen around it, by whoever starts Patroni."""

    def __init__(self, document, etcd, kill_postgres):
        self.document, self.etcd, self._kill_postgres = document, etcd, kill_postgres
        self._over, self._lock = document.restore is None, threading.RLock()

    def may_begin(self, stopping):
        """Whether Patroni may be started."""
        with self._lock:
            return self._may_begin(stopping)

    def _may_begin(self, stopping):
        if self._over or self.tend():
            return True
        now = state()
        if now["state"] == "failed":
            stopping.wait(2)
            return False
        if MADE.is_dir() and any(MADE.iterdir()) and not UNFINISHED.exists():
            self._finish()
            return True
        self._kill_postgres()  # of an attempt that was cut short
        for folder in (WORK, MADE, FAILED):
            shutil.rmtree(folder, ignore_errors=True)
        if now["attempts"] >= ATTEMPTS:
            tell("failed", f"{ATTEMPTS} attempts have ended early; the container's log says why.")
            return False
        UNFINISHED.touch()
        self.etcd.delete("initialize")  # what that attempt held: nobody else may begin this database
        tell("waiting", attempts=now["attempts"] + 1)
        return True

    def tend(self):
        """Looks whether it has become a cluster's database, after which it is over. Whether it is."""
        with self._lock:
            if not self._over:
                keys, sure = self.etcd.keys()
                if sure and keys.get("initialize"):
                    self._finish()
            return self._over

    def _finish(self):
        for folder in (GIVEN, WORK, FAILED):
            shutil.rmtree(folder, ignore_errors=True)
        UNFINISHED.unlink(missing_ok=True)
        tell("done")
        self._over = True


@contextlib.contextmanager
def reporting():
    """What fails inside is told as the restore's failure."""
    try:
        yield
    except Exception as e:
        tell("failed", str(e) if isinstance(e, Refused) else f"{type(e).__name__}: {' '.join(str(e).split())[:300]}.")
        raise


def restore(document):
    with reporting():
        try:
            to = target(document)
            tell("running", "The base backup is unpacked.")
            unpack()
            began = (WORK / "backup_label").stat().st_mtime  # in whole seconds
            # What was committed before the backup began is in it for good: PostgreSQL would not notice.
            if to is not None and to < datetime.fromtimestamp(began, timezone.utc) + timedelta(seconds=1):
                raise Refused(f"{moment(to)} is before the end of the base backup.")
            hole = missing()
            if hole and to is None:  # PostgreSQL would end there as if there were no more
                raise Refused(hole)
            clean()
            recover(document, to, hole)
        except BaseException:
            shutil.rmtree(WORK, ignore_errors=True)
            raise
        shutil.rmtree(MADE, ignore_errors=True)  # an empty folder, or none
        WORK.rename(MADE)
        tell("running", "The database is recovered; it becomes the cluster's primary.")


def unpack():
    base = GIVEN / "base/base.tar"
    if not base.exists():
        raise Refused("There is no base backup.")
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(0o700)
    done = subprocess.run(["tar", "-x", "-f", str(base), "-C", str(WORK), "--no-same-owner"], stderr=subprocess.PIPE, text=True, errors="replace")
    whole = ("PG_VERSION", "backup_label", "backup_manifest", "global/pg_control")
    missing = [name for name in whole if not (WORK / name).exists()]
    if done.returncode or missing:
        why = (done.stderr.strip().splitlines() or [f"{', '.join(missing)} missing"])[0]
        raise Refused(f"The base backup can't be unpacked: {why[:300]}.")
    version = (WORK / "PG_VERSION").read_text().strip()
    if version != "15":
        raise Refused(f"The base backup is of PostgreSQL {version}, and this is 15.")
    done = subprocess.run([f"{BIN}/pg_verifybackup", "-n", "-q", str(WORK)], stderr=subprocess.PIPE, text=True, errors="replace")
    if done.returncode:
        raise Refused(f"The base backup is damaged: {done.stderr.strip().splitlines()[0].removeprefix('pg_verifybackup: error: ')[:300]}.")


def missing():
    """The first hole in the log that is there, as a sentence; None where it has none."""
    names = [path.name for path in (WORK / "pg_wal").iterdir()]
    first = min((name[8:] for name in names if SEGMENT.fullmatch(name)), default=None)
    if first is None:
        raise Refused("The base backup has no log in it.")
    given = GIVEN / "wal"
    names += [path.name.removesuffix(".zst") for path in given.glob("*.zst")] if given.is_dir() else []
    there = sorted({place for name in names if SEGMENT.fullmatch(name) and (place := name[8:]) >= first})
    for one, other in zip(there, there[1:]):
        wanted = ((int(one[:8], 16) << 8) + int(one[8:], 16)) + 1
        following = segment_name(0, f"{wanted >> 8:X}/{(wanted & 0xFF) << 24 | 1:X}")[8:]
        if following != other:
            return f"The log has a hole: a segment {following} is missing, and {other} is there."
    return None


def clean():
    for name in FOREIGN:
        (WORK / name).unlink(missing_ok=True)
    slots = WORK / "pg_replslot"
    shutil.rmtree(slots, ignore_errors=True)
    slots.mkdir(0o700)
    for name in ("postgresql.auto.conf", "recovery.signal"):
        (WORK / name).touch(0o600)


def setting(value):
    return "'" + str(value).replace("\\", "\\\\").replace("'", "''") + "'"


def recover(document, to, hole):
    """Runs PostgreSQL over it until the log's end, or that moment, has made it a primary."""
    described = subprocess.run([f"{BIN}/pg_controldata", "-D", str(WORK)], capture_output=True, text=True).stdout
    prepared = re.search(r"max_prepared_xacts setting:\s+(\d+)", described)
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": RUN,
        "port": document.ports["postgres"],
        "hba_file": HBA,
        "log_min_messages": "log",
        "hot_standby": "off",  # so that limits that the old cluster had are no condition
        "max_prepared_transactions": prepared[1] if prepared else 0,
        "archive_mode": "off",
        "wal_level": "replica",
        "shared_buffers": document.parameters(document.database.get("parameters")).get("shared_buffers", "128MB"),
        "restore_command": '/usr/local/bin/nm-archive fetch "%f" "%p"',
        "recovery_target_timeline": "latest",
        "recovery_target_action": "promote",
    }
    if to is not None:
        # By a number: names of time zones are not known yet where this is read.
        settings |= {"recovery_target_time": moment(to).replace("Z", "+00:00"), "recovery_target_inclusive": "on"}
    private(CONFIG, "".join(f"{name} = {setting(value)}\n" for name, value in settings.items()))
    private(HBA, "local all postgres peer\n")
    for left in RUN.glob(".s.PGSQL.*"):  # of an attempt in a container that was killed: its number may be another program's by now
        left.unlink()
    tell("running", f"The log is replayed {'to its end' if to is None else f'up to {moment(to)}'}.")
    with open(LOG, "wb") as log:
        server = subprocess.Popen(
            [f"{BIN}/postgres", "-D", str(WORK), "-c", f"config_file={CONFIG}"], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
    while server.poll() is None and not promoted(document):
        time.sleep(0.2)
    if server.poll() is None:
        server.send_signal(2)  # SIGINT: an orderly end without waiting for clients
        server.wait()
    if server.returncode:
        raise Refused(why(to, hole))


def promoted(document):
    try:
        with contextlib.closing(connect_local(document, sockets=RUN)) as made:
            return not one_row(made, "SELECT pg_is_in_recovery()")[0]
    except psycopg2.Error:
        return False


def why(to, hole):
    """A sentence for what PostgreSQL's log says of its end."""
    said = LOG.read_text(errors="replace")
    if "before consistent recovery point" in said:
        return f"{moment(to)} is before the end of the base backup."
    if "recovery ended before configured recovery target was reached" in said:
        return hole or f"The log ends before {moment(to)}."
    ends = re.findall(r"(?:FATAL|PANIC|ERROR):\s+(.*)", said)
    ends = [line for line in ends if "starting up" not in line and "not yet accepting" not in line and "not accepting" not in line]
    return f"PostgreSQL could not recover it: {ends[0][:300] if ends else 'it says nothing of why'}."
