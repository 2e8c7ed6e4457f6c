"""
An agency's connection: tokens for its locations, and their list.
"""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import pytest
import requests

from gateway.connections import locations
from gateway.errors import ProviderUnavailable
from gateway.sandbox import CLIENTS
from gateway.sandbox.highlevel import create_location
from gateway.sandbox.highlevel_webhooks import deliver, event
from gateway.services import build_runtime
from gateway.settings import read_settings
from gateway.webhooks import receive
from tests.support.database import rows
from tests.support.gateway_process import told, without_request_id
from tests.support.partners import partner_of
from tests.support.patience import held, wait_for, wait_until_equal

CLIENT = CLIENTS["ghl"][0]
BERLIN, LISBON, AGENCY = "NorthwindBerlin00001", "NorthwindLisbon00001", "NorthwindAgency00001"


@pytest.fixture(autouse=True)
def sandbox(gateway):
    state = gateway.sandbox.state
    state.more_locations, state.uninstalled, state.suspended = 3, set(), set()
    yield state
    state.more_locations, state.uninstalled, state.suspended = 0, set(), set()
    state.new_locations, state.future_locations = {}, False
    state.switches["location_refresh_token"], state.switches["highlevel_webhooks"] = True, False


@pytest.fixture
def partner(gateway):
    return partner_of(gateway.dsn)


@pytest.fixture
def agency(alice):
    return alice.connects("ghl", AGENCY)["connection"]


@pytest.fixture
def reads(gateway, partner, agency):
    def read(location, **query):
        return partner.asks(gateway, f"/connections/{agency}/token", params={"location": location, **query})

    return read


def mints(sandbox):
    return [each["form"].get("locationId") for each in sandbox.requests("ghl", "location_token")]


def stored(gateway, agency):
    return rows(
        gateway.dsn,
        "select jsonb_build_array(account_id, token) from gateway.derived_token where connection_id = %s and token is not null",
        agency,
    )


@pytest.mark.parametrize("has_refresh_token", [True, False])
def test_an_agency_gets_a_token_for_each_of_its_locations_once(gateway, sandbox, reads, agency, has_refresh_token):
    """
    Minted when it is asked for, kept encrypted in the private schema, and valid for that location.
    """
    sandbox.switches["location_refresh_token"] = has_refresh_token
    before = len(mints(sandbox))
    first, again = reads(BERLIN), reads(BERLIN)

    assert (first.status_code, first.json()) == (200, again.json())
    assert mints(sandbox)[before:] == [BERLIN]
    body = first.json()
    headers = body["headers"] | {"Authorization": f"Bearer {body['access_token']}"}
    assert requests.get(f"{body['api_base_url']}/locations/{BERLIN}", headers=headers, timeout=60).ok
    assert not requests.get(f"{body['api_base_url']}/locations/{LISBON}", headers=headers, timeout=60).ok
    assert [location for location, _ in stored(gateway, agency)] == [BERLIN]
    assert body["access_token"] not in str(stored(gateway, agency))
    assert body["access_token"] not in str(rows(gateway.dsn, "select to_jsonb(d)::text from public.provider_data d"))


@pytest.mark.parametrize("way", ["refresh", "proxy"])
def test_a_location_that_was_uninstalled_without_a_webhook_ends_with_its_next_mint(
    gateway, sandbox, partner, reads, agency, way
):
    """
    Its stored token is served until a caller says that the provider refuses it. The refused mint ends it, and the agency's others stay.
    """
    assert {200} == {reads(BERLIN).status_code, reads(LISBON).status_code}
    sandbox.uninstalled.add(LISBON)
    assert 200 == reads(LISBON).status_code
    rows(gateway.dsn, "update gateway.derived_token set derived_at = now() - interval '2 minutes' where connection_id = %s", agency)  # fmt: skip

    if way == "refresh":
        path = f"/connections/{agency}/refresh"
        assert 404 == partner.asks(gateway, path, method="POST", params={"location": LISBON}).status_code
        renewed = partner.asks(gateway, path, method="POST", params={"location": BERLIN})
        assert (200, 200) == (renewed.status_code, reads(BERLIN).status_code)
        assert renewed.json()["access_token"] == reads(BERLIN).json()["access_token"]
    else:
        headers = {"Gateway-Location": LISBON}
        sandbox.add_fault("status", "ghl", "userinfo", status=401, body='{"message": "Invalid JWT"}')
        assert (
            401
            == partner_of(gateway.dsn, scope=("proxy",))
            .asks(gateway, f"/connections/{agency}/proxy/locations/{LISBON}", headers=headers)
            .status_code
        )

    assert 404 == reads(LISBON).status_code
    assert [BERLIN] == [location for location, _ in stored(gateway, agency)]


