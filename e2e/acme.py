#!/usr/bin/env python3
"""Certificates from an ACME server: a real control plane, agent and load balancer, and Pebble, which looks at the entry node before it
signs. Issued, served and renewed; the control plane killed in the middle of an order; names that lead nowhere, ports that are taken,
accounts that are forgotten or bound elsewhere.
"""

import contextlib
import http.client
import os
import random
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "lib"))
from checks import Suite, eventually
from member import member
from nm import NeuralMesh, binary, free_port
from pebble import Names, Pebble

CLUSTERS = "/api/capabilities/clusters"
HMAC_KEY = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"

suite = Suite("acme")
LOOKS_AT = free_port()
names = Names()
pebble = Pebble(names, LOOKS_AT)
hasty = Pebble(names, LOOKS_AT, validity=60)
bound = Pebble(names, LOOKS_AT, keys={"kid-1": HMAC_KEY}, host="localhost")
mesh = NeuralMesh("server", ["--allow-outbound", "127.0.0.1", "--acme-http-port", LOOKS_AT])


def setup():
    for server in (pebble, hasty, bound):
        suite.on_exit(server.close)
        server.start()
    suite.on_exit(mesh.close)
    mesh.start()
    mesh.login()
    mesh.add_agent()
    mesh.until_node_ready()
    mesh.client.post("/api/servers", {"name": "web", "address": "127.0.0.1", "port": member()}).expect(201)


class Cluster:
    """One with a certificate from an ACME server."""

    def __init__(self, name, server, known=True, port=None, acme=None, **more):
        self.name, self.host, self.server, self.port = name, f"{name}.example.test", server, port or free_port()
        if known:
            names.known.add(self.host)
        order = {"directory": server.directory, "termsOfServiceAgreed": True, "caCertificate": server.ca} | (acme or {})
        body = {"name": name, "type": "load-balanced", "servers": ["web"], "listenPort": self.port}
        self.body = body | {"tls": {"acme": order, "serverNames": [self.host]}} | more
        self.path = f"{CLUSTERS}/{name}"

    def create(self):
        self.made = mesh.client.post(CLUSTERS, self.body).expect(201).data
        return self

    def look(self):
        return mesh.client.get(self.path).expect(200).data

    def acme(self):
        return self.look()["tls"]["acme"]

    def patch(self, **change):
        return mesh.client.patch(self.path, change).expect(200).data

    def until(self, status, seconds=30):
        last = {}

        def seen():
            last.update(self.look())
            return last["tls"]["acme"]["status"] == status and last

        try:
            return eventually(seen, seconds, f"{self.name} to be {status}")
        except AssertionError as e:
            e.add_note(f"{last.get('tls', {}).get('acme')} {last.get('conditions')}\n{mesh.process.tail()}\n{self.server.process.tail(8)}")
            raise

    def events(self, kind):
        return [e for e in mesh.client.get(f"{self.path}/events?limit=200").expect(200).data if e["kind"] == kind]

    def shown(self, root=None):
        """The certificate that the entry shows, verified for the cluster's name against the server's root."""
        context = ssl.create_default_context(cadata=root or self.server.root)
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as plain:
            with context.wrap_socket(plain, server_hostname=self.host) as tls:
                return tls.getpeercert()

    def serves(self, seconds=20):
        """What it shows, once that is what the server signed: a node takes it a moment after it was issued."""

        def look():
            with contextlib.suppress(ssl.SSLCertVerificationError):
                return self.shown()

        return eventually(look, seconds, f"{self.name} shows what {self.server.directory} signed")

    def remove(self):
        mesh.client.delete(self.path).expect(200, 204)


def get(port, path, host):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers={"Host": host})
        answer = connection.getresponse()
        return answer.status, answer.headers.get("Location")
    finally:
        connection.close()


def stored(query):
    with sqlite3.connect(f"file:{mesh.data_dir / 'neuralmesh.db'}?mode=ro", uri=True) as read:
        return read.execute(query).fetchall()


def accounts():
    return stored("SELECT id, sealed FROM resources WHERE kind = 'setting' AND id LIKE 'acme.account.%' ORDER BY id")


