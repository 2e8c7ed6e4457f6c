"""Where the gateway may call: URLs as they are written, names as they resolve, and nowhere else in between."""

from __future__ import annotations

import socket
import time

import pytest

from gateway.errors import ProviderUnavailable
from gateway.http import Deadline, HttpClient, check_url, connection
from tests.support.scripted_server import OK, answering, listening

PUBLIC = "93.184.216.34"


@pytest.fixture
def listen():
    with listening() as listen:
        yield listen


@pytest.fixture
def making():
    """A maker of HttpClients, all of which are closed at the end."""
    made = []

    def make(**named):
        made.append(HttpClient(**named))
        return made[-1]

    yield make
    for http in made:
        http.close()


@pytest.fixture
def dialled(monkeypatch):
    """The addresses that sockets tried to connect to."""
    addresses = []

    class Dialling(socket.socket):
        def connect(self, address):
            addresses.append(address)
            raise ConnectionRefusedError(111, "refused")

    monkeypatch.setattr(socket, "socket", Dialling)
    return addresses


# -- as it is written ------------------------------------------------------------------------------------------------

TAKEN = {
    "https://login.acme.example/token": "https://login.acme.example:443",
    "https://login.acme.example": "https://login.acme.example:443",
    "HTTPS://Login.ACME.example:8443?a=b": "https://login.acme.example:8443",
    "https://xn--bcher-kva.example/a%20b?c=d&e=/?:@": "https://xn--bcher-kva.example:443",
    "https://my_tenant.acme.example/a;b,c": "https://my_tenant.acme.example:443",
    f"https://{PUBLIC}/": f"https://{PUBLIC}:443",
    "https://[2606:4700:4700::1111]:443/": "https://[2606:4700:4700::1111]:443",
    "https://[64:ff9b::8.8.8.8]/": "https://[64:ff9b::808:808]:443",
}


@pytest.mark.parametrize(("url", "origin"), TAKEN.items())
def test_a_public_https_address_is_taken(url, origin):
    """
    With its origin in one form, so that counts and pools by origin cannot be dodged.
    """
    assert origin == str(check_url(url))


