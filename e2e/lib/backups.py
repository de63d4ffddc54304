"""Backups in the lab: configs, backups and restores of a fleet's servers, and trees of odd files to compare.

    world = World(fleet)
    config = world.config("n1", paths=[folder], destination=world.folder("repository"))
    backup = config.perform()            # to its end: the backup as the API shows it
    world.restore(backup, target="/x")   # to its end: what the operation gave
    assert fingerprint("/a") == fingerprint("/x/a")
"""

import contextlib
import hashlib
import os
import signal
import stat
import subprocess
import tempfile
import time
from pathlib import Path

from checks import eventually
from nm import stat_fields

BACKUPS = "/api/capabilities/backups"
CONFIGS = f"{BACKUPS}/configs"
FINAL = ("succeeded", "failed", "cancelled")


class World:
    def __init__(self, fleet):
        self.fleet, self._configs = fleet, 0
        # Beside the lab's own folder, which belongs to the nodes and is no place for data of users.
        self._folder = tempfile.TemporaryDirectory(prefix="nm-backups-", ignore_cleanup_errors=True)
        self.dir = Path(self._folder.name)

    def close(self):
        self._folder.cleanup()

    @property
    def client(self):
        return self.fleet.client

    def folder(self, name):
        """A fresh folder of the machine, which is there on every node; its path as text."""
        path = self.dir / name
        path.mkdir(parents=True)
        return str(path)

    # ---- configs and backups -----------------------------------------------------------------------------------------

    def config(self, server, destination=None, **fields):
        self._configs += 1
        name = fields.pop("name", f"config {self._configs}")
        destination = destination or self.folder(f"repository-{time.monotonic_ns()}")
        body = {"serverId": server, "name": name, "destination": destination} | fields
        return Config(self, self.client.post(CONFIGS, body).expect(201).data)

    def ended(self, operation, seconds=60):
        def look():
            seen = self.client.get(f"/api/operations/{operation}").expect(200).data
            return seen if seen["state"] in FINAL else None

        return eventually(look, seconds, f"operation {operation} to end", every=0.1)

    def backup(self, reference):
        return self.client.get(f"{BACKUPS}/{reference}").expect(200).data

    def until(self, backup, *statuses, seconds=60):
        """The backup, once it has one of these statuses; any but in-progress where none is named."""

        def look():
            seen = self.backup(backup["id"])
            right = seen["status"] in statuses if statuses else seen["status"] != "in-progress"
            return seen if right else None

        return eventually(look, seconds, f"backup {backup['id']} to be {' or '.join(statuses) or 'done'}", every=0.1)

    def begin_restore(self, backup, **asked):
        return self.client.post(f"{BACKUPS}/{backup['id']}/restore", asked or None, timeout=150)

    def restore(self, backup, seconds=120, **asked):
        """What it gave, at once or by the operation that goes on; AssertionError with its log when it failed."""
        reply = self.begin_restore(backup, **asked).expect(200, 202)
        if reply.status == 200:
            return reply.data
        done = self.ended(reply.data["id"], seconds)
        assert done["state"] == "succeeded", describe(done)
        return done["result"]


class Config:
    def __init__(self, world, row):
        self.world, self.id, self.row = world, row["id"], row
        self.path = f"{CONFIGS}/{self.id}"
        self.repository = f"{row['destination']}/{self.id}"

    def look(self):
        return self.world.client.get(self.path).expect(200).data

    def patch(self, **fields):
        return self.world.client.patch(self.path, fields).expect(200).data

    def begin(self):
        return self.world.client.post(f"{BACKUPS}/perform/{self.id}").expect(202).data

    def perform(self, seconds=60):
        """A backup, to the end of its operation, whatever came of it."""
        begun = self.begin()
        self.world.ended(begun["operationId"], seconds)
        return self.world.until(begun, seconds=5)

    def completed(self, seconds=60):
        """The same, which must be good."""
        made = self.perform(seconds)
        assert made["status"] == "completed", f"{made['status']}: {made.get('message')} {made.get('problems', '')}"
        return made

    def failed(self, *codes, seconds=60):
        """The same, which must fail in one of these ways, and leave no snapshot: what was said of it."""
        before = self.snapshots()
        begun = self.begin()
        done = self.world.ended(begun["operationId"], seconds)
        made = self.world.until(begun, seconds=5)
        assert made["status"] == "failed" and done["state"] == "failed", (made, done)
        assert not codes or done["error"]["code"] in codes, done["error"]
        assert self.snapshots() == before, "a failed backup left a snapshot"
        return made["message"]

    def backups(self):
        return self.world.client.every(f"{BACKUPS}?configId={self.id}")

    def snapshots(self):
        """Names of the repository's snapshot files, past everybody."""
        folder = Path(self.repository) / "snapshots"
        return sorted(os.listdir(folder)) if folder.is_dir() else []

    def restic(self, *arguments, recovery=False):
        """Debian's restic on the repository, with the key that the API gives."""
        key = self.world.client.get(f"{self.path}/key").expect(200).data
        password = key["recoveryPassword" if recovery else "password"]
        done = subprocess.run(
            ["restic", "-r", key["repository"], "--no-cache", *map(str, arguments)],
            env=os.environ | {"RESTIC_PASSWORD": password}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120,
        )  # fmt: skip
        text = done.stdout.decode(errors="replace")
        assert done.returncode == 0, f"restic {' '.join(map(str, arguments))} ended with {done.returncode}\n{text[-3000:]}"
        return text


