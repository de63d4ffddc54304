#!/usr/bin/env python3
"""`neuralmesh proxy` as processes: takes over from one another under load, starts again from its file, and ends when it is told to."""

import http.client
import json
import os
import signal
import socket
import stat
import sys
import tempfile
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))
from checks import Suite, eventually
from load import Load
from member import member
from nm import Process, binary, free_port

suite = Suite("proxy")
FOLDER = tempfile.TemporaryDirectory(prefix="nm-proxy-")
SOCKET, CONFIG, PORT = Path(FOLDER.name) / "control.sock", Path(FOLDER.name) / "proxy.json", free_port()
RUNNING = []


class Unix(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(str(SOCKET))


def ask(method, path, body=None):
    connection = Unix("proxy")
    connection.request(method, path, json.dumps(body) if body is not None else None)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def instance():
    try:
        return ask("GET", "/v1/status")[1]["instance"]
    except OSError:
        return None


def start():
    before = instance()
    arguments = [binary(), "proxy", "--config", CONFIG, "--control-socket", SOCKET, "--workers", "2", "--grace", "5s", "--handover-grace", "5s"]
    process = Process("proxy", arguments, Path(FOLDER.name) / "log").start()
    RUNNING.append(process)
    eventually(lambda: instance() not in (None, before), seconds=20, what=f"a new proxy answers\n{process.tail()}")
    return process


DOCUMENT = {
    "generation": 1,
    "listeners": [{"id": "web", "address": "127.0.0.1", "port": PORT, "protocol": "http", "routes": [{"cluster": "c"}]}],
    "clusters": [{"id": "c", "members": [{"id": "m", "address": "127.0.0.1", "port": member()}]}],
}


@suite.check("takes a configuration, for its owner's eyes only")
def _():
    start()
    assert ask("PUT", "/v1/config", DOCUMENT) == (200, {"generation": 1})
    status, answer = ask("PUT", "/v1/config", {**DOCUMENT, "typo": 1})
    assert status == 400 and answer["code"] == "invalid_config", answer
    for path in (SOCKET, CONFIG):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600, path


@suite.check("ten new processes take over one after another under load: no request fails")
def _():
    load = Load("127.0.0.1", PORT, fresh=4)
    for _round in range(10):
        old = RUNNING[-1]
        load.more(200)
        start()
        load.more(100)
        assert old.popen.wait(20) == 0, old.tail()
    print(f"    0 of {load.end()['done']} requests failed")


@suite.check("killed, it starts again from its file")
def _():
    RUNNING[-1].kill()
    start()
    assert ask("GET", "/v1/status")[1]["generation"] == 1
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=20)
    connection.request("GET", "/")
    assert connection.getresponse().status == 200


@suite.check("ends on SIGTERM and takes its sockets along")
def _():
    RUNNING[-1].popen.send_signal(signal.SIGTERM)
    assert RUNNING[-1].popen.wait(20) == 0
    assert not SOCKET.exists()


def sweep():
    for process in RUNNING:
        process.sweep()
    FOLDER.cleanup()


suite.on_exit(sweep)
suite.run()
