"""
One truth about a connection: status and reason, the same in the API, the filter, the page, the command line and the owner's row.
"""

from __future__ import annotations

import json
import re

import psycopg
import pytest
import requests
from cryptography.fernet import Fernet

from tests.support.commands import run_command
from tests.support.database import rows
from tests.support.gateway_process import fields_in, told
from tests.support.partners import events, partner_of
from tests.support.patience import wait_until_equal

BERLIN, AGENCY = "NorthwindBerlin00001", "NorthwindAgency00001"
IDENTITY, SEND = ["openid", "email", "profile"], "https://www.googleapis.com/auth/gmail.send"


@pytest.fixture
def alice(gateway):
    gateway.sandbox.state.reset()
    rows(gateway.dsn, "delete from gateway.provider_incident")
    rows(gateway.dsn, "delete from public.provider_data")
    rows(gateway.dsn, "delete from gateway.event where provider is not null")
    yield gateway.person("Alice Winter")
    gateway.sandbox.state.reset()


def api(person, path, method="GET", **query):
    headers = {"Authorization": f"Bearer {person.token()}"}
    return requests.request(method, f"{person.gateway.url}/v1{path}", headers=headers, params=query, timeout=30)


def command(gateway, *words):
    ran = run_command(gateway.environ | {"GATEWAY_DATA": str(gateway.folder / "command")}, *words)
    assert ran.exit_code in (0, 1), ran.stderr
    return ran


def shell(gateway, *words):
    return command(gateway, *words).stdout


def expire(gateway, *ids, seconds=0):
    """Lets tokens run out, by the database's clock; the worker leaves them to the readers."""
    rows(
        gateway.dsn,
        "update gateway.connection set expires_at = clock_timestamp() + make_interval(secs => %s), not_before = null,"
        " refresh_at = clock_timestamp() + interval '1 day' where id = any (%s::uuid[])",
        seconds,
        list(ids),
    )


def said(person, connection):
    """Status and reason in the API, the list, the filter, the page, the command line and the owner's row."""
    gateway = person.gateway
    shown = api(person, f"/connections/{connection}").json()
    pair = (shown["status"], shown["reason"])
    assert pair == seen_in_list(person, connection)
    assert [connection] == [one["id"] for one in api(person, "/connections", status=shown["status"]).json()["items"]]
    page = person.get("/connections").text.split(f'id="connection-{connection}"')[1].split("</article>")[0]
    assert f'data-status="{shown["status"]}"' in page
    assert ('class="note reason"' in page) == (shown["reason"] is not None)
    [line] = [
        json.loads(text) for text in shell(gateway, "connections", "list", "--json").splitlines() if connection in text
    ]
    assert pair == (line["status"], line["reason"])
    return pair


def seen_in_list(person, connection):
    [one] = [one for one in api(person, "/connections").json()["items"] if one["id"] == connection]
    return one["status"], one["reason"]


def own_row(gateway, connection):
    [data] = rows(gateway.dsn, "select data from public.provider_data where id = %s", connection)
    return data["status"], data.get("reason")


# -- the shape -------------------------------------------------------------------------------------------------------


def test_a_connection_shows_its_kind_facts_and_what_renews_it(alice):
    """
    HighLevel: a location or an agency, both ids, and the header that its API needs; found by the account's id.
    """
    hers = alice.connects("ghl", BERLIN)["connection"]

    shown = api(alice, f"/connections/{hers}").json()

    assert {"id", "label", "kind"} == set(shown["account"])
    assert (BERLIN, "location") == (shown["account"]["id"], shown["account"]["kind"])
    assert {"locationId": BERLIN, "companyId": AGENCY}.items() <= shown["facts"].items()
    assert ("active", None, True, [], {}) == tuple(
        shown[name] for name in ("status", "reason", "refreshable", "missing_scope", "tags")
    )
    assert [hers] == [one["id"] for one in api(alice, "/connections", account_id=BERLIN).json()["items"]]
    assert [] == api(alice, "/connections", account_id=AGENCY).json()["items"]
    assert 400 == api(alice, "/connections", account_id="").status_code
    token = api(alice, f"/connections/{hers}/token").json()
    assert {"Version": "2021-07-28"} == token["headers"]
    page = re.sub("<[^>]+>", "", alice.get("/connections").text)
    for known in (
        "userType: Location",
        "locationId: NorthwindBerlin00001",
        "companyId: NorthwindAgency00001",
        "Version: 2021-07-28",
    ):
        assert known in page
    assert token["api_base_url"].startswith("http")


