#!/usr/bin/env python3
"""A Docker engine that only remembers: it lists as many containers as one likes, and runs none.

For measuring what is ours with ten thousand containers, which no test machine could really hold. Everything above it is real:
the agent reads it, the link carries it, the store keeps it.

    fake_engine.py SOCKET
"""

import asyncio
import datetime
import json
import re
import secrets
import sys
import urllib.parse

ID = r"/containers/([^/]+)"


def now():
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")


class Engine:
    def __init__(self):
        self.containers = {}  # by id
        self.names = {}
        self.watchers = set()

    def answer(self, method, path, query, body):
        """Status and JSON value; None for no body."""
        path = re.sub(r"^/v1\.\d+", "", path)
        if path == "/version":
            return 200, {"Version": "20.10.24", "ApiVersion": "1.41"}
        if path == "/info":
            return 200, {"NCPU": 64, "MemTotal": 256 * 1024**3, "DockerRootDir": "/var/lib/docker"}
        if path == "/images/load":
            return 200, {"stream": "Loaded image: neuralmesh/hello:latest\n"}
        if path in ("/networks", "/images/json"):
            return 200, []
        if path == "/volumes":
            return 200, {"Volumes": []}
        if path == "/containers/json":
            wanted = json.loads(query.get("filters", ["{}"])[0]).get("label", [])
            wanted = [text.split("=", 1) for text in (wanted if isinstance(wanted, list) else wanted.keys())]
            return 200, [self.listed(c) for c in self.containers.values() if all(c["Config"]["Labels"].get(k) == v for k, v in wanted)]
        if (method, path) == ("POST", "/containers/create"):
            return self.create(query["name"][0], body)
        if found := re.fullmatch(ID + r"(/\w+)?", path):
            container = self.containers.get(found[1]) or self.containers.get(self.names.get(found[1], ""))
            if container is None:
                return 404, {"message": f"No such container: {found[1]}"}
            return self.on_container(method, found[2], container)
        if path.startswith("/images/"):
            return 200, {"Id": "sha256:" + "0" * 64, "Config": {"Labels": None}}
        return 404, {"message": f"page not found: {path}"}

    def listed(self, c):
        return {"Id": c["Id"], "Names": [c["Name"]], "Image": c["Config"]["Image"], "Labels": c["Config"]["Labels"], "State": c["State"]["Status"]}

    def create(self, name, body):
        if holder := self.names.get(name):
            held = f'Conflict. The container name "/{name}" is already in use by container "{holder}".'
            return 409, {"message": held + " You have to remove (or rename) that container to be able to reuse that name."}
        docker_id = secrets.token_hex(32)
        host = body.get("HostConfig") or {}
        self.names[name] = docker_id
        self.containers[docker_id] = {
            "Id": docker_id,
            "Created": now(),
            "Name": f"/{name}",
            "Image": "sha256:" + "0" * 64,
            "RestartCount": 0,
            "State": {"Status": "created", "Running": False, "Pid": 0, "ExitCode": 0, "Error": "", "OOMKilled": False}
            | {"StartedAt": "0001-01-01T00:00:00Z", "FinishedAt": "0001-01-01T00:00:00Z"},
            "Config": {"Image": body["Image"], "Labels": body.get("Labels") or {}, "Env": body.get("Env") or [], "Tty": False},
            "HostConfig": {
                "PortBindings": host.get("PortBindings") or {},
                "RestartPolicy": host.get("RestartPolicy") or {"Name": "no"},
                "NetworkMode": host.get("NetworkMode") or "default",
                "NanoCpus": host.get("NanoCpus") or 0,
                "Memory": host.get("Memory") or 0,
            },
            "Mounts": [],
            "NetworkSettings": {"Ports": {}, "Networks": {"bridge": {"IPAddress": ""}}},
        }
        self.tell("create", self.containers[docker_id])
        return 201, {"Id": docker_id, "Warnings": []}

    def on_container(self, method, verb, container):
        state = container["State"]
        if method == "DELETE":
            del self.containers[container["Id"]], self.names[container["Name"].lstrip("/")]
            self.tell("destroy", container)
            return 204, None
        if verb == "/start":
            state.update(Status="running", Running=True, StartedAt=now())
            self.tell("start", container)
            return 204, None
        if verb in ("/stop", "/kill"):
            state.update(Status="exited", Running=False, FinishedAt=now())
            self.tell("die", container)
            return 204, None
        return 200, container

    def tell(self, action, container):
        attributes = {"name": container["Name"].lstrip("/"), "image": container["Config"]["Image"]} | container["Config"]["Labels"]
        nanos = int(datetime.datetime.now(datetime.UTC).timestamp() * 1e9)
        event = {"Type": "container", "Action": action, "Actor": {"ID": container["Id"], "Attributes": attributes}, "time": nanos // 10**9, "timeNano": nanos}
        line = json.dumps(event).encode() + b"\n"
        for writer in self.watchers:
            writer.write(b"%x\r\n%s\r\n" % (len(line), line))


async def serve(engine, reader, writer):
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            request, *lines = head.decode("latin-1").split("\r\n")
            method, target, _ = request.split(" ")
            headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)}
            raw = await body_of(reader, headers)
            path, _, query = target.partition("?")
            query = urllib.parse.parse_qs(query)
            if path.endswith("/events"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
                if "until" in query:
                    writer.write(b"0\r\n\r\n")
                    continue
                engine.watchers.add(writer)
                await reader.read()  # until the other side leaves
                return
            if path.endswith("/_ping"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + (b"" if method == "HEAD" else b"OK"))
                continue
            status, value = engine.answer(method, path, query, json.loads(raw) if raw else {})
            text = b"" if value is None else json.dumps(value).encode()
            length = b"" if status == 204 else b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(text)
            writer.write(b"HTTP/1.1 %d X\r\n%s\r\n%s" % (status, length, text))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        engine.watchers.discard(writer)
        writer.close()


async def body_of(reader, headers):
    """The bytes of a JSON body; those of anything else, an image's say, are read and dropped."""
    keep, whole = "json" in headers.get("content-type", ""), bytearray()
    if "chunked" in headers.get("transfer-encoding", ""):
        while size := int((await reader.readline()).split(b";")[0], 16):
            chunk = await reader.readexactly(size + 2)
            if keep:
                whole += chunk[:-2]
        await reader.readline()
    elif length := int(headers.get("content-length", 0)):
        chunk = await reader.readexactly(length)
        whole += chunk if keep else b""
    return whole


async def main():
    engine = Engine()
    server = await asyncio.start_unix_server(lambda r, w: serve(engine, r, w), sys.argv[1], limit=2**22)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
