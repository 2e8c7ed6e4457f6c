"""
How much a partner or a user may read: token reads and different connections in an hour, in SQL, over both backends.

Time passes in the database alone: what was counted is moved to an earlier hour.
"""

from __future__ import annotations

import uuid

import psycopg
import pytest

from gateway.database.queries import partners as queries
from gateway.database.queries.connections import reached_connections
from gateway.database.queries.events import read_usage
from gateway.database.queries.operator import housekeeping
from gateway.database.queries.tokens import read_token, stored_token
from gateway.errors import Forbidden, Frozen, RateLimited
from gateway.models import Caller
from gateway.partners.admin import PartnerRefused, set_partner
from gateway.partners.keys import hash_key
from tests.support.database import Person, rows
from tests.support.partners import events, next_hour, partner, recorded_reads

HOME, AWAY = "198.51.100.7", "203.0.113.9"


def crowd(store, number):
    """Connections of as many people."""
    people = [Person(f"person-{at}") for at in range(number)]
    for person in people:
        person.signs_in(store)
    return [person.connects(store).id for person in people]


def reads(store, made, connection, address=HOME, **more):
    return read_token(store, made.caller(address), connection, min_seconds=0, **more)


def used(database, made):
    """Reads, and different connections, as they count towards the limits of this hour."""
    query = "select u.reads::int, u.connections::int from gateway.usage u where u.reader_id = %s order by u.hour desc"
    return next(iter(rows(database, query, made.id)), (0, 0))


def test_a_read_counts_once_and_is_recorded_once(database, store, early):
    """
    In one row for partner, connection and hour; what a refresh looks at afterwards is neither counted nor recorded.
    """
    made = partner(store)
    (here,) = crowd(store, 1)

    for counted in (True, False, True, False):
        assert "ghl" == reads(store, made, here, counted=counted).provider
    assert (2, 1) == used(database, made)
    assert 2 == recorded_reads(database, partner_id=made.id, connection_id=here)
    assert [1] == rows(database, "select count(*) from gateway.token_read")


def test_an_hour_that_is_over_becomes_one_event_for_partner_and_connection(database, store, early):
    """
    With how many reads there were, from when to when, and from which networks; the owner's own reads as well.
    """
    made, alice = partner(store), Person("alice")
    alice.signs_in(store)
    here = alice.connects(store).id
    for address in (HOME, AWAY, HOME):
        reads(store, made, here, address)
    read_token(store, Caller(user_id=alice.id), here, min_seconds=0)
    rows(database, "select gateway.close_hours(1000000)")
    assert [] == events(database, "tokens.read")

    next_hour(database)
    housekeeping(store, events_days=365)

    [told] = events(database, "tokens.read", partner_id=made.id, connection_id=here)
    assert (3, {"198.51.100.0/24", "203.0.113.0/24"}) == (told["reads"], set(told["networks"]))
    assert told["first_at"] < told["last_at"]
    assert 2 == len(events(database, "tokens.read", connection_id=here))
    assert 0 == recorded_reads(database)


def test_usage_counts_reads_and_calls_of_closed_and_open_hours_for_those_they_concern(database, store, early):
    """
    A closed hour says the same as before it was closed. A partner with reach `own` sees no other's use, and a user the own connections.
    """
    every, own, alice = partner(store), partner(store, reach="own"), Person("alice")
    (other,) = crowd(store, 1)
    alice.signs_in(store)
    here = alice.connects(store).id
    own.consented(database, here)
    since = rows(database, "select date_trunc('hour', now()) - interval '2 hours'")[0]

    def usage(who, **wanted):
        found = read_usage(store, who, usage={"from": since} | wanted, limit=wanted.pop("limit", 100))
        return [(str(row["partner"]), row["connection_id"], row["token_reads"], row["proxied_calls"]) for row in found]

    for made, connection in ((every, here), (every, here), (every, other), (own, here)):
        reads(store, made, connection)
    reads(store, own, here, scope="proxy")
    read_token(store, Caller(user_id=alice.id), here, min_seconds=0)
    mine = [(str(own.id), str(here), 1, 1)]
    hers = sorted([("None", str(here), 1, 0), (str(every.id), str(here), 2, 0), *mine])
    for close in (False, True):
        if close:
            next_hour(database)
            housekeeping(store, events_days=365)
            assert [0] == rows(database, "select count(*) from gateway.token_read")
        assert mine == usage(own.caller())
        assert hers == sorted(usage(Caller(user_id=alice.id)))
        assert sorted([*hers, (str(every.id), str(other), 1, 0)]) == sorted(usage(every.caller()))
        assert [(str(every.id), str(other), 1, 0)] == usage(every.caller(), connection_id=other)
        assert mine == usage(every.caller(), partner=own.id)
        assert [] == usage(own.caller(), partner=every.id)
        assert [] == usage(every.caller(), to=since)
    reads(store, own, here)
    pages = read_usage(store, every.caller(), usage={"from": since}, limit=3)
    rest = read_usage(store, every.caller(), usage={"from": since, "after": pages[-1]["key"]}, limit=3)
    assert 5 == len({row["key"] for row in (*pages, *rest)})