def test_an_agency_is_shown_as_one(alice):
    hers = alice.connects("ghl", AGENCY)["connection"]

    assert "agency" == api(alice, f"/connections/{hers}").json()["account"]["kind"]


# -- what ends a connection ------------------------------------------------------------------------------------------


def test_a_refused_refresh_says_why_everywhere(gateway, alice):
    """
    needs_reauthorization with its reason, and the link to connect again; the operator sees the provider's status and code.
    """
    hers = alice.connects("google")["connection"]
    gateway.sandbox.state.withdraw("google")
    expire(gateway, hers)

    answer = api(alice, f"/connections/{hers}/token")

    assert (409, "needs_reauthorization") == (answer.status_code, answer.json()["code"])
    assert f"{gateway.url}/connect/google" == answer.json()["connect_url"]
    assert ("needs_reauthorization", "grant_refused") == said(alice, hers) == own_row(gateway, hers)
    assert [{"reason": "grant_refused"}] == events(gateway.dsn, "connection.needs_reauthorization", connection_id=hers)
    shown = json.loads(shell(gateway, "connections", "show", hers, "--json"))["connection"]
    assert (400, "invalid_grant") == (shown["refusal"]["status"], shown["refusal"]["code"])
    assert hers == alice.connects("google")["connection"]
    assert ("active", None) == said(alice, hers) == own_row(gateway, hers)


def test_an_access_token_without_a_refresh_token_ends_everywhere_at_once(gateway, alice):
    """
    The connection says from the start when it ends; then list, filter, page and token agree before any job has run, and one event follows.
    """
    hers = alice.connects("google")["connection"]
    rows(gateway.dsn, "update public.provider_data set refresh = null where id = %s", hers)
    rows(gateway.dsn, "update gateway.connection set refreshable = false where id = %s", hers)
    shown = api(alice, f"/connections/{hers}").json()
    assert (False, "active") == (shown["refreshable"], shown["status"])
    assert "It ends on" in alice.get("/connections").text
    rows(gateway.dsn, "select public.gateway_housekeeping_v1(365)")
    rows(gateway.dsn, "select public.gateway_housekeeping_v1(365)")
    assert 1 == len(events(gateway.dsn, "connection.ending", connection_id=hers))
    expire(gateway, hers)

    assert ("needs_reauthorization", "access_token_expired") == said(alice, hers)
    assert 409 == api(alice, f"/connections/{hers}/token").status_code
    assert [] == api(alice, "/connections", status="active").json()["items"]
    rows(gateway.dsn, "select public.gateway_housekeeping_v1(365)")
    rows(gateway.dsn, "select public.gateway_housekeeping_v1(365)")
    assert ("needs_reauthorization", "access_token_expired") == own_row(gateway, hers)
    assert [{"reason": "access_token_expired"}] == events(
        gateway.dsn, "connection.needs_reauthorization", connection_id=hers
    )


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("times", [1, 9])
def test_a_refused_account_call_says_nothing_about_the_grant(gateway, alice, status, times):
    """
    A missing scope, the wrong class or version of the API: the check answers what it knows, and nothing ends.
    """
    hers = alice.connects("ghl")["connection"]
    gateway.sandbox.state.add_fault("status", "ghl", "userinfo", times, status=status)

    answer = api(alice, f"/connections/{hers}/check", "POST")

    assert (200, "active", None) == (answer.status_code, answer.json()["status"], answer.json()["reason"])
    assert 200 == api(alice, f"/connections/{hers}/token").status_code


def test_a_suspended_account_is_shown_quietly_and_recovers_by_itself(gateway, alice):
    """
    HighLevel's "Location is not active": not an outage and not the end. Readers cause no requests; a check finds the recovery.
    """
    hers = alice.connects("ghl")["connection"]
    expire(gateway, hers)
    gateway.sandbox.state.switches["location_active"] = False

    answers = [api(alice, f"/connections/{hers}/token") for _ in range(3)]

    assert {(409, "suspended")} == {(each.status_code, each.json()["code"]) for each in answers}
    assert 1 == sum(
        one["form"].get("grant_type") == "refresh_token" for one in gateway.sandbox.state.requests("ghl", "token")
    )
    assert ("suspended", "account_not_active") == said(alice, hers) == own_row(gateway, hers)
    assert 1 == len(events(gateway.dsn, "connection.suspended", connection_id=hers))
    gateway.sandbox.state.switches["location_active"] = True
    assert "active" == api(alice, f"/connections/{hers}/check", "POST").json()["status"]
    assert [{"was": "suspended"}] == events(gateway.dsn, "connection.recovered", connection_id=hers)
    assert 200 == api(alice, f"/connections/{hers}/token").status_code


