"""
Installations that were started at the provider: a code and no state.
"""

from __future__ import annotations

import html
import re
from urllib.parse import urlencode

import pytest
import requests

from gateway.sandbox import CLIENTS
from tests.support.database import rows
from tests.support.gateway_process import fields_in, told, whole_gateway
from tests.support.patience import wait_for

BERLIN, LISBON, AGENCY = "NorthwindBerlin00001", "NorthwindLisbon00001", "NorthwindAgency00001"
KEPT = "select count(*)::int from gateway.unclaimed_install where id::text = %s"


def installed(gateway, account=BERLIN, scope="locations.readonly oauth.write"):
    """The callback of an installation from the marketplace."""
    asked = {"response_type": "code", "client_id": CLIENTS["ghl"][0], "scope": scope}
    asked |= {"redirect_uri": f"{gateway.url}/crm/main/callback"}
    back = gateway.sandbox.consents(f"{gateway.sandbox.origin}/ghl/oauth/chooselocation?{urlencode(asked)}", account)
    assert "state=" not in back
    return back


def token_requests(gateway):
    return len(gateway.sandbox.state.requests("ghl", "token"))


def claims(person, page):
    return person.post("/crm/ghl/claim", fields_in(page.text.split('id="claim"')[1]))


def test_a_marketplace_install_is_claimed_by_the_user_of_that_browser_after_sign_in(gateway, alice):
    back, before = installed(gateway), token_requests(gateway)
    for _ in range(2):  # the page is reloaded: a code is sent once
        answer = alice.get(back)
        assert answer.headers["Location"] == "/crm/ghl/claim"
    assert token_requests(gateway) - before == 1
    signed_out = alice.get("/crm/ghl/claim")
    assert "/login?next=" in signed_out.headers["Location"]
    alice.signs_in()
    page = alice.get("/crm/ghl/claim")
    assert "Northwind Berlin" in page.text
    assert "Sub-account" in page.text
    install = fields_in(page.text.split('id="claim"')[1])["install"]
    assert rows(gateway.dsn, KEPT, install) == [1]
    result = told(claims(alice, page))
    stored = rows(gateway.dsn, "select account_id from gateway.connection where id = %s", result["connection"])

    assert stored == [BERLIN]
    assert rows(gateway.dsn, KEPT, install) == [0]
    assert alice.get("/crm/ghl/claim").status_code == 400


def test_an_install_whose_claim_fails_waits_on(gateway, alice):
    """
    The provider is frozen at that moment: the code was used, so another try needs the same grant.
    """
    alice.get(installed(gateway))
    alice.signs_in()
    page = alice.get("/crm/ghl/claim")
    rows(gateway.dsn, "insert into gateway.freeze (target) values ('provider:ghl')")
    assert "connection" not in claims(alice, page).headers.get("Location", "")
    rows(gateway.dsn, "delete from gateway.freeze where target = 'provider:ghl'")

    assert told(claims(alice, alice.get("/crm/ghl/claim")))["connection"]


def test_a_test_link_of_the_developer_portal_is_an_installation_without_a_state(gateway, alice):
    """
    Every developer of an app meets it on the first day.
    """
    portal = requests.get(f"{gateway.sandbox.origin}/ghl/portal", timeout=60).text
    link = html.unescape(re.search(r'id="test-link" href="([^"]+)"', portal)[1])
    alice.signs_in()
    answer = alice.get(gateway.sandbox.consents(gateway.sandbox.origin + link, LISBON))

    assert answer.headers["Location"] == "/crm/ghl/claim"
    assert "Northwind Lisbon" in alice.get("/crm/ghl/claim").text


def test_an_agencys_install_is_called_an_agency(gateway, alice):
    alice.signs_in()
    alice.get(installed(gateway, AGENCY, "companies.readonly"))
    page = alice.get("/crm/ghl/claim").text

    assert re.search("Agency</dt><dd[^>]*><bdi>Northwind Agency", page)


