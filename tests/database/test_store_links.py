"""
Links of partners, pending grants, and consents, over each backend.
"""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from gateway.database.queries.connect import (
    Choice,
    complete_link,
    create_connect_session,
    end_consent,
    find_link,
    start_authorization,
)
from gateway.database.queries.connections import list_connections, reached_connection, reached_connections
from gateway.database.queries.operator import housekeeping
from gateway.database.queries.tokens import read_token
from gateway.errors import Forbidden, Frozen, PendingConfirmation, Unauthenticated
from gateway.models import Caller
from tests.support.database import Person, rows
from tests.support.partners import Partner as Key
from tests.support.partners import partner


@pytest.fixture
def alice(store) -> Person:
    person = Person("alice@northwind.example")
    person.signs_in(store)
    return person


@pytest.fixture
def acme(store) -> Key:
    return partner(store, reach="own")


def makes(store, who: Key, whose: Person, **changes: Any) -> Any:
    given = {
        "secret_hash": "secret",
        "user_id": whose.id,
        "provider": "ghl",
        "scope": ("extra",),
        "return_to": "r",
        "tags": {},
    }
    return create_connect_session(store, who.caller(), **(given | changes))


def looks(store, session: str = "", secret: str = "secret") -> Any:
    return find_link(store, secret_hash=secret, session_hash=session)


def starts(store, session: str = "", **changes: Any) -> Any:
    given = {
        "link_hash": "secret",
        "session_hash": session,
        "state_hash": "state",
        "browser_hash": "b",
        "encrypted": "s",
    }
    return start_authorization(store, **(given | {"scope": ("a", "extra")} | changes))


def completes(
    store, who: Key, link: Any, user_id: uuid.UUID, confirmation: str = "confirmation", choice: Choice | None = None
) -> Any:
    return complete_link(
        store,
        who.caller(),
        connect_session_id=link.id,
        user_id=user_id,
        confirmation_hash=confirmation,
        choice=choice,
    )


def test_a_link_says_what_it_is_for_and_is_started_once(store, alice, acme):
    """
    With and without its user's session; the attempt has the link's values.
    """
    link = makes(store, acme, alice)
    alice.connects(store)
    for session, who in (("", None), (alice.session, alice.id)):
        seen = looks(store, session)
        assert (link.id, "ghl", "r", alice.id, acme.name) == (
            seen.id,
            seen.provider,
            seen.return_to,
            seen.user_id,
            seen.partner,
        )
        assert (("extra",), who, "own") == (seen.scope, seen.session_user_id, seen.partner_reach)
        facts = {"locationId": "alice@northwind.example-location"}
        hers = (("contacts.readonly",), ("alice@northwind.example's agency", "active", facts))
        assert (alice.label, hers if who else ((), None)) == (seen.user_label, (seen.scope_of_others, seen.existing))

    assert [("a", "extra"), None, None] == [starts(store), starts(store, state_hash="again"), looks(store)]
    taken = alice.returns(store, browser_hash="b", session_hash="")
    assert (link.id, ("a", "extra"), "r", False) == (
        taken.connect_session_id,
        taken.scope,
        taken.return_to,
        taken.is_signed_in,
    )


def test_of_two_starts_at_the_same_moment_one_counts(database, store, alice, acme):
    """
    Both have seen that it was not started yet, and wait for the same row.
    """
    makes(store, acme, alice)
    waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    with psycopg.connect(database) as holder, ThreadPoolExecutor(2) as pressing:
        holder.execute("select 1 from gateway.connect_session for update")
        pressed = [pressing.submit(starts, store, state_hash=f"state-{number}") for number in (1, 2)]
        while rows(database, waiting) != [2]:
            assert not any(each.done() for each in pressed)
        holder.rollback()

    assert {None, ("a", "extra")} == {each.result() for each in pressed}
    assert [1] == rows(database, "select count(*) from gateway.authorization_request")


def test_who_may_start_is_judged_before_it_is_used_up(store, alice, acme):
    """
    Another user, and no user where the link has no return address; afterwards its user can still start it.
    """
    bob = Person("bob")
    bob.signs_in(store)
    makes(store, acme, alice, return_to=None)

    said = [starts(store, bob.session), starts(store), starts(store, alice.session)]

    assert ["user_mismatch", "unauthenticated", ("a", "extra")] == said


def test_a_key_is_judged_in_the_same_call(database, store, alice, acme):
    """
    Unknown, without the scope, frozen; and a provider that is not the partner's is like none.
    """
    reader, elsewhere = partner(store, scope=["tokens:read"]), partner(store, providers=["google"])
    unknown = Caller(key_hash="0" * 64)

    with pytest.raises(Unauthenticated):
        create_connect_session(
            store, unknown, secret_hash="s", user_id=alice.id, provider="ghl", scope=(), return_to=None, tags={}
        )
    with pytest.raises(Forbidden):
        makes(store, reader, alice)
    assert makes(store, elsewhere, alice) is None
    makes(store, acme, alice)
    rows(database, "update gateway.partner set frozen_at = now() where id = %s", acme.id)
    for call in (lambda: makes(store, acme, alice, secret_hash="s"), lambda: looks(store), lambda: starts(store)):
        with pytest.raises(Frozen):
            call()


def test_on_supabase_a_link_is_for_a_user_there_is(database, store, acme):
    """
    On plain Postgres the named user is inserted.
    """
    somebody = Person("carol")
    assert makes(store, acme, somebody)

    rows(database, "comment on table auth.users is null")
    assert makes(store, acme, Person("dave"), secret_hash="other") is None


