"""
How much a partner may read: token reads and different connections in an hour, in SQL, over both backends.

Time passes in the database alone: what was counted is moved to an earlier hour.
"""

from __future__ import annotations

import threading
import uuid

import psycopg
import pytest

from gateway.database.queries import housekeeping
from gateway.errors import Frozen, RateLimited
from gateway.models import Caller
from gateway.partners.admin import add_key, hash_key
from tests.support.database import Person, rows
from tests.support.partners import events, partner

HOME, AWAY = "198.51.100.7", "203.0.113.9"


def crowd(store, number):
    """Connections of as many people."""
    people = [Person(f"person-{at}") for at in range(number)]
    for person in people:
        person.signs_in(store)
    return [person.connects(store).id for person in people]


def reads(store, made, connection, address=HOME, *, counted=True):
    return store.grant(connection_id=connection, caller=made.caller(address), min_seconds=0, counted=counted)


def used(database, made):
    """Reads, and different connections, as they stand."""
    return rows(
        database,
        "select coalesce(sum(u.reads), 0)::int, coalesce(sum(u.connections), 0)::int from gateway.usage u where u.partner_id = %s",
        made.id,
    )[0]


@pytest.fixture
def early(database):
    """
    The hour began long enough ago for a test to end in it: where it has not, its last seconds are waited out.
    """
    seconds = rows(database, "select 3600 - extract(epoch from now() - date_trunc('hour', now()))::float8")[0]
    if seconds < 15:
        threading.Event().wait(seconds + 0.1)


def test_a_read_counts_once_and_is_told_once(database, store, early):
    """
    By an event that names the partner and the connection; what a refresh looks at afterwards does neither.
    """
    made = partner(store)
    (here,) = crowd(store, 1)

    for counted in (True, False, True, False):
        assert "ghl" == reads(store, made, here, counted=counted).provider
    assert (2, 1) == used(database, made)
    assert [{}, {}] == events(database, "token.read", partner_id=made.id, connection_id=here)


def test_what_is_out_of_reach_or_not_there_counts_for_nothing(database, store, early):
    """
    Nor is it told: an id that was guessed leaves no trace at its owner's.
    """
    elsewhere, own = partner(store, providers=("google",)), partner(store, reach="own")
    (here,) = crowd(store, 1)

    for made in (elsewhere, own):
        assert (None, None) == (reads(store, made, here), reads(store, made, uuid.uuid4()))
        assert (0, 0) == used(database, made)
    assert [] == events(database, "token.read")


def test_a_connection_without_a_usable_grant_is_no_read(database, store, early):
    """
    Nothing is handed out, so nothing is counted.
    """
    made = partner(store)
    (here,) = crowd(store, 1)
    rows(database, "update gateway.connection set status = 'needs_reauthorization'")

    assert "needs_reauthorization" == reads(store, made, here).status
    assert (0, 0) == used(database, made)
    assert [] == events(database, "token.read")


def test_reads_over_the_limit_wait_and_are_told_once_an_hour(database, store, early):
    """
    Nothing more is counted then; the seconds to wait are within the hour; other partners read on.
    """
    made, other = partner(store, reads_per_hour=3), partner(store)
    (here,) = crowd(store, 1)
    for _ in range(3):
        reads(store, made, here)

    for _ in range(3):
        with pytest.raises(RateLimited) as refused:
            reads(store, made, here)
        assert 1 <= refused.value.retry_after <= 7200
    assert (3, 1) == used(database, made)
    assert [{"limit": "reads", "per_hour": 3}] == events(database, "partner.alerted", partner_id=made.id)
    reads(store, other, here)
    rows(database, "update gateway.partner set reads_alerted_at = reads_alerted_at - interval '1 hour'")
    with pytest.raises(RateLimited):
        reads(store, made, here)
    assert 2 == len(events(database, "partner.alerted", partner_id=made.id))


def test_the_hour_slides(database, store, early):
    """
    Of the hour before, the share counts that is not over yet; what is older does not.
    """
    made = partner(store, reads_per_hour=1000)
    (here,) = crowd(store, 1)
    before = "insert into gateway.usage (partner_id, hour, slot, reads) values (%s, date_trunc('hour', now(), 'UTC') - make_interval(hours => %s), 99, %s)"
    rows(database, before, made.id, 2, 10**9)
    reads(store, made, here)

    rows(database, before, made.id, 1, 10**9)
    with pytest.raises(RateLimited) as refused:
        reads(store, made, here)
    left = rows(database, "select 3600 - extract(epoch from now() - date_trunc('hour', now()))::float8")[0]
    assert left - 2 <= refused.value.retry_after <= left + 2


