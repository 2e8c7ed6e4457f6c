"""
A real Postgres, a gateway process, and the markers.

Each worker has one embedded server in a temporary folder, and one database that is emptied after each test.
"""

from __future__ import annotations

import gc
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.database import Database, open_postgres, open_rest
from gateway.database.migrate import apply_schema
from gateway.embedded.postgres import EmbeddedPostgres, start_or_join
from tests.support.database import ReusedDatabase, administer, database_dsn, fresh_database
from tests.support.event_fixtures import aged, rt, runtime, sealed  # noqa: F401 - fixtures of several files
from tests.support.gateway_process import Gateway, whole_gateway
from tests.support.postgrest_stand_in import SECRET_KEY, PostgRest

TEMPLATE = "gateway_template"
_ENOUGH_BYTES = 2 * 1024**3
CONTRACT = {
    "test_store",
    "test_store_connections",
    "test_store_pending",
    "test_store_links",
    "test_partners",
    "test_partner_limits",
    "test_partner_reach",
    "test_store_events",
}


@pytest.fixture(scope="session")
def cluster() -> Iterator[EmbeddedPostgres]:
    """The server. Its folder may be entered by the account that it runs as, which pytest's own folders may not."""
    folder = Path(tempfile.mkdtemp(prefix="gateway-tests-", dir=_roomy(Path("/dev/shm"))))
    folder.chmod(0o711)
    with start_or_join(folder) as server:
        for setting in ("fsync", "full_page_writes", "synchronous_commit", "autovacuum"):
            administer(
                server, f"alter system set {setting} = off"
            )  # nothing here has to survive a power cut, or lives long
        administer(server, "alter system set max_wal_size = '128MB'")
        administer(server, "select pg_reload_conf()")
        yield server
    shutil.rmtree(folder)


def _roomy(memory: Path) -> Path | None:
    """A folder that is memory, where there is enough: two thousand databases take a third less time there. Else wherever temporary files are."""
    return memory if memory.is_dir() and shutil.disk_usage(memory).free > _ENOUGH_BYTES else None


@pytest.fixture
def bare_database(cluster) -> Iterator[str]:
    """The DSN of an empty database, as superuser."""
    with fresh_database(cluster) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def template(cluster) -> str:
    """The name of a database with the schema and no rows, to copy."""
    administer(cluster, f"create database {TEMPLATE}")
    apply_schema(database_dsn(cluster, TEMPLATE))
    return TEMPLATE


@pytest.fixture(scope="session")
def reused(cluster, template) -> Iterator[ReusedDatabase]:
    made = ReusedDatabase(cluster, template)
    yield made
    made.close()


@pytest.fixture
def database(reused) -> Iterator[str]:
    """The DSN of a database with the schema and no rows, as superuser."""
    yield reused.dsn
    reused.reset()


@pytest.fixture
def rest(database) -> Iterator[PostgRest]:
    """A REST API over that database."""
    stand_in = PostgRest(database)
    yield stand_in
    stand_in.stop()


@pytest.fixture
def store(request, database) -> Iterator[Database]:
    """The store over a database of its own; the tests of its contract get one over each backend."""
    if getattr(request, "param", "direct") == "rest":
        opened = open_rest(request.getfixturevalue("rest").url, SECRET_KEY)
    else:
        opened = open_postgres(database)
    yield opened
    opened.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "store" in metafunc.fixturenames and metafunc.module.__name__.rpartition(".")[2] in CONTRACT:
        metafunc.parametrize("store", ["direct", "rest"], indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.parent.name
        if "cluster" in item.fixturenames:
            item.add_marker("database")
        elif folder == "unit":
            item.add_marker("unit")
        if folder == "browser":
            item.add_marker("browser")
        if folder == "reliability":
            item.add_marker("slow")


def pytest_collection_finish() -> None:
    """Modules and thousands of tests stay until the end: no collection of garbage looks at them again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def early() -> None:
    """The hour lasts long enough for a test to end in it: its last seconds are waited out. The database is on this machine."""
    left = 3600 - time.time() % 3600
    if left < 30:
        time.sleep(left + 0.1)


@pytest.fixture(scope="session")
def gateway(cluster, template) -> Iterator[Gateway]:
    """The whole product in processes of its own; tests keep apart by the people they make up."""
    with whole_gateway(cluster, template) as made:
        yield made.start()
