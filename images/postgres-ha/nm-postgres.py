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

import json
import os
import sys

import nm_restore
from nm_commands import COMMANDS
from nm_common import Refused
from nm_database import bootstrap
from nm_document import Document
from nm_run import become_postgres, patroni, prepare, supervise


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