def closed(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) != 0


first = Cluster("first", pebble)


@suite.check("until the first certificate is there the entry answers with one that is signed by itself, and the view says so")
def _():
    with names.holding() as asked:
        first.create()
        assert asked.wait(30), f"pebble does not look\n{mesh.process.tail()}"
        # It is told to look when the node has the answer, and not before.
        assert get(LOOKS_AT, "/", first.host)[0] == 404, "whatever else is asked on the challenges' port is not found"
        view = first.look()
        assert view["tls"]["acme"]["status"] == "pending" and view["tls"]["selfSigned"], view["tls"]
        (condition,) = [c for c in view["conditions"] if c["type"] == "certificate"]
        assert "signed by itself" in condition["message"], condition
        assert first.shown(view["tls"]["certificate"])["issuer"] == ((("commonName", first.host),),)


@suite.check("the certificate is issued and served, verified against the server's root; the challenges' port is closed again")
def _():
    view = first.until("valid")
    tls, acme = view["tls"], view["tls"]["acme"]
    shown = first.serves()
    assert shown["subjectAltName"] == (("DNS", first.host),), shown
    assert acme["issuer"].startswith("Pebble Intermediate"), acme
    assert tls["expires"] == acme["notAfter"] and not tls["selfSigned"] and "lastError" not in acme, tls
    assert acme["nextAttempt"] < acme["notAfter"], acme
    assert not [c for c in view["conditions"] if c["type"] == "certificate"], view["conditions"]
    (issued,) = first.events("certificateIssued")
    assert first.host in issued["reason"] and "Pebble" in issued["reason"], issued
    eventually(lambda: closed(LOOKS_AT), 10, "nobody listens on the challenges' port")
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{first.port}", "-servername", first.host, "-verify_hostname", first.host]
        + ["-CAfile", "/dev/stdin", "-verify_return_error"],
        input=pebble.root, capture_output=True, text=True, timeout=20,
    )
    assert "Verify return code: 0 (ok)" in done.stdout, done.stdout[-2000:] + done.stderr


@suite.check("a redirect that listens where the server looks answers both")
def _():
    cluster = Cluster("redirected", pebble, redirectToHttps={"listenPort": LOOKS_AT}).create()
    cluster.until("valid")
    cluster.serves()
    status, to = get(LOOKS_AT, "/a?b", cluster.host)
    assert status == 308 and to == f"https://{cluster.host}:{cluster.port}/a?b", (status, to)
    cluster.remove()
    eventually(lambda: closed(LOOKS_AT), 10, "nobody listens on the challenges' port")


@suite.check("another name is asked for: a new certificate for both, the one before serves meanwhile")
def _():
    other = "second.example.test"
    names.known.add(other)
    before = first.shown()["serialNumber"]
    first.patch(tls={"serverNames": [first.host, other]})
    eventually(lambda: first.shown()["serialNumber"] != before, 30, "another certificate")
    first.until("valid")
    assert sorted(first.shown()["subjectAltName"]) == [("DNS", first.host), ("DNS", other)]
    assert len(first.events("certificateRenewed")) == 1 and len(first.events("certificateIssued")) == 1


renewed = Cluster("renewed", hasty)
astray = Cluster("astray", pebble, known=False)
blocked = Cluster("blocked", pebble)
SEEN = {}


@suite.check("a name that leads nowhere is `failing`, with the server's own reason")
def _():
    renewed.create().until("valid")
    SEEN["first"], SEEN["began"] = renewed.serves()["serialNumber"], time.monotonic()
    astray.create()
    acme = astray.until("failing")["tls"]["acme"]
    assert astray.host in acme["lastError"] and "the ACME server says" in acme["lastError"], acme
    assert acme["nextAttempt"] > astray.look()["created"], acme
    (failed,) = astray.events("certificateFailed")
    assert failed["reason"] == acme["lastError"], failed
    (condition,) = [c for c in astray.look()["conditions"] if c["type"] == "certificate"]
    assert acme["lastError"] in condition["message"], condition
    print(f"    {acme['lastError']}")
    eventually(lambda: closed(LOOKS_AT), 10, "nothing is answered between two attempts")


