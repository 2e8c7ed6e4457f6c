"""
The ledger: committed events get their place once, without a gap, whoever seals and however it ends.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import uuid

import psycopg

from gateway.database import open_rest_store
from gateway.events import chain, seal_all, seal_once
from gateway.worker.jobs import Sealer
from tests.support.database import rows
from tests.support.gateway_process import ROOT
from tests.support.ledger_fixtures import KEY, append, checked, positions, problem
from tests.support.postgrest_stand_in import SECRET_KEY


def test_committed_events_get_their_places_in_order_without_a_gap(sealed, database):
    """
    One to thirty, oldest first, and the chain holds.
    """
    assert list(range(1, 31)) == positions(database)
    assert list(range(1, 31)) == rows(
        database, "select row_number() over (order by at) from gateway.event order by position"
    )
    end = checked(sealed)
    assert (None, 30, 30) == (end.problem, end.position, end.checked)


def test_a_row_that_commits_late_gets_a_later_place_and_none_is_left_out(rt, database):
    """
    A cursor that has passed by is never joined by an earlier row.
    """
    with psycopg.connect(database) as late:
        late.execute("insert into gateway.event (type) values ('late.one')")
        append(database, 3)
        assert 3 == seal_all(rt)
        late.commit()
    assert 1 == seal_all(rt)

    assert ["late.one"] == rows(database, "select type from gateway.event where position = 4")
    assert positions(database) == [1, 2, 3, 4]
    assert problem(rt) is None


def test_an_event_of_a_transaction_that_is_rolled_back_leaves_no_gap(rt, database):
    """
    It was never told, so it never had a place.
    """
    with psycopg.connect(database) as undone:
        undone.execute("insert into gateway.event (type) values ('undone')")
        undone.rollback()
    append(database, 2)
    seal_all(rt)

    assert [1, 2] == positions(database)


def test_sealers_at_once_give_each_place_once(database, runtime, monkeypatch):
    """
    Four sealers whose leases run out at once, and four writers, some of whose rows are committed late.
    """
    monkeypatch.setattr(chain, "MOST", 7)
    monkeypatch.setattr(chain, "LEASE_SECONDS", 0.0)
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

    def seal(own):
        try:
            while seal_once(own) or not written.is_set():
                pass
        except Exception as error:  # noqa: BLE001 - judged below
            failed.append(repr(error))

    writers = [threading.Thread(target=write) for _ in range(4)]
    sealers = [threading.Thread(target=seal, args=(runtime(),)) for _ in range(4)]
    for thread in (*sealers, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    written.set()
    for thread in sealers:
        thread.join()
    seal_all(rt := runtime())

    assert [] == failed
    assert list(range(1, 321)) == positions(database)
    assert problem(rt) is None


def test_while_one_seals_another_leaves_it_alone(rt, database):
    """
    And who died over it keeps nobody waiting for longer than the lease.
    """
    append(database, 2)
    assert rt.store.unsealed_events(most=10, lease_seconds=60) is not None

    assert 0 == seal_once(rt)
    rows(database, "update gateway.ledger set lease_until = clock_timestamp()")
    assert 2 == seal_once(rt)


def test_a_sealer_that_wakes_up_too_late_seals_nothing(rt, database):
    """
    By compare-and-set on the head; so does one whose rows went meanwhile, and no place is given.
    """
    append(database, 2)
    slow = rt.store.unsealed_events(most=10, lease_seconds=0)
    assert 2 == seal_once(rt)
    given = {"sealed": [(row.id, "h") for row in slow.rows], "mark": "m"}
    append(database, 1)

    head = rt.store.ledger()
    (new,) = rt.store.unsealed_events(most=10, lease_seconds=0).rows

    assert not rt.store.seal_events(head_position=slow.ends.position, head_hash=slow.ends.hash, **given)
    for position, digest, row in (
        (2, head.hash, uuid.uuid4()),
        (0, "", new.id),
        (2, "0" * 64, new.id),
        (3, head.hash, new.id),
    ):
        assert not rt.store.seal_events(head_position=position, head_hash=digest, sealed=[(row, "h")], mark="m")
    assert 1 == seal_once(rt)
    assert problem(rt) is None


def test_a_backlog_is_worked_off_without_a_pause(rt, database):
    """
    Page after page in one go.
    """
    append(database, 1700)

    assert Sealer(rt).once()
    assert 1700 == checked(rt).checked


def test_a_killed_sealer_leaves_nothing_half_done(rt, database):
    """
    Killed anywhere, the next one goes on from where the chain really ends.
    """
    append(database, 400)
    script = (
        "import sys\nfrom gateway.settings import read_settings\nfrom gateway.services import build_runtime\nfrom gateway.events import chain, seal_once\n"
        "chain.MOST = 5\nrt = build_runtime(read_settings(dict(pair.split('=', 1) for pair in sys.argv[1:])))\n"
        "while seal_once(rt): print('.', flush=True)\n"
    )
    settings = [
        f"GATEWAY_KEYS={KEY}", f"DATABASE_URL={database}", "GATEWAY_JOURNAL=0", "SUPABASE_URL=https://northwind.example",
    ]  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", script, *settings], cwd=ROOT, stdout=subprocess.PIPE)
    for _ in range(3):
        process.stdout.readline()
    process.kill()
    process.communicate()
    with psycopg.connect(database, autocommit=True) as watch:  # its backend may be at the last statement still
        while watch.execute(
            "select 1 from pg_stat_activity where datname = current_database() and application_name = 'gateway'"
            " and state = 'active'"
        ).fetchone():
            pass
    rows(database, "update gateway.ledger set lease_until = null")

    assert seal_all(rt) > 0
    assert list(range(1, 401)) == positions(database)
    assert problem(rt) is None


def test_every_column_of_an_event_is_under_the_hash(sealed, database):
    """
    A column that is added later has to be, too.
    """
    columns = rows(
        database,
        "select attname from pg_attribute where attrelid = 'gateway.event'::regclass and attnum > 0 and not attisdropped",
    )
    (row,) = sealed.store.ledger_page(after=0, most=1)[0]

    assert set(columns) == {*row.columns, "at", "position", "hash"}


def test_over_rest_the_chain_is_the_same(sealed, rest, database):
    """
    Times and numbers are written otherwise there, and hashed alike.
    """
    over_rest = open_rest_store(rest.url, SECRET_KEY)
    try:
        assert sealed.store.ledger_page(after=0, most=30) == over_rest.ledger_page(after=0, most=30)
    finally:
        over_rest.close()
