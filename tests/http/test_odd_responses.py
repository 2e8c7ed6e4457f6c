"""
Providers that break the standards, over HTTP: what does no harm connects and refreshes, what cannot be used is revoked or kept.
"""

from __future__ import annotations

import json
import uuid

import pytest
import requests

from tests.http.test_refresh import expire, reads, state
from tests.support.attack_helpers import owned
from tests.support.database import rows
from tests.support.gateway_process import told
from tests.support.odd_responses import HARMLESS, HOSTILE, said

SOME_HARMLESS = list(HARMLESS)[::3]
SOME_HOSTILE = [name for name in HOSTILE if name not in ("100,000 brackets", "100,000 nested objects")][::3]


@pytest.fixture
def alice(gateway):
    gateway.sandbox.state.faults.clear()
    with_nothing_held(gateway)
    person = gateway.person("Alice Winter")
    person.signs_in()
    yield person
    gateway.sandbox.state.faults.clear()


def with_nothing_held(gateway):
    rows(gateway.dsn, "delete from gateway.provider_incident")


def answers(gateway, provider, endpoint, body=b"", status=200, times=1, **more):
    """The next response of an endpoint, as these bytes, declared as a page."""
    options = {"body": body, "status": status, "content_type": "text/html", **more}
    gateway.sandbox.state.add_fault("status", provider, endpoint, times, **options)


def names_itself(gateway, account=None):
    """Zoom's account call accepts any token, once."""
    account = account or f"u-{uuid.uuid4().hex}"
    answers(
        gateway, "zoom", "userinfo", json.dumps({"id": account, "account_id": "a-1", "email": "a@b.example"}).encode()
    )


def connects(person, provider="zoom"):
    return told(person.get(person.consents(provider)))


def account(gateway, connection):
    return rows(gateway.dsn, "select account_id, account_label from gateway.connection where id = %s", connection)[0]


@pytest.mark.parametrize("name", SOME_HARMLESS)
def test_an_odd_token_response_connects_and_refreshes(gateway, alice, name):
    """
    At the connect and at the refresh: the same table.
    """
    body, _ = HARMLESS[name]
    callback = alice.consents("zoom")
    answers(gateway, "zoom", "token", body)
    names_itself(gateway)
    connection = told(alice.get(callback)).get("connection")
    assert connection

    if "rt-1" not in body.decode("latin-1").replace("\0", ""):
        return  # nothing to refresh with
    expire(gateway, connection)
    answers(gateway, "zoom", "token", body.replace(b"at-1", b"at-2"))
    answer = reads(alice, connection)
    assert 200 == answer.status_code, answer.text
    assert answer.json()["access_token"].startswith("at-")
    assert (2, "active") == state(gateway, connection)[:2]


@pytest.mark.parametrize("name", SOME_HOSTILE)
def test_a_hostile_token_response_connects_nothing_and_costs_no_connection(gateway, alice, name):
    """
    At the connect nothing is stored; at a refresh the connection stays, unless the grant itself was refused.
    """
    callback = alice.consents("zoom")
    answers(gateway, "zoom", "token", HOSTILE[name])
    assert "error" in told(alice.get(callback))
    assert 0 == owned(gateway, alice)

    if name.startswith("an error"):
        return
    connection = connects(alice)["connection"]
    expire(gateway, connection)
    answers(gateway, "zoom", "token", HOSTILE[name])
    assert reads(alice, connection).status_code in (502, 504)
    assert (1, "active") == state(gateway, connection)[:2]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, said()[:-1]),
        (200, said(access_token=7)),
        (200, said(token_type="mac")),
        (200, b"[" + said() + b"]"),
        (200, json.dumps({"data": said().decode()}).encode()),
        (400, said()),
        (500, said()),
        (302, said()),
    ],
    ids=str,
)
def test_a_refresh_token_in_a_response_that_cannot_be_used_is_the_next_to_be_sent(gateway, alice, status, body):
    """
    A provider that rotates accepts no other: one bad response does not end a connection.
    """
    connection = connects(alice)["connection"]
    expire(gateway, connection)
    answers(gateway, "zoom", "token", body, status)
    assert reads(alice, connection).status_code in (502, 504)
    expire(gateway, connection)
    answers(gateway, "zoom", "token", said(access_token="at-2", refresh_token="rt-2"))

    assert "at-2" == reads(alice, connection).json()["access_token"]

    sent = [seen["form"].get("refresh_token") for seen in gateway.sandbox.state.requests("zoom", "token")]
    assert "rt-1" == sent[-1]