SUSPENDED = ("suspended", "account_not_active")
ACTIVE = ("active", None)


@pytest.mark.parametrize(
    ("status", "message", "word"),
    [
        (401, "Invalid JWT", "token_refused"),
        (401, "Invalid token: access token is invalid", "token_refused"),
        (401, "words that are not known", "token_refused"),
        (401, "The token is not authorized for this scope.", "missing_scope"),
        (403, "You do not have permission to access this resource", "missing_scope"),
        (401, "Token's user type mismatch!", "wrong_account_kind"),
        (401, "This token's user type is not yet supported!", "wrong_account_kind"),
        (401, "This authClass type is not allowed to access this scope. Please reach out.", "wrong_account_kind"),
        (401, "version header was not found.", "wrong_version"),
        (401, "version header is invalid", "wrong_version"),
        (403, "The token does not have access to this location.", "wrong_account"),
        (400, "Location is not active", "suspended"),
        (401, "Location is not active", "suspended"),
        (400, "the name Location is not active is too long", None),
        (
            400,
            {"message": "invalid", "title": "Location is not active", "sent": {"name": "Location is not active"}},
            None,
        ),
        (422, ["limit must be a number"], None),
        (400, "API endpoint has been removed", None),
    ],
)
@pytest.mark.parametrize("way", ["check", "proxy"])
def test_a_refusal_of_highlevels_api_is_told_from_an_expired_token(gateway, alice, way, status, message, word):
    """
    Only a refused token is fetched anew, nothing ends the connection, and the caller of the proxy gets a word for it. In both forms of errors;
    what a refusal repeats of the request says nothing.
    """
    hers = alice.connects("ghl", BERLIN)["connection"]
    body = {"error": {"code": "X", "message": message}} if way == "proxy" else {"message": message}
    body = message if isinstance(message, dict) else body
    gateway.sandbox.state.add_fault("status", "ghl", "userinfo", 9, status=status, body=json.dumps(body))
    before = len(gateway.sandbox.state.requests("ghl", "token"))

    if way == "proxy":
        answer = api(alice, f"/connections/{hers}/proxy/locations/{BERLIN}")
        assert (status, word) == (answer.status_code, answer.headers.get("Gateway-Upstream-Error"))
        assert body == answer.json()
    else:
        answer = api(alice, f"/connections/{hers}/check", "POST")
        assert (200 if word else 502) == answer.status_code

    refreshes = len(gateway.sandbox.state.requests("ghl", "token")) - before
    assert (word == "token_refused") == refreshes
    assert (SUSPENDED if word == "suspended" else ACTIVE) == seen_in_list(alice, hers) == own_row(gateway, hers)


@pytest.mark.parametrize(
    ("status", "message", "code", "end"),
    [
        (400, "Location is not active", "suspended", SUSPENDED),
        (400, "Invalid parameter: refresh_token", "needs_reauthorization", ("needs_reauthorization", "grant_refused")),
        (400, "Invalid parameter: refreshToken", "needs_reauthorization", ("needs_reauthorization", "grant_refused")),
        (400, "Invalid grant: refresh token is invalid", "needs_reauthorization", ("needs_reauthorization", "grant_refused")),
        (422, ["grant_type must be a valid enum value", "grant_type should not be empty"], "client_rejected", ACTIVE),
        (422, ["refresh_token must be a string"], "client_rejected", ACTIVE),
        (400, "Invalid parameter: client_secret", "client_rejected", ACTIVE),
        (400, "Missing parameter: refresh_token", "client_rejected", ACTIVE),
        (401, "The token is not authorized for this scope.", "client_rejected", ACTIVE),
        (401, "version header is invalid", "client_rejected", ACTIVE),
        (400, "API endpoint has been removed", "provider_garbled", ACTIVE),
    ],
)  # fmt: skip
@pytest.mark.parametrize("envelope", [False, True])
def test_a_refusal_of_highlevels_token_endpoint_says_who_must_act(gateway, alice, status, message, code, end, envelope):
    hers = alice.connects("ghl")["connection"]
    body = {"error": {"code": "X", "message": message}} if envelope else {"statusCode": status, "message": message}
    gateway.sandbox.state.add_fault("status", "ghl", "token", status=status, body=json.dumps(body))
    expire(gateway, hers)

    assert code == api(alice, f"/connections/{hers}/token").json()["code"]
    assert end == seen_in_list(alice, hers) == own_row(gateway, hers)


