"""
The backend over REST: the same answers and errors as over a direct connection, every wait bounded, nothing sent twice.

Against the stand-in of `postgrest_stand_in`; the store's contract itself runs on both backends in test_store*.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from gateway.database import SCHEMA_VERSION, Database, open_postgres, open_rest
from gateway.database import rest as supabase
from gateway.database.postgres import FunctionMissing, PostgresBackend
from gateway.database.queries.connect import end_session, read_session
from gateway.database.queries.connections import (
    claim_revocations,
    erase_own_connection,
    list_connections,
    reached_connections,
    settle_revocation,
)
from gateway.database.queries.events import append_event
from gateway.database.rest import SupabaseBackend, _translated
from gateway.errors import DatabaseUnavailable, SettingsRefused, Unexpected, UserMismatch
from gateway.models import Caller
from tests.support.commands import run_command
from tests.support.database import Person, find_connection, fresh_database, in_an_hour, rows
from tests.support.postgrest_stand_in import PUBLISHABLE_KEY, SECRET_KEY, PostgRest, service_role_jwt

ROOT = Path(__file__).resolve().parents[2]
FUNCTIONS = """
create function public.gateway_echo_v1(a text, b bigint, c boolean, d text[], e jsonb, f uuid, g timestamptz) returns jsonb
  language sql as $$ select jsonb_build_array(a, b, c, to_jsonb(d), e, f, extract(epoch from g)) $$;
create function public.gateway_slow_v1(seconds numeric) returns jsonb
  language plpgsql as $$ begin perform pg_sleep(seconds); return to_jsonb(seconds); end $$;
create function public.gateway_raise_v1(code text) returns jsonb
  language plpgsql as $$ begin raise exception 'canary' using errcode = code, detail = 'canary'; end $$;
