"""
Effects of one caller on others: waiting callers are checked themselves, refreshes are limited, no caller ends
another's access, and times tell nothing.
"""

from __future__ import annotations

import contextlib
import statistics
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from gateway.database import open_postgres
from gateway.database.queries import partners as queries
from gateway.database.queries.connections import erase_own_connection, find_uninstall_target, reached_connection
from gateway.database.queries.tokens import ClaimedRefresh, claim_refresh, read_token
from gateway.errors import Unauthenticated
from gateway.models import Caller
from gateway.partners.admin import add_key
from gateway.partners.keys import hash_key, make_key
from tests.http.test_partner_tokens import expires, refreshes
from tests.support.database import Person, rows
from tests.support.partners import partner, partner_of, recorded_reads
from tests.support.patience import held, wait_for

BERLIN = "NorthwindBerlin00001"


@pytest.fixture
def alice(gateway):
    gateway.sandbox.state.faults.clear()
    yield gateway.person("Alice Winter")
    gateway.sandbox.state.faults.clear()


@pytest.fixture
def local(database):
    """The store straight at the database: what REST adds is noise here."""
    opened = open_postgres(database)
    yield opened
    opened.close()


# -- waiting for another's refresh -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("why", "status"), [("reads frozen", 403), ("provider frozen", 403), ("user banned", 401)])
def test_a_caller_that_waits_for_the_gateways_own_refresh_is_checked_itself(gateway, alice, why, status):
    """
    A check leads it, on which no freeze and no ban holds; the owner, who waits for it, gets nothing of what it brings.
    """
    hers, made = alice.connects("ghl")["connection"], partner_of(gateway.dsn)
    path, mine = f"{gateway.url}/v1/connections/{hers}/token", {"Authorization": f"Bearer {alice.token()}"}
    expires(gateway, hers)
    operator = open_postgres(gateway.dsn)
    frozen = {"reads": why == "reads frozen", "provider": "ghl" if why == "provider frozen" else None}
    try:
        with ThreadPoolExecutor(2) as threads, held(gateway.sandbox, "ghl", "token"):
            leads = threads.submit(lambda: made.asks(gateway, f"/connections/{hers}/check", "POST"))
            wait_for(lambda: rows(gateway.dsn, "select lease_id from gateway.connection where id = %s", hers) != [None])
            follows = threads.submit(lambda: requests.get(path, headers=mine, timeout=30))
            wait_for(lambda: recorded_reads(gateway.dsn, connection_id=hers))
            if why == "user banned":
                rows(
                    gateway.dsn,
                    "update auth.users set banned_until = now() + interval '1 hour' where id = %s",
                    alice.user.id,
                )
            else:
                queries.freeze(operator, **frozen)
        assert (200, status) == (leads.result().status_code, follows.result().status_code)
    finally:
        if why != "user banned":
            queries.freeze(operator, **frozen, off=True)
        operator.close()


# -- refreshes are bounded -------------------------------------------------------------------------------------------


def test_ten_new_tokens_of_a_connection_within_a_minute_are_enough(gateway, alice):
    """
    A forced eleventh gets 429, a read gets the valid token; other connections are not affected.
    """
    hers, other = alice.connects("google")["connection"], alice.connects("ghl")["connection"]
    made = partner_of(gateway.dsn)
    for _ in range(10):
        last = made.asks(gateway, f"/connections/{hers}/refresh", "POST")
        assert last.ok
    before = len(refreshes(gateway, "google"))

    forced = made.asks(gateway, f"/connections/{hers}/refresh", "POST")
    longer = made.asks(gateway, f"/connections/{hers}/token?min_seconds=3600")

    assert (429, "wait") == (forced.status_code, forced.json()["remedy"])
    assert 1 <= int(forced.headers["Retry-After"]) <= 60
    assert (200, last.json()["access_token"]) == (longer.status_code, longer.json()["access_token"])
    assert before == len(refreshes(gateway, "google"))
    assert made.asks(gateway, f"/connections/{other}/refresh", "POST").ok
    expires(gateway, hers)
    assert last.json()["access_token"] != made.asks(gateway, f"/connections/{hers}/token").json()["access_token"]


@pytest.mark.parametrize(("ago", "expires_in", "claimed"), [(50, 60, False), (61, 60, True), (50, -1, True)])
def test_only_the_last_minute_counts_and_never_against_who_has_no_token(database, local, ago, expires_in, claimed):
    """
    By the clock of the database; a token that ran out is refreshed, however many went before.
    """
    alice = Person("alice")
    alice.signs_in(local)
    here = alice.connects(local).id
    rows(
        database,
        "insert into gateway.event (type, connection_id, at)"
        " select 'grant.refreshed', %s, now() - make_interval(secs => %s) from generate_series(1, 10)",
        here,
        ago,
    )
    rows(database, "update gateway.connection set expires_at = now() + make_interval(secs => %s)", expires_in)

    found = claim_refresh(local, here, 1, host="here", lease_seconds=15, block_seconds=60, most=10)
    assert isinstance(found, ClaimedRefresh) if claimed else (found.obstacle, found.retry_after) == ("frequent", 60)


