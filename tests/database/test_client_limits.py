"""
What a client may write into its own rows is bounded, with a clear error; so is what the gateway reads of a row.
"""

from __future__ import annotations

import uuid

import psycopg
import pytest
from psycopg import errors

from gateway.database.queries.tokens import stored_token
from gateway.errors import RateLimited
from tests.database.test_store_links import makes
from tests.support.database import Person, acting, rows
from tests.support.partners import partner

SECRET, TEXT = 65_536, 500
UPDATE = "update public.provider_data set {} = {} where id = %s"
TOO_LARGE = {
    "token": f"'gAAAA' || repeat('A', {SECRET})",
    "refresh": f"repeat('A', {SECRET + 1})",
    "data": f"jsonb_build_object('a', repeat('A', {SECRET}))",
    "expires": f"repeat('9', {TEXT + 1})",
}
"""Column to an expression that is one byte, or a little, above the limit."""
FURTHER = {
    "token": "repeat('é', 32769)",
    "refresh": "repeat('A', 20000000)",
    "data": "(select jsonb_agg(n) from generate_series(1, 20000) n)",
}


@pytest.fixture
def alice(store) -> Person:
    person = Person("alice")
    person.signs_in(store)
    return person


@pytest.fixture
def row(store, alice) -> uuid.UUID:
    return alice.connects(store).id


def inserts(database, alice, **values):
    """A row of the client's own, as the documented TypeScript inserts it; `values` are expressions."""
    [profile] = rows(database, "select id from user_profile where user_id_auth = %s", alice.id)
    names, given = ", ".join(values), ", ".join(values.values())
    with acting(database, "authenticated", alice.id) as client:
        return client.execute(
            f"insert into public.provider_data (auth_provider_id, provider_id_ref, {names}) values (%s, %s, {given})",  # noqa: S608
            [alice.id, profile],
        ).rowcount


@pytest.mark.parametrize(("column", "value"), [*TOO_LARGE.items(), *FURTHER.items()])
def test_a_client_cannot_write_a_value_that_is_too_large(database, store, alice, row, column, value):
    """
    Twenty megabytes in a token would cost the gateway that much memory at each read.
    """
    before = rows(database, f"select {column}::text from provider_data where id = %s", row)  # noqa: S608
    with (
        acting(database, "authenticated", alice.id) as client,
        pytest.raises(errors.ProgramLimitExceeded, match="too large: token, refresh and data hold 65536 bytes"),
    ):
        client.execute(UPDATE.format(column, value), [row])
    assert before == rows(database, f"select {column}::text from provider_data where id = %s", row)  # noqa: S608
    with pytest.raises(errors.ProgramLimitExceeded, match="too large"):
        inserts(database, alice, **({"name": "'ghl'"} | {column: value}))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("name", f"repeat('a', {TEXT + 1})"),
        ("type", "1e100000::numeric"),
        ("type", "0.1234567890123456789012345"),
        ("data", "to_jsonb(repeat('A', 10000000))"),
    ],
)
def test_a_client_cannot_insert_one_either(database, store, alice, row, column, value):
    with pytest.raises(errors.ProgramLimitExceeded, match="too large"):
        inserts(database, alice, **{column: value})


def test_a_client_cannot_write_a_large_name(database, store, alice, row):
    with (
        acting(database, "authenticated", alice.id) as client,
        pytest.raises(errors.ProgramLimitExceeded, match="user_name and expires 500"),
    ):
        client.execute("update public.user_profile set user_name = repeat('a', 501)")


def test_what_is_within_the_limit_is_written(database, store, alice, row):
    values = {
        "token": f"repeat('A', {SECRET})",
        "refresh": f"repeat('A', {SECRET})",
        "data": f"to_jsonb(repeat('A', {SECRET - 2}))",
        "expires": f"repeat('9', {TEXT})",
    }
    with acting(database, "authenticated", alice.id) as client:
        for column, value in values.items():
            assert 1 == client.execute(UPDATE.format(column, value), [row]).rowcount
        assert 1 == client.execute("update public.user_profile set user_name = repeat('a', 500)").rowcount