def test_a_refusal_in_any_form_ends_a_connection_after_a_week(gateway, alice):
    """
    A form that no list knows: active and retried for a week, then its owner is asked, and the operator sees what the provider said.
    """
    hers = alice.connects("zoom")["connection"]
    gateway.sandbox.state.add_fault("error", "zoom", "token", 0, error="E_4711", status=400)
    expire(gateway, hers)
    assert api(alice, f"/connections/{hers}/token").status_code in (502, 504)
    assert "active" == seen_in_list(alice, hers)[0]
    rows(gateway.dsn, "update gateway.connection set refused_since = refused_since - interval '8 days', failures = 20")
    expire(gateway, hers)

    api(alice, f"/connections/{hers}/token")

    assert ("needs_reauthorization", "refused_for_long") == said(alice, hers)
    assert "E_4711" in shell(gateway, "connections", "show", hers)
    gateway.sandbox.state.faults.clear()
    assert 0 == command(gateway, "connections", "retry", hers).exit_code
    assert ("active", None) == said(alice, hers)


@pytest.mark.parametrize(("status", "body"), [(404, "<html>"), (410, ""), (405, '{"message": "Method Not Allowed"}')])
def test_a_token_endpoint_that_is_gone_ends_no_connection(gateway, alice, status, body):
    """
    It has moved, which the operator has to enter: nothing was said about the grant.
    """
    hers = alice.connects("zoom")["connection"]
    for _ in range(2):
        gateway.sandbox.state.add_fault("status", "zoom", "token", status=status, body=body)
        expire(gateway, hers)
        assert 502 == api(alice, f"/connections/{hers}/token").status_code
        week = "update gateway.connection set refused_since = refused_since - interval '40 days', failures = 20 where id = %s"
        rows(gateway.dsn, week, hers)

    assert ("active", None) == said(alice, hers)


def test_a_grant_of_a_replaced_registration_is_not_sent_with_the_new_one(gateway, alice):
    """
    RFC 6749 section 6: the grant belongs to its client. The operator counts such grants; if the client returns, they work again.
    """
    hers = alice.connects("zoom")["connection"]
    rows(gateway.dsn, "update gateway.connection set client_id = 'the one before' where id = %s", hers)
    assert hers in shell(gateway, "connections", "list", "--client-gone")
    expire(gateway, hers)
    before = len(gateway.sandbox.state.requests("zoom", "token"))

    assert 409 == api(alice, f"/connections/{hers}/token").status_code

    assert before == len(gateway.sandbox.state.requests("zoom", "token"))
    assert ("needs_reauthorization", "client_replaced") == said(alice, hers)
    rows(gateway.dsn, "update gateway.connection set client_id = %s", gateway.environ["ZOOM_CLIENT_ID"])
    assert "" == shell(gateway, "connections", "list", "--client-gone")
    wait_until_equal(lambda: seen_in_list(alice, hers), ("active", None))


def test_an_uninstall_ends_the_other_connections_of_the_account_with_a_reason(gateway, alice):
    """
    The page says how many there are; of an agency its locations too. Another account is untouched.
    """
    held = alice.connects("ghl", AGENCY)["connection"]
    others = []
    for name, account in (("Bob Marsh", AGENCY), ("Carol Hill", BERLIN)):
        person = gateway.person(name)
        others.append((person, person.connects("ghl", account)["connection"]))
    form = alice.get("/connections").text.split(f'action="/connections/{held}/disconnect"')[1].split("</form>")[0]
    assert "after an uninstall: 2." in form

    assert (
        "done"
        == told(alice.post(f"/connections/{held}/disconnect", fields_in(form) | {"uninstall": "1"}))["uninstalled"]
    )

    for person, connection in others:
        assert ("needs_reauthorization", "uninstalled") == said(person, connection)
        assert 409 == api(person, f"/connections/{connection}/token").status_code
        assert [{"reason": "uninstalled"}] == events(
            gateway.dsn, "connection.needs_reauthorization", connection_id=connection
        )


