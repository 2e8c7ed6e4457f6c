"""
Where the ledger ends and begins: old days are dropped from its front alone, and nothing that depended on them is lost.
"""

from __future__ import annotations

import psycopg
import pytest

from gateway.events import drop_once, seal_all, verify
from tests.support.database import Person, rows
from tests.support.ledger_fixtures import CONNECTION, append, checked, pages_of, positions, problem


def test_the_last_rows_can_be_checked_alone(sealed, database):
    """
    As the doctor does; what is wrong before them is not looked at.
    """
    rows(database, "update gateway.event set type = 'x' where position = 5")

    assert (None, 10) == (checked(sealed, last=10).problem, checked(sealed, last=10).checked)
    rows(database, "update gateway.event set type = 'x' where position = 25")
    assert 25 == checked(sealed, last=10).problem.position


def test_whole_old_days_are_dropped_from_the_front_alone(aged, database, monkeypatch):
    """
    In bounded goes; the chain holds after each of them, and what is young stays.
    """
    with pages_of(monkeypatch, 8):
        dropped = []
        while done := drop_once(aged):
            dropped.append(done)
            assert problem(aged) is None

    assert [8, 8, 4] == dropped
    assert list(range(21, 31)) == positions(database)
    assert 10 == checked(aged).checked


def test_nothing_of_the_last_days_is_dropped(aged, runtime, database):
    """
    Days are whole ones, in UTC: a row of the day before the last one stays until that day is over.
    """
    assert 0 == drop_once(runtime(GATEWAY_EVENTS_DAYS="4"))
    assert not aged.store.drop_events(from_position=0, until_position=21, until_hash="h", mark="m", days=1)
    assert 30 == len(positions(database))


def test_an_old_row_behind_a_young_one_waits_for_it(rt, runtime, database):
    """
    One that committed late: the chain is shortened from its front, and never in its middle.
    """
    append(database, 2)
    seal_all(rt)
    append(database, 2, at="2020-01-01")
    seal_all(rt)

    assert 0 == drop_once(runtime(GATEWAY_EVENTS_DAYS="1"))
    assert [1, 2, 3, 4] == positions(database)


def test_what_was_changed_is_not_dropped_but_kept_to_be_found(aged, database):
    """
    Else whoever changes old rows would only have to wait.
    """
    rows(database, "update gateway.event set type = 'x' where position = 5")

    assert 0 == drop_once(aged)
    assert ("changed", 5, 5) == problem(aged)


def test_an_old_beginning_put_back_is_found(aged, database, monkeypatch):
    """
    The marks of before do not serve for rows that are gone.
    """
    with pages_of(monkeypatch, 8):
        drop_once(aged)
        before = rows(database, "select dropped_position, dropped_hash, dropped_mark from gateway.ledger")[0]
        drop_once(aged)
    rows(database, "update gateway.ledger set dropped_position = %s, dropped_hash = %s, dropped_mark = %s", *before)

    assert ("removed", 9, 16) == problem(aged)


def test_a_check_goes_on_where_the_gateway_drops_rows_under_it(aged, monkeypatch):
    """
    What it has not come to yet is not missing, but dropped.
    """
    with pages_of(monkeypatch, 4):
        check = verify(aged)
        next(check)
        while drop_once(aged):
            pass
        end = list(check)[-1]

    assert (None, 30) == (end.problem, end.position)


def test_the_id_of_a_connection_stays_used_when_its_events_are_dropped(aged, store, database):
    """
    Tokens are sealed for an id and a generation: what was sealed for the old row must never open in a new one.
    """
    while drop_once(aged):
        pass
    alice = Person("alice")
    alice.signs_in(store)
    assert [] == rows(database, "select 1 from gateway.event where connection_id = %s", CONNECTION)

    assert not store.save_connection(**alice.grant(connection_id=CONNECTION)).saved
    with pytest.raises(psycopg.errors.UniqueViolation, match="was a connection before"):
        rows(database, "insert into public.provider_data (id) values (%s)", CONNECTION)


def test_a_connection_that_stands_is_refreshed_and_made_again_after_its_events_went(aged, store, database):
    """
    Only who stands nowhere any more is used up; and that its user was there first is known without the event.
    """
    alice = Person("alice")
    alice.signs_in(store)
    held = alice.connects(store)
    again = alice.grant(connection_id=held.id, generation=2)
    assert store.save_connection(**again).saved
    rows(database, "delete from gateway.event where connection_id = %s", held.id)
    rows(database, "insert into gateway.used_id (id) values (%s)", held.id)
    answer = {
        "connection_id": held.id, "token": "t", "refresh": None, "scope": (), "expires_seconds": 60,
        "refresh_expires_seconds": None, "renewed": False,
    }  # fmt: skip

    assert "reconnected" == store.finish_refresh(generation=1, **answer)
    assert "saved" == store.finish_refresh(generation=2, **answer)
    assert "refreshed" == store.finish_refresh(generation=2, **answer)
    assert store.save_connection(**again | {"generation": 4}).saved
