"""
Processes that want the same thing at the same moment.
"""

from __future__ import annotations

import threading
import uuid
from contextlib import suppress

import psycopg

from gateway.database.queries.tokens import derived_token, pause_account
from gateway.errors import ProviderLimit
from tests.support.database import race, rows
from tests.support.patience import wait_for

SAVE = """
saved = Person("alice", id=uuid.UUID(argv[0])).connects(store, provider=argv[1], token=argv[2])
said = [str(saved.id), saved.generation]
"""


def test_ten_processes_take_one_state_and_one_gets_it(database, store, alice):
    """
    Ten callbacks at once redeem one code.
    """
    alice.starts(store)
    take = """
from gateway.database.queries.connections import erase_own_connection
from gateway.database.queries.connect import take_authorization
from gateway.database.queries.connect import AuthorizationRequest
from tests.support.patience import wait_for
taken = take_authorization(store, state_hash="state", provider="ghl", browser_hash="browser", session_hash=argv[0])
said = isinstance(taken, AuthorizationRequest)
"""

    assert [False] * 9 + [True] == sorted(race(database, take, [[alice.session]] * 10))


def test_eight_processes_save_one_connection_as_one_row(database, alice):
    """
    Each gets its turn as a generation of its own; the row, the id in the array and the creation happen once.
    """
    said = race(database, SAVE, [[str(alice.id), "ghl", f"token-{n}"] for n in range(8)])

    assert list(range(1, 9)) == sorted(generation for _, generation in said)
    assert 1 == len({connection for connection, _ in said})
    assert [1] == rows(database, "select count(*) from gateway.event where type = 'connection.created'")
    last = next(n for n, (_, generation) in enumerate(said) if generation == 8)
    assert [(uuid.UUID(said[0][0]), f"token-{last}")] == rows(database, "select id, token from public.provider_data")
    assert [[said[0][0]]] == rows(database, "select providers from public.user_profile")


def test_first_connects_to_different_providers_make_one_profile(database, alice):
    """
    It lists both.
    """
    said = race(database, SAVE, [[str(alice.id), provider, "t"] for provider in ("ghl", "google", "zoom", "acme")])

    listed = rows(database, "select providers from public.user_profile")
    assert [sorted(connection for connection, _ in said)] == [sorted(each) for each in listed]


def test_five_processes_disconnect_and_one_did_it(database, store, alice):
    """
    One receipt, one entry in the queue.
    """
    standing = alice.connects(store)
    erase = "said = erase_own_connection(store, session_hash=argv[0], connection_id=uuid.UUID(argv[1])) is not None"

    assert [False] * 4 + [True] == sorted(race(database, erase, [[alice.session, str(standing.id)]] * 5))
    assert [1] == rows(database, "select count(*) from gateway.revocation")


def test_saving_and_deleting_the_user_at_once_leaves_nothing_unqueued(database, alice):
    """
    In any order: no row of a deleted user, and each stored grant is queued.
    """
    delete = "import psycopg\nwith psycopg.connect(argv[3], autocommit=True) as c: c.execute('delete from auth.users')\nsaid = 0"
    script = f"""
if argv[1] == "delete":
    {delete.replace(chr(10), chr(10) + "    ")}
else:
    try:
        Person("alice", id=uuid.UUID(argv[0])).connects(store, token=argv[2])
        said = 1
    except Exception as refused:
        said = type(refused).__name__
"""
    said = race(database, script, [[str(alice.id), kind, "t", database] for kind in ("ghl", "delete")])

    assert said[0] in {1, "Unauthenticated", "Unexpected"}
    assert [0] == rows(database, "select count(*) from public.provider_data")
    assert [int(said[0] == 1)] == rows(database, "select count(*) from gateway.revocation")


def test_a_save_that_waited_for_a_refresh_follows_it(database, store, alice):
    """
    The row was locked by a refresh while the save looked at it: the save is the next generation, and keeps what the refresh brought where it
    brings no refresh token itself.
    """
    made = alice.connects(store)
    answers = []
    with psycopg.connect(database) as refreshing:
        refreshing.execute(
            "select public.gateway_finish_refresh_v1(p_connection_id => %s, p_generation => %s, p_token => 'gAAAA-refreshed',"
            " p_refresh => 'gAAAA-rotated', p_seal_id => gen_random_uuid(), p_scope => '{}', p_expires_seconds => 3600,"
            " p_refresh_expires_seconds => null, p_renewed => false, p_account => null, p_facts => '{}')",
            [made.id, made.generation],
        )
        saving = threading.Thread(
            target=lambda: answers.append(alice.connects(store, token="of-the-save", refresh=None))
        )
        saving.start()
        with psycopg.connect(database, autocommit=True) as looking:
            waiting = (
                "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
            )
            wait_for(lambda: looking.execute(waiting).fetchone()[0])
        refreshing.commit()
        saving.join()

    assert (made.id, 3) == (answers[0].id, answers[0].generation)
    assert [("of-the-save", "gAAAA-rotated")] == rows(database, "select token, refresh from public.provider_data")


def test_a_pause_of_the_provider_that_ends_meanwhile_does_not_end_the_connection(database, store, alice):
    """
    A location's token is asked for in the moment in which the pause for the account ends.
    """
    held = alice.connects(store).id
    [function] = rows(database, "select pg_get_functiondef('gateway.provider_limit(text, text)'::regprocedure)")
    slow = function.replace("provider_pause x where", "provider_pause x, lateral (select x.most, pg_sleep(1)) where")
    assert slow != function
    rows(database, slow)
    try:
        pause_account(store, held, account_id=None, kind="burst", most=100, seconds=0.9)
        found = "the pause"
        with suppress(ProviderLimit):
            found = derived_token(store, held, "location", min_seconds=60, refused=None, lease_seconds=12)
    finally:
        rows(database, function)

    assert found is not None
