#!/usr/bin/env python3
"""Every request of the specification's container chapter, sent as it is written there (with a token), on a real engine.

Ports 5432 and 8080 of this machine must be free, and the images postgres:16, nginx:latest, redis:7 and node:20 present.
"""

import re
import shutil
import socket
import sys
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))
from checks import Suite, eventually
from docker import Docker
from nm import NeuralMesh, Unreachable

suite = Suite("spec_containers")
docker = Docker()
mesh = NeuralMesh()
made = {}  # what earlier checks made, by the name the specification gives it
node = {}

CONTAINER_ID = re.compile(r"^cont_\d{13}_[a-z0-9]{9}$")
TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
NAMES = ["my-postgres", "my-nginx", "my-app", "spec-nginx", "spec-postgresql", "spec-redis", "spec-nodejs"]
DATA = Path("/data/postgres")


def setup():
    for image in ("postgres:16", "nginx:latest", "redis:7", "node:20"):
        assert docker.has_image(image), f"{image} is not here; run e2e/images/build.sh"
    for name in NAMES:
        assert docker.inspect(name) is None, f"a container called {name} is here already; remove it"
    for port in (5432, 8080):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0, f"port {port} of this machine is taken; the specification's examples need it"
    assert not DATA.exists() or not any(DATA.iterdir()), f"{DATA} holds something; the specification's example would use it"
    created_parent = not DATA.parent.exists()
    suite.on_exit(mesh.close)
    suite.on_exit(lambda: shutil.rmtree(DATA.parent if created_parent else DATA, ignore_errors=True))
    suite.on_exit(lambda: [docker.remove(name) for name in NAMES])
    mesh.start()
    mesh.login()
    node.update(mesh.until_node_ready())


def api():
    return mesh.client


def body_of(name, **fields):
    return {"name": name, "nodeId": node["id"], **fields}


def check_shape(container):
    """What every container of the specification's answers has."""
    assert CONTAINER_ID.match(container["id"]), container["id"]
    assert container["status"] in ("created", "running", "paused", "stopped", "exited"), container["status"]
    for port in container["ports"]:
        assert {"container", "host", "protocol"} <= port.keys() and port["protocol"] in ("tcp", "udp"), port
    assert {"cpuLimit", "memoryLimit", "cpuUsage", "memoryUsage"} <= container["resources"].keys(), container["resources"]
    for usage in ("cpuUsage", "memoryUsage"):
        assert isinstance(container["resources"][usage], int | float), container["resources"]
    assert TIME.match(container["created"]), container["created"]
    for field, kind in (("name", str), ("image", str), ("nodeId", str), ("volumes", list), ("environment", dict), ("labels", dict)):
        assert isinstance(container[field], kind), f"{field}: {container.get(field)!r}"


def exec_in(reference, *command):
    return api().post(f"/api/containers/{reference}/exec", {"command": list(command)}).expect(200).data


@suite.check("every request needs a token")
def _():
    for method, path in [
        ("GET", "/api/containers?nodeId=node_123"),
        ("POST", "/api/containers"),
        ("POST", "/api/containers/cont_1/start"),
        ("POST", "/api/containers/cont_1/stop"),
        ("POST", "/api/containers/cont_1/restart"),
        ("DELETE", "/api/containers/cont_1?force=true"),
        ("GET", "/api/containers/cont_1/logs?tail=100"),
        ("GET", "/api/containers/cont_1/stats?limit=60"),
        ("POST", "/api/containers/cont_1/exec"),
        ("GET", "/api/containers/templates/list"),
        ("GET", "/api/containers/images/list"),
        ("POST", "/api/containers/images/pull"),
    ]:
        api().request(method, path, {} if method == "POST" else None, token=None).expect(401)
        api().request(method, path, {} if method == "POST" else None, token="wrong").expect(401)


