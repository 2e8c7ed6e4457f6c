"""
schema.sql, set up and brought up to date: on nothing, on itself, on an old database, on Supabase and under a modest owner.
"""

# ruff: noqa: S608 -- the names of tables and columns are written here

from __future__ import annotations

import re
import subprocess
import sys
import uuid

import psycopg
import pytest
from old_databases import MODEST_OWNER, OLD_TABLES, SUPABASE, fill_old_tables
from postgres import Person, acting, administer, database_dsn, fresh_database, rows
from psycopg.errors import InsufficientPrivilege

from gateway.errors import Unexpected
from gateway.store import SCHEMA_VERSION, apply_schema, open_store, schema_path

DOCUMENTED = {
    "user_profile": {
        "id": "uuid",
        "created_at": "timestamp with time zone",
        "updated_at": "timestamp with time zone",
        "user_id_auth": "uuid",
        "user_name": "text",
        "providers": "ARRAY",
    },
    "provider_data": {
        "id": "uuid",
        "created_at": "timestamp with time zone",
        "provider_id_ref": "uuid",
        "auth_provider_id": "uuid",
        "name": "text",
        "type": "numeric",
        "token": "text",
        "refresh": "text",
        "expires": "text",
        "data": "jsonb",
    },
}
OURS = "(n.nspname = 'gateway' or n.nspname = 'public' and p.proname ~ '^gateway_')"


def snapshot(dsn: str) -> list[object]:
    """Everything that a second run must leave as it is: columns, policies, grants, indexes, relations, functions, triggers."""
    ours = "any (array['public', 'gateway', 'auth']::regnamespace[])"
    functions = f"from pg_proc p join pg_namespace n on n.oid = p.pronamespace where {OURS}"
    asked = [
        f"select c.oid::regclass::text, a.attname, array(select unnest(a.attacl)::text order by 1) from pg_attribute a join pg_class c on c.oid = a.attrelid and c.relnamespace = {ours}",
        f"select c.oid::regclass::text, c.relrowsecurity, c.relforcerowsecurity, array(select unnest(c.relacl)::text order by 1) from pg_class c where c.relnamespace = {ours}",
        "select pg_get_expr(adbin, adrelid) from pg_attrdef",
        "select * from pg_policies",
        f"select conrelid::regclass::text, conname, pg_get_constraintdef(oid) from pg_constraint where connamespace = {ours}",
        f"select p.oid::regprocedure::text, array(select unnest(p.proacl)::text order by 1), p.prosrc {functions}",
        "select tgrelid::regclass::text, tgname, tgenabled from pg_trigger where not tgisinternal",
        "select * from gateway.schema",
    ]
    return [sorted(map(repr, rows(dsn, statement))) for statement in asked]


# -- a plain Postgres ------------------------------------------------------------------------------------------------


def test_a_second_run_changes_nothing(bare_database):
    """
    Any number of times.
    """
    apply_schema(bare_database)
    once = snapshot(bare_database)

    assert [] == apply_schema(bare_database)
    assert once == snapshot(bare_database)


@pytest.mark.parametrize("table", DOCUMENTED)
def test_the_owners_tables_have_exactly_the_documented_columns(database, table):
    """
    database-schema.md, column by column.
    """
    found = rows(
        database,
        "select column_name, data_type from information_schema.columns where table_name = %s and table_schema = 'public'",
        table,
    )
    assert DOCUMENTED[table] == dict(found)


def test_the_documented_indexes_and_relations_are_there(database):
    """
    Three indexes, three foreign keys; each of them takes the rows along with their user.
    """
    indexes = rows(database, "select indexname from pg_indexes where schemaname = 'public' and indexname like 'idx%'")
    relations = rows(
        database,
        "select conrelid::regclass::text || ' ' || confrelid::regclass::text || ' ' || confdeltype::text from pg_constraint"
        " where contype = 'f' and connamespace = 'public'::regnamespace",
    )

    assert {"idx_user_profile_user_id_auth", "idx_provider_data_provider_id", "idx_provider_data_auth_id"} == set(
        indexes
    )
    assert ["provider_data auth.users c", "provider_data user_profile c", "user_profile auth.users c"] == sorted(
        relations
    )


def test_every_unique_index_of_ours_says_what_it_promises(database):
    """
    In its comment.
    """
    unnamed = rows(
        database,
        "select i.indexrelid::regclass::text from pg_index i join pg_class c on c.oid = i.indexrelid"
        " where c.relnamespace = 'gateway'::regnamespace and i.indisunique and obj_description(c.oid, 'pg_class') is null",
    )
    assert [] == unnamed


def test_the_version_in_the_database_is_the_one_the_code_was_written_for(database, store):
    """
    And a plain Postgres is told from Supabase.
    """
    assert {"version": SCHEMA_VERSION, "own_auth": True} == store.schema()


def test_a_database_without_the_schema_is_version_nought(bare_database):
    """
    Not an error: `db status` and `serve` have to say so in words.
    """
    store = open_store(bare_database)
    assert {"version": 0, "own_auth": False} == store.schema()
    store.close()


def test_a_newer_database_is_refused_and_left_alone(database):
    """
    An old checkout must not undo what a newer one set up.
    """
    rows(database, "update gateway.schema set version = 99")

    with pytest.raises(Unexpected, match="newer"):
        apply_schema(database)
    assert [99] == rows(database, "select version from gateway.schema")


