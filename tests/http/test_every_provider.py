"""
Every OAuth provider of the catalogue against the sandbox, which simulates each from a table of its own.
"""

from __future__ import annotations

from collections import Counter
from urllib.parse import quote

import psycopg
import pytest
import requests

from gateway.catalog import load_catalog
from gateway.sandbox.generic import TABLES
from gateway.sandbox.response_faults import PLANTED
from tests.support.database import rows
from tests.support.gateway_process import places_with

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


def is_json(request):
    return request["headers"]["Content-Type"].startswith("application/json")


def scheme(request):
    return request["headers"].get("Authorization", "").partition(" ")[0]


def by_grant(kind, condition):
    return lambda request: request["form"].get("grant_type") != kind or condition(request)


ON_THE_WIRE = {
    "keap: the secret in the body for a code": ("keap", "token", by_grant("authorization_code", lambda r: r["form"]["client_secret"] and not scheme(r))),
    "keap: Basic for a refresh": ("keap", "token", by_grant("refresh_token", lambda r: scheme(r) == "Basic" and "client_secret" not in r["form"])),
    "campaign_monitor: no client in a refresh": ("campaign_monitor", "token", by_grant("refresh_token", lambda r: "client_secret" not in r["form"] and not scheme(r))),
    "campaign_monitor: type of the app": ("campaign_monitor", "authorize", lambda r: r["query"]["type"] == "web_server"),
    "kommo: JSON, to the host in the callback": ("kommo", "token", lambda r: is_json(r) and r["path"].startswith("/kommo/northwind.kommo.com/")),
    "podium: JSON": ("podium", "token", is_json),
    "followupboss: another response type": ("followupboss", "authorize", lambda r: r["query"]["response_type"] == "auth_code"),
    "monday: the account by POST": ("monday", "userinfo", lambda r: r["method"] == "POST" and is_json(r)),
    "jobber: the account by POST": ("jobber", "userinfo", lambda r: r["method"] == "POST" and is_json(r)),
    "dynamics: a scope made of the form": ("dynamics", "authorize", lambda r: "https://northwind.crm4.dynamics.com/.default" in r["query"]["scope"]),
    "zoho_crm: tokens in the data centre of the account": ("zoho_crm", "token", lambda r: r["path"].startswith("/zoho_crm/accounts.zoho.eu/")),
    "zoho_crm: revoked there": ("zoho_crm", "revoke", lambda r: r["path"].startswith("/zoho_crm/accounts.zoho.eu/")),
    "zoho_crm: its own scheme": ("zoho_crm", "userinfo", lambda r: scheme(r) == "Zoho-oauthtoken"),
    "zoho_crm: commas": ("zoho_crm", "authorize", lambda r: r["query"]["scope"] == "ZohoCRM.modules.READ,ZohoCRM.org.READ"),
    "mailchimp: the scheme OAuth": ("mailchimp", "userinfo", lambda r: scheme(r) == "OAuth"),
    "mailchimp: no scope and no PKCE": ("mailchimp", "authorize", lambda r: not {"scope", "code_challenge"} & set(r["query"])),
    "pipedrive: no scope": ("pipedrive", "authorize", lambda r: "scope" not in r["query"]),
    "dialpad: revoked by the token itself": ("dialpad", "revoke", lambda r: scheme(r) == "Bearer" and not r["form"]),
    "yandex_mail: another parameter": ("yandex_mail", "revoke", lambda r: "access_token" in r["form"]),
    "zoom: revoked by the access token": ("zoom", "revoke", lambda r: r["status"] == 200 or r["form"]["token_type_hint"] == "refresh_token"),
    "klaviyo: PKCE beside the secret": ("klaviyo", "token", by_grant("authorization_code", lambda r: r["form"]["code_verifier"] and scheme(r) == "Basic")),
    "bitrix24: the token in the query": ("bitrix24", "userinfo", lambda r: r["query"]["auth"] and not scheme(r)),
}  # fmt: skip
"""What single entries say: provider, endpoint, and what holds of each request there."""