# -- an incident of a provider ---------------------------------------------------------------------------------------


def owners(gateway, number, provider="google"):
    return [
        (person := gateway.person(f"Owner{count} Hill"), person.connects(provider)["connection"])
        for count in range(number)
    ]


def test_a_mass_refusal_ends_no_connection_and_all_recover(gateway, alice):
    """
    Twelve grants are refused within seconds: all are held, the first ones too, the operator is alerted, and a probe finds the end of it.
    """
    held = owners(gateway, 12)
    gateway.sandbox.state.add_fault("error", "google", "token", 0, error="invalid_grant")
    expire(gateway, *(connection for _, connection in held))

    answers = [api(person, f"/connections/{connection}/token").status_code for person, connection in held]

    assert {409, 503} >= set(answers)
    assert {("held", "provider_incident")} == {seen_in_list(*one) for one in held}
    assert 503 == api(held[0][0], f"/connections/{held[0][1]}/token").status_code
    assert said(*held[0]) == own_row(gateway, held[0][1])
    assert 1 == len(events(gateway.dsn, "provider.incident"))
    assert "provider.incident" in gateway.log.read_text()
    gateway.sandbox.state.faults.clear()
    rows(
        gateway.dsn,
        "update gateway.connection set refresh_at = clock_timestamp(), not_before = null where status = 'held'",
    )
    rows(gateway.dsn, "update gateway.provider_incident set probe_at = null")
    wait_until_equal(lambda: {seen_in_list(*one) for one in held}, {("active", None)})
    assert 1 == len(events(gateway.dsn, "provider.recovered"))
    assert 12 == len(events(gateway.dsn, "connection.recovered"))


def test_a_retry_brings_the_connections_back_at_once_and_the_dead_one_ends(gateway, alice):
    """
    `connections retry --provider` after the incident: what the provider accepts works, what it still refuses has to be connected again.
    """
    held = owners(gateway, 6)
    gateway.sandbox.state.add_fault("error", "google", "token", 0, error="invalid_grant")
    expire(gateway, *(connection for _, connection in held))
    for person, connection in held:
        api(person, f"/connections/{connection}/token")
    assert {("held", "provider_incident")} == {seen_in_list(*one) for one in held}
    # Ended before the others work again: the worker may ask for the first one at any moment.
    gateway.sandbox.state.end(next(iter(gateway.sandbox.state.by_refresh.values())).session)
    gateway.sandbox.state.faults.clear()

    ran = command(gateway, "connections", "retry", "--provider", "google", "--json")

    assert 6 == sum(json.loads(ran.stdout)["counts"].values())
    wait_until_equal(lambda: {seen_in_list(*one) for one in held[1:]}, {("active", None)})
    wait_until_equal(lambda: seen_in_list(*held[0]), ("needs_reauthorization", "grant_refused"))


def test_a_retry_refreshes_what_waits_since_our_registration_was_refused(gateway, alice):
    """
    The wait grows to more than an hour; the operator has replaced the secret meanwhile. What has ended stays as it is.
    """
    (person, waiting), (other, dead) = owners(gateway, 2)
    for each, connection, error in ((person, waiting, "invalid_client"), (other, dead, "invalid_grant")):
        gateway.sandbox.state.add_fault("error", "google", "token", 1, error=error)
        expire(gateway, connection)
        api(each, f"/connections/{connection}/token")
    assert ("active", "client_rejected") == (
        seen_in_list(person, waiting)[0],
        api(person, f"/connections/{waiting}/token").json()["code"],
    )

    ran = command(gateway, "connections", "retry", "--provider", "google", "--json")

    assert {"refreshed": 1} == json.loads(ran.stdout)["counts"]
    assert 200 == api(person, f"/connections/{waiting}/token").status_code
    assert ("needs_reauthorization", "grant_refused") == seen_in_list(other, dead)


def test_three_dead_grants_are_no_incident(gateway, alice):
    """
    Small numbers say nothing about the provider: each ends.
    """
    held = owners(gateway, 3)
    gateway.sandbox.state.add_fault("error", "google", "token", 0, error="invalid_grant")
    expire(gateway, *(connection for _, connection in held))
    for person, connection in held:
        assert 409 == api(person, f"/connections/{connection}/token").status_code

    assert {("needs_reauthorization", "grant_refused")} == {seen_in_list(*one) for one in held}
    assert [] == events(gateway.dsn, "provider.incident")


