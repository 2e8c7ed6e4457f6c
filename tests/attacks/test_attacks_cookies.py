"""
Cookies and tokens of an application behind https, with a project that signs with the shared secret. The application
runs in this process, because the public URL decides the scheme. RFC 6265bis (prefixes), ASVS 3.3.
"""

from __future__ import annotations

import re
import time

import pytest
from cryptography.fernet import Fernet

from gateway import create_app
from tests.support.token_forger import claimed, part, signed

SECRET = "a-shared-secret-of-the-project-0123456789"
HTTPS = "https://connect.example.com"
APP = "https://app.example.com"
SUPABASE = "https://project.supabase.example"


@pytest.fixture
def secure(database, tmp_path):
    """A browser without a cookie jar of its own, for the application behind an https public URL."""
    app = create_app({
        "GATEWAY_PUBLIC_URL": HTTPS, "GATEWAY_KEYS": Fernet.generate_key().decode(), "DATABASE_URL": database,
        "GATEWAY_DATA": str(tmp_path), "GATEWAY_APP_ORIGINS": APP, "SUPABASE_URL": SUPABASE, "SUPABASE_JWT_SECRET": SECRET,
        "GOOGLE_CLIENT_ID": "client", "GOOGLE_CLIENT_SECRET": "secret",
    })  # fmt: skip
    yield app.test_client(use_cookies=False)
    app.extensions["gateway"].database.close()


def enters(client, token=None, cookie=""):
    """Hands over; the answer."""
    token = token or signed({"alg": "HS256", "typ": "JWT"}, claimed(SUPABASE), SECRET.encode())
    headers = {"Origin": APP, "Cookie": cookie}
    return client.post(
        "/session", base_url=HTTPS, data={"access_token": token, "next": "/connections"}, headers=headers
    )


def given(answer):
    """What the answer sets: name, value and attributes of each cookie."""
    found = {}
    for line in answer.headers.getlist("Set-Cookie"):
        pair, *attributes = line.split("; ")
        name, _, value = pair.partition("=")
        found[name] = (
            value,
            {a.split("=")[0] for a in attributes} | {a for a in attributes if a.startswith(("Path", "Same"))},
        )
    return found


def test_cookies_are_bound_to_the_host(secure):
    """
    `__Host-`: Secure, HttpOnly, Lax, the whole host and no Domain; the session's and the attempt's alike, also when deleted.
    """
    session = given(enters(secure))
    cookie = f"__Host-gateway={session['__Host-gateway'][0]}"
    page = secure.get("/email/google/connect", base_url=HTTPS, headers={"Cookie": cookie}).text
    csrf = re.search(r'name="csrf" value="([^"]+)"', page)[1]
    own = {"Cookie": cookie, "Origin": HTTPS}
    begun = given(secure.post("/email/google/connect", base_url=HTTPS, data={"csrf": csrf}, headers=own))
    ended = given(secure.post("/session/end", base_url=HTTPS, data={"csrf": csrf}, headers=own))

    assert (["__Host-gateway"], ["__Host-gateway-browser"]) == (list(session), list(begun))
    assert {"__Host-gateway", "__Host-gateway-browser"} == ended.keys()
    for value, attributes in [*session.values(), *begun.values(), *ended.values()]:
        assert {"Secure", "HttpOnly", "SameSite=Lax", "Path=/"} <= attributes
        assert "Domain" not in attributes
        assert value == "" or re.fullmatch(r"[A-Za-z0-9_-]{43}", value)


def test_a_session_cookie_lasts_no_longer_than_it_may(secure):
    """
    The access token's time and at most twelve hours more.
    """
    (line,) = enters(secure).headers.getlist("Set-Cookie")

    assert 3600 < int(re.search(r"Max-Age=(\d+)", line)[1]) <= 3600 + 12 * 3600


@pytest.mark.parametrize(
    "tossed",
    [
        "gateway",
        "__Secure-gateway",
        "__host-gateway",
        "\u2000__Host-gateway",
        "\u00a0__Host-gateway",
        "$__Host-gateway",
    ],
)
def test_a_tossed_cookie_is_not_read(secure, tossed):
    """
    What a sub-domain may set does not pass for ours, not even where a server would trim the name.
    """
    secret = given(enters(secure))["__Host-gateway"][0]
    cookie = f"{tossed}={secret}".encode().decode("latin-1")

    answer = secure.get("/connections", base_url=HTTPS, headers={"Cookie": cookie})

    assert 401 == answer.status_code


def test_https_pages_say_so(secure):
    """
    Strict-Transport-Security where the public URL is https.
    """
    answer = secure.get("/connections", base_url=HTTPS)

    assert "max-age=31536000" == answer.headers["Strict-Transport-Security"]


def test_the_projects_own_published_keys_open_nothing(secure):
    """
    The anon key and the service key are validly signed tokens of the project, and no user's session.
    """
    for role in ("anon", "service_role"):
        now = int(time.time())
        key = {"iss": "supabase", "ref": "project", "role": role, "iat": now, "exp": now + 10 * 365 * 86400}
        for claims in (key, claimed(SUPABASE, role=role, sub=None), claimed(SUPABASE, role=role)):
            answer = enters(secure, signed({"alg": "HS256", "typ": "JWT"}, claims, SECRET.encode()))
            assert (401, {}) == (answer.status_code, given(answer))


@pytest.mark.parametrize("secret", [b"", SECRET[:-1].encode(), SECRET.upper().encode(), b"secret"])
def test_the_shared_secret_has_to_be_that(secure, secret):
    """
    Another secret signs nothing, and `none` does not either.
    """
    assert 401 == enters(secure, signed({"alg": "HS256"}, claimed(SUPABASE), secret)).status_code
    assert 401 == enters(secure, f"{part({'alg': 'none'})}.{part(claimed(SUPABASE))}.").status_code
