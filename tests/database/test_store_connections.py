"""
The database: connections saved in one call, listed to their user, erased, and the queue of revocations.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import replace

import pytest

from gateway.database.queries.connections import (
    erase_own_connection,
    list_connections,
    reached_connections,
    settle_revocation,
)
from gateway.database.queries.tokens import finish_refresh
from gateway.errors import DatabaseUnavailable
from gateway.models import Account, Caller
from tests.support.database import SOON, find_connection, queue, rows

GRANT = {"token": "gAAAA-token-of-alice", "refresh": "gAAAA-refresh-of-alice"}


# -- saving ----------------------------------------------------------------------------------------------------------


def test_a_first_save_makes_profile_row_and_array(database, store, alice):
    """
    One transaction, and `expires` as the documented text, in UTC.
    """
    made = alice.connects(store, expires_at=SOON.astimezone(tz=None))
    profile = rows(
        database, "select id, user_name, providers from public.user_profile where user_id_auth = %s", alice.id
    )

    assert [(profile[0][0], "alice", [str(made.id)])] == profile
    (row,) = rows(
        database,
        "select provider_id_ref, auth_provider_id, name, type, token, refresh, data, expires"
        " from public.provider_data where id = %s",
        made.id,
    )
    shown = {
        "locationId": "alice-location",
        "account": {"id": "alice-location", "label": "alice's agency"},
        "scope": ["contacts.readonly"],
        "status": "active",
    }
    assert (profile[0][0], alice.id, "ghl", 1, *GRANT.values(), shown) == row[:7]
    assert re.fullmatch(r"2030-01-02T03:04:0[45678]Z", row[7])
    assert ["connection.created"] == rows(database, "select type from gateway.event")


def test_a_save_after_its_deadline_saves_nothing(database, store, alice):
    """
    By the database's clock: the caller has reported a failure by then. A save in time is carried out.
    """
    late, in_time = (
        rows(database, f"select clock_timestamp() + interval '{each}'")[0] for each in ("-1 ms", "1 minute")
    )
    with pytest.raises(DatabaseUnavailable):
        alice.saves(store, not_after=late)
    assert [(0, 0, 0, 0)] == rows(
        database,
        "select (select count(*) from public.provider_data), (select count(*) from public.user_profile),"
        " (select count(*) from gateway.connection), (select count(*) from gateway.event)",
    )

    alice.connects(store, not_after=in_time)
    with pytest.raises(DatabaseUnavailable):
        alice.saves(store, token="newer", not_after=late)
    assert [(1, GRANT["token"], 0)] == rows(
        database,
        "select c.generation, d.token, (select count(*) from gateway.revocation)"
        " from gateway.connection c join public.provider_data d on d.id = c.id",
    )


def test_a_repeated_save_is_recognised(database, store, alice):
    """
    The response to the first call was lost: the second gets the same answer, and nothing happens twice.
    """
    grant = alice.grant()
    first, again = alice.saves(store, grant), alice.saves(store, grant)

    assert (first, 1) == (again, again.generation)
    assert ["connection.created"] == rows(database, "select type from gateway.event")
    other = alice.grant(account_id="other")
    assert [None, None] == [alice.saves(store, other), alice.saves(store, other)]
    assert [1] == rows(database, "select count(*) from gateway.pending_grant")
    assert [] == rows(database, "select 1 from gateway.revocation")


def test_a_repeated_save_does_not_undo_a_refresh(database, store, alice):
    """
    Refreshed between the two calls, the connection keeps what the refresh brought.
    """
    grant = alice.grant()
    made = alice.saves(store, grant)
    refreshed = {
        "connection_id": made.id, "generation": 1, "token": "refreshed", "refresh": "rotated", "seal_id": uuid.uuid4(), "scope": (),
        "expires_seconds": 60, "refresh_expires_seconds": None, "renewed": True, "account": None, "facts": {},
    }  # fmt: skip
    assert "saved" == finish_refresh(store, **refreshed)

    assert 2 == alice.saves(store, grant).generation
    assert [("refreshed", "rotated")] == rows(database, "select token, refresh from public.provider_data")


def test_saving_again_keeps_the_row_and_its_id(database, store, alice):
    """
    The next generation of the same connection, under a seal id of its own; nothing twice.
    """
    first = alice.connects(store)
    (before,) = rows(database, "select seal_id from gateway.connection")
    again = alice.connects(store, token="gAAAA-newer", account_label="New")

    assert (first.id, 2, "New") == (again.id, again.generation, again.account.label)
    assert [("gAAAA-newer", [str(first.id)])] == rows(
        database,
        "select token, providers from public.provider_data d join public.user_profile p on p.id = d.provider_id_ref",
    )
    assert again == find_connection(store, session_hash=alice.session, connection_id=first.id)
    assert ["connection.created", "connection.reauthorized"] == rows(
        database, "select type from gateway.event order by at"
    )
    assert [before] != rows(database, "select seal_id from gateway.connection")


def test_a_save_without_a_refresh_token_keeps_the_one_of_the_same_account(database, store, alice):
    """
    With the seal id that it was encrypted for: Google sends a refresh token with the first consent only.
    """
    alice.connects(store)
    alice.connects(store, token="newer", refresh=None)

    assert [("newer", GRANT["refresh"], False)] == rows(
        database,
        "select d.token, d.refresh, c.seal_id = c.refresh_seal_id"
        " from gateway.connection c join public.provider_data d on d.id = c.id",
    )
    alice.decides(store, alice.waits(store, refresh=None), "replace")
    assert [None] == rows(database, "select refresh from public.provider_data")


def test_an_erased_connection_starts_over_under_a_new_id(store, alice):
    """
    At its first generation.
    """
    first = alice.connects(store)
    erase_own_connection(store, session_hash=alice.session, connection_id=first.id)
    again = alice.connects(store)

    assert (True, 1) == (first.id != again.id, again.generation)


def test_one_row_per_account_where_a_provider_has_many(store, alice):
    """
    Each account has one row; another one is a question unless it was asked for.
    """
    google = {"provider": "google", "type": 2, "many_accounts": True}
    for account in ("a", "b", "a"):
        alice.connects(store, account_id=account, add_account=True, **google)
    assert ["a", "b"] == [each.account.id for each in alice.listed(store)]
    assert alice.saves(store, account_id="c", **google) is None
    assert ["a", "b"] == [each.account.id for each in alice.listed(store)]


def test_a_catalogue_that_allows_one_account_only_from_now_on_breaks_no_save(store, alice):
    """
    `accounts` went from many to one: every account that is connected can be connected again.
    """
    for account in ("a", "b"):
        alice.connects(store, account_id=account, many_accounts=True, add_account=True)
    again = [alice.connects(store, account_id=account).account.id for account in ("a", "b")]
    assert ["a", "b"] == again == sorted(each.account.id for each in alice.listed(store))


def test_a_link_that_asked_for_less_than_is_connected_is_a_question(store, alice):
    """
    So that it does not reduce other partners' scopes; what its user did not allow is their own decision.
    """
    alice.connects(store, scope=("a", "b"))
    link = {"connect_session_id": uuid.uuid4(), "scope": ("a",)}
    assert alice.saves(store, requested_scope=("a", "c"), **link) is None
    assert ("b",) == alice.pending(store).scopes_removed
    assert alice.saves(store, requested_scope=("a", "b", "c"), **link).scope == ("a",)


def test_the_oldest_profile_wins_and_the_id_is_listed_once(database, store, alice):
    """
    Where duplicates stand from before, also in the arrays.
    """
    insert = "insert into public.user_profile (user_id_auth, created_at) values (%s, %s) returning id"
    younger, oldest = (rows(database, insert, alice.id, year)[0] for year in ("2024-01-01", "2023-01-01"))
    standing = alice.connects(store)
    rows(database, "update public.user_profile set providers = array['x', %s, %s]", str(standing.id), str(standing.id))
    alice.connects(store)

    assert {younger: ["x"], oldest: ["x", str(standing.id)]} == dict(
        rows(database, "select id, providers from public.user_profile")
    )
    assert [oldest] == rows(database, "select provider_id_ref from public.provider_data")


def test_what_the_owner_writes_decides_nothing(database, store, alice):
    """
    Token, expiry and data are theirs to write; what the gateway believes of the connection is not in that table.
    """
    alice.connects(store)
    before = list_connections(store, alice.session)
    rows(
        database,
        "update public.provider_data set token = 'x', expires = 'never', data = '{}', name = 'other', type = 3",
    )

    (known,), (now,) = before.connections, list_connections(store, alice.session).connections
    # A plaintext token has to be verified first: nothing else of the connection changes.
    assert replace(known, status="unverified", reason="owner_wrote_tokens", updated_at=now.updated_at) == now
    assert (SOON.year, "active") == (before.connections[0].expires_at.year, before.connections[0].status)
    assert 2 == alice.connects(store).generation


# -- listing and disconnecting ---------------------------------------------------------------------------------------


def test_a_user_lists_the_own_connections_by_type_then_age(store, alice, bob):
    """
    And no other user's, by list or by id.
    """
    phone = alice.connects(store, provider="ringcentral", type=3)
    crm = alice.connects(store)
    mail = [alice.connects(store, provider=name, type=2) for name in ("google", "acme")]
    his = bob.connects(store)

    listed = list_connections(store, alice.session)
    assert [crm.id, mail[0].id, mail[1].id, phone.id] == [each.id for each in listed.connections]
    assert alice.id == listed.user.id
    assert set(listed.connections) == set(reached_connections(store, Caller(user_id=alice.id)))
    assert find_connection(store, session_hash=alice.session, connection_id=his.id) is None
    assert find_connection(store, session_hash=bob.session, connection_id=his.id).account == Account(
        "bob-location", "bob's agency"
    )


def test_a_disconnect_removes_row_and_id_and_queues_the_grant(database, store, alice):
    """
    The other connection stays listed; the encrypted grant is queued.
    """
    kept = alice.connects(store, provider="google", type=2)
    gone = alice.connects(store)
    erased = erase_own_connection(store, session_hash=alice.session, connection_id=gone.id)

    assert (gone.id, "ghl", Account("alice-location", "alice's agency")) == (
        erased.connection_id,
        erased.provider,
        erased.account,
    )
    assert (alice.id, "ghl", *GRANT.values()) == (
        erased.revocation.user_id,
        erased.revocation.provider,
        erased.revocation.token,
        erased.revocation.refresh,
    )
    assert [[str(kept.id)]] == rows(database, "select providers from public.user_profile")
    assert [] == rows(database, "select 1 from public.provider_data where id = %s", gone.id)
    assert [(gone.id, 1, *GRANT.values(), "disconnected")] == rows(
        database, "select connection_id, generation, token, refresh, reason from gateway.revocation"
    )
    assert "connection.disconnected" in rows(database, "select type from gateway.event")
    assert erase_own_connection(store, session_hash=alice.session, connection_id=gone.id) is None


def test_anothers_connection_cannot_be_disconnected(store, alice, bob):
    """
    It answers like none, and stays.
    """
    his = bob.connects(store)
    assert erase_own_connection(store, session_hash=alice.session, connection_id=his.id) is None
    assert find_connection(store, session_hash=bob.session, connection_id=his.id) is not None


# -- the queue of revocations ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fate", ["delete from auth.users", "delete from public.user_profile", "delete from public.provider_data"]
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
    assert [] == rows(database, "select 1 from public.user_profile where providers <> '{}'")
    assert [] == rows(database, "select 1 from gateway.connection")


def test_a_replaced_account_is_queued_and_a_renewed_one_is_not(database, store, alice):
    """
    Some providers end the new grant with the old one of the same account.
    """
    for number in (1, 2):
        alice.connects(store, token=f"token-{number}")
    alice.decides(store, alice.waits(store), "replace")

    assert [(2, "token-2", "superseded")] == rows(database, "select generation, token, reason from gateway.revocation")


def test_a_revocation_waits_longer_each_time_until_it_is_settled(database, store):
    """
    Queued once however often; put off, put off further, at most six hours; forgotten.
    """
    seal_id = uuid.uuid4()
    for token in ("first", "second"):
        queue(store, token, seal_id=seal_id)
    assert ["first"] == rows(database, "select token from gateway.revocation")

    waits = []
    for _ in range(12):
        assert settle_revocation(store, seal_id, done=False)
        waits += rows(
            database,
            "select round(extract(epoch from due_at - clock_timestamp()) / 60)::int from gateway.revocation",
        )
    assert [2, 4, 8, 16, 32, 64, 128, 256, 360, 360, 360, 360] == waits
    assert [False, False] == [settle_revocation(store, seal_id, done=done) for done in (True, False)]
    assert [] == rows(database, "select 1 from gateway.revocation")
