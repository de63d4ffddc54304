"""restic's REST protocol over a folder, on an address of the machine: a destination that every node reaches.

    server = RestServer(folder, "10.77.0.1")
    server.destination          # rest:http://10.77.0.1:40123/
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

KINDS = ("data", "index", "keys", "locks", "snapshots")


class RestServer:
    def __init__(self, folder, address):
        handler = type("Handler", (Handler,), {"root": Path(folder)})
        self._server = ThreadingHTTPServer((address, 0), handler)
        self.destination = f"rest:http://{address}:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root = None

    def log_message(self, *_):
        pass

    def answer(self, status, content=b"", kind="application/octet-stream", length=None):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def place(self):
        """The file or folder that is meant."""
        parts = [part for part in self.path.split("?")[0].split("/") if part]
        assert all(part not in (".", "..") for part in parts), self.path
        return self.root.joinpath(*parts)

    def do_POST(self):
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        place = self.place()
        if self.path.endswith("?create=true"):
            for kind in KINDS:
                (place / kind).mkdir(parents=True, exist_ok=True)
            return self.answer(200)
        if place.exists():
            return self.answer(403)
        if not place.parent.is_dir():
            return self.answer(404)
        beside = place.with_name(f".{place.name}.part")
        beside.write_bytes(content)
        beside.rename(place)
        self.answer(200)

    def do_GET(self):
        place = self.place()
        if self.path.endswith("/"):
            if not place.is_dir():
                return self.answer(404)
            rows = [{"name": f.name, "size": f.stat().st_size} for f in place.iterdir() if f.is_file() and not f.name.startswith(".")]
            return self.answer(200, json.dumps(rows).encode(), "application/vnd.x.restic.rest.v2")
        if not place.is_file():
            return self.answer(404)
        if self.command == "HEAD":
            return self.answer(200, length=place.stat().st_size)
        content, span = place.read_bytes(), self.headers.get("Range")
        if span is None:
            return self.answer(200, content)
        begin, _, end = span.removeprefix("bytes=").partition("-")
        self.answer(206, content[int(begin) : int(end) + 1 if end else None])

    do_HEAD = do_GET

    def do_DELETE(self):
        self.place().unlink(missing_ok=True)
        self.answer(200)
