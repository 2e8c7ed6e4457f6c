"""
Key rotation: everything is encrypted with the newest key while the gateway runs; a host that lacks a key is found.
"""

from __future__ import annotations

import json
import os
import threading
import uuid

import psycopg
import pytest
import requests
from cryptography.fernet import Fernet

from gateway.connections import rotate_keys
from gateway.crypto.vault import Vault
from gateway.database import open_rest
from gateway.database.queries.connections import find_uninstall_target
from gateway.database.queries.operator import (
    Host,
    encrypted_values,
    list_hosts,
    replace_encrypted,
    report_host,
    worker_backlog,
)
from gateway.doctor.database import compare_hosts
from gateway.errors import SecretUnreadable, SettingsRefused
from gateway.models import Caller
from gateway.services import build_runtime
from gateway.settings import read_settings
from gateway.worker.loop import start_worker
from tests.support.commands import run_command
from tests.support.database import Person, queue, rows
from tests.support.forked import Command
from tests.support.gateway_process import free_port, wait_until_ready, whole_gateway
from tests.support.load_balancer import Balancer
from tests.support.patience import wait_for
from tests.support.postgrest_stand_in import SECRET_KEY

OLD, NEW, OTHER = (Fernet.generate_key().decode() for _ in range(3))
ALICE = Person("alice")


@pytest.fixture
def runtime(database, tmp_path):
    """A runtime with the given keys, over one database and one journal."""
    made = []

    def make(*keys):
        settings = {
            "GATEWAY_KEYS": ",".join(keys),
            "DATABASE_URL": database,
            "GATEWAY_DATA": str(tmp_path),
            "SUPABASE_URL": "https://northwind.example",
        }
        made.append(build_runtime(read_settings(settings)))
        return made[-1]

    yield make
    for rt in made:
        rt.database.close()
        rt.http.close()


def rotate(rt, *, check=False):
    *_, report = rotate_keys.rotate(rt, check=check)
    return report


def connect(rt, **more):
    """One connection of a user of its own, encrypted by `rt`; its id."""
    person = Person("alice")
    person.signs_in(rt.database)
    return person.connects(rt.database, person.encrypted(rt.vault, **more)).id


def fill(rt, database):
    """An encrypted value of every kind."""
    ALICE.signs_in(rt.database)
    ALICE.connects(rt.database, ALICE.encrypted(rt.vault))
    assert ALICE.saves(rt.database, ALICE.encrypted(rt.vault, account_id="other")) is None
    waits(rt)
    (held,) = rows(database, "select id from gateway.connection")
    rt.journal.put(held, 1, {"access_token": "of the journal"})


def waits(rt):
    """An encrypted grant in the queue of revocations."""
    grant = ALICE.encrypted(rt.vault, provider="zoom")
    queue(
        rt.database, grant.token, refresh=grant.refresh, seal_id=grant.seal_id, user_id=grant.user_id, provider="zoom"
    )


def changes(values):
    """The argument of `replace_encrypted`."""
    return {
        "items": [{"id": old.id, "column": old.context["column"], "old": old.text, "new": new} for old, new in values]
    }


def read_all(rt):
    """Decrypts all of it. Raises SecretUnreadable."""
    for kind in rotate_keys.KINDS:
        for value in encrypted_values(rt.database, kind, after_id=None, after_column=None, most=100).items:
            assert rt.vault.decrypt(value.text, **value.context) in ("secret", "refresh")


# -- encrypted again ------------------------------------------------------------------------------------------------


def test_everything_is_encrypted_with_the_newest_key(runtime, database):
    """
    Connections, pending grants, revocations: afterwards the old key may go, once the journal's last entry is a day
    old.
    """
    fill(runtime(OLD), database)
    both = runtime(NEW, OLD)

    before = rotate(both, check=True)
    done = rotate(both)

    assert (6, 0, False) == (before.old_key, before.replaced, before.is_clean)
    assert (0, 6, True) == (done.old_key, done.replaced, done.is_clean)
    assert rotate(both, check=True).is_clean
    read_all(runtime(NEW))
    with pytest.raises(SecretUnreadable):
        read_all(runtime(OLD))


def test_a_second_run_passes_over_what_is_done(runtime, database):
    """
    Nothing is encrypted twice: after an interruption the next run continues.
    """
    fill(runtime(OLD), database)
    both = runtime(NEW, OLD)
    rotate(both)
    stood = rows(database, "select token, refresh from public.provider_data")

    assert 0 == rotate(both).replaced
    assert stood == rows(database, "select token, refresh from public.provider_data")


