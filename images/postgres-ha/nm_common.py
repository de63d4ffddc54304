"""What all parts of a member's program share: its folders, its files, and how PostgreSQL is reached."""

import contextlib
import fcntl
import os
import sys
from datetime import timezone
from pathlib import Path

import psycopg2

RUN = Path("/run/nm-postgres")  # secrets and keys: never in the volume
DATA = Path("/var/lib/nm-postgres")
ARCHIVE = Path("/var/lib/nm-archive")
SOCKETS = "/run/postgresql"
BIN = "/usr/lib/postgresql/15/bin"
CA, CERTIFICATE, KEY = RUN / "ca.pem", RUN / "certificate.pem", RUN / "key.pem"
FIFO = RUN / "watchdog"

# Whoever is asked by a command answers within this, so that the command itself ends within ten seconds.
ANSWER_SECONDS, COMMAND_SECONDS = 2.0, 9.5


class Refused(Exception):
    """What a command could not do, as one sentence."""


def say(text):
    print(f"nm-postgres: {text}", file=sys.stderr, flush=True)


def private(path, text):
    """Written whole or not at all, readable for this user alone."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text)
    fresh.rename(path)


@contextlib.contextmanager
def locked(path):
    with open(path, "a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def moment(when):
    """A time as it is told: RFC 3339, UTC, with microseconds."""
    return when.astimezone(timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")


def connect(document, address, role, database="postgres", **more):
    """PostgreSQL over TLS, its certificate verified, autocommit."""
    name, password = {"rewinder": ("rewinder", "rewind"), "replicator": ("replicator", "replication")}.get(role) or (document.database["admin"], "admin")
    host, _, port = address.rpartition(":")
    made = psycopg2.connect(
        host=host, port=port, dbname=database, user=name, password=document.passwords[password], sslmode="verify-ca", sslrootcert=str(CA),
        connect_timeout=2, tcp_user_timeout=2000, keepalives_idle=2, keepalives_interval=1, keepalives_count=2,
        application_name="nm-postgres", **({"options": "-c statement_timeout=3000"} | more),
    )  # fmt: skip
    if role != "replicator":  # a connection for replication knows nothing else
        made.autocommit = True
    return made


def connect_local(document, database="postgres", sockets=SOCKETS):
    made = psycopg2.connect(
        host=str(sockets), port=document.ports["postgres"], dbname=database, user="postgres", connect_timeout=2, application_name="nm-postgres"
    )
    made.autocommit = True
    return made


def one_row(connection, query):
    with connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()


def position(lsn):
    high, _, low = lsn.partition("/")
    return (int(high, 16) << 32) + int(low, 16)
