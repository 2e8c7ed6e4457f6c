"""
The backend over psycopg: values in, values out, nothing waits for ever, and no error quotes what was passed.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import structlog
from psycopg import errors
from structlog.testing import capture_logs

from gateway.database import SCHEMA_VERSION, Database, open_postgres, postgres
from gateway.database.migrate import apply_schema
from gateway.database.postgres import FunctionMissing, PostgresBackend
from gateway.database.queries.connections import erase_own_connection
from gateway.embedded.postgres import start_or_join
from gateway.errors import DatabaseUnavailable, Unexpected
from tests.support.database import Person, rows

FUNCTIONS = """
create function public.gateway_echo_v1(a text, b bigint, c boolean, d text[], e jsonb, f uuid, g timestamptz) returns jsonb
  language sql as $$ select jsonb_build_array(a, b, c, to_jsonb(d), e, f, extract(epoch from g)) $$;
create function public.gateway_slow_v1(seconds numeric) returns jsonb
  language plpgsql as $$ begin perform pg_sleep(seconds); return to_jsonb(pg_backend_pid()); end $$;
create function public.gateway_prepared_v1() returns jsonb
  language sql as $$ select to_jsonb(count(*)) from pg_prepared_statements $$;
create table public.written (at timestamptz default now());
create function public.gateway_write_v1() returns jsonb
  language plpgsql as $$ begin insert into public.written default values; return null; end $$;