@suite.check("a port that another program has is `failing`, and says which; other changes of the entry are taken all the same")
def _():
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("0.0.0.0", LOOKS_AT))
        other.listen()
        blocked.create()
        acme = blocked.until("failing")["tls"]["acme"]
        assert str(LOOKS_AT) in acme["lastError"] and "in use" in acme["lastError"], acme
        print(f"    {acme['lastError']}")
        view = blocked.patch(retries=3)
        eventually(lambda: all(e["current"] for e in blocked.look()["entryNodes"]), 20, "the entry node takes other changes")
        assert view["retries"] == 3


@suite.check("renewed at two thirds of its life, without a failed request")
def _():
    failures, stop = [], threading.Event()

    def ask():
        while not stop.is_set():
            try:
                renewed.shown()
            except OSError as e:
                failures.append(repr(e))
            time.sleep(0.05)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        eventually(lambda: renewed.shown()["serialNumber"] != SEEN["first"], 60, "another certificate")
    finally:
        stop.set()
        asking.join()
    took = time.monotonic() - SEEN["began"]
    assert 30 <= took <= 58 and not failures, (took, failures[:3])
    print(f"    after {took:.0f} s of 60")
    assert renewed.events("certificateRenewed") and len(renewed.events("certificateIssued")) == 1
    renewed.remove()


@suite.check("both recover by themselves, once the name leads here and the port is free")
def _():
    names.known.add(astray.host)
    for cluster in (astray, blocked):
        view = cluster.until("valid", 120)
        cluster.serves()
        assert "lastError" not in view["tls"]["acme"] and len(cluster.events("certificateIssued")) == 1
    print(f"    after {len(astray.events('certificateFailed'))} and {len(blocked.events('certificateFailed'))} failures")


def restart():
    mesh.process.kill()
    mesh.process.start()
    mesh.until_ready()


@suite.check("the control plane is killed while the server looks: one certificate in force, and the server signed one")
def _():
    signed = pebble.signed()
    cluster = Cluster("killed", pebble)
    with names.holding() as asked:
        cluster.create()
        assert asked.wait(30), "pebble looks"
        mesh.process.kill()
    mesh.process.start()
    mesh.until_ready()
    cluster.until("valid", 100)
    cluster.serves()
    assert len(cluster.events("certificateIssued")) == 1 and not cluster.events("certificateRenewed")
    assert pebble.signed() == signed + 1, f"{pebble.signed() - signed} signed"
    cluster.remove()


@suite.check("killed anywhere, six times: each time one certificate in force, and none without its key")
def _():
    for n in range(6):
        cluster, after = Cluster(f"killed-{n}", pebble), random.uniform(0, 0.6)
        signed = pebble.signed()
        cluster.create()
        time.sleep(after)  # where it falls is what is tried here
        restart()
        cluster.until("valid", 100)
        cluster.serves()
        issued, extra = len(cluster.events("certificateIssued")), pebble.signed() - signed
        assert issued == 1 and not cluster.events("certificateRenewed") and extra == 1, (n, after, issued, extra)
        failed = cluster.events("certificateFailed")
        assert not failed, f"killed after {after:.3f} s: {failed}"
        cluster.remove()
    eventually(lambda: closed(LOOKS_AT), 10, "nobody listens on the challenges' port")


@suite.check("an account that is bound elsewhere: with the right key it is made, with a wrong one the server's reason is shown")
def _():
    wrong = {"externalAccount": {"keyId": "kid-1", "hmacKey": "bm90IHRoZSBrZXk"}}
    cluster = Cluster("bound", bound, acme=wrong | {"email": "admin@example.test"}).create()
    acme = cluster.until("failing")["tls"]["acme"]
    print(f"    {acme['lastError']}")
    assert "the ACME server says" in acme["lastError"] and acme["externalAccount"] == "kid-1", acme
    cluster.patch(tls={"acme": {"externalAccount": {"hmacKey": HMAC_KEY}}})
    cluster.until("valid")
    cluster.serves()
    assert cluster.acme()["email"] == "admin@example.test"


