"""
The store: grants that are parked until their user has said what becomes of them, and the queue of what is given back.
"""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from gateway.database.queries import housekeeping
from gateway.errors import DatabaseUnavailable
from gateway.models import Account, ParkedGrant
from tests.support.database import SOON, Person, race, rows

QUEUED = (
    "select connection_id, generation, provider, token, refresh, reason from gateway.revocation order by created_at"
)


def parks(store, who: Person, **changes: Any) -> uuid.UUID:
    given = {
        "parked_id": uuid.uuid4(),
        "user_id": who.id,
        "provider": "ghl",
        "browser_hash": "browser",
        "account": Account("other-location", "Other agency"),
        "scope": ("contacts.readonly",),
        "token": "parked-token",
        "refresh": "parked-refresh",
        "expires_at": SOON,
        "refresh_expires_at": None,
        "facts": {"companyId": "c"},
        "return_to": None,
        "display": "page",
    } | changes
    store.park_grant(**given)
    return given["parked_id"]


def finds(store, who: Person, *, browser_hash: str = "browser", provider: str = "ghl") -> ParkedGrant | None:
    return store.parked_grant(session_hash=who.session, browser_hash=browser_hash, provider=provider)


def test_a_parked_grant_waits_beside_what_stands(store, alice):
    """
    It comes back as it was parked, with the connection that it would replace, which stays untouched.
    """
    standing = alice.connects(store)
    parked_id = parks(store, alice)
    found = finds(store, alice)

    assert (parked_id, alice.id, "alice") == (found.id, found.user.id, found.user.label)
    assert (Account("other-location", "Other agency"), {"companyId": "c"}) == (found.account, found.facts)
    assert ("parked-token", "parked-refresh", SOON) == (found.token, found.refresh, found.expires_at)
    assert [(standing.id, 1)] == [(each.id, each.generation) for each in found.standing]
    assert ["alice-location"] == [each.account.id for each in store.connections(alice.session).connections]


def test_a_grant_is_not_parked_when_nobody_waits_for_it_any_more(database, store, alice):
    """
    By the database's clock, which it tells; the one that was parked before is kept.
    """
    before = parks(store, alice)
    clock = finds(store, alice).clock
    with pytest.raises(DatabaseUnavailable):
        parks(store, alice, not_after=clock.after(-1))

    assert before == finds(store, alice).id
    assert [] == rows(database, QUEUED)
    assert parks(store, alice, not_after=clock.after(60)) == finds(store, alice).id


def test_an_answer_that_nobody_waits_for_any_more_leaves_the_question(database, store, alice):
    """
    It may be answered again, and the grant was neither saved nor queued.
    """
    standing, parked_id = alice.connects(store), parks(store, alice)
    late = finds(store, alice).clock.after(-1)
    with pytest.raises(DatabaseUnavailable):
        store.save_connection(
            **alice.grant(connection_id=standing.id, generation=2, parked_id=parked_id, not_after=late)
        )

    assert parked_id == finds(store, alice).id
    assert [] == rows(database, QUEUED)


def test_it_waits_for_its_user_in_its_browser_alone(store, alice, bob):
    """
    Another user, another browser and another provider find nothing.
    """
    parks(store, alice)
    assert [None, None, None] == [
        finds(store, bob),
        finds(store, alice, browser_hash="another"),
        finds(store, alice, provider="google"),
    ]


def test_a_newer_parked_grant_gives_the_older_one_back(database, store, alice, bob):
    """
    One question at a time for each user and provider; nobody else's is touched.
    """
    first, his = parks(store, alice), parks(store, bob)
    second = parks(store, alice, token="second")

    assert [second, his] == [finds(store, who).id for who in (alice, bob)]
    assert [(first, 1, "ghl", "parked-token", "parked-refresh", "not_confirmed")] == rows(database, QUEUED)


def test_a_refused_grant_is_taken_once_and_queued(database, store, alice):
    """
    The first no gets it, to give it back at once; a second finds nothing.
    """
    parked_id = parks(store, alice)
    refused = store.refuse_parked_grant(parked_id)

    assert (parked_id, 1, "parked-token") == (refused.connection_id, refused.generation, refused.token)
    assert store.refuse_parked_grant(parked_id) is None
    assert [parked_id] == rows(database, "select connection_id from gateway.revocation")


def test_an_accepted_grant_is_saved_and_not_given_back(database, store, alice):
    """
    The save uses it up in the same transaction.
    """
    standing, parked_id = alice.connects(store), parks(store, alice)
    saved = store.save_connection(**alice.grant(connection_id=standing.id, generation=2), parked_id=parked_id)

    assert saved.saved
    assert ([], None) == (rows(database, QUEUED), finds(store, alice))
    again = store.save_connection(**alice.grant(connection_id=standing.id, generation=3), parked_id=parked_id)
    assert (False, 2) == (again.saved, again.standing.generation)