@pytest.mark.parametrize("provider", sorted(PROVIDERS))
def test_every_provider_connects_refreshes_and_disconnects(gateway, provider):
    """
    The sandbox refuses every other client authentication, body, separator and parameter, and ends what the provider would end. A secret beside
    the account, in each token and account response, reaches neither database, event, log, journal nor page. What an entry says of the
    wire holds of every request.
    """
    alice, entry, table = gateway.person("Alice Winter"), PROVIDERS[provider], TABLES.get(provider, {})
    alice.signs_in()
    with psycopg.connect(
        gateway.dsn
    ) as database:  # another user's connection to the same account would keep a grant alive
        database.execute("delete from public.provider_data where name = %s", [provider])

    before = Counter(each["endpoint"] for each in gateway.sandbox.state.requests(provider))
    connection_id = connect(gateway, alice, provider)

    found = called(alice, "GET", connection_id).json()
    assert ("active", entry.type, []) == (found["status"], found["type"], found["missing_scope"])
    assert found["refreshable"] is (table.get("refresh") != "none")
    first = called(alice, "GET", f"{connection_id}/token").json()
    assert "{" not in first["api_base_url"]
    assert first["api_base_url"].startswith(gateway.sandbox.origin)
    ends = entry.access_token_seconds or provider not in TABLES or table.get("access_seconds")
    assert bool(first["expires_at"]) is bool(ends)
    for _ in range(2 if found["refreshable"] else 0):
        gateway.sandbox.state.calls.clear()  # as if a minute had passed, where the token endpoint allows one call a minute
        refreshed = called(alice, "POST", f"{connection_id}/refresh")
        assert refreshed.status_code == 200, refreshed.text
        assert refreshed.json()["access_token"] != first["access_token"]
    checked = called(alice, "POST", f"{connection_id}/check")
    assert checked.json()["status"] == "active", checked.text
    shown = (
        alice.get("/connections"),
        called(alice, "GET", connection_id),
        called(alice, "GET", f"{connection_id}/token"),
    )
    assert [] == places_with(gateway, f"{PLANTED}{provider}", *shown)
    assert alice.disconnects(connection_id).status_code == 303
    assert called(alice, "GET", connection_id).status_code == 404
    revoked = [each for each in gateway.sandbox.state.revocations if each["provider"] == provider and each["known"]]
    assert bool(revoked) is bool(entry.revocation_endpoint)
    for said, (whose, endpoint, holds) in ON_THE_WIRE.items():
        if whose == provider:
            seen = gateway.sandbox.state.requests(provider, endpoint)[before[endpoint] :]
            assert seen, said
            assert [request for request in seen if not holds(request)] == [], said


@pytest.mark.parametrize("provider", sorted(name for name, table in TABLES.items() if "account" in table))
def test_a_withdrawn_consent_ends_the_connection_and_an_outage_does_not(gateway, provider):
    """
    Whatever the account endpoint answers to a dead token.
    """
    alice = gateway.person("Alice Winter")
    alice.signs_in()
    connection_id = connect(gateway, alice, provider)
    outages = [{"status": 503}, {"status": 403, "body": "<html>Attention Required!</html>"}]
    for outage in outages + [{"status": 200, "body": '{"error":"internal"}'}] * bool(PROVIDERS[provider].valid_path):
        gateway.sandbox.state.add_fault("status", provider, "userinfo", **outage)
        down = called(alice, "POST", f"{connection_id}/check")
        assert (504, "active") == (down.status_code, called(alice, "GET", connection_id).json()["status"]), outage
        rows(gateway.dsn, "update gateway.connection set checked_at = null where id = %s", connection_id)
    gateway.sandbox.state.withdraw(provider)
    gateway.sandbox.state.calls.clear()

    ended = called(alice, "POST", f"{connection_id}/check")

    assert ended.json()["status"] == "needs_reauthorization", ended.text