def test_an_interrupted_run_is_resumed(runtime, monkeypatch):
    """
    It may end after any page, and is then not taken for finished.
    """
    old, both = runtime(OLD), runtime(NEW, OLD)
    for _ in range(5):
        connect(old)
    monkeypatch.setattr(rotate_keys, "PAGE", 2)
    report = next(rotate_keys.rotate(both, check=False))

    assert (2, 2) == (report.replaced, report.looked_at)
    assert 8 == rotate(both, check=True).old_key
    assert 8 == rotate(both).replaced


def test_every_page_of_every_kind_is_walked(runtime, database, monkeypatch):
    """
    Pages of one value: no value is left out, and none is seen twice.
    """
    old, both = runtime(OLD), runtime(NEW, OLD)
    fill(old, database)
    for _ in range(3):
        connect(old)
    for _ in range(3):
        waits(old)
    monkeypatch.setattr(rotate_keys, "PAGE", 1)

    report = rotate(both)

    assert (6 + 6 + 6, True) == (report.replaced, report.is_clean)
    assert (report.total, report.total) == (report.looked_at, 6 + 6 + 6)


# -- while everything goes on ----------------------------------------------------------------------------------------


def test_what_became_new_meanwhile_is_not_put_back(runtime, database):
    """
    Compare-and-set on the encrypted text: to put an old token back would be the loss of the connection.
    """
    both = runtime(NEW, OLD)
    ALICE.signs_in(both.database)
    ALICE.connects(both.database, ALICE.encrypted(runtime(OLD).vault))
    seen = encrypted_values(both.database, "connection", after_id=None, after_column=None, most=10).items
    newer = ALICE.encrypted(both.vault)
    ALICE.connects(both.database, newer)

    again = [(value, both.vault.encrypt("x", **value.context)) for value in seen]
    assert 2 == len(again)
    assert 0 == replace_encrypted(both.database, "connection", changes(again))
    assert [(newer.token, newer.refresh)] == rows(database, "select token, refresh from public.provider_data")


def test_a_locked_row_is_not_waited_for(runtime, database):
    """
    A refresh goes first; the next run takes up what was left.
    """
    held, both = connect(runtime(OLD)), runtime(NEW, OLD)
    other = connect(runtime(OLD))
    with psycopg.connect(database) as connection:
        connection.execute("select from public.provider_data where id = %s for update", [held])
        report = rotate(both)  # it would end with an error if it waited
    assert (2, 2, False) == (report.replaced, report.old_key, report.is_clean)
    assert rotate(both).is_clean
    assert held != other
    read_all(runtime(NEW))


# -- what cannot be done ---------------------------------------------------------------------------------------------


def test_what_no_key_opens_is_counted_and_named(runtime, database, tmp_path):
    """
    By its row, so that the operator can act; the rest is done.
    """
    lost, held = connect(runtime(OTHER)), connect(runtime(OLD))
    both = runtime(NEW, OLD)

    report = rotate(both)

    assert {f"connection {lost}, token", f"connection {lost}, refresh"} == set(report.unreadable)
    assert (2, 0, False) == (report.replaced, report.old_key, report.is_clean)
    assert str(held) not in "".join(report.unreadable)


def test_what_an_owner_wrote_in_plain_is_left_to_the_import(runtime, database):
    """
    It is not encrypted, so it has no key.
    """
    held = connect(runtime(OLD))
    rows(database, "update public.provider_data set token = 'in plain' where id = %s", held)

    report = rotate(runtime(NEW, OLD))

    assert (1, True) == (report.replaced, report.is_clean)
    assert ["in plain"] == rows(database, "select token from public.provider_data")


def test_nothing_is_encrypted_with_a_key_that_a_host_lacks(runtime, database):
    """
    It would lose every connection; so the command names the host, and does nothing.
    """
    connect(runtime(OLD))
    both = runtime(NEW, OLD)
    report_host(both.database, host="the-other-host", keys=Vault([OLD]).key_ids())

    with pytest.raises(SettingsRefused) as refused:
        rotate_keys.require_newest_key_everywhere(both)
    assert "the-other-host" in refused.value.problems[0]
    report_host(both.database, host="the-other-host", keys=Vault([OLD, NEW]).key_ids())
    rows(database, "update gateway.host set seen_at = seen_at - interval '3 minutes' where cardinality(keys) = 1")
    rotate_keys.require_newest_key_everywhere(both)