def describe(operation):
    lines = "\n".join(line["line"] for line in operation["log"][-15:])
    return f"{operation['kind']} {operation['state']}: {operation.get('error')}\n{lines}"


def workers_of(fleet, node):
    """Processes of backup workers on the node, as the machine numbers them."""
    init, found = os.readlink(f"/proc/{(fleet.dir / 'nodes' / node / 'init.pid').read_text().strip()}/ns/pid"), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"\0backup-worker\0" in (folder / "cmdline").read_bytes() and os.readlink(folder / "ns/pid") == init:
                found.append(int(folder.name))
        except OSError:
            pass
    return found


@contextlib.contextmanager
def still(fleet, node):
    """The worker there, which stands still until the end of the block."""
    (worker,) = eventually(lambda: workers_of(fleet, node), 20, "its worker", every=0.002)
    os.kill(worker, signal.SIGSTOP)
    try:
        # A signal arrives when it arrives: the kernel wakes those whose parent ends only if they stood still before.
        eventually(lambda: stat_fields(worker)[0] == "T", 10, "the worker to stand still", every=0.002)
        yield worker
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGCONT)


# ---- files -----------------------------------------------------------------------------------------------------------


def odd_tree(root):
    """All that is hard to keep: owners, modes, times, links of both kinds, holes, attributes, names."""
    root = Path(root)
    (root / "deep/er/est").mkdir(parents=True)
    (root / "empty").mkdir(mode=0o750)
    (root / "text").write_text("one\n" * 1000)
    (root / "binary").write_bytes(os.urandom(3_000_000))
    (root / "deep/er/est/file").write_bytes(b"")
    (root / "a name with spaces, ünï and \n a newline").write_text("odd")
    os.link(root / "text", root / "deep/hard")
    os.symlink("../text", root / "deep/relative")
    os.symlink("/nowhere/at/all", root / "dangling")
    with open(root / "sparse", "wb") as file:
        file.seek(50_000_000)
        file.write(b"end")
    (root / "setuid").write_text("#!/bin/sh\n")
    os.chown(root / "setuid", 1234, 2345)
    os.chmod(root / "setuid", 0o6755)
    os.chown(root / "empty", 33, 33)
    os.lchown(root / "dangling", 7, 8)
    os.chmod(root / "deep", 0o1777)
    os.setxattr(root / "text", "user.note", b"kept\0too")
    os.setxattr(root / "deep", "user.folder", b"x")
    os.mkfifo(root / "fifo")
    for path, at in ((root / "text", 1_000_000_000_123_456_789), (root / "empty", 900_000_000_000_000_001)):
        os.utime(path, ns=(at, at))


def fingerprint(root):
    """Everything that must come back, by path; inodes as which paths are the same file."""
    root, found, inodes = Path(root), {}, {}
    for path in sorted([root, *root.rglob("*")]):
        seen = path.lstat()
        name = str(path.relative_to(root))
        row = {"mode": oct(seen.st_mode), "owner": (seen.st_uid, seen.st_gid)}
        if not stat.S_ISLNK(seen.st_mode):
            row["mtime"] = seen.st_mtime_ns
            row["attributes"] = {key: os.getxattr(path, key) for key in sorted(os.listxattr(path))}
        if stat.S_ISREG(seen.st_mode):
            row["size"] = seen.st_size
            row["content"] = hashlib.sha256(path.read_bytes()).hexdigest()
            row["same"] = inodes.setdefault(seen.st_ino, name)
        elif stat.S_ISLNK(seen.st_mode):
            row["to"] = os.readlink(path)
        found[name] = row
    return found


def same(before, after):
    """AssertionError that names what differs."""
    differing = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    told = "; ".join(f"{name!r}: {before.get(name)} / {after.get(name)}" for name in sorted(differing)[:5])
    assert not differing, f"{len(differing)} differ: {told}"