def test_the_proxy_calls_for_the_location_in_its_header(gateway, partner, agency, sandbox):
    """
    Also after the location's token was refused: a new one is minted, and the call repeated.
    """

    def call(location):
        path = f"/connections/{agency}/proxy/locations/{location}"
        return partner.asks(gateway, path, headers={"Gateway-Location": location})

    assert call(LISBON).json()["location"]["name"] == "Northwind Lisbon"
    rows(gateway.dsn, "update gateway.derived_token set derived_at = now() - interval '2 minutes' where connection_id = %s", agency)  # fmt: skip
    sandbox.withdraw("ghl", LISBON)
    assert call(LISBON).json()["location"]["name"] == "Northwind Lisbon"
    assert call("elsewhere").status_code == 404


@pytest.mark.parametrize("location", ["elsewhere", AGENCY, BERLIN.lower(), "x" * 64, "../users", "%2e%2e"])
def test_a_location_without_the_app_is_like_no_connection(gateway, partner, reads, agency, location):
    none = partner.asks(gateway, "/connections/00000000-0000-4000-8000-000000000000/token")
    other = reads(location)

    assert (404, without_request_id(none)) == (other.status_code, without_request_id(other))
    assert stored(gateway, agency) == []


@pytest.mark.parametrize(("status", "body"), [(403, b"<html>Access denied"), (403, b"error code: 1020"), (503, b"")])
def test_a_firewall_s_page_does_not_mean_that_the_app_is_not_installed(sandbox, reads, status, body):
    """
    The provider was not reached: the caller waits.
    """
    sandbox.add_fault("status", "ghl", "location_token", body=body, status=status, content_type="text/html")

    assert ("provider_unavailable", "wait") == ((told := reads(BERLIN).json())["code"], told["remedy"])


def test_a_suspended_location_says_so_and_works_again_afterwards(gateway, sandbox, reads, agency):
    sandbox.suspended.add(LISBON)
    assert [reads(LISBON).json()["code"], reads(BERLIN).status_code] == ["suspended", 200]
    sandbox.suspended.clear()
    assert reads(LISBON).json()["code"] == "rate_limited"
    rows(gateway.dsn, "update gateway.derived_token set lease_until = now() where connection_id = %s", agency)

    assert reads(LISBON).status_code == 200


def test_a_limit_of_the_provider_is_passed_on_and_no_further_request_is_sent(gateway, sandbox, partner, reads, agency):
    """
    HighLevel sends no Retry-After: its interval counts. The pause is for the whole agency, in every process, and for its list.
    """
    sandbox.add_fault("status", "ghl", "location_token", status=429)
    first = reads(BERLIN)
    before, lists = len(mints(sandbox)), len(sandbox.requests("ghl", "installed"))
    second = reads(LISBON)

    assert [first.status_code, second.status_code] == [429, 429]
    assert 1 <= int(second.headers["Retry-After"]) <= int(first.headers["Retry-After"]) <= 10
    assert len(mints(sandbox)) == before
    assert (429, "rate_limited") == (
        (listed := partner.asks(gateway, f"/connections/{agency}/locations")).status_code,
        listed.json()["code"],
    )
    assert lists == len(sandbox.requests("ghl", "installed"))
    rows(gateway.dsn, "update gateway.derived_token set lease_until = now() where connection_id = %s", agency)
    rows(gateway.dsn, "delete from gateway.provider_pause where account_id = %s", AGENCY)
    assert [reads(BERLIN).status_code, reads(LISBON).status_code] == [200, 200]


def test_an_agency_without_the_scope_says_which_scope_is_missing(gateway, alice, partner):
    """
    Not an outage, and no end of the connection.
    """
    alice.signs_in()
    form = alice.consents("ghl", AGENCY)
    held = alice.get(form).headers["Location"].split("connection=")[1].split("&")[0]
    rows(gateway.dsn, "update gateway.connection set scope = '{locations.readonly}' where id = %s", held)
    answers = [
        partner.asks(gateway, f"/connections/{held}/token", params={"location": BERLIN}),
        partner.asks(gateway, f"/connections/{held}/locations"),
    ]

    assert [(each.status_code, each.json()["code"]) for each in answers] == [(403, "forbidden")] * 2
    assert all("scope" in each.json()["detail"] for each in answers)
    assert partner.asks(gateway, f"/connections/{held}").json()["status"] == "active"


