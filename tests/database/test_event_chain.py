"""The hash chain over events: changes to rows in the database are found, and the key is not there."""

# ruff: noqa: S608 -- the names of columns and their values are written here

from __future__ import annotations

import psycopg
import pytest
from cryptography.fernet import Fernet

from gateway.database import open_rest
from gateway.database.queries import events
from gateway.database.queries.events import Seal
from gateway.errors import SecretUnreadable
from gateway.events.chain import seal_events
from gateway.events.verify import verify
from gateway.worker.jobs import EVENT_JOBS
from gateway.worker.loop import Worker
from tests.database.test_rotation import rotate
from tests.support.database import rows
from tests.support.event_fixtures import (
    KEY,
    append,
    end,
    housekeep,
    positions,
    problems,
    put_back,
    resealed,
    seal,
    verified,
)
from tests.support.postgrest_stand_in import SECRET_KEY

ODD = ["infinity", "-infinity", "20000-01-01 00:00+00", "0044-03-15 00:00+00 BC"]

CHANGES = {
    "data": "data = '{}'",
    "a number in the data": """data = jsonb_set(data, '{b}', '1.5')""",
    "a null in the data": """data = data #- '{n,1,z}'""",
    "type": "type = 'grant.refreshe'",
    "time, by a microsecond": "at = at + interval '1 microsecond'",
    "connection": "connection_id = gen_random_uuid()",
    "user": "user_id = gen_random_uuid()",
    "partner": "partner_id = gen_random_uuid()",
    "provider": "provider = 'ghl'",
    "id": "id = gen_random_uuid()",
}


def test_a_changed_event_is_found(sealed, database):
    """Any column, by however little; the segment is named."""
    for name, change in CHANGES.items():
        with put_back(database):
            rows(database, f"update gateway.event set {change} where position = 17")
            assert problems(sealed) == [("changed", 11, 20)], name
    assert problems(sealed) == []


MADE_UP = "insert into gateway.event (type, position) values ('made.up', {})"
DONE = {
    ("delete from gateway.event where position = 17",): [("removed", 17, 17)],
    ("delete from gateway.event where position in (17, 18)",): [("removed", 17, 18)],
    ("delete from gateway.event where position = 1",): [("removed", 1, 1)],
    ("delete from gateway.event where position > 25",): [("removed", 26, 30)],
    ("delete from gateway.event",): [("removed", 1, 10), ("removed", 11, 20), ("removed", 21, 30)],
    ("update gateway.event set position = null where position = 17",): [("removed", 17, 17)],
    (
        "update gateway.event set position = -17 where position = 17",
        "update gateway.event set position = 17 where position = 20",
        "update gateway.event set position = 20 where position = -17",
    ): [("changed", 11, 20)],
    ("drop index gateway.event_position", MADE_UP.format(17)): [("changed", 11, 20)],
    (MADE_UP.format(0),): [("start", 0, 0)],
    ("update gateway.event_seal set hash = '1.' || repeat('0', 64) where position = 20",): [
        ("changed", 11, 20),
        ("changed", 21, 30),
    ],
    ("delete from gateway.event_seal where position = 20",): [("changed", 11, 30)],
    ("delete from gateway.event where position <= 10", "delete from gateway.event_seal where position < 10"): [
        ("start", 1, 10)
    ],
    (
        "delete from gateway.event where position > 20",
        "delete from gateway.event_seal where position > 20",
        "update gateway.event_chain set position = 20",
    ): [("cut_off", 21, 30)],
    ("truncate gateway.event_seal", "insert into gateway.event_seal values (0, '')"): [("cut_off", 1, 30)],
}
"""What somebody with access to the database does, and what a verification with the last checkpoint of the log reports."""


def test_what_was_removed_moved_or_made_up_is_found(sealed, database):
    checkpoint = end(sealed)
    for statements, found in DONE.items():
        with put_back(database):
            for statement in statements:
                rows(database, statement)
            known = [problem for problem in problems(sealed, checkpoint) if problem[0] != "replaced"]
            assert known == found, statements
    assert problems(sealed, checkpoint) == []


