"""What a member is told, in the document $NM_POSTGRES_SECRET; and what PostgreSQL, Patroni, pgbouncer and etcd are told of it."""

import json
import math
from pathlib import Path

import nm_restore
from nm_common import BIN, CA, CERTIFICATE, DATA, FIFO, KEY, RUN, SOCKETS, Refused, private

EXTENSIONS = Path("/usr/share/postgresql/15/extension")
DOCUMENT = RUN / "document.json"

# What users may set otherwise.
DEFAULT_PARAMETERS = {
    "wal_level": "replica",
    "max_connections": 100,
    "max_wal_senders": 10,
    "max_replication_slots": 10,
    "wal_keep_size": "512MB",
    "max_slot_wal_keep_size": "16GB",
}
# What holds the cluster together, in each member's own configuration, which wins over everybody's. A standby that is gone is noticed
# within wal_sender_timeout: for so long a synchronous commit waits for it.
FIXED_PARAMETERS = {
    "ssl": "on",
    "ssl_ca_file": str(CA),
    "ssl_cert_file": str(CERTIFICATE),
    "ssl_key_file": str(KEY),
    "ssl_min_protocol_version": "TLSv1.2",
    "password_encryption": "scram-sha-256",
    "unix_socket_directories": SOCKETS,
    "logging_collector": "off",
    "log_destination": "stderr",
    "wal_sender_timeout": "5s",
    "wal_receiver_timeout": "5s",
    "wal_receiver_status_interval": "1s",
    "wal_retrieve_retry_interval": "500ms",
    "tcp_keepalives_idle": 5,
    "tcp_keepalives_interval": 2,
    "tcp_keepalives_count": 3,
    "tcp_user_timeout": 10000,
    # Always and on replicas, too, as it can't be changed while PostgreSQL runs. What is kept the command decides.
    "archive_mode": "always",
    "archive_library": "",
}
# The cluster's own, by `configure`: nobody sets them as parameters.
RESERVED = FIXED_PARAMETERS.keys() | {"archive_command", "restore_command", "archive_cleanup_command", "recovery_end_command"}