@suite.check("POST /api/containers, the PostgreSQL of the specification: 201, created, fields as sent")
def _():
    reply = api().post(
        "/api/containers",
        {
            "name": "my-postgres",
            "image": "postgres:16",
            "nodeId": node["id"],
            "environment": {"POSTGRES_PASSWORD": "mysecretpassword", "POSTGRES_DB": "myapp"},
            "ports": [{"container": 5432, "host": 5432}],
            "volumes": [{"container": "/var/lib/postgresql/data", "host": "/data/postgres"}],
            "cpuLimit": 2,
            "memoryLimit": "1g",
            "restart": "always",
        },
    )
    container = reply.expect(201).data
    made["my-postgres"] = container["id"]
    assert reply.json.get("message"), f"no message: {reply}"
    check_shape(container)
    wanted = {"name": "my-postgres", "image": "postgres:16", "status": "created", "nodeId": node["id"]}
    assert {k: container[k] for k in wanted} == wanted, container
    assert container["ports"] == [{"container": 5432, "host": 5432, "protocol": "tcp"}], container["ports"]
    assert container["volumes"] == [{"container": "/var/lib/postgresql/data", "host": "/data/postgres", "mode": "rw"}], container["volumes"]
    assert container["resources"]["cpuLimit"] == 2 and container["resources"]["memoryLimit"] == "1g", container["resources"]
    assert container["environment"].keys() == {"POSTGRES_PASSWORD", "POSTGRES_DB"}, container["environment"]
    assert "mysecretpassword" not in api().get("/api/containers").expect(200).raw.decode(), "the password stands in a list"


@suite.check("Docker holds it with those limits, binds and that policy, and has not started it")
def _():
    real = docker.of(made["my-postgres"])
    assert real and real["Name"] == "/my-postgres" and real["State"]["Status"] == "created", real and real["State"]
    host = real["HostConfig"]
    assert host["Memory"] == 1024**3, host["Memory"]
    cores = host["NanoCpus"] / 1e9 or host["CpuQuota"] / host["CpuPeriod"]
    assert cores == 2, host
    assert host["RestartPolicy"]["Name"] == "always", host["RestartPolicy"]
    mounts = [(m["Source"], m["Destination"], m["RW"]) for m in real["Mounts"]]
    assert mounts == [("/data/postgres", "/var/lib/postgresql/data", True)], mounts
    assert not host["Privileged"] and not host["CapAdd"], host


@suite.check("POST /api/containers/:id/start: running, and the database answers on port 5432")
def _():
    reply = api().post(f"/api/containers/{made['my-postgres']}/start").expect(200)
    assert reply.json.get("message"), f"no message: {reply}"
    assert reply.data["status"] == "running", reply
    eventually(lambda: "ready for start up" in log_text("my-postgres"), 60, "the first start of PostgreSQL to end")

    def answers():
        return exec_in(made["my-postgres"], "psql", "-U", "postgres", "-d", "myapp", "-Atc", "select 40+2")["output"] == "42\n"

    eventually(answers, 30, "psql to answer 42")
    with socket.create_connection(("127.0.0.1", 5432), timeout=5):
        pass


def log_text(name):
    return "\n".join(api().get(f"/api/containers/{made[name]}/logs?tail=1000").expect(200).data)


@suite.check("starting what runs answers 200 again")
def _():
    before = docker.of(made["my-postgres"])["State"]["StartedAt"]
    assert api().post(f"/api/containers/{made['my-postgres']}/start").expect(200).data["status"] == "running"
    assert docker.of(made["my-postgres"])["State"]["StartedAt"] == before


@suite.check("GET /api/containers?nodeId=…: the list of the specification, with my-nginx running on 8080")
def _():
    body = body_of("my-nginx", image="nginx:latest", ports=[{"container": 80, "host": 8080}], cpuLimit=1, memoryLimit="512m")
    made["my-nginx"] = api().post("/api/containers", body).expect(201).data["id"]
    api().post(f"/api/containers/{made['my-nginx']}/start").expect(200)
    reply = api().get(f"/api/containers?nodeId={node['id']}").expect(200)
    rows = {c["name"]: c for c in reply.data}
    assert reply.json["count"] == len(reply.data), reply
    row = rows["my-nginx"]
    check_shape(row)
    wanted = {
        "id": made["my-nginx"],
        "name": "my-nginx",
        "image": "nginx:latest",
        "status": "running",
        "ports": [{"container": 80, "host": 8080, "protocol": "tcp"}],
    }
    assert {k: row[k] for k in wanted} == wanted, row
    assert row["resources"]["cpuLimit"] == 1 and row["resources"]["memoryLimit"] == "512m", row["resources"]

    def page():
        try:
            with urllib.request.urlopen("http://127.0.0.1:8080/", timeout=2) as answer:
                return answer.status == 200 and b"nginx" in answer.read().lower()
        except OSError:
            return False

    eventually(page, 15, "nginx's page on port 8080")