# -- leaving ---------------------------------------------------------------------------------------------------------


def test_a_partner_uninstalls_nothing_that_others_use(gateway, alice):
    """
    Two users share an account; the partner of one has no say over the other. An owner may, whose account it is.
    """
    bob, own = gateway.person("Bob Marsh"), partner_of(gateway.dsn, reach="own")
    his = bob.connects("ghl", BERLIN)["connection"]
    hers = alice.connects("ghl", BERLIN)["connection"]
    own.consented(gateway.dsn, hers, made=True)
    seen = lambda: len(gateway.sandbox.state.requests("ghl", "uninstall"))  # noqa: E731
    before = seen()

    left = own.asks(gateway, f"/connections/{hers}?uninstall=1", "DELETE")

    assert (200, "kept") == (left.status_code, left.json()["uninstall"])
    assert before == seen()
    bobs = {"Authorization": f"Bearer {bob.token()}"}
    assert requests.post(f"{gateway.url}/v1/connections/{his}/refresh", headers=bobs, timeout=30).ok
    by_himself = requests.delete(f"{gateway.url}/v1/connections/{his}?uninstall=1", headers=bobs, timeout=30)
    assert "done" == by_himself.json()["uninstall"]
    assert before + 1 == seen()


def test_an_account_is_anothers_where_anybody_else_has_it_or_is_about_to(database, local):
    """
    Any user, at the same provider; it only matters for a partner with reach `own`.
    """
    alice, bob = Person("alice"), Person("bob")
    for person in (alice, bob):
        person.signs_in(local)
    hers, own, every = alice.connects(local).id, partner(local, reach="own"), partner(local)
    own.consented(database, hers, made=True)

    def shared(caller):
        return find_uninstall_target(local, connection_id=hers, session_hash=None, caller=caller).shared

    assert not shared(own.caller())
    his = bob.connects(local).id
    rows(database, "update gateway.connection set account_id = 'one', provider = 'google' where id = %s", his)
    rows(database, "update gateway.connection set account_id = 'one' where id = %s", hers)
    assert not shared(own.caller())
    rows(database, "update gateway.connection set provider = 'ghl' where id = %s", his)
    assert [True, False, False] == [shared(each) for each in (own.caller(), every.caller(), Caller(user_id=alice.id))]


# -- time ------------------------------------------------------------------------------------------------------------


def slower(ask, usual, suspect, turns=700):
    """
    By which share of its time `suspect` takes longer or shorter than `usual`, and the same of `usual` with itself. They take turns,
    and of each the quickest tenth is looked at, which who else is busy here hardly moves.
    """
    taken = {"usual": [], "again": [], "suspect": []}
    order = [("usual", usual), ("suspect", suspect), ("again", usual)]
    for turn in range(turns):
        for name, given in order if turn % 2 else reversed(order):
            began = time.perf_counter()
            with contextlib.suppress(Unauthenticated):
                ask(given)
            taken[name].append(time.perf_counter() - began)
    least = {name: statistics.quantiles(each, n=10)[0] for name, each in taken.items()}
    usually = (least["usual"] + least["again"]) / 2
    return abs(least["suspect"] / usually - 1), abs(least["again"] / least["usual"] - 1)


def test_the_response_time_tells_nothing(local):
    """
    An id out of reach and an unknown id differ no more than two calls of the same, and so do a revoked and an unknown
    key. A look at a row out of reach would exceed the limit. On a loaded machine there are two more tries.
    """
    alice = Person("alice")
    alice.signs_in(local)
    foreign, none = alice.connects(local).id, uuid.uuid4()
    own, other = partner(local, reach="own").caller(), partner(local)
    second = add_key(local, other.name)
    queries.revoke(local, other.name, second.key_id)
    revoked, unknown = (Caller(key_hash=hash_key(key), address="198.51.100.7") for key in (second.text, make_key()))
    asks = {
        "token": lambda one: read_token(local, own, one, min_seconds=0),
        "connection": lambda one: reached_connection(local, own, one),
        "uninstall": lambda one: find_uninstall_target(local, connection_id=one, session_hash=None, caller=own),
        "disconnect": lambda one: erase_own_connection(local, connection_id=one, caller=own),
    }
    pairs = [(name, ask, none, foreign) for name, ask in asks.items()]
    pairs.append(
        ("key", lambda who: read_token(local, who, foreign, min_seconds=0, counted=False), unknown, revoked),
    )

    for name, ask, usual, suspect in pairs:
        found = []
        for _ in range(3):
            found.append(slower(ask, usual, suspect))
            more, same = found[-1]
            if more <= 0.03 + same:
                break
        else:
            pytest.fail(f"{name}: {found}")
