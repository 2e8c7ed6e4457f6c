"""
schema.sql on a plain Postgres: set up, set up again, refused, and who may call what it offers.
"""

# ruff: noqa: S608 -- the names of tables and columns are written here

from __future__ import annotations

import re
import subprocess
import sys
import uuid

import pytest
from psycopg.errors import InsufficientPrivilege

from gateway.database import SCHEMA_VERSION, open_postgres
from gateway.database.migrate import PASTED, apply_schema
from gateway.errors import SettingsRefused, Unexpected
from tests.support.database import acting, rows
from tests.support.old_databases import DOCUMENTED, OURS


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
        "select number, name, sha256 from gateway.migration",
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
    And a plain Postgres differs from Supabase.
    """
    assert {"version": SCHEMA_VERSION, "is_current": True} == store.schema()


def test_a_database_without_the_schema_is_version_nought(bare_database):
    """
    Not an error: `db status` and `serve` have to say so in words.
    """
    store = open_postgres(bare_database)
    assert {"version": 0, "is_current": False} == store.schema()
    store.close()


def test_a_newer_database_is_refused_and_left_alone(database):
    """
    An old checkout must not undo what a newer one set up.
    """
    rows(database, "insert into gateway.migration (number, name, sha256) values (99, 'later', '')")

    with pytest.raises(SettingsRefused, match=r"newer release .* run that one"):
        apply_schema(database)
    assert [99] == rows(database, "select max(number) from gateway.migration")


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
    program = f"from gateway.database.migrate import apply_schema; apply_schema({bare_database!r})"
    root = PASTED.parent
    runs = [subprocess.Popen([sys.executable, "-c", program], cwd=root) for _ in range(3)]

    assert [0, 0, 0] == [run.wait(60) for run in runs]


def test_the_owner_may_write_these_columns_and_no_other(database):
    """
    By the grants themselves; the trigger behind them is a second lock, not the first.
    """
    granted = rows(
        database,
        "select privilege_type, table_name, column_name from information_schema.column_privileges"
        " where grantee in ('authenticated', 'anon', 'PUBLIC') and privilege_type <> 'SELECT' and table_schema = 'public'",
    )
    written = {"token", "refresh", "expires", "data"}
    inserted = written | {"id", "provider_id_ref", "auth_provider_id", "name", "type"}

    assert {("UPDATE", "user_profile", column) for column in ("user_name", "updated_at")} | {
        ("UPDATE", "provider_data", column) for column in written
    } | {("INSERT", "provider_data", column) for column in inserted} == set(granted)


# -- functions -------------------------------------------------------------------------------------------------------


def test_every_function_that_is_offered_is_closed_and_qualified(database):
    """
    `security definer`, an empty search_path and a JSON answer, without an exception.
    """
    found = rows(
        database,
        f"select p.proname, p.prosecdef, p.proconfig::text, p.prorettype::regtype::text from pg_proc p"
        f" join pg_namespace n on n.oid = p.pronamespace where {OURS} and n.nspname = 'public'",
    )

    assert len(found) > 10
    for name, definer, config, answer in found:
        assert re.fullmatch(r"gateway_[a-z_]+_v\d+", name)
        assert (definer, answer.removesuffix("b")) == (True, "json"), name
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
def test_no_client_role_may_use_the_schema(database, role):
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
    Not only according to the catalogue.
    """
    with pytest.raises(InsufficientPrivilege), acting(database, role, uuid.uuid4()) as client:
        client.execute("select public.gateway_session_v1('x')")
