"""
How far partners reach: `own` what its owner consented to, `all` every connection of its providers; several share one connection.
"""

from __future__ import annotations

import uuid

import psycopg
import pytest

from gateway.database.queries import partners as queries
from gateway.database.queries.connections import (
    check_caller,
    end_check,
    erase_own_connection,
    find_uninstall_target,
    reached_connection,
    reached_connections,
)
from gateway.database.queries.tokens import read_token
from gateway.errors import Frozen, RateLimited, Unauthenticated
from gateway.models import Caller
from tests.support.database import find_connection, rows
from tests.support.partners import events, partner


def paged(store, caller, most, **narrowed):
    """All pages, one after the other."""
    found, after = [], None
    while page := reached_connections(store, caller, after=after, most=most, **narrowed):
        assert len(page) <= most
        found += [each.id for each in page]
        after = found[-1]
    return found


def knows(store, made, connection):
    """Whether the partner reaches it, by every way of asking alike."""
    caller = made.caller()
    said = {
        reached_connection(store, caller, connection) is not None,
        connection in [each.id for each in reached_connections(store, caller)],
        read_token(store, caller, connection, min_seconds=0, counted=False) is not None,
        find_uninstall_target(store, connection_id=connection, session_hash=None, caller=caller) is not None,
    }
    assert 1 == len(said)
    return said.pop()


def test_a_partner_reaches_what_it_was_given_and_nothing_else(database, store, alice, bob):
    """
    By id, by list, by token and on the way out; consent that ended is none, and neither is consent at another's provider.
    """
    hers, his = alice.connects(store).id, bob.connects(store, provider="google", type=2).id
    every, crm, own = partner(store), partner(store, providers=("ghl",)), partner(store, reach="own")
    narrow = partner(store, reach="own", providers=("google",))
    for made in (own, narrow):
        made.consented(database, hers)

    assert [True, True, True, False] == [knows(store, made, hers) for made in (every, crm, own, narrow)]
    assert [True, False, False, False] == [knows(store, made, his) for made in (every, crm, own, narrow)]
    assert not knows(store, every, uuid.uuid4())
    rows(database, "update gateway.consent set ended_at = now()")
    assert [True, False] == [knows(store, made, hers) for made in (every, own)]


BY_ID = (
    "select public.gateway_reached_connection_v1(%s, jsonb_build_object('key_hash', %s::text))",
    "select public.gateway_reached_connection_v1(%s, jsonb_build_object('key_hash', %s::text), true)",
    "select public.gateway_disconnect_v1(%s, null, jsonb_build_object('key_hash', %s::text), true)",
    "select public.gateway_disconnect_v1(%s, null, jsonb_build_object('key_hash', %s::text))",
    "select public.gateway_read_token_v1(%s, jsonb_build_object('key_hash', %s::text), 0)",
)


WORK = (
    "select s.relname, s.seq_tup_read + coalesce(s.idx_tup_fetch, 0) + s.n_tup_ins + s.n_tup_upd from pg_stat_xact_user_tables s"
    " union all select f.funcname, f.calls from pg_stat_xact_user_functions f"
)
"""The rows of each table that a transaction reads and writes, and the calls of each function."""


@pytest.mark.parametrize("asked", BY_ID)
def test_the_id_of_another_provider_costs_what_an_unknown_one_costs(database, store, alice, asked):
    """
    For a partner with reach `all` of one provider: no row but the connection's own is read, so that time tells nothing.
    """
    foreign = alice.connects(store, provider="google", type=2).id
    key_hash = partner(store, providers=("ghl",)).caller().key_hash
    with psycopg.connect(database) as connection:
        connection.execute("set track_functions = 'all'")

        def work(named):
            before = dict(connection.execute(WORK).fetchall())
            assert (None,) == connection.execute(asked, [named, key_hash]).fetchone()
            after = connection.execute(WORK).fetchall()
            return {name: count - before.get(name, 0) for name, count in after if name != "connection"}

        work(uuid.uuid4())
        assert work(foreign) == work(uuid.uuid4())