def waits(store, who: Key, whose: Person, **changes: Any) -> tuple[Any, uuid.UUID]:
    link = makes(store, who, whose)
    assert whose.saves(store, connect_session_id=link.id, confirmation_hash="confirmation", **changes) is None
    (waiting,) = reached_connections(
        store,
        who.caller(),
        of_user=whose.id,
        wanted={"status": "pending_confirmation"},
        most=2,
    )
    return link, waiting.id


def test_what_waits_is_its_partners_to_see_and_not_to_use(store, alice, acme):
    """
    Listed as what it is going to be; no question for its user, and none of theirs is displaced.
    """
    alice.connects(store)
    question = alice.waits(store).id
    _, waiting = waits(store, acme, alice)

    shown = reached_connection(store, acme.caller(), waiting)
    assert ("pending_confirmation", alice.id, "") == (shown.status, shown.user_id, shown.account.label)
    narrow = {"of_user": alice.id, "provider": "ghl", "wanted": {"type": 1, "status": None}, "most": 1}
    assert (shown,) == reached_connections(store, acme.caller(), after=None, **narrow)
    assert () == reached_connections(store, acme.caller(), after=waiting, **narrow)
    with pytest.raises(PendingConfirmation):
        read_token(store, acme.caller(), waiting, min_seconds=60, counted=False)
    assert question == alice.pending(store).id
    assert reached_connection(store, partner(store).caller(), waiting) is None


def test_a_completion_saves_the_pending_grant_and_can_be_repeated(store, alice, acme):
    """
    Under the id that was waiting, with the owner's consent in the same transaction; wrong words afterwards get nothing.
    """
    link, waiting = waits(store, acme, alice)
    saved, again = (completes(store, acme, link, alice.id) for _ in range(2))

    assert ("saved", waiting, "active") == (saved.ending, saved.connection.id, saved.connection.status)
    assert saved == again
    wrong = [
        completes(store, acme, link, uuid.uuid4()),
        completes(store, acme, link, alice.id, "x"),
        completes(store, acme, link, alice.id, choice="no"),
    ]
    assert [("state_invalid", None)] * 3 == [(each.ending, each.connection) for each in wrong]
    assert waiting == reached_connection(store, acme.caller(), waiting).id
    assert {waiting: ((acme.id, acme.name, True),)} == list_connections(store, alice.session).sharing


def test_a_completion_over_another_account_needs_a_choice(database, store, alice, acme):
    """
    Asking for one uses nothing up; a no revokes what waits and leaves the connection.
    """
    made = alice.connects(store, account_id="before")
    link, _ = waits(store, acme, alice)
    for choice in (None, None):
        with pytest.raises(PendingConfirmation):
            completes(store, acme, link, alice.id, choice=choice)
    assert "one_account" == completes(store, acme, link, alice.id, choice="both").ending
    refused = completes(store, acme, link, alice.id, choice="no")

    assert ("access_denied", alice.id) == (refused.ending, refused.revocation.user_id)
    assert [(made.id, "before")] == [(each.id, each.account.id) for each in alice.listed(store)]
    assert ["not_confirmed"] == rows(database, "select reason from gateway.revocation")


@pytest.mark.parametrize(
    ("whose", "confirmation", "ending"), [("bob", "confirmation", "user_mismatch"), ("alice", "x", "state_invalid")]
)
def test_a_wrong_confirmation_deletes_the_grant_once(database, store, alice, acme, whose, confirmation, ending):
    """
    Into the queue, in the same transaction, with an event that says why.
    """
    link, waiting = waits(store, acme, alice)
    wrong = completes(store, acme, link, alice.id if whose == "alice" else uuid.uuid4(), confirmation)

    assert (ending, "gAAAA-token-of-alice@northwind.example") == (wrong.ending, wrong.revocation.token)
    assert reached_connection(store, acme.caller(), waiting) is None
    assert ("state_invalid", None) == ((late := completes(store, acme, link, alice.id)).ending, late.revocation)
    assert [(acme.id, ending)] == rows(
        database, "select partner_id, data ->> 'error' from gateway.event where type = 'link.refused'"
    )


def test_anothers_session_is_none(store, alice, acme):
    """
    Whatever is known of it.
    """
    link, _ = waits(store, acme, alice)

    assert completes(store, partner(store), link, alice.id) is None
    assert "saved" == completes(store, acme, link, alice.id).ending


def test_a_consent_ends_once_and_for_its_owner_alone(database, store, alice, acme):
    """
    The partner reaches it no longer; the connection stays.
    """
    link = makes(store, acme, alice)
    made = alice.connects(store, connect_session_id=link.id).id
    bob = Person("bob")
    bob.signs_in(store)

    def ends(who: Person) -> Any:
        ended = end_consent(store, session_hash=who.session, connection_id=made, partner_id=acme.id)
        return ended and (ended.provider, ended.kept)

    assert [None, ("ghl", True), None] == [ends(bob), ends(alice), ends(alice)]
    assert reached_connection(store, acme.caller(), made) is None
    assert {made: ()} == list_connections(store, alice.session).sharing
    assert [acme.id] == rows(database, "select partner_id from gateway.event where type = 'consent.ended'")


def test_old_links_are_cleared_away(database, store, alice, acme):
    """
    An hour after their end, by the worker.
    """
    old = makes(store, acme, alice)
    rows(database, "update gateway.connect_session set expires_at = now() - interval '61 minutes'")
    assert housekeeping(store, events_days=365)

    assert [] == rows(database, "select 1 from gateway.connect_session where id = %s", old.id)
