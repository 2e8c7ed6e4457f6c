"""
The sandbox behaves like the providers it simulates, according to their documents and reports of their users.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from joserfc import jwt
from joserfc.jwk import KeySet

from tests.support.oauth_client import CALLBACK, PATHS, VERSION

IDENTITY = {
    "ghl": ("/locations/NorthwindBerlin00001", VERSION, "Northwind Berlin"),
    "ghl_white_label": ("/locations/NorthwindBerlin00001", VERSION, "Northwind Berlin"),
    "google": ("/v1/userinfo", {}, "alice.winter@gmail.example"),
    "microsoft": ("/v1.0/me", {}, "alice@northwind.example"),
    "ringcentral": ("/restapi/v1.0/account/~/extension/~", {}, "Alice Winter"),
    "zoom": ("/v2/users/me", {}, "alice@northwind.example"),
}


@pytest.mark.parametrize("provider", PATHS)
def test_every_provider_can_be_walked_from_consent_to_identity(walk, provider):
    """The page asks, yes leads back with code and state, the code buys a token, the token says whose it is."""
    walker = walk(provider)
    page = requests.get(walker.asks(), timeout=60)
    assert "Sandbox" in page.text
    assert "this simulates" in page.text
    assert "s" == walker.returns()["state"]

    body = walker.connects(access_type="offline")
    path, headers, label = IDENTITY[provider]

    assert label in walker.reads(path, body["access_token"], **headers).text
    assert 401 == walker.reads(path, "not-a-token", **headers).status_code


@pytest.mark.parametrize("provider", PATHS)
def test_no_leads_back_with_access_denied_and_the_state(walk, provider):
    """RFC 6749 section 4.1.2.1."""
    back = walk(provider).returns(consent={"answer": "deny"})

    assert ("access_denied", "s") == (back["error"], back["state"])
    assert "code" not in back


@pytest.mark.parametrize("provider", PATHS)
def test_a_code_is_bought_once_by_its_own_client_and_redirect_uri(walk, provider):
    """RFC 6749 section 4.1.3, and a foreign redirect URI never sees a code."""
    walker = walk(provider)
    code = walker.returns()["code"]

    other = walker.posts(grant_type="authorization_code", code=code, redirect_uri=CALLBACK + "/other")
    assert 400 == other.status_code
    with ThreadPoolExecutor(8) as pool:
        answers = sorted(pool.map(lambda _: walker.redeems(code).status_code, range(8)))
    assert [200] + [400] * 7 == answers
    walker.secret = "wrong"
    assert walker.redeems(walker.returns()["code"]).status_code in (400, 401)
    with pytest.raises(ValueError, match="400"):
        walker.returns(redirect_uri="https://attacker.example/callback")
    with pytest.raises(ValueError, match="400"):
        walker.returns(client_id="somebody-else")


@pytest.mark.parametrize("provider", PATHS)
def test_a_challenge_is_held_against_the_verifier(walk, provider):
    """RFC 7636 section 4.6, wherever a challenge was sent."""
    walker, verifier = walk(provider), secrets.token_urlsafe(48)
    digest = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    challenge = {"code_challenge": digest, "code_challenge_method": "S256"}

    assert 400 == walker.redeems(walker.returns(**challenge)["code"]).status_code
    assert 400 == walker.redeems(walker.returns(**challenge)["code"], code_verifier="w" * 64).status_code
    assert 200 == walker.redeems(walker.returns(**challenge)["code"], code_verifier=verifier).status_code


def test_google_gives_a_refresh_token_offline_and_at_the_first_consent_alone(walk):
    """Again only with prompt=consent; never rotated."""
    google = walk("google")
    assert "refresh_token" not in google.connects()
    google.sandbox.state.reset()
    first = google.connects(access_type="offline")
    assert "refresh_token" not in google.connects(access_type="offline")
    assert "refresh_token" in google.connects(access_type="offline", prompt="consent")

    for _ in range(2):
        refreshed = google.refreshes(first["refresh_token"]).json()
        assert "access_token" in refreshed
        assert "refresh_token" not in refreshed


def test_googles_identity_token_is_signed_and_bound(walk, sandbox):
    """RS256 by its JWKS; iss, aud, azp, nonce and sub as OpenID Connect Core section 2 has them."""
    google = walk("google")
    metadata = google.reads("/.well-known/openid-configuration", "").json()
    keys = KeySet.import_key_set(requests.get(metadata["jwks_uri"], timeout=60).json())
    claims = jwt.decode(google.connects(nonce="once")["id_token"], keys, algorithms=["RS256"]).claims

    assert f"{sandbox.origin}/google" == metadata["issuer"] == claims["iss"]
    assert ["sandbox-google", "sandbox-google", "once"] == [claims["aud"], claims["azp"], claims["nonce"]]
    assert sandbox.state.now() < claims["exp"]


def test_google_lets_scopes_be_left_out_and_says_which_were_granted(walk):
    """Granular consent, and Google's own names for two of them."""
    granted = walk("google").connects(consent={"scope": ["openid"]})["scope"].split()

    assert ["openid", *(f"https://www.googleapis.com/auth/userinfo.{n}" for n in ("email", "profile"))] == granted