@pytest.mark.parametrize(
    ("status", "body"), [(503, b""), (429, b"{}"), (200, b"{}"), (400, b'{"error": "invalid_request"}')]
)
def test_a_refresh_token_that_was_found_outlives_further_failures(gateway, alice, status, body):
    """
    It is sent until the provider decides: the stored one was used, and would end all tokens of the grant.
    """
    connection = connects(alice)["connection"]
    for said_status, said_body in [(500, said()), (status, body), (status, body)]:
        expire(gateway, connection)
        answers(gateway, "zoom", "token", said_body, said_status)
        reads(alice, connection)
    expire(gateway, connection)
    answers(gateway, "zoom", "token", said(access_token="at-2", refresh_token="rt-2"))

    assert "at-2" == reads(alice, connection).json()["access_token"]

    sent = [seen["form"].get("refresh_token") for seen in gateway.sandbox.state.requests("zoom", "token")]
    assert ["rt-1"] * 3 == sent[-3:]


@pytest.mark.parametrize("masked", ["[FILTERED]", "***", "string"])
def test_what_only_looks_like_a_token_in_an_error_ends_no_connection(gateway, alice, masked):
    """
    A page of an error may repeat the request without its secrets. The stored token is sent once the provider has refused the other.
    """
    connection = connects(alice)["connection"]
    expire(gateway, connection)
    answers(gateway, "zoom", "token", json.dumps({"params": {"refresh_token": masked}}).encode(), 500)
    assert 504 == reads(alice, connection).status_code
    expire(gateway, connection)
    assert 502 == reads(alice, connection).status_code
    expire(gateway, connection)

    assert 200 == reads(alice, connection).status_code

    sent = [seen["form"].get("refresh_token") for seen in gateway.sandbox.state.requests("zoom", "token")]
    assert (sent[-3], masked) == (sent[-1], sent[-2])


def test_tokens_that_cannot_be_used_are_revoked_at_the_connect(gateway, alice):
    """
    Half a response with a whole token in it: the provider has issued it.
    """
    before = len(gateway.sandbox.state.requests("zoom", "revoke"))
    callback = alice.consents("zoom")
    answers(gateway, "zoom", "token", said()[:-1])

    assert "provider_garbled" == told(alice.get(callback))["error"]

    revoked = gateway.sandbox.state.requests("zoom", "revoke")[before:]
    assert ["at-1", "rt-1"] == [seen["form"]["token"] for seen in revoked]


@pytest.mark.parametrize("provider", ["zoom", "ringcentral"])
def test_a_grant_whose_account_cannot_be_told_is_revoked(gateway, alice, provider):
    """
    The token endpoint said 200, and then the account is not to be had.
    """
    callback = alice.consents(provider)
    before = len(gateway.sandbox.state.requests(provider, "revoke"))
    answers(gateway, provider, "userinfo", status=500)

    assert "provider_unavailable" == told(alice.get(callback))["error"]

    assert len(gateway.sandbox.state.requests(provider, "revoke")) > before
    assert 0 == owned(gateway, alice)


NAMELESS = [
    (429, b""),
    (500, b""),
    (503, b""),
    (404, b"{}"),
    (422, b"{}"),
    (401, b"{}"),
    (403, b"<html>"),
    (302, b""),
    (200, b"<html>"),
]


