"""Addresses from outside: users are only sent to the product."""

from __future__ import annotations

from contextlib import nullcontext
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
from cryptography.fernet import Fernet

from gateway.errors import ReturnToRefused
from gateway.settings import read_settings
from gateway.web.redirects import app_address, here_or_app_address, with_query

SETTINGS = read_settings({
    "GATEWAY_KEYS": Fernet.generate_key().decode(),
    "GATEWAY_PUBLIC_URL": "https://connect.example",
    "GATEWAY_APP_ORIGINS": "https://good,https://app.example:8444,https://connect.example.org",
})  # fmt: skip

ELSEWHERE = [
    "//e.com",
    "///e.com",
    "////e.com",
    "/\\e.com",
    "\\/e.com",
    "\\\\e.com",
    "/\\/e.com",
    "/\t/e.com",
    "/\n/e.com",
    "/%09/e.com",
    "/%0a/e.com",
    "/%0D%0A/e.com",
    "/%2f/e.com",
    "/%2F%2Fe.com",
    "/%5ce.com",
    "/%5C/e.com",
    "https:e.com",
    "https:/e.com",
    "https:///e.com",
    "https:\\\\e.com",
    "https://e.com",
    "https://good@e.com",
    "https://good:x@e.com",
    "https://alice@good",
    "https://good.e.com",
    "https://good%2ee.com",
    "https://good%E3%80%82e.com",
    "https://good\u3002e.com",
    "https://e.com#good",
    "https://e.com?good",
    "https://e.com\\@good",
    "https://good\\@e.com",
    "https://e.com/https://good",
    "https://goo",
    "https://good:8443",
    "https://good:",
    "https://good:0443/",
    "https://app.example",
    "https://app.example:84440",
    "https://GOOD%00.e.com",
    "http://good",
    "https://[good",
    "https://[::1]good",
    "javascript:alert(1)",
    "JaVaScRiPt://good/%0aalert(1)",
    "data:text/html,x",
    "vbscript:x",
    "file:///x",
    "blob:https://good/x",
    "\x00https://good",
    "https://good\x00",
    " https://good",
    "https://good/ x",
    "https://good/\r\nSet-Cookie: a=b",
    "/\r\nSet-Cookie: a=b",
    "/x\x00",
    "/<script>",
    '/"onmouseover="x',
    "/" + "a" * 8192,
    "https://good/" + "a" * 8192,
    "good",
    "connections",
    "?x",
    "#x",
    ".",
    "..//e.com",
]


@pytest.mark.parametrize("value", ELSEWHERE, ids=ascii)
def test_nothing_that_could_lead_elsewhere_is_followed(value):
    """
    Whatever two parsers could read differently is refused, not repaired.
    """
    with pytest.raises(ReturnToRefused):
        here_or_app_address(SETTINGS, value)
    with pytest.raises(ReturnToRefused):
        app_address(SETTINGS, value)


def test_a_refusal_does_not_repeat_the_address():
    """
    It goes to the log, and the address is the attacker's.
    """
    with pytest.raises(ReturnToRefused) as refused:
        app_address(SETTINGS, "https://canary.example/x")

    assert "canary" not in str(refused.value)


@pytest.mark.parametrize(
    "value",
    [
        "https://good",
        "https://good/",
        "https://good/a/b?c=d&e=%2F#f",
        "https://good?x=https://e.com",
        "https://app.example:8444/x",
        "https://connect.example.org/x",  # begins like our own address
    ],
)
def test_an_address_on_an_app_origin_is_returned_to_as_it_is(value):
    """
    Exactly the listed origins.
    """
    assert value == app_address(SETTINGS, value) == here_or_app_address(SETTINGS, value)


@pytest.mark.parametrize(
    "value", ["/", "/connections", "/email/google/connect?return_to=https%3A%2F%2Fgood%2F", "/a//b", "/a%2Fb", "/a/%2e"]
)
def test_a_path_here_may_be_next_but_no_return_address(value):
    """
    `next` may stay here; `return_to` is an absolute address of the product.
    """
    assert value == here_or_app_address(SETTINGS, value)
    with pytest.raises(ReturnToRefused):
        app_address(SETTINGS, value)


def test_an_address_here_is_next_by_its_path():
    """
    The sign-in page gets the full address, and hands it over with the user.
    """
    assert "/connections?x=1" == here_or_app_address(SETTINGS, f"{SETTINGS.public_url}/connections?x=1")
    for value in ("", ".evil/", "@evil/", "1/", "//evil", "/\\evil"):
        with pytest.raises(ReturnToRefused):
            app_address(SETTINGS, SETTINGS.public_url + value)
        with pytest.raises(ReturnToRefused) if value else nullcontext():
            here_or_app_address(SETTINGS, SETTINGS.public_url + value)


@pytest.mark.parametrize("nothing", [None, ""])
def test_without_an_address_there_is_a_place_to_go(nothing):
    """
    The list of connections.
    """
    assert app_address(SETTINGS, nothing) is None
    assert "/connections" == here_or_app_address(SETTINGS, nothing)


# -- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("/connections", "/connections?error=access_denied"),
        ("https://good", "https://good?error=access_denied"),
        ("https://good/a?b=c#d", "https://good/a?b=c&error=access_denied#d"),
        ("https://good/a?b=%20c&b=+&empty=", "https://good/a?b=%20c&b=+&empty=&error=access_denied"),
    ],
)
def test_an_answer_is_added_and_the_rest_is_left_as_it_was(url, expected):
    """
    The product's own query comes back byte for byte.
    """
    assert expected == with_query(url, error="access_denied")


@pytest.mark.parametrize(
    "name",
    [
        "connection",
        "provider",
        "error",
        "confirmation",
        "c%6Fnnection",
        "%63onnection",
        "err%6fr",
        "%65rror",
        "confirm%61tion",
        "pr%6Fvider",
    ],
)
def test_an_answer_cannot_be_put_into_the_link_beforehand(name):
    """
    A front end reads the first value of a name: it has to be ours, however the forged one is spelt.
    """
    returned = with_query(f"https://good/?{name}=forged&mine=1", connection="true")

    assert {"connection": ["true"], "mine": ["1"]} == parse_qs(urlsplit(returned).query)


def test_a_value_cannot_break_out_of_its_place():
    """
    What is put into the query is encoded, whatever it is.
    """
    returned = with_query("https://good/", error="a&b=c#d e\r\n")

    assert [("error", "a&b=c#d e\r\n")] == parse_qsl(urlsplit(returned).query)
    assert "" == urlsplit(returned).fragment
