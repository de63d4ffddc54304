"""Docker's own API by raw HTTP over its socket, beside NeuralMesh: what is really there, and what Docker itself takes."""

import http.client
import json
import os
import select
import socket
import threading
import time
import urllib.parse

LABEL = "io.neuralmesh.id"
"""The label every container of ours carries; its value is our id."""


class DockerError(Exception):
    """Docker refused; `status` is the HTTP status it gave."""

    def __init__(self, attempt, status, message):
        super().__init__(f"{attempt}: Docker answered {status}: {message}")
        self.status = status


class SocketConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path):
        super().__init__("docker", timeout=120)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)

    def alive(self):
        """A quiet connection has nothing to read; a closed one has its end."""
        readable, _, _ = select.select([self.sock], [], [], 0)
        return not readable


class Docker:
    """One connection a thread, kept open between calls, as a good client does."""

    def __init__(self, path=None):
        host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        self.path = path or host.removeprefix("unix://")
        self._local = threading.local()

    def request(self, method, path, body=None):
        """The decoded answer, or None where there is none. Raises DockerError on 4xx and 5xx."""
        text = None if body is None else json.dumps(body)
        headers = {} if text is None else {"Content-Type": "application/json"}
        connection = getattr(self._local, "connection", None)
        # A kept connection may have been closed meanwhile: then a fresh one is made.
        if connection is not None and not connection.alive():
            connection.close()
            connection = None
        if connection is None:
            connection = self._local.connection = SocketConnection(self.path)
        try:
            connection.request(method, path, text, headers)
            response = connection.getresponse()
            raw = response.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            self._local.connection = None
            raise
        if response.status >= 400:
            try:
                message = json.loads(raw)["message"]
            except (ValueError, KeyError):
                message = raw.decode(errors="replace")
            raise DockerError(f"{method} {path}", response.status, message)
        if not raw:
            return None
        return json.loads(raw) if "json" in response.getheader("Content-Type", "") else raw

    def containers(self, **filters):
        """Every container, running or not, that fits the filters: `containers(label=["a=b"])`."""
        query = urllib.parse.urlencode({"all": "true", "filters": json.dumps(filters)})
        return self.request("GET", f"/containers/json?{query}")

    def managed(self, name_prefix=""):
        """Containers of ours whose name starts with the prefix, as {name: [our id, ...]}; two ids under one name is a duplicate."""
        found = {}
        for row in self.containers(label=[LABEL]):
            name = row["Names"][0].lstrip("/") if row["Names"] else row["Id"]
            if name.startswith(name_prefix):
                found.setdefault(name, []).append(row["Labels"][LABEL])
        return found

    def inspect(self, reference):
        """None when there is no such container."""
        try:
            return self.request("GET", f"/containers/{urllib.parse.quote(reference)}/json")
        except DockerError as e:
            if e.status == 404:
                return None
            raise

    def of(self, container_id):
        """Docker's inspection of the container that carries our id, None when there is none."""
        rows = self.containers(label=[f"{LABEL}={container_id}"])
        assert len(rows) <= 1, f"{len(rows)} containers carry the id {container_id}"
        return self.inspect(rows[0]["Id"]) if rows else None

    def create(self, name, image, command=(), labels=None, host_config=None, **more):
        body = {"Image": image, "Cmd": list(command) or None, "Labels": labels or {}, "HostConfig": host_config or {}, **more}
        return self.request("POST", f"/containers/create?name={urllib.parse.quote(name)}", body)["Id"]

    def start(self, reference):
        self.request("POST", f"/containers/{reference}/start")

    def remove(self, reference, seconds=30):
        """With its anonymous volumes, running or not; gone already is fine. Returns once it is gone."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return self.request("DELETE", f"/containers/{reference}?force=true&v=true")
            except DockerError as e:
                if e.status == 404:
                    return None
                # 409: another client's removal of it is under way, perhaps one that was killed since.
                if e.status != 409 or time.monotonic() > deadline:
                    raise
            time.sleep(0.05)

    def remove_prefix(self, name_prefix):
        """Every container whose name starts with the prefix."""
        assert name_prefix, "an empty prefix would remove everything"
        for row in self.containers():
            if any(n.lstrip("/").startswith(name_prefix) for n in row["Names"]):
                self.remove(row["Id"])

    def has_image(self, reference):
        try:
            self.request("GET", f"/images/{reference}/json")
        except DockerError as e:
            if e.status == 404:
                return False
            raise
        return True