create function public.gateway_nothing_v1() returns jsonb language sql as $$ select null::jsonb $$;
"""


@pytest.fixture
def backend(bare_database) -> Iterator[PostgresBackend]:
    with psycopg.connect(bare_database, autocommit=True) as connection:
        connection.execute(FUNCTIONS)
    made = PostgresBackend(bare_database)
    yield made
    made.close()


def pid(backend: PostgresBackend) -> int:
    return backend.call("gateway_slow_v1", {"seconds": 0})


def test_json_values_go_in_and_come_out(backend):
    """
    Text, numbers, truth, lists, objects, ids and times, by name, in any order; quotes and backslashes are just text.
    """
    passed = {
        "g": "1970-01-01T00:01:00+00:00",
        "a": "'; drop table x; -- \\ %s {}",
        "b": 2**40,
        "c": False,
        "d": ["one", "it's {two}", ""],
        "e": {"deep": [1, None, {"x": "é"}]},
        "f": "00000000-0000-0000-0000-000000000001",
    }
    assert [passed[name] for name in "abcdef"] + [60] == backend.call("gateway_echo_v1", passed)


def test_nothing_is_passed_as_nothing(backend):
    """
    None is null whatever the type, an empty list is a list, and null comes back as None.
    """
    nothing = dict.fromkeys("abcefg") | {"d": []}
    assert [None, None, None, [], None, None, None] == backend.call("gateway_echo_v1", nothing)
    assert backend.call("gateway_nothing_v1", {}) is None


@pytest.mark.parametrize("name", ["gateway_x_v1(); drop table x", "x.y", "", "gateway x"])
def test_what_is_not_a_name_is_never_sent(backend, name):
    """
    Neither as a function nor as an argument.
    """
    with pytest.raises(Unexpected):
        backend.call(name, {})
    with pytest.raises(Unexpected):
        backend.call("gateway_nothing_v1", {name: 1})


def test_an_unknown_function_is_told_from_other_errors(backend):
    """
    So that a missing schema can be named.
    """
    with pytest.raises(FunctionMissing):
        backend.call("gateway_absent_v1", {})


@pytest.mark.parametrize(
    "arguments",
    [{"seconds": "canary"}, {"canary": 1}, {"seconds": "canary\x00"}, {"seconds": object()}, {"seconds": "9e999999"}],
)
def test_no_error_quotes_what_was_passed(backend, arguments):
    """
    Neither its words nor what Python remembers as its cause or context.
    """
    with pytest.raises(Unexpected) as refused:
        backend.call("gateway_slow_v1", arguments)

    error = refused.value
    assert (None, None) == (error.__cause__, error.__context__)
    assert "canary" not in "".join(traceback.format_exception_only(error))
    assert "gateway_slow_v1" in str(error)


def test_an_answer_is_not_waited_for_beyond_its_time(backend, monkeypatch):
    """
    Also where the server is alive and silent; the next call has a connection that works.
    """
    before = pid(backend)
    monkeypatch.setattr(postgres, "ANSWER_SECONDS", 0.3)
    began = time.monotonic()
    with pytest.raises(DatabaseUnavailable):
        backend.call("gateway_slow_v1", {"seconds": 30})

    assert time.monotonic() - began < 25
    assert before != pid(backend)


def test_a_free_connection_is_not_waited_for_beyond_its_time(bare_database, backend, monkeypatch):
    """
    A pool that is used up refuses, and serves again afterwards.
    """
    monkeypatch.setattr(postgres, "CONNECTION_SECONDS", 0.2)
    small = PostgresBackend(bare_database, pool_size=1)
    with ThreadPoolExecutor() as threads:
        slow = threads.submit(small.call, "gateway_slow_v1", {"seconds": 1})
        active = "select 1 from pg_stat_activity where state = 'active' and wait_event = 'PgSleep'"
        while not rows(bare_database, active):
            time.sleep(0.01)
        with pytest.raises(DatabaseUnavailable):
            pid(small)
        assert slow.result() == pid(small)
    small.close()


def test_no_lock_is_waited_for_in_the_server_beyond_its_time(database, store):
    """
    Each function that may wait for a lock says how long; it is given up there, so that nothing goes on unseen.
    """
    alice = Person("alice")
    alice.signs_in(store)
    standing = alice.connects(store)
    rows(database, "alter function public.gateway_disconnect_v1 set lock_timeout = '100ms'")
    with psycopg.connect(database) as somebody:
        somebody.execute("select 1 from public.provider_data for update")
        with pytest.raises(DatabaseUnavailable, match="LockNotAvailable"):
            erase_own_connection(store, session_hash=alice.session, connection_id=standing.id)
    assert erase_own_connection(store, session_hash=alice.session, connection_id=standing.id)


def test_every_function_that_writes_bounds_its_locks(database):
    """
    All of them, from the catalogue.
    """
    unbounded = rows(
        database,
        "select proname from pg_proc where pronamespace = 'public'::regnamespace and proname ~ '^gateway_' and provolatile = 'v'"
        " and not coalesce(proconfig::text, '') ~ 'lock_timeout'",
    )
    assert [] == unbounded


def test_a_connection_that_the_server_closed_is_not_used(bare_database, backend):
    """
    A connection that closed while idle causes no error.
    """
    before = pid(backend)
    rows(bare_database, "select pg_terminate_backend(%s, 5000)", before)

    assert before != pid(backend)


def test_a_restarted_database_is_found_again(cluster):
    """
    After a restart of the server, calls work again.
    """
    folder = cluster.home.parent / "another"
    folder.mkdir(mode=0o711)
    with start_or_join(folder) as server:
        apply_schema(server.dsn)
        store = open_postgres(server.dsn)
        assert SCHEMA_VERSION == store.schema()["version"]
    with start_or_join(folder):
        assert SCHEMA_VERSION == store.schema()["version"]
    store.close()


def test_threads_share_the_pool(bare_database, backend):
    """
    More callers than connections, all served, by at most as many connections as were allowed.
    """
    small = PostgresBackend(bare_database, pool_size=8)
    with ThreadPoolExecutor(24) as threads:
        pids = list(threads.map(lambda _: pid(small), range(400)))
    small.close()
    assert 1 <= len(set(pids)) <= 8


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_connections_of_its_own(backend):
    """
    The parent's go on working; nothing of them is used or closed in the child.
    """
    before, (reader, writer) = pid(backend), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, str(pid(backend)).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    said = os.read(reader, 20)
    os.close(reader)
    os.close(writer)

    assert int(said) != before
    assert before == pid(backend)


def test_no_statement_is_prepared(backend):
    """
    Behind a transaction pooler prepared statements of several clients take each other's names, and one would run another's.
    """
    assert [0] * 8 == [backend.call("gateway_prepared_v1", {}) for _ in range(8)]


def test_a_deadlock_is_repeated_and_named(backend, monkeypatch):
    """
    The server undid the whole call, so that it can be sent again; the log says why.
    """
    failing = [errors.DeadlockDetected(), None]

    def execute(self, *arguments, **options):
        if (problem := failing.pop(0)) is not None:
            raise problem
        return real(self, *arguments, **options)

    real = postgres.BoundedConnection.execute
    monkeypatch.setattr(postgres.BoundedConnection, "execute", execute)
    monkeypatch.setattr(postgres, "log", structlog.get_logger())  # the other may be kept from a command's run
    with capture_logs() as lines:
        assert backend.call("gateway_nothing_v1", {}) is None

    assert [("database.call_repeated", "DeadlockDetected")] == [(line["event"], line["reason"]) for line in lines]


def test_service_returns_by_itself_after_a_failover(backend, bare_database):
    """
    Kept connections lead to the old server, which is read-only: they are dropped at once, and the call is made on a new one.
    """
    backend.call("gateway_write_v1", {})
    backend._opened_at -= 60
    with psycopg.connect(bare_database, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute("create function public.gateway_stale_v1() returns jsonb language plpgsql as $$ begin"
                           " perform set_config('default_transaction_read_only', 'on', false); return null; end $$")  # fmt: skip
    old = pid(backend)
    backend.call("gateway_stale_v1", {})  # this session is read-only from now on, as on a demoted server

    backend.call("gateway_write_v1", {})
    assert old != pid(backend)
    assert [2] == rows(bare_database, "select count(*) from public.written"), name


def test_a_read_only_server_is_not_ready(bare_database, database):
    """
    Not by the version alone: a server that cannot be written serves nobody.
    """
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f'alter database "{connection.info.dbname}" set default_transaction_read_only = on')
    store = open_postgres(database)
    with pytest.raises(DatabaseUnavailable, match="ReadOnly"):
        store.schema()
    store.close()


def test_the_schema_is_applied_through_a_pooler_too(bare_database):
    """
    By the same address as the gateway is given.
    """
    apply_schema(f"{bare_database}&pgbouncer=true")
    store = open_postgres(f"{bare_database}&pgbouncer=true")
    assert SCHEMA_VERSION == store.schema()["version"]
    store.close()


def test_a_closed_store_opens_again(database):
    """
    And it is made without a connection.
    """
    store = Database(PostgresBackend(database))
    assert store._backend._pool is None
    for _ in range(2):
        assert SCHEMA_VERSION == store.schema()["version"]
        store.close()


@pytest.mark.parametrize("dsn", ["postgresql://gateway@127.0.0.1:9/nowhere", "host=/nowhere dbname=x"])
def test_a_database_that_is_not_there_is_said_to_be_unavailable(dsn, monkeypatch):
    """
    In bounded time, for a call and for the schema; a password in the DSN is not repeated.
    """
    monkeypatch.setattr(postgres, "CONNECTION_SECONDS", 0.3)
    dsn = dsn.replace("gateway@", "gateway:canary@")
    store = open_postgres(dsn)
    for attempt in (store.schema, lambda: apply_schema(dsn)):
        with pytest.raises(DatabaseUnavailable) as refused:
            attempt()
        assert "canary" not in str(refused.value)
    store.close()