create function public.gateway_nothing_v1() returns jsonb language sql as $$ select null::jsonb $$;
grant usage on schema public to service_role;
grant execute on all functions in schema public to service_role;
"""


@pytest.fixture
def api(database) -> Iterator[PostgRest]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(FUNCTIONS)
    made = PostgRest(database)
    yield made
    made.stop()


@pytest.fixture
def backend(api) -> Iterator[SupabaseBackend]:
    made = SupabaseBackend(api.url, SECRET_KEY)
    yield made
    made.close()


@pytest.fixture
def hurried(monkeypatch) -> None:
    monkeypatch.setattr(supabase, "ANSWER_SECONDS", 0.5)


# -- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "passed",
    [
        {"g": "1970-01-01T00:01:00+00:00", "a": "'; drop table x; -- \\ %s {}", "b": 2**40, "c": False, "d": ["one", "it's {two}", ""],
         "e": {"deep": [1, None, {"x": "é"}]}, "f": "00000000-0000-0000-0000-000000000001"},
        dict.fromkeys("abcefg") | {"d": []},
        {"a": '\U0001f511\n\t"', "b": -1, "c": True, "d": ["a,b", 'c"d', "null"], "e": {}, "f": None, "g": None},
    ],
)  # fmt: skip
def test_both_backends_answer_alike(database, backend, passed):
    """
    Whatever the type, quotes and all; nothing is nothing.
    """
    direct = PostgresBackend(database)
    assert direct.call("gateway_echo_v1", passed) == backend.call("gateway_echo_v1", passed)
    assert direct.call("gateway_nothing_v1", {}) is backend.call("gateway_nothing_v1", {}) is None
    direct.close()


def lives(store: Database) -> list[Any]:
    """One script of calls; every answer."""
    alice, bob = (Person(name, uuid.UUID(int=number)) for number, name in enumerate(("alice", "bob"), start=1))
    said = [
        store.schema(),
        alice.signs_in(store),
        bob.signs_in(store, expires_at=in_an_hour()),
        read_session(store, alice.session),
    ]
    said += [alice.starts(store, return_to="https://a.example/?x", scope=("x", "y"))]
    said += [
        alice.saves(store),
        first := alice.connects(store),
        bob.saves(store, provider="zoom", type=3, expires_at=None),
    ]
    with pytest.raises(UserMismatch) as refused:
        alice.returns(store, session_hash=bob.session)
    said += [str(refused.value), list_connections(store, "nobody")]
    said += [alice.returns(store), list_connections(store, alice.session)]
    said += [
        find_connection(store, session_hash=alice.session, connection_id=first.id),
        reached_connections(store, Caller(user_id=bob.id)),
    ]
    said += [waiting := alice.waits(store, facts={"a": "b"}, display="popup")]
    said += [
        alice.decides(store, waiting, "no"),
        alice.decides(store, waiting, "no"),
        next(iter(claim_revocations(store)), None),
    ]
    said += [settle_revocation(store, uuid.UUID(int=1), done=done) for done in (False, True)]
    said += [erase_own_connection(store, session_hash=bob.session, connection_id=first.id)]
    said += [
        erase_own_connection(store, session_hash=alice.session, connection_id=first.id),
        end_session(store, bob.session),
    ]
    said += [
        append_event(store, "connect.refused", user_id=alice.id, data={"x": [1]}),
        read_session(store, bob.session),
    ]
    return said


def test_both_backends_record_the_same_events(cluster, template):
    """
    The same calls on two databases: the same JSON, but for ids that the database makes and for times.
    """
    told = []
    for rest in (False, True):
        with fresh_database(cluster, template) as dsn:
            stand_in = PostgRest(dsn)
            store = open_rest(stand_in.url, SECRET_KEY) if rest else open_postgres(dsn)
            heard: list[Any] = []
            call = store._backend.call
            store._backend.call = lambda *given, call=call, heard=heard: heard.append(call(*given)) or heard[-1]
            lives(store)
            store.close()
            stand_in.stop()
            told.append([_timeless(each) for each in heard])
    assert told[0] == told[1]
    assert 25 < len(told[0])


def _timeless(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        names = ["made"] * len(value) if name in ("sharing", "ends_with") else value
        return {key: _timeless(each, key) for key, each in zip(names, value.values(), strict=True)}
    if isinstance(value, list):
        return [_timeless(each) for each in value]
    if name in ("event_id", "id", "connection_id", "seal_id", "refresh_seal_id") and value:
        return "made"
    return "time" if name.endswith(("at", "_until")) and value else value


# -- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["secret", "legacy"])
def test_both_kinds_of_key_are_taken(api, kind):
    """
    A legacy key is a JWT and goes as both headers; a new one is none and goes as `apikey` alone.
    """
    key = SECRET_KEY if kind == "secret" else service_role_jwt()
    store = open_rest(api.url, key)
    assert SCHEMA_VERSION == store.schema()["version"]
    assert key == api.seen[-1]["apikey"]
    assert (f"Bearer {key}" if kind == "legacy" else None) == api.seen[-1].get("authorization")
    store.close()


@pytest.mark.parametrize(
    "key", ["sb_secret_of_another_project", PUBLISHABLE_KEY, "eyJhbGciOiJIUzI1NiJ9.e30.canary", "word"]
)
def test_a_key_that_is_not_the_projects_is_named(api, key):
    """
    Wrong, publishable or no key at all: the operator reads which setting it is, and not its value.
    """
    with (
        closing(open_rest(api.url, key)) as store,
        pytest.raises(SettingsRefused, match="SUPABASE_SECRET_KEY") as refused,
    ):
        store.schema()
    assert key not in str(refused.value)


def test_the_key_is_in_no_log(api, caplog):
    """
    Not even where every library is made to talk.
    """
    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore"):
        caplog.set_level(logging.DEBUG, logger=name)
    store = open_rest(api.url, SECRET_KEY)
    store.schema()
    store.close()
    assert SECRET_KEY not in caplog.text
    assert SECRET_KEY not in repr(vars(store._backend).keys())


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("gateway_slow_v1", {"seconds": "canary"}),
        ("gateway_slow_v1", {"canary": 1}),
        ("gateway_slow_v1", {"seconds": "canary\x00"}),
        ("gateway_slow_v1", {"seconds": "canary\ud800"}),
        ("gateway_slow_v1", {"seconds": object()}),
        ("gateway_slow_v1", {"seconds": float("nan")}),
        ("gateway_raise_v1", {"code": "23505"}),
        ("gateway_raise_v1", {"code": "P0001"}),
    ],
)
def test_no_error_quotes_what_was_passed(backend, function, arguments):
    """
    Neither its words nor what Python remembers as its cause or context.
    """
    with pytest.raises(Unexpected) as refused:
        backend.call(function, arguments)

    error = refused.value
    assert (None, None) == (error.__cause__, error.__context__)
    assert "canary" not in "".join(traceback.format_exception_only(error))
    assert function in str(error)


@pytest.mark.parametrize("name", ["gateway_x_v1(); drop table x", "../x", "x.y", "", "gateway x", "gateway_x_v1?a=b"])
def test_what_is_not_a_name_is_never_sent(api, backend, name):
    """
    Neither as a function nor as an argument.
    """
    for function, arguments in ((name, {}), ("gateway_nothing_v1", {name: 1})):
        with pytest.raises(Unexpected):
            backend.call(function, arguments)
    assert not api.calls.total()


def test_an_unknown_function_is_told_from_other_errors(backend):
    """
    So that a missing schema can be named.
    """
    with pytest.raises(FunctionMissing):
        backend.call("gateway_absent_v1", {})


@pytest.mark.parametrize("code", ["40001", "40P01", "53300", "55P03", "57014", "57P01", "08006", "58030", "XX000", "25006", "23505", "P0001", "PT418", "0A000"])  # fmt: skip
def test_both_backends_judge_a_sqlstate_alike(database, backend, code):
    """
    What is worth a second try over one is over the other.
    """
    direct, kinds = PostgresBackend(database), []
    for each in (direct, backend):
        with pytest.raises((DatabaseUnavailable, Unexpected)) as refused:
            each.call("gateway_raise_v1", {"code": code})
        kinds.append(type(refused.value))
    direct.close()
    assert kinds[0] is kinds[1]


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        *[(f"PGRST00{number}", 503, DatabaseUnavailable) for number in range(4)],
        *[(str(status), status, DatabaseUnavailable) for status in (429, 500, 502, 503, 504, 520, 522, 540)],
        ("", 503, DatabaseUnavailable),
        *[(str(status), status, Unexpected) for status in (301, 404, 418)],
        *[(f"PGRST30{number}", 401, SettingsRefused) for number in (1, 2, 3)],
        *[("", 401, SettingsRefused), ("42501", 401, SettingsRefused), ("42501", 403, SettingsRefused)],
        *[("42883", 404, FunctionMissing), ("PGRST202", 404, FunctionMissing)],
        *[("XX000", 500, Unexpected), ("PGRST116", 406, Unexpected), ("canary says 'x'", 400, Unexpected)],
    ],
)
def test_who_must_act_follows_from_code_and_status(code, status, kind):
    """
    PostgREST's codes, the API gateway's bare statuses; a code that is none is not repeated.
    """
    problem = _translated("gateway_x_v1", code, status)
    assert type(problem) is kind
    assert "canary" not in str(problem)


# -- waiting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", ["before", "after", "drip", "200", "204", "301", "404", "429", "500", "502", "503", "520"]
)
def test_nothing_is_sent_twice(api, backend, monkeypatch, fault):
    """
    Whatever comes back or does not: a write that may have happened is its caller's to judge. And the next call is served.
    """
    api.fault = lambda _: fault
    with monkeypatch.context() as changed:
        if fault == "drip":
            changed.setattr(supabase, "ANSWER_SECONDS", 1.5)
        with pytest.raises((DatabaseUnavailable, Unexpected)) as refused:
            backend.call("gateway_slow_v1", {"seconds": 0})
    assert 1 == api.calls["gateway_slow_v1"]
    assert ("Unexpected" if fault in ("301", "404") else "DatabaseUnavailable") == type(refused.value).__name__

    api.fault = lambda _: ""
    assert 0 == backend.call("gateway_slow_v1", {"seconds": 0})


@pytest.mark.parametrize("fault", ["drip", "slow"])
def test_an_answer_is_not_waited_for_beyond_its_time(api, backend, hurried, fault):
    """
    In all, also where a byte comes every now and then, so that no single read is late.
    """
    api.fault = lambda _: fault
    began = time.monotonic()
    with pytest.raises(DatabaseUnavailable):
        backend.call("gateway_slow_v1", {"seconds": 30 if fault == "slow" else 0})
    assert time.monotonic() - began < 25


def test_a_body_that_drips_is_not_waited_for_either(hurried):
    """
    The header came at once; the answer does not end.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        ended = threading.Event()
        thread = threading.Thread(target=_drips_its_body, args=(server, ended))
        thread.start()
        backend = SupabaseBackend(f"http://127.0.0.1:{server.getsockname()[1]}", SECRET_KEY)
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailable):
            backend.call("gateway_x_v1", {})
        assert time.monotonic() - began < 25
        ended.set()
        thread.join()
        backend.close()


