"""
What front-end developers get: `gateway.js`, its types, and the examples in `clients/`, run as they are in Chromium.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import requests
from playwright.sync_api import expect

from gateway.sandbox.supabase import USERS, access_token
from tests.support.browser import closes, closes_by, goes_on, needs_chromium, new_alice

ROOT = Path(__file__).resolve().parents[2]
NODE = ROOT / "tests" / "node" / "node_modules"
TYPES = ROOT / "gateway" / "web" / "static" / "gateway.d.ts"
EXAMPLES = ROOT / "clients" / "examples"
PUBLISHED = "https://connect.example.com"

needs_node = pytest.mark.skipif(
    not os.environ.get("CI") and not (NODE / "typescript").exists(),
    reason="needs `npm ci` in tests/node; CI always has it",
)
STRICT = {
    "strict": True, "noEmit": True, "exactOptionalPropertyTypes": True, "noUncheckedIndexedAccess": True, "jsx": "react-jsx", "target": "es2022",
    "module": "esnext", "moduleResolution": "bundler", "lib": ["es2022", "dom", "dom.iterable"], "types": [],
}  # fmt: skip


@pytest.fixture
def visitor(gateway, browser, monkeypatch):
    new_alice(gateway, monkeypatch)
    with browser.visits(gateway.url, gateway.sandbox.origin) as opened:
        yield opened


def shows(visitor, gateway, html, path="/example", **also):
    """A page of the product with `html`; `also`: further files by name."""
    page, origin = visitor.page, gateway.sandbox.origin
    token = access_token(gateway.sandbox.state, USERS["alice"])
    files = {path.lstrip("/"): ("text/html", html), "my/access-token": ("text/plain", token)} | also
    for name, (kind, body) in files.items():
        text = body.replace(PUBLISHED, gateway.url)
        page.context.route(re.compile(re.escape(f"{origin}/{name}") + r"(\?.*)?$"), answers(kind, text))
    page.goto(origin + path)
    return page


def answers(kind, text):
    return lambda route: route.fulfill(content_type=kind, body=text)


def bundled(tmp_path):
    """The React example as one script."""
    out = tmp_path / "app.js"
    command = [
        NODE / "esbuild" / "bin" / "esbuild",
        EXAMPLES / "react.tsx",
        "--bundle",
        f"--outfile={out}",
        "--jsx=automatic",
    ]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"NODE_PATH": str(NODE)})
    return out.read_text(encoding="utf-8")


def example(name, tmp_path):
    if name == "plain":
        return (EXAMPLES / "plain.html").read_text(encoding="utf-8"), {}
    scripts = f'<script src="{PUBLISHED}/gateway.js"></script><div id="root"></div><script src="/app.js"></script>'
    return f'<!doctype html><html lang="en"><title>x</title>{scripts}', {
        "app.js": ("text/javascript", bundled(tmp_path))
    }


@needs_chromium
@needs_node
@pytest.mark.parametrize("name", ["plain", "react"])
def test_the_examples_connect_and_say_what_went_wrong(gateway, visitor, tmp_path, name):
    """
    In a pop-up, once with a yes and once with “Not now”, without leaving the page.
    """
    html, files = example(name, tmp_path)
    page = shows(visitor, gateway, html, **files)
    button = page.get_by_role("button", name="Connect Gmail")

    with page.expect_popup() as opened:
        button.click()
    opened.value.get_by_role("link", name="Not now").click()
    expect(page.get_by_role("status")).to_have_text("Not connected: access_denied")

    with page.expect_popup() as opened:
        button.click()
    goes_on(opened.value)
    expect(page.get_by_role("status")).to_contain_text("google is connected: ")
    closes(opened.value)


@needs_chromium
def test_a_listener_hears_of_a_connection_after_a_redirect(gateway, visitor, tmp_path):
    """
    The result is in the address of the page that the user comes back to.
    """
    page = shows(visitor, gateway, example("plain", tmp_path)[0])

    page.goto(f"{gateway.sandbox.origin}/example?connection=5c3e0c6e-8f5e-4d0c-9a7b-1f1d3f8f2b10&provider=google")

    expect(page.get_by_role("status")).to_have_text("google is connected: 5c3e0c6e-8f5e-4d0c-9a7b-1f1d3f8f2b10")


# -- the promise settles -----------------------------------------------------------------------------------------------


ASK = """
const ask = (provider, options) => gateway.connect(provider, { popup: true, ...options }).then(
    ({ connection }) => { document.title = `connected ${connection}` },
    (error) => { document.title = error.slug ?? `error ${error.message}` });
