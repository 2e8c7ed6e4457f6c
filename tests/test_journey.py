"""
The main job by clicking, in Chromium: from the product's page, which is another site, to the provider and back.

Each test has a browser profile of its own, and an Alice of its own behind the product's button. Whatever happens, nothing
may show up in the console, break a policy, or be asked of anybody but the gateway and the sandbox.
"""

from __future__ import annotations

import re

import pytest
from browsing import Visitor, chromium, needs_chromium, new_alice, presses, tabs_to
from playwright.sync_api import expect

from gateway.sandbox import consent

pytestmark = needs_chromium

THREE = {
    "ghl": ("HighLevel", "Northwind Berlin"),
    "google": ("Gmail", "alice.winter@gmail.example"),
    "ringcentral": ("RingCentral", "Alice Winter"),
}


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture
def alice(gateway, monkeypatch):
    return new_alice(gateway, monkeypatch)


@pytest.fixture
def visit(gateway, alice, browser):
    """Opens browsers for Alice, and listens to what they complain about."""
    visitors = []

    def opened(**options):
        visitors.append(Visitor(browser, **options))
        return visitors[-1]

    yield opened
    for visitor in visitors:
        visitor.context.close()
        assert [] == visitor.complaints
        assert [] == visitor.strays(gateway.url, gateway.sandbox.origin)
        assert [] == [url for url in visitor.addresses if "eyJ" in url], "an access token stood in an address"


@pytest.fixture
def page(visit):
    return visit().page


def connect_button(page, gateway, provider, how=""):
    page.goto(f"{gateway.sandbox.origin}/")
    return page.get_by_role("button", name=f"Connect {THREE[provider][0]}{how}", exact=True)


def goes_on(page, answer="Allow"):
    """From the connect page over the consent page, by mouse."""
    page.get_by_role("button", name=re.compile("^Continue to ")).click()
    page.get_by_role("button", name=answer, exact=True).click()


def opens_a_pop_up(page, gateway, provider):
    button = connect_button(page, gateway, provider, " in a Pop-up")
    with page.expect_popup() as opened:
        button.click()
    opened.value.locator("form#connect").wait_for()
    return opened.value


def closes_by_itself(popup):
    if not popup.is_closed():
        popup.wait_for_event("close")


def test_three_connections_are_made_by_clicking_and_listed(gateway, page):
    """
    HighLevel, Gmail and RingCentral, by redirect, each back at the product with its notice; then all three on one page.
    """
    for provider, (name, _) in THREE.items():
        connect_button(page, gateway, provider).click()
        goes_on(page)
        expect(page.get_by_role("status")).to_contain_text(f"{name} is connected")
        assert page.url.startswith(f"{gateway.sandbox.origin}/?")

    page.get_by_role("button", name="Manage connections").click()

    expect(page).to_have_url(f"{gateway.url}/connections")
    expect(page.get_by_role("article")).to_have_count(3)
    for name, account in THREE.values():
        card = page.get_by_role("article", name=f"{name} {account}")
        expect(card.get_by_text("Connected", exact=True)).to_be_visible()


@pytest.mark.parametrize("script", [True, False])
def test_a_link_put_anywhere_asks_who_you_are_and_ends_on_the_list(gateway, alice, visit, script):
    """
    Without a session the product signs in and brings back to where the link led, with and without JavaScript.
    """
    page = visit(java_script_enabled=script).page

    page.goto(f"{gateway.url}/connect/ghl")
    page.get_by_role("button", name="Alice Winter").click()
    if not script:
        page.get_by_role("button", name="Continue").click()
    goes_on(page)

    expect(page.get_by_role("status")).to_contain_text("HighLevel is connected")
    expect(page.get_by_role("article", name="HighLevel Northwind Berlin")).to_be_visible()


def test_without_javascript_the_products_button_connects(gateway, visit):
    """
    A plain form does what the script does.
    """
    page = visit(java_script_enabled=False).page
    connect_button(page, gateway, "google").click()

    goes_on(page)

    expect(page.get_by_role("status")).to_contain_text("Gmail is connected")