def _drips_its_body(server: socket.socket, ended: threading.Event) -> None:
    link, _ = server.accept()
    with link:
        link.recv(65_536)
        link.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n[")
        while not ended.wait(0.05):
            try:
                link.sendall(b" ")
            except OSError:
                return


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "https://127.0.0.1:9", "http://nowhere.invalid"])
def test_a_project_that_is_not_there_is_said_to_be_unavailable(url):
    """
    Refused, or not even a name.
    """
    with closing(open_rest(url, SECRET_KEY)) as store, pytest.raises(DatabaseUnavailable):
        store.schema()


def test_a_name_is_not_looked_up_beyond_its_time(monkeypatch, hurried):
    """
    Nothing interrupts getaddrinfo, which may take half a minute: callers stop waiting, and one thread per name is
    left.
    """
    asked, ended, really = [], threading.Event(), socket.getaddrinfo

    def slow(host, *given, **named):
        asked.append(host)
        ended.wait(20)
        return really(host, *given, **named)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    backend = SupabaseBackend("http://localhost:9", SECRET_KEY)

    def refused(_: int) -> float:
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailable):
            backend.call("gateway_schema_v1", {})
        return time.monotonic() - began

    with ThreadPoolExecutor(4) as threads:
        waited = list(threads.map(refused, range(8)))
    ended.set()
    backend.close()

    assert max(waited) < 15
    assert ["localhost"] == asked


