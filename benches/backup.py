#!/usr/bin/env python3
"""Our backup worker beside restic and borg: the same generated data, the same steps, one run.

1.5 GB in 20,000 files (many small ones, text, random bytes; the same each time): the first backup, one of unchanged files, one after 2%
changed, one that rereads everything, a restore, a restore that reads back what it wrote, and checks of the structure and of all data. Each
round has fresh repositories; within a step the tools take turns, each with all it reads in the page cache. CPU is what the kernel counted for a process and those it waited for,
memory the peak of the whole process tree, in MB of 1,000,000 bytes. A ratio is taken within a round against the faster of restic and
borg, and the median round is told. Goals, against the faster one (the smaller repository): first 0.9, unchanged and 2% changed 0.8,
restore 0.7 within 256 MB, checks 0.8, size 1.0.

    backup.py [--short] [--rounds N] [--worker COMMAND] [--restic PATH] [--folder DIR]

Needs Debian's restic and borgbackup. Use a release build: NM_BINARY=target/release/neuralmesh.
"""

import datetime
import json
import os
import random
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e/lib"))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from nm import binary, median
from report import options, report

SEED = 20261127
PASSWORD = "6e6f7420736563726574206f662061207265706f7369746f7279206275742062656e"
MB = 1_000_000
# How many files of which size at most, and of what: words compress, random bytes do not.
KINDS = (
    ("small", 16_000, (200, 16_000), "words"),
    ("text", 3_500, (20_000, 200_000), "words"),
    ("blob", 400, (100_000, 1_000_000), "random"),
    ("large", 100, (5 * MB, 9 * MB), "random"),
)
GOALS = {"first": 0.9, "unchanged": 0.8, "2% changed": 0.8, "restore": 0.7, "check, structure": 0.8, "check, all data": 0.8, "size": 1.0}
MEMORY_GOAL_MB = {"restore": 256}
PAGE = os.sysconf("SC_PAGE_SIZE")


# ---- the data ------------------------------------------------------------------------------------------------------

VOCABULARY = [("".join(random.Random(SEED + i).choices("etaoinshrdlucmfw", k=2 + i % 9)) + " ").encode() for i in range(256)]


