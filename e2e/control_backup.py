#!/usr/bin/env python3
"""The control plane backs itself up, its data folder is lost, and `neuralmesh restore-control-plane` brings it back: users, nodes and
containers as they were, without a container being touched. With an agent beside it, on a real engine."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))
from checks import Suite, eventually
from docker import Docker
from nm import PREFIX, NeuralMesh, Process, binary

suite = Suite("control_backup")
docker = Docker()
mesh = NeuralMesh(mode="server")
vault, aside = mesh.dir / "vault", mesh.dir / "aside"
seen = {}


def options(*more, keys=None):
    keys = keys or aside
    return ["--key-file", keys / "secrets.key", "--backup-password-file", keys / "backup.password", *more]


def restore(*more):
    arguments = [binary(), "restore-control-plane", "--from", vault, "--data-dir", mesh.data_dir, *more]
    return subprocess.run([str(a) for a in arguments], capture_output=True, text=True, timeout=120)


def kept():
    """Ids of the backups that there are."""
    listed = restore(*options("--list"))
    assert listed.returncode == 0, listed
    return [line.split()[0] for line in listed.stdout.splitlines()]


def setup():
    for folder in (vault, aside):
        folder.mkdir()
    mesh.process.arguments += ["--backup-to", str(vault), "--backup-schedule", "@yearly"]
    suite.on_exit(mesh.close)
    suite.on_exit(lambda: [docker.remove(PREFIX + name) for name in ("before", "after")])
    mesh.start()
    mesh.login()
    seen["password"] = mesh.password()
    mesh.add_agent()
    seen["node"] = mesh.until_node_ready()["id"]


def container(name):
    body = {"name": PREFIX + name, "image": "busybox", "command": ["sleep", "100000"], "nodeId": seen["node"], "start": True}

    def made():
        # After a restart its agent may be on its way: then nothing was done.
        reply = mesh.client.post("/api/containers", body).expect(201, 503)
        return reply.data if reply.status == 201 else None

    return eventually(made, 20, f"{name} to be made")


def started(name):
    return docker.inspect(PREFIX + name)["State"]["StartedAt"]


def restic(*arguments):
    env = {"PATH": "/usr/bin:/bin", "HOME": str(mesh.dir), "RESTIC_PASSWORD_FILE": str(aside / "backup.password")}
    repository = vault / "neuralmesh-control-plane"
    done = subprocess.run(["restic", "--no-cache", "-r", str(repository), *arguments], capture_output=True, text=True, env=env, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@suite.check("the first one is made at once; one more when it is asked for, and restic reads it")
def _():
    eventually(lambda: mesh.client.get("/api/system/backup").expect(200).data.get("lastBackup"), 30, "the first backup")
    seen["before"] = container("before")
    seen["started"] = started("before")
    user = {"username": "kept", "password": "a-long-enough-password", "role": "operator"}
    mesh.client.post("/api/users", user).expect(200, 201)
    seen["token"] = mesh.client.post("/api/tokens", {"name": "kept", "role": "viewer"}).expect(200, 201).data["token"]
    made = mesh.client.post("/api/system/backup").expect(200).data
    assert made["configured"] and made["kept"] == 2 and made["snapshot"] and not made["running"], made
    for name in ("secrets.key", "backup.password"):
        shutil.copy2(mesh.data_dir / name, aside / name)
    lines = restic("dump", "latest", "/neuralmesh/store.jsonl")
    assert PREFIX + "before" in lines and "a-long-enough-password" not in lines and seen["token"] not in lines
    assert (mesh.data_dir / "secrets.key").read_text().split()[-1] not in lines
    assert not list((mesh.data_dir / "own-backup").iterdir()), "what was written out stayed"
    restic("check", "--read-data", "--no-lock")  # of a worker that was killed there may be one


@suite.check("killed -9 in the middle of one: it is made again, and none is half")
def _():
    for delay in (0.02, 0.05, 0.1, 0.2):
        asked = Process("ask", ["curl", "-s", "-X", "POST", "-H", f"Authorization: Bearer {mesh.client.token}", f"{mesh.url}/api/system/backup"], mesh.dir / "asked")
        asked.start()
        time.sleep(delay)  # the moment of the kill, not a wait for anything
        mesh.process.kill()
        asked.sweep()
        mesh.start()
    mesh.client.get("/api/system/backup").expect(200)
    mesh.client.post("/api/system/backup").expect(200)
    restic("check", "--read-data", "--no-lock")  # of a worker that was killed there may be one


@suite.check("what does not fit is refused, and nothing is made: no key, another key, a password that is missing, one that runs")
def _():
    running = restore(*options("--replace"))
    assert running.returncode == 1 and "in use" in running.stderr, running
    there = restore(*options())
    assert there.returncode == 1 and "--replace" in there.stderr, there
    seen["after"] = container("after")
    seen["after started"] = started("after")
    mesh.process.kill()
    shutil.rmtree(mesh.data_dir)
    other = mesh.dir / "other"
    other.mkdir()
    shutil.copy2(aside / "backup.password", other / "backup.password")
    missing = restore(*options(keys=other))
    assert missing.returncode == 1 and "--key-file" in missing.stderr, missing
    text = (aside / "secrets.key").read_text()
    at = len(text.rstrip()) - 20
    changed = "A" if text[at] != "A" else "B"
    (other / "secrets.key").touch(mode=0o600)
    (other / "secrets.key").write_text(text[:at] + changed + text[at + 1 :])
    wrong = restore(*options(keys=other))
    assert wrong.returncode == 1 and wrong.stderr.strip(), wrong
    (other / "backup.password").unlink()
    password = restore(*options(keys=other))
    assert password.returncode == 1 and "password" in password.stderr, password
    assert not (mesh.data_dir / "neuralmesh.db").exists()


@suite.check("a new control plane in the place of the lost one adds nothing to its backups")
def _():
    before = kept()
    new = NeuralMesh(mode="server", arguments=["--backup-to", str(vault), "--backup-password-file", str(aside / "backup.password")])
    suite.on_exit(new.close)
    new.start()
    new.login()
    refused = new.client.post("/api/system/backup").expect(409)
    assert refused.code == "repository_foreign" and "restore-control-plane" in refused.error, refused
    new.close()
    assert kept() == before


@suite.check("brought back: its users and tokens, its node without joining again, its container untouched and told what to do")
def _():
    listed = restore(*options("--list"))
    assert listed.returncode == 0 and len(listed.stdout.splitlines()) >= 3, listed
    done = restore(*options())
    assert done.returncode == 0 and "is back" in done.stdout, done
    assert [p.name for p in mesh.data_dir.iterdir() if p.name.startswith("restore")] == []
    mesh.process.arguments += [str(a) for a in options()]
    mesh.start()
    body = {"username": "admin", "password": seen["password"]}
    mesh.client.token = mesh.client.post("/api/auth/login", body, token=None).expect(200).data["accessToken"]
    assert "kept" in {u["username"] for u in mesh.client.every("/api/users")}
    mesh.client.get("/api/containers", token=seen["token"]).expect(200)
    node = mesh.until_node_ready()
    assert node["id"] == seen["node"]
    view = eventually(lambda: (v := mesh.client.get(f"/api/containers/{PREFIX}before").expect(200).data) and v["status"] == "running" and v, 20, "its container")
    assert view["id"] == seen["before"]["id"] and started("before") == seen["started"]
    # Nodes remember the newest command: one of before must not be older than that.
    mesh.client.post(f"/api/containers/{PREFIX}before/restart").expect(200)
    assert started("before") != seen["started"] and docker.inspect(PREFIX + "before")["State"]["Running"]


@suite.check("what was made after the backup runs on, and is seen")
def _():
    assert started("after") == seen["after started"]
    eventually(lambda: any(c["name"] == PREFIX + "after" for c in mesh.client.every("/api/containers")), 20, "the newer container to be listed")
    container_id = next(c["id"] for c in mesh.client.every("/api/containers") if c["name"] == PREFIX + "after")
    mesh.client.post(f"/api/containers/{container_id}/stop").expect(200)
    assert not docker.inspect(PREFIX + "after")["State"]["Running"]


@suite.check("and it goes on backing itself up, into the same repository")
def _():
    before = kept()
    made = mesh.client.post("/api/system/backup").expect(200).data
    assert made["kept"] == len(before) + 1 == len(kept()), (before, made)
    assert " ERROR " not in mesh.process.tail(200), mesh.process.tail(40)


@suite.check("a destination that is gone: said, and made again where it is back")
def _():
    hidden = mesh.dir / "hidden"
    vault.rename(hidden)
    refused = mesh.client.post("/api/system/backup").expect(409)
    assert refused.code == "repository_missing", refused
    assert mesh.client.get("/api/system/backup").expect(200).data["message"]
    assert "neuralmesh_own_backup_failing 1" in mesh.client.get("/metrics").raw.decode()
    assert not vault.exists(), "a destination that is not mounted was made anew"
    hidden.rename(vault)
    assert "message" not in mesh.client.post("/api/system/backup").expect(200).data


suite.run(setup)
