"""
The sealer in its process: what it tells the log, what it survives, and what the doctor says of it.
"""

from __future__ import annotations

import threading

from cryptography.fernet import Fernet

from gateway.doctor import chain
from gateway.events import seal_all
from gateway.models import Caller
from gateway.worker.jobs import Sealer
from tests.support.database import Person, rows
from tests.support.ledger_fixtures import append, positions, problem


def test_the_head_is_told_to_the_log_at_the_start_and_hourly(sealed, database, monkeypatch):
    """
    From outside the database: that is what a chain that was cut off, or made anew, is compared with.
    """
    told, now = [], [0.0]
    monkeypatch.setattr("gateway.worker.jobs.log.info", lambda event, **said: told.append((event, said)))
    sealer = Sealer(sealed, clock=lambda: now[0])
    for seconds in (0, 1, 3599, 3601, 3602):
        now[0] = float(seconds)
        append(database, 1)
        assert sealer.once()

    head = sealed.store.ledger()
    assert [31, 34] == [said["position"] for _, said in told]
    assert {"ledger.head"} == {event for event, _ in told}
    assert problem(sealed, *((said["position"], said["hash"]) for _, said in told)) is None
    assert 35 == head.position


def test_the_sealer_drops_old_days_and_survives_a_ledger_that_cannot_be_read(aged, database):
    """
    It tells, and tries again.
    """
    sealer = Sealer(aged)
    assert sealer.once()
    assert list(range(21, 31)) == positions(database)
    append(database, 1)
    rows(database, "update gateway.ledger set sealed_key = null")

    assert not sealer.once()


def test_a_sealer_runs_in_every_process_that_works(gateway):
    """
    What a request appended has its place a moment later, with nobody asking for it.
    """
    alice = gateway.person("Alice Winter")
    held = alice.connects("zoom")["connection"]
    seen = threading.Event()
    for _ in range(100):
        if rows(gateway.dsn, "select position from gateway.event where connection_id = %s", held)[0]:
            seen.set()
            break
        seen.wait(0.1)

    assert seen.is_set()


def test_an_event_that_cannot_be_written_gives_no_token(gateway):
    """
    Fails closed: nothing is read that the ledger does not know of.
    """
    alice = gateway.person("Alice Winter")
    held = alice.connects("ringcentral")["connection"]
    ask = {"Authorization": f"Bearer {alice.token()}"}
    assert 200 == alice.get(f"/v1/connections/{held}/token", headers=ask).status_code
    rows(gateway.dsn, "alter table gateway.event add constraint full_disk check (type <> 'token.read') not valid")
    try:
        answer = alice.get(f"/v1/connections/{held}/token", headers=ask)
    finally:
        rows(gateway.dsn, "alter table gateway.event drop constraint full_disk")

    assert answer.status_code >= 500
    assert "access_token" not in answer.text


def test_who_reads_events_is_told_of_sealed_ones_alone(rt, database):
    """
    A place is promised to nobody before it is given.
    """
    alice = Person("alice")
    alice.signs_in(rt.store)
    alice.connects(rt.store)

    assert () == rt.store.events(Caller(user_id=alice.id), after=0, most=10).events
    seal_all(rt)
    assert ["connection.created"] == [
        e.type for e in rt.store.events(Caller(user_id=alice.id), after=0, most=10).events
    ]


# -- the doctor ------------------------------------------------------------------------------------------------------


def looked_at(rt):
    (found,) = chain.examine(rt)
    return found.level, found.says


def test_the_doctor_checks_the_end_of_the_ledger_and_whether_it_is_sealed(sealed, runtime, database):
    """
    Well; behind, since no worker runs; changed; and without the key.
    """
    assert ("ok", "Its last 30 events are as they were sealed.") == looked_at(sealed)
    append(database, 2)
    assert "ok" == looked_at(sealed)[0]
    rows(database, "update gateway.event set at = at - interval '2 minutes' where position is null")
    level, says = looked_at(sealed)
    assert "warn" == level
    assert says.startswith("2 events wait, the oldest for 120 s")
    rows(database, "update gateway.event set type = 'x' where position = 17")
    assert ("fail", "The event at position 17 was changed.") == looked_at(sealed)
    assert "fail" == looked_at(runtime(Fernet.generate_key().decode()))[0]


def test_how_far_the_sealing_is_behind_is_a_figure(sealed, database):
    """
    Rows and seconds, for /metrics.
    """
    append(database, 3)
    rows(database, "update gateway.event set at = at - interval '90 s' where position is null")
    lag = sealed.store.lag()

    assert 3 == lag["events_unsealed"]
    assert 90 <= lag["oldest_unsealed_seconds"] < 120