def test_google_says_who_it_is_unless_its_switch_is_off(walk, sandbox):
    """RFC 9207: iss in the answer, and the metadata promise it."""
    google = walk("google")
    assert f"{sandbox.origin}/google" == google.returns()["iss"] == google.returns(consent={"answer": "deny"})["iss"]

    sandbox.state.switches["google_iss"] = False

    assert "iss" not in google.returns()
    assert (
        google.reads("/.well-known/openid-configuration", "").json()["authorization_response_iss_parameter_supported"]
        is False
    )


@pytest.mark.parametrize(("provider", "path"), [("google", "/revoke"), ("ringcentral", "/restapi/oauth/revoke"), ("zoom", "/oauth/revoke")])  # fmt: skip
def test_revoking_one_token_ends_the_grant_and_is_counted(walk, sandbox, provider, path):
    """RFC 7009 section 2.1: both tokens end together. Zoom revokes access tokens alone."""
    walker = walk(provider)
    body = walker.connects(access_type="offline")
    proof = None if provider == "google" else (walker.client_id, walker.secret)
    token = body["access_token" if provider == "zoom" else "refresh_token"]
    answer = requests.post(walker.origin + path, data={"token": token}, auth=proof, timeout=60)

    assert 200 == answer.status_code
    assert 400 == walker.refreshes(body["refresh_token"]).status_code
    assert 401 == walker.reads(IDENTITY[provider][0], body["access_token"]).status_code
    assert [{"provider": provider, "token": token, "known": True}] == sandbox.state.revocations


def test_ringcentral_ends_the_old_refresh_token_ten_seconds_after_the_new_pair_is_used(walk, sandbox):
    """An hour while the new access token was never used; the old access token ends at once."""
    walker = walk("ringcentral")
    first = walker.connects()
    assert "60" == walker.returns()["expires_in"]
    second = walker.refreshes(first["refresh_token"]).json()
    assert 401 == walker.reads(IDENTITY["ringcentral"][0], first["access_token"]).status_code
    sandbox.state.advance(3000)
    third = walker.refreshes(first["refresh_token"]).json()
    assert second["refresh_token"] != third["refresh_token"]

    walker.reads(IDENTITY["ringcentral"][0], third["access_token"])
    sandbox.state.advance(11)

    assert 400 == walker.refreshes(first["refresh_token"]).status_code
    assert ["604800", "62264425008"] == [str(third[name]) for name in ("refresh_token_expires_in", "owner_id")]


def test_zoom_takes_a_refresh_token_once_and_a_new_authorization_kills_the_earlier(walk):
    """Strict rotation, with Zoom's reasons."""
    zoom = walk("zoom")
    first = zoom.connects()["refresh_token"]
    second = zoom.refreshes(first).json()["refresh_token"]
    assert "4735" in zoom.refreshes(first).json()["reason"]

    zoom.connects()

    assert "4741" in zoom.refreshes(second).json()["reason"]


def test_microsofts_old_refresh_token_stays_valid_and_its_issuer_names_the_tenant(walk, sandbox):
    """The metadata of the common tenant have a placeholder, the identity token has the tenant."""
    microsoft = walk("microsoft")
    body = microsoft.connects(nonce="once")
    new = microsoft.refreshes(body["refresh_token"]).json()["refresh_token"]
    assert new != body["refresh_token"]
    assert 200 == microsoft.refreshes(body["refresh_token"]).status_code
    assert "refresh_token" not in microsoft.connects(scope="openid User.Read")

    metadata = microsoft.reads("/common/v2.0/.well-known/openid-configuration", "").json()
    keys = KeySet.import_key_set(requests.get(metadata["jwks_uri"], timeout=60).json())
    claims = jwt.decode(body["id_token"], keys, algorithms=["RS256"]).claims

    assert f"{sandbox.origin}/microsoft/{{tenantid}}/v2.0" == metadata["issuer"]
    assert metadata["issuer"].replace("{tenantid}", claims["tid"]) == claims["iss"]
    assert "AADSTS" in microsoft.redeems("no-code").json()["error_description"]
