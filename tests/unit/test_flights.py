"""
Who waits in this process for which refresh: places, and who lets whom ahead.
"""

from __future__ import annotations

import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from gateway.errors import RefreshInProgress
from gateway.http import Deadline
from gateway.models import Caller
from gateway.tokens.read import fresh_grant
from gateway.tokens.single_flight import MOST, Flights

HERS, ANOTHERS = Caller(user_id=uuid.uuid4()), Caller(user_id=uuid.uuid4())


def row(*, alive=False):
    return SimpleNamespace(id=uuid.uuid4(), alive=alive)


def seconds(flights, connection_id, caller):
    began = time.perf_counter()
    with flights.looking(connection_id, caller):
        return time.perf_counter() - began


def test_who_would_wait_anyway_lets_the_leader_ahead_and_no_stranger_can_tell():
    """
    Nobody is held up by a refresh that they do not wait for, nor learns of it by the clock.
    """
    flights, expired, living = Flights(), row(), row(alive=True)
    flights.board(expired, HERS, force=False)
    flights.board(living, HERS, force=False)

    assert 0.015 < seconds(flights, expired.id, HERS) < 0.5
    assert max(seconds(flights, expired.id, each) for each in (ANOTHERS, None)) < 0.01
    assert seconds(flights, living.id, HERS) < 0.01
    assert seconds(flights, uuid.uuid4(), HERS) < 0.01


def test_they_go_on_as_soon_as_it_has_landed():
    """
    A provider may be faster than the moment they leave to the leader.
    """
    flights, expired = Flights(), row()
    _, part = flights.board(expired, HERS, force=False)
    took = []
    waiting = [threading.Thread(target=lambda: took.append(seconds(flights, expired.id, HERS))) for _ in range(20)]
    for each in waiting:
        each.start()
    flights.leave(expired, part)
    for each in waiting:
        each.join()

    assert sorted(took)[10] < 0.02
    assert seconds(flights, expired.id, HERS) < 0.01


def test_a_crowd_looks_a_few_at_a_time_and_nobody_waits_long(monkeypatch):
    """
    The first to see that a refresh is needed gets to ask for it; a look that hangs holds nobody up for good, and nothing of it is kept.
    """
    flights, connection = Flights(), uuid.uuid4()
    here, most, lock, hung = 0, 0, threading.Lock(), threading.Event()

    def look(caller, until):
        nonlocal here, most
        began = time.perf_counter()
        with flights.looking(connection, caller):
            waited = time.perf_counter() - began
            with lock:
                here += 1
                most = max(most, here)
            until.wait(0.005 if until is not hung else 10)
            with lock:
                here -= 1
        return waited

    with ThreadPoolExecutor(30) as threads:
        with monkeypatch.context() as patient:
            patient.setattr("gateway.tokens.single_flight._TURN_SECONDS", 5.0)
            list(threads.map(lambda _: look(HERS, threading.Event()), range(24)))
        assert 4 == most

        stuck = [threads.submit(look, HERS, hung) for _ in range(4)]
        while here < len(stuck):
            time.sleep(0.001)
        assert 0.03 < look(HERS, threading.Event()) < 0.5
        assert look(ANOTHERS, threading.Event()) < 0.03
        hung.set()
        assert max(each.result() for each in stuck) < 0.03
    assert look(HERS, threading.Event()) < 0.03
    assert not flights._queues


def test_places_are_counted_by_part_and_given_back():
    """
    Those who wait for one connection do not keep another from being refreshed.
    """
    flights, hers = Flights(), row()
    boarded = [flights.board(hers, HERS, force=False) for _ in range(1 + MOST["follow"])]
    assert ["lead", *["follow"] * MOST["follow"]] == [part for _, part in boarded]
    assert 1 == len({id(flight) for flight, _ in boarded})
    with pytest.raises(RefreshInProgress):
        flights.board(hers, HERS, force=False)

    others = [row() for _ in range(MOST["all"] - len(boarded))]
    assert ["lead"] * len(others) == [flights.board(each, HERS, force=False)[1] for each in others]
    with pytest.raises(RefreshInProgress):
        flights.board(row(), HERS, force=False)

    for _, part in reversed(boarded):
        flights.leave(hers, part)
    assert "lead" == flights.board(hers, HERS, force=False)[1]


def test_while_the_old_token_lives_nobody_boards_beside_the_leader():
    """
    Unless they want a new one in any case.
    """
    flights, living = Flights(), row(alive=True)
    assert "lead" == flights.board(living, HERS, force=False)[1]

    assert flights.board(living, HERS, force=False) is None
    assert "follow" == flights.board(living, HERS, force=True)[1]


def test_who_follows_a_leader_with_less_time_takes_the_lead_when_it_gives_up():
    """
    A check has ten seconds in all; a reader behind it has its own twelve.
    """
    landed_at = time.monotonic() + 3.0
    connection = uuid.uuid4()

    def grant(**_):
        done = time.monotonic() > landed_at
        told = {"good": done, "alive": done, "leased": not done, "generation": 2 if done else 1, "wait_seconds": 0}
        known = {
            "refreshable": True,
            "status": "active",
            "provider": "x",
            "token": "t",
            "scope": (),
            "expires_at": None,
        }
        return SimpleNamespace(id=connection, **told, **known)

    rt = SimpleNamespace(
        store=SimpleNamespace(grant=grant, claim_refresh=lambda **_: "leased"),
        journal=SimpleNamespace(host="h"),
        provider=lambda _: SimpleNamespace(replay_seconds=None),
        vault=SimpleNamespace(open=lambda *_, **__: "opened"),
    )
    with ThreadPoolExecutor(2) as threads:
        check = threads.submit(fresh_grant, rt, connection, until=Deadline.after(9.0))
        time.sleep(0.1)
        reader = threads.submit(fresh_grant, rt, connection, caller=HERS)
        with pytest.raises(RefreshInProgress):
            check.result()
        assert "opened" == reader.result().access_token
