#!/usr/bin/env python3
"""Backups into the folder of another node, in the lab: every byte goes from one agent through the control plane to another's disk. Made,
checked, restored on each node, read by stock restic; and agents and control planes that go away meanwhile."""

import contextlib
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))
from backups import CONFIGS, World, fingerprint, odd_tree, same, still
from checks import Suite, eventually
from fleet import Fleet

suite = Suite("far_backups")
fleet = Fleet()
world = World(fleet)


def setup():
    suite.on_exit(world.close)
    suite.on_exit(fleet.close)
    fleet.up()
    # A disk that n2 alone has: everybody else sees an empty folder.
    world.place, world.source = world.folder("far"), world.folder("source")
    code, said = fleet.run("n2", "mount", "-t", "tmpfs", "-o", "size=900m", "tmpfs", world.place)
    assert code == 0, said
    odd_tree(Path(world.source) / "tree")


def on_n2(config, *arguments):
    """Stock restic, on the node that has the folder."""
    key = world.client.get(f"{config.path}/key").expect(200).data
    code, said = fleet.run("n2", "restic", "-r", f"{world.place}/{config.id}", "--no-cache", "--no-lock", *arguments, env={"RESTIC_PASSWORD": key["password"]})
    assert code == 0, said
    return said


@contextlib.contextmanager
def held(config):
    """A backup whose worker stands still in the middle, until the end of the block."""
    begun = config.begin()
    with still(fleet, "n1"):
        yield begun


@suite.check("full and incremental into n2's disk: nothing beside it, all data is there, stock restic agrees")
def _():
    config = world.config_far = world.config("n1", f"node:n2:{world.place}", paths=[world.source])
    first = config.completed()
    assert os.listdir(world.place) == [], "it was written on the wrong node"
    (Path(world.source) / "more").write_bytes(os.urandom(20_000_000))
    second = config.completed()
    assert second["type"] == "incremental" and second["newBytes"] > 19_000_000, second
    lines = on_n2(config, "check", "--read-data")
    assert "no errors were found" in lines, lines
    assert first["snapshot"][:8] in on_n2(config, "snapshots") and second["snapshot"][:8] in on_n2(config, "snapshots")
    world.made = second


@suite.check("restored on n1 in its place, on n3, and on n2 where the folder is: each the same tree")
def _():
    before = fingerprint(world.source)
    for node in ("n1", "n2", "n3"):
        target = world.folder(f"restored-{node}")
        given = world.restore(world.made, serverId=node, target=target)
        assert given["verified"], given
        same(before, fingerprint(target + world.source))
    shutil.rmtree(Path(world.source) / "tree")
    (Path(world.source) / "more").write_bytes(b"gone")
    world.restore(world.made)
    same(before, fingerprint(world.source))


@suite.check("a test restore, a browse, retention's clean-up and a copy to a second far folder")
def _():
    config = world.config_far
    assert any(e["name"] == "more" for e in world.client.get(f"/api/capabilities/backups/{world.made['id']}/files?path={world.source}").expect(200).data["entries"])
    reply = world.client.post(f"/api/capabilities/backups/{world.made['id']}/verify", timeout=150).expect(200, 202)
    if reply.status == 202:
        assert world.ended(reply.data["id"])["state"] == "succeeded"
    oldest = config.backups()[-1]
    reply = world.client.delete(f"/api/capabilities/backups/{oldest['id']}", timeout=150).expect(200, 202)
    if reply.status == 202:
        assert world.ended(reply.data["id"])["state"] == "succeeded"
    copied = world.config("n3", paths=[world.source], copy={"destination": f"node:n2:{world.place}"})
    made = copied.completed()
    eventually(lambda: world.backup(made["id"]).get("copied"), 30, "the copy to be made")


@suite.check("what n2 does not let be written is refused by n2, named, and nothing is made")
def _():
    reply = world.client.post(CONFIGS, {"serverId": "n1", "name": "etc", "destination": "node:n2:/proc", "paths": [world.source]})
    if reply.status == 201:
        done = world.ended(world.client.post(f"/api/capabilities/backups/perform/{reply.data['id']}").expect(202).data["operationId"])
        assert done["state"] == "failed" and done["error"]["code"] in ("path_forbidden", "destination_not_writable"), done
    else:
        assert reply.status in (403, 422), reply
    unknown = world.client.post(CONFIGS, {"serverId": "n1", "name": "x", "destination": "node:n9:/backups", "paths": [world.source]})
    assert unknown.status in (404, 409, 422) and "n9" in unknown.error, unknown


@suite.check("n2 cut off: a backup is refused or fails with its name; back again it is made")
def _():
    config = world.config_far
    before = on_n2(config, "snapshots")
    fleet.cut("n2")
    fleet.until_status("n2", "notReady", 30)
    reply = world.client.post(f"/api/capabilities/backups/perform/{config.id}").expect(202, 503)
    said = reply.error if reply.status == 503 else str(world.ended(reply.data["operationId"], 120)["error"])
    assert "n2" in said, said
    fleet.heal("n2")
    fleet.until_status("n2", "ready", 30)
    assert on_n2(config, "snapshots") == before
    config.completed()


@suite.check("n2's agent killed -9 in the middle of a backup: it ends with a word, nothing good is lost, and the next one is whole")
def _():
    config = world.config_far
    (Path(world.source) / "large").write_bytes(os.urandom(60_000_000))
    with held(config) as begun:
        fleet.kill_agent("n2")
    done = world.until(begun, seconds=150)
    assert done["status"] == "completed" or "n2" in (done.get("message") or ""), done
    print(f"    it ended {done['status']}")
    config.completed()
    assert "no errors were found" in on_n2(config, "check", "--read-data")


@suite.check("the control plane killed -9 in the middle of a backup: it is taken up to a good end")
def _():
    config = world.config_far
    (Path(world.source) / "larger").write_bytes(os.urandom(60_000_000))
    with held(config) as begun:
        fleet.control("kill")
        fleet.control("start")
    fleet.until_all_ready()
    done = world.until(begun, seconds=150)
    assert done["status"] == "completed", done
    assert "no errors were found" in on_n2(config, "check", "--read-data")


@suite.check("n1's agent killed -9 in the middle of a backup: it is taken up to a good end")
def _():
    config = world.config_far
    (Path(world.source) / "largest").write_bytes(os.urandom(60_000_000))
    with held(config) as begun:
        fleet.kill_agent("n1")
    done = world.until(begun, seconds=150)
    assert done["status"] == "completed", done
    # It is looked through after that, and nothing else works on its repository meanwhile.
    world.ended(begun["operationId"])
    target = world.folder("last")
    world.restore(done, target=target)
    same(fingerprint(world.source), fingerprint(target + world.source))


suite.run(setup)
