"""
What the sealer must not make right: it builds on nothing but the end that was sealed, and says so until somebody has looked.
"""

from __future__ import annotations

import json
import uuid

import pytest

from gateway.doctor import chain
from gateway.events import LedgerBroken, accept_head, judged, seal_all, seal_once, standing
from gateway.web.metrics import _Database
from gateway.worker.jobs import Sealer
from tests.support.database import rows
from tests.support.ledger_fixtures import append, checked, positions, problem

TAMPERED = {
    "edited": "update gateway.event set data = '{}' where type = 'token.read' and position is null",
    "removed": "delete from gateway.event where id = (select id from gateway.event where position is null limit 1)",
}


def put_back_to(database, position, mark=None):
    """The end of the chain, where it was once, with everything behind it waiting to be sealed again."""
    rows(
        database,
        "update gateway.ledger set position = %s, hash = (select hash from gateway.event where position = %s), lease_until = null,"
        " mark = coalesce(%s, mark)",
        position,
        position,
        mark,
    )
    rows(database, "update gateway.event set position = null, hash = null where position > %s", position)


def metric(rt, name):
    return next(figure.samples[0].value for figure in _Database(rt).collect() if figure.name == name)


@pytest.mark.parametrize("how", TAMPERED)
def test_what_was_tampered_with_is_not_made_right_by_the_next_sealing(sealed, elsewhere, database, how):
    """
    The end put back, rows edited or removed behind it: neither the host that sealed them nor a new one seals them again.
    """
    put_back_to(database, 9)
    rows(database, TAMPERED[how])
    append(database, 1)
    for rt, named in ((sealed, ("cut_off", 10, 30)), (other := elsewhere(), ("head", 9, 9))):
        rows(database, "update gateway.ledger set lease_until = null")
        with pytest.raises(LedgerBroken):
            seal_once(rt)
        assert named == problem(rt)
        assert "fail" == next(chain.examine(rt)).level
        assert (1.0, 9) == (metric(rt, "gateway_ledger_broken"), rt.store.ledger().position)

    assert list(range(1, 10)) == positions(database)[:9]
    assert other.journal.note("ledger") is None


def test_an_old_end_that_was_copied_with_its_mark_is_refused_also_after_a_restart(sealed, runtime, database):
    """
    What the host has sealed it remembers outside of the database, synced; no log is needed.
    """
    old = rows(database, "select mark from gateway.ledger")[0]
    append(database, 5)
    seal_all(sealed)
    put_back_to(database, 30, old)
    rows(database, TAMPERED["removed"])

    for rt in (sealed, runtime()):
        rows(database, "update gateway.ledger set lease_until = null")
        with pytest.raises(LedgerBroken, match="Position 35 was sealed, and the chain ends at 30"):
            seal_once(rt)
        assert ("cut_off", 31, 35) == problem(rt)


@pytest.mark.parametrize(
    "done",
    [
        "delete from gateway.event where position = 30",
        "update gateway.event set hash = repeat('0', 64) where position = 30",
        "update gateway.ledger set mark = repeat('0', 64)",
        "update gateway.ledger set dropped_position = 30, dropped_hash = hash",
    ],
)
def test_nothing_is_sealed_behind_an_end_that_is_not_there(sealed, elsewhere, database, done):
    """
    Its row, the row's hash, its mark, and the mark of where the chain begins.
    """
    rows(database, done)
    append(database, 1)
    for rt in (sealed, elsewhere()):
        rows(database, "update gateway.ledger set lease_until = null")
        with pytest.raises(LedgerBroken):
            seal_once(rt)
        assert problem(rt) is not None


def test_a_chain_that_went_on_from_an_old_end_on_another_host_is_refused_here(sealed, elsewhere, database):
    """
    A host that remembered nothing was deceived; where the true end is remembered, the place has another hash now.
    """
    old = rows(database, "select mark from gateway.ledger")[0]
    append(database, 5)
    seal_all(sealed)
    put_back_to(database, 30, old)
    rows(database, TAMPERED["edited"])
    append(database, 3)
    assert 8 == seal_all(elsewhere())
    append(database, 1)

    with pytest.raises(LedgerBroken, match="Position 35 has another hash"):
        seal_once(sealed)
    assert ("made_anew", 35, 35) == problem(sealed)


