"""
A user in a real browser: headless Chromium, driven by Playwright, with the errors that it reported. A missing browser
skips the tests, except in CI.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Error,
    Locator,
    Page,
    Request,
    expect,
    sync_playwright,
)

from gateway.sandbox.supabase import USERS
from tests.support.gateway_process import Gateway, Person

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
AXE = Path(__file__).resolve().parents[1] / "node" / "node_modules" / "axe-core" / "axe.min.js"
SWITCHES = [
    "--disable-gpu",
    "--disable-software-rasterizer",
    "--in-process-gpu",  # one process less
    "--renderer-process-limit=1",  # all pages of all visitors; a further process costs a third of a second
    "--disable-lcd-text",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",  # no requests of Chromium itself
    "--disable-component-update",
    "--disable-sync",
    "--disable-features=LocalNetworkAccessChecks",  # a page that a test supplies counts as public
    *(["--no-sandbox"] if os.geteuid() == 0 else []),  # it refuses to sandbox for root
]
WATCH = "addEventListener('securitypolicyviolation', e => console.error('CSP', e.violatedDirective, e.blockedURI))"
_PATIENCE_MS = 60_000
PHONE = {"width": 320, "height": 740}
"""The narrowest that WCAG 2.2 section 1.4.10 asks for."""

needs_chromium = pytest.mark.skipif(
    not os.environ.get("CI") and not CHROMIUM.exists(), reason="needs Chromium; CI always has it"
)
needs_axe = pytest.mark.skipif(
    not os.environ.get("CI") and not AXE.exists(), reason="needs `npm ci` in tests/node; CI always has it"
)


def new_alice(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> Person:
    """The Alice behind the product's buttons, now as a new user; the same person outside the browser."""
    monkeypatch.setitem(USERS, "alice", replace(USERS["alice"], id=str(uuid.uuid4())))
    gateway.sandbox.state.happened["alice"].clear()
    return Person(gateway, USERS["alice"])


class Visitor:
    """
    A browser profile, with one page open.

    `complaints`: console errors, exceptions and CSP violations of every page and pop-up, as text. `addresses`: every URL
    that was asked for.
    """

    def __init__(self, browser: Browser, **options: Any) -> None:
        """`options` as of Playwright's `new_context`: viewport, colour scheme, JavaScript."""
        self.complaints: list[str] = []
        self.addresses: list[str] = []
        self.context: BrowserContext = browser.new_context(reduced_motion="reduce", **options)
        self.context.set_default_timeout(_PATIENCE_MS)
        self.context.add_init_script(WATCH)
        self.context.on("request", self._note)
        self.context.on("page", self._listen)
        self.page: Page = self.context.new_page()

    def _note(self, request: Request) -> None:
        self.addresses.append(request.url)

    def _listen(self, page: Page) -> None:
        page.on("pageerror", lambda error: self.complaints.append(f"{page.url}: {error}"))
        page.on("console", lambda said: said.type == "error" and self.complaints.append(_told(page, said)))

    def strays(self, *origins: str) -> list[str]:
        """Addresses that were asked for on any other origin."""
        return [url for url in self.addresses if "{0.scheme}://{0.netloc}".format(urlsplit(url)) not in origins]

    def leaves(self) -> None:
        """Forgets all: its profile is as new, but in processes that run and know the pages' scripts, which halves the time of a test."""
        for popup in self.context.pages[1:]:
            popup.close()
        self.page.goto("about:blank")
        self.page.emulate_media(color_scheme="light")
        self.context.clear_cookies()  # no page of ours stores anything else
        self.context.unroute_all()
        self.complaints.clear()
        self.addresses.clear()

    def asked(self, path: str) -> int:
        """How often `path` was asked for."""
        return sum(path == urlsplit(url).path for url in self.addresses)


class Chromium:
    """One process, for one visitor of each kind at a time."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._free: dict[str, Visitor] = {}

    @contextmanager
    def visits(self, *origins: str, **options: Any) -> Iterator[Visitor]:
        """
        A visitor, held to it in the end: no complaint, nothing asked of any other origin, no token in an address. Without `origins`,
        none of this.
        """
        visitor = self._free.pop(repr(options), None) or Visitor(self._browser, **options)
        yield visitor
        complaints, addresses = list(visitor.complaints), list(visitor.addresses)
        strays = visitor.strays(*origins)
        visitor.leaves()
        self._free[repr(options)] = visitor
        if origins:
            assert [] == complaints
            assert [] == strays
            assert [] == [url for url in addresses if "eyJ" in url], "an access token stood in an address"


@contextmanager
def chromium() -> Iterator[Chromium]:
    """Until the tests of a package have ended."""
    expect.set_options(timeout=_PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        yield Chromium(browser)
        browser.close()


def _told(page: Page, said: ConsoleMessage) -> str:
    return f"{page.url}: {said.text} ({said.location.get('url', '')})"


def connect_button(page: Page, gateway: Gateway, name: str) -> Locator:
    """The product's button to connect `name`, on its page, which is opened."""
    page.goto(f"{gateway.sandbox.origin}/")
    return page.get_by_role("button", name=f"Connect {name}", exact=True)


def goes_on(page: Page, answer: str = "Allow") -> None:
    """From the connect page over the consent page, by mouse."""
    page.get_by_role("button", name=re.compile("^Continue to ")).click()
    page.get_by_role("button", name=answer, exact=True).click()


def closes(popup: Page) -> None:
    """Waits until the window is gone."""
    if not popup.is_closed():
        popup.wait_for_event("close")


def closes_by(button: Locator) -> None:
    """Clicks a button that closes its window. The window may be gone before Chromium says that the click was made."""
    with button.page.expect_event("close"), suppress(Error):
        button.click()


def tabs_to(target: Locator, at_most: int = 60) -> None:
    """Presses Tab until `target` has the focus, and shows it (WCAG 2.4.7)."""
    for _ in range(at_most):
        target.page.keyboard.press("Tab")
        if target.evaluate("element => element === document.activeElement"):
            shown = target.evaluate("element => getComputedStyle(element).outlineStyle")
            assert shown != "none", f"the focus on {target} cannot be seen"
            return
    raise AssertionError(f"{target} cannot be reached by Tab")


def presses(target: Locator, key: str = "Enter") -> None:
    """Goes to `target` by keyboard alone and presses it."""
    tabs_to(target)
    target.page.keyboard.press(key)


def sideways(page: Page) -> list[str]:
    """What sticks out to the right of the window, as text; nothing when the page does not scroll that way."""
    return page.evaluate(
        """() => document.documentElement.scrollWidth <= innerWidth ? [] : [...document.querySelectorAll('body *')]
            .filter(e => e.getBoundingClientRect().right > innerWidth).map(e => e.outerHTML.slice(0, 120))"""
    )


def violations(page: Page, *rules: str) -> list[str]:
    """What axe-core finds by these rules, or by all that it has, a line each: rule, element and why."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE.read_text(encoding="utf-8"))
    asked = {"resultTypes": ["violations"]} | ({"runOnly": list(rules)} if rules else {})
    found = page.evaluate("asked => axe.run(document, asked).then(result => result.violations)", asked)
    return [
        f"{rule['id']}: {node['html'][:120]} ({node['failureSummary']})" for rule in found for node in rule["nodes"]
    ]