def test_what_is_out_of_reach_or_not_there_counts_for_nothing(database, store, early):
    """
    Nor is it recorded: an id that was guessed leaves no trace at its owner's.
    """
    elsewhere, own = partner(store, providers=("google",)), partner(store, reach="own")
    (here,) = crowd(store, 1)

    for made in (elsewhere, own):
        assert (None, None) == (reads(store, made, here), reads(store, made, uuid.uuid4()))
        assert (0, 0) == used(database, made)
    assert 0 == recorded_reads(database)


def test_a_connection_without_a_usable_grant_is_no_read(database, store, early):
    """
    Nothing is handed out, so nothing is counted.
    """
    made = partner(store)
    (here,) = crowd(store, 1)
    rows(database, "update gateway.connection set status = 'needs_reauthorization', reason = 'grant_refused'")

    assert "needs_reauthorization" == reads(store, made, here).status
    assert (0, 0) == used(database, made)
    assert 0 == recorded_reads(database)


def test_reads_over_the_limit_wait_for_the_next_hour_and_raise_one_alert(database, store, early):
    """
    Nothing more is counted then; the seconds to wait end with the hour; other partners read on.
    """
    made, other = partner(store, reads_per_hour=3), partner(store)
    (here,) = crowd(store, 1)
    for _ in range(3):
        reads(store, made, here)

    for _ in range(3):
        with pytest.raises(RateLimited) as refused:
            reads(store, made, here)
        left = rows(database, "select 3600 - extract(epoch from now() - date_trunc('hour', now()))::float8")[0]
        assert left - 1 <= refused.value.retry_after <= left + 2
    assert (3, 1) == used(database, made)
    assert [{"limit": "reads", "per_hour": 3}] == events(database, "partner.alerted", partner_id=made.id)
    reads(store, other, here)
    next_hour(database)
    reads(store, made, here)


def test_reads_that_a_process_has_not_reported_yet_count_towards_the_limit(database, store, early):
    """
    It reports once a second; until then it says with each read how many there were.
    """
    made = partner(store, reads_per_hour=10)
    (here,) = crowd(store, 1)

    assert reads(store, made, here, report=False).reported  # the first read of a connection always is
    assert not reads(store, made, here, report=False).reported
    assert (1, 1) == used(database, made)
    with pytest.raises(RateLimited):
        reads(store, made, here, unreported=9, report=False)
    assert reads(store, made, here, unreported=8, report=True).reported
    assert (10, 1) == used(database, made)


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
        assert 1 <= refused.value.retry_after <= 3601
    assert [{"limit": "connections", "per_hour": 4}] == events(database, "partner.alerted", partner_id=made.id)
    set_partner(store, made.name, {"reads_per_hour": 1})
    for connection in (ids[0], ids[4]):
        with pytest.raises(RateLimited):
            reads(store, made, connection)
    assert {"connections", "reads"} == {
        each["limit"] for each in events(database, "partner.alerted", partner_id=made.id)
    }
    set_partner(store, made.name, {"reads_per_hour": None})
    for connection in ids[:4]:
        reads(store, made, connection)
    assert (8, 4) == used(database, made)


