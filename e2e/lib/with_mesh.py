#!/usr/bin/env python3
"""Runs a command beside a NeuralMesh that starts and ends with it.

    with_mesh.py [--own-engine IMAGE,...] -- COMMAND ARGS...

The command finds the API's address in NEURALMESH_SERVER and an admin's API token in NEURALMESH_TOKEN. With --own-engine the
agent uses a Docker engine of its own, with those images of the machine's. The exit code is the command's; where that is not 0,
the end of the service's log is shown.
"""

import argparse
import contextlib
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from engine import Engine
from nm import NeuralMesh


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--own-engine", metavar="IMAGES")
    parser.add_argument("command", nargs="+")
    chosen = parser.parse_args()
    with contextlib.ExitStack() as ending:
        arguments = []
        if chosen.own_engine:
            engine = Engine(*chosen.own_engine.split(","))
            ending.callback(engine.close)
            engine.start()
            arguments = ["--docker-socket", engine.socket]
        mesh = NeuralMesh(arguments=arguments)
        ending.callback(mesh.close)
        admin = mesh.up()
        token = admin.post("/api/tokens", {"name": "tests", "role": "admin"}).expect(201).data["token"]
        environment = os.environ | {"NEURALMESH_SERVER": mesh.url, "NEURALMESH_TOKEN": token}
        code = subprocess.run(chosen.command, env=environment).returncode
        if not mesh.process.running():
            print(f"with_mesh: the service ended by itself\n{mesh.process.tail(60)}", file=sys.stderr)
            code = code or 1
        elif code:
            print(mesh.process.tail(40), file=sys.stderr)
    sys.exit(code)


main()
