"""
The store: connections saved by compare-and-set, listed to their user, erased, and what waits to be given back.
"""

from __future__ import annotations

import uuid

import pytest

from gateway.errors import DatabaseUnavailable
from gateway.models import Account, Caller
from tests.support.database import SOON, rows

GRANT = {"token": "sealed-token-of-alice", "refresh": "sealed-refresh-of-alice"}


# -- saving ----------------------------------------------------------------------------------------------------------


def test_a_first_save_makes_profile_row_and_array(database, store, alice):
    """
    One transaction, and `expires` as the documented text, in UTC.
    """
    standing = alice.connects(store, expires_at=SOON.astimezone(tz=None))
    profile = rows(
        database, "select id, user_name, providers from public.user_profile where user_id_auth = %s", alice.id
    )

    assert [(profile[0][0], "alice", [str(standing.id)])] == profile
    assert [(profile[0][0], alice.id, "ghl", 1, *GRANT.values(), "2030-01-02T03:04:05Z", "alice-location")] == rows(
        database,
        "select provider_id_ref, auth_provider_id, name, type, token, refresh, expires, data ->> 'locationId'"
        " from public.provider_data where id = %s",
        standing.id,
    )
    assert ["connection.created"] == rows(database, "select type from gateway.event")


def test_a_save_that_nobody_waits_for_any_more_saves_nothing(database, store, alice):
    """
    By the database's clock: whoever asked was told by then that nothing stands. One in time is saved.
    """
    late, in_time = (
        rows(database, f"select clock_timestamp() + interval '{each}'")[0] for each in ("-1 ms", "1 minute")
    )
    with pytest.raises(DatabaseUnavailable):
        alice.connects(store, not_after=late)
    assert [(0, 0, 0, 0)] == rows(
        database,
        "select (select count(*) from public.provider_data), (select count(*) from public.user_profile),"
        " (select count(*) from gateway.connection), (select count(*) from gateway.event)",
    )

    standing = alice.connects(store, not_after=in_time)
    with pytest.raises(DatabaseUnavailable):
        store.save_connection(
            **alice.grant(connection_id=standing.id, generation=2, token="newer", revoke_old=True, not_after=late)
        )
    assert [(1, GRANT["token"], 0)] == rows(
        database,
        "select c.generation, d.token, (select count(*) from gateway.revocation)"
        " from gateway.connection c join public.provider_data d on d.id = c.id",
    )


def test_a_refused_save_says_what_stands_sealed(store, alice):
    """
    No two seals of anything are the same, so that whoever got no answer knows whether it is their own that stands.
    """
    standing = alice.connects(store)
    refused = store.save_connection(**alice.grant(connection_id=standing.id, token="other"))

    assert (False, standing.id, 1) == (refused.saved, refused.standing.id, refused.standing.generation)
    assert (GRANT["token"], GRANT["refresh"]) == (refused.standing.token, refused.standing.refresh)
    assert "sealed" not in repr(refused)


def test_saving_again_keeps_the_row_and_its_id(database, store, alice):
    """
    The next generation of the same connection; nothing twice.
    """
    first = alice.connects(store)
    again = store.save_connection(
        **alice.grant(connection_id=first.id, generation=2, token="newer", account_label="New")
    )

    assert (True, False, 2) == (again.saved, again.created, again.standing.generation)
    assert [("newer", [str(first.id)])] == rows(
        database,
        "select token, providers from public.provider_data d join public.user_profile p on p.id = d.provider_id_ref",
    )
    assert "New" == store.connection(session_hash=alice.session, connection_id=first.id).account.label
    assert ["connection.created", "connection.reauthorized"] == rows(
        database, "select type from gateway.event order by at"
    )


@pytest.mark.parametrize(
    ("same_id", "generation"), [(True, 0), (True, 1), (True, 3), (True, -1), (False, 1), (False, 2), (False, 3)]
)
def test_only_the_next_generation_of_what_stands_is_saved(database, store, alice, same_id, generation):
    """
    Anything else is told what stands, and changes nothing: a seal fits one id and one generation.
    """
    standing = alice.connects(store)
    before = rows(database, "select * from public.provider_data"), rows(database, "select * from gateway.connection")
    proposed = standing.id if same_id else uuid.uuid4()
    refused = store.save_connection(**alice.grant(connection_id=proposed, generation=generation, token="other"))

    assert (False, False) == (refused.saved, refused.created)
    told = refused.standing
    assert (standing.id, 1, "alice-location", GRANT["refresh"]) == (
        told.id,
        told.generation,
        told.account_id,
        told.refresh,
    )
    assert before == (
        rows(database, "select * from public.provider_data"),
        rows(database, "select * from gateway.connection"),
    )
    assert [1] == rows(database, "select count(*) from gateway.event")