def content(rng, size, what):
    if what == "random":
        return rng.randbytes(size)
    return b"".join(map(VOCABULARY.__getitem__, rng.randbytes(size // 6 + 1)))[:size]


def generate(folder, share):
    """Writes the files, `share` of each kind; gives their paths in the order they were written."""
    rng, paths = random.Random(SEED), []
    for kind, count, (least, most), what in KINDS:
        for i in range(max(2, int(count * share))):
            path = folder / kind / f"{i % 97:02}" / f"{i:05}.{what}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content(rng, rng.randint(least, most), what))
            paths.append(path)
    return paths


def change(paths, round_number):
    """Writes 2% of the files anew, of all kinds in their shares, some of them only at their end."""
    rng = random.Random(SEED * 31 + round_number)
    for path in rng.sample(paths, max(1, len(paths) // 50)):
        size, what = path.stat().st_size, path.suffix[1:]
        if rng.random() < 0.5:
            with path.open("ab") as out:
                out.write(content(rng, max(1, size // 20), what))
        else:
            path.write_bytes(content(rng, size, what))


def describe(folder):
    """What a tree is: type, mode, owner, time and bytes of each entry."""
    seen = {}
    for path in sorted(folder.rglob("*")):
        at = path.lstat()
        body = path.read_bytes() if stat.S_ISREG(at.st_mode) else None
        seen[str(path.relative_to(folder))] = (at.st_mode, at.st_uid, at.st_gid, at.st_mtime_ns, hash(body))
    return seen


# ---- running and measuring -----------------------------------------------------------------------------------------


def high_water(pid):
    """The most resident memory that a process had. The kernel's `ru_maxrss` is no use: it begins with what the caller had."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def tree_bytes(root):
    """Resident memory of a process and all that it started."""
    total, look = 0, [root]
    while look:
        pid = look.pop()
        try:
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                look.extend(int(child) for child in task.read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
    return total


def warm(*folders):
    """Reads all that is there: borg has the kernel forget what it read, and whoever came after it would wait for the disk."""
    for path in (p for folder in folders for p in folder.rglob("*") if p.is_file()):
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 20):
                pass


class Measured:
    """One run of a program: seconds, CPU seconds, peak MB, and what it wrote to its standard output."""

    def __init__(self, command, env=None, cwd=None, stdin=None):
        os.sync()  # what was written before is not this run's
        with tempfile.TemporaryFile() as errors:
            began = time.perf_counter()
            process = subprocess.Popen(
                command, env=env, cwd=cwd, stdin=subprocess.PIPE if stdin else subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
            )
            peak, ended = [0], threading.Event()

            def watch():
                while not ended.wait(0.01):
                    peak[0] = max(peak[0], tree_bytes(process.pid), high_water(process.pid))

            watcher = threading.Thread(target=watch)
            watcher.start()
            if stdin:  # it stays open: a worker ends with it
                process.stdin.write(stdin)
                process.stdin.flush()
            self.output = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            self.seconds = time.perf_counter() - began
            process.returncode = os.waitstatus_to_exitcode(status)
            ended.set()
            watcher.join()
            if stdin:
                process.stdin.close()
            process.stdout.close()
            if process.returncode != 0:
                errors.seek(0)
                says = errors.read().decode(errors="replace")[-2000:] + self.output.decode(errors="replace")[-2000:]
                raise RuntimeError(f"{shlex.join(map(str, command))} ended with {process.returncode}: {says}")
        self.cpu = usage.ru_utime + usage.ru_stime
        self.megabytes = peak[0] / MB


class Tool:
    """A backup program with a repository of its own."""

    def __init__(self, folder, data):
        self.folder, self.data, self.count = folder, data, 0
        self.repository = folder / "repository"
        self.env = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8"}

    def fresh(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.count = 0

    def target(self):
        # It stays until the next round: ext4 gives no inode again that was freed a moment ago, and whoever writes next pays for the search.
        return Path(tempfile.mkdtemp(prefix="restored.", dir=self.folder))

    def size(self):
        return sum(f.stat().st_size for f in self.repository.rglob("*") if f.is_file())


class Restic(Tool):
    name = "restic"

    def __init__(self, program, folder, data):
        super().__init__(folder, data)
        self.env |= {"RESTIC_PASSWORD": PASSWORD, "RESTIC_REPOSITORY": str(self.repository), "RESTIC_CACHE_DIR": str(folder / "cache")}
        self.program = program

    def run(self, *arguments):
        return Measured([self.program, "--quiet", *map(str, arguments)], env=self.env)

    def fresh(self):
        super().fresh()
        self.run("init", "--repository-version", "2")

    def backup(self, reread=False):
        return self.run("backup", *(["--force"] if reread else []), self.data)

    def restore(self):
        out = self.target()
        return self.run("restore", "latest", "--target", out), out / self.data.relative_to("/")

    def restore_verified(self):
        out = self.target()
        return self.run("restore", "latest", "--verify", "--target", out), out / self.data.relative_to("/")

    def check(self, data):
        return self.run("check", *(["--read-data"] if data else []))


class Borg(Tool):
    name = "borg"

    def __init__(self, program, folder, data):
        super().__init__(folder, data)
        self.program = program
        self.env |= {"BORG_PASSPHRASE": PASSWORD, "BORG_REPO": str(self.repository), "BORG_BASE_DIR": str(folder / "base")}

    def run(self, *arguments, cwd=None):
        return Measured([self.program, *map(str, arguments)], env=self.env, cwd=cwd)

    def fresh(self):
        super().fresh()
        self.run("init", "--encryption", "repokey-blake2")

    def backup(self, reread=False):
        self.count += 1
        return self.run("create", "--compression", "zstd,3", *(["--files-cache", "disabled"] if reread else []), f"::{self.count}", self.data)

    def restore(self):
        out = self.target()
        return self.run("extract", f"::{self.count}", cwd=out), out / self.data.relative_to("/")

    restore_verified = None  # it has no such thing

    def check(self, data):
        return self.run("check", *(["--verify-data"] if data else []))


class Ours(Tool):
    name = "neuralmesh"

    def __init__(self, command, folder, data):
        super().__init__(folder, data)
        self.command = command
        self.id = None
        self.snapshots = []

    def fresh(self):
        super().fresh()
        self.id, self.snapshots = None, []

    def job(self, **task):
        self.count += 1
        access = {"place": {"kind": "path", "path": str(self.repository)}, "password": PASSWORD}
        if self.id:
            access["id"] = self.id
        step = "".join(chr(ord("a") + int(digit)) for digit in str(self.count))
        job = {"key": f"op_1764248400000_benchmark-{step}", "repository": access, "task": task}
        measured = Measured(self.command, env=self.env, stdin=json.dumps(job).encode() + b"\n")
        last = json.loads(measured.output.splitlines()[-1])
        if last["type"] != "done":
            raise RuntimeError(f"{task['do']}: {last}")
        return measured, last["outcome"]

    def backup(self, reread=False):
        parent = self.snapshots[-1] if self.snapshots and not reread else None
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        measured, made = self.job(
            **{"do": "backup", "type": "incremental" if parent else "full", **({"parent": parent} if parent else {})},
            host="bench",
            label="backup_cfg_1764248400000_benchmark",
            tags=[f"bench-{self.count}"],
            once=f"bench-{self.count}",
            time=now,
            sources=[{"from": "path", "path": str(self.data), "at": str(self.data)}],
            compression=True,
        )
        assert made["problemCount"] == 0, made
        self.id = made["repository"]
        self.snapshots.append(made["snapshot"])
        return measured

    def restored(self, verify):
        out = self.target() / "data"
        measured, made = self.job(
            do="restore", snapshot=self.snapshots[-1], items=[{"from": str(self.data), "to": str(out), "replace": True}], verify=verify
        )
        assert made["problemCount"] == 0 and made["verified"] == verify, made
        return measured, out

    def restore(self):
        return self.restored(False)

    def restore_verified(self):
        return self.restored(True)

    def check(self, data):
        read = {"read": {"n": 1, "of": 1}} if data else {}
        measured, made = self.job(do="check", expect=self.snapshots, **read)
        assert made["findingCount"] == 0, made
        return measured


# ---- the run -------------------------------------------------------------------------------------------------------

STEPS = {
    "first": lambda tool: tool.backup(),
    "unchanged": lambda tool: tool.backup(),
    "2% changed": lambda tool: tool.backup(),
    "full reread": lambda tool: tool.backup(reread=True),
    "restore": lambda tool: tool.restore(),
    "restore, read back": lambda tool: tool.restore_verified and tool.restore_verified(),
    "check, structure": lambda tool: tool.check(data=False),
    "check, all data": lambda tool: tool.check(data=True),
}


def run(tools, paths, data, rounds):
    """What each tool took in each step of each round, by (step, tool); and the sizes of their repositories."""
    taken, sizes = {}, {}
    for number in range(rounds):
        for tool in tools:
            tool.fresh()
        for step, act in STEPS.items():
            if step == "2% changed":
                change(paths, number)
            if number == 0 and step == "restore":
                wanted = describe(data)
            for tool in tools[number % len(tools) :] + tools[: number % len(tools)]:
                warm(tool.data, tool.repository)
                done = act(tool)
                if done is None:
                    continue
                if isinstance(done, tuple):
                    done, out = done
                    # Fast and wrong counts for nothing.
                    if number == 0 and describe(out) != wanted:
                        raise RuntimeError(f"{tool.name} restored another tree than was backed up")
                taken.setdefault((step, tool.name), []).append(done)
                print(f"  round {number + 1}: {step}: {tool.name}: {done.seconds:.2f} s", file=sys.stderr)
        for tool in tools:
            sizes.setdefault(tool.name, []).append(tool.size() / MB)
    return taken, sizes


def rows(tools, taken, sizes):
    ours, others = Ours.name, [t.name for t in tools if t.name != Ours.name]
    out = []
    for step in STEPS:
        for tool in tools:
            runs = taken.get((step, tool.name))
            if not runs:
                continue
            row = {
                "step": step,
                "tool": tool.name,
                "seconds": round(median([r.seconds for r in runs]), 2),
                "cpu": round(median([r.cpu for r in runs]), 2),
                "mb": round(median([r.megabytes for r in runs])),
            }
            if tool.name == ours:
                against = [taken[step, o] for o in others if (step, o) in taken]
                row |= judged(step, [mine.seconds / min(theirs) for mine, *theirs in zip(runs, *[[r.seconds for r in a] for a in against])])
                most = MEMORY_GOAL_MB.get(step)
                if most:
                    row |= {"goal": f"{row['goal']}, {most} MB", "reached": row["reached"] and row["mb"] <= most}
            out.append(row)
    for tool in tools:
        row = {"step": "size", "tool": tool.name, "mb": round(median(sizes[tool.name]))}
        if tool.name == ours:
            row |= judged("size", [mine / min(theirs) for mine, *theirs in zip(sizes[ours], *[sizes[o] for o in others])])
        out.append(row)
    return out


def judged(step, ratios):
    ratio, goal = median(ratios), GOALS.get(step)
    return {"ratio": round(ratio, 2), **({"goal": f"<= {goal}", "reached": round(ratio, 2) <= goal} if goal else {})}


def main():
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--worker", help="what reads a job from its standard input, in place of `neuralmesh backup-worker`")
    parser.add_argument("--restic", default="restic", help="another restic")
    parser.add_argument("--borg", default="borg", help="another borg")
    parser.add_argument("--folder", help="where data and repositories are written; a temporary folder by default")
    chosen = parser.parse_args()
    rounds = chosen.rounds or (1 if chosen.short else 3)
    with tempfile.TemporaryDirectory(prefix="nm-bench-backup.", dir=chosen.folder) as folder:
        work = Path(folder).resolve()
        data = work / "data"
        paths = generate(data, 0.02 if chosen.short else 1)
        total = sum(p.stat().st_size for p in paths)
        print(f"  {len(paths):,} files, {total / MB:,.0f} MB", file=sys.stderr)
        worker = shlex.split(chosen.worker) if chosen.worker else [binary(), "backup-worker"]
        os.environ["NM_BINARY"] = worker[0]  # what was measured is told with the figures
        tools = [Restic(chosen.restic, work / "restic", data), Borg(chosen.borg, work / "borg", data), Ours(worker, work / "neuralmesh", data)]
        taken, sizes = run(tools, paths, data, rounds)
    report("backup", rows(tools, taken, sizes))


main()
