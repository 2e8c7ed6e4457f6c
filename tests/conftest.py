"""
A real Postgres for whoever asks for one.

One embedded server a session, in a temporary folder; one database a test, copied from a template to which schema.sql was
applied once.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from running import Gateway

from gateway.store import Store, apply_schema, open_store
from gateway.store.embedded import EmbeddedPostgres, start_or_join

TEMPLATE = "gateway_template"


@pytest.fixture(scope="session")
def cluster() -> Iterator[EmbeddedPostgres]:
    """The server. Its folder may be entered by the account that it runs as, which pytest's own folders may not."""
    folder = Path(tempfile.mkdtemp(prefix="gateway-tests-"))
    folder.chmod(0o711)
    with start_or_join(folder) as server:
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            administer(server, f"alter system set {setting} = off")  # nothing here has to survive a power cut
        administer(server, "select pg_reload_conf()")
        yield server
    shutil.rmtree(folder)


def database_dsn(server: EmbeddedPostgres, name: str, user: str = "postgres") -> str:
    return server.dsn.replace("postgres@/postgres?", f"{user}@/{name}?")


def administer(server: EmbeddedPostgres, statement: str) -> None:
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute(statement)


@contextmanager
def fresh_database(server: EmbeddedPostgres, template: str = "template1") -> Iterator[str]:
    """The DSN of a copy of `template`, as superuser."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    administer(server, f"create database {name} template {template} strategy wal_log")
    yield database_dsn(server, name)
    administer(server, f"drop database {name} with (force)")


@pytest.fixture
def bare_database(cluster) -> Iterator[str]:
    """The DSN of an empty database, as superuser."""
    with fresh_database(cluster) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def template(cluster) -> str:
    administer(cluster, f"create database {TEMPLATE}")
    apply_schema(database_dsn(cluster, TEMPLATE))
    return TEMPLATE


@pytest.fixture
def database(cluster, template) -> Iterator[str]:
    """The DSN of a database with the schema and no rows, as superuser."""
    with fresh_database(cluster, template) as dsn:
        yield dsn


@pytest.fixture
def store(database) -> Iterator[Store]:
    """The store over a database of its own."""
    opened = open_store(database)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def gateway(cluster, template) -> Iterator[Gateway]:
    """The whole product in processes of its own; tests keep apart by the people they make up."""
    name = f"whole_{uuid.uuid4().hex[:12]}"
    administer(cluster, f"create database {name} template {template} strategy wal_log")
    folder = Path(tempfile.mkdtemp(prefix="gateway-whole-"))
    running = Gateway(folder, database_dsn(cluster, name)).start()
    yield running
    running.stop()
    shutil.rmtree(folder)
    administer(cluster, f"drop database {name} with (force)")