def test_a_verification_continues_after_the_first_broken_place(sealed, database):
    """One problem does not hide another."""
    rows(database, "update gateway.event set type = 'x' where position = 3")
    rows(database, "delete from gateway.event where position = 27")

    assert verified(sealed) == (29, [("changed", 1, 10), ("removed", 27, 27)])


def test_the_log_finds_a_chain_whose_end_was_cut_off(sealed, database):
    with put_back(database):
        append(database, 5)
        seal(sealed)
        log = end(sealed)

    assert problems(sealed) == []
    assert problems(sealed, log) == [("cut_off", 31, 35)]


def test_the_log_finds_a_chain_that_was_made_anew(sealed, database):
    """Even with the key: the position has another hash than in the log, or is no longer the end of a segment."""
    log = end(sealed)
    rows(database, "delete from gateway.event_seal where position > 0")
    rows(database, "update gateway.event set type = 'x' where position = 17")
    for size, count in ((10, 0), (7, 5)):
        append(database, count)
        rows(database, "delete from gateway.event_seal where position > 0")
        resealed(sealed, size)
        assert problems(sealed) == []
        assert problems(sealed, log) == [("replaced", 30, 30)]


def test_the_end_of_the_chain_is_in_the_log_each_minute(sealed, database, monkeypatch):
    """As a checkpoint, outside of the database."""
    logged, now = [], [0.0]
    monkeypatch.setattr("gateway.worker.jobs.log.info", lambda event, **said: logged.append((event, said)))
    worker = Worker(sealed, EVENT_JOBS, clock=lambda: now[0])
    for seconds in (0, 1, 59, 61, 62, 125):
        now[0] = float(seconds)
        if seconds < 100:
            append(database, 1)
        worker.once()

    assert [said["position"] for _, said in logged] == [31, 34, 35]
    assert {event for event, _ in logged} == {"events.checkpoint"}
    assert problems(sealed, *(Seal(said["position"], said["hash"]) for _, said in logged)) == []


def test_a_chain_that_has_begun_gets_no_other_key(sealed, database):
    """Neither a new one nor another one: nothing is sealed with it, and a verification reports that it cannot verify."""
    append(database, 1)
    for stolen in (None, sealed.vault.encrypt("ab" * 32, column="event_chain", seal_id="elsewhere")):
        rows(database, "update gateway.event_chain set encrypted_key = %s", stolen)
        with pytest.raises(SecretUnreadable):
            seal(sealed)
        with pytest.raises(SecretUnreadable):
            problems(sealed)


def test_the_key_is_not_in_the_database(sealed, database):
    (stored,) = rows(database, "select encrypted_key from gateway.event_chain")

    assert stored.startswith("gAAAA")


def test_rotating_the_keys_does_not_end_the_chain(runtime, sealed, database):
    new = Fernet.generate_key().decode()
    both = runtime(new, KEY)

    assert rotate(both, check=True).old_key == 1
    assert rotate(both).replaced == 1
    assert rotate(both, check=True).old_key == 0
    alone = runtime(new)
    append(database, 2)
    assert seal(alone) == 2
    assert verified(alone) == (32, [])


def test_every_column_of_an_event_is_under_the_hash(sealed, database):
    query = "select attname from pg_attribute where attrelid = 'gateway.event'::regclass and attnum > 0 and not attisdropped"
    (row, *_) = events.read_chain_page(sealed.database, after=0, limit=10).rows

    assert set(rows(database, query)) == set(row)


def test_a_column_that_is_added_later_breaks_no_hash_and_is_covered_from_then_on(sealed, database):
    rows(database, "alter table gateway.event add column reason text")
    assert problems(sealed) == []
    append(database, 3, reason="because")
    seal(sealed)
    assert problems(sealed) == []

    rows(database, "update gateway.event set reason = 'x' where position = 32")
    assert problems(sealed) == [("changed", 31, 33)]


