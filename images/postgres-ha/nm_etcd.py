"""Asking members over mutual TLS, and what is asked of etcd: the cluster's keys and etcd's own members."""

import base64
import http.client
import json
import ssl

from nm_common import ANSWER_SECONDS, CA, CERTIFICATE, KEY, Refused


def context():
    made = ssl.create_default_context(cafile=str(CA))
    made.load_cert_chain(str(CERTIFICATE), str(KEY))
    return made


def ask(address, port, method, path, body=None, timeout=ANSWER_SECONDS):
    """Status and text of an answer over mutual TLS."""
    connection = http.client.HTTPSConnection(address, port, timeout=timeout, context=context())
    try:
        connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()


TROUBLE = (OSError, http.client.HTTPException, ValueError)


class Etcd:
    """etcd by its JSON gateway: keys and members."""

    def __init__(self, document):
        self.document = document

    def call(self, path, body, timeout=ANSWER_SECONDS):
        last = "it has no members"
        for name, address, port in self.document.etcd_endpoints():
            try:
                status, text = ask(address, port, "POST", "/v3" + path, body, timeout)
                if status == 200:
                    return json.loads(text)
                last = f"{name} answered {status}: {text.strip()[:200]}"
            except TROUBLE as e:
                last = f"{name}: {e}"
        raise Refused(f"etcd does not answer ({last}).")

    def keys(self):
        """The cluster's keys, {name without prefix: value}; and whether a majority of etcd vouches for them."""
        prefix = self.document.prefix
        body = {"key": b64(prefix), "range_end": b64(prefix[:-1] + chr(ord(prefix[-1]) + 1))}
        try:
            rows, sure = self.call("/kv/range", body), True
        except Refused:
            rows, sure = self.call("/kv/range", body | {"serializable": True}), False
        found = {base64.b64decode(row["key"]).decode(): base64.b64decode(row.get("value", "")).decode() for row in rows.get("kvs", [])}
        return {key[len(prefix) :]: value for key, value in found.items()}, sure

    def value(self, key):
        """Of a key of another name than the cluster's."""
        rows = self.call("/kv/range", {"key": b64(key)}).get("kvs", [])
        return base64.b64decode(rows[0].get("value", "")).decode() if rows else None

    def put(self, key, value):
        self.call("/kv/put", {"key": b64(key), "value": b64(value)})

    def delete(self, key):
        self.call("/kv/deleterange", {"key": b64(self.document.prefix + key if not key.startswith("/") else key)})

    def members(self):
        """Rows of name, address, id; one that never started has no name of its own yet."""
        rows = self.call("/cluster/member/list", {}).get("members", [])
        urls = [row["peerURLs"][0].rpartition("//")[2].rpartition(":")[0] for row in rows]
        names = {address: name for name, address in self.document.etcd_members.items()}
        return [
            {"name": row.get("name") or names.get(url), "address": url, "id": row["ID"]}
            | {"learner": row.get("isLearner", False), "began": bool(row.get("name"))}
            for row, url in zip(rows, urls)
        ]

    def healthy(self, address):
        try:
            status, text = ask(address, self.document.ports["etcdClient"], "GET", "/health", timeout=ANSWER_SECONDS)
            return status == 200 and json.loads(text)["health"] == "true"
        except TROUBLE:
            return False


def b64(text):
    return base64.b64encode(text.encode()).decode()