def test_an_expired_token_of_the_agency_is_refreshed_before_it_mints(gateway, sandbox, reads):
    sandbox.expire("ghl")

    assert reads(BERLIN).status_code == 200


def test_an_agency_has_its_name_by_installer_details_where_that_scope_is_there(gateway, alice):
    """
    Without the scope `companies.readonly`, which would make the app agency-only.
    """
    asked = "locations.readonly marketplace-installer-details.readonly"
    alice.signs_in()
    alice.get("/connect/ghl")
    link = f"{gateway.sandbox.origin}/ghl/oauth/chooselocation?response_type=code&client_id={CLIENT}&scope={asked}"
    alice.get(
        gateway.sandbox.consents(f"{link}&redirect_uri={gateway.url}/crm/main/callback".replace(" ", "+"), AGENCY)
    )

    assert "Northwind Agency" in alice.get("/crm/ghl/claim").text


def test_before_consent_a_sentence_says_which_account_to_choose(alice):
    alice.signs_in()

    assert "Choose the sub-account" in alice.asks("ghl").text
    assert "Choose the sub-account" not in alice.asks("google").text


def test_concurrent_readers_of_a_location_cause_one_request(sandbox, reads):
    sandbox.add_fault("slow", "ghl", "location_token", seconds=1)
    before = len(mints(sandbox))
    with ThreadPoolExecutor(30) as pool:
        tokens = {each.json()["access_token"] for each in pool.map(reads, [BERLIN] * 30)}

    assert (len(tokens), mints(sandbox)[before:]) == (1, [BERLIN])


@pytest.mark.parametrize("ending", ["uninstall of the location", "uninstall of the agency", "disconnect"])
def test_what_ends_while_its_token_is_minted_does_not_come_back(gateway, alice, sandbox, reads, agency, ending):
    answers = []
    reader = threading.Thread(target=lambda: answers.append(reads(BERLIN)))
    with held(gateway.sandbox, "ghl", "location_token") as is_asked:
        reader.start()
        wait_for(is_asked)
        if ending == "disconnect":
            alice.disconnects(agency)
        else:
            fields = {"locationId": BERLIN} if "location" in ending else {}
            assert deliver(sandbox, event(sandbox, "UNINSTALL", companyId=AGENCY, **fields)) == 200
            if fields:
                gone = "select 1 from gateway.event where type = 'provider_event.received' and connection_id = %s"
            else:
                gone = "select 1 from gateway.connection where id = %s and status = 'needs_reauthorization'"
            wait_for(lambda: rows(gateway.dsn, gone, agency))
    reader.join()

    assert answers[0].status_code in (404, 409, 503)
    assert stored(gateway, agency) == []


def listed_now(gateway, agency):
    """As the worker does once a day; again where the gateway's own worker was quicker."""
    rt, units = build_runtime(read_settings(gateway.environ)), []
    while not units:
        rows(gateway.dsn, "update gateway.connection set listed_at = now() where id <> %s", agency)
        rows(gateway.dsn, "update gateway.connection set listed_at = now() - interval '2 days' where id = %s", agency)
        units = locations.claim_next(rt, ())
    for unit in units:
        unit.run()
    while receive.settle(rt):
        pass
    rt.close()


def test_what_vanished_from_the_list_needs_reauthorization_by_the_next_day(gateway, bob, sandbox, reads, agency):
    """
    A deleted sub-account sends no webhook. But a list that lost most of its locations at once is not believed.
    """
    sandbox.more_locations = 12
    listed_now(gateway, agency)
    known = "select count(*) from gateway.derived_token where connection_id = %s"
    # The gateway's own worker may be settling the last of it.
    wait_until_equal(lambda: rows(gateway.dsn, known, agency), [14])
    held = bob.connects("ghl", LISBON)["connection"]
    ended = "select reason from gateway.connection where id = %s and status = 'needs_reauthorization'"
    sandbox.more_locations, sandbox.uninstalled = 0, {LISBON}
    listed_now(gateway, agency)
    assert (rows(gateway.dsn, ended, held), rows(gateway.dsn, known, agency)) == ([], [14])
    sandbox.more_locations = 12
    listed_now(gateway, agency)

    wait_until_equal(
        lambda: (rows(gateway.dsn, ended, held), rows(gateway.dsn, known, agency)), (["uninstalled"], [13])
    )
    assert reads(LISBON).status_code == 404


