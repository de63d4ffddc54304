"""Databases in containers of the lab, and what writes into them meanwhile."""

import subprocess
import threading

from checks import eventually

PASSWORD = "hush 'it' $(is) a secret"


class Database:
    """A container with a database, by its node and its id of ours."""

    def __init__(self, fleet, node, container):
        self.fleet, self.node, self.id = fleet, node, container

    def run(self, *command, variables=None, stdin=None, check=True):
        """A program in the container, past NeuralMesh: what it wrote."""
        engine = self.fleet.dir / "nodes" / self.node / "run/docker.sock"
        name = self.fleet.docker(self.node).of(self.id)["Id"]
        flags = [word for key, value in (variables or {}).items() for word in ("-e", f"{key}={value}")]
        done = subprocess.run(
            ["docker", "-H", f"unix://{engine}", "exec", "-i", *flags, name, *command], input=stdin, text=True, capture_output=True, timeout=60
        )
        assert done.returncode == 0 or not check, f"{command[0]} ended with {done.returncode}: {done.stderr[-500:]}"
        return done.stdout.strip() if done.returncode == 0 else None


class MariaDb(Database):
    def sql(self, text, check=True):
        return self.run("mariadb", "-uroot", "-N", "-B", variables={"MYSQL_PWD": PASSWORD}, stdin=text, check=check)

    def until_up(self, seconds=30):
        eventually(lambda: self.sql("SELECT 1", check=False) == "1", seconds, "MariaDB to answer", every=0.3)


class Postgres(Database):
    def sql(self, text, check=True, base="shop"):
        return self.run("psql", "-U", "keeper", "-d", base, "-qtA", stdin=text, check=check)

    def until_up(self, seconds=30):
        # Its first start runs it once without the network, to set it up.
        up = ("psql", "-h", "127.0.0.1", "-U", "keeper", "-d", "shop", "-qtAc", "SELECT 1")
        eventually(lambda: self.run(*up, variables={"PGPASSWORD": PASSWORD}, check=False) == "1", seconds, "PostgreSQL to answer", every=0.3)


class Writer:
    """Writes in transactions, and a file of lines, for as long as the block of `with` lasts: an order, and the sum of all orders."""

    def __init__(self, database):
        self.database, self.written, self.trouble = database, 0, None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self):
        self.database.sql(
            "CREATE DATABASE shop; USE shop; CREATE TABLE orders (id INT PRIMARY KEY, amount INT) ENGINE=InnoDB;"
            "CREATE TABLE sums (id INT PRIMARY KEY, total BIGINT, orders INT) ENGINE=InnoDB; INSERT INTO sums VALUES (1, 0, 0);"
        )
        self._thread.start()
        eventually(lambda: self.written > 0 or self.trouble, 20, "the first orders")
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(60)
        assert self.trouble is None, f"the writer failed: {self.trouble}"

    def _work(self):
        try:
            while not self._stop.is_set():
                text = "USE shop;"
                for n in range(self.written + 1, self.written + 101):
                    text += f"START TRANSACTION; INSERT INTO orders VALUES ({n}, {n % 97});"
                    text += f"UPDATE sums SET total = total + {n % 97}, orders = orders + 1 WHERE id = 1; COMMIT;"
                self.database.sql(text)
                self.written += 100
                self.database.run("sh", "-c", f"echo {self.written} >>/uploads/log; cp /uploads/log /uploads/copy-{self.written}")
        except Exception as e:  # told by the thread that waits for it
            self.trouble = e