@pytest.mark.parametrize("generation", [0, 2, None])
def test_a_first_generation_is_the_first(database, store, alice, generation):
    """
    Where nothing stands a fresh id is offered, and not so much as a profile is made.
    """
    refused = store.save_connection(**alice.grant(generation=generation))

    assert (False, 0, None) == (refused.saved, refused.standing.generation, refused.standing.account_id)
    assert [] == rows(database, "select 1 from public.user_profile")
    assert store.save_connection(**alice.grant(connection_id=refused.standing.id)).saved


def test_nobody_can_save_over_anothers_row_or_an_erased_one(store, alice, bob):
    """
    An id that is somebody's, or was: refused, with a fresh one.
    """
    hers = alice.connects(store)
    erased = alice.connects(store, provider="google", type=2)
    store.disconnect(session_hash=alice.session, connection_id=erased.id)

    for taken in (hers.id, erased.id):
        refused = store.save_connection(**bob.grant(connection_id=taken))
        assert (False, 0) == (refused.saved, refused.standing.generation)
        assert taken != refused.standing.id
    assert ["alice-location"] == [each.account.id for each in store.connections(alice.session).connections]


def test_a_disconnect_in_between_starts_over_under_a_new_id(store, alice):
    """
    What was sealed for the next generation of an erased connection is not saved as that.
    """
    standing = alice.connects(store)
    store.disconnect(session_hash=alice.session, connection_id=standing.id)
    refused = store.save_connection(**alice.grant(connection_id=standing.id, generation=2))

    assert (False, 0) == (refused.saved, refused.standing.generation)
    assert standing.id != refused.standing.id


def test_one_row_per_account_where_a_provider_has_many(store, alice):
    """
    The account key tells them apart, and each account stands once.
    """
    for account in ("a", "b", "a"):
        store.save_connection(**alice.grant(provider="google", type=2, account_key=account, account_id=account))
    assert ["a", "b"] == [each.account.id for each in store.connections(alice.session).connections]


def test_the_oldest_profile_wins_and_the_id_is_listed_once(database, store, alice):
    """
    Where duplicates stand from before, also in the arrays.
    """
    insert = "insert into public.user_profile (user_id_auth, created_at) values (%s, %s) returning id"
    younger, oldest = (rows(database, insert, alice.id, year)[0] for year in ("2024-01-01", "2023-01-01"))
    standing = alice.connects(store)
    rows(database, "update public.user_profile set providers = array['x', %s, %s]", str(standing.id), str(standing.id))
    store.save_connection(**alice.grant(connection_id=standing.id, generation=2))

    assert {younger: ["x"], oldest: ["x", str(standing.id)]} == dict(
        rows(database, "select id, providers from public.user_profile")
    )
    assert [oldest] == rows(database, "select provider_id_ref from public.provider_data")


def test_what_the_owner_writes_decides_nothing(database, store, alice):
    """
    Token, expiry and data are theirs to write; what the gateway believes of the connection is not in that table.
    """
    standing = alice.connects(store)
    before = store.connections(alice.session)
    rows(
        database,
        "update public.provider_data set token = 'x', expires = 'never', data = '{}', name = 'other', type = 3",
    )

    assert before == store.connections(alice.session)
    assert (SOON, "active") == (before.connections[0].expires_at, before.connections[0].status)
    assert store.save_connection(**alice.grant(connection_id=standing.id, generation=2)).saved


# -- listing and disconnecting ---------------------------------------------------------------------------------------


