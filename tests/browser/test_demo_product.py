"""
The demo's product shows what is connected, the stored row and the events; the sandbox offers its faults by name.
"""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from gateway.sandbox.fault_page import ACTIONS
from gateway.sandbox.partner import NORTHWIND
from tests.support.browser import (
    PHONE,
    connect_button,
    goes_on,
    needs_axe,
    needs_chromium,
    new_alice,
    sideways,
    violations,
)
from tests.support.link_partner import new_partner

pytestmark = needs_chromium


@pytest.fixture
def page(gateway, browser, monkeypatch):
    new_alice(gateway, monkeypatch)
    key = new_partner(gateway, "Northwind back end", reach="all").key
    monkeypatch.setitem(gateway.sandbox.state.partner_keys, NORTHWIND, key)
    monkeypatch.setattr(gateway.sandbox.state, "database", gateway.dsn)
    with browser.visits(gateway.url, gateway.sandbox.origin, viewport=PHONE) as visitor:
        yield visitor.page
    gateway.sandbox.state.reset()


def causes(page, gateway, title, provider="Gmail"):
    page.goto(f"{gateway.sandbox.origin}/")
    page.get_by_role("link", name="Make something fail").click()
    page.get_by_label("Provider").select_option(label=provider)
    page.get_by_role("button", name=title, exact=True).click()
    expect(page.get_by_role("status")).to_contain_text(title)


def test_the_product_shows_account_status_missing_permission_row_and_events(gateway, page):
    """
    After a consent with one permission less: the label, the status, what is missing, the encrypted row, and the event without reloading.
    """
    causes(page, gateway, "Missing scope")
    connect_button(page, gateway, "Gmail").click()
    goes_on(page)

    now = page.locator("#now")
    expect(now).to_contain_text("alice.winter@gmail.example")
    expect(now).to_contain_text("Status: active")
    expect(now).to_contain_text("Not allowed:")
    now.get_by_text("The stored row").click()
    expect(now.locator("pre")).to_contain_text('"token": "gAAAA')
    now.get_by_text("The stored row").click()
    page.evaluate("document.activeElement.blur()")
    expect(page.locator("#events")).to_contain_text("connection.created")


def test_another_account_is_named_by_its_fault(gateway, page):
    """
    The chosen account and the one that came back differ.
    """
    causes(page, gateway, "Another account")
    connect_button(page, gateway, "Gmail").click()
    goes_on(page)

    expect(page.locator("#now")).not_to_contain_text("alice.winter@gmail.example")
    expect(page.locator("#now .card")).to_have_count(1)


@pytest.mark.parametrize("name", ACTIONS)
def test_every_fault_has_a_button_that_does_it(gateway, name):
    """
    Each is done or planned; a form from another site does nothing.
    """
    person, url = gateway.person("Alice Winter"), f"{gateway.sandbox.origin}/faults"
    form = {"provider": "ghl", "fault": name}
    assert 400 == person.browser.post(url, form, headers={"Sec-Fetch-Site": "cross-site"}).status_code
    assert 400 == person.browser.post(url, form | {"provider": "nobody"}).status_code

    assert "Done." in person.browser.post(url, form).text

    gateway.sandbox.state.reset()


@needs_axe
def test_the_fault_page_on_a_phone(gateway, page):
    """
    Nothing sticks out, nothing is found, light and dark; the same for what is connected.
    """
    causes(page, gateway, "Slow")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert [] == sideways(page)
        assert [] == violations(page)
