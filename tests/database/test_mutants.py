"""
Schemas broken on purpose, each of which has to be found.

A probe that would pass on anything proves nothing. So the probes that find nothing in a sound schema run on broken ones, and the doctor
too; each break is in `schema_mutants` and is undone with its transaction.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from gateway.database.migrate import script
from gateway.doctor import Finding
from gateway.doctor.database import access_rules
from tests.support.database import Person, Two, fresh_database, rows
from tests.support.old_databases import OLD_TABLES, SUPABASE
from tests.support.rls_probes import PROBES, Scene
from tests.support.schema_mutants import LINES, OPEN, THIN

ALICE, BOB = Person("alice"), Person("bob")


def connected(owner: psycopg.Connection) -> dict[Person, uuid.UUID]:
    """Both sign in and connect, by the functions alone."""
    soon = datetime.now(UTC) + timedelta(hours=1)
    found = {}
    for who in (ALICE, BOB):
        signed_in = [who.session, str(who.id), who.label, soon]
        owner.execute("select public.gateway_open_session_v1(%s, %s, %s, %s)", signed_in)
        saved = owner.execute(
            "select public.gateway_save_connection_v1(%s::jsonb, '{}', '{}', false, null, null) ->> 'id'",
            [json.dumps(asdict(who.grant()), default=str)],
        )
        found[who] = uuid.UUID(saved.fetchone()[0])
    return found


def scene_of(owner: psycopg.Connection, dsn: str) -> Scene:
    """The rows of Alice and Bob."""
    owner.execute("set local search_path = public")  # the script leaves it empty
    saved = connected(owner)
    asked = "select id from public.user_profile where user_id_auth = %s order by created_at nulls last, id limit 1"
    profiles = {who: owner.execute(asked, [who.id]).fetchone()[0] for who in saved}
    return Scene(owner, Two(dsn, ALICE, BOB, saved, profiles))


@pytest.fixture(scope="module")
def sound(cluster, template) -> Iterator[str]:
    with fresh_database(cluster, template) as dsn:
        yield dsn


@pytest.fixture(scope="module")
def supabase(cluster) -> Iterator[str]:
    """A Supabase project with tables and policies from before, and with its default privileges."""
    with fresh_database(cluster) as dsn:
        rows(dsn, SUPABASE)
        rows(dsn, OLD_TABLES)
        for who in (ALICE, BOB):
            rows(dsn, "insert into auth.users (id) values (%s)", who.id)
        yield dsn


@pytest.fixture(scope="module")
def kept(sound) -> Iterator[Scene]:
    with psycopg.connect(sound, prepare_threshold=None) as owner, owner.transaction(force_rollback=True):
        yield scene_of(owner, sound)


@pytest.fixture
def scene(kept) -> Iterator[Scene]:
    with kept.owner.transaction(force_rollback=True):
        yield kept


def found_by_probes(scene: Scene) -> Iterator[str]:
    """What the probes see, one after the other; one that cannot even be made has seen something too."""
    for probe in PROBES:
        try:
            yield from probe(scene)
        except psycopg.Error as error:
            yield f"{probe.__name__}: {type(error).__name__}"


def first_found(scene: Scene) -> str | None:
    return next(found_by_probes(scene), None)


def told(owner: psycopg.Connection) -> list[Finding]:
    """The doctor's findings about it."""
    with owner.transaction(force_rollback=True):
        owner.execute("select set_config('search_path', '', true)")
        return [finding for finding in access_rules(owner) if finding.level in ("warn", "fail")]


# -- nothing is found where nothing is wrong -------------------------------------------------------------------------


def test_a_sound_schema_is_found_sound(scene):
    """
    Otherwise finding something in a broken one would say nothing.
    """
    assert [] == list(found_by_probes(scene))
    assert [] == told(scene.owner)


def test_a_project_that_stood_before_is_sound_once_the_schema_was_applied(supabase):
    """
    Over Supabase's default privileges; the doctor only reports the tutorial's remaining policies.
    """
    with psycopg.connect(supabase) as owner, owner.transaction(force_rollback=True):
        owner.execute(script().encode())
        scene = scene_of(owner, supabase)

        assert [] == list(found_by_probes(scene))
        assert [] == [finding for finding in told(owner) if "is not ours" not in finding.message]


# -- every mutant is found -------------------------------------------------------------------------------------------

APPLY = "Run `python -m gateway db apply`: it sets everything up again and loses nothing."
"""What checks.sql names where another run of the schema is the fix."""
NOT_IN_THE_CATALOGUE = {
    "users can be read": "Supabase's own table: who may read it is Supabase's to say",
    "the owner's server is not granted": "an operator may take more from it than we do",
}
"""Mutants that a probe finds and the doctor does not, and why."""


@pytest.mark.parametrize("name", OPEN)
def test_a_break_that_opens_something_is_found_by_a_probe(scene, name):
    """
    And, unless it is none of the doctor's business, by the doctor.
    """
    scene.owner.execute(OPEN[name])

    assert first_found(scene)
    assert bool(told(scene.owner)) is not (name in NOT_IN_THE_CATALOGUE)


@pytest.mark.parametrize("name", THIN)
def test_a_break_that_leaves_one_layer_is_found_by_the_doctor(scene, name):
    """
    Nothing comes of it yet: the catalogues alone show it.
    """
    scene.owner.execute(THIN[name])

    assert told(scene.owner)


@pytest.mark.parametrize("name", LINES)
def test_a_schema_without_one_of_its_lines_is_found(supabase, name):
    """
    Over an existing project, with default privileges and open policies.
    """
    text = script()
    assert LINES[name] in text
    instead = {"as": "for all to authenticated", "execute": "null;", "(old.id,": "(old.id)"}.get(
        LINES[name].split()[0], ""
    )
    broken = text.replace(LINES[name], instead)
    if instead == "(old.id)":
        broken = broken.replace(
            "(new.id, new.provider_id_ref, new.auth_provider_id, new.name, new.type, new.created_at)", "(new.id)"
        )
    with psycopg.connect(supabase) as owner, owner.transaction(force_rollback=True):
        owner.execute(broken.encode())
        scene = scene_of(owner, supabase)

        assert first_found(scene)


def test_db_apply_fixes_what_the_doctor_says_it_fixes(scene):
    """
    Wherever `db apply` is the named fix, it works: afterwards there is no finding. Many breaks are fixed by one run.
    """
    owner, waiting, fixed = scene.owner, dict(THIN), 0
    while waiting:
        with owner.transaction(force_rollback=True):
            broken = [name for name, text in list(waiting.items()) if breaks(owner, waiting, name, text)]
            assert broken or not waiting
            owner.execute(script().encode())
            fixed += len(broken)
            assert [] == [finding.message for finding in told(owner)], broken
    assert fixed > 15


def breaks(owner: psycopg.Connection, waiting: dict[str, str], name: str, text: str) -> bool:
    """Break one more thing, if that is possible beside the others and `db apply` is the fix of all that the doctor finds."""
    try:
        with owner.transaction():
            owner.execute(text)
            if all(finding.fix == APPLY for finding in told(owner)):
                return waiting.pop(name) is not None
            del waiting[name]
            raise psycopg.Rollback
    except psycopg.Error:
        return False  # not beside the others: in the next round
    return False