NEVER = [
    *(
        "",
        "login.acme.example",
        "//login.acme.example/",
        "https:/login.acme.example",
        "https://",
        "https:///a",
        "https://:443/",
    ),
    *("gopher://a.example/", "file:///etc/passwd", "ftp://a.example/", "javascript:alert(1)", "httpss://a.example"),
    *(
        "https://shop.com@evil.example/",
        "https://a:b@a.example/",
        "http://localhost:80@evil.example/",
        "https://@a.example/",
    ),
    *(
        "https://foo.evil.example/#.shop.com",
        "https://a.example/#",
        "https://a.example\\@b.example/",
        "https://a.example/\\b",
    ),
    *(
        "https://a.example/ b",
        " https://a.example/",
        "https://a.example/\n",
        "https://a.example/\r\nHost: b",
        "https://a.example/\0",
    ),
    *(
        "https://a.example/\t",
        "https://a .example/",
        "https://a%2eexample/",
        "https://a\u3002example/",
        "https://b\u00fccher.example/",
    ),
    *(
        "https://\uff41.example/",
        "https://a.example/\u00fc",
        "https://a.example:0/",
        "https://a.example:65536/",
        "https://a.example:/",
    ),
    *(
        "https://a.example:443:443/",
        "https://a.example:-1/",
        "https://a.example:4\u0664/",
        "https://a..example/",
        "https://.a.example/",
    ),
    *("https://a.example./", "https://-a.example/", "https://a-.example/", f"https://{'a' * 64}.example/"),
    *(
        "https://2130706433/",
        "https://0177.0.0.1/",
        "https://0x7f.1/",
        "https://0x7f000001/",
        "https://127.1/",
        "https://1.2.3/",
    ),
    *(
        "https://8.8.8.010/",
        "https://1.2.3.4.5/",
        "https://256.1.1.1/",
        "https://a.example.1/",
        "https://a.0x1/",
        "https://[::1/",
    ),
    *("https://[fe80::1%25eth0]/", "https://[::g]/", "https://[1.2.3.4]/", "https://[]/", "https://8.8.8.8./"),
    *("https://0.0.0.0/", "https://0.1.2.3/", "https://169.254.169.254/latest/meta-data/", "https://224.0.0.1/"),
    *(
        "https://255.255.255.255/",
        "https://240.0.0.1/",
        "https://192.0.2.1/",
        "https://198.18.0.1/",
        "https://192.88.99.1/",
    ),
    *(
        "https://[::]/",
        "https://[fe80::1]/",
        "https://[ff02::1]/",
        "https://[2001:db8::1]/",
        "https://[2002:7f00:1::]/",
    ),
    *(
        "https://[2001::1]/",
        "https://[fec0::1]/",
        "https://[64:ff9b::169.254.169.254]/",
        "https://168.63.129.16/",
        "https://[::ffff:169.254.169.254]/",
    ),
    *("https://[64:ff9b:1::8.8.8.8]/", "https://[100::1]/", "https://[::8.8.8.8]/", f"http://{PUBLIC}/"),
]
PRIVATE = [
    *(
        "https://127.0.0.1/",
        "https://127.255.0.9/",
        "https://10.1.2.3/",
        "https://172.16.0.1/",
        "https://172.31.255.255/",
    ),
    *(
        "https://192.168.1.1/",
        "https://100.64.0.1/",
        "https://[::1]/",
        "https://[fd00::1]/",
        "https://[::ffff:7f00:1]/",
    ),
    *(
        "https://[::ffff:10.0.0.1]/",
        "https://[64:ff9b::10.0.0.1]/",
        "http://127.0.0.1:8001/",
        "http://[::1]/",
        "https://localhost/",
    ),
    *(
        "https://a.localhost/",
        "https://metadata.google.internal/",
        "https://printer.local/",
        "https://keycloak/",
        "http://keycloak:8080/",
    ),
    *(
        "https://a.example:22/",
        "https://a.example:80/",
        "https://a.example:1023/",
        "http://a.example/",
        "http://a.example:8080/",
    ),
]


@pytest.mark.parametrize("url", NEVER)
@pytest.mark.parametrize("allow_private", [False, True])
def test_what_hides_a_host_or_leads_to_the_machine_itself_is_never_taken(url, allow_private):
    """
    Users, fragments, odd number forms, foreign letters, link-local (cloud metadata) and reserved addresses.
    """
    with pytest.raises(ValueError):
        check_url(url, allow_private=allow_private)


@pytest.mark.parametrize("url", PRIVATE)
def test_private_addresses_and_plain_http_need_the_operators_word(url):
    """
    GATEWAY_ALLOW_PRIVATE_HOSTS is off unless set.
    """
    assert check_url(url, allow_private=True)
    with pytest.raises(ValueError):
        check_url(url)


def test_a_refused_address_is_not_called_and_its_query_is_not_repeated(dialled, making):
    """
    The same rule holds when calling as when saving.
    """
    http = making()

    for url in [*NEVER, *PRIVATE, f"http://{PUBLIC}/?canary"]:
        with pytest.raises(ProviderUnavailable) as caught:
            http.request("GET", url, deadline=Deadline.after(1))
        assert "canary" not in str(caught.value)

    assert [] == dialled


# -- as it resolves --------------------------------------------------------------------------------------------------

BAD = ["127.0.0.1", "10.0.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "::1", "fe80::1", "fd00::1", "::ffff:127.0.0.1",
       "64:ff9b::7f00:1", "2002:7f00:1::", "::", "198.18.0.1"]  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("others", [[], [PUBLIC]])
