"""The archive of the log, and base backups: what a database is restored from to a moment of its past.

Each member keeps the finished segments of its log in a folder of its own (nm-archive.sh), replicas too, so that what a lost primary had
not handed on is in its successor's folder. Whoever takes them from there says by `archive-trim` up to where it has them.
"""

import contextlib
import json
import os
import re
import subprocess
import time
from datetime import datetime, timezone

import psycopg2
import psycopg2.extras
from nm_common import ARCHIVE, BIN, CA, DATA, Refused, connect, connect_local, locked, moment, one_row, position

COMMAND, OFF = "/usr/local/bin/nm-archive", "/bin/true"
LIMIT_BYTES = 16 << 30
FLUSH_SECONDS = 9.0
SEGMENT_BITS = 24  # of a position in the log: 16 MiB
GAP = ARCHIVE / "gap"
SEGMENT = re.compile(r"[0-9A-F]{24}")
KEPT = re.compile(r"([0-9A-F]{8})([0-9A-F]{16})(?:\.partial|\.[0-9A-F]{8}\.backup)?\.zst")


def command(wanted):
    """PostgreSQL's archive_command; None where nothing is to be kept."""
    if wanted is None:
        return None
    limit = wanted.get("limitBytes") or LIMIT_BYTES
    if type(limit) is not int or limit < 0:
        raise Refused("limitBytes is a number of bytes.")
    return f'{COMMAND} keep {limit} "%p" %f'


def lock():
    return locked(ARCHIVE / ".lock")


def gap():
    """Since when nothing is kept any more, and from which segment on; None where all is."""
    try:
        return json.loads(GAP.read_text())
    except FileNotFoundError:
        return None


def held():
    """How many files there are, and their bytes."""
    sizes = []
    with os.scandir(ARCHIVE) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if entry.name.endswith(".zst"):
                    sizes.append(entry.stat().st_size)
    return {"files": len(sizes), "bytes": sum(sizes)}


def segment_name(timeline, lsn):
    """Of the segment that ends with this position or has it inside."""
    return f"{timeline:08X}{place((position(lsn) - 1) >> SEGMENT_BITS)}"


def flush(document):
    """All that is committed by now is in the folder afterwards."""
    deadline = time.monotonic() + FLUSH_SECONDS
    try:
        made = connect_local(document)
    except psycopg2.Error:
        raise Refused("PostgreSQL does not answer here.") from None
    with contextlib.closing(made), made.cursor() as cursor:
        replica, how = one_row(made, "SELECT pg_is_in_recovery(), current_setting('archive_command')")
        if replica:
            raise Refused(f"{document.member} is not the primary.")
        if not how.startswith(COMMAND):
            raise Refused("The archive is off.")
        cursor.execute("SET synchronous_commit = local; SET statement_timeout = 4000")
        # A recovery to a moment needs a commit after it: the record's own time would be just too late.
        until = one_row(made, "SELECT clock_timestamp()")[0]
        cursor.execute("SELECT pg_logical_emit_message(true, 'nm.archive', '')")
        last, timeline = one_row(made, "SELECT name, ('x' || left(name, 8))::bit(32)::int FROM pg_walfile_name(pg_switch_wal()) name")
    while not (arrived(last) or gap() and passed_by(last)):
        if time.monotonic() > deadline:
            raise Refused(f"The log up to {last} has not come to the archive within {FLUSH_SECONDS:.0f} s.")
        time.sleep(0.05)
    return {"first": reaching_back(last), "last": last, "timeline": timeline, "until": moment(until)} | held() | {"gap": gap()}


def reaching_back(last):
    """The place in the log from which on no segment is missing up to this one. A member that was away, or was rewound, lacks some."""
    names = (KEPT.fullmatch(name) for name in os.listdir(ARCHIVE))
    places = {number(found[2]) for found in names if found}
    first = number(last[8:])
    while first - 1 in places:
        first -= 1
    return place(first)


def number(place):
    return (int(place[:8], 16) << 8) + int(place[8:], 16)


def place(number):
    return f"{number >> 8:08X}{number & 0xFF:08X}"


def arrived(segment):
    return (ARCHIVE / f"{segment}.zst").exists()


def passed_by(segment):
    return (DATA / "data/pg_wal/archive_status" / f"{segment}.done").exists()


