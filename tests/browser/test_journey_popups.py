"""
Connecting in a pop-up, in Chromium: the product's page stays where it is and hears how it ended, whatever becomes of the window.
"""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from gateway.sandbox import consent
from tests.support.browser import (
    closes,
    closes_by,
    connect_button,
    goes_on,
    needs_chromium,
    new_alice,
)

pytestmark = needs_chromium
STAYS_OPEN = "const later = setTimeout; window.setTimeout = (act, ms) => ms > 1000 || later(act, ms)"
"""A window whose timers of more than a second never fire: a test is not quick enough to use it in that time on a loaded machine."""


@pytest.fixture
def visitor(gateway, browser, monkeypatch):
    new_alice(gateway, monkeypatch)
    with browser.visits(gateway.url, gateway.sandbox.origin) as opened:
        yield opened


@pytest.fixture
def page(visitor):
    return visitor.page


def opens_a_pop_up(page, gateway):
    button = connect_button(page, gateway, "Gmail in a Pop-up")
    with page.expect_popup() as opened:
        button.click()
    opened.value.locator("form#connect").wait_for()
    return opened.value


def test_a_pop_up_tells_its_opener_and_closes(gateway, visitor):
    """
    The promise resolves by the window's message, not by asking; the product's page never left.
    """
    popup = opens_a_pop_up(visitor.page, gateway)

    goes_on(popup)

    expect(visitor.page.get_by_role("status")).to_contain_text("Gmail is connected")
    closes(popup)
    assert 1 == visitor.asked("/v1/connections"), "once before, for comparison"
    assert f"{gateway.sandbox.origin}/" == visitor.page.url


def test_back_after_success_shows_the_connection_again(gateway, page):
    """
    The user kept the window open, went back to the provider and agreed once more.
    """
    popup = opens_a_pop_up(page, gateway)
    popup.add_init_script(STAYS_OPEN)
    goes_on(popup)
    connected = popup.get_by_role("heading", name="Gmail is connected")
    expect(connected).to_be_visible()
    expect(popup.locator("#closes")).to_be_visible()
    popup.keyboard.press("Shift")
    expect(popup.locator("#stays")).to_be_visible()

    popup.go_back()
    popup.get_by_role("button", name="Allow", exact=True).click()

    expect(connected).to_be_visible()
    expect(page.get_by_role("status")).to_contain_text("Gmail is connected")
    closes_by(popup.locator("#close"))


@pytest.mark.parametrize("answer", ["Not now", "Deny"])
def test_a_pop_up_that_is_told_no_rejects_and_closes_within_a_second(gateway, page, answer):
    """
    On our page, and on the provider's: the user is done with the window, and the opener shows the sentence.
    """
    popup = opens_a_pop_up(page, gateway)
    popup.add_init_script(STAYS_OPEN)

    if answer == "Not now":
        popup.get_by_role("link", name=answer).click()
    else:
        goes_on(popup, answer)

    expect(page.get_by_role("status")).to_contain_text("You did not allow it, so nothing was connected.")
    closes(popup)


def test_a_pop_up_that_is_closed_half_way_rejects(gateway, page):
    """
    A closed window ends the wait.
    """
    popup = opens_a_pop_up(page, gateway)

    popup.close()

    expect(page.get_by_role("status")).to_contain_text("The window was closed too early")


def test_a_lost_opener_resolves_by_asking_for_the_connections(gateway, visitor, monkeypatch):
    """
    A provider that isolates its page (Cross-Origin-Opener-Policy) cuts the window off; the list still knows.
    """
    monkeypatch.setattr(consent, "guarded", isolated(consent.guarded))
    popup = opens_a_pop_up(visitor.page, gateway)
    visitor.page.evaluate("document.hasFocus = () => false")  # as in life, where the other window has it

    goes_on(popup)

    expect(popup.get_by_role("heading", name="Gmail is connected")).to_be_visible()
    assert popup.evaluate("window.opener === null"), "the opener was not lost: this test tests nothing"
    expect(visitor.page.get_by_role("status")).to_contain_text("Gmail is connected")
    assert visitor.asked("/v1/connections") > 1


def isolated(guarded):
    """The provider's pages, isolated from their opener."""

    def answered(*arguments):
        answer = guarded(*arguments)
        answer.headers["Cross-Origin-Opener-Policy"] = "same-origin"
        return answer

    return answered


def test_a_blocked_pop_up_connects_by_redirect(gateway, page):
    """
    A browser that blocks the window can still connect.
    """
    button = connect_button(page, gateway, "Gmail in a Pop-up")
    page.evaluate("window.open = () => null")
    button.click()

    goes_on(page)

    expect(page.get_by_role("status")).to_contain_text("Gmail is connected")
    assert page.url.startswith(f"{gateway.sandbox.origin}/?")
