"""
The store: sessions and attempts to connect, on a real Postgres.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from gateway.database.queries import housekeeping
from gateway.database.queries.events import append_event
from gateway.errors import Unauthenticated, Unexpected
from gateway.models import Caller
from tests.support.database import Person, in_an_hour, rows

REFRESH = "sealed-refresh-of-alice"


def starts(store, who, state="state", **changes):
    given = {
        "session_hash": who.session,
        "state_hash": state,
        "browser_hash": "browser",
        "provider": "ghl",
        "sealed": "sealed",
        "scope": ("contacts.readonly", "users.readonly"),
        "return_to": "https://app.example/done",
        "display": "popup",
    }
    return store.start_authorization(**(given | changes))


# -- sessions --------------------------------------------------------------------------------------------------------


def test_a_session_says_who_is_signed_in(store, alice, bob):
    """
    Each its own user, with the label that was given.
    """
    assert [alice.id, bob.id] == [store.session(who.session).user.id for who in (alice, bob)]
    assert "alice" == store.session(alice.session).user.label
    assert timedelta(minutes=59) < store.session(alice.session).expires_at - datetime.now(UTC) < timedelta(minutes=61)


@pytest.mark.parametrize("session_hash", ["", "no such", "session-%", None])
def test_an_unknown_session_is_nobody(store, alice, session_hash):
    """
    Whatever is asked with it.
    """
    assert (None, None) == (store.session(session_hash), store.connections(session_hash))
    assert store.disconnect(session_hash=session_hash, connection_id=uuid.uuid4()) is None


def test_an_ended_session_is_over_at_once(store, alice):
    """
    And ending it again says that there was none.
    """
    assert [True, False] == [store.end_session(alice.session), store.end_session(alice.session)]
    assert store.session(alice.session) is None


def test_a_session_hash_is_never_handed_to_another(store, alice):
    """
    Opening under a hash that stands fails and leaves the session where it was.
    """
    with pytest.raises(Unexpected) as refused:
        Person("mallory").signs_in(store, session_hash=alice.session)

    assert alice.session not in str(refused.value)
    assert alice.id == store.session(alice.session).user.id


@pytest.mark.parametrize(
    "fate",
    [
        "update gateway.session set expires_at = now()",
        "update auth.users set banned_until = now() + interval '1 hour'",
        "update auth.users set deleted_at = now()",
        "delete from auth.users",
    ],
)
def test_no_door_opens_for_who_is_expired_banned_or_deleted(database, store, alice, fate):
    """
    Every function that takes a session asks the same question first.
    """
    standing = alice.connects(store)
    starts(store, alice, state="earlier")
    rows(database, fate)

    assert store.session(alice.session) is None
    assert store.connections(alice.session) is None
    assert store.connection(session_hash=alice.session, connection_id=standing.id) is None
    assert store.disconnect(session_hash=alice.session, connection_id=standing.id) is None
    assert starts(store, alice, state="later") is None
    taken = store.take_authorization(state_hash="earlier", session_hash=alice.session)
    assert taken is None or taken.session_user_id is None


def test_a_ban_that_is_over_is_over(database, store, alice):
    """
    `banned_until` is a time.
    """
    rows(database, "update auth.users set banned_until = now() - interval '1 second'")
    assert store.session(alice.session) is not None


def test_a_banned_or_deleted_user_gets_no_session_and_no_connection(database, store, alice):
    """
    Whoever proves them, and however far the flow has come.
    """
    fates = (
        "update auth.users set banned_until = now() + interval '1 hour'",
        "update auth.users set banned_until = null, deleted_at = now()",
    )
    for fate in fates:
        rows(database, fate)
        assert alice.signs_in(store, session_hash="again") is None
        assert not store.save_connection(**alice.grant()).saved
        with pytest.raises(Unauthenticated):
            store.reached_connections(Caller(user_id=alice.id))


def test_housekeeping_removes_what_has_expired_and_nothing_else(database, store, alice, bob):
    """
    At most a thousand at a time, so that the transaction stays short; and only one process at a time.
    """
    starts(store, alice)
    stale = "insert into gateway.session select 'old-' || n, %s, 'x', now(), now() - interval '1 day' from generate_series(1, 1500) n"
    rows(database, stale, alice.id)
    with psycopg.connect(database) as other:
        other.execute("select public.gateway_housekeeping_v1(365)")
        assert not housekeeping.run(store, events_days=365)
        other.rollback()

    assert housekeeping.run(store, events_days=365)
    assert [2 + 500] == rows(database, "select count(*) from gateway.session")
    assert housekeeping.run(store, events_days=365)
    assert [2] == rows(database, "select count(*) from gateway.session")
    assert [1] == rows(database, "select count(*) from gateway.authorization_request")


def test_expiry_in_the_past_opens_no_session(store):
    """
    Not one that would be over before it began.
    """
    assert Person("carol").signs_in(store, expires_at=in_an_hour() - timedelta(hours=2)) is None


# -- attempts --------------------------------------------------------------------------------------------------------


def test_an_attempt_is_taken_back_as_it_was_started(store, alice):
    """
    With who started it and who came back.
    """
    assert alice.id == starts(store, alice).user.id
    taken = store.take_authorization(state_hash="state", session_hash=alice.session)

    assert ("ghl", alice.id, "browser", "sealed") == (taken.provider, taken.user_id, taken.browser_hash, taken.sealed)
    assert ("contacts.readonly", "users.readonly") == taken.scope
    assert ("https://app.example/done", "popup") == (taken.return_to, taken.display)
    assert (alice.id, "alice", ()) == (taken.session_user_id, taken.session_label, taken.standing)


@pytest.mark.parametrize("session", ["bob", "nobody", None])
def test_an_attempt_says_when_somebody_else_came_back(store, alice, bob, session):
    """
    Another user, nobody, no cookie at all.
    """
    starts(store, alice)
    taken = store.take_authorization(state_hash="state", session_hash=bob.session if session == "bob" else session)

    assert (alice.id, bob.id if session == "bob" else None) == (taken.user_id, taken.session_user_id)


def test_an_attempt_is_taken_once(store, alice):
    """
    Also by the same caller.
    """
    starts(store, alice)
    assert store.take_authorization(state_hash="state", session_hash=alice.session) is not None
    assert store.take_authorization(state_hash="state", session_hash=alice.session) is None


def test_a_user_has_about_fifty_attempts_open(database, store, alice, bob):
    """
    The oldest are cleared away, by one start in ten; the newest stay, and everybody else's.
    """
    starts(store, bob, state="his")
    rows(
        database,
        "insert into gateway.authorization_request"
        " (state_hash, browser_hash, user_id, provider, sealed, scope, display, created_at, expires_at)"
        " select 'old-' || n, 'b', %s, 'ghl', 's', '{}', 'page', now() - interval '1 minute', now() + interval '9 minutes'"
        " from generate_series(1, 300) n",
        alice.id,
    )
    for number in range(200):
        starts(store, alice, state=f"new-{number}")

    (left,) = rows(database, "select count(*) from gateway.authorization_request where user_id = %s", alice.id)
    assert 50 <= left < 200
    newest = [store.take_authorization(state_hash=f"new-{number}", session_hash=None) for number in range(150, 200)]
    assert None not in newest
    assert store.take_authorization(state_hash="his", session_hash=None) is not None


def test_an_attempt_tells_the_databases_time(database, store, alice):
    """
    As far as is known here, and never ahead of it: what has gone by since is counted, whatever this machine's clock says.
    """
    starts(store, alice)
    taken = store.take_authorization(state_hash="state", session_hash=alice.session)
    rows(database, "select pg_sleep(0.2)")
    told = taken.clock.after(0)
    (shows,) = rows(database, "select clock_timestamp()")

    assert timedelta(0) <= shows - told < timedelta(seconds=2)
    assert timedelta(seconds=0.2) <= told - taken.clock.at
    assert timedelta(seconds=4.9) < taken.clock.after(5) - told < timedelta(seconds=7)


def test_an_attempt_lasts_ten_minutes(database, store, alice):
    """
    By the database's clock; an old one is gone when it is asked for.
    """
    starts(store, alice)
    assert [True] == rows(
        database,
        "select expires_at between now() + interval '9 minutes 50 seconds' and now() + interval '10 minutes'"
        " from gateway.authorization_request",
    )
    rows(database, "update gateway.authorization_request set expires_at = clock_timestamp()")

    assert store.take_authorization(state_hash="state", session_hash=alice.session) is None
    assert [] == rows(database, "select 1 from gateway.authorization_request")


def test_an_attempt_says_what_stands(store, alice, bob):
    """
    The own connection, never another's, nor another provider's.
    """
    bob.connects(store)
    alice.connects(store, provider="google", type=2)
    starts(store, alice, state="first")
    assert () == store.take_authorization(state_hash="first", session_hash=alice.session).standing

    standing = alice.connects(store)
    starts(store, alice, state="second")
    (told,) = store.take_authorization(state_hash="second", session_hash=alice.session).standing
    assert (standing.id, 1, "alice-location", REFRESH) == (
        told.id,
        told.generation,
        told.account_id,
        told.refresh,
    )


def test_an_event_is_appended_as_it_was_told(database, store, alice):
    """
    With whatever of connection, user and provider there is.
    """
    append_event(store, "connect.refused", user_id=alice.id, provider="ghl", data={"error": "browser_mismatch"})
    append_event(store, "gateway.started")

    assert [
        ("connect.refused", None, alice.id, "ghl", {"error": "browser_mismatch"}),
        ("gateway.started", None, None, None, {}),
    ] == rows(database, "select type, connection_id, user_id, provider, data from gateway.event order by at")