def test_a_user_lists_the_own_connections_by_type_then_age(store, alice, bob):
    """
    And nobody else's, by list or by id.
    """
    phone = alice.connects(store, provider="ringcentral", type=3)
    crm = alice.connects(store)
    mail = [alice.connects(store, provider=name, type=2) for name in ("google", "acme")]
    his = bob.connects(store)

    listed = store.connections(alice.session)
    assert [crm.id, mail[0].id, mail[1].id, phone.id] == [each.id for each in listed.connections]
    assert alice.id == listed.user.id
    assert set(listed.connections) == set(store.reached_connections(Caller(user_id=alice.id)))
    assert store.connection(session_hash=alice.session, connection_id=his.id) is None
    assert store.connection(session_hash=bob.session, connection_id=his.id).account == Account(
        "bob-location", "bob's agency"
    )


def test_a_disconnect_removes_row_and_id_and_queues_the_grant(database, store, alice):
    """
    The other connection stays listed, the sealed pair waits under its generation.
    """
    kept = alice.connects(store, provider="google", type=2)
    gone = alice.connects(store)
    erased = store.disconnect(session_hash=alice.session, connection_id=gone.id)

    assert (gone.id, "ghl", Account("alice-location", "alice's agency")) == (
        erased.connection_id,
        erased.provider,
        erased.account,
    )
    assert (1, *GRANT.values()) == (erased.revocation.generation, erased.revocation.token, erased.revocation.refresh)
    assert [[str(kept.id)]] == rows(database, "select providers from public.user_profile")
    assert [] == rows(database, "select 1 from public.provider_data where id = %s", gone.id)
    assert [(gone.id, 1, *GRANT.values(), "disconnected")] == rows(
        database, "select connection_id, generation, token, refresh, reason from gateway.revocation"
    )
    assert "connection.disconnected" in rows(database, "select type from gateway.event")
    assert store.disconnect(session_hash=alice.session, connection_id=gone.id) is None


def test_anothers_connection_cannot_be_disconnected(store, alice, bob):
    """
    It answers like none, and stays.
    """
    his = bob.connects(store)
    assert store.disconnect(session_hash=alice.session, connection_id=his.id) is None
    assert store.connection(session_hash=bob.session, connection_id=his.id) is not None


# -- what waits to be given back -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fate",
    [
        "delete from auth.users",
        "delete from public.user_profile",
        "delete from public.provider_data",
        "truncate public.provider_data cascade",
        "truncate auth.users cascade",
    ],
)
def test_however_a_row_goes_its_grant_waits_to_be_revoked(database, store, alice, fate):
    """
    With its generation, by cascade too; and no array lists it any more.
    """
    standing = alice.connects(store)
    rows(database, fate)

    assert [(standing.id, 1, "ghl", *GRANT.values())] == rows(
        database, "select connection_id, generation, provider, token, refresh from gateway.revocation"
    )
    if not fate.startswith("truncate"):
        assert [] == rows(database, "select 1 from public.user_profile where providers <> '{}'")
    assert [] == rows(database, "select 1 from gateway.connection")


def test_a_superseded_grant_is_queued_only_when_asked(database, store, alice):
    """
    Some providers end the new grant with the old one.
    """
    standing = alice.connects(store)
    for generation, revoke_old in ((2, False), (3, True)):
        grant = alice.grant(connection_id=standing.id, generation=generation, token=f"token-{generation}")
        store.save_connection(**grant, revoke_old=revoke_old)

    assert [(2, "token-2", "superseded")] == rows(database, "select generation, token, reason from gateway.revocation")


def test_a_revocation_waits_longer_each_time_until_it_is_settled(database, store):
    """
    Queued once however often; put off, put off further, at most six hours; forgotten.
    """
    queued = {"connection_id": uuid.uuid4(), "generation": 1}
    for token in ("first", "second"):
        store.queue_revocation(**queued, provider="ghl", token=token, refresh=None, reason="not_stored")
    assert ["first"] == rows(database, "select token from gateway.revocation")

    waits = []
    for _ in range(12):
        assert store.settle_revocation(**queued, done=False)
        waits += rows(
            database,
            "select round(extract(epoch from due_at - clock_timestamp()) / 60)::int from gateway.revocation",
        )
    assert [2, 4, 8, 16, 32, 64, 128, 256, 360, 360, 360, 360] == waits
    assert [False, False] == [store.settle_revocation(**queued, done=done) for done in (True, False)]
    assert [] == rows(database, "select 1 from gateway.revocation")
