"""Pebble, the ACME test server of Debian's package, with names that lead where a test says.

Standard library only; the certificate that Pebble itself shows is made by openssl.
"""

import contextlib
import json
import shutil
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
import urllib.request
from pathlib import Path

from checks import eventually
from nm import Process, free_port

A, NO_SUCH_NAME = 1, 3


class Names:
    """A name server: names of `known` lead to 127.0.0.1, others nowhere. Pebble waits two seconds for an answer."""

    def __init__(self):
        self.known, self.lock, self.held, self.asked = set(), threading.Lock(), None, threading.Event()
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.socket.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            question, client = self.socket.recvfrom(4096)
            labels, at = [], 12
            while question[at]:
                labels.append(question[at + 1 : at + 1 + question[at]].decode().lower())
                at += 1 + question[at]
            (kind,) = struct.unpack("!H", question[at + 1 : at + 3])
            known = ".".join(labels) in self.known
            answers = [b"\xc0\x0c" + struct.pack("!HHIH", A, 1, 0, 4) + socket.inet_aton("127.0.0.1")] if known and kind == A else []
            flags = 0x8580 | (0 if known else NO_SUCH_NAME)
            head = question[:2] + struct.pack("!HHHHH", flags, 1, len(answers), 0, 0)
            answer = head + question[12 : at + 5] + b"".join(answers)
            with self.lock:
                if self.held is None:
                    self.socket.sendto(answer, client)
                else:
                    self.held.append((answer, client))
                    self.asked.set()

    @contextlib.contextmanager
    def holding(self):
        """Answers wait until the end; inside, once somebody has asked: `asked`."""
        self.asked.clear()
        with self.lock:
            self.held = []
        try:
            yield self.asked
        finally:
            with self.lock:
                for answer, client in self.held:
                    self.socket.sendto(answer, client)
                self.held = None


class Pebble:
    """One ACME server. `http_port` is where it looks for answers, `host` how it is called."""

    def __init__(self, names, http_port, validity=None, keys=None, host="127.0.0.1"):
        self._folder = tempfile.TemporaryDirectory(prefix="nm-pebble-", ignore_cleanup_errors=True)
        self.dir = Path(self._folder.name)
        self.port, self.management = free_port(), free_port()
        self.directory = f"https://{host}:{self.port}/dir"
        self.ca = self._certificate()
        config = {
            "listenAddress": f"127.0.0.1:{self.port}",
            "managementListenAddress": f"127.0.0.1:{self.management}",
            "certificate": str(self.dir / "server.pem"),
            "privateKey": str(self.dir / "server.key"),
            "httpPort": http_port,
            "tlsPort": free_port(),
            "externalAccountBindingRequired": keys is not None,
            "externalAccountMACKeys": keys or {},
        }
        if validity:
            config["certificateValidityPeriod"] = validity
        (self.dir / "config.json").write_text(json.dumps({"pebble": config}))
        pebble = shutil.which("pebble")
        assert pebble, "pebble is missing; install it with: apt-get install pebble"
        arguments = [pebble, "-config", self.dir / "config.json", "-dnsserver", names.address]
        # It looks at once, and refuses one nonce of five, as it may.
        environment = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "20", "PEBBLE_AUTHZREUSE": "0"}
        self.process = Process("pebble", arguments, self.dir / "log", environment)

    def _certificate(self):
        def openssl(*arguments):
            subprocess.run(["openssl", *arguments], cwd=self.dir, check=True, capture_output=True, timeout=60)

        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=test authority")
        openssl("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=pebble")
        (self.dir / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names"]
        openssl("x509", "-req", "-in", "server.csr", *signed, "-out", "server.pem")
        return (self.dir / "ca.pem").read_text()

    def get(self, path, port=None):
        context = ssl.create_default_context(cadata=self.ca)
        with urllib.request.urlopen(f"https://127.0.0.1:{port or self.management}{path}", context=context, timeout=10) as answer:
            return answer.read().decode()

    def start(self):
        self.process.start()

        def answers():
            assert self.process.running(), f"pebble ended\n{self.process.tail()}"
            try:
                return self.get("/dir", self.port)
            except OSError:
                return None

        eventually(answers, 30, "pebble answers")
        self.root = self.get("/roots/0")
        return self

    def again(self):
        """Everything it knew is forgotten, with its authority."""
        self.process.sweep()
        return self.start()

    def signed(self):
        """How many certificates it has signed."""
        return self.process.log.read_text(errors="replace").count("Issued certificate serial")

    def close(self):
        self.process.sweep()
        self._folder.cleanup()
