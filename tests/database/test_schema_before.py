"""
schema.sql over what stood there before: the owner's tables as they grew, Supabase's defaults, an owner without rights.
"""

# ruff: noqa: S608 -- the names of tables and columns are written here

from __future__ import annotations

import uuid

import psycopg
import pytest

from gateway.database import open_postgres
from gateway.database.migrate import apply_schema
from gateway.database.queries.connections import erase_own_connection
from gateway.doctor.database import access_rules
from tests.support.database import Person, acting, administer, database_dsn, fresh_database, rows
from tests.support.old_databases import DOCUMENTED, MODEST_OWNER, OLD_TABLES, OURS, SUPABASE, fill_old_tables

# -- what stood there before -----------------------------------------------------------------------------------------


@pytest.fixture
def old(bare_database) -> str:
    """The owner's two tables as they grew: no indexes, loose relations, generous grants and policies, gaps, duplicates."""
    administer_in(bare_database, SUPABASE + OLD_TABLES)
    fill_old_tables(bare_database)
    return bare_database


def administer_in(dsn: str, statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statements)


def test_an_old_database_loses_nothing(old):
    """
    Every row keeps every value that it had, plaintext, duplicates and all; only a missing profile is filled in.
    """
    kept = "select id, auth_provider_id, name, type, token, refresh, expires from public.provider_data order by id"
    profiles = "select id, user_id_auth, user_name from public.user_profile order by id"
    before = rows(old, kept), rows(old, profiles)
    hung_on = dict(rows(old, "select id, provider_id_ref from public.provider_data where provider_id_ref is not null"))

    apply_schema(old)
    apply_schema(old)

    assert before == (rows(old, kept), rows(old, profiles))
    after = dict(rows(old, "select id, provider_id_ref from public.provider_data"))
    assert hung_on == {row: after[row] for row in hung_on}


def test_an_old_database_is_brought_up_to_date(old):
    """
    Columns, indexes, cascades, forced row-level security.
    """
    told = apply_schema(old)

    missing = {
        table: set(DOCUMENTED[table])
        - set(rows(old, "select column_name from information_schema.columns where table_name = %s", table))
        for table in DOCUMENTED
    }
    assert {"user_profile": set(), "provider_data": set()} == missing
    assert 3 == len(rows(old, "select 1 from pg_indexes where indexname like 'idx_%' and schemaname = 'public'"))
    assert {"c"} == set(
        rows(
            old,
            "select confdeltype::text from pg_constraint where contype = 'f' and connamespace = 'public'::regnamespace",
        )
    )
    assert [True, True] == rows(
        old,
        "select relforcerowsecurity from pg_class where oid = any (array['user_profile', 'provider_data']::regclass[])",
    )
    with psycopg.connect(old) as owner:
        assert any("everybody reads" in finding.message for finding in access_rules(owner))
    assert any("point nowhere" in line for line in told)


def test_supabases_default_privileges_give_clients_nothing(old):
    """
    There every new table and function in public is granted to anon and authenticated.
    """
    apply_schema(old)

    for grantee in ("anon", "authenticated"):
        tables = rows(
            old,
            "select table_name || ' ' || privilege_type from information_schema.role_table_grants"
            " where grantee = %s and table_schema in ('public', 'gateway')",
            grantee,
        )
        assert {"anon": set(), "authenticated": {"user_profile SELECT", "provider_data SELECT"}}[grantee] == set(tables)
        functions = rows(
            old,
            f"select p.proname from pg_proc p join pg_namespace n on n.oid = p.pronamespace"
            f" where {OURS} and has_function_privilege(%s, p.oid, 'execute')",
            grantee,
        )
        assert [] == functions


def test_a_generous_old_policy_no_longer_shows_anothers_rows(old):
    """
    Policies add up: an existing `using (true)` stays, and opens nothing.
    """
    apply_schema(old)
    alice = rows(old, "select id from auth.users order by id limit 1")[0]

    assert rows(old, "select 1 from pg_policies where policyname = 'everybody reads'")
    with acting(old, "authenticated", alice) as client:
        owners = client.execute("select distinct auth_provider_id from public.provider_data").fetchall()
        written = client.execute("update public.provider_data set token = 'x' returning auth_provider_id").fetchall()
    assert [(alice,)] == owners
    assert {(alice,)} == set(written)