def test_saying_no_comes_back_with_its_sentence(gateway, page):
    """
    The product says that nothing was connected, and the gateway's own page lists nothing.
    """
    connect_button(page, gateway, "google").click()

    goes_on(page, "Deny")

    expect(page.get_by_role("status")).to_contain_text("You did not allow it, so nothing was connected.")
    page.goto(f"{gateway.url}/connections?error=access_denied&provider=google")
    expect(page.get_by_role("alert")).to_contain_text("Access was not granted")
    expect(page.get_by_text("Nothing is connected yet")).to_be_visible()


def test_not_now_goes_back_to_the_product(gateway, page):
    """
    Whoever changes their mind before going to the provider is back with one click.
    """
    connect_button(page, gateway, "ringcentral").click()

    page.get_by_role("link", name="Not now").click()

    expect(page.get_by_role("status")).to_contain_text("was not connected")
    assert page.url.startswith(f"{gateway.sandbox.origin}/?")


# -- pop-ups ---------------------------------------------------------------------------------------------------------


def test_a_pop_up_tells_its_opener_and_closes(gateway, visit):
    """
    The promise resolves by the window's message, not by asking; the product's page never left.
    """
    visitor = visit()
    popup = opens_a_pop_up(visitor.page, gateway, "google")

    goes_on(popup)

    expect(visitor.page.get_by_role("status")).to_contain_text("Gmail is connected")
    closes_by_itself(popup)
    assert 1 == visitor.asked("/v1/connections"), "once before, for comparison"
    assert f"{gateway.sandbox.origin}/" == visitor.page.url


def test_a_pop_up_that_is_told_no_rejects_and_stays_to_be_read(gateway, page):
    """
    The opener shows the sentence at once; the window's own button closes it.
    """
    popup = opens_a_pop_up(page, gateway, "google")

    goes_on(popup, "Deny")

    expect(page.get_by_role("status")).to_contain_text("You did not allow it, so nothing was connected.")
    expect(popup.get_by_role("heading", name="Access was not granted")).to_be_visible()
    popup.get_by_role("button", name="Close this window").click()
    closes_by_itself(popup)


def test_a_pop_up_that_is_closed_half_way_rejects(gateway, page):
    """
    Nobody waits for ever for a window that is gone.
    """
    popup = opens_a_pop_up(page, gateway, "google")

    popup.close()

    expect(page.get_by_role("status")).to_contain_text("The window was closed before the end", timeout=10_000)


def test_a_lost_opener_resolves_by_asking_for_the_connections(gateway, visit, monkeypatch):
    """
    A provider that isolates its page (Cross-Origin-Opener-Policy) cuts the window off; the list still knows.
    """
    monkeypatch.setattr(consent, "guarded", isolated(consent.guarded))
    visitor = visit()
    popup = opens_a_pop_up(visitor.page, gateway, "google")
    visitor.page.evaluate("document.hasFocus = () => false")  # as in life, where the other window has it

    goes_on(popup)

    expect(popup.get_by_role("heading", name="Gmail is connected")).to_be_visible()
    assert popup.evaluate("window.opener === null"), "the opener was not lost: this test tests nothing"
    expect(visitor.page.get_by_role("status")).to_contain_text("Gmail is connected")
    assert visitor.asked("/v1/connections") > 1


def isolated(guarded):
    """The provider's pages, isolated from whoever opened them."""

    def answered(*arguments):
        answer = guarded(*arguments)
        answer.headers["Cross-Origin-Opener-Policy"] = "same-origin"
        return answer

    return answered


# -- keyboard --------------------------------------------------------------------------------------------------------


def test_connecting_by_keyboard_alone(gateway, page):
    """
    Tab, arrows and Enter from the product's page to its notice, and the focus can be seen on the way.
    """
    presses(connect_button(page, gateway, "ghl"))
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
    connect_button(page, gateway, "ghl").click()
    page.wait_for_url(f"{gateway.url}/**")

    skip = page.get_by_role("link", name="Skip to the content")
    presses(skip)

    tabs_to(page.locator("main a").first, at_most=1)


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
