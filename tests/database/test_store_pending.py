"""
The database: grants that are pending until their user has decided, and the queue of revocations.
"""

from __future__ import annotations

import uuid

import pytest

from gateway.database.postgres import answered_by
from gateway.database.queries.connections import claim_revocations
from gateway.database.queries.operator import housekeeping
from gateway.errors import DatabaseUnavailable, PendingConfirmation
from gateway.models import Account
from tests.support.database import queue, race, rows

QUEUED = "select token, refresh, provider, user_id, reason from gateway.revocation order by created_at"
REFUSED = ("gAAAA-token-of-alice", "gAAAA-refresh-of-alice", "ghl")


def test_a_pending_grant_waits_beside_the_connection(store, alice):
    """
    The confirm page shows both accounts; the connection stays untouched.
    """
    alice.connects(store)
    found = alice.waits(store, display="popup", return_to="https://app.example")

    assert (alice.id, "alice", Account("other-location", "Other agency")) == (
        found.user.id,
        found.user.label,
        found.account,
    )
    assert ("alice's agency", "popup", "https://app.example") == (found.existing_label, found.display, found.return_to)
    assert ["alice-location"] == [each.account.id for each in alice.listed(store)]


def test_a_grant_is_not_kept_after_its_deadline(database, store, alice):
    """
    By the database's clock; the one that was pending before is kept.
    """
    alice.connects(store)
    before = alice.waits(store)
    with pytest.raises(DatabaseUnavailable):
        alice.saves(store, account_id="third", not_after=answered_by(before.clock, -1))

    assert before.id == alice.pending(store).id
    assert [] == rows(database, QUEUED)


def test_a_decision_after_its_deadline_leaves_the_question(database, store, alice):
    """
    It may be decided again, and the grant was neither saved nor queued.
    """
    alice.connects(store)
    waiting = alice.waits(store)
    for choice in ("replace", "no"):
        with pytest.raises(DatabaseUnavailable):
            alice.decides(store, waiting, choice, not_after=answered_by(waiting.clock, -1))

    assert waiting.id == alice.pending(store).id
    assert [] == rows(database, QUEUED)


def test_it_waits_for_its_user_in_its_browser_alone(store, alice, bob):
    """
    Another user, another browser and another provider find nothing.
    """
    alice.connects(store)
    alice.waits(store)
    assert [None, None, None] == [
        bob.pending(store),
        alice.pending(store, browser_hash="another"),
        alice.pending(store, provider="google"),
    ]


def test_a_newer_pending_grant_revokes_the_older_one(database, store, alice, bob):
    """
    One question at a time for each user and provider; another user's is not touched.
    """
    for who in (alice, bob):
        who.connects(store)
    his = bob.waits(store)
    first, second = alice.waits(store), alice.waits(store, token="second")

    assert (True, his.id) == (first.id != second.id, bob.pending(store).id)
    assert [(*REFUSED, alice.id, "not_confirmed")] == rows(database, QUEUED)


def test_a_refused_grant_is_taken_once_and_queued(database, store, alice):
    """
    The first no gets it, to revoke it at once; a second finds nothing.
    """
    alice.connects(store)
    waiting = alice.waits(store)
    refused = alice.decides(store, waiting, "no")

    assert ("access_denied", *REFUSED) == (
        refused.ending,
        refused.revocation.token,
        refused.revocation.refresh,
        refused.revocation.provider,
    )
    assert "state_invalid" == alice.decides(store, waiting, "no").ending
    assert 1 == len(rows(database, QUEUED))


def test_an_accepted_grant_is_saved_and_not_revoked(database, store, alice):
    """
    The decision uses it up in the same transaction; only the account that it replaces is queued.
    """
    made = alice.connects(store)
    waiting = alice.waits(store, token="new")
    decided = alice.decides(store, waiting, "replace")

    assert ("saved", made.id, 2, "other-location") == (
        decided.ending,
        decided.connection.id,
        decided.connection.generation,
        decided.connection.account.id,
    )
    assert [(*REFUSED, alice.id, "superseded")] == rows(database, QUEUED)
    assert alice.pending(store) is None
    assert "state_invalid" == alice.decides(store, waiting, "replace").ending


def test_a_repeated_decision_is_recognised_by_its_call(store, alice):
    """
    The response to the first call was lost; another call finds that it was decided before.
    """
    alice.connects(store)
    waiting, call_id = alice.waits(store), uuid.uuid4()
    first, again = (alice.decides(store, waiting, "replace", call_id=call_id) for _ in range(2))

    assert first == again
    assert "state_invalid" == alice.decides(store, waiting, "replace").ending


