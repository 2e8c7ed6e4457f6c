"""Positions of events: each committed event gets one, once and without gaps, and readers depend on nothing else."""

from __future__ import annotations

import subprocess
import sys
import threading

import psycopg
import pytest
from cryptography.fernet import Fernet

from gateway.database.queries import events
from gateway.database.queries.operator import worker_backlog
from gateway.doctor import database as doctor
from gateway.events.chain import assign_positions
from gateway.models import Caller
from gateway.worker.jobs import EVENT_JOBS
from gateway.worker.loop import Worker
from tests.support.database import Person, rows
from tests.support.event_fixtures import KEY, append, positions, problems, put_back, seal
from tests.support.gateway_process import ROOT
from tests.support.patience import wait_for


def test_committed_events_get_positions_in_order_without_a_gap(rt, database):
    for _ in range(3):
        append(database, 10)
        assert assign_positions(rt) == 10

    assert positions(database) == list(range(1, 31))
    ordered = "select row_number() over (order by at) from gateway.event order by position"
    assert rows(database, ordered) == list(range(1, 31))


def test_an_event_that_commits_late_gets_a_later_position_and_none_is_left_out(rt, database):
    """A cursor that has passed a position never misses an event below it."""
    with psycopg.connect(database) as late:
        late.execute("insert into gateway.event (type) values ('late.one')")
        append(database, 3)
        assert assign_positions(rt) == 3
        late.commit()
    assert assign_positions(rt) == 1

    assert rows(database, "select type from gateway.event where position = 4") == ["late.one"]
    assert positions(database) == [1, 2, 3, 4]


def test_an_event_of_a_transaction_that_is_rolled_back_leaves_no_gap(rt, database):
    with psycopg.connect(database) as undone:
        undone.execute("insert into gateway.event (type) values ('undone')")
        undone.rollback()
    append(database, 2)
    assign_positions(rt)

    assert positions(database) == [1, 2]