# -- hosts -----------------------------------------------------------------------------------------------------------


def test_a_process_says_which_keys_it_has(runtime, database):
    """
    When it starts; by marks, from which no key can be had.
    """
    rt = runtime(NEW, OLD)
    stopped = threading.Event()
    start_worker(rt, stopped, work=False)
    wait_for(lambda: list_hosts(rt.database))
    stopped.set()

    (host,) = list_hosts(rt.database)
    assert (rt.journal.host, Vault([NEW, OLD]).key_ids()) == (host.id, host.keys)
    assert NEW[:8] not in str(rows(database, "select * from gateway.host"))


def test_only_who_was_seen_lately_counts(runtime, database):
    """
    A host that is gone is forgotten after ten minutes; what a host had before its restart, after two and a half.
    """
    store = runtime(NEW).database
    for host, keys, ago in (("gone", ["a"], 700), ("late", ["a"], 500), ("here", ["a"], 200), ("here", ["a", "b"], 10)):
        report_host(store, host=host, keys=keys)
        query = "update gateway.host set seen_at = clock_timestamp() - make_interval(secs => %s) where host = %s and keys = %s"
        rows(database, query, ago, host, keys)

    assert {("late", ("a",)), ("here", ("a", "b"))} == {(host.id, host.keys) for host in list_hosts(store)}


@pytest.mark.parametrize(
    ("hosts", "levels"),
    [
        ([("a", "n", "o"), ("b", "n", "o")], []),
        ([("a", "o", "n"), ("b", "n", "o")], []),
        ([("a", "o"), ("b", "o", "n")], ["warn"]),
        ([("a", "o"), ("b", "n", "o")], ["fail"]),
        ([("a", "n"), ("b", "n", "o")], ["warn"]),
        ([("a", "n"), ("b", "o", "n")], ["fail"]),
        ([("", "x"), ("b", "o")], ["fail", "fail"]),
    ],
)
def test_the_doctor_sees_a_host_that_lacks_a_key(hosts, levels):
    """
    A failure if a host encrypts with it; a warning while it is only being added or removed.
    """
    assert levels == [finding.level for finding in compare_hosts([Host(name, keys, 5) for name, *keys in hosts])]


def test_over_rest_the_same_is_answered(runtime, database, rest):
    """
    Each function once over the project's REST API.
    """
    fill(runtime(OLD), database)
    (held,) = rows(database, "select id from gateway.connection")
    both = runtime(NEW, OLD)
    report_host(both.database, host="a", keys=["k"])
    store = open_rest(rest.url, SECRET_KEY)
    for kind in rotate_keys.KINDS:
        page = encrypted_values(store, kind, after_id=None, after_column=None, most=9)
        assert page == encrypted_values(both.database, kind, after_id=None, after_column=None, most=9)
        assert page.total == len(page.items)
        for value in page.items:
            new = both.vault.encrypt("x", **value.context)
            assert (1, 0) == tuple(replace_encrypted(store, kind, changes([(value, new)])) for _ in range(2))
        if page.items:
            assert (
                ()
                == encrypted_values(
                    store, kind, after_id=page.items[-1].id, after_column=page.items[-1].context["column"], most=1
                ).items
            )
    report_host(store, host="b", keys=["k", "l"])
    assert {"a", "b"} == {host.id for host in list_hosts(store)}
    assert worker_backlog(both.database, 300)["refreshes"] == worker_backlog(store, 300)["refreshes"]
    user = rows(database, "select user_id from gateway.connection where id = %s", held)[0]
    assert (
        "ghl"
        == find_uninstall_target(store, connection_id=held, session_hash=None, caller=Caller(user_id=user)).provider
    )
    assert (
        find_uninstall_target(store, connection_id=held, session_hash=None, caller=Caller(user_id=uuid.uuid4())) is None
    )
    store.close()


# -- the documented way, live ----------------------------------------------------------------------------------------


