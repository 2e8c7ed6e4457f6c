"""
Every OAuth provider of the catalogue against the sandbox, which simulates each from a table of its own.
"""

from __future__ import annotations

import psycopg
import pytest
import requests

from gateway.catalog import load_catalog
from gateway.sandbox.generic import PLANTED, TABLES

PROVIDERS = load_catalog().providers


def called(person, method, path):
    headers = {"Authorization": f"Bearer {person.token()}"}
    return requests.request(method, f"{person.gateway.url}/v1/connections/{path}", headers=headers, timeout=30)


def connect(gateway, person, provider):
    """The whole flow; the connection's id."""
    entered = TABLES.get(provider, {}).get("fields", {})
    callback = gateway.sandbox.consents(person.begins(provider, entered=entered))
    answer = person.get(callback)
    assert answer.status_code == 303, answer.text
    assert "connection=" in answer.headers["Location"], answer.headers["Location"]
    return answer.headers["Location"].split("connection=")[1].partition("&")[0]


def everything_stored(gateway):
    """The text of every row of every table that could hold a part of a provider's response."""
    tables = (
        "public.provider_data",
        "gateway.connection",
        "gateway.event",
        "gateway.authorization_request",
        "gateway.revocation",
    )
    with psycopg.connect(gateway.dsn) as connection:
        return "".join(str(connection.execute(f"select to_jsonb(t) from {table} t").fetchall()) for table in tables)  # noqa: S608


@pytest.mark.parametrize("provider", sorted(PROVIDERS))
def test_every_provider_connects_refreshes_and_disconnects(gateway, provider):
    """
    The sandbox refuses every other client authentication, body, separator and parameter, and ends what the provider would end.
    """
    alice, entry, table = gateway.person("Alice Winter"), PROVIDERS[provider], TABLES.get(provider, {})
    alice.signs_in()

    connection_id = connect(gateway, alice, provider)

    found = called(alice, "GET", connection_id).json()
    assert ("active", entry.type, []) == (found["status"], found["type"], found["missing_scope"])
    assert found["refreshable"] is (table.get("refresh") != "none")
    first = called(alice, "GET", f"{connection_id}/token").json()
    assert "{" not in str(first["api_base_url"]), first
    assert first["api_base_url"].startswith(gateway.sandbox.origin)
    ends = entry.access_token_seconds or provider not in TABLES or table.get("access_seconds")
    assert bool(first["expires_at"]) is bool(ends)
    checked = called(alice, "POST", f"{connection_id}/check")
    assert checked.json()["status"] == "active", checked.text
    for _ in range(2 if found["refreshable"] else 0):
        gateway.sandbox.state.calls.clear()  # as if a minute had passed, where the token endpoint allows one call a minute
        refreshed = called(alice, "POST", f"{connection_id}/refresh")
        assert refreshed.status_code == 200, refreshed.text
        assert refreshed.json()["access_token"] != first["access_token"]
    assert alice.disconnects(connection_id).status_code == 303
    assert called(alice, "GET", connection_id).status_code == 404
    revoked = [each for each in gateway.sandbox.state.revocations if each["provider"] == provider and each["known"]]
    assert bool(revoked) is bool(entry.revocation_endpoint)


@pytest.mark.parametrize("provider", sorted(TABLES))
def test_a_withdrawn_consent_ends_the_connection_and_no_other_fact_of_the_account_is_kept(gateway, provider):
    """
    A secret in the account's response reaches neither database nor log nor page.
    """
    alice = gateway.person("Alice Winter")
    alice.signs_in()
    connection_id = connect(gateway, alice, provider)
    page = alice.get("/connections").text
    gateway.sandbox.state.withdraw(provider)
    gateway.sandbox.state.calls.clear()

    ended = called(alice, "POST", f"{connection_id}/check")

    assert ended.json()["status"] == "needs_reauthorization" or "account" not in TABLES[provider], ended.text
    secret = f"{PLANTED}{provider}"
    assert [secret in text for text in (everything_stored(gateway), gateway.log.read_text(), page)] == [False] * 3