class Document:
    """What $NM_POSTGRES_SECRET said, and what follows from it."""

    def __init__(self, told):
        self.told = told
        self.cluster, self.member, self.address = told["cluster"], told["member"], told["address"]
        self.ports, self.passwords, self.database = told["ports"], told["passwords"], told["database"]
        self.etcd_members = told["etcd"]["members"]
        self.timing = {"ttl": 5, "loopWait": 1, "retryTimeout": 2} | told.get("timing", {})
        self.pooler = {"enabled": False, "mode": "transaction", "size": 20} | told.get("pooler", {})
        self.read_lag_limit = float(told.get("readLagLimit", 30))
        self.restore = told.get("restore")  # what to begin with instead of with nothing
        self.joins = bool(told.get("joins"))  # begins no database, whoever is first
        self.runs_etcd = self.member in self.etcd_members
        self.prefix = f"/service/{self.cluster}/"

    @classmethod
    def load(cls):
        try:
            return cls(json.loads(DOCUMENT.read_text()))
        except FileNotFoundError:
            raise Refused("This container has not been started yet.") from None

    def check(self):
        """Refuses what could only fail later, where nobody looks."""
        missing = [e for e in self.database.get("extensions", []) if not (EXTENSIONS / f"{e}.control").exists()]
        if missing:
            raise Refused(f"There is no extension called {', '.join(missing)} in this image.")
        nm_restore.target(self)
        timing = self.timing
        if timing["ttl"] < timing["loopWait"] + 2 * timing["retryTimeout"]:
            raise Refused(f"The time to live of {timing['ttl']} s is shorter than loopWait + 2 * retryTimeout: a good primary would be demoted.")

    def etcd_endpoints(self):
        """Client addresses, this member's own first."""
        others = [(name, address) for name, address in self.etcd_members.items() if name != self.member]
        own = [(self.member, "127.0.0.1")] if self.runs_etcd else []
        return [(name, address, self.ports["etcdClient"]) for name, address in own + others]

    def safety_margin(self):
        """How long before the lease's end the watchdog bites. The lease was renewed when etcd was asked, the watchdog when it had
        answered: for so long Patroni 3.0 waits for one member of etcd before it asks another."""
        return math.ceil(max(1, self.timing["retryTimeout"] / 3))

    def parameters(self, wanted):
        return DEFAULT_PARAMETERS | {key: value for key, value in (wanted or {}).items() if key not in RESERVED}

    def write(self):
        """Everything that programs here are told by files."""
        tls = self.told["tls"]
        for path, text in ((CA, tls["ca"]), (CERTIFICATE, tls["certificate"]), (KEY, tls["key"])):
            private(path, text if text.endswith("\n") else text + "\n")
        private(DOCUMENT, json.dumps(self.told))
        private(RUN / "patroni.yml", json.dumps(self.patroni(), indent=1))  # JSON is YAML
        private(RUN / "pgbouncer.ini", self.pgbouncer())
        users = {self.database["owner"]: self.passwords["application"], self.database["admin"]: self.passwords["admin"]}
        quoted = {name: password.replace('"', '""') for name, password in users.items()}
        private(RUN / "pgbouncer.users", "".join(f'"{name}" "{password}"\n' for name, password in quoted.items()))

    def patroni(self):
        ports, timing = self.ports, self.timing
        verified = {"sslmode": "verify-ca", "sslrootcert": str(CA)}

        def role(name, password):
            return {"username": name, "password": self.passwords[password]} | verified

        dynamic = {
            "ttl": timing["ttl"],
            "loop_wait": timing["loopWait"],
            "retry_timeout": timing["retryTimeout"],
            "maximum_lag_on_failover": 1 << 20,
            "check_timeline": True,
            "primary_start_timeout": 0,  # one that crashed is not waited for where another can take over
            "failsafe_mode": False,  # it would let a primary go on that the others can't see
            "synchronous_mode": bool(self.database.get("synchronous")),
            "synchronous_mode_strict": False,  # alone it takes writes all the same
            "postgresql": {
                "use_slots": True,
                "use_pg_rewind": True,
                "remove_data_directory_on_rewind_failure": True,
                "remove_data_directory_on_diverged_timelines": True,
                "parameters": self.parameters(self.database.get("parameters")),
            },
        }
        begin = {
            "dcs": dynamic,
            "initdb": [{"encoding": "UTF8"}, {"locale": "C.UTF-8"}, "data-checksums"],
            "restore": {"command": "/usr/local/bin/nm-postgres restore", "no_params": True},
            "method": "initdb" if self.restore is None else "restore",
            "post_bootstrap": "/usr/local/bin/nm-postgres bootstrap",
        }
        return ({} if self.joins else {"bootstrap": begin}) | {
            "scope": self.cluster,
            "namespace": "/service/",
            "name": self.member,
            "log": {"level": "INFO", "loggers": {"patroni.__main__": "WARNING"}},  # or else it tells every second that nothing is to be done
            "restapi": {
                "listen": f"0.0.0.0:{ports['patroni']}",
                "connect_address": f"{self.address}:{ports['patroni']}",
                "certfile": str(CERTIFICATE),
                "keyfile": str(KEY),
                "cafile": str(CA),
                "verify_client": "optional",  # whoever changes something needs a certificate; who looks does not
            },
            "ctl": {"cacert": str(CA), "certfile": str(CERTIFICATE), "keyfile": str(KEY)},
            "etcd3": {
                "hosts": [f"{address}:{ports['etcdClient']}" for address in self.etcd_members.values()],
                "protocol": "https",
                "cacert": str(CA),
                "cert": str(CERTIFICATE),
                "key": str(KEY),
            },
            "postgresql": {
                "listen": f"0.0.0.0:{ports['postgres']}",
                "connect_address": f"{self.address}:{ports['postgres']}",
                "data_dir": str(DATA / "data"),
                "bin_dir": BIN,
                "pgpass": str(RUN / "pgpass"),
                "use_unix_socket": True,
                "authentication": {
                    "superuser": role("postgres", "superuser"),
                    "replication": role("replicator", "replication"),
                    "rewind": role("rewinder", "rewind"),
                },
                "parameters": FIXED_PARAMETERS,
                "pg_hba": [
                    "local all postgres peer",
                    "hostssl replication replicator all scram-sha-256",
                    "hostssl all replicator all reject",
                    "hostssl all postgres 127.0.0.1/32 scram-sha-256",
                    "hostssl all postgres all reject",
                    "hostssl all all all scram-sha-256",
                ],
                "basebackup": [{"checkpoint": "fast"}],
            },
            "watchdog": {"mode": "required", "driver": "testing", "device": str(FIFO), "safety_margin": self.safety_margin()},
        }

    def pgbouncer(self):
        options = {
            "listen_addr": "0.0.0.0",
            "listen_port": self.ports["pooler"],
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": RUN / "pgbouncer.users",
            "client_tls_sslmode": "require",
            "client_tls_ca_file": CA,
            "client_tls_cert_file": CERTIFICATE,
            "client_tls_key_file": KEY,
            "server_tls_sslmode": "verify-full",
            "server_tls_ca_file": CA,
            "pool_mode": self.pooler["mode"],
            "default_pool_size": self.pooler["size"],
            "max_client_conn": 5000,
            "ignore_startup_parameters": "extra_float_digits,options",
            # So that nobody waits long at a server that is gone: the balancer then sends them elsewhere.
            "server_connect_timeout": 3,
            "server_login_retry": 1,
            "query_wait_timeout": 10,
            "server_check_delay": 5,
            "log_connections": 0,
            "log_disconnections": 0,
            "stats_period": 3600,
        }
        lines = "\n".join(f"{key} = {value}" for key, value in options.items())
        return f"[databases]\n* = host=127.0.0.1 port={self.ports['postgres']}\n\n[pgbouncer]\n{lines}\n"

    def etcd(self):
        """The command line of this member's etcd; of a data directory that is there it takes who the members are."""
        peer, client = self.ports["etcdPeer"], self.ports["etcdClient"]
        everybody = ",".join(f"{name}=https://{address}:{peer}" for name, address in self.etcd_members.items())
        flags = {
            "name": self.member,
            "data-dir": DATA / "etcd",
            "listen-peer-urls": f"https://0.0.0.0:{peer}",
            "listen-client-urls": f"https://0.0.0.0:{client}",
            "initial-advertise-peer-urls": f"https://{self.address}:{peer}",
            "advertise-client-urls": f"https://{self.address}:{client}",
            "initial-cluster": everybody,
            "initial-cluster-token": self.cluster,
            "initial-cluster-state": self.told["etcd"].get("state", "new"),
            "cert-file": CERTIFICATE,
            "key-file": KEY,
            "trusted-ca-file": CA,
            "client-cert-auth": "true",
            "peer-cert-file": CERTIFICATE,
            "peer-key-file": KEY,
            "peer-trusted-ca-file": CA,
            "peer-client-cert-auth": "true",
            # Behind a node's address translation a member comes from another address than its certificate has.
            "experimental-peer-skip-client-san-verification": "true",
            "heartbeat-interval": 100,
            "election-timeout": 1000,
            "pre-vote": "true",
            "auto-compaction-mode": "periodic",
            "auto-compaction-retention": "1h",
            "quota-backend-bytes": 1 << 30,
            "logger": "zap",
            "log-outputs": "stderr",
            "log-level": "warn",
        }
        return ["/usr/bin/etcd", *(f"--{key}={value}" for key, value in flags.items())]