@suite.check("a list by a node that is not there is empty or a 404, never others' containers")
def _():
    reply = api().get("/api/containers?nodeId=node_123").expect(200, 404)
    assert reply.status == 404 or reply.data == [], reply


@suite.check("a name works where an id does")
def _():
    assert api().container("my-nginx")["id"] == made["my-nginx"]
    assert api().get(f"/api/containers?nodeId={node['name']}").expect(200).data


@suite.check("POST …/stop, …/restart: stopped, then running with a new start time")
def _():
    reply = api().post(f"/api/containers/{made['my-nginx']}/stop").expect(200)
    assert reply.data["status"] == "stopped" and reply.json.get("message"), reply
    assert docker.of(made["my-nginx"])["State"]["Running"] is False
    assert api().post(f"/api/containers/{made['my-nginx']}/stop").expect(200).data["status"] == "stopped"
    assert api().post(f"/api/containers/{made['my-nginx']}/start").expect(200).data["status"] == "running"
    before = docker.of(made["my-nginx"])["State"]["StartedAt"]
    reply = api().post(f"/api/containers/{made['my-nginx']}/restart").expect(200)
    assert reply.data["status"] == "running" and reply.json.get("message"), reply
    assert docker.of(made["my-nginx"])["State"]["StartedAt"] > before


@suite.check("GET …/logs?tail=100: an array of lines, at most as many as asked for")
def _():
    lines = api().get(f"/api/containers/{made['my-postgres']}/logs?tail=100").expect(200).data
    assert lines and len(lines) <= 100 and all(isinstance(line, str) for line in lines), lines
    assert any("database system is ready to accept connections" in line for line in lines), lines
    assert api().get(f"/api/containers/{made['my-postgres']}/logs?tail=3").expect(200).data == lines[-3:]
    assert len(api().get(f"/api/containers/{made['my-postgres']}/logs").expect(200).data) <= 100


@suite.check("GET …/stats?limit=60: samples of the specification, one a second")
def _():
    path = f"/api/containers/{made['my-postgres']}/stats?limit=60"
    samples = eventually(lambda: three_or_none(path), 15, "three samples")
    for sample in samples:
        assert sample["containerId"] == made["my-postgres"], sample
        assert sample["memoryLimit"] == 1073741824, sample
        assert TIME.match(sample["timestamp"]), sample
        for field in ("cpu", "memory", "networkRx", "networkTx", "blockRead", "blockWrite", "pids"):
            assert isinstance(sample[field], int | float) and sample[field] >= 0, sample
    times = [sample["timestamp"] for sample in samples]
    assert times == sorted(set(times)), times
    latest = samples[-1]
    assert 1 < latest["memory"] < 1024 and latest["pids"] >= 5, latest
    assert len(api().get(f"/api/containers/{made['my-postgres']}/stats?limit=2").expect(200).data) == 2


def three_or_none(path):
    samples = api().get(path).expect(200).data
    assert len(samples) <= 60, len(samples)
    return samples if len(samples) >= 3 else None


@suite.check("CPU is counted in percent of one core: a busy loop shows near 100")
def _():
    api().post(
        f"/api/containers/{made['my-nginx']}/exec",
        {"command": ["timeout", "4", "sh", "-c", "while :; do :; done"], "timeout": 10},
    ).expect(200)
    samples = api().get(f"/api/containers/{made['my-nginx']}/stats?limit=6").expect(200).data
    top = max(sample["cpu"] for sample in samples)
    assert 50 <= top <= 130, [sample["cpu"] for sample in samples]


@suite.check("POST …/exec, the npm call of the specification: an exit code and the output")
def _():
    quick = {"npm_config_fetch_retries": "0", "npm_config_fetch_timeout": "5000"}  # without a network npm would try for minutes
    body = body_of("my-app", image="node:20", command=["sleep", "600"], environment=quick, start=True)
    made["my-app"] = api().post("/api/containers", body).expect(201).data["id"]
    result = exec_in(made["my-app"], "npm", "install", "express")
    # Where the container can't reach npm's registry the exit code is npm's own, and its output says so.
    assert isinstance(result["exitCode"], int) and isinstance(result["output"], str) and result["output"], result
    assert result["exitCode"] == 0 or "npm" in result["output"], result
    result = exec_in(made["my-app"], "node", "-e", "console.log(6*7); console.error('to stderr'); process.exit(3)")
    assert result["exitCode"] == 3 and result["stdout"] == "42\n" and result["stderr"] == "to stderr\n", result