def test_a_save_that_does_not_fit_leaves_it_parked(database, store, alice, bob):
    """
    The caller seals again and repeats; another user's is not used up either.
    """
    standing, parked_id = alice.connects(store), parks(store, alice)

    assert not store.save_connection(**alice.grant(connection_id=standing.id, generation=7), parked_id=parked_id).saved
    assert not store.save_connection(**bob.grant(), parked_id=parked_id).saved
    assert parked_id == finds(store, alice).id
    assert [] == rows(database, QUEUED)


def test_silence_is_a_no(database, store, alice):
    """
    After ten minutes nothing can be accepted, and within a minute it waits to be revoked.
    """
    standing, parked_id = alice.connects(store), parks(store, alice)
    rows(database, "update gateway.parked_grant set parked_until = clock_timestamp()")

    assert finds(store, alice) is None
    late = alice.grant(connection_id=standing.id, generation=2)
    assert not store.save_connection(**late, parked_id=parked_id).saved
    assert housekeeping.run(store, events_days=365)
    assert parked_id == store.claim_revocation().connection_id


@pytest.mark.parametrize("fate", ["delete from auth.users", "truncate auth.users cascade"])
def test_a_parked_grant_goes_with_its_user_and_is_given_back(database, store, alice, fate):
    """
    Like one that stands.
    """
    parked_id = parks(store, alice)
    rows(database, fate)

    assert [parked_id] == rows(database, "select connection_id from gateway.revocation")


def test_a_claim_is_nobody_elses_for_a_while(database, store, alice):
    """
    What is due, the oldest first; what is not due yet, or claimed, is left.
    """
    for n in (1, 2, 3):
        store.queue_revocation(
            connection_id=alice.id, generation=n, provider="ghl", token=f"t{n}", refresh=None, reason="not_stored"
        )
    assert store.claim_revocation() is None
    rows(
        database,
        "update gateway.revocation set due_at = clock_timestamp() - generation * interval '1 second' where generation < 3",
    )

    assert ["t2", "t1", None] == [claimed and claimed.token for claimed in (store.claim_revocation() for _ in range(3))]
    rows(database, "update gateway.revocation set due_at = due_at - interval '2 minutes' where generation < 3")
    assert "t2" == store.claim_revocation().token


def test_what_cannot_be_given_back_is_told_of_and_let_go(database, store, alice):
    """
    After 72 hours.
    """
    store.queue_revocation(connection_id=alice.id, generation=1, provider="ghl", token="t", refresh=None, reason="x")
    rows(database, "update gateway.revocation set due_at = now(), created_at = now() - interval '73 hours'")

    assert housekeeping.run(store, events_days=365)
    assert store.claim_revocation() is None
    assert [(alice.id, "ghl")] == rows(
        database, "select connection_id, provider from gateway.event where type = 'grant.revocation_abandoned'"
    )


def test_six_workers_claim_six_different_grants(database, store, alice):
    """
    At the same moment.
    """
    for n in range(6):
        store.queue_revocation(
            connection_id=uuid.uuid4(), generation=1, provider="ghl", token=f"t{n}", refresh=None, reason="x"
        )
    rows(database, "update gateway.revocation set due_at = clock_timestamp()")
    claimed = race(database, "found = store.claim_revocation(); said = found and found.token", [[]] * 6)

    # Whoever finds every row locked by the others goes home with nothing, and comes back later.
    assert len(set(filter(None, claimed))) == len(list(filter(None, claimed))) >= 1


def test_one_of_two_answers_to_a_question_counts(database, store, alice):
    """
    Yes in one tab and no in another, at the same moment: saved or given back, never both, never neither.
    """
    standing, parked_id = alice.connects(store), parks(store, alice)
    script = """
alice, standing, parked = Person("alice", id=uuid.UUID(argv[1])), uuid.UUID(argv[2]), uuid.UUID(argv[3])
if argv[0] == "yes":
    said = store.save_connection(**alice.grant(connection_id=standing, generation=2), parked_id=parked).saved
else:
    said = store.refuse_parked_grant(parked) is not None
"""
    ids = [str(alice.id), str(standing.id), str(parked_id)]
    accepted, refused = race(database, script, [["yes", *ids], ["no", *ids]])

    assert accepted is not refused
    assert [int(refused)] == rows(database, "select count(*) from gateway.revocation")
