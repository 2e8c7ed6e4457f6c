"""
The sandbox's HighLevel: classes of tokens, the replay window, refusals in its own words.
"""

from __future__ import annotations

from urllib.parse import urlencode

import requests

from tests.support.oauth_client import AGENCY, CALLBACK, VERSION


def test_highlevels_class_of_token_is_what_the_user_chose(walk):
    """The request's user_type is a hint; both classes carry companyId."""
    location, company = walk("ghl").connects(), walk("ghl").connects(consent={"account": "NorthwindAgency00001"})

    assert ("Location", "NorthwindBerlin00001") == (location["userType"], location["locationId"])
    assert ("Company", True) == (company["userType"], company["isBulkInstallation"])
    assert "locationId" not in company
    assert location["companyId"] == company["companyId"]


def test_highlevel_answers_a_used_refresh_token_with_the_same_pair_for_30_seconds(sandbox, walk):
    """The replay window; after it the token is dead, and the successor lives on."""
    walker = walk("ghl")
    first = walker.connects()["refresh_token"]
    second = walker.refreshes(first).json()
    sandbox.state.advance(29)
    again = walker.refreshes(first).json()
    assert (second["access_token"], second["refresh_token"]) == (again["access_token"], again["refresh_token"])

    sandbox.state.advance(2)
    refused = walker.refreshes(first)

    assert (400, "Invalid grant: refresh token is invalid") == (refused.status_code, refused.json()["message"])
    assert 200 == walker.refreshes(second["refresh_token"]).status_code


def test_highlevels_suspended_location_keeps_its_refresh_token(sandbox, walk):
    """400 Location is not active; the same token works when the switch is back."""
    walker = walk("ghl")
    token = walker.connects()["refresh_token"]
    sandbox.state.switches["location_active"] = False
    assert "Location is not active" == walker.refreshes(token).json()["message"]

    sandbox.state.switches["location_active"] = True

    assert 200 == walker.refreshes(token).status_code


def test_highlevel_speaks_camel_case_under_v3_and_takes_json(walk):
    """Version: v3 renames fields in both directions."""
    walker = walk("ghl")
    sent = {"clientId": walker.client_id, "clientSecret": walker.secret, "grantType": "authorization_code"}
    sent |= {"code": walker.returns()["code"], "redirectUri": CALLBACK}
    body = requests.post(walker.token_url, json=sent, headers={"Version": "v3"}, timeout=60).json()

    assert {"accessToken", "refreshToken", "expiresIn", "userType"} <= body.keys()
    assert 422 == requests.post(walker.token_url, data={}, timeout=60).status_code
    gone = requests.post(f"{walker.origin}/oauth/reconnect", timeout=60)
    assert (400, "API endpoint has been removed") == (gone.status_code, gone.json()["message"])


def test_highlevels_api_refuses_version_class_scope_and_location_in_its_own_words(walk):
    """Most of them are 401, though the token is fine."""
    walker = walk("ghl")
    mine = walker.connects()["access_token"]
    agency = walker.connects(consent={"account": "NorthwindAgency00001"})["access_token"]
    berlin, company = "/locations/NorthwindBerlin00001", "/companies/NorthwindAgency00001"
    cases = [
        (walker.reads(berlin, mine), 401, "version header was not found."),
        (walker.reads(berlin, mine, Version="1999-01-01"), 401, "version header is invalid"),
        (walker.reads(berlin, "x", **VERSION), 401, "Invalid token: access token is invalid"),
        (walker.reads(company, mine, **VERSION), 401, "This token's user type is not yet supported!"),
        (walker.reads(company, agency, **VERSION), 401, "The token is not authorized for this scope."),
        (walker.reads("/locations/NorthwindLisbon00001", mine, **VERSION), 403, "The token does not have access to this location."),
    ]  # fmt: skip

    assert [(status, said) for _, status, said in cases] == [(a.status_code, a.json()["message"]) for a, _, _ in cases]


def test_an_agency_mints_tokens_for_its_locations_and_uninstalling_ends_them_all(walk):
    """201, oauth scopes added; the removal of the agency takes the locations with it."""
    walker = walk("ghl")
    agency = walker.connects(consent={"account": "NorthwindAgency00001"}, scope=AGENCY)["access_token"]
    with_token = {"Authorization": f"Bearer {agency}"} | VERSION
    app = {"companyId": "NorthwindAgency00001", "appId": "64a000000000000000000000"}
    listed = walker.reads("/oauth/installedLocations?" + urlencode(app), agency, **VERSION).json()
    wanted = {"companyId": "NorthwindAgency00001", "locationId": listed["locations"][1]["_id"]}
    minted = requests.post(f"{walker.origin}/oauth/locationToken", data=wanted, headers=with_token, timeout=60)
    assert (201, "Location", 86_400) == (minted.status_code, minted.json()["userType"], minted.json()["expires_in"])
    assert 422 == walker.reads("/oauth/installedLocations", agency, **VERSION).status_code

    where = f"{walker.origin}/marketplace/app/{app['appId']}/installations"
    gone = requests.delete(where, json={"companyId": "NorthwindAgency00001"}, headers=with_token, timeout=60)

    assert gone.json()["success"] is True
    assert (
        401 == walker.reads(f"/locations/{wanted['locationId']}", minted.json()["access_token"], **VERSION).status_code
    )


def test_highlevel_counts_calls_per_resource(walk, sandbox):
    """100 in 10 s, shown in headers; then 429."""
    walker = walk("ghl")
    token = walker.connects()["access_token"]
    first = walker.reads("/locations/NorthwindBerlin00001", token, **VERSION)
    assert ("100", "99") == (first.headers["X-RateLimit-Max"], first.headers["X-RateLimit-Remaining"])
    with sandbox.state.lock:
        sandbox.state.calls["ghl:NorthwindBerlin00001"].extend([sandbox.state.now()] * 99)
    assert 429 == walker.reads("/locations/NorthwindBerlin00001", token, **VERSION).status_code

    sandbox.state.advance(10)

    assert 200 == walker.reads("/locations/NorthwindBerlin00001", token, **VERSION).status_code