def test_a_list_that_cannot_be_read_is_read_again_an_hour_later(gateway, agency, monkeypatch):
    waits = "select ceil(extract(epoch from listed_at + interval '1 day' - now()) / 3600)::integer from gateway.connection where id = %s"
    with monkeypatch.context() as patched:
        patched.setattr(locations, "call_api", Mock(side_effect=ProviderUnavailable("away")))
        with pytest.raises(ProviderUnavailable):
            listed_now(gateway, agency)
    assert [1] == rows(gateway.dsn, waits, agency)
    listed_now(gateway, agency)
    assert [24] == rows(gateway.dsn, waits, agency)


def test_an_agency_that_chose_one_location_reaches_that_one_and_those_to_come(gateway, alice, partner, sandbox):
    """
    What was chosen is kept. The INSTALL of a new location names no agency: the agencies' lists say whose it is, and then its events are handed on.
    """
    sandbox.more_locations = 0
    alice.signs_in()
    chosen = {"bulk": "1", "location": BERLIN, "future_locations": "1"}
    agency = told(alice.get(alice.consents("ghl", AGENCY, **chosen)))["connection"]
    facts = partner.asks(gateway, f"/connections/{agency}").json()["facts"]
    wanted = {"approvedLocations": [BERLIN], "approveAllLocations": False, "installToFutureLocations": True}
    assert wanted.items() <= facts.items()
    assert facts["isBulkInstallation"] is True
    listed = partner.asks(gateway, f"/connections/{agency}/locations").json()["items"]
    assert [BERLIN] == [each["id"] for each in listed]
    assert partner.asks(gateway, f"/connections/{agency}/token", params={"location": LISBON}).status_code == 404

    sandbox.switches["highlevel_webhooks"] = True
    new = f"NorthwindNew{uuid.uuid4().hex[:8]}"
    create_location(sandbox, new, "Northwind Oslo")
    received = "select data ->> 'event' from gateway.event where connection_id = %s and data ->> 'account_id' = %s and type = %s"

    def claimed():
        if rows(gateway.dsn, "select true from gateway.connection where id = %s and listed_at is null", agency):
            listed_now(gateway, agency)
        return rows(gateway.dsn, received, agency, new, "install.received")

    wait_until_equal(claimed, ["INSTALL"])
    assert deliver(sandbox, event(sandbox, "ContactCreate", locationId=new)) == 200
    handed_on = received + " and data ->> 'event' = 'ContactCreate'"
    wait_for(lambda: rows(gateway.dsn, handed_on, agency, new, "provider_event.received"))
    assert partner.asks(gateway, f"/connections/{agency}/token", params={"location": new}).status_code == 200


def test_the_locations_are_listed_page_by_page_and_searched(gateway, partner, agency):
    def listed(**query):
        return partner.asks(gateway, f"/connections/{agency}/locations", params=query)

    everything, cursor = [], None
    for _ in range(5):
        page = listed(limit=2, **({"cursor": cursor} if cursor else {})).json()
        everything += [each["id"] for each in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert everything == [BERLIN, LISBON, *(f"NorthwindMore{n:07}" for n in range(3))]
    assert [each["label"] for each in listed(q="lisb").json()["items"]] == ["Northwind Lisbon"]
    assert listed(q="none").json() == {"items": [], "next_cursor": None}
    assert listed(limit=0).status_code == 400
    for wrong in ("", "x", "-1", "1_0", "1.5", "=", "9" * 10, "x" * 600):
        assert listed(cursor=wrong).status_code == 400, wrong


def test_only_an_agency_has_locations_and_another_callers_is_like_none(gateway, alice, partner, agency):
    location = alice.elsewhere().connects("google")["connection"]
    without = partner_of(gateway.dsn, scope=("tokens:read",))
    own = partner_of(gateway.dsn, reach="own")

    none, other = (
        who.asks(gateway, f"/connections/{each}/locations") for who, each in ((partner, location), (own, agency))
    )
    assert (404, True) == (none.status_code, "is not an agency's" in none.json()["detail"])
    assert (404, False) == (other.status_code, "agency" in other.json()["detail"])
    assert without.asks(gateway, f"/connections/{agency}/locations").status_code == 403
