"""
One refresh for all who need it; what an error means is decided by who must act; nothing of an answer is lost.
"""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import psycopg
import pytest
import requests

from gateway.http.bulkhead import OPEN_SECONDS
from tests.support.gateway_process import without_request_id
from tests.support.patience import held, wait_for


def expire(gateway, connection_id, seconds=0):
    """Lets a token run out, by the database's clock."""
    with psycopg.connect(gateway.dsn) as connection:
        connection.execute(
            "update gateway.connection set expires_at = clock_timestamp() + make_interval(secs => %s),"
            " not_before = null, refresh_at = clock_timestamp() + interval '1 day' where id = %s",
            [seconds, connection_id],
        )


def state(gateway, connection_id):
    with psycopg.connect(gateway.dsn) as connection:
        query = "select generation, status, failures, lease_id, intent_at from gateway.connection where id = %s"
        return connection.execute(query, [connection_id]).fetchone()


def reads(person, connection_id, **query):
    headers = {"Authorization": f"Bearer {person.token()}"}
    url = f"{person.gateway.url}/v1/connections/{connection_id}/token"
    return requests.get(url, headers=headers, params=query, timeout=30)


def token_requests(gateway, provider):
    return [
        seen
        for seen in gateway.sandbox.state.requests(provider, "token")
        if seen["form"].get("grant_type") == "refresh_token"
    ]


@pytest.fixture
def alice(gateway):
    gateway.sandbox.state.faults.clear()
    yield gateway.person("Alice Winter")
    gateway.sandbox.state.faults.clear()


def test_a_valid_token_is_read_without_a_refresh(gateway, alice):
    """
    The owner's access token reads the own connection; nothing is refreshed, nothing may be kept on the way.
    """
    connection = alice.connects("ghl")["connection"]
    before = len(token_requests(gateway, "ghl"))

    answer = reads(alice, connection)

    assert 200 == answer.status_code
    assert "no-store" == answer.headers["Cache-Control"]
    assert {"connection_id", "access_token", "token_type", "expires_at", "scope", "api_base_url", "headers"} == set(
        answer.json()
    )
    assert before == len(token_requests(gateway, "ghl"))


@pytest.mark.parametrize("provider", ["ghl", "google", "microsoft", "ringcentral", "zoom"])
def test_an_expired_token_is_refreshed_once_for_thirty_readers(gateway, alice, provider):
    """
    One token request, and everybody gets the new token.
    """
    connection = alice.connects(provider)["connection"]
    old = reads(alice, connection).json()["access_token"]
    expire(gateway, connection)
    before = len(token_requests(gateway, provider))
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(reads(alice, connection))) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [200] * 30 == [answer.status_code for answer in answers]
    assert 1 == len({answer.json()["access_token"] for answer in answers} - {old})
    assert before + 1 == len(token_requests(gateway, provider))
    assert (2, "active") == state(gateway, connection)[:2]


def test_another_users_connection_is_like_none(gateway, alice):
    """
    Status and body are the same for Bob's token on Alice's id and on no id.
    """
    connection = alice.connects("ghl")["connection"]
    bob = gateway.person("Bob Marsh")

    foreign, missing = reads(bob, connection), reads(bob, "00000000-0000-4000-8000-000000000000")

    assert 404 == foreign.status_code == missing.status_code
    assert without_request_id(foreign) == without_request_id(missing)


def test_a_refused_refresh_asks_the_user_to_reconnect(gateway, alice):
    """
    invalid_grant is final: the connection is marked and every caller gets the error; connecting again repairs it
    under the same id.
    """
    connection = alice.connects("google")["connection"]
    gateway.sandbox.state.withdraw("google")
    expire(gateway, connection)

    answer = reads(alice, connection)

    assert (409, "reconnect") == (answer.status_code, answer.json()["remedy"])
    assert "needs_reauthorization" == state(gateway, connection)[1]
    assert "Reconnect needed" in alice.get("/connections").text
    assert connection == alice.connects("google")["connection"]
    assert 200 == reads(alice, connection).status_code


@pytest.mark.parametrize("error", ["interaction_required", "consent_required", "login_required", "access_denied"])
def test_a_refresh_that_wants_its_user_asks_them_to_reconnect(gateway, alice, error):
    """
    No user is present who could do what the provider requires (OpenID Connect Core section 3.1.2.6): it counts as
    refused.
    """
    connection = alice.connects("zoom")["connection"]
    expire(gateway, connection)
    gateway.sandbox.state.add_fault("error", "zoom", "token", error=error)

    answer = reads(alice, connection)

    assert (409, "reconnect") == (answer.status_code, answer.json()["remedy"])
    assert "needs_reauthorization" == state(gateway, connection)[1]


