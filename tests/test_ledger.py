"""
The ledger: committed events get their place once, without a gap, and whatever is done to a row in the database is named.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import uuid
from contextlib import contextmanager

import psycopg
import pytest
from cryptography.fernet import Fernet
from postgres import Person, rows
from postgrest_stand_in import SECRET_KEY
from running import ROOT
from test_rotation import rotate

from gateway import ledger
from gateway.config import read_settings
from gateway.doctor import chain
from gateway.errors import SecretUnreadable
from gateway.ledger import drop_once, seal_all, seal_once, verify
from gateway.models import Caller
from gateway.runtime import build_runtime
from gateway.store import open_rest_store
from gateway.worker import Sealer

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
        rt.outbound.close()


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


def append(database, count, **columns):
    """That many events, as requests append them."""
    given = {"type": "token.read", "data": '{"b": 1.50, "a": "ä", "n": [1, {"z": null, "y": 2}]}'} | columns
    names = ", ".join(given)
    rows(
        database,
        f"insert into gateway.event ({names}) select {', '.join(['%s'] * len(given))} from generate_series(1, {count})",  # noqa: S608
        *given.values(),
    )


def checked(rt, *heads, last=None):
    """How a whole check ended."""
    return list(verify(rt, heads, last=last))[-1]


def problem(rt, *heads):
    found = checked(rt, *heads).problem
    return found and (found.kind, found.position, found.until)


def positions(database):
    return rows(database, "select position from gateway.event order by position")


@contextmanager
def pages_of(monkeypatch, most):
    monkeypatch.setattr(ledger, "MOST", most)
    yield


# -- sealing ---------------------------------------------------------------------------------------------------------


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
    monkeypatch.setattr(ledger, "MOST", 7)
    monkeypatch.setattr(ledger, "LEASE_SECONDS", 0.0)
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

    assert not rt.store.seal_events(head_position=slow.position, head_hash=slow.hash, **given)
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
        "import sys\nfrom gateway.config import read_settings\nfrom gateway.runtime import build_runtime\nfrom gateway import ledger\n"
        "ledger.MOST = 5\nrt = build_runtime(read_settings(dict(pair.split('=', 1) for pair in sys.argv[1:])))\n"
        "while ledger.seal_once(rt): print('.', flush=True)\n"
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


# -- what was done to it ---------------------------------------------------------------------------------------------

CHANGES = {
    "data": "data = '{}'",
    "a number in the data": """data = jsonb_set(data, '{b}', '1.5')""",
    "type": "type = 'token.rea'",
    "time, by a microsecond": "at = at + interval '1 microsecond'",
    "connection": "connection_id = gen_random_uuid()",
    "user": "user_id = gen_random_uuid()",
    "partner": "partner_id = gen_random_uuid()",
    "provider": "provider = 'ghl'",
    "id": "id = gen_random_uuid()",
    "hash": "hash = repeat('0', 64)",
    "no hash": "hash = null",
}


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


def test_a_changed_row_is_named(sealed, database):
    """
    Whichever column, by however little.
    """
    for name, change in CHANGES.items():
        with put_back(database):
            rows(database, f"update gateway.event set {change} where position = 17")  # noqa: S608
            assert ("changed", 17, 17) == problem(sealed), name
            assert "The event at position 17 was changed." == checked(sealed).problem.says
    assert problem(sealed) is None


MADE_UP = "insert into gateway.event (type, position, hash) values ('made.up', {}, repeat('a', 64))"
DONE = {
    ("delete from gateway.event where position = 17",): ("removed", 17, 17),
    ("delete from gateway.event where position in (17, 18)",): ("removed", 17, 18),
    ("delete from gateway.event where position = 1",): ("removed", 1, 1),
    ("delete from gateway.event where position > 25",): ("removed", 26, 30),
    ("delete from gateway.event",): ("removed", 1, 30),
    ("update gateway.event set position = null, hash = null where position = 17",): ("removed", 17, 17),
    (
        "update gateway.event set position = -17 where position = 17",
        "update gateway.event set position = 17 where position = 20",
        "update gateway.event set position = 20 where position = -17",
    ): ("reordered", 17, 20),
    (
        "update gateway.event set position = -position where position >= 17",
        "update gateway.event set position = 1 - position where position < 0",
        MADE_UP.format(17),
        "update gateway.ledger set position = 31",
    ): ("inserted", 17, 17),
    (MADE_UP.format(31),): ("inserted", 31, 31),
    (MADE_UP.format(0),): ("front", 0, 0),
    (
        "delete from gateway.event where position > 25",
        "update gateway.ledger set position = 25, hash = (select hash from gateway.event where position = 25)",
    ): ("head", 25, 25),
    (
        "delete from gateway.event where position <= 5",
        "update gateway.ledger set dropped_position = 5, dropped_hash = 'h', dropped_mark = 'm'",
    ): ("front", 1, 5),
    ("update gateway.ledger set position = 0, hash = '', mark = '', sealed_key = null",): ("inserted", 1, 1),
    ("drop index gateway.event_position", MADE_UP.format(17)): ("inserted", 17, 17),
}
"""What somebody with access to the database does, and the first thing that a check has to name."""


def test_what_was_removed_moved_or_made_up_is_named(sealed, database):
    """
    The first of it, in whichever page.
    """
    for statements, named in DONE.items():
        with put_back(database):
            for one in statements:
                rows(database, one)
            assert named == problem(sealed), statements
    assert problem(sealed) is None


def test_it_is_named_in_whichever_page_it_stands(sealed, database, monkeypatch):
    """
    Pages of seven rows; of a gap over the end of one, what is in the first.
    """
    with pages_of(monkeypatch, 7):
        assert problem(sealed) is None
        rows(database, "delete from gateway.event where position between 13 and 16")
        assert ("removed", 13, 14) == problem(sealed)


def test_the_log_finds_a_chain_whose_end_was_put_back(sealed, database):
    """
    Whoever keeps an old head can cut back to it with everything right: the position that the log knows is not there any more.
    """
    old = rows(database, "select position, hash, mark from gateway.ledger")[0]
    append(database, 5)
    seal_all(sealed)
    log = sealed.store.ledger()
    rows(database, "delete from gateway.event where position > 30")
    rows(database, "update gateway.ledger set position = %s, hash = %s, mark = %s", *old)

    assert problem(sealed) is None
    assert ("cut_off", 31, 35) == problem(sealed, (log.position, log.hash))


def test_the_log_finds_a_chain_that_was_made_anew(sealed, database):
    """
    By whoever has the key as well.
    """
    log = sealed.store.ledger()
    for statement in (
        "update gateway.event set position = null, hash = null",
        "delete from gateway.event where id = (select id from gateway.event limit 1)",
        "update gateway.ledger set position = 0, hash = '', mark = ''",
    ):
        rows(database, statement)
    append(database, 1)
    seal_all(sealed)

    assert problem(sealed) is None
    assert ("made_anew", 30, 30) == problem(sealed, (log.position, log.hash))


def test_a_chain_that_has_begun_gets_no_other_key(sealed, database):
    """
    Taken away, put back from elsewhere: nothing is sealed under another, and the check says that it cannot check.
    """
    append(database, 1)
    for stolen in (None, sealed.vault.seal("ab" * 32, row="elsewhere", column="ledger", generation=0)):
        rows(database, "update gateway.ledger set sealed_key = %s, lease_until = null", stolen)
        with pytest.raises(SecretUnreadable):
            seal_once(sealed)
        with pytest.raises(SecretUnreadable):
            problem(sealed)


def test_the_key_is_not_in_the_database(sealed, database):
    """
    What stands there is sealed, under a key that the database does not have.
    """
    (stands,) = rows(database, "select sealed_key from gateway.ledger")

    assert stands.startswith("gAAAA")


def test_rotating_the_keys_does_not_end_the_chain(runtime, sealed, database):
    """
    Its key is sealed again under the newest one, counted like everything else.
    """
    new = Fernet.generate_key().decode()
    both = runtime(new, KEY)

    assert 1 == rotate(both, check=True).older
    assert 1 == rotate(both).resealed
    alone = runtime(new)
    append(database, 2)
    assert 2 == seal_all(alone)
    assert (None, 32) == (problem(alone), checked(alone).position)


# -- the end of it, and its beginning --------------------------------------------------------------------------------


def test_the_last_rows_can_be_checked_alone(sealed, database):
    """
    As the doctor does; what is wrong before them is not looked at.
    """
    rows(database, "update gateway.event set type = 'x' where position = 5")

    assert (None, 10) == (checked(sealed, last=10).problem, checked(sealed, last=10).checked)
    rows(database, "update gateway.event set type = 'x' where position = 25")
    assert 25 == checked(sealed, last=10).problem.position


@pytest.fixture
def aged(rt, runtime, database):
    """Twenty events of three days ago, then ten of now; kept for one day."""
    append(database, 20, type="old.one", connection_id=CONNECTION)
    rows(database, "update gateway.event set at = at - interval '3 days'")
    append(database, 10)
    seal_all(rt)
    return runtime(GATEWAY_EVENTS_DAYS="1")


CONNECTION = uuid.uuid4()


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


# -- the sealer ------------------------------------------------------------------------------------------------------


def test_the_head_is_told_to_the_log_at_the_start_and_hourly(sealed, database, monkeypatch):
    """
    From outside the database: that is what a chain that was cut off, or made anew, is compared with.
    """
    told, now = [], [0.0]
    monkeypatch.setattr("gateway.worker.log.info", lambda event, **said: told.append((event, said)))
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