def test_events_go_on_being_appended_and_the_log_is_told_once_a_minute(sealed, database, monkeypatch):
    """
    Nothing is lost: they wait, unsealed.
    """
    put_back_to(database, 9)
    told, now = [], [0.0]
    monkeypatch.setattr("gateway.worker.jobs.log.error", lambda event, **said: told.append((event, said["problem"])))
    sealer = Sealer(sealed, clock=lambda: now[0])
    for seconds in (0, 5, 59, 61, 62):
        now[0] = float(seconds)
        append(database, 1)
        rows(database, "update gateway.ledger set lease_until = null")
        assert not sealer.once()

    assert [("ledger.broken", "cut_off")] * 2 == told
    assert 26 == sealed.store.ledger().unsealed


def test_a_chain_that_is_whole_is_not_called_broken(sealed, elsewhere, database):
    """
    By whoever has seen it last, and by a host that has not for long.
    """
    early = elsewhere()
    judged(early)
    append(database, 7)
    seal_all(sealed)

    assert [None, None, None] == [standing(rt) for rt in (sealed, early, elsewhere())]
    assert 0.0 == metric(sealed, "gateway_ledger_broken")
    assert [0, 37] == early.journal.note("ledger")[:2]


def test_a_restored_backup_is_gone_on_from_when_the_operator_says_so(sealed, elsewhere, database):
    """
    On every host, with an event that tells of it; the same old end serves nobody a second time.
    """
    other = elsewhere()
    backup = rows(database, "select mark from gateway.ledger")[0]
    append(database, 5)
    seal_all(sealed)
    judged(other)
    rows(database, "delete from gateway.event where position > 30")
    put_back_to(database, 30, backup)
    append(database, 2)
    end = checked(sealed, alone=True)
    assert (None, 30) == (end.problem, end.position)

    assert accept_head(sealed, end.position, end.hash)
    assert 3 == seal_all(other)
    assert [None, None] == [problem(rt) for rt in (sealed, other)]
    told = rows(database, "select data from gateway.event where type = 'ledger.accepted'")
    assert [{"position": 30, "hash": end.hash, "known": 35}] == told
    judged(sealed)
    put_back_to(database, 30, backup)
    for rt in (sealed, other):
        assert "cut off or put back" in standing(rt)


def test_an_acceptance_that_was_made_up_serves_nobody(sealed, database):
    """
    It is marked under the chain's key, for that head.
    """
    head = rows(database, "select hash from gateway.event where position = 9")[0]
    put_back_to(database, 9)
    for said in (f"1 9 {head} {'0' * 64}", f"1 9 {head} ", "x", "1 2 3 4", "² 9 a b"):
        rows(database, "update gateway.ledger set accepted = %s", said)
        assert "cut off or put back" in standing(sealed)


def test_rows_behind_an_accepted_end_are_looked_at_first(sealed, database):
    """
    They are somebody's doing, and would be in the way.
    """
    rows(
        database, "update gateway.ledger set position = 25, hash = (select hash from gateway.event where position = 25)"
    )
    end = checked(sealed, alone=True)

    assert "inserted" == end.problem.kind
    assert not accept_head(sealed, end.position, end.hash)
    assert 25 == sealed.store.ledger().position


# -- times that are none -----------------------------------------------------------------------------------------------

ODD = ["infinity", "-infinity", "20000-01-01 00:00+00", "0044-03-15 00:00+00 BC"]


@pytest.mark.parametrize("at", ODD)
def test_a_time_that_cannot_be_is_named_as_a_change(sealed, database, at):
    """
    Nothing stumbles over it: not the check, the doctor, the next sealing, or who reads events.
    """
    (was,) = rows(database, "select at::text from gateway.event where position = 17")
    rows(database, "update gateway.event set at = %s::timestamptz where position = 17", at)
    append(database, 1)

    assert ("changed", 17, 17) == problem(sealed)
    assert "fail" == next(chain.examine(sealed)).level
    assert 1 == seal_all(sealed)
    assert sealed.store.ledger_page(after=16, most=1)[0][0].at is None
    rows(database, "update gateway.event set at = %s::timestamptz where position = 17", was)
    assert problem(sealed) is None


def test_a_time_that_cannot_be_does_not_stop_the_sealing(rt, runtime, database):
    """
    It is sealed as it stands, whatever the session's time zone, and every figure can still be read.
    """
    for at in ODD:
        append(database, 1, at=at, provider="ghl", connection_id=uuid.uuid4())
    append(database, 3)
    assert 0 <= rt.store.lag()["oldest_unsealed_seconds"] < 10**11
    assert 7 == seal_all(rt)
    name = rows(database, "select current_database()")[0]
    rows(database, f"alter database {name} set timezone = 'Asia/Kolkata'")
    there = runtime()

    assert (None, 7) == (problem(there), checked(there).checked)
    assert json.dumps([row.said_at for row in there.store.ledger_page(after=0, most=9)[0]])
