#!/usr/bin/env python3
"""deny.toml's rules on licences, banned crates and sources, checked on `cargo metadata`: what cargo-deny checks, without having
to build it. It knows no advisories; cargo-deny is used in its place where it is installed."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "e2e/lib"))
from checks import Suite


def allowed(expression, licences):
    """Whether an SPDX expression can be met with the allowed licences. `/` is the old way to write OR."""
    tokens = re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))

    def alternatives():
        met = conjunction()
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            met = conjunction() or met
        return met

    def conjunction():
        met = term()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            met = term() and met
        return met

    def term():
        token = tokens.pop(0)
        if token == "(":
            met = alternatives()
            tokens.pop(0)
            return met
        if tokens and tokens[0] == "WITH":
            token = " ".join([token, tokens.pop(0), tokens.pop(0)])
        return token in licences

    return alternatives()


def main():
    rules = tomllib.loads((ROOT / "deny.toml").read_text())
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--all-features"]
    for target in rules["graph"]["targets"]:
        command += ["--filter-platform", target]
    ran = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE)
    if ran.returncode:
        sys.exit("check_dependencies.py: `cargo metadata` failed; it says why above")
    metadata = json.loads(ran.stdout)
    used = {node["id"] for node in metadata["resolve"]["nodes"]}
    members = set(metadata["workspace_members"])
    others = [p for p in metadata["packages"] if p["id"] in used and p["id"] not in members]
    suite = Suite("dependencies")

    def none(found):
        assert not found, "\n".join(found)

    @suite.check(f"the licence of each of {len(others)} crates is allowed")
    def _():
        licences = set(rules["licenses"]["allow"])
        more = {entry["crate"]: set(entry["allow"]) for entry in rules["licenses"].get("exceptions", [])}

        def fits(package):
            return package["license"] and allowed(package["license"], licences | more.get(package["name"], set()))

        none([f"{p['name']} {p['version']}: {p['license'] or 'none named'}" for p in others if not fits(p)])

    @suite.check("no banned crate")
    def _():
        banned = {entry["crate"] for entry in rules["bans"]["deny"]}
        none([f"{p['name']} {p['version']}" for p in others if p["name"] in banned])

    @suite.check("every crate comes from crates.io")
    def _():
        none([f"{p['name']} {p['version']}: {p['source']}" for p in others if p["source"] != "registry+https://github.com/rust-lang/crates.io-index"])

    suite.run()


main()