def test_few_refusals_among_many_successes_are_no_incident(gateway, alice):
    """
    Five of eleven are less than half: the provider works, so the five end.
    """
    held = owners(gateway, 11)
    expire(gateway, *(connection for _, connection in held))
    for person, connection in held[5:]:
        assert 200 == api(person, f"/connections/{connection}/token").status_code
    gateway.sandbox.state.add_fault("error", "google", "token", 0, error="invalid_grant")
    for person, connection in held[:5]:
        assert 409 == api(person, f"/connections/{connection}/token").status_code

    assert {("needs_reauthorization", "grant_refused")} == {seen_in_list(*one) for one in held[:5]}


def test_a_connection_that_is_held_serves_its_valid_token(gateway, alice):
    hers = alice.connects("zoom")["connection"]
    rows(gateway.dsn, "update gateway.connection set status = 'held', reason = 'provider_incident' where id = %s", hers)

    assert 200 == api(alice, f"/connections/{hers}/token").status_code
    assert 503 == api(alice, f"/connections/{hers}/refresh", "POST").status_code
    assert ("held", "provider_incident") == said(alice, hers)


# -- tokens that the owner wrote -------------------------------------------------------------------------------------


def test_tokens_that_the_owner_wrote_are_verified_or_say_why_not(gateway, alice):
    """
    The documented TypeScript writes `token`: 409 `unverified` until the provider has confirmed it. Nonsense is replaced by a refresh.
    """
    hers = alice.connects("zoom")["connection"]
    gateway.sandbox.state.add_fault("slow", "zoom", "userinfo", 0, seconds=3)
    rows(gateway.dsn, "update public.provider_data set token = 'written-by-its-owner' where id = %s", hers)

    answer = api(alice, f"/connections/{hers}/token")

    assert (409, "unverified", "wait") == (answer.status_code, answer.json()["code"], answer.json()["remedy"])
    assert ("unverified", "owner_wrote_tokens") == seen_in_list(alice, hers)
    assert [{"reason": "owner_wrote_tokens"}] == events(gateway.dsn, "connection.unverified", connection_id=hers)
    gateway.sandbox.state.faults.clear()
    wait_until_equal(lambda: seen_in_list(alice, hers), ("active", None))


def test_a_refresh_token_that_the_owner_wrote_and_the_provider_refuses_says_so(gateway, alice):
    hers = alice.connects("zoom")["connection"]
    rows(gateway.dsn, "update public.provider_data set token = 'a', refresh = 'b' where id = %s", hers)

    wait_until_equal(lambda: seen_in_list(alice, hers), ("needs_reauthorization", "not_confirmed"))
    assert ("needs_reauthorization", "not_confirmed") == said(alice, hers) == own_row(gateway, hers)


@pytest.mark.parametrize("written", ["", " ", "\u00e9", "a\nb"])
def test_nonsense_in_the_token_column_costs_no_connection(gateway, alice, written):
    """
    The refresh token is still there, and gets a new access token.
    """
    hers = alice.connects("zoom")["connection"]
    rows(gateway.dsn, "update public.provider_data set token = %s where id = %s", written, hers)

    wait_until_equal(lambda: api(alice, f"/connections/{hers}/token").status_code, 200)
    assert ("active", None) == said(alice, hers)


@pytest.mark.parametrize("nothing", ["", None])
def test_a_connection_whose_owner_removed_its_tokens_says_so(gateway, alice, nothing):
    """
    Without the refresh token it ends with its access token, without both at once; each change is an event.
    """
    hers = alice.connects("zoom")["connection"]
    rows(gateway.dsn, "update public.provider_data set refresh = %s where id = %s", nothing, hers)
    assert api(alice, f"/connections/{hers}").json()["refreshable"] is False
    assert 200 == api(alice, f"/connections/{hers}/token").status_code
    rows(gateway.dsn, "update public.provider_data set token = %s where id = %s", nothing, hers)

    assert ("needs_reauthorization", "owner_removed_tokens") == said(alice, hers) == own_row(gateway, hers)
    assert 409 == api(alice, f"/connections/{hers}/token").status_code
    assert [{"reason": "owner_removed_tokens"}] == events(
        gateway.dsn, "connection.needs_reauthorization", connection_id=hers
    )
    assert hers == alice.connects("zoom")["connection"]
    assert ("active", None) == said(alice, hers)


