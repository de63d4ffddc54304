#!/usr/bin/env python3
"""Bad input and unlucky timing: each gets a clear 4xx or a clean retry; nothing is lost and nothing left behind."""

import json
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))
from checks import Suite, eventually
from docker import Docker
from nm import PREFIX, NeuralMesh, free_port

IMAGE = "busybox:latest"
suite = Suite("bad_input")
docker = Docker()
mesh = NeuralMesh()


def setup():
    suite.on_exit(mesh.close)
    suite.on_exit(docker.remove_prefix, PREFIX)
    mesh.up()


def body(name, **fields):
    return {"name": PREFIX + name, "image": IMAGE, "command": ["sleep", "600"], "stopGrace": 0} | fields


def create(name, **fields):
    return mesh.client.post("/api/containers", body(name, **fields))


def nothing_left(name):
    assert docker.inspect(PREFIX + name) is None, f"{PREFIX}{name} was left in Docker"
    mesh.client.get(f"/api/containers/{PREFIX}{name}").expect(404)


@suite.check("a wrong field: 400 or 422 that names it")
def _():
    for field, value, named in [
        ("memoryLimit", "lots", "memoryLimit"),
        ("memoryLimit", 512, "memoryLimit"),
        ("cpuLimit", 0, "cpuLimit"),
        ("cpuLimit", 1000, "cpuLimit"),
        ("ports", [{"container": 0, "host": 8080}], "ports[0].container"),
        ("ports", [{"container": 70000, "host": 8080}], "ports[0].container"),
        ("ports", [{"container": 80, "host": 70000}], "ports[0].host"),
        ("ports", [{"container": 80, "protocol": "sctp"}], "ports[0].protocol"),
        ("restart", "sometimes", "restart"),
        ("image", "", "image"),
        ("image", "--help", "image"),
        ("volumes", [{"container": "/x", "host": "/a/../etc"}], "volumes[0].host"),
        ("volumes", [{"container": "relative", "host": "/a"}], "volumes[0].container"),
        ("environment", {"BAD NAME": "x"}, "environment"),
        ("privileged", "yes", "privileged"),
        ("memroyLimit", "1g", "memroyLimit"),
    ]:
        reply = create("wrong", **{field: value}).expect(400, 422)
        told = json.dumps(reply.json.get("details", [])) + reply.error
        assert named.split("[")[0] in told, f"{field}={value!r} is not named: {reply}"
        if reply.status == 422:
            assert any(d["field"].startswith(named.split("[")[0]) and d["message"] for d in reply.json.get("details", [])), reply
    nothing_left("wrong")


@suite.check("dangerous mounts are refused: /, /etc, Docker's socket and data, our own data")
def _():
    for host in ("/", "/etc", "/etc/passwd", "/var/run/docker.sock", "/run/docker.sock", "/var/lib/docker", "/proc", str(mesh.data_dir)):
        create("mount", volumes=[{"container": "/x", "host": host}]).expect(403, 422)
    nothing_left("mount")


@suite.check("bodies that are no body: the same verdict")
def _():
    for raw, kind, statuses in [
        (b"", "application/json", (400, 415, 422)),
        (b"{", "application/json", (400,)),
        (b"[]", "application/json", (400, 422)),
        (b"null", "application/json", (400, 422)),
        (b'{"name":"a","name":"b","image":"c"}', "application/json", (400, 422)),
        (b"name=a", "application/x-www-form-urlencoded", (415,)),
        (b"\xff\xfe", "application/json", (400,)),
    ]:
        mesh.client.request("POST", "/api/containers", raw=raw, headers={"Content-Type": kind}).expect(*statuses)


@suite.check("10 MB of JSON: 413")
def _():
    with socket.create_connection(("127.0.0.1", mesh.port), timeout=20) as s:
        head = f"POST /api/containers HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {mesh.client.token}\r\n"
        s.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 10000000\r\n\r\n".encode())
        try:
            for _ in range(100):
                s.sendall(b"x" * 100_000)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it need not read what it refuses
        try:
            answer = s.recv(4096)
        except ConnectionResetError:
            answer = None
    assert answer is None or b" 413 " in answer.split(b"\r\n")[0], answer
    mesh.client.request("POST", "/api/containers", raw=b'{"name":"' + b"x" * 1_500_000 + b'"}').expect(413)


@suite.check("paths and methods that are not there: 404 and 405, in the envelope")
def _():
    mesh.client.get("/api/no-such-thing").expect(404)
    mesh.client.get("/api/containers/no-such-container").expect(404)
    reply = mesh.client.request("PUT", "/api/containers").expect(405)
    assert reply.headers["Allow"], reply
    mesh.client.post("/api/containers/cont_1_abc/no-such-verb").expect(404, 405)


@suite.check("an unknown node, a reserved name, a name that is taken: each says so")
def _():
    assert "node_123" in create("node", nodeId="node_123").expect(404, 422).error
    nothing_left("node")
    mesh.client.post("/api/containers", {"name": "list", "image": IMAGE}).expect(422)
    create("twin").expect(201)
    reply = create("twin").expect(409)
    assert f"{PREFIX}twin" in reply.error, reply
    assert len(docker.managed(PREFIX + "twin")[PREFIX + "twin"]) == 1


