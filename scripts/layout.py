#!/usr/bin/env python3
"""Writes crates/neuralmesh/layout.ld: the functions that a load balancer runs, for the linker to lay side by side.

The kernel maps a program's code 64 KB at a time. A load balancer uses 0.8 MB of the 35 MB that the program has, and where these lie
all over it, 6 MB of it are resident. So the release build puts them in one place.

    layout.py

It builds, runs a load balancer under valgrind's callgrind, which tells what was called, and asks the linker's map where each function
came from. Names are written without the compiler's hashes, save where that would name too many, so that the file holds for other
versions too: a function that is new or has another name stays where the linker puts it, and costs memory, nothing else. To be run
again where benches/lb.py shows that memory has grown. Needs valgrind, nginx-light, wrk, curl, openssl.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "e2e/lib"), str(ROOT / "benches")]
BINARY = ROOT / "target/release/neuralmesh"
os.environ["NM_BINARY"] = str(BINARY)
import lb
from checks import eventually
from nm import Process

SCRIPT = ROOT / "crates/neuralmesh/layout.ld"
SETTINGS = "NEURALMESH_PROXY_SETTINGS"
# A group of functions is named as one where at least this part of its bytes is used.
DENSE = 0.7
HASH = re.compile(r"17h[0-9a-f]{16}E")


def build(link_map):
    """A release build in which functions lie as they come, and the linker's map of it."""
    SCRIPT.write_text("SECTIONS {} INSERT BEFORE .text;\n")
    command = ["cargo", "rustc", "--release", "--locked", "-p", "neuralmesh", "--bin", "neuralmesh", "--", "-C", f"link-arg=-Wl,-Map={link_map}"]
    subprocess.run(command, cwd=ROOT, check=True)


def called(folder, traffic):
    """The names of the functions that a load balancer calls, from its start to its end."""
    folder.mkdir()
    lb.certificate(folder)
    backend, port = lb.start_backend(folder)
    running = [backend]
    try:
        side = lb.Ours(folder, port)
        side.start()
        running.append(side.process)
        # What the command line became: the process that serves.
        words = Path(f"/proc/{side.process.pid}/environ").read_bytes().split(b"\0")
        settings = next(word for word in words if word.startswith(SETTINGS.encode())).split(b"=", 1)[1].decode()
        side.process.stop()
        told = folder / "called"
        valgrind = ["valgrind", "--tool=callgrind", "--demangle=no", f"--callgrind-out-file={told}"]
        side.process = Process("callgrind", [*valgrind, *side.command()], folder / "log", env={SETTINGS: settings}).start()
        running.append(side.process)
        for port in side.ports.values():
            eventually(lambda: lb.accepts(port), seconds=60, what=f"{port} is listened on")
        traffic(side, folder)
        side.process.stop(60)
    finally:
        for process in running:
            process.sweep()
    return functions(told.read_text())


def wrk(*arguments):
    subprocess.run(["wrk", "-t1", "-d2s", "--timeout", "30s", *map(str, arguments)], check=True, capture_output=True)


def curl(*arguments):
    subprocess.run(["curl", "-sSk", "-o", "/dev/null", *map(str, arguments)], check=True)


def most(side, folder):
    """What nearly every one carries, and what its agent asks."""
    wrk("-c64", f"http://127.0.0.1:{side.ports['http']}/small")
    for question in ("status", "metrics"):
        curl("--unix-socket", folder / "neuralmesh/socket", f"http://proxy/v1/{question}")


def everything(side, folder):
    """HTTP/1.1 and HTTP/2, with TLS and without, bodies, TCP, a path that leads nowhere."""
    address = {kind: f"{'https' if kind == 'https' else 'http'}://127.0.0.1:{port}" for kind, port in side.ports.items()}
    post = folder / "post.lua"
    post.write_text('wrk.method = "POST"\nwrk.body = string.rep("x", 100)\n')
    wrk("-c64", "-s", post, address["http"] + "/small")
    wrk("-c16", address["http"] + "/medium")
    for kind in ("https", "tcp"):
        wrk("-c16", address[kind] + "/small")
        wrk("-c4", address[kind] + "/bulk")
    curl("--http2", address["https"] + "/bulk")
    curl("--http2-prior-knowledge", address["http"] + "/medium")
    curl("--http2", "--data-binary", f"@{post}", address["https"] + "/small")
    curl(address["http"] + "/nowhere")


