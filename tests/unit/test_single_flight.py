"""
One refresh per connection in a process; how many callers may wait for it, and how often a waiting caller asks the database.
"""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace

import pytest

from gateway.database import Database
from gateway.errors import NeedsReauthorization, ProviderUnavailable, RefreshInProgress
from gateway.http import Bulkhead
from gateway.models import Caller
from gateway.tokens.read import fresh_grant
from gateway.tokens.single_flight import MOST_WAITING, SingleFlight
from tests.support.patience import PATIENCE, wait_for

CALLER = Caller(user_id=uuid.uuid4())


def test_a_task_runs_once_and_every_caller_waits_for_its_end():
    """
    Also for an error: each caller gets its own copy, so that tracebacks do not mix.
    """
    flights, key, ran, go = SingleFlight(), uuid.uuid4(), [], threading.Event()

    def task():
        ran.append(1)
        go.wait(PATIENCE)
        raise ProviderUnavailable("away")

    def call(_):
        with pytest.raises(ProviderUnavailable, match="away") as raised:
            flights.run(key, "acme", task, PATIENCE)
        return raised.value

    with ThreadPoolExecutor(20) as threads:
        errors = [threads.submit(call, number) for number in range(20)]
        wait_for(lambda: flights._waiting.taken() == 20)
        go.set()
        assert len({id(error.result()) for error in errors}) == 20
    assert [1] == ran
    assert not flights.is_running(key)
    assert 0 == flights._waiting.taken()


def test_a_task_goes_on_when_its_callers_have_stopped_waiting():
    """
    The provider may take longer than a caller waits; what it answers is not lost.
    """
    flights, key, go, done = SingleFlight(), uuid.uuid4(), threading.Event(), threading.Event()

    with pytest.raises(RefreshInProgress) as raised:
        flights.run(key, "acme", lambda: go.wait(PATIENCE) and done.set(), 0.01)

    assert 1.0 == raised.value.retry_after
    assert flights.is_running(key)
    go.set()
    assert done.wait(PATIENCE)


def test_the_waiting_callers_of_two_providers_do_not_keep_a_third_ones_from_being_refreshed():
    """
    One provider's callers take half of the places, and a second one's half of the rest. A caller without a place is answered at once, and
    its refresh starts all the same.
    """
    flights, go, started = SingleFlight(), threading.Event(), []
    with ThreadPoolExecutor(MOST_WAITING) as threads:

        def wait(provider, count, key=None):
            for _ in range(count):
                each = key or uuid.uuid4()
                task = partial(lambda each: started.append(each) or go.wait(PATIENCE), each)
                threads.submit(flights.run, each, provider, task, PATIENCE)

        for number, provider in enumerate(("acme", "zoom", "ghl"), 1):
            before, places = flights._waiting.taken(), MOST_WAITING >> number
            crowded = uuid.uuid4()
            wait(provider, places, crowded)
            wait_for(lambda before=before, places=places: flights._waiting.taken() == before + places)
            with pytest.raises(RefreshInProgress, match="too many"):
                flights.run(crowded, provider, lambda: None, PATIENCE)
        last = uuid.uuid4()
        with pytest.raises(RefreshInProgress, match="too many"):
            flights.run(last, "acme", lambda: started.append(last), PATIENCE)
        wait_for(lambda: last in started)
        go.set()
    assert 0 == flights._waiting.taken()


def test_a_hundred_readers_of_one_connection_all_wait():
    assert MOST_WAITING // 2 > 100


# -- how often a waiting caller asks the database ----------------------------------------------------------------------


class Answers(Database):
    """A connection whose token expired, and what every claim of it answers."""

    def __init__(self, obstacle, retry_after=None, **row):
        self.calls, self.obstacle, self.retry_after, self.id = Counter(), obstacle, retry_after, uuid.uuid4()
        self.row = {
            "id": self.id, "user_id": uuid.uuid4(), "seal_id": uuid.uuid4(), "good": False, "alive": False, "generation": 1, "refreshable": True,
            "status": "active", "provider": "x", "token": "t", "scope": (), "expires_at": None, "reason": None, "facts": {},
        } | row  # fmt: skip

    def call(self, function, **_):
        self.calls[function] += 1
        claim = {"obstacle": self.obstacle, "retry_after": self.retry_after}
        return claim if function == "claim_refresh" else self.row

    def read(self, **more):
        rt = SimpleNamespace(
            bulkhead=Bulkhead(),
            database=self,
            catalog=SimpleNamespace(providers={}),
            journal=SimpleNamespace(host="h"),
            provider=lambda *_: SimpleNamespace(replay_seconds=None),
            vault=SimpleNamespace(decrypt=lambda *_, **__: "opened"),
        )
        return fresh_grant(rt, self.id, caller=CALLER, **more)


def test_a_waiting_caller_asks_the_database_at_most_thirty_times(monkeypatch):
    """
    Another process refreshes and never ends: quick looks first, then at most two a second. It takes no time but the pauses.
    """
    database, now = Answers("leased"), [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda seconds: now.append(now.pop() + seconds))
    for module in ("http.connection", "tokens.single_flight", "tokens.read"):
        monkeypatch.setattr(f"gateway.{module}.time", clock)

    with pytest.raises(RefreshInProgress):
        database.read()

    assert 7 < now[0] < 10
    assert 10 < sum(database.calls.values()) <= 30


def test_a_caller_that_cannot_be_served_now_is_refused_at_once():
    """
    The host that began the refresh may hold its response: no request is sent, and Retry-After says for how long.
    """
    database = Answers("blocked", retry_after=41)

    with pytest.raises(RefreshInProgress) as raised:
        database.read()

    assert 41 == raised.value.retry_after
    assert 2 == sum(database.calls.values())


def test_while_the_old_token_is_valid_no_caller_waits_for_another_callers_refresh():
    """
    Unless the caller forces a new one.
    """
    database = Answers("leased", alive=True)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(database.read)
        wait_for(lambda: database.calls["claim_refresh"] > 0)
        assert "opened" == database.read().access_token
        assert not first.done()
        database.row["generation"] = 2
        database.obstacle = "moved"
        assert "opened" == first.result().access_token


def test_a_waiting_caller_gets_the_refusal():
    """
    And a connection that changed meanwhile is read again.
    """
    database = Answers("moved", status="active")
    with pytest.raises(RefreshInProgress, match="changed meanwhile"):
        database.read()
    database.row["refreshable"] = False
    with pytest.raises(NeedsReauthorization):
        database.read()