@suite.check("an image that does not exist: the sentence names it, nothing is left")
def _():
    reply = mesh.client.post("/api/containers", body("image") | {"image": "no-such-image-of-anyone:1"}, timeout=90)
    assert reply.status in (404, 422, 502, 503, 504), reply
    assert "no-such-image-of-anyone" in reply.error, reply
    nothing_left("image")


@suite.check("a host port that is taken: the sentence names it")
def _():
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        reply = create("port", ports=[{"container": 80, "host": port}], start=True).expect(409, 422)
        assert str(port) in reply.error, reply
    mesh.client.remove(PREFIX + "port")


@suite.check("more CPU than the node has: said before anything is made")
def _():
    reply = create("cores", cpuLimit=64)
    if reply.status != 201:  # a machine with 64 cores takes it
        reply.expect(409, 422)
        assert any(word in reply.error for word in ("CPU", "cpu", "core")), reply
        nothing_left("cores")


@suite.check("a container that exits at once: the answer has its last words")
def _():
    reply = create("brief", command=["sh", "-c", "echo last words; exit 7"], start=True)
    if reply.status == 201:
        seen = mesh.client.until_status(PREFIX + "brief", "exited")
        assert seen["exitCode"] == 7 and "7" in seen["message"], seen
        # Its log is read once it has ended.
        eventually(lambda: "last words" in mesh.client.container(PREFIX + "brief")["message"], 5, "its last words")
    else:
        reply.expect(409, 422)
        assert "last words" in reply.raw.decode() and "7" in reply.error, reply
    mesh.client.remove(PREFIX + "brief")


@suite.check("200 creates at once: all there, none twice")
def _():
    names = [f"many{i}" for i in range(200)]
    with ThreadPoolExecutor(50) as pool:
        replies = list(pool.map(create, names))
    for reply in replies:
        reply.expect(201)
    real = docker.managed(PREFIX + "many")
    assert len(real) == 200 and all(len(ids) == 1 for ids in real.values()), len(real)
    listed = {c["name"]: c["id"] for c in mesh.client.every("/api/containers") if c["name"].startswith(PREFIX + "many")}
    assert listed == {name: ids[0] for name, ids in real.items()}
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(mesh.client.remove, [PREFIX + name for name in names]))
    assert not docker.managed(PREFIX + "many")


@suite.check("the same create from 20 clients at once: one 201, one container")
def _():
    gate = threading.Barrier(20)

    def racer(_):
        gate.wait()
        return create("race")

    with ThreadPoolExecutor(20) as pool:
        replies = list(pool.map(racer, range(20)))
    assert sorted(r.status for r in replies) == [201] + [409] * 19, sorted(r.status for r in replies)
    assert len(docker.managed(PREFIX + "race")[PREFIX + "race"]) == 1
    mesh.client.remove(PREFIX + "race")


@suite.check("an Idempotency-Key sent twice: one container, the same answer")
def _():
    headers = {"Idempotency-Key": f"{PREFIX}key"}
    first = mesh.client.post("/api/containers", body("once"), headers=headers).expect(201)
    second = mesh.client.post("/api/containers", body("once"), headers=headers).expect(201)
    assert first.data["id"] == second.data["id"]
    mesh.client.post("/api/containers", body("other"), headers=headers).expect(409, 422)
    mesh.client.remove(PREFIX + "once")


@suite.check("a client that hangs up in the middle of its create: there whole, or not at all")
def _():
    names = [f"hangup{i}" for i in range(5)]
    for name in names:
        text = json.dumps(body(name)).encode()
        with socket.create_connection(("127.0.0.1", mesh.port), timeout=5) as s:
            head = f"POST /api/containers HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {mesh.client.token}\r\n"
            s.sendall(f"{head}Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)

    def same():
        listed = {c["name"]: [c["id"]] for c in mesh.client.every("/api/containers") if c["name"].startswith(PREFIX + "hangup")}
        return listed == docker.managed(PREFIX + "hangup") and listed

    # One whose client is gone before it was looked at may be dropped; not all of them are.
    what = "the API and Docker to have the same containers, each once"
    eventually(same, 15, what)
    # Whatever came before this one is over by then.
    mesh.client.remove(create("behind").expect(201).data["id"])
    for name in eventually(same, 15, what):
        mesh.client.remove(name)
    for name in names:
        nothing_left(name)


@suite.check("half a request and silence: closed in time, others are served meanwhile")
def _():
    with socket.create_connection(("127.0.0.1", mesh.port), timeout=30) as s:
        s.sendall(b"POST /api/containers HTTP/1.1\r\nHost: x\r\n")
        mesh.client.get("/api/containers").expect(200)
        try:
            s.recv(1000)  # 408 or closed, at the latest when the 10 s for headers are over
        except ConnectionResetError:
            pass


@suite.check("a port that is free again can be used: nothing is kept from the failed try")
def _():
    port = free_port()
    made = create("port2", ports=[{"container": 80, "host": port}], start=True).expect(201).data
    assert made["ports"][0]["host"] == port
    mesh.client.remove(PREFIX + "port2")


suite.run(setup)