def test_a_connection_that_the_server_closed_is_not_used(api, backend):
    """
    A connection that closed while idle causes no error.
    """
    backend.call("gateway_nothing_v1", {})
    for link in list(api._open):
        link.shutdown(socket.SHUT_RDWR)
    while api._open:
        time.sleep(0.01)
    assert backend.call("gateway_nothing_v1", {}) is None


def test_threads_share_the_client(backend):
    """
    More callers than connections, each served its own answer.
    """
    with ThreadPoolExecutor(40) as threads:
        assert list(range(200)) == list(threads.map(lambda n: _echoed(backend, n), range(200)))


def _echoed(backend: SupabaseBackend, number: int) -> int:
    nothing = dict.fromkeys("acdefg")
    return backend.call("gateway_echo_v1", nothing | {"b": number})[1]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_connections_of_its_own(api, backend):
    """
    The parent's go on working; nothing of them is used or closed in the child.
    """
    _echoed(backend, 1)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, b"%d" % _echoed(backend, 7))
            backend.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert b"7" == os.read(reader, 9)
    os.close(reader)
    os.close(writer)
    assert 2 == _echoed(backend, 2)
    assert 2 == api.calls[""]


def test_a_closed_store_opens_again(api):
    """
    And it is made without a connection.
    """
    store = open_rest(api.url, SECRET_KEY)
    assert not api._open
    for _ in range(2):
        assert SCHEMA_VERSION == store.schema()["version"]
        store.close()