class Fleet:
    """Two hosts behind one address, each with keys and a journal of its own."""

    def __init__(self, whole):
        self.whole = whole
        self.front = Balancer(whole.port)
        self.hosts = {}
        self.environ = {
            name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "PG_BINDIR")
        }

    def settings(self, name, *keys):
        folder = self.whole.folder / name
        return self.environ | self.whole.environ | {"GATEWAY_KEYS": ",".join(keys), "GATEWAY_DATA": str(folder)}

    def restarts(self, name, *keys):
        """As behind any balancer: taken out, ended, started with these keys, put in again."""
        if name in self.hosts:
            process, port = self.hosts.pop(name)
            self.front.drain(port)
            process.terminate()
            assert 0 == process.wait(30)
        port = free_port()
        process = Command("serve", "--port", str(port), environ=self.settings(name, *keys), log=self.whole.log)
        self.hosts[name] = process, port
        wait_until_ready(process, port, self.whole.log.read_text)
        self.front.backends.append(port)

    def command(self, *arguments, keys):
        """On host a; exit code and what it printed."""
        ran = run_command(self.settings("a", *keys), *arguments)
        return ran.exit_code, ran.output

    def stop(self):
        for process, _ in self.hosts.values():
            process.terminate()
        for process, _ in self.hosts.values():
            process.wait(30)
        self.front.stop()


class Traffic:
    """Users who connect, read and refresh all the time; `noticed` lists their errors."""

    def __init__(self, whole):
        self.whole = whole
        self.held = []
        self.noticed = []
        self.done = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def joins(self, name, provider):
        person = self.whole.person(name)
        person.browser.headers["Connection"] = "close"
        self.held.append((person, person.connects(provider)["connection"]))

    def reads(self, person, connection, *, force=False):
        url = f"{self.whole.url}/v1/connections/{connection}/" + ("refresh" if force else "token")
        headers = {"Authorization": f"Bearer {person.token()}", "Connection": "close"}
        answer = requests.request("POST" if force else "GET", url, headers=headers, timeout=60)
        # A connection gets ten new tokens in a minute, and more are asked for here: that is no rotation's doing.
        enough = force and answer.status_code == 429
        assert answer.status_code == 200 or enough, (force, answer.status_code, answer.text)

    def _run(self):
        while not self._stopped.wait(0.08):
            self.done += 1
            person, connection = self.held[self.done % len(self.held)]
            try:
                if self.done % 20 == 0:
                    self.joins(f"Guest{self.done} Hill", ("ghl", "google", "microsoft")[self.done // 20 % 3])
                self.reads(person, connection, force=self.done % 7 == 0)
            except Exception as error:  # noqa: BLE001 - whatever a user would have noticed
                self.noticed.append(repr(error))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopped.set()
        self._thread.join()


def test_the_documented_rotation_disturbs_no_user(cluster, template):
    """
    docs/operations.md, step by step, with two hosts under load: different orders of keys at once, then the old key leaves.
    """
    with whole_gateway(cluster, template) as whole:
        fleet, traffic = Fleet(whole), Traffic(whole)
        try:
            for name in "ab":
                fleet.restarts(name, OLD)
            for number, provider in enumerate(("ghl", "zoom", "ringcentral", "google"), start=1):
                traffic.joins(f"Alice{number} Winter", provider)
            quiet = traffic.held.pop()  # not read or refreshed meanwhile
            with traffic:
                for keys in ((OLD, NEW), (NEW, OLD)):
                    for name in "ab":
                        fleet.restarts(name, *keys)
                # What the hosts had before their restarts, two and a half minutes later.
                rows(whole.dsn, "delete from gateway.host where not (keys[1] = %s)", Vault([NEW]).key_ids()[0])
                assert 1 == fleet.command("keys", "rotate", "--check", keys=(NEW, OLD))[0]
                code, said = fleet.command("keys", "rotate", keys=(NEW, OLD))
                assert 0 == code, said
                code, said = fleet.command("keys", "rotate", "--check", "--json", keys=(NEW, OLD))
                assert (0, True) == (code, json.loads(said)["clean"])
                for name in "ab":
                    fleet.restarts(name, NEW)
            assert [] == traffic.noticed
            assert traffic.done > 10
            for person, connection in [quiet, *traffic.held]:
                traffic.reads(person, connection)
                rows(whole.dsn, "update gateway.connection set expires_at = now() where id = %s", connection)
                traffic.reads(person, connection)  # which a refresh alone can answer
            assert 0 == fleet.command("keys", "rotate", "--check", keys=(NEW,))[0]
            assert 2 == fleet.command("keys", "rotate", keys=(OTHER, NEW))[0]
        finally:
            fleet.stop()
