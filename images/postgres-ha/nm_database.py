"""What is made in PostgreSQL itself: roles, the database and its extensions."""

import contextlib

import nm_restore
import psycopg2
from nm_common import Refused, connect_local
from nm_document import Document


def bootstrap():
    """Patroni's first primary: roles, the database, its extensions. May run again."""
    document = Document.load()
    with contextlib.nullcontext() if document.restore is None else nm_restore.reporting():
        make_roles(document)
        extend(document, document.database.get("extensions", []))
    return 0


def make_roles(document):
    database, passwords = document.database, document.passwords
    with contextlib.closing(connect_local(document)) as made:
        cursor = made.cursor()
        cursor.execute("SET log_statement = none; SET log_min_duration_statement = -1; SET log_min_error_statement = panic")

        def role(name, password, options):
            cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (name,))
            what = "ALTER" if cursor.fetchone() else "CREATE"
            cursor.execute(f"{what} ROLE {quoted(name)} WITH LOGIN {options} PASSWORD %s", (passwords[password],))

        role(database["owner"], "application", "NOSUPERUSER NOCREATEDB NOCREATEROLE")
        role(database["admin"], "admin", "NOSUPERUSER CREATEDB CREATEROLE")
        cursor.execute(f"GRANT pg_monitor, {quoted(database['owner'])} TO {quoted(database['admin'])}")
        cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database["name"],))
        if cursor.fetchone():
            cursor.execute(f"ALTER DATABASE {quoted(database['name'])} OWNER TO {quoted(database['owner'])}")
        else:
            cursor.execute(f"CREATE DATABASE {quoted(database['name'])} OWNER {quoted(database['owner'])}")
        cursor.execute(f"REVOKE CONNECT, TEMPORARY ON DATABASE {quoted(database['name'])} FROM PUBLIC")
        cursor.execute(f"GRANT CONNECT, TEMPORARY ON DATABASE {quoted(database['name'])} TO {quoted(database['admin'])}")


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


def extend(document, extensions):
    with contextlib.closing(connect_local(document, document.database["name"])) as made:
        for extension in extensions:
            try:
                made.cursor().execute(f"CREATE EXTENSION IF NOT EXISTS {quoted(extension)} CASCADE")
            except psycopg2.Error as e:
                raise Refused(f"The extension {extension} can't be made: {' '.join(str(e).split())[:300]}.") from None