@pytest.mark.parametrize("name", ["ghl", "GHL", "Go High Level", "GoHighLevel", " Ghl ", None])
def test_connecting_adopts_the_row_that_stood_before(old, name):
    """
    Whatever it was called then: the id stays, so the documented query still finds one row of the type.
    """
    apply_schema(old)
    alice = Person("alice", id=rows(old, "select id from auth.users order by id limit 1")[0])
    oldest = rows(
        old,
        "select id from provider_data where auth_provider_id = %s and type = 1 order by created_at nulls last, id",
        alice.id,
    )[0]
    rows(old, "update public.provider_data set name = %s where id = %s", name, oldest)
    rows(
        old, "delete from public.provider_data where auth_provider_id = %s and type = 1 and id <> %s", alice.id, oldest
    )
    store = open_postgres(old)

    made = alice.connects(store)
    store.close()

    assert (oldest, 1) == (made.id, made.generation)
    assert [(oldest, "ghl", "gAAAA-token-of-alice")] == rows(
        old, "select id, name, token from provider_data where auth_provider_id = %s and type = 1", alice.id
    )


def test_on_supabase_no_user_is_created(old):
    """
    Its users are its own: a session for an unknown, banned or deleted one is refused, and no row appears.
    """
    apply_schema(old)
    store, known = open_postgres(old), rows(old, "select count(*) from auth.users")
    banned, deleted = rows(old, "select id from auth.users order by id offset 1 limit 2")
    rows(old, "update auth.users set banned_until = now() + interval '1 day' where id = %s", banned)
    rows(old, "update auth.users set deleted_at = now() where id = %s", deleted)

    assert rows(old, "select gateway.own_auth()") == [False]
    assert [None] * 3 == [Person("x", id=who).signs_in(store) for who in (uuid.uuid4(), banned, deleted)]
    assert known == rows(old, "select count(*) from auth.users")
    store.close()


# -- any owner --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["superuser", "modest", "gateway_app", "supabase"])
def test_the_whole_way_works_whoever_owns_the_database(cluster, template, kind):
    """
    Sign in, start, come back, save, list, disconnect, delete the user: as superuser, as an owner whom forced row-level
    security binds, as gateway_app, and on Supabase's tables.
    """
    with fresh_database(cluster) as owned:
        name = owned.partition("@/")[2].partition("?")[0]
        alice, dsn = Person("alice"), owned
        if kind == "modest":
            administer(cluster, MODEST_OWNER)
            administer(cluster, f"alter database {name} owner to modest")
            dsn = database_dsn(cluster, name, "modest")
        if kind == "supabase":
            administer_in(owned, SUPABASE)
            rows(owned, "insert into auth.users (id) values (%s)", alice.id)
        for _ in range(2):
            apply_schema(dsn)
        if kind == "gateway_app":
            administer_in(owned, "alter role gateway_app login")
            dsn = database_dsn(cluster, name, "gateway_app")
        store = open_postgres(dsn)
        _whole_way(store, alice)
        alice.connects(store)
        store.close()
        rows(owned, "delete from auth.users where id = %s", alice.id)

        assert [2] == rows(owned, "select count(*) from gateway.revocation")
        assert [0] == rows(owned, "select count(*) from public.user_profile")


def _whole_way(store, alice):
    assert alice.id == alice.signs_in(store)
    alice.starts(store)
    assert (alice.id, True) == ((request := alice.returns(store)).user_id, request.is_signed_in)
    standing = alice.connects(store)
    assert [standing.id] == [each.id for each in alice.listed(store)]
    assert erase_own_connection(store, session_hash=alice.session, connection_id=standing.id).revocation is not None
    assert () == alice.listed(store)
