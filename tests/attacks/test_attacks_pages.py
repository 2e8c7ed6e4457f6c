"""
The pages under attack: framed, cached, sniffed, and made to repeat markup.

ASVS 3.4, RFC 9700 sections 4.2 and 4.16, RFC 6749 section 4.1.2.1.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from urllib.parse import quote

import pytest
import requests

from gateway.errors import every_problem
from tests.support.gateway_process import told

MARKUP = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "javascript:alert(1)",
    "{{7*7}}",
    "'--",
    "\r\nX-In: 1",
]
PAGES = [
    "/", "/connections", "/connections?error=access_denied", "/connections?disconnected=done&provider=ghl",
    "/connect/ghl", "/crm/ghl/connect", "/email/google/connect?display=popup", "/connect/nobody", "/nowhere", "/%ff%fe",
    "/result", "/result?error=access_denied&provider=ghl", "/problems/state_invalid", "/problems/nothing",
    "/crm/main/callback", "/crm/main/callback?code=c&state=s", "/crm/ghl/confirm", "/session", "/session/end", "/v1/connections", "/v1/nowhere",
    "/healthz", "/readyz", "/docs", "/crm/ghl/connect?return_to=https://evil.example",
]  # fmt: skip


def policy(answer):
    """The Content-Security-Policy of an answer, by directive."""
    words = [part.split() for part in answer.headers["Content-Security-Policy"].split(";")]
    return {name: tuple(values) for name, *values in words}


class Suspects(HTMLParser):
    """What a page without inline script and foreign assets does not have."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self._script = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._script = tag == "script"
        self.found += [f"{tag} {name}" for name in given if name.startswith("on") or name in ("style", "srcdoc")]
        self.found += [tag] if tag in ("style", "iframe", "object", "embed", "base") else []
        assets = [given.get("src"), given.get("href") if tag == "link" else None, given.get("data")]
        self.found += [f"{tag} {url}" for url in assets if url and not re.match(r"/(?!/)", url)]
        self.found += [f"{tag} {url}" for url in (given.get("href"), given.get("action")) if url and "script:" in url]

    def handle_data(self, data: str) -> None:
        if self._script and data.strip():
            self.found.append(data)
        self._script = False


# -- headers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS", "DELETE"])
def test_every_response_has_security_headers(alice, path, method):
    """
    Not framed, not cached, not sniffed, no inline script, nothing from elsewhere, whatever was asked and however it ended.
    """
    answer = alice.browser.request(method, alice.gateway.url + path, allow_redirects=False, timeout=30)

    rules = policy(answer)
    assert answer.status_code < 500
    assert ("'none'",) == rules["default-src"] == rules["frame-ancestors"] == rules["base-uri"]
    assert ("'self'",) == rules["script-src"] == rules["style-src"]
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert ("nosniff", "DENY") == (answer.headers["X-Content-Type-Options"], answer.headers["X-Frame-Options"])
    assert "no-store" == answer.headers["Cache-Control"]
    assert answer.headers["Referrer-Policy"] == ("no-referrer" if "code=" in path else "same-origin")
    assert not {"ETag", "Last-Modified", "X-Powered-By", "Access-Control-Allow-Origin"} & set(answer.headers)
    assert [] == Suspects(answer.text).found


def test_too_large_a_form_is_guarded_too(alice):
    """
    What is refused while it is being read carries the same headers.
    """
    # On a connection of its own: the server may hang up on who goes on sending.
    sent, headers = {"access_token": "x" * 200_000}, {"Origin": alice.gateway.sandbox.origin}
    answer = requests.post(f"{alice.gateway.url}/session", sent, headers=headers, timeout=30)

    assert 413 == answer.status_code
    assert ("'none'",) == policy(answer)["frame-ancestors"]
    assert "no-store" == answer.headers["Cache-Control"]


