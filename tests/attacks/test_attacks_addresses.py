"""
Addresses under attack: made to send people, messages or codes elsewhere, by a parameter or by posing for another host.

RFC 9700 sections 4.11 and 4.17, ASVS 3.7.2 and 4.1.3.
"""

from __future__ import annotations

import http.client
import re
from urllib.parse import parse_qs, quote, urljoin, urlsplit

import pytest

from tests.support.gateway_process import HIDDEN, told

# -- open redirects ----------------------------------------------------------------------------------------------------


def foreign(product):
    """Addresses that some parser, somewhere, takes for the product's."""
    host = urlsplit(product).netloc
    name, port = host.split(":")
    return [
        "//e.com", "///e.com", "////e.com/", "/\\e.com", "\\\\e.com", "\\/e.com", "/\t/e.com", "\t//e.com", " //e.com",
        "https:e.com", "https:/e.com", "http:e.com", "https://e.com", f"http://{host}@e.com", f"http://{name}:x@e.com",
        f"http://{host}.e.com", f"http://{name}.e.com:{port}", f"http://e.com#{host}", f"http://e.com?{host}",
        f"http://e.com\\@{host}", f"http://{host}\\@e.com", f"http://{host}%2f@e.com", f"http://{host}%00.e.com",
        f"http://{host}%E3%80%82e.com", f"http://{host}。e.com", f"http://{name}:{int(port) + 1}", f"http://{name}",
        f"https://{host}", f"ftp://{host}", f"http://user@{host}/", f"http://{name}.:{port}/", f"http://{name}:{port}0/",
        f"http://{host}\x00", f"\x00http://{host}", f"http://{host}\r\nX-In: 1", f"http://{host}/\r\nSet-Cookie: a=b",
        "javascript:alert(1)", "JavaScript:alert(1)", "data:text/html,<script>alert(1)</script>", "blob:x", "vbscript:x",
        f"javascript://{host}/%0aalert(1)", "http://[::1", "http://", "http:///", "://", "?", "#", "null", "undefined",
        f"http://{host}/" + "a" * 8192, f"http://{host}/<script>", f'http://{host}/"onload=x', f"view-source:http://{host}",
    ]  # fmt: skip


def test_return_to_takes_nothing_but_exact_origins(alice):
    """
    By link and by form: refused on a page, with no link to it and no redirect.
    """
    fields = dict(HIDDEN.findall(alice.asks("google").text.split('id="connect"')[1]))
    for address in foreign(alice.gateway.sandbox.origin):
        shown = alice.get("/email/google/connect", params={"return_to": address})
        pressed = alice.post("/email/google/connect", fields | {"return_to": address})

        assert (400, 400) == (shown.status_code, pressed.status_code), address
        assert 'data-problem="return_to_refused"' in shown.text
        assert "e.com" not in shown.text + pressed.text
        assert not any("Location" in answer.headers for answer in (shown, pressed))


def test_after_the_sign_in_no_user_is_sent_elsewhere(alice):
    """
    `next` leads to a path here or to an app origin; whatever a browser would read otherwise is refused.
    """
    gateway = alice.gateway
    encoded = [
        "/%2fe.com",
        "/%5ce.com",
        "/%09/e.com",
        "/%2f%2fe.com",
        "/.//e.com",
        "/..//e.com",
        "/;@e.com",
        "/%00//e.com",
    ]
    for address in [*foreign(gateway.sandbox.origin), *encoded]:
        answer = gateway.person("Alice Winter").signs_in(address)

        if answer.status_code == 303:
            read = re.sub(r"[\t\r\n]", "", answer.headers["Location"]).replace("\\", "/")
            assert gateway.url == "{0.scheme}://{0.netloc}".format(urlsplit(urljoin(gateway.url + "/session", read)))
        else:
            assert 400 == answer.status_code, address
            assert not answer.headers.get("Set-Cookie"), address


@pytest.mark.parametrize("path", ["", "/", "/settings?tab=crm", "/settings?tab=crm#top", "?a=b"])
def test_the_products_own_addresses_are_taken(alice, path):
    """
    Exact origins pass, with their path, their query and their fragment.
    """
    back = alice.gateway.sandbox.origin + path

    answer = alice.get(alice.consents("google", query={"return_to": back}))

    sent, wanted = urlsplit(answer.headers["Location"]), urlsplit(back)
    assert (wanted.netloc, wanted.path, wanted.fragment) == (sent.netloc, sent.path, sent.fragment)
    assert parse_qs(wanted.query).items() <= parse_qs(sent.query).items()


@pytest.mark.parametrize(
    "name", ["connection", "%63onnection", "error", "%65rror", "provide%72", "confirmation", "con%6eection"]
)
def test_a_link_cannot_arrive_with_an_answer_in_place(alice, name):
    """
    However it is written, what a link says under our names is taken out: the product reads what we say.
    """
    back = f"{alice.gateway.sandbox.origin}/?{name}=planted#kept"

    answer = alice.get(alice.consents("google", query={"return_to": back}))

    sent = urlsplit(answer.headers["Location"])
    assert ("kept", "google") == (sent.fragment, parse_qs(sent.query)["provider"][-1])
    assert "planted" not in sent.query


# -- another host ------------------------------------------------------------------------------------------------------