def remove(doomed):
    """Removes the files of which that holds, by their timeline and their place in the log."""
    removed = 0
    for path in ARCHIVE.iterdir():
        found = KEPT.fullmatch(path.name)
        if found and doomed(found[1], found[2]):
            path.unlink(missing_ok=True)
            removed += 1
    return {"removed": removed}


def trim(_, last):
    if not SEGMENT.fullmatch(last):
        raise Refused(f"{last} is no segment's name: 24 digits, as in 000000010000000000000001.")
    return remove(lambda timeline, at: timeline <= last[:8] and at <= last[8:])


def reset(_):
    with lock():
        told = gap()
        if told is None:
            return {"removed": 0}
        removed = remove(lambda _, at: at <= told["segment"][8:])
        GAP.unlink()
        return removed


class Facts:
    """What the folder has, for whoever asks for the cluster's state at another member: told to etcd as it changes."""

    def __init__(self, document, etcd):
        self.key, self._etcd = key(document, document.member), etcd
        self._seen = self._told = None

    def tell(self):
        changed = ARCHIVE.stat().st_mtime_ns
        if changed != self._seen:
            facts = {"gap": gap(), "bytes": held()["bytes"]}
            if facts != self._told:
                self._etcd.put(self.key, json.dumps(facts))
            self._seen, self._told = changed, facts


def key(document, member):
    return f"/nm-archive/{document.cluster}/{member}"


ARCHIVER = """SELECT last_archived_wal, last_archived_time, last_failed_wal, last_failed_time,
    coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false) FROM pg_stat_archiver"""


def state(enabled, facts, row):
    """Of the primary, for the cluster's state: what its folder has, and what PostgreSQL says of archiving."""
    segment, when, failed, failed_when, failing = row or (None, None, None, None, False)
    told = {"enabled": enabled, "gap": facts.get("gap"), "bytes": facts.get("bytes", 0), "lastArchived": None, "lastArchivedAt": None, "failed": None}
    if enabled and segment and not told["gap"]:  # in a gap it goes on, into nothing
        told |= {"lastArchived": segment, "lastArchivedAt": moment(when)}
    if enabled and failing:
        told["failed"] = f"{failed} could not be archived at {moment(failed_when)}; the container's log says why."
    return told


def base_backup(document):
    """This member's data as one tar to standard output, with the log that makes it whole; one line of JSON to standard error."""
    port = document.ports["postgres"]
    more = {"connection_factory": psycopg2.extras.PhysicalReplicationConnection, "options": ""}
    try:
        made = connect(document, f"127.0.0.1:{port}", "replicator", **more)
    except psycopg2.Error:
        raise Refused("PostgreSQL does not answer here.") from None
    with contextlib.closing(made):
        try:
            # pg_basebackup fetches the log at the end, and has no means of its own to hold it until then.
            made.cursor().execute(f'CREATE_REPLICATION_SLOT "nm_base_{os.getpid()}" TEMPORARY PHYSICAL RESERVE_WAL')
        except psycopg2.Error as e:
            raise Refused(f"The log can't be held for the time of the backup: {str(e).strip()}.") from None
        at = f"host=127.0.0.1 port={port} user=replicator sslmode=verify-ca sslrootcert={CA}"
        done = subprocess.run(
            [f"{BIN}/pg_basebackup", "-d", at, "-w", "-v", "-D", "-", "-F", "tar", "-X", "fetch", "-c", "fast"],
            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace",
            env=os.environ | {"PGPASSWORD": document.passwords["replication"]},
        )  # fmt: skip
    lines = done.stderr.strip().splitlines()
    start = re.search(r"start point: (\S+) on timeline (\d+)", done.stderr)
    end = re.search(r"end point: (\S+)", done.stderr)
    if done.returncode or not (start and end):
        why = next((line for line in lines if "error:" in line), lines[-1] if lines else f"pg_basebackup ended with {done.returncode}")
        raise Refused(f"The base backup failed: {why.removeprefix('pg_basebackup: ').removeprefix('error: ')[:300]}.")
    timeline = int(start[2])
    first, last = position(start[1]) + 1, end[1]
    return {
        "first": segment_name(timeline, f"{first >> 32:X}/{first & 0xFFFFFFFF:X}"),
        "last": segment_name(timeline, last),
        "timeline": timeline,
        "ended": moment(datetime.now(timezone.utc)),
    }