def test_a_run_that_fails_leaves_nothing_behind(bare_database):
    """
    One transaction: half a schema would be worse than none.
    """
    rows(bare_database, "create table public.provider_data (id text primary key)")

    with pytest.raises(Unexpected):
        apply_schema(bare_database)
    assert [None, None] == list(rows(bare_database, "select to_regnamespace('gateway'), to_regclass('auth.users')")[0])


def test_two_runs_at_once_both_succeed(bare_database):
    """
    Two servers starting on a fresh database.
    """
    program = f"from gateway.store import apply_schema; apply_schema({bare_database!r})"
    root = schema_path().parent
    runs = [subprocess.Popen([sys.executable, "-c", program], cwd=root) for _ in range(3)]

    assert [0, 0, 0] == [run.wait(60) for run in runs]


# -- functions -------------------------------------------------------------------------------------------------------


def test_every_function_that_is_offered_is_closed_and_qualified(database):
    """
    `security definer`, an empty search_path and a jsonb answer, without an exception.
    """
    found = rows(
        database,
        f"select p.proname, p.prosecdef, p.proconfig::text, p.prorettype::regtype::text from pg_proc p"
        f" join pg_namespace n on n.oid = p.pronamespace where {OURS} and n.nspname = 'public'",
    )

    assert len(found) > 10
    for name, definer, config, answer in found:
        assert re.fullmatch(r"gateway_[a-z_]+_v\d+", name)
        assert (definer, answer) == (True, "jsonb"), name
        assert 'search_path=\\"\\"' in config, name


@pytest.mark.parametrize("role", ["anon", "authenticated", "public"])
def test_client_roles_may_execute_no_function_of_ours(database, role):
    """
    Enumerated from the catalogue, in both schemas, so that none is forgotten.
    """
    allowed = rows(
        database,
        f"select p.oid::regprocedure::text from pg_proc p join pg_namespace n on n.oid = p.pronamespace"
        f" where {OURS} and has_function_privilege(%s, p.oid, 'execute')",
        role,
    )
    assert [] == allowed


@pytest.mark.parametrize("role", ["service_role", "gateway_app"])
def test_the_two_servers_may_execute_what_is_offered_and_nothing_inside(database, role):
    """
    Everything in public, nothing in gateway.
    """
    allowed = rows(
        database,
        f"select n.nspname = 'public', has_function_privilege(%s, p.oid, 'execute') from pg_proc p"
        f" join pg_namespace n on n.oid = p.pronamespace where {OURS}",
        role,
    )
    assert all(offered is allowed for offered, allowed in allowed)


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role", "gateway_app"])
def test_nobody_may_use_our_schema(database, role):
    """
    Neither use nor create, and no table in it.
    """
    asked = "select has_schema_privilege(%s, 'gateway', 'usage') or has_schema_privilege(%s, 'gateway', 'create')"
    granted = rows(
        database,
        "select 1 from information_schema.role_table_grants where table_schema = 'gateway' and grantee = %s",
        role,
    )
    assert ([False], []) == (rows(database, asked, role, role), granted)


@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_a_client_role_is_refused_when_it_tries(database, role):
    """
    Not only by the catalogue's word.
    """
    with pytest.raises(InsufficientPrivilege), acting(database, role, uuid.uuid4()) as client:
        client.execute("select public.gateway_session_v1('x')")


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
    assert any("everybody reads" in line for line in told)
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
    Policies add up: `using (true)` from before stands, and opens nothing any more.
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
    store = open_store(old)

    first = store.save_connection(**alice.grant())
    assert (False, oldest, 0) == (first.saved, first.standing.id, first.standing.generation)
    again = store.save_connection(**alice.grant(connection_id=oldest))
    store.close()

    assert (True, True) == (again.saved, again.created)
    assert [(oldest, "ghl", "sealed-token-of-alice")] == rows(
        old, "select id, name, token from provider_data where auth_provider_id = %s and type = 1", alice.id
    )


def test_on_supabase_nobody_is_made_known(old):
    """
    Its users are its own: a session for an unknown, banned or deleted one is refused, and no row appears.
    """
    apply_schema(old)
    store, known = open_store(old), rows(old, "select count(*) from auth.users")
    banned, deleted = rows(old, "select id from auth.users order by id offset 1 limit 2")
    rows(old, "update auth.users set banned_until = now() + interval '1 day' where id = %s", banned)
    rows(old, "update auth.users set deleted_at = now() where id = %s", deleted)

    assert store.schema()["own_auth"] is False
    assert [None] * 3 == [Person("x", id=who).signs_in(store) for who in (uuid.uuid4(), banned, deleted)]
    assert known == rows(old, "select count(*) from auth.users")
    store.close()


# -- whoever runs it -------------------------------------------------------------------------------------------------


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
        store = open_store(dsn)
        _whole_way(store, alice)
        alice.connects(store)
        store.close()
        rows(owned, "delete from auth.users where id = %s", alice.id)

        assert [2] == rows(owned, "select count(*) from gateway.revocation")
        assert [0] == rows(owned, "select count(*) from public.user_profile")


def _whole_way(store, alice):
    assert alice.id == alice.signs_in(store)
    started = {"provider": "ghl", "sealed": "s", "scope": ["a"], "return_to": None, "display": "page"}
    store.start_authorization(session_hash=alice.session, state_hash="state", browser_hash="b", **started)
    request = store.take_authorization(state_hash="state", session_hash=alice.session)
    assert (alice.id, alice.id) == (request.user_id, request.session_user_id)
    standing = alice.connects(store)
    assert [standing.id] == [each.id for each in store.connections(alice.session).connections]
    assert store.disconnect(session_hash=alice.session, connection_id=standing.id).revocation is not None
    assert () == store.connections(alice.session).connections