POSES = [
    [("Host", "evil.example")], [("Host", "evil.example:443")], [("Host", "localhost@evil.example")], [("Host", "evil example")],
    [("Host", "localhost"), ("Host", "evil.example")], [("Host", "evil.example"), ("Host", "localhost")], [("Host", "")], [],
    [("X-Forwarded-Host", "evil.example")], [("X-Forwarded-Proto", "https")], [("X-Forwarded-Proto", "http, https")],
    [("X-Forwarded-Port", "444")], [("X-Forwarded-Prefix", "/evil")], [("X-Forwarded-Server", "evil.example")],
    [("Forwarded", "host=evil.example;proto=https")], [("X-Original-URL", "/connections")], [("X-Rewrite-URL", "/evil")],
    [("X_Forwarded_Host", "evil.example")], [("X_Forwarded_Proto", "https")], [("X-Script-Name", "/evil")],
    [("Script-Name", "/evil")], [("X-Forwarded-Host", "localhost"), ("X-Forwarded-Host", "evil.example")],
    [("X-HTTP-Method-Override", "GET")], [("X-Forwarded-For", "127.0.0.1, 6.6.6.6")], [("X-Host", "evil.example")],
]  # fmt: skip


def posed(alice, headers, fields, *, absolute=False):
    """A begun attempt with exactly these headers beside the honest ones: status, redirect_uri, cookies; and the answer's text."""
    link = http.client.HTTPConnection("127.0.0.1", alice.gateway.port, timeout=30)
    target = ("http://evil.example" if absolute else "") + "/email/google/connect"
    link.putrequest("POST", target, skip_host=True, skip_accept_encoding=True)
    named = [("Host", f"localhost:{alice.gateway.port}")] if not any(name == "Host" for name, _ in headers) else []
    body = "&".join(f"{name}={quote(value)}" for name, value in fields.items())
    sent = [
        ("Cookie", "; ".join(f"{c.name}={c.value}" for c in alice.browser.cookies)),
        ("Content-Length", str(len(body))),
    ]
    for name, value in [*named, *headers, *sent, ("Content-Type", "application/x-www-form-urlencoded")]:
        link.putheader(name, value)
    link.endheaders(body.encode())
    answer = link.getresponse()
    text = answer.read().decode() + str(answer.headers)
    where = parse_qs(urlsplit(answer.headers.get("Location", "")).query).get("redirect_uri")
    cookies = [
        re.sub(r"=[^;]*|expires=[^;]*", "", c, count=1, flags=re.IGNORECASE)
        for c in answer.headers.get_all("Set-Cookie", [])
    ]
    cookies = [re.sub(r"(?i)expires=[^;]*; ", "", cookie) for cookie in cookies]
    link.close()
    return (answer.status, where, cookies), text


def test_no_header_moves_the_redirect_uri_or_the_cookies(alice):
    """
    Whatever host, scheme, port or prefix a request claims: the same redirect URI and cookie attributes, or 400.
    """
    fields = dict(HIDDEN.findall(alice.asks("google").text.split('id="connect"')[1]))
    honest, _ = posed(alice, [], fields)
    assert (303, [f"{alice.gateway.url}/email/google/callback"]) == honest[:2]

    for headers in POSES:
        for absolute in (False, True):
            claimed, text = posed(alice, headers, fields, absolute=absolute)
            assert claimed in (honest, (400, None, [])), (headers, absolute)
            assert "evil" not in text, (headers, absolute)


@pytest.mark.parametrize("path", ["/connections", "/connect/ghl", "//evil.example/connections", "/crm/ghl/connect/"])
def test_no_header_moves_a_redirect(gateway, path):
    """
    The way to the sign-in, and every other redirect, is made from the settings alone.
    """
    for headers in POSES:
        answer = gateway.person("Nobody").get(path, headers=dict(headers) | {"Host": "evil.example"})

        assert answer.status_code in (303, 400, 404)
        assert "evil" not in answer.headers.get("Location", "").replace("evil.example%2Fconnections", "")


# -- pop-ups -----------------------------------------------------------------------------------------------------------


def test_the_end_of_a_pop_up_speaks_to_the_product_alone(alice):
    """
    The page names its target origin only if it is one of the product's, exactly; otherwise the message goes nowhere.
    """
    product = alice.gateway.sandbox.origin
    bad = [
        *foreign(product),
        "*",
        "null",
        "/",
        product + "/",
        product.upper(),
        product + "/x",
        product.replace("127.0.0.1", "localhost"),
    ]

    for target in bad:
        page = alice.get("/result", params={"to": target, "provider": "ghl"})
        assert 'data-target-origin=""' in page.text, target
    assert f'data-target-origin="{product}"' in alice.get("/result", params={"to": product}).text


def test_a_pop_up_ends_with_ids_and_nothing_else(alice):
    """
    The message holds the connection's id and the provider's; the page may reach its opener, every other is isolated.
    """
    query = {"display": "popup", "return_to": f"{alice.gateway.sandbox.origin}/settings"}

    answer = alice.get(alice.consents("google", query=query))
    page = alice.get(answer.headers["Location"])

    assert {"to", "connection", "provider"} == told(answer).keys()
    assert {"outcome", "target-origin", "connection", "provider", "error", "missing-scope"} == set(
        re.findall(r"data-([a-z-]+)=", page.text)
    )
    assert "unsafe-none" == page.headers["Cross-Origin-Opener-Policy"]
    assert "same-origin-allow-popups" == alice.get("/connections").headers["Cross-Origin-Opener-Policy"]