def functions(told):
    """Callgrind's own format: `fn=(ID) NAME` begins a function, `ob=(ID) FILE` the file it is of, and names are told once."""
    files, names, found, ours = {}, {}, set(), False
    for line in told.splitlines():
        match = re.match(r"(c?)(ob|fn)=\((\d+)\)(?: (.*))?$", line)
        if not match:
            continue
        is_callee, kind, number, name = match.groups()
        known = files if kind == "ob" else names
        if name:
            known[number] = name
        if kind == "ob" and not is_callee:
            ours = Path(files[number]).name == BINARY.name
        if kind == "fn" and not is_callee and ours:
            found.add(re.sub(r"'\d+$", "", names[number]))  # a call of itself is told as NAME'2
    return found


class Section:
    """A piece of code as the linker took it: its file, by a pattern, its name there, and its size."""

    def __init__(self, file, name, size):
        self.name, self.size, self.symbols = name, size, [name.removeprefix(".text.")]
        archive = re.search(r"/(lib[^/]*)-[0-9a-f]{16}\.rlib\((?:[0-9a-f]{16}-)?(.*)\)$", file)
        if archive:
            self.file = f"*{archive[1]}-*.rlib:*" + (archive[2] if name == ".text" else "")
        else:
            self.file = "*neuralmesh-*.rcgu.o" if file.endswith(".rcgu.o") else None

    def groups(self):
        """Patterns that fit it, the widest first: its path in the crate, part by part, and itself."""
        if self.name == ".text":
            return [(self.file, ".text")]
        name, parts, at = self.symbols[0], [], 3
        while name.startswith("_ZN") and (length := re.match(r"\d+", name[at:])) and not HASH.match(name[at:]):
            at += len(length[0]) + int(length[0])
            parts.append((self.file, f".text.{name[:at]}*"))
        name = re.sub(r"\.llvm\.\d+", ".llvm.*", HASH.sub("17h*E", name))
        return parts[:-1] + [(self.file, ".text." + (re.sub(r"Cs[0-9A-Za-z]+_", "Cs*_", name) if name.startswith("_R") else name))]


def sections(link_map):
    """LLD's map: addresses and sizes, then the output section, the input section or, below it, a symbol, each further to the right."""
    found, in_text = [], False
    with open(link_map) as lines:
        for line in lines:
            match = re.match(r"\s*[0-9a-f]+\s+[0-9a-f]+\s+([0-9a-f]+)\s+\d+ (\s*)(\S.*)$", line)
            if not match:
                continue
            size, depth, what = int(match[1], 16), len(match[2]), match[3]
            if depth == 0:
                in_text = what.startswith(".text")
            elif in_text and depth == 8:
                file, _, name = what[:-1].rpartition(":(")
                found.append(Section(file, name, size))
            elif in_text and found and found[-1].name == ".text":
                found[-1].symbols.append(what)
    return [section for section in found if section.file]


def patterns(all_sections, names):
    """The widest groups that are dense; and single functions, with their hash, that share their name with many that are not called."""
    total, used, below, roots, whole = Counter(), Counter(), defaultdict(set), set(), defaultdict(list)
    for section in all_sections:
        groups, is_used = section.groups(), any(symbol in names for symbol in section.symbols)
        roots.add(groups[0])
        for group in groups:
            total[group] += section.size
            used[group] += section.size * is_used
        for wide, narrow in zip(groups, groups[1:]):
            below[wide].add(narrow)
        if is_used:
            whole[groups[-1]].append(section)
    dense, alone, look = [], [], sorted(roots)
    while look:
        group = look.pop()
        if used[group] and used[group] >= DENSE * total[group]:
            dense.append(group)
        elif below[group]:
            look.extend(below[group])
        else:
            alone += [(section.file, section.name) for section in whole[group]]
    print(f"{len(dense)} groups and {len(alone)} functions, {sum(s.size for of_name in whole.values() for s in of_name) / 1e6:.2f} MB used")
    return sorted(dense) + sorted(alone)


def main():
    with tempfile.TemporaryDirectory(prefix="nm-layout-") as folder:
        folder = Path(folder)
        folder.chmod(0o755)
        build(folder / "map")
        found = sections(folder / "map")
        # What most of them run comes first, so that it is together without the rest.
        chosen = [patterns(found, called(folder / traffic.__name__, traffic)) for traffic in (most, everything)]
    lines = ["/* Written by scripts/layout.py, which says what it is for. */", "SECTIONS", "{", "  .text.proxy :", "  {"]
    seen = set()
    for names in chosen:
        by_file = defaultdict(list)
        for file, name in names:
            if (file, name) not in seen:
                by_file[file].append(name)
        seen.update(names)
        for file, own in by_file.items():
            lines += [f"    {file}(", *(f"      {name}" for name in own), "    )"]
    SCRIPT.write_text("\n".join([*lines, "  }", "}", "INSERT BEFORE .text;", ""]))


main()