@pytest.mark.parametrize(
    ("fault", "options", "status", "remedy"),
    [
        ("status", {"status": 500}, 504, "wait"),
        ("status", {"status": 429, "retry_after": 30}, 504, "wait"),
        ("html_200", {}, 502, "report"),
        ("reset", {}, 504, "wait"),
        ("error", {"error": "invalid_client", "status": 401}, 502, "operator"),
    ],
)
def test_an_error_that_is_no_refusal_keeps_the_connection_active(gateway, alice, fault, options, status, remedy):
    """
    The error says who must act; the connection stays, backs off, and is refreshed later.
    """
    connection = alice.connects("zoom")["connection"]
    expire(gateway, connection)
    gateway.sandbox.state.add_fault(fault, "zoom", "token", **options)

    answer = reads(alice, connection)

    assert (status, remedy) == (answer.status_code, answer.json()["remedy"])
    assert (1, "active", 1, None, None) == state(gateway, connection)
    expire(gateway, connection)
    assert 200 == reads(alice, connection).status_code


def test_a_suspended_location_waits_and_comes_back(gateway, alice):
    """
    HighLevel's "Location is not active" is no refusal: the same refresh token works again later, which a check finds out.
    """
    connection = alice.connects("ghl")["connection"]
    expire(gateway, connection)
    gateway.sandbox.state.switches["location_active"] = False
    try:
        assert (409, "suspended") == ((answer := reads(alice, connection)).status_code, answer.json()["code"])
    finally:
        gateway.sandbox.state.switches["location_active"] = True
    headers = {"Authorization": f"Bearer {alice.token()}"}
    requests.post(f"{gateway.url}/v1/connections/{connection}/check", headers=headers, timeout=30)
    assert 200 == reads(alice, connection).status_code


def test_a_failing_refresh_does_not_take_the_token_that_lives(gateway, alice):
    """
    Shorter than asked for, but good: it is answered while the provider is having trouble.
    """
    connection = alice.connects("ringcentral")["connection"]
    old = reads(alice, connection).json()["access_token"]
    expire(gateway, connection, seconds=40)
    first = threading.Thread(target=lambda: reads(alice, connection))
    with held(gateway.sandbox, "ringcentral", "token") as is_asked:
        first.start()
        wait_for(is_asked)

        answers = [reads(alice, connection).json()["access_token"] for _ in range(3)]
    first.join()

    assert {old} == set(answers)


def test_a_breaker_spares_a_provider_that_fails_for_many(gateway, alice):
    """
    After ten failures in a row only one probe calls it; the outage ends no connection, and its end is found.
    """
    held = [gateway.person(f"Owner{number} Hill") for number in range(13)]
    connections = [(person, person.connects("google")["connection"]) for person in held]
    gateway.sandbox.state.add_fault("status", "google", "token", 0, status=503)
    before = len(token_requests(gateway, "google"))
    for number, (person, connection) in enumerate(connections):
        expire(gateway, connection)
        assert reads(person, connection, min_seconds=0).status_code in (503, 504)
        if number == 9:
            opened = time.monotonic()

    probes = len(token_requests(gateway, "google")) - before - 10
    assert 0 <= probes <= (time.monotonic() - opened) // OPEN_SECONDS
    assert {"active"} == {state(gateway, connection)[1] for _, connection in connections}
    gateway.sandbox.state.faults.clear()
    time.sleep(OPEN_SECONDS)
    for probe in (connections[0], connections[12]):
        expire(gateway, probe[1])
        assert 200 == reads(*probe).status_code


def test_the_worker_refreshes_ahead(gateway, alice):
    """
    Due tokens are refreshed before any read, by the server's worker thread.
    """
    connection = alice.connects("microsoft")["connection"]
    with psycopg.connect(gateway.dsn) as database:
        database.execute(
            "update gateway.connection set refresh_at = clock_timestamp() - interval '1 second' where id = %s",
            [connection],
        )
    wait_for(lambda: state(gateway, connection)[0] > 1)


def test_an_expiry_is_by_the_databases_clock(gateway, alice):
    """
    Five minutes between two machines' clocks change nothing: no process compares with its own.
    """
    connection = alice.connects("ghl")["connection"]
    expire(gateway, connection, seconds=timedelta(minutes=10).total_seconds())
    before = len(token_requests(gateway, "ghl"))

    assert 200 == reads(alice, connection, min_seconds=500).status_code
    assert before == len(token_requests(gateway, "ghl"))
    assert 200 == reads(alice, connection, min_seconds=700).status_code
    assert before + 1 == len(token_requests(gateway, "ghl"))
