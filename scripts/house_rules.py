#!/usr/bin/env python3
"""Rules of this repository that no compiler checks. A rule that is broken says where; long files are listed, not refused.

A line of Rust is test code when it lies in a `tests/` folder, in a file `tests.rs`, in the crate `testing`, or below `#[cfg(test)]`.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "e2e/lib"))
from checks import Suite

LINES_AT_MOST = 600
SHELL = re.compile(r'"(?:/(?:usr/)?bin/)?(?:ba|da|z|k)?sh"')
suite = Suite("house rules")


def files(*endings):
    """The files git knows or would add, with these endings."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [name for name in listed.splitlines() if name.endswith(endings) and (ROOT / name).is_file()]


class Line:
    def __init__(self, file, number, text, in_test):
        self.file, self.number, self.text, self.in_test = file, number, text, in_test

    @property
    def code(self):
        """The line without a comment at its end; a `//` inside a string, as in a URL, stays."""
        return re.sub(r"(?<!:)//(?=[^\"]*$).*", "", self.text)

    def __str__(self):
        return f"{self.file}:{self.number}: {self.text.strip()}"


# What tests are made with.
KITS = ("crates/testing/", "crates/waits/")


def rust():
    lines = []
    for name in files(".rs"):
        if not name.startswith("crates/"):
            continue
        in_test = "/tests/" in name or name.endswith("/tests.rs") or name.startswith(KITS)
        for number, text in enumerate((ROOT / name).read_text().splitlines(), 1):
            in_test = in_test or "#[cfg(test)]" in text
            lines.append(Line(name, number, text, in_test))
    return lines


RUST = rust()


def none(found, what):
    assert not found, what + "\n" + "\n".join(str(line) for line in found)


@suite.check("no shell gets a command line: programs are started with an argument list (docs/SECURITY.md)")
def _():
    # An interactive `sh` inside a container is a program like any other; `sh -c`, or a shell on this machine, is what is refused. A script
    # that is a file of ours, whole, takes no word of anybody's: one may run in a container.
    found = []
    for i, line in enumerate(RUST):
        near = [other.code for other in RUST[max(0, i - 3) : i + 4] if other.file == line.file]
        started = re.search(r"Command::new\(\s*" + SHELL.pattern, line.code)
        if started or (not line.in_test and SHELL.search(line.code) and any('"-c"' in text and "include_str!" not in text for text in near)):
            found.append(line)
    none(found, "a shell is started here:")


@suite.check("no test is ignored")
def _():
    none([line for line in RUST if re.search(r"#\[ignore", line.code)], "ignored here:")
    skipped = [
        f"{name}:{number}: {text.strip()}"
        for name in files(".ts", ".tsx")
        for number, text in enumerate((ROOT / name).read_text().splitlines(), 1)
        if re.search(r"\b(?:it|test|describe)\.(?:skip|only|todo)\(", text)
    ]
    none(skipped, "skipped, or the only one, here:")


@suite.check("no test sleeps: it waits on a condition with a deadline")
def _():
    # One sleep is none of that: one whose line above says why it must pass. The crate `waits` has the pause between two looks, and
    # `testing` plays slow agents.
    found = []
    for previous, line in zip([None, *RUST], RUST):
        if line.in_test and not line.file.startswith(KITS) and re.search(r"\b(?:thread|time)::sleep\(", line.code):
            if not previous.text.strip().startswith("//"):
                found.append(line)
    none(found, "sleeps here:")


@suite.check("no lint is allowed silently: #[expect(lint, reason = \"…\")]")
def _():
    none([line for line in RUST if re.search(r"#!?\[(?:cfg_attr\([^)]*,\s*)?allow\(", line.code)], "allowed here:")


@suite.check("nothing is left for later")
def _():
    marks = re.compile(r"\b(?:todo|unimplemented)!\(|\b(?:TODO|FIXME|XXX)\b")
    none([line for line in RUST if marks.search(line.text)], "marked here:")
    others = [
        f"{name}:{number}: {text.strip()}"
        for name in files(".ts", ".tsx", ".sh")
        for number, text in enumerate((ROOT / name).read_text().splitlines(), 1)
        if re.search(r"\b(?:TODO|FIXME)\b", text)
    ]
    none(others, "marked here:")


@suite.check("no .unwrap() outside tests; an .expect() says why it can't fail")
def _():
    none([line for line in RUST if not line.in_test and re.search(r"\.unwrap\(\)|\.expect\(\"\"\)", line.code)], "unwraps here:")


@suite.check("every crate takes the workspace's lints")
def _():
    missing = [name for name in files("Cargo.toml") if name.startswith("crates/") and not re.search(r"\[lints\]\s*workspace\s*=\s*true", (ROOT / name).read_text())]
    none(missing, "not taken by:")


@suite.check("types and plan do no input or output")
def _():
    forbidden = re.compile(r"\b(?:tokio|std::fs|std::net::Tcp|std::process|std::env|SystemTime::now|Instant::now)\b")
    pure = [line for line in RUST if line.file.startswith(("crates/types/", "crates/plan/")) and not line.in_test]
    none([line for line in pure if forbidden.search(line.code)], "reaches outside here:")


@suite.check(f"files of at most about {LINES_AT_MOST} lines")
def _():
    for name in files(".rs", ".ts", ".tsx", ".py", ".sh"):
        count = (ROOT / name).read_text().count("\n")
        if count > LINES_AT_MOST:
            print(f"    note: {name} has {count} lines; split it by subject")


suite.run()
