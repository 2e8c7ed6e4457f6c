"""
A white-label entry: no page that a user sees, and no address, names the provider behind it.
"""

from __future__ import annotations

import json
import re
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from gateway.sandbox import CLIENTS
from tests.support.database import rows
from tests.support.gateway_process import fields_in, told
from tests.support.partners import partner_of

BERLIN, LISBON = "NorthwindBerlin00001", "NorthwindLisbon00001"
SECRETS = re.compile(r"[A-Za-z0-9_-]{32,}|provider=[\"]?ghl_white_label")
"""What no user reads: secrets, and the id in the result for the product."""
WORDS = re.compile(r"ghl|high\s*level|lead\s*connector|gohigh", re.IGNORECASE)


@pytest.fixture(autouse=True)
def sandbox(gateway):
    yield gateway.sandbox.state
    gateway.sandbox.state.reset()


def assert_neutral(answer, part=None):
    """Neither the text of a page nor its address, nor where it leads to, has one of the provider's names."""
    seen = [SECRETS.sub("", text) for text in (part or answer.text, answer.url, answer.headers.get("Location", ""))]
    assert [] == [
        text[max(found.start() - 40, 0) : found.end() + 40] for text in seen for found in WORDS.finditer(text)
    ]
    return answer


def connection_of(page, connection):
    return page.text.split(f'id="connection-{connection}"')[1].split("</article>")[0]


def installed(gateway):
    """The callback of an installation from the marketplace."""
    asked = {"response_type": "code", "client_id": CLIENTS["ghl_white_label"][0], "scope": "locations.readonly"}
    asked |= {"redirect_uri": f"{gateway.url}/crm/partner/callback"}
    chooser = f"{gateway.sandbox.origin}/ghl_white_label/oauth/chooselocation?{urlencode(asked)}"
    return gateway.sandbox.consents(chooser, BERLIN)


def test_connect_confirm_list_and_disconnect_name_no_provider(gateway, alice):
    alice.signs_in()
    offer = alice.get("/connections").text.split('data-provider="partner"')[1].split("</a>")[0]
    assert 1 == re.sub("<[^>]*>", "", offer).count("CRM")
    short = alice.get("/connect/ghl_white_label", params={"display": "page"})
    assert short.headers["Location"].startswith("/crm/partner/connect")
    page = assert_neutral(alice.get(short.headers["Location"]))
    assert "CRM" in page.text
    form = fields_in(page.text.split('id="connect"')[1])
    sent = alice.post("/crm/partner/connect", form)
    query = parse_qs(urlsplit(sent.headers["Location"]).query)
    assert (["self"], [f"{gateway.url}/crm/partner/callback"]) == (query["loginWindowOpenMode"], query["redirect_uri"])
    ended = assert_neutral(alice.get(gateway.sandbox.consents(sent.headers["Location"], BERLIN)))
    assert "ghl_white_label" == told(ended)["provider"]
    hers = told(ended)["connection"]
    listed = alice.get(ended.headers["Location"])
    assert_neutral(listed, connection_of(listed, hers))
    notice = listed.text.split("<main")[1].split("<article")[0]
    assert "CRM" in notice
    assert not WORDS.search(SECRETS.sub("", notice))

    asks = assert_neutral(alice.get(alice.consents("partner", LISBON)))
    assert "/crm/partner/confirm" == asks.headers["Location"]
    question = assert_neutral(alice.get("/crm/partner/confirm"))
    answer = fields_in(question.text.split('id="confirm"')[1]) | {"answer": "no"}
    assert_neutral(alice.post("/crm/partner/confirm", answer))

    rows(
        gateway.dsn,
        "update gateway.connection set status = 'needs_reauthorization', reason = 'uninstalled' where id = %s",
        hers,
    )
    problem = partner_of(gateway.dsn).asks(gateway, f"/connections/{hers}/token").json()
    assert f"{gateway.url}/connect/partner" == problem["connect_url"]
    listed = alice.get("/connections")
    assert_neutral(listed, connection_of(listed, hers))
    assert_neutral(alice.disconnects(hers))


def test_a_pop_up_and_a_link_name_no_provider(gateway, alice):
    alice.signs_in()
    back = alice.get(alice.consents("ghl_white_label", BERLIN, query={"display": "popup"}))
    page = assert_neutral(alice.get(assert_neutral(back).headers["Location"]))
    assert 'data-provider="ghl_white_label"' in page.text
    hers = told(back)["connection"]
    headers = {"Authorization": f"Bearer {alice.token()}"}
    found = alice.browser.get(f"{gateway.url}/v1/connections?provider=partner", headers=headers, timeout=60).json()
    assert [hers] == [each["id"] for each in found["items"]]

    made = partner_of(gateway.dsn)
    asked = {"user_id": alice.id, "provider": "ghl_white_label"}
    link = made.asks(gateway, "/connect-sessions", method="POST", json=asked).json()["url"]
    assert_neutral(alice.get(link))


def test_an_installation_from_the_marketplace_names_no_provider(gateway, alice):
    alice.signs_in()
    kept = assert_neutral(alice.get(installed(gateway)))
    assert "/crm/partner/claim" == kept.headers["Location"]
    claim = assert_neutral(alice.get("/crm/partner/claim"))
    assert_neutral(alice.post("/crm/partner/claim", fields_in(claim.text.split('id="claim"')[1])))


@pytest.mark.parametrize("query", ["", "state=unknown&code=x", "state=unknown&error=access_denied", "code="])
def test_errors_name_no_provider(alice, query):
    alice.signs_in()
    page = assert_neutral(alice.get(f"/crm/partner/callback?{query}"))
    assert page.status_code >= 400


@pytest.mark.parametrize(
    ("fault", "options"),
    [
        ("status", {"status": 503}),
        ("status", {"status": 400, "body": json.dumps({"message": "Location is not active"})}),
        ("error", {"error": "invalid_client", "status": 401}),
        ("html_200", {}),
        ("error", {"error": "access_denied"}),
    ],
)
def test_a_failure_of_the_provider_names_none(gateway, alice, fault, options):
    alice.signs_in()
    back = alice.consents("partner", BERLIN)
    gateway.sandbox.state.add_fault(fault, "ghl_white_label", "token", 3, **options)
    ended = assert_neutral(alice.get(back))
    if ended.status_code == 303:
        page = alice.get(ended.headers["Location"])
        assert not WORDS.search(SECRETS.sub("", page.text).split("<main")[1].split("<section")[0].split("<article")[0])
