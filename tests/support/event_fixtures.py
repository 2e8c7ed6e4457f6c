"""Events for the tests: rows as requests append them, runtimes over one database, and what a verification finds."""

from __future__ import annotations

import uuid
from contextlib import contextmanager

import pytest
from cryptography.fernet import Fernet

from gateway.database.queries import events
from gateway.database.queries.operator import housekeeping
from gateway.events.chain import assign_positions, seal_events
from gateway.events.verify import verify
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
        rt.database.close()
        rt.http.close()


@pytest.fixture
def rt(runtime):
    return runtime()


@pytest.fixture
def sealed(rt, database):
    """Thirty events, sealed in three segments."""
    for _ in range(3):
        append(database, 10)
        assert seal(rt) == 10
    return rt


@pytest.fixture
def aged(rt, runtime, database):
    """Twenty events of three days ago in segments of five, then ten of now; kept for one day."""
    for _ in range(4):
        append(database, 5, type="old.one", connection_id=CONNECTION)
        seal(rt)
    append(database, 10)
    assign_positions(rt)
    rows(database, "truncate gateway.event_seal; insert into gateway.event_seal values (0, '')")
    rows(database, "update gateway.event set at = at - interval '3 days' where type = 'old.one'")
    resealed(rt, 5)
    return runtime(GATEWAY_EVENTS_DAYS="1")


def resealed(rt, size):
    """Seal everything again, in segments of that size."""
    from gateway.events import chain

    whole, chain.SEGMENT = chain.SEGMENT, size
    try:
        seal_events(rt)
    finally:
        chain.SEGMENT = whole


def append(database, count, **columns):
    """That many events, as requests append them."""
    given = {"type": "grant.refreshed", "data": '{"b": 1.50, "a": "ä", "n": [1, {"z": null, "y": 2}]}'} | columns
    names = ", ".join(given)
    rows(
        database,
        f"insert into gateway.event ({names}) select {', '.join(['%s'] * len(given))} from generate_series(1, {count})",  # noqa: S608
        *given.values(),
    )


def seal(rt):
    """Assign positions and seal, as a worker does each second; how many events were sealed."""
    assign_positions(rt)
    return seal_events(rt)


def housekeep(rt):
    """As a worker does each minute."""
    return housekeeping(rt.database, events_days=rt.settings.events_days)


def end(rt):
    """The last seal: what a checkpoint in the log says."""
    return events.read_chain(rt.database).end


def verified(rt, *checkpoints, last=None):
    """How many events a verification checked, and the problems that it found."""
    *_, ended = verify(rt, checkpoints, last=last)
    return ended.checked, [(problem.kind, problem.first, problem.last) for problem in ended.problems]


def problems(rt, *checkpoints, last=None):
    return verified(rt, *checkpoints, last=last)[1]


def positions(database):
    return rows(database, "select position from gateway.event order by position")


@contextmanager
def put_back(database):
    """What is done to events and seals within is undone."""
    tables = ("event", "event_seal", "event_chain")
    for table in tables:
        rows(database, f"create table kept_{table} as select * from gateway.{table}")  # noqa: S608
    yield
    for table in tables:
        rows(database, f"truncate gateway.{table}")
        rows(database, f"insert into gateway.{table} select * from kept_{table}")  # noqa: S608
        rows(database, f"drop table kept_{table}")
