"""
The main job by clicking, in Chromium: from the product's page, which is another site, to the provider and back.

Each test has a browser profile that is as new, and an Alice of its own behind the product's button. In no case may the console show an error,
a policy be broken, or a third party be called.
"""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.support.browser import connect_button, goes_on, needs_chromium, presses, tabs_to

pytestmark = needs_chromium

THREE = {"HighLevel": "Northwind Berlin", "Gmail": "alice.winter@gmail.example", "RingCentral": "Alice Winter"}


@pytest.fixture
def page(request, gateway, alice, browser):
    """Its parameter: whether scripts run."""
    options = {"java_script_enabled": getattr(request, "param", True)}
    with browser.visits(gateway.url, gateway.sandbox.origin, **options) as visitor:
        yield visitor.page


def test_three_connections_are_made_by_clicking_and_listed(gateway, page):
    """
    HighLevel, Gmail and RingCentral, by redirect, each back at the product with its notice; then all three on one page.
    """
    for name in THREE:
        connect_button(page, gateway, name).click()
        goes_on(page)
        expect(page.get_by_role("status")).to_contain_text(f"{name} is connected")
        assert page.url.startswith(f"{gateway.sandbox.origin}/?")

    page.get_by_role("button", name="Manage connections").click()

    expect(page).to_have_url(f"{gateway.url}/connections")
    expect(page.get_by_role("article")).to_have_count(3)
    for name, account in THREE.items():
        card = page.get_by_role("article", name=f"{name} {account}")
        expect(card.get_by_text("Connected", exact=True)).to_be_visible()


@pytest.mark.parametrize(("page", "script"), [(True, True), (False, False)], indirect=["page"])
def test_a_link_put_anywhere_asks_who_you_are_and_ends_on_the_list(gateway, page, script):
    """
    Without a session the product signs in and brings back to where the link led, with and without JavaScript.
    """
    page.goto(f"{gateway.url}/connect/ghl")
    page.get_by_role("button", name="Alice Winter").click()
    if not script:
        page.get_by_role("button", name="Continue").click()
    goes_on(page)

    expect(page.get_by_role("status")).to_contain_text("HighLevel is connected")
    expect(page.get_by_role("article", name="HighLevel Northwind Berlin")).to_be_visible()


@pytest.mark.parametrize("page", [False], indirect=True)
def test_without_javascript_the_products_button_connects(gateway, page):
    """
    A plain form does what the script does.
    """
    connect_button(page, gateway, "Gmail").click()

    goes_on(page)

    expect(page.get_by_role("status")).to_contain_text("Gmail is connected")


def test_saying_no_comes_back_with_its_sentence(gateway, page):
    """
    The product says that nothing was connected, and the gateway's own page lists nothing.
    """
    connect_button(page, gateway, "Gmail").click()

    goes_on(page, "Deny")

    expect(page.get_by_role("status")).to_contain_text("You did not allow it, so nothing was connected.")
    page.goto(f"{gateway.url}/connections?error=access_denied&provider=google")
    expect(page.get_by_role("alert")).to_contain_text("Access was not granted")
    expect(page.get_by_text("Nothing is connected yet")).to_be_visible()


def test_not_now_goes_back_to_the_product(gateway, page):
    """
    A user who changes their mind is back with one click.
    """
    connect_button(page, gateway, "RingCentral").click()

    page.get_by_role("link", name="Not now").click()

    expect(page.get_by_role("status")).to_contain_text("was not connected")
    assert page.url.startswith(f"{gateway.sandbox.origin}/?")


# -- keyboard --------------------------------------------------------------------------------------------------------


def test_connecting_by_keyboard_alone(gateway, page):
    """
    Tab, arrows and Enter from the product's page to its notice, and the focus can be seen on the way.
    """
    presses(connect_button(page, gateway, "HighLevel"))
    page.wait_for_url(f"{gateway.url}/**")
    presses(page.get_by_role("button", name="Continue to HighLevel"))
    page.wait_for_url(f"{gateway.sandbox.origin}/ghl/**")
    tabs_to_choice(page)
    page.keyboard.press("ArrowDown")
    presses(page.get_by_role("button", name="Allow", exact=True))

    expect(page.get_by_role("status")).to_contain_text("HighLevel is connected")
    page.get_by_role("button", name="Manage connections").press("Enter")
    expect(page.get_by_role("article", name="HighLevel Northwind Lisbon")).to_be_visible()


def tabs_to_choice(page):
    """To the first account; the ring is drawn around its label."""
    page.keyboard.press("Tab")
    label = page.locator("label:focus-within")
    assert "none" != label.evaluate("element => getComputedStyle(element).outlineStyle")


def test_disconnecting_by_keyboard_alone(gateway, alice, page):
    """
    Asked once more, then gone: from the page, and from what the gateway holds.
    """
    alice.connects("ringcentral")
    page.goto(f"{gateway.sandbox.origin}/")
    presses(page.get_by_role("button", name="Manage connections"))
    page.wait_for_url(f"{gateway.url}/connections")

    presses(page.locator("article details.confirm summary"))
    presses(page.get_by_role("button", name="Disconnect RingCentral", exact=True))

    expect(page.get_by_role("status")).to_contain_text("RingCentral is disconnected")
    expect(page.get_by_text("Nothing is connected yet")).to_be_visible()
    assert "Nothing is connected yet" in alice.get("/connections").text


def test_the_first_tab_skips_to_the_content(gateway, page):
    """
    The skip link is first, and leads into the page.
    """
    connect_button(page, gateway, "HighLevel").click()
    page.wait_for_url(f"{gateway.url}/**")

    skip = page.get_by_role("link", name="Skip to the content")
    presses(skip)

    tabs_to(page.locator("main :is(a, button, summary)").first, at_most=1)


# -- signing out -----------------------------------------------------------------------------------------------------


def test_signing_out_leaves_nothing_to_see(gateway, alice, page):
    """
    One press, and neither this page nor the way back shows whose connections they were.
    """
    alice.connects("ghl")
    page.goto(f"{gateway.sandbox.origin}/")
    page.get_by_role("button", name="Manage connections").click()
    expect(page.get_by_role("article")).to_have_count(1)

    page.get_by_role("button", name="Sign out").click()

    expect(page.get_by_role("button", name="Sign out")).to_have_count(0)
    page.goto(f"{gateway.url}/connections")
    expect(page.get_by_role("article")).to_have_count(0)
    assert [] == [cookie["name"] for cookie in page.context.cookies(gateway.url)]
