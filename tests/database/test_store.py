"""
The store: sessions and attempts to connect, on a real Postgres.
"""

from __future__ import annotations

import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from gateway.database.postgres import answered_by
from gateway.database.queries.connect import AuthorizationRequest, EarlierVisit, end_session, read_session
from gateway.database.queries.connections import erase_own_connection, list_connections, reached_connections
from gateway.database.queries.events import append_event
from gateway.database.queries.operator import housekeeping
from gateway.errors import FlowRefused, Unauthenticated, Unexpected, UserMismatch
from gateway.models import Caller
from tests.support.database import Person, find_connection, in_an_hour, rows

SCOPE = ("contacts.readonly", "users.readonly")


# -- sessions --------------------------------------------------------------------------------------------------------


def test_a_session_says_who_is_signed_in(store, alice, bob):
    """
    Each its own user, with the label that was given.
    """
    assert [alice.id, bob.id] == [read_session(store, who.session).user.id for who in (alice, bob)]
    assert "alice" == read_session(store, alice.session).user.label
    assert (
        timedelta(minutes=59)
        < read_session(store, alice.session).expires_at - datetime.now(UTC)
        < timedelta(minutes=61)
    )


@pytest.mark.parametrize("session_hash", ["", "no such", "session-%", None])
def test_an_unknown_session_has_no_user(store, alice, session_hash):
    """
    Whatever is asked with it.
    """
    assert (None, None) == (read_session(store, session_hash), list_connections(store, session_hash))
    assert erase_own_connection(store, session_hash=session_hash, connection_id=uuid.uuid4()) is None


def test_an_ended_session_is_over_at_once(store, alice):
    """
    Ending it again says that there was none.
    """
    assert end_session(store, alice.session).user.id == alice.id
    assert end_session(store, alice.session) is None
    assert read_session(store, alice.session) is None


def test_a_session_hash_is_never_handed_to_another(store, alice):
    """
    Opening with an existing hash fails and leaves that session unchanged.
    """
    with pytest.raises(Unexpected) as refused:
        Person("mallory").signs_in(store, session_hash=alice.session)

    assert alice.session not in str(refused.value)
    assert alice.id == read_session(store, alice.session).user.id


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
    alice.starts(store, "earlier")
    rows(database, fate)

    assert read_session(store, alice.session) is None
    assert list_connections(store, alice.session) is None
    assert find_connection(store, session_hash=alice.session, connection_id=standing.id) is None
    assert erase_own_connection(store, session_hash=alice.session, connection_id=standing.id) is None
    assert alice.starts(store, "later") is None
    with suppress(UserMismatch):
        assert alice.returns(store, "earlier") is None


def test_a_ban_that_is_over_is_over(database, store, alice):
    """
    `banned_until` is a time.
    """
    rows(database, "update auth.users set banned_until = now() - interval '1 second'")
    assert read_session(store, alice.session) is not None


def test_a_banned_or_deleted_user_gets_no_session_and_no_connection(database, store, alice):
    """
    Whatever their token, and at every step of the flow.
    """
    fates = (
        "update auth.users set banned_until = now() + interval '1 hour'",
        "update auth.users set banned_until = null, deleted_at = now()",
    )
    for fate in fates:
        rows(database, fate)
        assert alice.signs_in(store, session_hash="again") is None
        with pytest.raises(Unauthenticated):
            alice.connects(store)
        with pytest.raises(Unauthenticated):
            reached_connections(store, Caller(user_id=alice.id))


