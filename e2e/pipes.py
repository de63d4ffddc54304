#!/usr/bin/env python3
"""`containers exec -i` through the real client and a real engine: bytes as they are, the streams apart, the exit code passed on."""

import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))
from checks import Suite
from docker import Docker
from nm import PREFIX, NeuralMesh, binary

suite = Suite("pipes")
docker = Docker()
mesh = NeuralMesh()
name = f"{PREFIX}pipes"


def setup():
    suite.on_exit(mesh.close)
    suite.on_exit(docker.remove_prefix, PREFIX)
    mesh.up()
    mesh.client.post("/api/containers", {"name": name, "image": "busybox:latest", "command": ["sleep", "600"], "start": True, "stopGrace": 0}).expect(201)


def execute(*command, **streams):
    environment = {**os.environ, "NEURALMESH_TOKEN": mesh.client.token, "NEURALMESH_SERVER": mesh.url}
    arguments = [binary(), "containers", "exec", "-i", name, "--", *command]
    return subprocess.run(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120, check=False, **streams)


@suite.check("a pipe: 20 MB of any bytes go through `cat` and come back the same")
def _():
    sent = os.urandom(20_000_001)
    done = execute("cat", input=sent)
    assert (done.returncode, done.stderr) == (0, b""), (done.returncode, done.stderr[:500])
    assert done.stdout == sent, f"{len(done.stdout)} of {len(sent)} bytes came back, or others"


@suite.check("a file: its end ends the program, standard error comes apart, and the exit code is the program's")
def _():
    with open(__file__, "rb") as file:
        done = execute("sh", "-c", "wc -c; echo told >&2; exit 7", stdin=file)
    assert (int(done.stdout), done.stderr, done.returncode) == (Path(__file__).stat().st_size, b"told\n", 7), done


@suite.check("a program that is not there, and one that reads nothing")
def _():
    done = execute("no-such-program", input=b"x" * 200_000)
    assert done.returncode != 0 and b"no-such-program" in done.stderr, done
    done = execute("true", input=b"x" * 200_000)
    assert done.returncode == 0, done


suite.run(setup)
