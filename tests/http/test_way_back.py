"""
No dead end: every page that ends a flow has a sentence for a person, one button that helps, and tells the product by its query. In both languages.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

from tests.support.gateway_process import fields_in
from tests.support.link_partner import new_partner

ENGLISH_ONLY = re.compile(r"\b(the|you|your|with|account|access|connect)\b")


def action(page):
    """The address behind the page's one button."""
    (found,) = re.findall(r'id="action" href="([^"]+)"', page.text)
    return found.replace("&amp;", "&")


def query(url):
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


@pytest.fixture
def alice(gateway):
    person = gateway.person("Alice Winter")
    person.signs_in()
    return person


def home(gateway, path="/settings"):
    return f"{gateway.sandbox.origin}{path}"


def test_a_provider_that_is_not_enabled_leads_back_to_the_product(gateway, alice):
    """
    By the short link and by the page's own address; the button says so in the product's query.
    """
    for path in ("/connect/nowhere", "/crm/nowhere/connect", "/email/ghl/connect"):
        page = alice.get(path, params={"return_to": home(gateway)})

        assert 404 == page.status_code
        assert "This service cannot be connected here" in page.text
        assert action(page).startswith(home(gateway))
        assert "not_found" == query(action(page))["error"]


def test_an_origin_that_is_not_listed_leads_home(gateway, alice):
    """
    Never to the address that was refused.
    """
    page = alice.get("/connect/google", params={"return_to": "https://elsewhere.example/"})

    assert 400 == page.status_code
    assert "elsewhere.example" not in page.text
    assert action(page).startswith(f"{gateway.sandbox.origin}/?")
    assert "return_to_refused" == query(action(page))["error"]


@pytest.mark.parametrize("form", ["connect", "confirm", "disconnect", "stop-sharing"])
def test_a_form_after_the_session_ended_leads_to_the_sign_in_and_back(gateway, alice, form):
    """
    303 to the product's sign-in; `next` is the page with the form.
    """
    row = "a11ce000-0000-4000-8000-000000000009"
    path = {"disconnect": f"/connections/{row}/disconnect", "stop-sharing": f"/connections/{row}/stop-sharing"}
    path |= {"connect": "/email/google/connect", "confirm": "/email/google/confirm"}
    alice.browser.cookies.clear()

    answer = alice.post(path[form], {"return_to": home(gateway), "display": "popup"} if form == "connect" else {})

    assert 303 == answer.status_code
    assert answer.headers["Location"].startswith(f"{gateway.sandbox.origin}/login?")
    back = query(answer.headers["Location"])["next"]
    assert urlsplit(back).path == (path[form] if form in ("connect", "confirm") else "/connections")
    if form == "connect":
        assert {"return_to": home(gateway), "display": "popup"} == query(back)


def test_a_hand_over_with_an_old_access_token_offers_the_sign_in(gateway):
    """
    Not a redirect, which could go in circles; the button leads to the sign-in and from there on.
    """
    person = gateway.person("Alice Winter")
    onward = f"/connect/google?display=popup&return_to={quote(home(gateway))}"
    origin = {"Origin": gateway.sandbox.origin}

    page = person.post("/session", {"access_token": "old", "next": onward}, headers=origin)

    assert 401 == page.status_code
    assert "Please sign in again" in page.text
    assert action(page).startswith(f"{gateway.sandbox.origin}/login?")
    assert gateway.url + unquote(onward) == unquote(query(action(page))["next"])


def test_a_callback_that_cannot_be_used_says_so_and_leads_home(gateway, alice):
    """
    An old link back from the provider; the product's query says what happened.
    """
    page = alice.get("/email/google/callback", params={"state": "x" * 43, "code": "c"})

    assert 400 == page.status_code
    assert "If your account is not among your connections, start again" in page.text
    assert "state_invalid" == query(action(page))["error"]
    assert f'data-target-origin="{gateway.sandbox.origin}"' in page.text


def test_a_partners_link_that_is_opened_twice_leads_home(gateway, alice):
    """
    A used link and one that never was look the same.
    """
    partner = new_partner(gateway)
    link = partner.makes(alice)["url"]
    page = alice.get(link)
    alice.post(link, fields_in(page.text.split('id="link"')[1]))

    for used in (alice.get(link), alice.get("/link/" + "x" * 43)):
        assert "This link is no longer valid" in used.text
        assert action(used).startswith(gateway.sandbox.origin)


