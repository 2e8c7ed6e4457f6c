"""A real PgBouncer in transaction mode, without a word about it in DATABASE_URL."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote

import psycopg
import pytest

from gateway.database import open_postgres
from gateway.database.migrate import apply_schema
from gateway.database.postgres import PostgresBackend
from gateway.errors import DatabaseUnavailable
from tests.support.gateway_process import free_port

pytestmark = pytest.mark.skipif(shutil.which("pgbouncer") is None, reason="PgBouncer is not installed")

FUNCTIONS = """
create function public.gateway_one_v1(p_a text) returns jsonb language sql as $$ select to_jsonb('one ' || p_a) $$;
create function public.gateway_two_v1(p_a text) returns jsonb language sql as $$ select to_jsonb('two ' || p_a) $$;
"""


@pytest.fixture
def pooled(bare_database) -> Iterator[str]:
    """The address of the database behind a pooler with two sessions."""
    folder, port = Path(tempfile.mkdtemp(prefix="gateway-tests-")), free_port()
    folder.chmod(0o755)
    name = bare_database.partition("@/")[2].partition("?")[0]
    sockets = unquote(bare_database.partition("host=")[2])
    (folder / "users").write_text('"postgres" ""\n')
    (folder / "ini").write_text(
        f"[databases]\n{name} = host={sockets} dbname={name} user=postgres\n"
        f"[pgbouncer]\nlisten_addr=127.0.0.1\nlisten_port={port}\nunix_socket_dir=\nauth_type=trust\nauth_file={folder}/users\n"
        "pool_mode=transaction\ndefault_pool_size=2\n"
    )
    command = ["pgbouncer", str(folder / "ini")]
    account = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **account)
    dsn = f"postgresql://postgres@127.0.0.1:{port}/{name}"
    try:
        _wait(dsn, process)
        yield dsn
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(folder)


def _wait(dsn: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        try:
            psycopg.connect(dsn, connect_timeout=2).close()
        except psycopg.OperationalError:
            if process.poll() is not None:
                pytest.skip("PgBouncer does not start under this account")
            time.sleep(0.05)
        else:
            return
    pytest.skip("PgBouncer does not answer")


def test_a_transaction_pooler_just_works(pooled):
    """
    Sixteen clients share two sessions: each gets the answer of its own function.
    """
    with psycopg.connect(pooled, autocommit=True, prepare_threshold=None) as connection:
        connection.execute(FUNCTIONS)
    backends = [PostgresBackend(pooled) for _ in range(4)]

    def call(number: int) -> bool:
        kind = "one" if number % 2 else "two"
        return backends[number % 4].call(f"gateway_{kind}_v1", {"p_a": str(number)}) == f"{kind} {number}"

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(call, range(400)))
    for backend in backends:
        backend.close()


def test_the_schema_is_applied_and_read_through_it(pooled):
    """
    `db apply` and `serve` take the same address.
    """
    apply_schema(pooled)
    store = open_postgres(pooled)
    assert store.check()["is_current"]
    store.close()


def test_the_poolers_own_words_are_understood(pooled):
    """
    It knows its databases itself.
    """
    with pytest.raises(DatabaseUnavailable, match="the database named in DATABASE_URL does not exist"):
        open_postgres(pooled.rpartition("/")[0] + "/canary").check()
