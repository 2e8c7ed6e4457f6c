"""
A partner's link by clicking, in Chromium: in a browser with a session here, and in one without, whose product names
the user. Its pages on a phone, light and dark, with axe-core.
"""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from gateway.sandbox.partner import ACME, NORTHWIND
from tests.support.browser import (
    PHONE,
    goes_on,
    needs_axe,
    needs_chromium,
    sideways,
    violations,
)
from tests.support.link_partner import new_partner

pytestmark = needs_chromium


@pytest.fixture
def acme(gateway, monkeypatch):
    """The sandbox simulates its server, and the product's own back end."""
    made = new_partner(gateway)
    monkeypatch.setitem(gateway.sandbox.state.partner_keys, ACME, made.key)
    back_end = new_partner(gateway, "Northwind back end", reach="all")
    monkeypatch.setitem(gateway.sandbox.state.partner_keys, NORTHWIND, back_end.key)
    return made


@pytest.fixture
def page(gateway, alice, acme, browser):
    with browser.visits(gateway.url, gateway.sandbox.origin) as visitor:
        yield visitor.page


@pytest.fixture
def phone(gateway, alice, acme, browser):
    with browser.visits(gateway.url, gateway.sandbox.origin, viewport=PHONE) as visitor:
        yield visitor.page


def shares(page, gateway, name="Gmail", *, known=True):
    """From the product's page to the link's; `known`: with its user handed over on the way."""
    page.goto(f"{gateway.sandbox.origin}/")
    button = f"Share {name} with Acme Analytics" if known else f"Share {name} as a user who is not signed in there"
    page.get_by_role("button", name=button).click()
    page.wait_for_url(f"{gateway.url}/link/**")


def signs_in(page, gateway):
    page.goto(f"{gateway.sandbox.origin}/")
    page.get_by_role("button", name="Manage connections").click()
    page.wait_for_url(f"{gateway.url}/connections")


def looks_right(page):
    for scheme, rules in (("light", []), ("dark", ["color-contrast"])):  # only colours differ
        page.emulate_media(color_scheme=scheme)
        assert [] == sideways(page), scheme
        assert [] == violations(page, *rules), scheme


def test_a_browser_without_a_session_is_completed_by_the_products_server(gateway, acme, page):
    """
    Nothing is connected on the way; then it is, and the product's page has a call for it to paste.
    """
    shares(page, gateway, known=False)
    expect(page.get_by_role("heading", level=1)).to_contain_text(acme.name)
    expect(page.locator("#for-user")).to_contain_text("•••")
    expect(page.locator("#unknown")).to_be_visible()

    goes_on(page)

    expect(page.get_by_role("status")).to_contain_text("Gmail is connected")
    assert page.url.startswith(f"{gateway.sandbox.origin}/?")
    (made,) = acme.calls("GET", "/v1/connections").json()["items"]
    assert "active" == made["status"]
    expect(page.locator("#curl")).to_contain_text(f"/v1/connections/{made['id']}/token")


def test_signed_in_it_is_shared_at_once_and_can_be_stopped(gateway, acme, page):
    """
    The page says by name who connects; afterwards the list says with whom it is shared, and one press ends that.
    """
    shares(page, gateway)
    expect(page.locator("#for-user")).to_have_text("alice@northwind.example")
    goes_on(page)
    expect(page.get_by_role("status")).to_contain_text("Gmail is connected")

    page.get_by_role("button", name="Manage connections").click()
    page.get_by_text(f"Shared with {acme.name}").click()
    page.get_by_role("button", name="Stop sharing").click()

    expect(page.get_by_role("status")).to_contain_text("Gmail is no longer shared")
    expect(page.get_by_role("article")).to_have_count(1)
    assert [] == acme.calls("GET", "/v1/connections").json()["items"]


def test_another_account_is_asked_about_at_the_product(gateway, alice, acme, page):
    """
    The gateway says that one is connected; the user's answer goes back by the product's server, and the id stays.
    """
    made = alice.connects("ghl", "NorthwindLisbon00001")["connection"]
    shares(page, gateway, "HighLevel", known=False)
    goes_on(page)

    page.get_by_role("button", name="Use the new account").click()

    expect(page.get_by_role("status")).to_contain_text("HighLevel is connected")
    assert [(made, "Northwind Berlin")] == [
        (each["id"], each["account"]["label"]) for each in acme.calls("GET", "/v1/connections").json()["items"]
    ]


@needs_axe
def test_the_pages_of_a_link_on_a_phone(gateway, acme, phone):
    """
    The product's, the link's to strangers and to its user, the refusal, and the list with what it unfolds: nothing sticks out,
    nothing is found, light and dark.
    """
    page = phone
    page.goto(f"{gateway.sandbox.origin}/")
    looks_right(page)
    shares(page, gateway, known=False)
    looks_right(page)
    link = page.url
    signs_in(page, gateway)
    page.goto(link)
    looks_right(page)
    goes_on(page)
    signs_in(page, gateway)
    page.get_by_text(f"Shared with {acme.name}").click()
    looks_right(page)


@needs_axe
def test_the_page_for_another_signed_in_user_on_a_phone(gateway, alice, acme, browser):
    """
    The page names the link's user and has no form. Chromium logs the status in the console.
    """
    link = acme.makes(alice)
    with browser.visits(viewport=PHONE) as visitor:
        page = visitor.page
        page.goto(f"{gateway.sandbox.origin}/as/bob")
        signs_in(page, gateway)
        page.goto(link["url"])

        expect(page.locator("#meant-for")).to_be_visible()
        expect(page.locator("#link")).to_have_count(0)
        looks_right(page)
