"""
Who may do what to the owner's two tables: each client role, each verb, in both directions.
"""

# ruff: noqa: S608 -- the names of tables and columns are written here

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from postgres import Person, Two, acting, fresh_database, rows
from psycopg.errors import InsufficientPrivilege, UniqueViolation
from psycopg.types.json import Jsonb

from gateway.store import open_store

TABLES = ("user_profile", "provider_data")
FORBIDDEN = pytest.mark.parametrize(
    "statement",
    [
        "delete from public.user_profile",
        "delete from public.user_profile where user_id_auth = auth.uid()",
        "delete from public.provider_data",
        "delete from public.provider_data returning 1",
        "delete from public.provider_data where auth_provider_id = auth.uid()",
        "truncate public.provider_data cascade",
        "truncate public.user_profile cascade",
        "insert into public.user_profile (user_id_auth, user_name) values (auth.uid(), 'second')",
        "insert into public.provider_data (created_at) values (now())",
        "create trigger mine before update on public.provider_data for each row execute function gateway.touch_profile()",
        "alter table public.provider_data disable row level security",
        "update public.user_profile set providers = '{}'",
        "select * from gateway.connection",
        "select * from gateway.session",
        "select gateway.touch_profile()",
        "select * from auth.users",
    ],
)


@pytest.fixture(scope="module")
def two(cluster, template) -> Iterator[Two]:
    alice, bob = Person("alice"), Person("bob")
    with fresh_database(cluster, template) as database:
        store = open_store(database)
        for who in (alice, bob):
            who.signs_in(store)
        saved = {who: who.connects(store).id for who in (alice, bob)}
        store.close()
        yield Two(database, alice, bob, saved, dict(zip((alice, bob), _profiles(database, alice, bob), strict=True)))


def _profiles(database: str, *people: Person) -> list[uuid.UUID]:
    return [rows(database, "select id from user_profile where user_id_auth = %s", who.id)[0] for who in people]


# -- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES)
def test_a_user_sees_the_own_row_and_no_other(two, table):
    """
    Asked for everything, for the own and for the other's, the answer is one row, one row and none.
    """
    key = {"user_profile": "user_id_auth", "provider_data": "auth_provider_id"}[table]
    with acting(two.database, "authenticated", two.alice.id) as client:
        everything = client.execute(f"select {key} from public.{table}").fetchall()
        others = client.execute(f"select 1 from public.{table} where {key} = %s", [two.bob.id]).fetchall()

    assert [(two.alice.id,)] == everything
    assert [] == others


@pytest.mark.parametrize("table", TABLES)
def test_the_documented_policies_suffice_by_themselves(two, table):
    """
    The restrictive ones are there for what others may leave on the tables, not for what ours forgot.
    """
    alone = 'drop policy "Nobody reaches another\'s profile" on user_profile; drop policy "Nobody reaches another\'s provider data" on provider_data'
    with acting(two.database, "authenticated", two.alice.id, before=alone) as client:
        assert 1 == len(client.execute(f"select 1 from public.{table}").fetchall())
        written = {"user_profile": "user_name", "provider_data": "token"}[table]
        assert 1 == client.execute(f"update public.{table} set {written} = 'x'").rowcount


@pytest.mark.parametrize("table", TABLES)
def test_a_token_without_a_subject_sees_nothing(two, table):
    """
    The role alone opens no row.
    """
    with acting(two.database, "authenticated") as client:
        assert [] == client.execute(f"select 1 from public.{table}").fetchall()
        assert 0 == client.execute("update public.provider_data set token = 'x'").rowcount


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(
    "verb",
    [
        "select * from {}",
        "select 1 from {}",
        "insert into {} default values",
        "update {} set id = id",
        "delete from {}",
    ],
)
def test_anon_gets_nothing_at_all(two, table, verb):
    """
    Not an empty answer but a refusal, whichever verb.
    """
    with pytest.raises(InsufficientPrivilege), acting(two.database, "anon", two.alice.id) as client:
        client.execute(verb.format(f"public.{table}"))


def test_the_documented_query_finds_the_single_row(two):
    """
    `.select('*').eq('auth_provider_id', user.id).eq('type', 1).single()`: one row, every documented column.
    """
    with acting(two.database, "authenticated", two.alice.id) as client:
        cursor = client.execute(
            "select * from public.provider_data where auth_provider_id = %s and type = 1", [two.alice.id]
        )
        found = cursor.fetchall()

    documented = {
        "id",
        "created_at",
        "provider_id_ref",
        "auth_provider_id",
        "name",
        "type",
        "token",
        "refresh",
        "expires",
        "data",
    }
    assert documented == {column.name for column in cursor.description}
    assert 1 == len(found)


# -- updating --------------------------------------------------------------------------------------------------------


def test_the_documented_update_writes_token_and_expiry_of_the_own_row(two):
    """
    `.update({token, expires}).eq('id', providerId)`.
    """
    with acting(two.database, "authenticated", two.alice.id) as client:
        statement = "update public.provider_data set token = 'new', expires = '2031-01-01T00:00:00Z' where id = %s"
        assert 1 == client.execute(statement, [two.rows[two.alice]]).rowcount
        assert ["new", "sealed-token-of-bob"] == two.seen(client, "token", "provider_data")