def test_nobody_else_can_claim_it(gateway, alice, bob):
    """
    Another browser has nothing to claim, a form without its token is refused, and opening the page claims nothing.
    """
    alice.signs_in()
    alice.get(installed(gateway))
    page = alice.get("/crm/ghl/claim")
    bob.signs_in()
    assert bob.get("/crm/ghl/claim").status_code == 400
    fields = fields_in(page.text.split('id="claim"')[1])
    assert bob.post("/crm/ghl/claim", fields).status_code in (400, 403)
    assert alice.post("/crm/ghl/claim", fields | {"csrf": "x"}).status_code == 403
    assert alice.post("/crm/ghl/claim", fields | {"install": "x"}).status_code == 400
    assert not rows(gateway.dsn, "select id from gateway.connection where user_id in (%s, %s)", alice.id, bob.id)

    assert "connection" in told(claims(alice, page))


def test_another_account_than_the_connected_one_is_a_question(gateway, alice):
    first = alice.connects("ghl", BERLIN)["connection"]
    alice.get(installed(gateway, LISBON))
    answer = claims(alice, alice.get("/crm/ghl/claim"))

    assert answer.headers["Location"] == "/crm/ghl/confirm"
    assert "Northwind Lisbon" in alice.get("/crm/ghl/confirm").text
    assert rows(gateway.dsn, "select account_id from gateway.connection where id = %s", first) == [BERLIN]


def test_its_tokens_are_only_in_the_private_schema_and_encrypted(gateway, alice):
    alice.get(installed(gateway))
    newest = "select to_jsonb(u)::text from gateway.unclaimed_install u order by expires_at desc limit 1"
    [kept] = rows(gateway.dsn, newest)

    assert "gAAAA" in kept
    assert not [token for token in gateway.sandbox.state.by_access if token in kept]


def test_what_is_not_claimed_within_a_day_is_erased_and_uninstalled(gateway, alice, bob):
    """
    But not where the account is connected: an uninstall would end that.
    """
    from gateway.connect import unclaimed
    from gateway.services import build_runtime
    from gateway.settings import read_settings

    rows(gateway.dsn, "delete from gateway.unclaimed_install")
    bob.connects("ghl", BERLIN)
    rt = build_runtime(read_settings(gateway.environ))
    before = len(gateway.sandbox.state.requests("ghl", "uninstall"))
    for account in (BERLIN, LISBON):
        rows(gateway.dsn, "delete from gateway.connection where account_id = %s", LISBON)
        alice.get(installed(gateway, account))
    rows(gateway.dsn, "update gateway.unclaimed_install set expires_at = now()")
    while units := unclaimed.claim_next(rt, ()):
        units[0].run()
    rt.close()

    # The gateway's own worker may have claimed some.
    wait_for(lambda: not rows(gateway.dsn, "select id from gateway.unclaimed_install"))
    removed = gateway.sandbox.state.requests("ghl", "uninstall")[before:]
    assert [each["form"] for each in removed] == [{"locationId": LISBON}]
    gateway.sandbox.state.uninstalled.clear()


@pytest.mark.parametrize("code", ["", "x", "x" * 5000])
def test_a_code_that_is_none_keeps_nothing(gateway, alice, code):
    answer = alice.get(f"/crm/main/callback?code={code}")

    assert answer.status_code >= 400
    assert "Location" not in answer.headers


def test_switched_off_the_page_explains_and_offers_a_proper_start_and_nothing_is_sent(cluster, template):
    settings = {"GATEWAY_UNCLAIMED_INSTALLS": "0"}
    with whole_gateway(cluster, template, settings=settings) as made:
        made.start()
        person = made.person()
        page = person.get(installed(made))

        assert page.status_code == 400
        assert 'href="/connect/ghl"' in page.text
        assert "Start the installation here" in page.text
        assert token_requests(made) == 0
        assert person.get("/email/google/callback?code=x").status_code == 400