@suite.check("a server that has forgotten everything gets a new account")
def _():
    account = accounts()
    pebble.again()
    names.known.add("third.example.test")
    first.patch(tls={"serverNames": [first.host, "third.example.test"]})
    eventually(lambda: first.events("certificateRenewed")[0]["reason"].startswith(f"for {first.host}, third"), 60, "a certificate for both")
    first.until("valid")
    first.serves()
    assert len(accounts()) == len(account) and accounts() != account, "one account for another"


@suite.check("by the command line, in one line")
def _():
    name, port = "line.example.test", free_port()
    names.known.add(name)
    ca = mesh.dir / "pebble-ca.pem"
    ca.write_text(pebble.ca)
    environment = {**os.environ, "NEURALMESH_TOKEN": mesh.client.token, "NEURALMESH_SERVER": mesh.url}

    def run(*arguments):
        done = subprocess.run([binary(), "clusters", *arguments], env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done
        return done.stdout

    line = ["--acme", name, "--acme-agree", "--acme-directory", pebble.directory, "--acme-ca", ca, "--acme-email", "a@example.test"]
    run("create", "line", "web", "--port", str(port), *line)
    cluster = Cluster("line", pebble, port=port)
    cluster.until("valid")
    cluster.serves()
    card = run("show", "line")
    assert "valid, ends at" in card, card


@suite.check("what can't be is refused: wildcards, no agreement, no names, the metadata service, plain HTTP")
def _():
    def refused(status, field, **tls):
        cluster = Cluster("refused", pebble)
        cluster.body["tls"] = cluster.body["tls"] | tls
        answer = mesh.client.post(CLUSTERS, cluster.body).expect(status)
        assert [d["field"] for d in answer.json["details"]] == [field], answer
        return answer.error

    order = {"directory": pebble.directory, "termsOfServiceAgreed": True}
    assert "DNS" in refused(422, "tls.serverNames[1]", serverNames=["a.example.test", "*.example.test"])
    refused(422, "tls.serverNames", serverNames=[])
    refused(422, "tls.acme.termsOfServiceAgreed", acme=order | {"termsOfServiceAgreed": False})
    refused(422, "tls.acme", selfSigned=True)
    refused(403, "tls.acme.directory", acme=order | {"directory": "https://169.254.169.254/dir"})
    refused(403, "tls.acme.directory", acme=order | {"directory": "https://[::1]/dir"})
    refused(422, "tls.acme.directory", acme=order | {"directory": "http://127.0.0.1/dir"})
    refused(422, "tls.acme.caCertificate", acme=order | {"caCertificate": "no certificate"})
    refused(422, "tls.acme.externalAccount.hmacKey", acme=order | {"externalAccount": {"keyId": "a", "hmacKey": "§"}})


@suite.check("no private key and no binding key is in an answer, the log, the audit or in the clear in the database")
def _():
    told = [mesh.client.get(path).raw.decode() for path in (CLUSTERS, "/api/audit?limit=200", f"{first.path}/events")]
    told.append(mesh.process.log.read_text(errors="replace"))
    database = mesh.data_dir / "neuralmesh.db"
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as read:
        told.append("\n".join(read.iterdump()))
    assert "acme.account." in told[-1] and "CERTIFICATE" in told[0]
    for text in told:
        assert "PRIVATE KEY" not in text and HMAC_KEY not in text and "key_pkcs8" not in text


@suite.check("a cluster that no longer asks for one, or is gone, leaves no certificate behind")
def _():
    first.patch(tls={"acme": None, "selfSigned": True})
    assert first.look()["tls"]["selfSigned"] and "acme" not in first.look()["tls"]
    for name in ("astray", "blocked", "bound", "line"):
        mesh.client.delete(f"{CLUSTERS}/{name}").expect(200, 204)
    eventually(lambda: not stored("SELECT id FROM resources WHERE kind = 'certificate'"), 10, "no certificate's row is left")
    first.remove()


suite.run(setup)
