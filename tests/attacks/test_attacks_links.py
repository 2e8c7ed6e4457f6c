"""
Connect links and their form under attack: forwarded, scanned, with invented parameters. A link names a provider and
never an owner, and only the form of the signed-in user starts anything.
"""

from __future__ import annotations

import pytest

from tests.support.attack_helpers import asked, owned
from tests.support.database import rows
from tests.support.gateway_process import HIDDEN, told


def test_a_connect_link_carries_no_owner(gateway, alice, bob):
    """
    A link made by Alice and opened by Bob connects for Bob, says so on the page, and never for Alice.
    """
    naming_alice = {"user_id": alice.id, "user": alice.id, "session": alice.browser.cookies["gateway"]}

    page = bob.asks("google", **naming_alice)
    ended = bob.connects("google", **naming_alice)

    assert bob.user.email in page.text
    assert alice.user.email not in page.text
    whose = "select auth_provider_id::text from public.provider_data where id = %s"
    assert [bob.id] == rows(gateway.dsn, whose, ended["connection"])
    assert 0 == owned(gateway, alice)


def test_a_link_without_a_session_goes_to_the_sign_in_first(gateway):
    """
    No user is redirected to a provider without a session.
    """
    nobody = gateway.person("Bob Marsh")

    page = nobody.asks("ghl")
    pressed = nobody.post("/crm/ghl/connect", {"csrf": "x" * 43})

    assert page.headers["Location"].startswith(f"{gateway.sandbox.origin}/login?next=")
    assert pressed.headers["Location"].startswith(f"{gateway.sandbox.origin}/login?next=")


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_looking_at_a_link_starts_nothing(gateway, alice, method):
    """
    Link scanners and prefetching browsers consume nothing: only the form starts an attempt.
    """
    for path in ("/connect/ghl", "/crm/ghl/connect"):
        alice.browser.request(method, gateway.url + path, allow_redirects=False, timeout=30)

    begun = rows(gateway.dsn, "select count(*) from gateway.authorization_request where user_id = %s", alice.id)
    assert [0] == begun


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"return_to": "https://evil.example/"}, 400),
        ({"csrf": ""}, 403),
        ({"csrf": "A" * 43}, 403),
        ({"display": "javascript:alert(1)"}, 303),
        (
            {
                "scope": "everything",
                "provider": "ringcentral",
                "user_id": "somebody",
                "redirect_uri": "https://evil.example",
            },
            303,
        ),
    ],
)
def test_changed_fields_have_no_effect_or_are_refused(gateway, alice, changed, status):
    """
    What the form does not offer cannot be added to it, and what it offers is judged again.
    """
    honest = asked(alice.begins("google"))
    page = alice.asks("google").text
    fields = dict(HIDDEN.findall(page.split('id="connect"')[1])) | changed

    answer = alice.post("/email/google/connect?return_to=https://evil.example", fields)

    assert status == answer.status_code
    if status == 303:
        sent = asked(answer.headers["Location"])
        fresh = {"state", "nonce", "code_challenge"}
        assert {name: honest[name] for name in honest.keys() - fresh} == {
            name: sent[name] for name in sent.keys() - fresh
        }
        assert not fresh & {name for name in fresh if honest[name] == sent[name]}
        assert told(alice.get(gateway.sandbox.consents(answer.headers["Location"])))["provider"] == "google"