@pytest.mark.parametrize(
    ("provider", "later"),
    [
        ("drip", '{"accounts":[{"id":"new","name":"New"},{"id":"{id}","name":"Northwind"}]}'),
        ("campaign_monitor", '[{"ClientID":"new","Name":"New"},{"ClientID":"{id}","Name":"Northwind"}]'),
    ],
)
def test_a_new_account_at_the_head_of_a_list_ends_no_connection(gateway, monkeypatch, provider, later):
    alice = gateway.person("Alice Winter")
    alice.signs_in()
    connection_id = connect(gateway, alice, provider)
    monkeypatch.setitem(TABLES[provider], "account_answer", later)

    assert "active" == called(alice, "POST", f"{connection_id}/check").json()["status"]

    monkeypatch.setitem(TABLES[provider], "account_answer", later.replace("{id}", "other"))
    rows(gateway.dsn, "update gateway.connection set checked_at = null where id = %s", connection_id)
    assert "needs_reauthorization" == called(alice, "POST", f"{connection_id}/check").json()["status"]


@pytest.mark.parametrize(
    "address",
    ["https://accounts.zoho.evil.example", "http://accounts.zoho.eu", "https://accounts.zoho.eu@evil.example"],
)
def test_a_callback_cannot_choose_another_host(gateway, address):
    """
    The code and the secret are sent to hosts of the provider alone.
    """
    alice = gateway.person("Alice Winter")
    alice.signs_in()
    callback = gateway.sandbox.consents(alice.begins("zoho_crm", {"data_center": "zoho.eu"}))
    own = quote(f"{gateway.sandbox.origin}/zoho_crm/accounts.zoho.eu", safe="")
    before = len(gateway.sandbox.state.requests("zoho_crm", "token"))
    assert own in callback

    answer = alice.get(callback.replace(own, quote(address, safe="")))

    assert "error=provider_garbled" in answer.headers["Location"]
    assert before == len(gateway.sandbox.state.requests("zoho_crm", "token"))


def test_a_callback_without_a_data_centre_means_the_one_that_the_user_chose(gateway):
    """
    Zoho: the code is redeemed there, and not at the main one.
    """
    alice = gateway.person("Alice Winter")
    alice.signs_in()
    callback = gateway.sandbox.consents(alice.begins("zoho_crm", {"data_center": "zoho.eu"}))

    answer = alice.get(callback.replace("accounts-server=", "other="))

    assert "connection=" in answer.headers["Location"], answer.headers["Location"]
    assert gateway.sandbox.state.requests("zoho_crm", "token")[-1]["path"].startswith("/zoho_crm/accounts.zoho.eu/")


def test_a_callback_or_a_response_without_the_provider_s_host_connects_nothing(gateway):
    """
    Nothing is sent to an address that is not known, and a grant that was issued is revoked.
    """
    alice = gateway.person("Alice Winter")
    alice.signs_in()
    before = len(gateway.sandbox.state.requests("kommo", "token"))

    answer = alice.get(gateway.sandbox.consents(alice.begins("kommo")).replace("referer=", "other="))

    assert "error=provider_garbled" in answer.headers["Location"]
    assert before == len(gateway.sandbox.state.requests("kommo", "token"))
    answers = TABLES["pipedrive"]["answer"]
    for hostile in ({}, {"api_domain": "https://evil.example"}, {"api_domain": 7}, {"api_domain": ["x"]}):
        kept = dict(answers)
        answers.clear()
        answers.update(hostile)
        try:
            answer = alice.get(gateway.sandbox.consents(alice.begins("pipedrive")))
        finally:
            answers.clear()
            answers.update(kept)
        assert "error=provider_garbled" in answer.headers["Location"], hostile
        both = gateway.sandbox.state.revocations[-2:]
        assert [("pipedrive", True), ("pipedrive", False)] == [(each["provider"], each["known"]) for each in both]


MOVING = {
    "salesforce": ("instance_url", "southwind.my.salesforce.com"),
    "pipedrive": ("api_domain", "southwind.pipedrive.com"),
    "zoho_crm": ("api_domain", "www.zohoapis.in"),
}