"""


def page_that_asks(visitor, gateway, options, provider="google"):
    """A page with one button; its title becomes the slug."""
    script = f'{ASK} document.querySelector("button").onclick = () => ask("{provider}", {options})'
    html = f'<!doctype html><title>x</title><script src="{gateway.url}/gateway.js"></script><button>Go</button><script>{script}</script>'
    return shows(visitor, gateway, html)


def opens(page):
    with page.expect_popup() as opened:
        page.get_by_role("button").click()
    return opened.value


TOKEN = '{ accessToken: async () => (await fetch("/my/access-token")).text() }'


@needs_chromium
@pytest.mark.parametrize(
    ("options", "provider", "slug"),
    [
        (TOKEN, "nowhere", "not_found"),
        ('{ accessToken: "not.a.token" }', "google", "unauthenticated"),
        (TOKEN.replace("{ ", '{ returnTo: "https://elsewhere.example/", '), "google", "return_to_refused"),
    ],
)
def test_a_pop_up_that_ends_on_an_error_page_tells_the_slug(gateway, visitor, options, provider, slug):
    """
    The promise settles at once; the window stays to be read, with a button that closes it.
    """
    page = page_that_asks(visitor, gateway, options, provider)
    popup = opens(page)

    expect(page).to_have_title(slug)
    closes_by(popup.get_by_role("button", name="Close this window"))
    visitor.complaints[:] = [said for said in visitor.complaints if "Failed to load resource" not in said]


@needs_chromium
def test_a_blocked_pop_up_rejects(gateway, visitor):
    """
    With `blocked`, so that the product decides what to do.
    """
    page = page_that_asks(visitor, gateway, TOKEN)
    page.evaluate("window.open = () => null")

    page.get_by_role("button").click()

    expect(page).to_have_title("blocked")


@needs_chromium
def test_a_failing_access_token_rejects_and_closes_the_window(gateway, visitor):
    """
    The product's own error is passed on.
    """
    page = page_that_asks(visitor, gateway, '{ accessToken: () => { throw new Error("signed out") } }')

    closes(opens(page))

    expect(page).to_have_title("error signed out")


# -- types -------------------------------------------------------------------------------------------------------------


@needs_node
def test_the_react_example_and_the_documented_typescript_compile_in_strict_mode(tmp_path):
    """
    With the types that the gateway serves.
    """
    (tmp_path / "node_modules").symlink_to(NODE)
    declarations = "declare const supabase: import('@supabase/supabase-js').SupabaseClient;\ndeclare const user: { id: string };\ndeclare const button: HTMLButtonElement;\n"
    declarations += "declare const Deno: { env: { get(name: string): string | undefined }; serve(handle: (request: Request) => Promise<Response>): void };\n"
    declarations += 'declare module "npm:standardwebhooks@1.1.1" { export * from "standardwebhooks"; }\n'
    (tmp_path / "known.d.ts").write_text(declarations)
    for number, block in enumerate(documented()):
        (tmp_path / f"documented{number}.ts").write_text(f"{block}\nexport {{}};\n", encoding="utf-8")
    (tmp_path / "react.tsx").write_text((EXAMPLES / "react.tsx").read_text().replace("./gateway.d.ts", str(TYPES)))
    files = [*map(str, tmp_path.glob("*.ts*")), str(TYPES)]
    (tmp_path / "tsconfig.json").write_text(
        json.dumps({"compilerOptions": STRICT | {"skipLibCheck": True}, "files": files})
    )

    ended = subprocess.run(
        ["node", NODE / "typescript" / "bin" / "tsc", "-p", tmp_path],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert "" == ended.stdout
    assert 0 == ended.returncode


def documented():
    """The TypeScript in the documents."""
    for path in (ROOT / "docs" / "supabase.md", ROOT / "docs" / "partners.md", ROOT / "README.md"):
        yield from re.findall(r"```(?:ts|typescript)\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


def test_the_types_are_served_beside_the_script(gateway):
    """
    As text, to any site.
    """
    types = requests.get(f"{gateway.url}/gateway.d.ts", timeout=60)

    assert TYPES.read_text(encoding="utf-8") == types.text
    assert ("text/plain; charset=utf-8", "cross-origin") == (
        types.headers["Content-Type"],
        types.headers["Cross-Origin-Resource-Policy"],
    )


@needs_node
def test_the_script_is_what_its_types_say(tmp_path):
    """
    gateway.js with its own JSDoc types, checked strictly; and both know the same options.
    """
    script = ROOT / "gateway" / "web" / "static" / "gateway.js"
    ended = subprocess.run(
        ["node", NODE / "typescript" / "bin" / "tsc", "--noEmit", "--allowJs", "--checkJs", "--strict", "--target", "es2022", "--lib",
         "es2022,dom,dom.iterable", "--typeRoots", tmp_path, script],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    types = TYPES.read_text(encoding="utf-8")
    options = types.split("interface Options {")[1].split("\n  }")[0]

    assert "" == ended.stdout
    assert set(re.findall(r"@property \{.*\} \[?(\w+)\]?", script.read_text())) == set(
        re.findall(r"^    (\w+)\??:", options, re.MULTILINE)
    )