def test_a_partner_that_reaches_everything_has_no_limit_and_raises_an_alert_when_its_reads_jump(database, store, early):
    """
    Five times as many as in the busiest hour of the day before, and a thousand at least. One with the usual reach is limited.
    """
    every, own = partner(store), partner(store, reach="own")
    (here,) = crowd(store, 1)
    assert [(None, None), (10000, 1000)] == rows(
        database,
        "select reads_per_hour, connections_per_hour from gateway.partner order by reach",
    )
    for count in (500, 999, 2501):
        reads(store, every, here, unreported=count - 1)
        next_hour(database)
    assert [] == events(database, "partner.alerted")

    reads(store, every, here, unreported=12505)
    reads(store, every, here)

    assert [{"limit": "reads", "reads": 12506, "usual": 2501}] == events(
        database, "partner.alerted", partner_id=every.id
    )
    unused = partner(store)
    reads(store, unused, here, unreported=1499)
    assert [{"limit": "reads", "reads": 1500, "usual": 0}] == events(database, "partner.alerted", partner_id=unused.id)
    assert own


def test_a_users_own_reads_are_limited_too(database, store, early):
    """
    By the same hour; without an alert.
    """
    alice, bob = Person("alice"), Person("bob")
    for person in (alice, bob):
        person.signs_in(store)
    hers, his = alice.connects(store).id, bob.connects(store).id

    read_token(store, Caller(user_id=alice.id), hers, min_seconds=0, unreported=3599)
    with pytest.raises(RateLimited):
        read_token(store, Caller(user_id=alice.id), hers, min_seconds=0)
    assert read_token(store, Caller(user_id=bob.id), his, min_seconds=0)
    assert [] == events(database, "partner.alerted")


def test_a_network_that_is_new_to_a_partner_is_an_event_and_no_limit(database, store, early):
    """
    Recorded once, for a partner that was used from another network before; one in use stays known, however many others there are.
    """
    made = partner(store, connections_per_hour=100)
    ids = crowd(store, 12)
    reads(store, made, ids[0])

    for connection in ids:
        assert reads(store, made, connection, AWAY)
    assert [{"network": "203.0.113.0/24"}] == events(database, "partner.new_network", partner_id=made.id)

    older = [f"10.0.{number}.0/24" for number in range(98)]
    for address in (HOME, "192.0.2.7", HOME):
        rows(
            database,
            "update gateway.api_key set last_used_at = now() - interval '2 minutes', networks = networks || %s::inet[]",
            older,
        )
        older = []
        assert reads(store, made, ids[0], address)
    assert 2 == len(events(database, "partner.new_network", partner_id=made.id))


def test_a_partner_that_exceeds_a_limit_is_frozen_if_configured(database, store, early):
    """
    In the same call, for every later one, until the operator thaws it.
    """
    made = partner(store, reads_per_hour=1, freeze_on_alert=True)
    (here,) = crowd(store, 1)
    reads(store, made, here)

    with pytest.raises(RateLimited):
        reads(store, made, here)
    for ask in (lambda: reads(store, made, here), lambda: reached_connections(store, made.caller())):
        with pytest.raises(Frozen):
            ask()
    assert [{"why": "alert"}] == events(database, "partner.frozen", partner_id=made.id)
    assert queries.freeze(store, partner=made.name, off=True)
    assert [here] == [each.id for each in reached_connections(store, made.caller())]


