"""
A ledger for the tests: events as requests append them, instruments over one database, and how a check of the chain ended.
"""

from __future__ import annotations

import uuid
from contextlib import contextmanager

import pytest
from cryptography.fernet import Fernet

from gateway.events import chain, seal_all, verify
from gateway.services import build_runtime
from gateway.settings import read_settings
from tests.support.database import rows

CONNECTION = uuid.uuid4()
KEY = Fernet.generate_key().decode()


@pytest.fixture
def runtime(database, tmp_path):
    """A runtime with the given keys, and whatever else is set, over one database."""
    made = []

    def make(*keys, **more):
        settings = {
            "GATEWAY_KEYS": ",".join(keys or [KEY]),
            "DATABASE_URL": database,
            "GATEWAY_DATA": str(tmp_path),
            "SUPABASE_URL": "https://northwind.example",
        }
        made.append(build_runtime(read_settings(settings | more)))
        return made[-1]

    yield make
    for rt in made:
        rt.store.close()
        rt.http.close()


@pytest.fixture
def elsewhere(runtime, tmp_path):
    """A host that has not seen the chain before: it remembers nothing of it."""
    return lambda: runtime(GATEWAY_DATA=str(tmp_path / f"host-{uuid.uuid4().hex[:6]}"))


@pytest.fixture
def rt(runtime):
    return runtime()


@pytest.fixture
def sealed(rt, database):
    """Thirty events, sealed in three goes."""
    for _ in range(3):
        append(database, 10)
        assert 10 == seal_all(rt)
    return rt


@pytest.fixture
def aged(rt, runtime, database):
    """Twenty events of three days ago, then ten of now; kept for one day."""
    append(database, 20, type="old.one", connection_id=CONNECTION)
    rows(database, "update gateway.event set at = at - interval '3 days'")
    append(database, 10)
    seal_all(rt)
    return runtime(GATEWAY_EVENTS_DAYS="1")


def append(database, count, **columns):
    """That many events, as requests append them."""
    given = {"type": "token.read", "data": '{"b": 1.50, "a": "ä", "n": [1, {"z": null, "y": 2}]}'} | columns
    names = ", ".join(given)
    rows(
        database,
        f"insert into gateway.event ({names}) select {', '.join(['%s'] * len(given))} from generate_series(1, {count})",  # noqa: S608
        *given.values(),
    )


def checked(rt, *heads, last=None, alone=False):
    """How a whole check ended."""
    return list(verify(rt, heads, last=last, alone=alone))[-1]


def problem(rt, *heads):
    found = checked(rt, *heads).problem
    return found and (found.kind, found.position, found.until)


def positions(database):
    return rows(database, "select position from gateway.event order by position")


@contextmanager
def pages_of(monkeypatch, most):
    monkeypatch.setattr(chain, "MOST", most)
    yield


@contextmanager
def put_back(database):
    """What is done to the ledger within is undone."""
    rows(database, "create table kept_events as select * from gateway.event")
    rows(database, "create table kept_ledger as select * from gateway.ledger")
    yield
    for one in ("event", "ledger"):
        kept = {"event": "kept_events", "ledger": "kept_ledger"}[one]
        rows(database, f"truncate gateway.{one}")
        rows(database, f"insert into gateway.{one} select * from {kept}")  # noqa: S608
        rows(database, f"drop table {kept}")