def test_nothing_of_supabase_is_loaded_unless_it_is_chosen():
    """
    Heavy: most of a second and 45 MB in every worker. DATABASE_URL is chosen where both are set.
    """
    program = """
import sys, gateway
from cryptography.fernet import Fernet
for chosen in ({"DATABASE_URL": "postgresql://x@127.0.0.1:9/x"}, {}):
    chosen |= {"SUPABASE_SECRET_KEY": "sb_secret_x", "SUPABASE_URL": "https://p.supabase.co"}
    gateway.create_app({"GATEWAY_KEYS": Fernet.generate_key().decode(), **chosen})
    print("supabase" in sys.modules, "httpx" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "False False\nTrue True\n" == ran.stdout


# -- many at once ----------------------------------------------------------------------------------------------------


def test_a_hundred_connects_and_disconnects_at_once_leave_consistent_arrays(database, rest):
    """
    Ten people, ten hands each; some calls lose their answer. Every array names exactly its user's rows, each once.
    """
    store = open_rest(rest.url, SECRET_KEY)
    people = [Person(f"person-{number}") for number in range(10)]
    for person in people:
        person.signs_in(store)
    unlucky = iter(["after" if number % 17 == 0 else "before" if number % 23 == 0 else "" for number in range(10_000)])
    rest.fault = lambda name: next(unlucky) if name in ("gateway_save_connection_v1", "gateway_disconnect_v1") else ""

    def hand(number: int) -> None:
        person, provider = people[number % 10], ("ghl", "google", "zoom")[number % 3]
        _saves(store, person, provider)
        listed = person.listed(store)
        if number % 2 and listed:
            _erases(store, person, listed[-1].id)

    with ThreadPoolExecutor(20) as threads:
        list(threads.map(hand, range(100)))
    rest.fault = lambda _: ""
    _agree(database)
    for person in people:
        for standing in reached_connections(store, Caller(user_id=person.id)):
            erase_own_connection(store, session_hash=person.session, connection_id=standing.id)
    assert [[]] * 10 == rows(database, "select providers from public.user_profile")
    store.close()


def _saves(store: Database, person: Person, provider: str) -> None:
    grant = person.grant(provider=provider)
    for _ in range(60):
        try:
            person.saves(store, grant)
        except DatabaseUnavailable:
            continue  # the same call again is recognised
        return
    raise AssertionError


def _erases(store: Database, person: Person, connection_id: uuid.UUID) -> None:
    for _ in range(60):
        try:
            erase_own_connection(store, session_hash=person.session, connection_id=connection_id)
        except DatabaseUnavailable:
            continue  # a second try finds nothing where the first one happened
        return
    raise AssertionError


def _agree(dsn: str) -> None:
    """Rows, what is believed of them, and arrays name the same connections."""
    listed = sorted(each for ids in rows(dsn, "select providers from public.user_profile") for each in ids)
    assert listed == sorted(map(str, rows(dsn, "select id from public.provider_data")))
    assert listed == sorted(map(str, rows(dsn, "select id from gateway.connection")))
    assert [] == rows(
        dsn,
        "select d.id from public.provider_data d join public.user_profile p on p.id = d.provider_id_ref"
        " where not d.id::text = any (p.providers) or p.user_id_auth <> d.auth_provider_id",
    )
    assert 10 == len(rows(dsn, "select id from public.user_profile"))


# -- commands --------------------------------------------------------------------------------------------------------


def test_db_status_reads_the_version_over_rest(rest):
    """
    No database is started beside it.
    """
    ended = run_command({"SUPABASE_URL": rest.url, "SUPABASE_SECRET_KEY": SECRET_KEY}, "db", "status", "--json")
    assert (0, {"version": SCHEMA_VERSION, "needed": SCHEMA_VERSION, "ok": True}) == (
        ended.exit_code,
        json.loads(ended.stdout),
    ), ended.stderr


def test_db_apply_says_where_to_paste_and_looks_afterwards(rest, bare_database):
    """
    Over REST nothing can be applied.
    """
    ended = run_command({"SUPABASE_URL": rest.url, "SUPABASE_SECRET_KEY": SECRET_KEY}, "db", "apply")
    assert 0 == ended.exit_code, ended.stderr
    assert "schema.sql" in ended.stdout
    assert f"at version {SCHEMA_VERSION}" in ended.stdout


@pytest.mark.parametrize("command", [["db", "status"], ["serve", "--port", "0"]])
def test_a_refused_key_is_named_by_every_command(rest, tmp_path, command):
    """
    With exit code 2 and without its value.
    """
    from cryptography.fernet import Fernet

    key = tmp_path / "key"
    key.write_text("sb_secret_canary\n", encoding="utf-8")
    settings = {
        "SUPABASE_URL": rest.url,
        "SUPABASE_SECRET_KEY_FILE": str(key),
        "GATEWAY_KEYS": Fernet.generate_key().decode(),
    }
    ended = run_command(settings, *command)
    assert 2 == ended.exit_code
    assert "SUPABASE_SECRET_KEY" in ended.stderr
    assert "canary" not in ended.stderr + ended.stdout


@pytest.mark.parametrize(
    ("project", "told"),
    [
        ("https://abcdefghijklmnopqrst.supabase.co", "dashboard/project/abcdefghijklmnopqrst/sql/new"),
        ("https://db.example", "SQL editor"),
    ],
)
def test_the_sql_editor_is_found_from_the_projects_address(project, told, capsys):
    """
    Where it has the hosted projects' shape.
    """
    from gateway.cli import database as commands
    from gateway.cli.context import ReachedDatabase

    store = SimpleNamespace(check=lambda: {"version": SCHEMA_VERSION, "is_current": True})
    commands._paste(ReachedDatabase(store, SimpleNamespace(supabase_url=project, database_url=None), is_embedded=False))
    assert told in capsys.readouterr().out
