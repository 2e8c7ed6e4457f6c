"""
The sandbox's sign-in service, and the small product whose users connect their accounts.
"""

from __future__ import annotations

import pytest
import requests
from joserfc import jwt
from joserfc.jwk import KeySet

from gateway.sandbox import USERS, make_server, partner


@pytest.fixture(scope="module")
def running():
    with make_server() as server:
        yield server


def test_the_sign_in_service_signs_tokens_that_its_keys_verify(sandbox):
    """ES256 with a kid; the claims that Supabase's tokens have."""
    keys = KeySet.import_key_set(requests.get(f"{sandbox.origin}/auth/v1/.well-known/jwks.json", timeout=60).json())
    claims = {name: jwt.decode(sandbox.user_token(name), keys, algorithms=["ES256"]).claims for name in USERS}

    assert {name: user.id for name, user in USERS.items()} == {name: said["sub"] for name, said in claims.items()}
    assert {(f"{sandbox.origin}/auth/v1", "authenticated")} == {(c["iss"], c["aud"]) for c in claims.values()}
    assert not any(key.is_private for key in keys.keys)


def test_the_products_page_hands_its_user_to_the_gateway_and_shows_how_it_ended(sandbox):
    """A form per provider that works without a script, two users to choose from, and what happened to each alone."""
    browser = requests.Session()
    page = browser.get(f"{sandbox.origin}/as/bob", timeout=60)
    assert "strict-origin" == page.headers["Referrer-Policy"]
    assert 'action="http://localhost:8000/session"' in page.text
    assert '<script src="http://localhost:8000/gateway.js"' in page.text
    assert {"Alice", "Bob Marsh"} <= {name for name in ("Alice", "Bob Marsh") if name in page.text}

    back = browser.get(f"{sandbox.origin}/?connection=c0ffee&provider=ghl", timeout=60).text
    assert "HighLevel is connected" in back
    assert 1 == browser.get(f"{sandbox.origin}/?connection=c0ffee&provider=ghl", timeout=60).text.count("<b>HighLevel")
    assert "<b>HighLevel is connected" not in requests.get(f"{sandbox.origin}/", timeout=60).text
    assert "<script>alert" not in browser.get(f"{sandbox.origin}/?error=<script>alert(1)</script>", timeout=60).text


def test_a_partners_link_is_reached_by_handing_over_who_is_signed_in(sandbox, monkeypatch):
    """Whatever session the gateway had before; or, on demand, directly and without a session."""
    monkeypatch.setitem(sandbox.state.partner_keys, partner.ACME, "gw_live_key")
    monkeypatch.setattr(partner, "make_link", lambda *_: f"{sandbox.state.gateway}/link/secret")
    wanted, bob = {"provider": "google"}, {"northwind_user": "bob"}

    page = requests.post(f"{sandbox.origin}/share", data=wanted, cookies=bob, timeout=60).text
    assert 'action="http://localhost:8000/session"' in page
    assert 'value="/link/secret"' in page
    assert "Bob" in page
    straight = wanted | {"known": "0"}
    away = requests.post(f"{sandbox.origin}/share", data=straight, allow_redirects=False, timeout=60)
    assert "http://localhost:8000/link/secret" == away.headers["Location"]


def test_signing_in_hands_the_session_over_and_goes_nowhere_else(sandbox):
    """/login chooses a user; next stays at the gateway or here."""
    chosen = {"user": "alice", "next": "http://localhost:8000/connect/ghl?x=1"}
    page = requests.post(f"{sandbox.origin}/login", data=chosen, timeout=60).text

    assert 'value="/connect/ghl?x=1"' in page
    for elsewhere in ("https://attacker.example/", "//attacker.example", "/\\attacker.example", "javascript:alert(1)"):
        page = requests.post(f"{sandbox.origin}/login", data=chosen | {"next": elsewhere}, timeout=60).text
        assert "attacker" not in page
        assert 'value="/connections"' in page