def test_several_workers_at_once_assign_each_position_once_and_seal_one_chain(database, runtime):
    """Four of them, and four writers, some of whose rows commit late."""
    written, failed = threading.Event(), []

    def write():
        with psycopg.connect(database) as one, psycopg.connect(database) as late:
            for number in range(40):
                one.execute("insert into gateway.event (type) values ('a')")
                late.execute("insert into gateway.event (type) values ('b')")
                if number % 3 == 0:
                    late.commit()
                one.commit()
            late.commit()

    def work(rt):
        try:
            while seal(rt) or not written.is_set():
                pass
        except Exception as error:  # noqa: BLE001 - judged below
            failed.append(repr(error))

    writers = [threading.Thread(target=write) for _ in range(4)]
    workers = [threading.Thread(target=work, args=(runtime(),)) for _ in range(4)]
    for thread in (*workers, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    written.set()
    for thread in workers:
        thread.join()
    seal(rt := runtime())

    assert failed == []
    assert positions(database) == list(range(1, 321))
    assert problems(rt) == []


def test_while_one_process_assigns_positions_another_does_nothing(rt, database):
    append(database, 2)
    with psycopg.connect(database) as other:
        other.execute("select public.gateway_assign_positions_v1(10)")
        assert assign_positions(rt) == 0
        other.commit()

    assert positions(database) == [1, 2]


def test_a_backlog_is_worked_off_in_one_round(rt, database):
    append(database, 2700)

    assert assign_positions(rt) == 2700


def test_a_killed_worker_leaves_nothing_half_done(rt, database):
    """Killed anywhere, the next one continues from where positions and chain really end."""
    append(database, 400)
    script = (
        "import sys\nfrom gateway.settings import read_settings\nfrom gateway.services import build_runtime\n"
        "from gateway.events import chain, record\nchain.SEGMENT = record.BATCH = 5\n"
        "rt = build_runtime(read_settings(dict(pair.split('=', 1) for pair in sys.argv[1:])))\n"
        "from gateway.database.queries import events\n"
        "while events.assign_positions(rt.database, limit=5) and chain.seal_events(rt): print('.', flush=True)\n"
    )
    settings = [
        f"GATEWAY_KEYS={KEY}", f"DATABASE_URL={database}", "GATEWAY_JOURNAL=0", "SUPABASE_URL=https://northwind.example",
    ]  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", script, *settings], cwd=ROOT, stdout=subprocess.PIPE)
    for _ in range(3):
        process.stdout.readline()
    process.kill()
    process.communicate()
    busy = (
        "select 1 from pg_stat_activity where datname = current_database() and application_name = 'gateway'"
        " and state = 'active'"
    )
    wait_for(lambda: not rows(database, busy))  # its backend may still be at the last statement

    assert seal(rt) > 0
    assert positions(database) == list(range(1, 401))
    assert problems(rt) == []


def told(rt, person, after=0):
    page = events.read_events(rt.database, Caller(user_id=person.id), after=after, limit=100)
    return [event.position for event in page.items]


def test_readers_see_events_with_a_position_alone(rt):
    alice = Person("alice")
    alice.signs_in(rt.database)
    alice.connects(rt.database)

    assert told(rt, alice) == []
    assign_positions(rt)
    assert told(rt, alice) == [1]


def test_delivery_continues_after_a_restored_backup(rt, database):
    """Positions and reading continue at once; verification compares with the log and reports what it finds."""
    alice = Person("alice")
    alice.signs_in(rt.database)
    alice.connects(rt.database)
    seal(rt)
    with put_back(database):
        append(database, 5, user_id=alice.id)
        seal(rt)
        log = events.read_chain(rt.database).end
        assert told(rt, alice) == [1, 2, 3, 4, 5, 6]

    append(database, 2, user_id=alice.id)
    assert Worker(rt, EVENT_JOBS).once()
    assert told(rt, alice) == [1, 2, 3]
    assert problems(rt) == []
    assert problems(rt, log) == [("cut_off", 4, 6)]
    append(database, 4, user_id=alice.id)
    seal(rt)
    assert problems(rt, log) == [("replaced", 6, 6)]


@pytest.mark.parametrize(
    "damage",
    [
        "update gateway.event_chain set encrypted_key = null",
        "update gateway.event_chain set encrypted_key = 'gAAAAAx'",
        "truncate gateway.event_seal",
        "update gateway.event_seal set hash = 'x'",
        "delete from gateway.event where position < 20",
        "alter table gateway.event_seal rename to lost",
    ],
)
def test_delivery_never_waits_for_the_hash_chain(sealed, database, damage):
    """Whatever happened to the chain: events are delivered a second later, and the failure is in the log."""
    alice = Person("alice")
    alice.signs_in(sealed.database)
    rows(database, damage)
    append(database, 3, user_id=alice.id)
    Worker(sealed, EVENT_JOBS).once()

    assert told(sealed, alice) == [31, 32, 33]


def test_a_row_with_an_invented_position_does_not_stop_the_others(sealed, database):
    append(database, 1, position=35)
    append(database, 2)

    assert assign_positions(sealed) == 2
    assert positions(database)[-3:] == [35, 36, 37]


def test_every_process_with_a_worker_assigns_positions(gateway):
    alice = gateway.person("Alice Winter")
    held = alice.connects("zoom")["connection"]
    query = "select position from gateway.event where connection_id = %s"

    wait_for(lambda: rows(gateway.dsn, query, held)[0] is not None)


def finding(rt):
    (found,) = doctor.examine_events(rt)
    return found.level, found.message


def test_the_doctor_checks_the_latest_events_and_whether_they_get_positions(sealed, runtime, database):
    assert finding(sealed) == ("ok", "The last 30 events are unchanged.")
    append(database, 2)
    assert finding(sealed)[0] == "ok"
    rows(database, "update gateway.event set at = at - interval '2 minutes' where position is null")
    assert finding(sealed) == ("warn", "2 events have no position, the oldest for 120 s.")
    rows(database, "update gateway.event set type = 'x' where position = 17")
    assert finding(sealed)[0] == "fail"
    assert finding(runtime(Fernet.generate_key().decode()))[0] == "fail"


def test_how_many_events_wait_for_a_position_is_a_metric(sealed, database):
    append(database, 3)
    rows(database, "update gateway.event set at = at - interval '90 s' where position is null")
    lag = worker_backlog(sealed.database)

    assert lag["events_unassigned"] == 3
    assert 90 <= lag["oldest_unassigned_seconds"] < 120