def test_the_wait_that_is_named_is_enough_and_not_an_hour_too_long(database, store, early):
    """
    A limit that was just passed by the share of the hour before is over soon.
    """
    made = partner(store, reads_per_hour=1000)
    (here,) = crowd(store, 1)
    share = "select 1 - extract(epoch from now() - date_trunc('hour', now(), 'UTC'))::float8 / 3600"
    left = max(rows(database, share)[0], 0.004)
    rows(
        database,
        "insert into gateway.usage (partner_id, hour, slot, reads) values (%s, date_trunc('hour', now(), 'UTC') - interval '1 hour', 1, %s)",
        made.id,
        int(1000 / left) + 100,
    )

    with pytest.raises(RateLimited) as refused:
        reads(store, made, here)
    wait = refused.value.retry_after
    assert 1 <= wait < 3600
    reads_last = int(1000 / left) + 100
    assert reads_last * (rows(database, share)[0] - wait / 3600) + 1 <= 1000 + 1
    assert reads_last * (left - (wait - 2) / 3600) + 1 >= 1000 - 1


def test_different_connections_over_the_limit_wait_and_known_ones_are_read_on(database, store, early):
    """
    What a product reads every minute is not cut off because it has read widely; a hundred in a row are.
    """
    made = partner(store, connections_per_hour=4)
    ids = crowd(store, 6)
    for connection in ids[:4]:
        reads(store, made, connection)

    for connection in ids[4:]:
        with pytest.raises(RateLimited) as refused:
            reads(store, made, connection)
        assert 1 <= refused.value.retry_after <= 7200
    assert [{"limit": "connections", "per_hour": 4}] == events(database, "partner.alerted", partner_id=made.id)
    for connection in ids[:4]:
        reads(store, made, connection)
    assert (8, 4) == used(database, made)


def test_different_connections_slide_with_the_hour_and_count_once_in_two(database, store, early):
    """
    Whoever has read widely does not begin anew when the hour turns; what it read then, it reads on, and nothing counts double.
    """
    made = partner(store, connections_per_hour=4)
    ids = crowd(store, 5)
    for connection in ids[:4]:
        reads(store, made, connection)
    for table in ("usage", "usage_connection"):
        rows(database, f"update gateway.{table} set hour = hour - interval '1 hour'")  # noqa: S608

    for connection in (*ids[:4], *ids[:4]):
        reads(store, made, connection)
    assert (12, 8) == used(database, made)
    rows(database, "update gateway.partner set connections_per_hour = 5")
    reads(store, made, ids[4])

    other = partner(store, connections_per_hour=1000)
    before = "insert into gateway.usage (partner_id, hour, slot, reads, connections) values (%s, date_trunc('hour', now(), 'UTC') - make_interval(hours => %s), 99, 1, %s)"
    rows(database, before, other.id, 2, 10**9)
    reads(store, other, ids[0])
    rows(database, before, other.id, 1, 10**9)
    with pytest.raises(RateLimited) as refused:
        reads(store, other, ids[1])
    left = rows(database, "select 3600 - extract(epoch from now() - date_trunc('hour', now()))::float8")[0]
    assert left - 2 <= refused.value.retry_after <= left + 2


def test_a_new_network_reads_a_tenth_of_the_connections(database, store, early):
    """
    The shape of a theft: many connections, from where the partner never was. Where it lives it reads on, also what was tried
    from elsewhere; an hour later the new network is one of its own.
    """
    made = partner(store, connections_per_hour=120)
    made.used_for_long(database)
    ids = crowd(store, 14)
    for connection in ids[:5]:
        reads(store, made, connection)

    for connection in ids[:12]:
        reads(store, made, connection, AWAY)
    for connection in ids[12:]:
        with pytest.raises(RateLimited):
            reads(store, made, connection, AWAY)
    with pytest.raises(RateLimited):
        reads(store, made, ids[13], "192.0.2.4")  # one more network does not begin anew
    assert [{"limit": "connections", "per_hour": 12, "elsewhere": True}] == events(
        database, "partner.alerted", partner_id=made.id
    )
    for connection in ids[12:]:
        reads(store, made, connection)
    rows(database, "update gateway.key_use set first_at = first_at - interval '1 hour'")
    reads(store, made, ids[13], AWAY)


def test_a_partner_without_an_older_network_and_a_new_key_at_home_are_not_strange(database, store, early):
    """
    A first day is no theft, and neither is a rotation.
    """
    made = partner(store, connections_per_hour=100)
    ids = crowd(store, 12)
    for at, connection in enumerate(ids):
        reads(store, made, connection, (HOME, AWAY)[at % 2])
    for address in ("192.0.2.4", "198.18.0.4"):
        made.used_for_long(database, address)
    second = Caller(key_hash=hash_key(add_key(store, made.name).text), address="192.0.2.200")
    for connection in ids:
        assert store.grant(connection_id=connection, caller=second, min_seconds=0, counted=True)
    assert [] == events(database, "partner.alerted")


