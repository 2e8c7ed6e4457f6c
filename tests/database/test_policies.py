"""
Who may do what to the owner's two tables: each client role, each verb, in both directions.

The attempts are in `rls_probes`; test_mutants runs them on broken schemas, so that a probe without effect is found.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import psycopg
import pytest

from gateway.database import open_postgres
from tests.support.database import Person, Two, acting, fresh_database, rows
from tests.support.rls_probes import PROBES, Scene

TABLES = ("user_profile", "provider_data")


@pytest.fixture(scope="module")
def two(cluster, template) -> Iterator[Two]:
    alice, bob = Person("alice"), Person("bob")
    with fresh_database(cluster, template) as database:
        store = open_postgres(database)
        for who in (alice, bob):
            who.signs_in(store)
        saved = {who: who.connects(store).id for who in (alice, bob)}
        store.close()
        yield Two(database, alice, bob, saved, dict(zip((alice, bob), _profiles(database, alice, bob), strict=True)))


def _profiles(database: str, *people: Person) -> list[uuid.UUID]:
    return [rows(database, "select id from user_profile where user_id_auth = %s", who.id)[0] for who in people]


@pytest.fixture
def scene(two) -> Iterator[Scene]:
    with psycopg.connect(two.database) as owner, owner.transaction(force_rollback=True):
        yield Scene(owner, two)


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.__name__)
def test_no_probe_finds_a_way(scene, probe):
    """
    Each probe is a promise, and its docstring says which.
    """
    assert [] == probe(scene)


def test_the_documented_query_answers_every_documented_column(two):
    """
    `.select('*')`: the columns of database-schema.md, and no other.
    """
    with acting(two.database, "authenticated", two.alice.id) as client:
        cursor = client.execute("select * from public.provider_data")

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