@pytest.mark.parametrize("answer", ["allow", "deny"])
def test_a_callback_leaves_no_trace_in_the_address(alice, answer):
    """
    303 to an address without code or state, no referrer, not kept: RFC 9700 sections 4.2 and 4.3.
    """
    callback = alice.consents("google", answer=answer)

    ended = alice.get(callback)

    assert 303 == ended.status_code
    assert ("no-referrer", "no-store") == (ended.headers["Referrer-Policy"], ended.headers["Cache-Control"])
    assert told(ended).keys() <= {"connection", "provider", "error"}


def test_forms_end_here_at_the_product_or_at_the_provider(alice):
    """
    form-action names the provider's origin on its connect page alone, and never everybody's.
    """
    product = alice.gateway.sandbox.origin  # in this test the provider's, too
    for path in ("/email/google/connect", "/connections", "/problems/forbidden", "/nowhere"):
        assert {"'self'"} <= set(policy(alice.get(path))["form-action"]) <= {"'self'", product}


def test_every_problem_has_its_page(alice):
    """
    Whatever slug an error may carry can be looked up.
    """
    slugs = [kind.slug for kind in every_problem()]

    assert dict.fromkeys(slugs, 200) == {slug: alice.get(f"/problems/{slug}").status_code for slug in slugs}


# -- markup ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["error", "error_description", "error_uri", "scope", "iss", "code", "state", "session_state"]
)
def test_what_a_callback_says_is_never_repeated(alice, name):
    """
    The provider's words, real or forged, with a good state or none: not on the page, not in a header, not in the log.
    """
    for number, text in enumerate(MARKUP):
        marked = f"said{number}by{name}{text}"
        bare = alice.get(f"/email/google/callback?{name}={quote(marked)}")
        callback = re.sub(rf"(?<=[?&]){name}=[^&]*&?", "", alice.consents("google", answer="deny"))
        good = alice.get(f"{callback}&{name}={quote(marked)}")

        for answer in (bare, good):
            assert answer.status_code in (303, 400)
            assert f"said{number}by{name}" not in answer.text + str(answer.headers)
    assert f"by{name}" not in alice.gateway.log.read_text()


@pytest.mark.parametrize("text", MARKUP)
def test_what_an_address_says_is_never_repeated(alice, text):
    """
    Unknown slugs, providers and results are not shown in pages or JSON, and not logged.
    """
    marked = quote(f"canary{text}", safe="")
    paths = [
        f"/connect/{marked}",
        f"/crm/{marked}/connect",
        f"/{marked}/x/callback",
        f"/problems/{marked}",
        f"/v1/{marked}",
    ]
    paths += [f"/connections?error={marked}&provider={marked}&connection={marked}&disconnected={marked}"]
    paths += [f"/result?error={marked}&provider={marked}&connection={marked}&to={marked}", f"/static/{marked}"]
    for path in paths:
        answer = alice.get(path)

        assert answer.status_code in (200, 401, 404)
        assert "canary" not in answer.text + str(answer.headers)
        assert ("/v1/" in path) == answer.headers["Content-Type"].startswith("application/problem+json")
    assert "canary" not in alice.gateway.log.read_text()


def test_a_users_own_name_is_escaped(gateway):
    """
    The label in an access token is shown as text.
    """
    mallory = gateway.person("Mallory")
    named = mallory.token(email="<img src=x onerror=alert(1)>@x")
    mallory.post("/session", {"access_token": named, "next": "/"}, headers={"Origin": gateway.sandbox.origin})

    page = mallory.get("/connections").text

    assert "&lt;img src=x onerror=alert(1)&gt;@x" in page
    assert [] == Suspects(page).found


@pytest.mark.parametrize("provider", ["google", "ringcentral", "ghl"])
def test_a_providers_error_page_is_not_ours(alice, provider):
    """
    Markup and line breaks in a token error end in a slug.
    """
    alice.gateway.sandbox.state.add_fault("error_description_markup", provider, "token")

    answer = alice.get(alice.consents(provider))

    assert {"provider_unavailable"} == {told(answer)["error"]}
    page = alice.get(answer.headers["Location"])
    for said in (answer.text, str(answer.headers), page.text, str(page.headers)):
        assert "alert(1)" not in said
        assert "stolen" not in said
    assert "stolen" not in alice.gateway.log.read_text()
