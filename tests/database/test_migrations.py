"""
The schema's files: numbered once, generated into schema.sql, and applied over every earlier version.
"""

from __future__ import annotations

import psycopg
import pytest

from gateway.database import SCHEMA_VERSION, apply_schema, migrate
from tests.support.database import rows

VERSIONS = [migration.number for migration in migrate.migrations()]


def test_migrations_are_numbered_without_a_gap():
    """
    From 1; two files with one number would leave the order to their names.
    """
    assert list(range(1, len(VERSIONS) + 1)) == VERSIONS


def test_schema_sql_is_what_the_files_generate():
    """
    `python -m gateway.database` writes it.
    """
    assert migrate.PASTED.read_text(encoding="utf-8") == migrate.script()


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