def test_a_name_with_even_one_address_that_is_not_public_is_refused(dialled, bad, others, making):
    """
    Neither chance nor the name server may decide which address is used.
    """
    http = making(resolve=lambda _: [*others, bad])

    with pytest.raises(ProviderUnavailable, match="may not be called"):
        http.request("GET", "https://login.acme.example/")

    assert [] == dialled


def test_a_name_that_resolves_public_then_private_is_connected_where_it_was_judged(dialled, making):
    """
    DNS rebinding: the name is looked up once for a connection, and that very address is dialled.
    """
    answers = [[PUBLIC], ["127.0.0.1"]]
    http = making(resolve=lambda _: answers.pop(0))

    with pytest.raises(ProviderUnavailable, match="refused"):
        http.request("GET", "https://login.acme.example/")
    assert ([(PUBLIC, 443)], [["127.0.0.1"]]) == (dialled, answers)

    with pytest.raises(ProviderUnavailable, match="may not be called"):
        http.request("GET", "https://login.acme.example/")
    assert [(PUBLIC, 443)] == dialled


def test_the_host_header_keeps_the_name_while_the_connection_has_the_address(listen, making):
    """
    The address is pinned below HTTP.
    """
    provider = listen(answering(OK))
    http = making(allow_private=True, resolve=lambda _: ["127.0.0.1"])

    http.request("GET", f"http://login.acme.example:{provider.port}/")

    assert f"Host: login.acme.example:{provider.port}".encode() in provider.requests[0]


def test_plain_http_reaches_private_addresses_only(dialled, making):
    """
    Even with private addresses allowed, nothing goes over the internet in the clear.
    """
    http = making(allow_private=True, resolve=lambda _: [PUBLIC])

    with pytest.raises(ProviderUnavailable, match="may not be called"):
        http.request("GET", "http://login.acme.example/")

    assert [] == dialled


def test_link_local_addresses_are_refused_even_where_private_ones_are_allowed(dialled, making):
    """
    No provider lives where clouds keep their machines' credentials.
    """
    http = making(allow_private=True, resolve=lambda _: ["169.254.169.254"])

    with pytest.raises(ProviderUnavailable, match="may not be called"):
        http.request("GET", "https://login.acme.example/")

    assert [] == dialled


def test_the_next_address_is_tried_when_one_does_not_answer(listen, making):
    """
    A host with two addresses is reachable as long as one of them is.
    """
    provider = listen(answering(OK))
    http = making(allow_private=True, resolve=lambda _: ["127.0.0.9", "127.0.0.1"])

    assert b"ok" == http.request("GET", f"http://login.acme.example:{provider.port}/").body


def test_a_call_that_may_take_an_hour_does_not_wait_so_long_for_a_connection(making, monkeypatch):
    """
    Neither for the name, nor for the handshakes.
    """
    monkeypatch.setattr(connection, "_CONNECT_SECONDS", 0.2)
    given = []

    def resolve(_):
        given.append(1)
        time.sleep(5)

    http = making(resolve=resolve)
    with (
        pytest.raises(ProviderUnavailable, match="not resolved in time"),
        http.stream("GET", "https://login.acme.example/", deadline=Deadline.after(3600), idle_seconds=120),
    ):
        pass
    assert [1] == given


@pytest.mark.parametrize("resolve", [lambda _: [], lambda _: socket.getaddrinfo("name.invalid", None)])
def test_a_name_without_addresses_is_unavailable(resolve, making):
    """
    And so is one whose lookup fails.
    """
    with pytest.raises(ProviderUnavailable):
        making(resolve=resolve).request("GET", "https://login.acme.example/")


def test_the_system_resolves_names_in_the_order_to_try_them(listen, making):
    """
    `localhost` by the operating system's own resolver.
    """
    provider = listen(answering(OK))
    http = making(allow_private=True)

    assert b"ok" == http.request("GET", f"http://localhost:{provider.port}/").body