def test_a_row_that_is_larger_already_can_still_be_changed(database, store, alice, row):
    """
    The owner's server may write more; a client then cannot write that value, and everything else as before.
    """
    with psycopg.connect(database) as owner:
        owner.execute(UPDATE.format("data", "to_jsonb(repeat('A', 100000))"), [row])
    with acting(database, "authenticated", alice.id) as client:
        assert 1 == client.execute(UPDATE.format("expires", "'2027-01-01'"), [row]).rowcount
    with acting(database, "authenticated", alice.id) as client, pytest.raises(errors.ProgramLimitExceeded):
        client.execute(UPDATE.format("data", "to_jsonb(repeat('B', 100000))"), [row])


def test_a_client_has_a_thousand_rows_at_most(database, store, alice, row):
    """
    The owner's server is not limited.
    """
    further = (
        "insert into public.provider_data (auth_provider_id, provider_id_ref, name)"
        " select d.auth_provider_id, d.provider_id_ref, 'x' from public.provider_data d, generate_series(1, 998) where d.id = %s"
    )
    with psycopg.connect(database) as owner:
        owner.execute(further, [row])
    assert 1 == inserts(database, alice, name="'y'")  # and rolled back
    with psycopg.connect(database) as owner:
        owner.execute(further, [row])
    with pytest.raises(errors.ProgramLimitExceeded, match="1000 rows"):
        inserts(database, alice, name="'y'")


def test_what_another_role_stored_is_read_within_a_bound(database, store, alice, row):
    """
    Rows from before the gateway, and the owner's server: a value that no provider gives is no token.
    """
    with psycopg.connect(database) as owner:
        owner.execute(UPDATE.format("token", "'gAAAA' || repeat('A', 20000000)"), [row])

    assert len(stored_token(store, row).token) < 10


# -- what callers may make -------------------------------------------------------------------------------------------


def test_a_user_has_fifty_sessions_at_most(database, store, alice):
    """
    The oldest ends. Another user's stay.
    """
    bob = Person("bob")
    bob.signs_in(store)
    for _ in range(60):
        alice.signs_in(store, session_hash=str(uuid.uuid4()))

    assert rows(database, "select count(*) from gateway.session where user_id = %s", alice.id) == [50]
    assert rows(database, "select count(*) from gateway.session where user_id = %s", bob.id) == [1]


def test_a_partner_makes_twenty_links_for_a_user_and_a_thousand_in_all(database, store, alice):
    """
    Within the fifteen minutes that a link lives. Another partner, and another user, are not affected.
    """
    acme, northwind = partner(store), partner(store, name="Northwind")
    bob = Person("bob")
    bob.signs_in(store)
    for number in range(20):
        assert makes(store, acme, alice, secret_hash=f"alice-{number}")
    with pytest.raises(RateLimited) as raised:
        makes(store, acme, alice, secret_hash="alice-21")
    assert 800 < raised.value.retry_after <= 900
    assert makes(store, acme, bob, secret_hash="bob")
    assert makes(store, northwind, alice, secret_hash="other")

    with psycopg.connect(database) as owner:
        owner.execute(
            "insert into gateway.connect_session (secret_hash, partner_id, user_id, provider, scope)"
            " select gen_random_uuid()::text, %s, %s, 'ghl', '{}' from generate_series(1, 979)",
            [acme.id, alice.id],
        )
    with pytest.raises(RateLimited):
        makes(store, acme, bob, secret_hash="bob-2")
    with psycopg.connect(database) as owner:
        owner.execute("update gateway.connect_session set created_at = created_at - interval '15 minutes'")
    assert makes(store, acme, bob, secret_hash="bob-2")