@pytest.mark.parametrize("provider", MOVING)
def test_a_refresh_brings_the_address_of_the_api_up_to_date(gateway, provider, monkeypatch):
    """
    The provider moved the account. An address that is not the provider's, or none, changes nothing, and costs no connection.
    """
    alice, (field, host) = gateway.person("Alice Winter"), MOVING[provider]
    alice.signs_in()
    connection_id = connect(gateway, alice, provider)

    def refreshed(answer):
        monkeypatch.setitem(TABLES[provider], "answer", answer)
        gateway.sandbox.state.calls.clear()
        found = called(alice, "POST", f"{connection_id}/refresh")
        assert found.status_code == 200, found.text
        return found.json()["api_base_url"]

    moved = f"{gateway.sandbox.origin}/{provider}/{host}"

    assert refreshed({field: f"{{origin}}/{provider}/{host}"}).startswith(moved)
    for hostile in (
        {},
        {field: "https://evil.example"},
        {field: f"{moved}@evil.example"},
        {field: 7},
        {field: [moved]},
    ):
        assert refreshed(hostile).startswith(moved), hostile


def test_a_throttled_token_endpoint_ends_no_connection(gateway):
    """
    429 within a minute of the last token; later the refresh works.
    """
    alice = gateway.person("Alice Winter")
    alice.signs_in()
    connection_id = connect(gateway, alice, "outreach")

    refused = called(alice, "POST", f"{connection_id}/refresh")

    assert (504, "provider_unavailable") == (refused.status_code, refused.json()["code"])
    assert called(alice, "GET", connection_id).json()["status"] == "active"
    assert called(alice, "GET", f"{connection_id}/token").status_code == 200


def test_a_token_that_others_hold_is_not_refreshed_early_where_that_would_end_it(gateway):
    """
    RingCentral: `min_seconds` alone brings no new token, as long as the present one has a minute left; an explicit refresh does.
    """
    alice = gateway.person("Alice Winter")
    for provider, early in (("ringcentral", False), ("dialpad", True)):
        alice.signs_in()
        connection_id = connect(gateway, alice, provider)
        held = called(alice, "GET", f"{connection_id}/token").json()["access_token"]
        with psycopg.connect(gateway.dsn) as connection:
            connection.execute(
                "update gateway.connection set expires_at = now() + interval '10 minutes' where id = %s",
                [connection_id],
            )

        asked = called(alice, "GET", f"{connection_id}/token?min_seconds=3000").json()["access_token"]
        forced = called(alice, "POST", f"{connection_id}/refresh").json()["access_token"]

        assert (asked != held) is early, provider
        assert forced not in (asked, held)


DRIFTING = sorted(name for name in TABLES if len(PROVIDERS[name].required) > 1)


@pytest.mark.parametrize("provider", DRIFTING)
def test_scope_that_was_not_granted_is_shown_and_may_be_granted_later(gateway, provider):
    """
    `missing_scope` in the API, the event once it changes, and the id stays.
    """
    alice = gateway.person("Alice Winter")
    alice.signs_in()
    first, *others = PROVIDERS[provider].required
    entered = TABLES[provider].get("fields", {})
    answer = alice.get(gateway.sandbox.consents(alice.begins(provider, entered=entered), scope=[first]))
    connection_id = answer.headers["Location"].split("connection=")[1].partition("&")[0]
    found = called(alice, "GET", connection_id).json()
    gateway.sandbox.state.calls.clear()

    again = connect(gateway, alice, provider)

    assert others == found["missing_scope"]
    assert connection_id == again
    assert [] == called(alice, "GET", connection_id).json()["missing_scope"]
    with psycopg.connect(gateway.dsn) as connection:
        kinds = connection.execute(
            "select type from gateway.event where connection_id = %s", [connection_id]
        ).fetchall()
    assert ("connection.scope_changed",) in kinds
