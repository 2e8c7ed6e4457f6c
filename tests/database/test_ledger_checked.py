"""
The ledger, checked: whatever is done to a row in the database is named, and its key is not there.
"""

from __future__ import annotations

import pytest
from cryptography.fernet import Fernet

from gateway.errors import SecretUnreadable
from gateway.events import seal_all, seal_once
from tests.database.test_rotation import rotate
from tests.support.database import rows
from tests.support.ledger_fixtures import KEY, append, checked, pages_of, problem, put_back

CHANGES = {
    "data": "data = '{}'",
    "a number in the data": """data = jsonb_set(data, '{b}', '1.5')""",
    "type": "type = 'token.rea'",
    "time, by a microsecond": "at = at + interval '1 microsecond'",
    "connection": "connection_id = gen_random_uuid()",
    "user": "user_id = gen_random_uuid()",
    "partner": "partner_id = gen_random_uuid()",
    "provider": "provider = 'ghl'",
    "id": "id = gen_random_uuid()",
    "hash": "hash = repeat('0', 64)",
    "no hash": "hash = null",
}


def test_a_changed_row_is_named(sealed, database):
    """
    Whichever column, by however little.
    """
    for name, change in CHANGES.items():
        with put_back(database):
            rows(database, f"update gateway.event set {change} where position = 17")  # noqa: S608
            assert ("changed", 17, 17) == problem(sealed), name
            assert "The event at position 17 was changed." == checked(sealed).problem.says
    assert problem(sealed) is None


MADE_UP = "insert into gateway.event (type, position, hash) values ('made.up', {}, repeat('a', 64))"
DONE = {
    ("delete from gateway.event where position = 17",): ("removed", 17, 17),
    ("delete from gateway.event where position in (17, 18)",): ("removed", 17, 18),
    ("delete from gateway.event where position = 1",): ("removed", 1, 1),
    ("delete from gateway.event where position > 25",): ("removed", 26, 30),
    ("delete from gateway.event",): ("removed", 1, 30),
    ("update gateway.event set position = null, hash = null where position = 17",): ("removed", 17, 17),
    (
        "update gateway.event set position = -17 where position = 17",
        "update gateway.event set position = 17 where position = 20",
        "update gateway.event set position = 20 where position = -17",
    ): ("reordered", 17, 20),
    (
        "update gateway.event set position = -position where position >= 17",
        "update gateway.event set position = 1 - position where position < 0",
        MADE_UP.format(17),
        "update gateway.ledger set position = 31",
    ): ("inserted", 17, 17),
    (MADE_UP.format(31),): ("inserted", 31, 31),
    (MADE_UP.format(0),): ("front", 0, 0),
    (
        "delete from gateway.event where position > 25",
        "update gateway.ledger set position = 25, hash = (select hash from gateway.event where position = 25)",
    ): ("cut_off", 26, 30),
    (
        "delete from gateway.event where position <= 5",
        "update gateway.ledger set dropped_position = 5, dropped_hash = 'h', dropped_mark = 'm'",
    ): ("front", 1, 5),
    ("update gateway.ledger set position = 0, hash = '', mark = '', sealed_key = null",): ("cut_off", 1, 30),
    ("drop index gateway.event_position", MADE_UP.format(17)): ("inserted", 17, 17),
}
"""What somebody with access to the database does, and the first thing that a check has to name."""


def test_what_was_removed_moved_or_made_up_is_named(sealed, database):
    """
    The first of it, in whichever page.
    """
    for statements, named in DONE.items():
        with put_back(database):
            for one in statements:
                rows(database, one)
            assert named == problem(sealed), statements
    assert problem(sealed) is None


def test_it_is_named_in_whichever_page_it_stands(sealed, database, monkeypatch):
    """
    Pages of seven rows; of a gap over the end of one, what is in the first.
    """
    with pages_of(monkeypatch, 7):
        assert problem(sealed) is None
        rows(database, "delete from gateway.event where position between 13 and 16")
        assert ("removed", 13, 14) == problem(sealed)


def test_the_log_finds_a_chain_whose_end_was_put_back(sealed, elsewhere, database):
    """
    Whoever keeps an old head can cut back to it with everything right: the position that the log knows is not there any more.
    """
    old = rows(database, "select position, hash, mark from gateway.ledger")[0]
    append(database, 5)
    seal_all(sealed)
    log = sealed.store.ledger()
    rows(database, "delete from gateway.event where position > 30")
    rows(database, "update gateway.ledger set position = %s, hash = %s, mark = %s", *old)

    assert problem(elsewhere()) is None
    assert ("cut_off", 31, 35) == problem(elsewhere(), (log.position, log.hash))


def test_the_log_finds_a_chain_that_was_made_anew(sealed, elsewhere, database):
    """
    By whoever has the key as well.
    """
    log = sealed.store.ledger()
    for statement in (
        "update gateway.event set position = null, hash = null",
        "delete from gateway.event where id = (select id from gateway.event limit 1)",
        "update gateway.ledger set position = 0, hash = '', mark = ''",
    ):
        rows(database, statement)
    append(database, 1)
    seal_all(other := elsewhere())

    assert problem(other) is None
    assert ("made_anew", 30, 30) == problem(other, (log.position, log.hash))


def test_a_chain_that_has_begun_gets_no_other_key(sealed, database):
    """
    Taken away, put back from elsewhere: nothing is sealed under another, and the check says that it cannot check.
    """
    append(database, 1)
    for stolen in (None, sealed.vault.seal("ab" * 32, row="elsewhere", column="ledger", generation=0)):
        rows(database, "update gateway.ledger set sealed_key = %s, lease_until = null", stolen)
        with pytest.raises(SecretUnreadable):
            seal_once(sealed)
        with pytest.raises(SecretUnreadable):
            problem(sealed)


def test_the_key_is_not_in_the_database(sealed, database):
    """
    What stands there is sealed, under a key that the database does not have.
    """
    (stands,) = rows(database, "select sealed_key from gateway.ledger")

    assert stands.startswith("gAAAA")


def test_rotating_the_keys_does_not_end_the_chain(runtime, sealed, database):
    """
    Its key, and what this host remembers of it, are sealed again under the newest one, counted like everything else.
    """
    new = Fernet.generate_key().decode()
    both = runtime(new, KEY)

    assert 2 == rotate(both, check=True).older
    assert 2 == rotate(both).resealed
    assert 0 == rotate(both, check=True).older
    alone = runtime(new)
    assert 30 == alone.journal.note("ledger")[1]
    append(database, 2)
    assert 2 == seal_all(alone)
    assert (None, 32) == (problem(alone), checked(alone).position)
