"""
The schema's files: numbered once, generated into schema.sql, and applied over every earlier version.
"""

from __future__ import annotations

import psycopg
import pytest
from cryptography.fernet import Fernet

from gateway.database import SCHEMA_VERSION, migrate
from gateway.database.migrate import apply_schema
from gateway.errors import DatabaseUnavailable, SettingsRefused
from tests.support.commands import run_command
from tests.support.database import rows

VERSIONS = [migration.number for migration in migrate.migrations()]


def test_migrations_are_numbered_without_a_gap():
    """
    From 1; two files with one number would leave the order to their names.
    """
    assert list(range(1, len(VERSIONS) + 1)) == VERSIONS


@pytest.mark.parametrize("path", migrate.GENERATED, ids=lambda path: path.name)
def test_the_generated_schema_is_current(path):
    """
    `python -m gateway.database` writes both files.
    """
    assert path.read_text(encoding="utf-8") == migrate.script()


def test_schema_sql_can_be_pasted():
    """
    No psql commands; PostgREST reads the new functions at once.
    """
    text = migrate.script()

    assert not [line for line in text.splitlines() if line.startswith("\\")]
    assert text.rstrip().endswith("notify pgrst, 'reload schema';")


@pytest.mark.parametrize("version", VERSIONS)
def test_every_earlier_version_becomes_the_present_one(bare_database, version):
    """
    What an earlier release set up, then this one, twice.
    """
    with psycopg.connect(bare_database, autocommit=True) as owner:
        owner.execute(migrate.script(through=version).encode())

    for _ in range(2):
        apply_schema(bare_database)

    assert [SCHEMA_VERSION] == rows(bare_database, "select (public.gateway_schema_v1() ->> 'version')::integer")


def test_a_changed_migration_is_refused(bare_database, monkeypatch):
    """
    A database that was set up by another text under the same number is not what the functions were written for.
    """
    first, *later = migrate.migrations()
    apply_schema(bare_database)
    monkeypatch.setattr(migrate, "migrations", lambda: (first._replace(text=first.text + "\nselect 1;\n"), *later))

    with pytest.raises(SettingsRefused, match=r"migration 1 \(owner_tables\)"):
        apply_schema(bare_database)


def test_a_database_with_older_functions_is_not_current_until_they_are_applied(database, store, monkeypatch):
    """
    A release may change functions alone. A database with newer functions stays usable while hosts are updated, and going back is an apply.
    """
    ours = migrate.functions_sha256()
    newer = "f" * 64
    rows(database, "insert into gateway.function_release values (%s)", newer)
    assert store.schema()["is_current"]
    assert "functions and access rules (changed)" in migrate.plan(database)[-1]

    apply_schema(database)
    assert [ours] == rows(database, "select sha256 from gateway.function_release")

    monkeypatch.setattr("gateway.database.functions_sha256", lambda: newer)
    assert not store.schema()["is_current"]
    told = run_command({"DATABASE_URL": database, "GATEWAY_KEYS": Fernet.generate_key().decode()}, "partners", "list")
    assert (2, True) == (told.exit_code, "db apply" in told.stderr)
    told = run_command({"DATABASE_URL": database}, "db", "status")
    assert (1, True) == (told.exit_code, "older functions" in told.stdout)


def test_a_plan_says_what_an_apply_would_do(bare_database):
    """
    And does none of it.
    """
    first, *later = migrate.plan(bare_database)
    assert first == "run migration 1 (owner_tables)"
    assert [None] == rows(bare_database, "select to_regnamespace('gateway')")

    apply_schema(bare_database)
    assert migrate.plan(bare_database) == ["replace functions and access rules (unchanged)"]
    rows(bare_database, "insert into gateway.function_release values ('of another release')")
    assert migrate.plan(bare_database) == ["replace functions and access rules (changed)"]
    assert len(later) == SCHEMA_VERSION


def test_an_apply_waits_for_no_transaction_without_end(database, monkeypatch):
    """
    It asks for its locks a few times, and then says what holds them.
    """
    monkeypatch.setattr(migrate, "_TRIES", 1)
    with psycopg.connect(database) as reader:
        reader.execute("select 1 from public.provider_data")
        with pytest.raises(DatabaseUnavailable, match="other transactions hold the tables"):
            apply_schema(database)


def test_an_export_is_a_new_migration_where_the_schema_changed(tmp_path):
    """
    Supabase runs each file once: the same text is not exported twice, another one gets a file of its own.
    """
    folder = tmp_path / "supabase" / "migrations"
    first = migrate.export_supabase(folder)
    assert first.read_text(encoding="utf-8") == migrate.script()
    assert migrate.export_supabase(folder) == first

    old = first.rename(folder / "20200101000000_gateway.sql")
    old.write_text("select 1;\n", encoding="utf-8")
    assert migrate.export_supabase(folder) != old
    assert len(list(folder.iterdir())) == 2