@pytest.mark.parametrize(
    "ending", ["", " where true", " returning 1", " where id = %(other)s", " where id = %(other)s returning id"]
)
@pytest.mark.parametrize(
    ("table", "column"), [("user_profile", "user_name"), ("provider_data", "token"), ("provider_data", "data::text")]
)
def test_an_update_never_reaches_another_row(two, table, column, ending):
    """
    With a WHERE that names the other's row, with one that names none and without any.
    """
    target = {"user_profile": two.profiles, "provider_data": two.rows}[table][two.bob]
    name, value = (column, "taken") if "::" not in column else ("data", Jsonb({"taken": True}))
    with acting(two.database, "authenticated", two.alice.id) as client:
        before = two.seen(client, column, table)
        client.execute(f"update public.{table} set {name} = %(value)s{ending}", {"value": value, "other": target})
        after = two.seen(client, column, table)

    assert before[1] == after[1]
    assert (before[0] == after[0]) is ("other" in ending)


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("provider_data", "id = gen_random_uuid()"),
        ("provider_data", "provider_id_ref = %(profile)s"),
        ("provider_data", "auth_provider_id = %(user)s"),
        ("provider_data", "name = 'google'"),
        ("provider_data", "type = 2"),
        ("provider_data", "created_at = now()"),
        ("user_profile", "id = gen_random_uuid()"),
        ("user_profile", "user_id_auth = %(user)s"),
        ("user_profile", "created_at = 'epoch'"),
        ("user_profile", "providers = '{}'"),
    ],
)
@pytest.mark.parametrize("granted", [False, True])
def test_what_says_whose_row_it_is_cannot_be_changed(two, table, change, granted):
    """
    Not by the grants, and not even where somebody grants the whole table again: then the trigger or the policy refuses.
    """
    values = {"profile": two.profiles[two.bob], "user": two.bob.id}
    before = f"grant all on public.{table} to authenticated" if granted else ""
    with (
        pytest.raises(InsufficientPrivilege),
        acting(two.database, "authenticated", two.alice.id, before=before) as client,
    ):
        client.execute(f"update public.{table} set {change}", values)


def test_the_own_profile_can_be_renamed_and_says_when(two):
    """
    "Users can only update their own profile": they can, and `updated_at` is the database's word.
    """
    with acting(two.database, "authenticated", two.alice.id) as client:
        before = two.seen(client, "updated_at", "user_profile")
        client.execute("update public.user_profile set user_name = 'Alice A.', updated_at = 'epoch'")
        after = two.seen(client, "updated_at", "user_profile")

        assert ["Alice A.", "bob"] == two.seen(client, "user_name", "user_profile")
    assert before[0] < after[0]
    assert before[1] == after[1]


# -- inserting -------------------------------------------------------------------------------------------------------


def insert(two: Two, *, user: Person, profile: uuid.UUID | None) -> int:
    statement = (
        "insert into public.provider_data (provider_id_ref, auth_provider_id, name, type) values (%s, %s, 'x', 2)"
    )
    with acting(two.database, "authenticated", two.alice.id) as client:
        return client.execute(statement, [profile, user.id]).rowcount


def test_a_user_may_insert_a_row_of_their_own(two):
    """
    For oneself, under the own profile.
    """
    assert 1 == insert(two, user=two.alice, profile=two.profiles[two.alice])


@pytest.mark.parametrize(("user", "profile"), [("bob", "bob"), ("bob", "alice"), ("alice", "bob"), ("alice", None)])
def test_a_user_may_insert_nothing_for_or_under_another(two, user, profile):
    """
    Another's id, another's profile, or none.
    """
    hung_on = two.profiles[getattr(two, profile)] if profile else None
    with pytest.raises(InsufficientPrivilege):
        insert(two, user=getattr(two, user), profile=hung_on)


def test_the_id_of_an_erased_connection_cannot_be_had_again(two):
    """
    Its generations would start over, and what was sealed for the old row would open in the new one.
    """
    erased = two.rows[two.alice]
    again = "insert into public.provider_data (id, provider_id_ref, auth_provider_id, name, type) values (%s, %s, %s, 'ghl', 1)"
    erase = f"delete from public.provider_data where id = '{erased}'"
    with (
        pytest.raises(UniqueViolation),
        acting(two.database, "authenticated", two.alice.id, before=erase) as client,
    ):
        client.execute(again, [erased, two.profiles[two.alice], two.alice.id])


# -- everything else -------------------------------------------------------------------------------------------------


@FORBIDDEN
@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_client_roles_have_no_other_verb(two, role, statement):
    """
    No delete, no truncate, no profile of one's own making, nothing in our schema.
    """
    with pytest.raises(InsufficientPrivilege), acting(two.database, role, two.alice.id) as client:
        client.execute(statement)


def test_the_gateways_own_role_reaches_no_table(two):
    """
    gateway_app has the functions and nothing else.
    """
    for table in ("public.user_profile", "public.provider_data", "gateway.connection", "auth.users"):
        with pytest.raises(InsufficientPrivilege), acting(two.database, "gateway_app") as client:
            client.execute(f"select 1 from {table}")


def test_the_owners_server_reaches_every_row(two):
    """
    service_role reads, writes and deletes in both tables, and still sees nothing of ours.
    """
    with acting(two.database, "service_role") as server:
        assert 2 == server.execute("update public.provider_data set name = 'renamed'").rowcount
        assert 2 == server.execute("update public.user_profile set user_name = 'renamed'").rowcount
        assert 1 == server.execute("delete from public.provider_data where id = %s", [two.rows[two.bob]]).rowcount
    with pytest.raises(InsufficientPrivilege), acting(two.database, "service_role") as server:
        server.execute("select * from gateway.revocation")


@pytest.mark.parametrize("table", TABLES)
def test_row_level_security_is_on_and_forced(two, table):
    """
    For the tables' owner too.
    """
    assert [(True, True)] == rows(
        two.database,
        "select relrowsecurity, relforcerowsecurity from pg_class where oid = %s::regclass",
        f"public.{table}",
    )