def test_not_now_in_a_pop_up_ends_in_the_pop_up(gateway, alice):
    """
    With the slug for the opener, and not with the product in the small window.
    """
    page = alice.get("/email/google/connect", params={"display": "popup", "return_to": home(gateway)})
    (cancel,) = re.findall(r'id="not-now" href="([^"]+)"', page.text)

    ended = alice.get(cancel.replace("&amp;", "&"))

    assert urlsplit(cancel).path == "/result"
    assert 'data-error="access_denied"' in ended.text
    assert f'data-target-origin="{gateway.sandbox.origin}"' in ended.text


def test_an_error_tells_its_slug_to_the_products_origins_only(gateway, alice):
    """
    Only a front end that is not listed may hear that from anywhere.
    """
    for path in ("/nowhere", "/crm/main/callback?state=x", "/connect/nowhere"):
        assert f'data-target-origin="{gateway.sandbox.origin}"' in alice.get(path).text
    foreign = alice.post("/session", {"access_token": "x"}, headers={"Origin": "https://elsewhere.example"})
    assert 'data-target-origin="*"' in foreign.text
    assert 'data-error="forbidden"' in foreign.text


# -- language and brand ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accepts", "language"),
    [("de", "de"), ("de-AT,de;q=0.9,en;q=0.1", "de"), ("fr,de;q=0.5", "de"), ("en-GB,de;q=0.9", "en"), ("fr", "en"), ("", "en"),
     ("*", "en"), ("de;q=0", "en"), ("\u00e4;;;q=x", "en")],
)  # fmt: skip
def test_the_language_is_the_readers(alice, accepts, language):
    """
    As Accept-Language weighs it; English where it names none of ours.
    """
    page = alice.get("/connections", headers={"Accept-Language": accepts.encode("latin-1")})

    assert f'<html lang="{language}">' in page.text


def test_no_english_is_left_on_a_german_page(gateway, alice):
    """
    The list, the connect page, a link, a refusal, the end of a pop-up.
    """
    alice.connects("google")
    german = {"Accept-Language": "de"}
    link = new_partner(gateway, "Acme").makes(alice, "ghl")["url"]
    for path in (
        "/connections",
        "/email/google/connect",
        "/crm/ghl/connect",
        "/phone/zoom/connect",
        link,
        "/nowhere",
        "/result?error=frozen",
    ):
        text = re.sub(
            r"<(script|code|style)\b.*?</\1>|<[^>]*>", " ", alice.get(path, headers=german).text, flags=re.DOTALL
        )
        assert [] == ENGLISH_ONLY.findall(text), path


def test_every_page_carries_the_brand(gateway, alice):
    """
    Name, logo, colour, the way home and the way to help, also on an error.
    """
    for path in ("/connections", "/email/google/connect", "/nowhere"):
        page = alice.get(path).text
        assert "· Northwind</title>" in page
        assert '<img class="mark logo" src="/brand/logo" alt="">' in page
        assert '<link rel="stylesheet" href="/brand.css">' in page
        assert f'<a href="{gateway.sandbox.origin}/"><span>Back to <bdi>Northwind</bdi></span></a>' in page
        assert '<a href="mailto:help@northwind.example">Get help</a>' in page
    assert "<bdi>Northwind</bdi> asks for access to your <bdi>Gmail</bdi>" in alice.get("/email/google/connect").text
    logo, css = alice.get("/brand/logo"), alice.get("/brand.css")
    assert ("image/svg+xml", "nosniff") == (
        logo.headers["Content-Type"].split(";")[0],
        logo.headers["X-Content-Type-Options"],
    )
    assert "default-src 'none'" in logo.headers["Content-Security-Policy"]
    assert ":root { --brand: #1d4f4a; }" == css.text


def test_scopes_are_shown_in_words_once_and_by_name_on_request(alice):
    """
    The names are in the details alone.
    """
    page = alice.get("/email/google/connect").text
    shown, details = page.split('class="more technical"')

    assert "Know that it is you" in shown
    assert 1 == page.count("See your e-mail address")
    assert "gmail.send" not in re.sub(r"<[^>]*>", "", shown)
    assert "gmail.send" in re.sub(r"<[^>]*>", "", details)


def test_what_matters_is_shown_and_the_sign_in_is_folded(alice):
    """
    The page shows four texts, the others on request.
    """
    shown, folded = alice.get("/email/microsoft/connect").text.split('<details class="more">', 1)

    assert "Read and change your mail" in shown
    assert "Send mail as you" in shown
    assert "Keep the access while you are away" in folded