def test_what_cannot_be_decided_leaves_it_pending(database, store, alice, bob):
    """
    Both where a user has one connection, another user's, and a connection that would lose scopes unasked.
    """
    alice.connects(store)
    waiting = alice.waits(store)
    assert "one_account" == alice.decides(store, waiting, "both").ending
    assert "state_invalid" == alice.decides(store, waiting, "replace", user_id=bob.id).ending
    assert waiting.id == alice.pending(store).id
    assert [] == rows(database, QUEUED)

    google = {"provider": "google", "type": 2, "many_accounts": True}
    alice.connects(store, scope=("a", "b"), **google)
    assert alice.saves(store, scope=("a",), connect_session_id=uuid.uuid4(), requested_scope=("a",), **google) is None
    narrower = alice.pending(store, provider="google")
    with pytest.raises(PendingConfirmation):
        alice.decides(store, narrower, "both")
    assert ("a",) == alice.decides(store, narrower, "replace").connection.scope


def test_both_accounts_are_kept_where_many_are_allowed(store, alice):
    """
    Under an id of its own.
    """
    first = alice.connects(store, many_accounts=True)
    second = alice.decides(store, alice.waits(store, many_accounts=True), "both").connection
    assert [first.id, second.id] == [each.id for each in alice.listed(store)]


def test_silence_is_a_no(database, store, alice):
    """
    After ten minutes nothing can be accepted, and housekeeping puts it into the queue.
    """
    alice.connects(store)
    waiting = alice.waits(store)
    rows(database, "update gateway.pending_grant set pending_until = clock_timestamp()")

    assert alice.pending(store) is None
    assert "state_invalid" == alice.decides(store, waiting, "replace").ending
    housekeeping(store, events_days=365)
    assert [(*REFUSED, alice.id, "not_confirmed")] == rows(database, QUEUED)


def test_a_pending_grant_goes_with_its_user_and_is_revoked(database, store, alice):
    """
    Like a connection's.
    """
    alice.connects(store, token="connected")
    alice.waits(store, token="pending")
    rows(database, "delete from auth.users")

    assert {("connected", "erased"), ("pending", "not_confirmed")} == set(
        rows(database, "select token, reason from gateway.revocation")
    )


def test_a_claim_excludes_other_claims_for_a_while(database, store, alice):
    """
    What is due, the oldest first; what is not due yet, or claimed, is left.
    """
    for n in (1, 2, 3):
        queue(store, f"t{n}", seal_id=uuid.UUID(int=n))
    assert next(iter(claim_revocations(store)), None) is None
    rows(
        database,
        "update gateway.revocation set due_at = clock_timestamp() - right(token, 1)::int * interval '1 second' where token < 't3'",
    )

    assert ["t2", "t1", None] == [
        claimed and claimed.token for claimed in (next(iter(claim_revocations(store)), None) for _ in range(3))
    ]
    rows(database, "update gateway.revocation set due_at = due_at - interval '2 minutes' where token < 't3'")
    assert "t2" == next(iter(claim_revocations(store)), None).token


def test_what_cannot_be_revoked_is_reported_and_dropped(database, store, alice):
    """
    After 72 hours.
    """
    queue(store, "t")
    rows(database, "update gateway.revocation set due_at = now(), created_at = now() - interval '73 hours'")

    housekeeping(store, events_days=365)
    assert next(iter(claim_revocations(store)), None) is None
    assert ["ghl"] == rows(database, "select provider from gateway.event where type = 'grant.revocation_abandoned'")


def test_six_workers_claim_six_different_grants(database, store, alice):
    """
    At the same moment.
    """
    for n in range(6):
        queue(store, f"t{n}")
    rows(database, "update gateway.revocation set due_at = clock_timestamp()")
    claimed = race(
        database, "found = next(iter(claim_revocations(store)), None); said = found and found.token", [[]] * 6
    )

    # A worker that finds every row locked by the others ends with nothing, and looks again later.
    assert len(set(filter(None, claimed))) == len(list(filter(None, claimed))) >= 1


def test_one_of_two_answers_to_a_question_counts(database, store, alice):
    """
    Yes in one tab and no in another, at the same moment: saved or revoked, never both, never neither.
    """
    alice.connects(store)
    waiting = alice.waits(store)
    script = """
from gateway.database.queries.connect import decide_pending_grant
decided = decide_pending_grant(store, pending_id=uuid.UUID(argv[2]), user_id=uuid.UUID(argv[1]), choice=argv[0],
                               call_id=uuid.uuid4(), not_after=None)
said = decided.ending in ("saved", "access_denied")
"""
    ids = [str(alice.id), str(waiting.id)]
    accepted, refused = race(database, script, [["replace", *ids], ["no", *ids]])

    assert accepted is not refused
    assert [("superseded" if accepted else "not_confirmed")] == rows(database, "select reason from gateway.revocation")
