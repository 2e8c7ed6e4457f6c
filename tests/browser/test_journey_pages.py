"""
Every page of the journey, looked at in Chromium: on a phone nothing sticks out, and axe-core finds nothing, light and dark.

The pages are those of a running gateway and its sandbox, with their policies; what they complain about counts too, but for
the statuses of pages that show an error.
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
import pytest
from playwright.sync_api import expect

from gateway.errors import DatabaseUnavailable
from gateway.sandbox.keys import new_key
from tests.support.browser import PHONE, Visitor, needs_axe, needs_chromium, new_alice, sideways, violations
from tests.support.database import rows
from tests.support.gateway_process import Person, whole_gateway

pytestmark = [needs_chromium, needs_axe]


@dataclass
class Scene:
    """Alice's browser before the page that is looked at, and where things are."""

    gateway: object
    visitor: Visitor
    alice: Person

    @property
    def page(self):
        return self.visitor.page

    @property
    def product(self):
        return self.gateway.sandbox.origin

    def signs_in(self, then="/connections"):
        """By the product's sign-in page, on to a path of the gateway."""
        self.page.goto(f"{self.product}/login?next={then}")
        self.page.get_by_role("button", name="Alice Winter").click()
        self.page.wait_for_url(f"{self.gateway.url}/**")

    def asks(self, provider, then=""):
        self.signs_in(f"/connect/{provider}")
        if then:
            self.page.get_by_role("button", name="Continue to").click()
            self.page.locator(then).wait_for()


@pytest.fixture
def scene(gateway, browser, monkeypatch):
    with browser.visits(viewport=PHONE) as visitor:
        yield Scene(gateway, visitor, new_alice(gateway, monkeypatch))


@pytest.fixture(scope="module")
def without_login(cluster, template):
    """A gateway whose operator did not say where its users sign in."""
    with whole_gateway(cluster, template) as made:
        del made.environ["GATEWAY_APP_LOGIN_URL"]
        yield made.start()


def looks_right(scene):
    """On the page that is open now: nothing sticks out, nothing is found, in either scheme."""
    page = scene.page
    for scheme, rules in (("light", []), ("dark", ["color-contrast"])):  # only colours differ
        page.emulate_media(color_scheme=scheme)
        assert [] == sideways(page), scheme
        assert [] == violations(page, *rules), scheme
    assert [] == [said for said in scene.visitor.complaints if not is_own_status(said, page.url)]


def shows_its_button(scene, name):
    """In a pop-up, without scrolling."""
    scene.page.set_viewport_size({"width": 540, "height": 760})
    scene.page.evaluate("scrollTo(0, 0)")
    expect(scene.page.get_by_role("button", name=name)).to_be_in_viewport(ratio=1)
    scene.page.set_viewport_size(PHONE)


