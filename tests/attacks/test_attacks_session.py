"""
The session under attack: fixation, reuse, and forms from another site. ASVS 3.5 and 7.2; the browser sends Sec-Fetch-
Site and Origin, the form has a CSRF token.
"""

from __future__ import annotations

import re

import pytest
import requests

from tests.support.token_forger import hands_over


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1", "http://localhost", "", "file://", "*"]
)
def test_a_session_from_elsewhere_is_refused(gateway, origin):
    """
    Login CSRF: another site cannot sign a user in, not even as a real user.
    """
    answer = hands_over(gateway, gateway.person("Alice Winter").token(), Origin=origin)

    assert (403, None) == (answer.status_code, answer.headers.get("Set-Cookie"))


@pytest.mark.parametrize("site", ["cross-site", "same-site", "CROSS-SITE", "x"])
def test_without_an_origin_the_browsers_word_counts(gateway, site):
    """
    Sec-Fetch-Site says that another site sent it, and there is no Origin.
    """
    answer = hands_over(gateway, gateway.person("Alice Winter").token(), Origin=None, **{"Sec-Fetch-Site": site})

    assert (403, None) == (answer.status_code, answer.headers.get("Set-Cookie"))


def test_signing_in_makes_a_new_session_and_ends_the_old(gateway, alice):
    """
    Rotation: a secret from before the sign-in, planted or one's own, is worth nothing after it.
    """
    before = alice.browser.cookies["gateway"]
    alice.signs_in()
    planted = gateway.person("Bob Marsh")
    planted.browser.cookies.set("gateway", "A" * 43)
    planted.signs_in()

    after = alice.browser.cookies["gateway"]
    set_for_bob = {cookie.value for cookie in planted.browser.cookies} - {"A" * 43}
    assert before != after
    assert 1 == len(set_for_bob)
    for stale in (before, "A" * 43):
        assert (
            303
            == requests.get(
                f"{gateway.url}/connections", cookies={"gateway": stale}, allow_redirects=False, timeout=30
            ).status_code
        )


def test_fifty_abandoned_attempts_leave_the_cookies_small(gateway, alice):
    """
    What an attempt needs is in the database: two cookies, far below 4 KB, and the last attempt still ends well.
    """
    for _ in range(50):
        last = alice.begins("google")

    kept = alice.browser.cookies.get_dict()
    assert {"gateway", "gateway-browser"} == kept.keys()
    assert sum(len(name) + len(value) + 2 for name, value in kept.items()) < 200
    assert "connection=" in alice.get(gateway.sandbox.consents(last)).headers["Location"]


# -- forms from elsewhere ----------------------------------------------------------------------------------------------

ELSEWHERE = [
    {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:8001"}, {"Origin": "http://localhost"},
    {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
]  # fmt: skip


def forms(alice, connection):
    """Every form of hers: the path, and the fields with their mark."""
    csrf = re.search(r'name="csrf" value="([^"]+)"', alice.get("/connections").text)[1]
    paths = ("/email/google/connect", f"/connections/{connection}/disconnect", "/session/end")
    return [(path, {"csrf": csrf}) for path in paths]


def test_no_form_is_accepted_from_another_site(gateway, alice):
    """
    Connect, disconnect and sign-out, with valid token and cookies: the browser's headers say another site.
    """
    connection = alice.connects("google")["connection"]
    for path, fields in forms(alice, connection):
        for headers in ELSEWHERE:
            answer = alice.browser.post(gateway.url + path, fields, headers=headers, allow_redirects=False, timeout=30)
            assert (403, None) == (answer.status_code, answer.headers.get("Set-Cookie")), (path, headers)

    assert connection in alice.get("/connections").text


def test_no_form_is_accepted_without_the_csrf_token_of_the_session(gateway, alice):
    """
    Missing, empty, another user's, or that of the session before: refused even where the browser says nothing.
    """
    connection = alice.connects("google")["connection"]
    bob = gateway.person("Bob Marsh")
    bob.signs_in()
    others = re.search(r'name="csrf" value="([^"]+)"', bob.get("/connections").text)[1]
    earlier = forms(alice, connection)[0][1]["csrf"]
    alice.signs_in()
    for path, _ in forms(alice, connection):
        for fields in ({}, {"csrf": ""}, {"csrf": others}, {"csrf": earlier}, {"csrf": "ü\x00"}, {"csrf": "A" * 9000}):
            answer = alice.browser.post(gateway.url + path, fields, allow_redirects=False, timeout=30)
            assert 403 == answer.status_code, (path, fields)

    assert connection in alice.get("/connections").text


@pytest.mark.parametrize("headers", ELSEWHERE)
def test_another_site_cannot_sign_a_user_out(gateway, headers):
    """
    The Lax cookie does not come along with its form, but an answer that deletes cookies would still be obeyed: there is none.
    """
    answer = requests.post(f"{gateway.url}/session/end", headers=headers, allow_redirects=False, timeout=30)

    assert (403, None) == (answer.status_code, answer.headers.get("Set-Cookie"))


def test_the_product_may_sign_its_user_out(gateway, alice):
    """
    As it signed the user in: its origin is listed, and says so.
    """
    alice.signs_in()
    headers = {"Origin": gateway.sandbox.origin, "Sec-Fetch-Site": "cross-site"}
    answer = alice.browser.post(f"{gateway.url}/session/end", headers=headers, allow_redirects=False, timeout=30)

    assert (303, 303) == (answer.status_code, alice.get("/connections").status_code)


@pytest.mark.parametrize("path", ["/session/end", "/connections/{}/disconnect", "/session"])
def test_no_address_changes_anything_by_being_opened(gateway, alice, path):
    """
    GET does nothing but show.
    """
    connection = alice.connects("google")["connection"]

    assert alice.get(path.format(connection)).status_code in (303, 405)
    assert connection in alice.get("/connections").text