def test_pages_hold_each_connection_once_and_each_filter_narrows(database, store, alice, bob):
    """
    For every reach, however long the pages are; also while rows come and go behind the cursor.
    """
    places = (("ghl", 1), ("google", 2), ("microsoft", 2), ("ringcentral", 3))
    hers = {name: alice.connects(store, provider=name, type=kind).id for name, kind in places}
    his = {name: bob.connects(store, provider=name, type=kind).id for name, kind in places}
    everything = sorted([*hers.values(), *his.values()], key=str)
    every, two = partner(store).caller(), partner(store, providers=("google", "ghl")).caller()
    own = partner(store, reach="own")
    for connection in (hers["ghl"], his["google"], his["ringcentral"]):
        own.consented(database, connection)

    for most in (1, 3, 8, 100):
        assert everything == paged(store, every, most)
        assert sorted([hers["ghl"], his["ghl"], hers["google"], his["google"]], key=str) == paged(store, two, most)
        assert sorted([hers["ghl"], his["google"], his["ringcentral"]], key=str) == paged(store, own.caller(), most)
        assert sorted(hers.values(), key=str) == paged(store, Caller(user_id=alice.id), most)
    assert sorted(his.values(), key=str) == paged(store, every, 2, of_user=bob.id)
    assert [his["google"]] == paged(store, every, 2, of_user=bob.id, provider="google")
    assert [] == paged(store, two, 2, provider="microsoft")
    assert sorted([hers["microsoft"], hers["google"], his["microsoft"], his["google"]], key=str) == paged(
        store, every, 3, wanted={"type": 2}
    )
    assert [his["ringcentral"]] == paged(store, own.caller(), 1, wanted={"type": 3})
    assert [] == paged(store, Caller(user_id=alice.id), 2, of_user=bob.id)
    rows(
        database,
        "update gateway.connection set status = 'needs_reauthorization', reason = 'grant_refused' where id = %s",
        hers["ghl"],
    )
    for caller in (every, two, own.caller(), Caller(user_id=alice.id)):
        assert [hers["ghl"]] == paged(store, caller, 2, wanted={"status": "needs_reauthorization"})


def test_a_page_behind_a_connection_that_is_gone_is_the_rest(store, alice):
    """
    The cursor is a place, not a row.
    """
    kept = sorted(
        (alice.connects(store, provider=name, type=2).id for name in ("google", "microsoft", "acme")), key=str
    )
    every = partner(store)
    (first,) = reached_connections(store, every.caller(), most=1)
    erase_own_connection(store, session_hash=alice.session, connection_id=first.id)

    assert kept[1:] == [each.id for each in reached_connections(store, every.caller(), after=first.id)]


def test_a_banned_users_token_reaches_nothing(database, store, alice):
    """
    By any way.
    """
    here = alice.connects(store).id
    rows(database, "update auth.users set banned_until = now() + interval '1 hour'")
    hers = Caller(user_id=alice.id)

    for ask in (
        lambda: check_caller(store, hers),
        lambda: reached_connections(store, hers),
        lambda: reached_connection(store, hers, here),
        lambda: read_token(store, hers, here, min_seconds=0),
        lambda: reached_connection(store, hers, here, check=True),
        lambda: find_uninstall_target(store, connection_id=here, session_hash=None, caller=hers),
        lambda: erase_own_connection(store, connection_id=here, caller=hers),
    ):
        with pytest.raises(Unauthenticated):
            ask()


# -- leaving ---------------------------------------------------------------------------------------------------------


OUT = (
    "update auth.users set banned_until = now() + interval '1 hour' where id = %s",
    "update auth.users set banned_until = 'infinity' where id = %s",
    "update auth.users set deleted_at = now() where id = %s",
)


@pytest.mark.parametrize("statement", OUT)
@pytest.mark.parametrize("reach", ["all", "own"])
def test_the_tokens_of_a_banned_or_deleted_user_are_frozen_for_partners(database, store, alice, bob, statement, reach):
    """
    Read, counted or not; the connection stays listed, other users' tokens are read, and so is this one when the ban is over.
    """
    hers, his = alice.connects(store).id, bob.connects(store).id
    made = partner(store, reach=reach)
    for connection in (hers, his):
        made.consented(database, connection)
    rows(database, statement, alice.id)

    for counted in (True, False):
        with pytest.raises(Frozen):
            read_token(store, made.caller(), hers, min_seconds=0, counted=counted)
        assert read_token(store, made.caller(), his, min_seconds=0, counted=counted) is not None
    assert reached_connection(store, made.caller(), hers) is not None
    rows(database, "update auth.users set banned_until = now() - interval '1 second', deleted_at = null")
    assert read_token(store, made.caller(), hers, min_seconds=0) is not None


def test_a_token_read_without_user_and_key_answers_nothing(database, store, alice):
    """
    The gateway's own reads have a function of another name, so that a forgotten argument opens nothing.
    """
    hers = alice.connects(store).id

    for empty in (None, "{}", '{"key_hash": ""}', f'{{"user_id": "{uuid.uuid4()}"}}'):
        (answer,) = rows(database, "select public.gateway_read_token_v1(%s, %s, 0)", hers, empty)
        assert answer in (None, {"refused": "unauthenticated"})