# -- scopes ----------------------------------------------------------------------------------------------------------


def test_a_scope_that_was_not_granted_is_named_everywhere(gateway, alice):
    """
    In the return query, the API, the page and the operator's list.
    """
    alice.signs_in()
    returned = told(alice.get(alice.consents("google", scope=IDENTITY)))

    assert SEND == returned["missing_scope"]
    hers = returned["connection"]
    assert [SEND] == api(alice, f"/connections/{hers}").json()["missing_scope"]
    assert "Not allowed:" in alice.get("/connections").text
    assert hers in shell(gateway, "connections", "list", "--lacking-scope")


def test_a_grant_that_lacks_a_permission_does_not_replace_one_that_has_it(gateway, alice):
    """
    Its user is asked first, and the change is an event.
    """
    hers = alice.connects("google")["connection"]
    assert "" == shell(gateway, "connections", "list", "--lacking-scope")

    answer = alice.get(alice.consents("google", scope=IDENTITY))

    assert answer.headers["Location"].endswith("/email/google/confirm")
    assert [] == api(alice, f"/connections/{hers}").json()["missing_scope"]
    page = alice.get(answer.headers["Location"])
    assert SEND in page.text.replace("<wbr>", "")
    kept = told(alice.post("/email/google/confirm", fields_in(page.text) | {"answer": "replace"}))
    assert (hers, SEND) == (kept["connection"], kept["missing_scope"])
    assert [{"added": [], "removed": [SEND]}] == events(gateway.dsn, "connection.scope_changed", connection_id=hers)


def test_a_partner_filters_by_status_and_account(gateway, alice):
    made = partner_of(gateway.dsn, scope=("connections:read", "tokens:read"))
    hers = alice.connects("ghl", BERLIN)["connection"]
    rows(
        gateway.dsn,
        "update gateway.connection set status = 'suspended', reason = 'account_not_active' where id = %s",
        hers,
    )

    found = made.asks(gateway, f"/connections?status=suspended&account_id={BERLIN}").json()["items"]

    assert [hers] == [one["id"] for one in found]
    assert 409 == made.asks(gateway, f"/connections/{hers}/token").status_code


# -- values that no key decrypts -------------------------------------------------------------------------------------


WRITES = {
    "token": "update public.provider_data set token = %s where id = %s",
    "refresh": "update public.provider_data set refresh = %s where id = %s",
}


@pytest.mark.parametrize("column", WRITES)
def test_a_value_that_no_key_decrypts_asks_for_the_operator(gateway, alice, column):
    """
    Written by the owner's server: it looks encrypted, and is not ours. Reading and refreshing say so, and the connection can be made again.
    """
    hers = alice.connects("google")["connection"]
    foreign = Fernet(Fernet.generate_key()).encrypt(b"x").decode()
    [other] = rows(gateway.dsn, "select token from public.provider_data where id = %s", hers)
    written = [
        "gAAAA",
        "gAAAAjunk",
        "gAAAA\n\t ",
        "gAAAA" + "ü\u2028" * 9,
        foreign,
        foreign[:-9],
        "gAAAA" + "A" * 2_000_001,
    ]
    written += [other] if column == "refresh" else []
    before = gateway.log.read_text()
    for value in written:
        with psycopg.connect(gateway.dsn, autocommit=True) as server:
            server.execute("set role service_role")
            server.execute(WRITES[column], (value, hers))
        expire(gateway, hers, seconds=600 if column == "token" else -1)

        answer = api(alice, f"/connections/{hers}/token")

        assert (500, "secret_unreadable", "operator") == (
            answer.status_code,
            *map(answer.json().get, ("code", "remedy")),
        )
        assert 200 == api(alice, f"/connections/{hers}").status_code
        # Also while the next try has to wait.
        assert api(alice, f"/connections/{hers}/check", "POST").json()["code"] in ("rate_limited", "secret_unreadable")
        if column == "refresh":
            assert "secret_unreadable" == api(alice, f"/connections/{hers}/refresh", "POST").json()["code"]
    assert "Traceback" not in gateway.log.read_text()[len(before) :]
    assert "active" == api(alice, f"/connections/{hers}").json()["status"]
    assert hers == alice.connects("google")["connection"]
    assert 200 == api(alice, f"/connections/{hers}/token").status_code
