"""What the benches share: their options, a service to measure, and how they tell what they saw."""

import argparse
import contextlib
import json
import os
import platform
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e/lib"))
from nm import Client, NeuralMesh, binary


def options(doc):
    parser = argparse.ArgumentParser(description=doc.strip().splitlines()[0])
    parser.add_argument("--short", action="store_true", help="few rounds: shows that it works, not how fast")
    parser.add_argument("--url", help="measure this API instead of starting one")
    parser.add_argument("--token", default=os.environ.get("NEURALMESH_TOKEN"), help="a token for --url")
    return parser


@contextlib.contextmanager
def service(chosen, **more):
    """A NeuralMesh with a client: the one at --url, or one of our own that ends with the block."""
    if chosen.url:
        there = argparse.Namespace(client=Client.of_url(chosen.url, chosen.token), url=chosen.url, process=None)
        there.client.get("/api/nodes").expect(200)
        yield there
        return
    mesh = NeuralMesh(**more)
    try:
        mesh.up()
        yield mesh
    finally:
        mesh.close()


def build():
    """How the binary was built, told by where it lies; a debug build says little about speed."""
    return next((kind for kind in ("release", "dist", "debug") if f"/{kind}/" in binary()), "unknown")


def report(name, rows):
    """A table for people on stderr and, on stdout, one JSON line a row."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns] + [[tell(row.get(c)) for c in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip(), file=sys.stderr)
    for row in rows:
        print(json.dumps({"bench": name, "build": build(), "cpus": os.cpu_count(), "kernel": platform.release(), **row}), flush=True)


def tell(value):
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return str(value)