ACCENTS = """
brands => {
  const shown = document.body.appendChild(document.createElement("i"));
  const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const parts = color => {
    shown.style.color = color;
    pen.fillStyle = getComputedStyle(shown).color;
    pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  return brands.map(brand => {
    document.documentElement.style.setProperty("--brand", brand);
    return ["accent", "accent-press", "accent-wash", "on-accent", "card", "paper", "sunk"].map(name => parts(`var(--${name})`));
  });
}
"""
"""The accents that the style sheet makes of each colour, and the grounds they are on, as sRGB."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_brand_colour_can_be_read_in_light_and_dark(scene, scheme):
    """
    As text on the page, and below the text of a button, hovered or not: WCAG 2.2 asks for 4.5. The hue stays, so that red is no grey.
    """
    brands = [f"#{red:02x}{green:02x}{blue:02x}" for red in STEPS for green in STEPS for blue in STEPS]
    scene.page.goto(f"{scene.gateway.url}/problems/not_found")
    scene.page.emulate_media(color_scheme=scheme)

    for brand, (accent, press, wash, text, *grounds) in zip(brands, scene.page.evaluate(ACCENTS, brands), strict=True):
        pairs = [(press, text), *((accent, each) for each in (wash, text, *grounds))]
        assert [pair for pair in pairs if contrast(*pair) < 4.47] == [], brand  # 8 bits a part
        if brand == "#ff0000":
            assert accent[0] > accent[1] + 50


STEPS = (0, 3, 60, 128, 190, 252, 255)


def contrast(one, other):
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(color):
    parts = [part / 255 for part in color]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def reaches_everything(scene):
    """
    On a phone of 390 px: the first field is in view with the button, and what Tab reaches is never behind it.
    """
    page = scene.page
    page.set_viewport_size({"width": 390, "height": 844})
    page.evaluate("scrollTo(0, 0)")
    expect(page.get_by_role("textbox").first).to_be_in_viewport(ratio=1)
    names, seen = [], True
    page.locator("#connect .entries input").first.focus()
    while page.evaluate("document.activeElement.closest('form')?.id") == "connect":
        names.append(
            page.evaluate("document.activeElement.innerText.trim() || document.activeElement.labels?.[0].innerText")
        )
        seen = seen and page.evaluate(IS_ON_TOP)
        page.keyboard.press("Tab")
    assert seen, names
    assert ["Account SID", "Auth token"] == [name for name in names if name in ("Account SID", "Auth token")]
    assert ["Connect Twilio", "Not now"] == names[-2:]
    page.set_viewport_size(PHONE)


IS_ON_TOP = """
() => {
  const box = document.activeElement.getBoundingClientRect();
  return document.activeElement.contains(document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2));
}
"""


def is_own_status(said, url):
    """A page that shows an error has its status, and Chromium says so."""
    return "Failed to load resource" in said and said.endswith(f"({url})")


@pytest.mark.parametrize("provider", ["ghl", "google"])
def test_the_connect_page_and_the_consent_page(scene, provider):
    """
    Who, what and which scopes; then the page of the simulated provider, with the list of faults open.
    """
    scene.asks(provider)
    looks_right(scene)
    shows_its_button(scene, "Continue to")

    scene.page.get_by_role("button", name="Continue to").click()
    scene.page.locator("#consent").wait_for()
    scene.page.get_by_text("Make something fail").click()
    looks_right(scene)


def test_the_form_for_a_key_by_keyboard(scene):
    """
    Two halves that are swapped: the page comes back with the first field in focus and both named. The right ones connect. A secret can be
    shown while it is typed.
    """
    page, key = scene.page, new_key(scene.gateway.sandbox.state, "twilio")
    scene.asks("twilio")
    looks_right(scene)
    shows_its_button(scene, "Connect Twilio")
    reaches_everything(scene)
    for word, kind in (("Show", "text"), ("Hide", "password")):
        page.get_by_role("button", name=f"{word} Auth token").click()
        expect(page.get_by_label("Auth token")).to_have_attribute("type", kind)
    expect(page.get_by_role("button", name="Account SID")).to_have_count(0)

    def types(first, second):
        page.get_by_label("Account SID").focus()
        page.keyboard.type(first)
        page.keyboard.press("Tab")
        page.keyboard.type(second)
        page.keyboard.press("Enter")

    types(key["auth_token"], key["account_sid"])
    page.get_by_role("alert").wait_for()
    expect(page.get_by_label("Account SID")).to_be_focused()
    expect(page.get_by_label("Auth token")).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_label("Auth token")).to_have_value("")
    looks_right(scene)

    types(key["account_sid"], key["auth_token"])
    page.get_by_text("Twilio is connected").wait_for()


def test_the_connect_page_when_it_is_connected_already(scene):
    """
    The connected account is shown, with all details open.
    """
    scene.alice.connects("google")

    scene.asks("google")

    scene.page.get_by_text("Connected now").wait_for()
    looks_right(scene)


def test_the_list(scene):
    """
    The empty state, with what is on offer; then three cards, shut and with everything that folds open. Names may be long, without a
    space, or written from right to left. The product's name is beside its logo.
    """
    scene.signs_in()
    looks_right(scene)
    name = scene.page.locator(".brand-name")
    expect(name).to_have_text("Northwind")
    assert name.bounding_box()["width"] > 50

    for provider, label in {
        "ghl": "W" * 200,
        "google": "شركة الشمال للتجارة " * 10,
        "ringcentral": "Ω" * 199 + "\u202e",
    }.items():
        made = scene.alice.connects(provider)["connection"]
        rows(scene.gateway.dsn, "update gateway.connection set account_label = %s where id = %s", label, made)
    rows(scene.gateway.dsn, "update gateway.session set label = repeat('x', 200) where user_id = %s", scene.alice.id)
    scene.page.reload()
    looks_right(scene)

    scene.page.evaluate("document.querySelectorAll('details').forEach(e => { e.name = ''; e.open = true })")
    looks_right(scene)


def test_the_notices_of_the_list(scene):
    """
    Good news, bad news, and what became of a connection after a disconnect.
    """
    made = scene.alice.connects("google")["connection"]
    scene.signs_in(f"/connections?connection={made}%26provider=google")
    scene.page.locator("#notice").wait_for()
    looks_right(scene)

    scene.page.goto(f"{scene.gateway.url}/connections?error=provider_unavailable&provider=google")
    scene.page.locator("#notice").wait_for()
    looks_right(scene)

    scene.page.locator("article details.confirm summary").click()
    scene.page.get_by_role("button", name="Disconnect Gmail", exact=False).click()

    scene.page.locator("#notice").wait_for()
    looks_right(scene)


@pytest.mark.parametrize("end", ["connection=5c3e0c6e-8f5e-4d0c-9a7b-1f1d3f8f2b10", "error=access_denied"])
def test_the_end_of_a_pop_up(scene, end):
    """
    Where the window cannot close itself, the page stays and can be read.
    """
    scene.page.goto(f"{scene.gateway.url}/result?provider=google&{end}")

    looks_right(scene)


@pytest.mark.parametrize("path", ["/crm/main/callback", "/nowhere", f"/problems/{DatabaseUnavailable.slug}"])
def test_a_problem(scene, path):
    """
    As an error, and as something to look up.
    """
    scene.page.goto(f"{scene.gateway.url}{path}")

    scene.page.locator("#problem").wait_for()
    looks_right(scene)


def test_the_api_description(scene):
    """
    Every call and every shape, long names included.
    """
    scene.page.goto(f"{scene.gateway.url}/docs")

    scene.page.get_by_role("heading", name="Schemas").wait_for()
    looks_right(scene)


def test_a_problem_that_leaves_the_app_installed(scene):
    """
    Redeemed, but not stored, and HighLevel has no revocation: the page says so, with a link to remove the app.
    """
    scene.asks("ghl", then="#consent")
    with psycopg.connect(scene.gateway.dsn, autocommit=True) as database:
        refused = f"check (auth_provider_id <> '{scene.alice.id}')"
        database.execute(f"alter table public.provider_data add constraint refused {refused}")
        scene.page.get_by_role("button", name="Allow", exact=True).click()
        scene.page.locator("#problem").wait_for()
        database.execute("alter table public.provider_data drop constraint refused")

    link = scene.page.get_by_role("link", name="Remove it at HighLevel")
    assert link.get_attribute("href").endswith("/integration/installed-apps")
    looks_right(scene)


def test_the_question_about_another_account(scene):
    """
    Asked before anything changes; the answer decides which one is listed.
    """
    scene.alice.connects("google")
    scene.asks("google", then="#consent")
    scene.page.get_by_text("hello@northwind.example").click()
    scene.page.get_by_role("button", name="Allow", exact=True).click()

    answer = scene.page.get_by_role("button", name="Use the new account from now on")
    answer.wait_for()
    looks_right(scene)

    answer.click()
    scene.page.get_by_role("article", name="Gmail hello@northwind.example").wait_for()


def test_the_page_that_asks_to_sign_in(scene, without_login):
    """
    Shown where no sign-in page was set.
    """
    scene.page.goto(f"{without_login.url}/connections")

    scene.page.get_by_text("I run this service").click()
    looks_right(scene)


@pytest.mark.parametrize("path", ["/", "/?connection=1&provider=google", "/?error=access_denied", "/login"])
def test_the_products_pages(scene, path):
    """
    Its accounts to connect, its notices, its sign-in.
    """
    scene.page.goto(f"{scene.product}{path}")

    looks_right(scene)


def test_a_request_that_the_provider_refuses(scene):
    """
    The page instead of an untrusted redirect.
    """
    scene.page.goto(f"{scene.product}/ghl/v2/oauth/chooselocation?client_id=unknown")

    looks_right(scene)