def test_housekeeping_removes_what_has_expired_and_nothing_else(database, store, alice, bob):
    """
    At most a thousand at a time, so that the transaction stays short; and only one process at a time.
    """
    alice.starts(store)
    stale = "insert into gateway.session select 'old-' || n, %s, 'x', now(), now() - interval '1 day' from generate_series(1, 1500) n"
    rows(database, stale, alice.id)
    with psycopg.connect(database) as other:
        other.execute("select public.gateway_housekeeping_v1(365)")
        assert not housekeeping(store, events_days=365)
        other.rollback()

    assert housekeeping(store, events_days=365)
    assert [2 + 500] == rows(database, "select count(*) from gateway.session")
    assert housekeeping(store, events_days=365)
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
    By the browser and the user that started it.
    """
    assert SCOPE == alice.starts(store, scope=SCOPE, return_to="https://app.example/done", display="popup")
    taken = alice.returns(store)

    assert ("ghl", alice.id, "browser", "encrypted") == (
        taken.provider,
        taken.user_id,
        taken.browser_hash,
        taken.encrypted,
    )
    assert (SCOPE, "https://app.example/done", "popup") == (taken.scope, taken.return_to, taken.display)
    assert (True, False, False, None) == (
        taken.is_signed_in,
        taken.has_connection,
        taken.add_account,
        taken.connect_session_id,
    )


@pytest.mark.parametrize(
    ("session", "browser", "mismatch"),
    [
        ("bob", "browser", "user_mismatch"),
        ("nobody", "browser", "user_mismatch"),
        (None, "browser", "user_mismatch"),
        ("alice", "another", "browser_mismatch"),
        ("bob", "another", "browser_mismatch"),
        (None, "", "browser_mismatch"),
    ],
)
def test_another_browser_or_user_does_not_use_an_attempt_up(database, store, alice, bob, session, browser, mismatch):
    """
    However often they come: the refusal is recorded once, and the right browser and user finish afterwards.
    """
    alice.starts(store)
    session_hash = {"alice": alice.session, "bob": bob.session}.get(session, session)
    for _ in range(3):
        with pytest.raises(FlowRefused) as refused:
            alice.returns(store, browser_hash=browser, session_hash=session_hash)
        assert mismatch == refused.value.slug

    assert [(alice.id, mismatch)] == rows(
        database, "select user_id, data ->> 'error' from gateway.event where type = 'connect.refused'"
    )
    assert alice.returns(store).user_id == alice.id


def test_an_attempt_is_taken_once(store, alice):
    """
    Also by the same caller.
    """
    alice.starts(store)
    assert isinstance(alice.returns(store), AuthorizationRequest)
    assert EarlierVisit() == alice.returns(store)


def test_the_callback_of_another_provider_uses_an_attempt_up(store, alice):
    """
    A code of one provider is never sent to another.
    """
    alice.starts(store)
    assert [None, None] == [alice.returns(store, provider="google"), alice.returns(store)]


def test_a_user_has_about_fifty_attempts_open(database, store, alice, bob):
    """
    The oldest are cleared away, by one start in ten; the newest stay, and everybody else's.
    """
    bob.starts(store, "his")
    rows(
        database,
        "insert into gateway.authorization_request"
        " (state_hash, browser_hash, user_id, provider, encrypted, scope, display, created_at, expires_at)"
        " select 'old-' || n, 'b', %s, 'ghl', 's', '{}', 'page', now() - interval '1 minute', now() + interval '9 minutes'"
        " from generate_series(1, 300) n",
        alice.id,
    )
    for number in range(120):
        alice.starts(store, f"new-{number}")

    (left,) = rows(database, "select count(*) from gateway.authorization_request where user_id = %s", alice.id)
    assert 50 <= left < 300
    newest = [alice.returns(store, f"new-{number}") for number in range(70, 120, 7)]
    assert None not in newest
    assert bob.returns(store, "his") is not None


def test_an_attempt_tells_the_databases_time(database, store, alice):
    """
    As far as is known here, and never ahead of it: what has gone by since is counted, whatever this machine's clock says.
    """
    alice.starts(store)
    began = time.monotonic()
    taken = alice.returns(store)
    rows(database, "select pg_sleep(0.2)")
    told = answered_by(taken.clock, 0)
    later = answered_by(taken.clock, 5)
    (shows,) = rows(database, "select clock_timestamp()")
    took = timedelta(seconds=time.monotonic() - began)

    assert timedelta(0) <= shows - told <= took
    assert timedelta(seconds=0.2) <= told - taken.clock.at
    assert timedelta(seconds=4.9) < later - told <= timedelta(seconds=5) + took


def test_an_attempt_lasts_ten_minutes(database, store, alice):
    """
    By the database's clock.
    """
    alice.starts(store)
    assert [True] == rows(
        database,
        "select expires_at between now() + interval '9 minutes 50 seconds' and now() + interval '10 minutes'"
        " from gateway.authorization_request",
    )
    rows(database, "update gateway.authorization_request set expires_at = clock_timestamp()")

    assert alice.returns(store) is None


def test_an_attempt_says_whether_its_user_is_connected_there(store, alice, bob):
    """
    By the own connection, never another user's, nor another provider's.
    """
    bob.connects(store)
    alice.connects(store, provider="google", type=2)
    alice.starts(store, "first")
    assert not alice.returns(store, "first").has_connection

    alice.connects(store)
    alice.starts(store, "second")
    assert alice.returns(store, "second").has_connection


def test_an_event_is_appended_as_it_was_told(database, store, alice):
    """
    With or without connection, user and provider.
    """
    append_event(store, "connect.refused", user_id=alice.id, provider="ghl", data={"error": "browser_mismatch"})
    append_event(store, "gateway.started")

    assert [
        ("connect.refused", None, alice.id, "ghl", {"error": "browser_mismatch"}),
        ("gateway.started", None, None, None, {}),
    ] == rows(database, "select type, connection_id, user_id, provider, data from gateway.event order by at")