def test_a_partner_that_leaves_alone_takes_its_connection_along(database, store, alice):
    """
    Made for it and not shared: erased, and its grant queued; recorded with the partner.
    """
    own = partner(store, reach="own")
    here = alice.connects(store).id
    own.consented(database, here, made=True)
    assert not find_uninstall_target(store, connection_id=here, session_hash=None, caller=own.caller()).kept

    erased = erase_own_connection(store, connection_id=here, caller=own.caller())

    assert (here, False) == (erased.connection_id, erased.kept)
    assert erased.revocation
    assert find_connection(store, session_hash=alice.session, connection_id=here) is None
    assert [own.id] == rows(database, "select partner_id from gateway.event where type = 'connection.disconnected'")
    assert [True] == rows(database, "select ended_at is not null from gateway.consent")
    assert erase_own_connection(store, connection_id=here, caller=own.caller()) is None


@pytest.mark.parametrize("why", ["others were let in", "it stood before"])
def test_a_partner_that_leaves_others_behind_ends_its_own_reach_alone(database, store, alice, why):
    """
    Nothing is revoked; the others and the owner go on, the partner finds nothing any more. The last one that it was made for takes it.
    """
    first, second = partner(store, reach="own"), partner(store, reach="own")
    here = alice.connects(store).id
    first.consented(database, here, made=why == "others were let in")
    if why == "others were let in":
        second.consented(database, here)
    assert find_uninstall_target(store, connection_id=here, session_hash=None, caller=first.caller()).kept

    left = erase_own_connection(store, connection_id=here, caller=first.caller())

    assert (here, True, None) == (left.connection_id, left.kept, left.revocation)
    assert not knows(store, first, here)
    assert knows(store, second, here) is (why == "others were let in")
    assert find_connection(store, session_hash=alice.session, connection_id=here)
    assert 1 == len(events(database, "consent.ended", partner_id=first.id, connection_id=here))
    assert [0] == rows(database, "select count(*) from gateway.revocation")


def test_the_owner_and_the_products_own_back_end_always_erase(database, store, alice, bob):
    """
    Even if other partners use it; with the row every access ends.
    """
    own, every = partner(store, reach="own"), partner(store)
    hers, his = alice.connects(store).id, bob.connects(store).id
    for connection in (hers, his):
        own.consented(database, connection, made=True)

    assert not erase_own_connection(store, connection_id=hers, caller=Caller(user_id=alice.id)).kept
    assert not erase_own_connection(store, connection_id=his, caller=every.caller()).kept
    assert [True, True] == rows(database, "select ended_at is not null from gateway.consent")
    assert [None, every.id] == rows(
        database, "select partner_id from gateway.event where type = 'connection.disconnected' order by at"
    )


def test_a_partner_that_was_revoked_keeps_nothing_alive(database, store, alice):
    """
    A revoked partner does not count as another user of the connection.
    """
    first, second = partner(store, reach="own"), partner(store, reach="own")
    here = alice.connects(store).id
    first.consented(database, here, made=True)
    second.consented(database, here)
    queries.revoke(store, second.name)

    assert not erase_own_connection(store, connection_id=here, caller=first.caller()).kept


# -- checking --------------------------------------------------------------------------------------------------------


def test_a_connection_is_checked_once_a_minute(database, store, alice, bob):
    """
    By whomever; another's is like none and counts for nothing.
    """
    every, own = partner(store), partner(store, reach="own")
    here = alice.connects(store).id

    assert (None, None) == (
        reached_connection(store, own.caller(), here, check=True),
        reached_connection(store, Caller(user_id=bob.id), here, check=True),
    )
    assert {"locationId": "alice-location"} == reached_connection(store, every.caller(), here, check=True).facts
    for caller in (every.caller(), Caller(user_id=alice.id)):
        with pytest.raises(RateLimited) as refused:
            reached_connection(store, caller, here, check=True)
        assert 1 <= refused.value.retry_after <= 60
    rows(database, "update gateway.connection set checked_at = checked_at - interval '1 minute'")
    assert here == reached_connection(store, Caller(user_id=alice.id), here, check=True).id


def test_what_a_check_finds_is_told_and_marks_the_generation_that_was_asked_about(database, store, alice):
    """
    A newer grant is not touched by what was said of the one before.
    """
    every = partner(store)
    here = alice.connects(store).id
    ends = {"generation": 1, "outcome": "another_account"}
    rows(database, "update gateway.connection set generation = 2")
    assert "active" == end_check(store, every.caller(), here, **ends).status
    rows(database, "update gateway.connection set generation = 1")

    assert "needs_reauthorization" == end_check(store, every.caller(), here, **ends).status
    assert ["needs_reauthorization"] == rows(database, "select data ->> 'status' from public.provider_data")
    assert [{"reason": "another_account"}] == events(database, "connection.needs_reauthorization", connection_id=here)
    assert [{"outcome": "another_account"}] * 2 == events(
        database, "connection.checked", partner_id=every.id, connection_id=here
    )
    assert end_check(store, every.caller(), uuid.uuid4(), **ends) is None