@pytest.mark.parametrize(("status", "body"), NAMELESS)
def test_an_account_whose_name_cannot_be_had_is_connected_by_its_id(gateway, alice, status, body):
    """
    A name is decoration; it is fetched with the next refresh.
    """
    callback = alice.consents("ghl")
    answers(gateway, "ghl", "userinfo", body, status)
    connection = told(alice.get(callback))["connection"]
    known, shown = account(gateway, connection)
    assert known == shown

    expire(gateway, connection)
    assert 200 == reads(alice, connection).status_code

    assert known == account(gateway, connection)[0]
    assert known != account(gateway, connection)[1]


def test_a_check_brings_the_name_too(gateway, alice):
    """
    Also into the owner's row.
    """
    callback = alice.consents("ghl")
    answers(gateway, "ghl", "userinfo", status=500)
    connection = told(alice.get(callback))["connection"]

    headers = {"Authorization": f"Bearer {alice.token()}"}
    checked = requests.post(f"{gateway.url}/v1/connections/{connection}/check", headers=headers, timeout=30).json()

    label = account(gateway, connection)[1]
    assert account(gateway, connection)[0] != label == checked["account"]["label"]
    assert [label] == rows(
        gateway.dsn, "select data #>> '{account,label}' from public.provider_data where id = %s", connection
    )


def test_an_account_call_that_hangs_costs_the_name_alone(gateway, alice):
    """
    The callback waits a few seconds for it, not for the whole of its time.
    """
    callback = alice.consents("ghl")
    gateway.sandbox.state.add_fault("silence", "ghl", "userinfo", seconds=20)

    assert "connection" in told(alice.get(callback))


def test_an_account_call_that_names_another_account_connects_nothing(gateway, alice):
    """
    The provider contradicts itself.
    """
    callback = alice.consents("ghl")
    answers(gateway, "ghl", "userinfo", b'{"location": {"id": "another", "name": "Another"}}')

    assert "provider_garbled" == told(alice.get(callback))["error"]
    assert 0 == owned(gateway, alice)


def test_an_agency_with_5_000_locations_connects(gateway, alice):
    """
    Its token response has 117 kB, and every location is kept.
    """
    ids = [f"BBBBlocation{number:08}" for number in range(5000)]
    body = said(userType="Company", companyId="AAAAcompany00000001x", approvedLocations=ids, isBulkInstallation=True)
    callback = alice.consents("ghl")
    answers(gateway, "ghl", "token", body)

    connection = told(alice.get(callback))["connection"]

    [facts] = rows(gateway.dsn, "select facts from gateway.connection where id = %s", connection)
    assert (True, ids) == (facts["isBulkInstallation"], facts["approvedLocations"])


@pytest.mark.parametrize("error", ["user_cancelled_login", "user_cancelled_authorize", "consent_declined", "cancelled"])
def test_a_cancel_by_any_name_returns_as_a_denial(gateway, alice, error):
    """
    Also without the issuer that the provider promised for its responses.
    """
    callback = gateway.sandbox.consents(alice.begins("google"), answer="deny")
    state_, path = callback.split("state=")[1].split("&")[0], callback.split("?")[0]

    assert "access_denied" == told(alice.get(f"{path}?error={error}&state={state_}"))["error"]


def test_a_firewall_s_page_is_an_outage_and_ends_nothing(gateway, alice):
    """
    403 and HTML in place of a token response.
    """
    connection = connects(alice)["connection"]
    expire(gateway, connection)
    answers(gateway, "zoom", "token", b"<!doctype html><title>Attention required</title>", 403)

    assert (504, "wait") == ((answer := reads(alice, connection)).status_code, answer.json()["remedy"])
    assert (1, "active") == state(gateway, connection)[:2]
    assert [None] == rows(gateway.dsn, "select refusal from gateway.connection where id = %s", connection)


def test_an_error_is_logged_with_the_provider_s_status_and_name(gateway, alice):
    """
    And with nothing that could be a token.
    """
    secret = "rt" + uuid.uuid4().hex
    connection = connects(alice)["connection"]
    for error in ("ODD_FAILURE", secret):
        expire(gateway, connection)
        answers(gateway, "zoom", "token", json.dumps({"error": error}).encode(), 400)
        reads(alice, connection)

    log = gateway.log.read_text()
    assert "ODD_FAILURE" in log
    assert secret not in log