def test_a_thaw_arms_the_alert_again(database, store, early):
    """
    Further reads raise an alert and freeze as the first time, not an hour later.
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
        queries.freeze(store, partner=made.name, off=True)


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
        queries.freeze(store, **what)
        for caller in (made.caller(), hers):
            with pytest.raises(Frozen):
                read_token(store, caller, here, min_seconds=0)
            with pytest.raises(Frozen):
                read_token(store, caller, here, min_seconds=0, counted=False)
        assert reads(store, own, here) is None
        assert stored_token(store, here)
        queries.freeze(store, **what, off=True)
    queries.freeze(store, provider="google")
    assert reads(store, made, here)
    assert read_token(store, hers, here, min_seconds=0)


def test_a_read_waits_for_no_read_of_another_connection(database, store, early):
    """
    One is held open in its transaction: other connections are read with the same key and from the same network meanwhile.
    """
    made = partner(store)
    here, there = crowd(store, 2)
    for connection in (here, there):
        reads(store, made, connection)
    rows(database, "update gateway.api_key set last_used_at = now() - interval '5 minutes'")
    asks = (
        "select public.gateway_read_token_v1(p_connection_id => %s, p_min_seconds => 0,"
        " p_caller => jsonb_build_object('key_hash', %s::text, 'address', %s::text), p_counted => true, p_report => false)"
    )
    with psycopg.connect(database) as held, psycopg.connect(database, autocommit=True) as beside:
        held.execute(asks, [here, hash_key(made.key), HOME])
        beside.execute("set statement_timeout = '2s'")
        for _ in range(3):
            beside.execute(asks, [there, hash_key(made.key), HOME])
    assert (2, 4) == tuple(recorded_reads(database, connection_id=each) for each in (here, there))


def test_what_no_limit_looks_at_any_more_is_cleared_away(database, store, early):
    """
    A day and an hour later.
    """
    made = partner(store)
    (here,) = crowd(store, 1)
    reads(store, made, here)
    rows(database, "update gateway.usage set hour = hour - interval '25 hours'")

    housekeeping(store, events_days=365)

    assert [0] == rows(database, "select count(*) from gateway.usage")


def test_a_read_that_cannot_be_recorded_is_refused(database, store, early):
    """
    A record that is not written fails closed, for partners and for users.
    """
    made = partner(store)
    alice = Person("alice")
    alice.signs_in(store)
    here = alice.connects(store).id
    rows(
        database,
        "create function public.no_room() returns trigger language plpgsql as $$ begin raise 'no room' using errcode = '53100'; end $$;"
        "create trigger no_room before insert on gateway.token_read for each row execute function public.no_room()",
    )

    for caller in (made.caller(None), Caller(user_id=alice.id)):
        with pytest.raises(Exception, match="read_token"):
            read_token(store, caller, here, min_seconds=0)
    assert (0, 0) == used(database, made)


def test_a_partners_limits_and_rights_are_changed_from_its_next_call_on(database, store, early):
    """
    Its key stays valid; a limit can be removed, and what was not named stays as it was.
    """
    (here,) = crowd(store, 1)
    made = partner(store, reads_per_hour=2)
    reads(store, made, here)
    reads(store, made, here)
    with pytest.raises(RateLimited):
        reads(store, made, here)

    set_partner(store, made.name, {"reads_per_hour": 3})
    reads(store, made, here)
    with pytest.raises(RateLimited):
        reads(store, made, here)
    set_partner(store, made.name, {"reads_per_hour": None})
    reads(store, made, here)
    set_partner(store, made.name, {"scope": ["events:read"]})
    with pytest.raises(Forbidden):
        reads(store, made, here)
    set_partner(store, made.name, {"scope": ["tokens:read"], "reach": "own"})
    assert reads(store, made, here) is None
    set_partner(store, made.name, {"reach": "all", "providers": ["zoom"]})
    assert reads(store, made, here) is None

    limits = []
    for changes in ({"reach": "own"}, {"reads_per_hour": 5}, {"reach": "own"}, {"reach": "all"}):
        set_partner(store, made.name, changes)
        (found,) = queries.list_partners(store, made.name)["partners"]
        limits.append((found["reads_per_hour"], found["connections_per_hour"]))
    assert [(10000, 1000), (5, 1000), (5, 1000), (5, None)] == limits  # a default goes with its reach
    set_partner(store, made.name, {"reads_per_hour": None})

    (found,) = queries.list_partners(store, made.name)["partners"]
    assert ("all", ["zoom"], ["tokens:read"], None) == (
        found["reach"], found["providers"], found["scope"], found["reads_per_hour"],
    )  # fmt: skip
    assert (4, 1) == (found["reads_this_hour"], found["connections_this_hour"])
    assert {"reads_per_hour": 3} == events(database, "partner.changed", partner_id=made.id)[0]


@pytest.mark.parametrize(
    "changes",
    [{"scope": []}, {"scope": ["x"]}, {"reach": "some"}, {"reads_per_hour": 0}, {"connections_per_hour": -1}],
)
def test_an_impossible_change_changes_nothing(store, changes):
    """
    Nor does one of a partner that there is not, or that is revoked.
    """
    made = partner(store)
    before = queries.list_partners(store, made.name)

    with pytest.raises(PartnerRefused):
        set_partner(store, made.name, {"freeze_on_alert": True, **changes})
    assert before == queries.list_partners(store, made.name)
    queries.revoke(store, made.name)
    for name in (made.name, "nobody"):
        with pytest.raises(PartnerRefused, match="no partner named"):
            set_partner(store, name, {"reads_per_hour": 5})