@suite.check("a word with shell characters reaches the command as it is")
def _():
    odd = "; $(touch /tmp/x) `id` & > 'a' \"b\" -flag ../"
    assert exec_in(made["my-app"], "printf", "%s", odd)["output"] == odd


@suite.check("DELETE without force is refused while it runs; ?force=true removes it from Docker too")
def _():
    api().delete(f"/api/containers/{made['my-postgres']}").expect(409)
    reply = api().delete(f"/api/containers/{made['my-postgres']}?force=true").expect(200)
    assert reply.json.get("message"), f"no message: {reply}"
    assert docker.of(made["my-postgres"]) is None
    api().get(f"/api/containers/{made['my-postgres']}").expect(404)
    api().delete(f"/api/containers/{made['my-postgres']}?force=true").expect(200, 404)
    assert (DATA / "PG_VERSION").exists(), "removing the container must not remove the folder of the host"
    api().delete(f"/api/containers/{made['my-nginx']}?force=true").expect(200)
    api().delete(f"/api/containers/{made['my-app']}?force=true").expect(200)


@suite.check("GET /api/containers/templates/list: the four templates of the specification")
def _():
    reply = api().get("/api/containers/templates/list").expect(200)
    assert reply.json["count"] == 4, reply
    by_name = {t["name"]: t for t in reply.data}
    wanted = {
        "Nginx Web Server": ("High-performance HTTP server", "nginx:latest"),
        "PostgreSQL Database": ("Production-ready database", "postgres:16"),
        "Redis Cache": ("In-memory data store", "redis:7"),
        "Node.js App": ("Node.js application runtime", "node:20"),
    }
    assert list(by_name) == list(wanted), list(by_name)
    for name, (description, image) in wanted.items():
        assert (by_name[name]["description"], by_name[name]["image"]) == (description, image), by_name[name]
    limits = {n: (t["config"]["memoryLimit"], t["config"]["cpuLimit"], t["config"]["restart"]) for n, t in by_name.items()}
    assert limits["Nginx Web Server"] == ("512m", 1, "always") and limits["PostgreSQL Database"] == ("1g", 2, "always"), limits
    assert "changeme" not in reply.raw.decode().lower()


@suite.check("each template runs, and PostgreSQL's password is a fresh one")
def _():
    shutil.rmtree(DATA, ignore_errors=True)
    for template in api().get("/api/containers/templates/list").data:
        name = f"spec-{template['id']}"
        container = api().post(f"/api/containers/templates/{template['id']}/run", {"name": name}).expect(201).data
        made[name] = container["id"]
        api().until_status(container["id"], "running")
    environment = dict(e.split("=", 1) for e in docker.of(made["spec-postgresql"])["Config"]["Env"])
    assert len(environment["POSTGRES_PASSWORD"]) >= 16, "a weak generated password"
    with socket.create_connection(("127.0.0.1", 8080), timeout=5):
        pass
    for name in list(made):
        if name.startswith("spec-"):
            api().delete(f"/api/containers/{made[name]}?force=true").expect(200)


@suite.check("images: the list, and a pull of one that is not to be had says so")
def _():
    reply = api().get("/api/containers/images/list").expect(200)
    tags = {tag for image in reply.data for tag in image["tags"]}
    assert {"nginx:latest", "postgres:16"} <= tags and reply.json["count"] == len(reply.data), sorted(tags)
    try:
        reply = api().post("/api/containers/images/pull", {"name": "no-such-image-of-anyone", "tag": "1"}, timeout=90)
    except Unreachable as e:
        raise AssertionError(f"no answer to a pull: {e}") from None
    if reply.status == 202:  # a registry that takes its time: the operation says it
        operation = reply.data["id"]
        ended = eventually(lambda: ended_operation(operation), 120, "the pull to end")
        assert ended["state"] == "failed" and "no-such-image-of-anyone" in ended["error"]["error"], ended
    else:
        assert 400 <= reply.status < 500 or reply.status in (502, 503, 504), f"{reply}"
        assert "no-such-image-of-anyone" in reply.error, f"the sentence does not name the image: {reply}"


def ended_operation(operation):
    seen = api().get(f"/api/operations/{operation}").expect(200).data
    return seen if seen["state"] in ("succeeded", "failed", "cancelled") else None


suite.run(setup)