def test_who_asked_to_be_frozen_over_a_limit_is(database, store, early):
    """
    In the same call, for every later one, until the operator thaws it.
    """
    made = partner(store, reads_per_hour=1, freeze_on_alert=True)
    (here,) = crowd(store, 1)
    reads(store, made, here)

    with pytest.raises(RateLimited):
        reads(store, made, here)
    for ask in (lambda: reads(store, made, here), lambda: store.reached_connections(made.caller())):
        with pytest.raises(Frozen):
            ask()
    assert [{"why": "alert"}] == events(database, "partner.frozen", partner_id=made.id)
    assert store.freeze(partner=made.name, off=True)
    assert [here] == [each.id for each in store.reached_connections(made.caller())]


def test_a_thaw_arms_the_alert_again(database, store, early):
    """
    Whoever goes on reading after it is told of and frozen as the first time, not an hour later.
    """
    made = partner(store, reads_per_hour=1, freeze_on_alert=True)
    (here,) = crowd(store, 1)
    reads(store, made, here)

    for times in (1, 2):
        with pytest.raises(RateLimited):
            reads(store, made, here)
        with pytest.raises(Frozen):
            reads(store, made, here)
        assert times == len(events(database, "partner.alerted", partner_id=made.id))
        store.freeze(partner=made.name, off=True)


def test_frozen_reads_hold_for_users_and_partners_and_not_for_the_gateway(store, early):
    """
    A provider, or all; out of reach is like none also then.
    """
    made, own = partner(store), partner(store, reach="own")
    alice = Person("alice")
    alice.signs_in(store)
    here = alice.connects(store).id
    hers = Caller(user_id=alice.id)

    for what in ({"provider": "ghl"}, {"reads": True}):
        store.freeze(**what)
        for caller in (made.caller(), hers):
            with pytest.raises(Frozen):
                store.grant(connection_id=here, caller=caller, min_seconds=0, counted=True)
            with pytest.raises(Frozen):
                store.grant(connection_id=here, caller=caller, min_seconds=0)
        assert reads(store, own, here) is None
        assert store.grant(connection_id=here, caller=None, min_seconds=0)
        store.freeze(**what, off=True)
    store.freeze(provider="google")
    assert reads(store, made, here)
    assert store.grant(connection_id=here, caller=hers, min_seconds=0, counted=True)


@pytest.mark.parametrize("first", ["no read before", "read before"])
def test_a_read_waits_for_no_other_read_of_its_partner(database, store, early, first):
    """
    One is held open in its transaction: others, of the same connection and key and network, are answered meanwhile.
    """
    made = partner(store)
    (here,) = crowd(store, 1)
    if first == "read before":
        reads(store, made, here)
        rows(database, "update gateway.key_use set last_at = now() - interval '5 minutes'")
    asks = "select public.gateway_grant_v1(p_connection_id => %s, p_user_id => null, p_min_seconds => 0, p_key_hash => %s, p_address => %s, p_counted => true)"
    with psycopg.connect(database) as held:
        slot = held.execute("select pg_backend_pid() % 64").fetchone()[0]
        held.execute(asks, [here, hash_key(made.key), HOME])
        while True:
            with psycopg.connect(database, autocommit=True) as beside:
                if beside.execute("select pg_backend_pid() % 64").fetchone()[0] == slot:
                    continue
                beside.execute("set statement_timeout = '2s'")
                for _ in range(3):
                    beside.execute(asks, [here, hash_key(made.key), HOME])
                break
    assert (4 if first == "no read before" else 5) == used(database, made)[0]
    assert 1 == used(database, made)[1]


def test_what_was_counted_is_cleared_away_by_the_worker(database, store, early):
    """
    Two hours later nobody asks for it.
    """
    made = partner(store)
    made.used_for_long(database)
    (here,) = crowd(store, 1)
    reads(store, made, here, AWAY)
    tables = ("usage", "usage_connection", "usage_elsewhere")
    for table in tables:
        older = "jsonb_populate_record(u, jsonb_build_object('hour', u.hour - interval '2 hours'))"
        rows(database, f"insert into gateway.{table} select ({older}).* from gateway.{table} u")  # noqa: S608

    housekeeping.run(store, events_days=365)

    assert [1, 1, 1] == [rows(database, f"select count(*) from gateway.{table}")[0] for table in tables]  # noqa: S608


def test_a_read_that_cannot_be_told_is_not_answered(database, store, early):
    """
    A ledger that is not written fails closed, for partners and for users.
    """
    made = partner(store)
    alice = Person("alice")
    alice.signs_in(store)
    here = alice.connects(store).id
    rows(
        database,
        "create function public.no_room() returns trigger language plpgsql as $$ begin raise 'no room' using errcode = '53100'; end $$;"
        "create trigger no_room before insert on gateway.event for each row execute function public.no_room()",
    )

    for caller in (made.caller(None), Caller(user_id=alice.id)):
        with pytest.raises(Exception, match="grant"):
            store.grant(connection_id=here, caller=caller, min_seconds=0, counted=True)
    assert (0, 0) == used(database, made)
