#!/usr/bin/env python3
"""Runs a command beside a NeuralMesh that starts and ends with it.

    with_mesh.py -- COMMAND ARGS...

The command finds the API's address in NEURALMESH_SERVER and an admin's API token in NEURALMESH_TOKEN.
DOCKER_HOST, where set, is the engine the agent uses. The exit code is the command's; where that is not 0, the end of the service's
log is shown.
"""

import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from nm import NeuralMesh


def main():
    command = sys.argv[sys.argv.index("--") + 1 :]
    mesh = NeuralMesh()
    try:
        admin = mesh.up()
        token = admin.post("/api/tokens", {"name": "tests", "role": "admin"}).expect(201).data["token"]
        environment = os.environ | {"NEURALMESH_SERVER": mesh.url, "NEURALMESH_TOKEN": token}
        code = subprocess.run(command, env=environment).returncode
        if not mesh.process.running():
            print(f"with_mesh: the service ended by itself\n{mesh.process.tail(60)}", file=sys.stderr)
            code = code or 1
        elif code:
            print(mesh.process.tail(40), file=sys.stderr)
        sys.exit(code)
    finally:
        mesh.close()


main()