def test_over_rest_the_chain_is_the_same(sealed, rest):
    over_rest = open_rest(rest.url, SECRET_KEY)
    try:
        direct = events.read_chain_page(sealed.database, after=0, limit=30)
        assert events.read_chain_page(over_rest, after=0, limit=30) == direct
    finally:
        over_rest.close()


def test_an_impossible_event_cannot_be_written(sealed, database):
    """No time outside of any client's range and no data without names; and a chain is the same in any time zone."""
    for change in (*(f"at = '{at}'" for at in ODD), "data = '[]'", "data = '1'"):
        with pytest.raises(psycopg.errors.CheckViolation):
            rows(database, f"update gateway.event set {change} where position = 17")
    (name,) = rows(database, "select current_database()")
    rows(database, f"alter database {name} set timezone = 'Asia/Kolkata'")
    sealed.database.close()
    assert verified(sealed) == (30, [])


# -- old events ------------------------------------------------------------------------------------------------------


def test_whole_old_segments_are_dropped_from_the_front_alone(aged, database):
    """The chain starts at what was dropped last, an event records it, and what is young stays."""
    assert housekeep(aged)
    seal(aged)

    assert positions(database) == list(range(21, 32))
    assert rows(database, "select type from gateway.event where position = 31") == ["events.dropped"]
    assert verified(aged) == (11, [])


def test_nothing_of_the_last_days_is_dropped(aged, runtime, database):
    """Days are whole ones, in UTC: an event of the day before the last one stays until that day has ended."""
    assert housekeep(runtime(GATEWAY_EVENTS_DAYS="4"))

    assert len(positions(database)) == 30


def test_an_old_event_behind_a_young_one_stays_until_that_is_old(rt, runtime, database):
    append(database, 2)
    seal(rt)
    append(database, 2, at="2020-01-01")
    seal(rt)
    housekeep(runtime(GATEWAY_EVENTS_DAYS="1"))

    assert positions(database) == [1, 2, 3, 4]


def test_a_segment_is_dropped_whole_or_not_at_all(rt, runtime, database):
    append(database, 2, at="2020-01-01")
    append(database, 1)
    seal(rt)
    housekeep(runtime(GATEWAY_EVENTS_DAYS="1"))

    assert positions(database) == [1, 2, 3]


def test_events_without_a_seal_are_not_dropped(rt, runtime, database):
    append(database, 2, at="2020-01-01")
    housekeep(runtime(GATEWAY_EVENTS_DAYS="1"))

    assert positions(database) == [None, None]


def test_a_front_that_was_cut_off_from_outside_is_found(aged, database):
    """Further back than the gateway dropped, or where it dropped nothing: no event records it."""
    housekeep(aged)
    seal(aged)
    rows(database, "delete from gateway.event where position <= 25")
    rows(database, "delete from gateway.event_seal where position < 25")

    assert problems(aged) == [("start", 1, 25)]


def test_a_verification_goes_on_while_old_events_are_dropped(aged, monkeypatch):
    monkeypatch.setattr("gateway.events.verify.SEGMENT", 5)
    steps = verify(aged)
    next(steps), next(steps)
    housekeep(aged)
    *_, ended = steps

    assert (ended.problems, ended.seal) == ((), end(aged))


def test_the_last_events_can_be_verified_alone(sealed, database):
    rows(database, "update gateway.event set type = 'x' where position = 5")
    assert verified(sealed, last=10) == (10, [])
    rows(database, "update gateway.event set type = 'x' where position = 25")
    assert verified(sealed, last=10) == (10, [("changed", 21, 30)])


def test_a_worker_that_seals_too_late_changes_nothing(sealed, database):
    """Compare-and-set on the end of the chain."""
    append(database, 2)
    before = end(sealed)
    seal(sealed)

    assert not events.seal_events(sealed.database, after=before.position, position=32, hash="1.x")
    assert not events.seal_events(sealed.database, after=end(sealed).position, position=32, hash="1.x")
    assert seal_events(sealed) == 0
    assert problems(sealed) == []
