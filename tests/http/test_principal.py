"""
Who calls `/v1` and from where, by headers; and what failures cost.
"""

from __future__ import annotations

import socket
from types import SimpleNamespace

import pytest
import requests
from flask import Flask

from gateway.errors import BadRequest, NotFound, RateLimited, Unauthenticated
from gateway.models import Caller
from gateway.partners.keys import hash_key, make_key
from gateway.web import auth_rate_limit
from gateway.web.request_context import client_address
from gateway.web.v1.json_api import caller
from tests.support.gateway_process import whole_gateway
from tests.support.partners import partner_of

PEER = "192.0.2.10"
KEY = make_key()


@pytest.fixture
def app():
    """No gateway: what these need of one is a setting."""
    made = Flask(__name__)
    made.extensions["gateway"] = SimpleNamespace(settings=SimpleNamespace(trusted_proxies=0))
    auth_rate_limit.register(made)
    return made


def asked(app, path="/v1/connections", *, proxies=0, peer=PEER, **headers):
    """A request with these headers, as a context."""
    app.extensions["gateway"].settings.trusted_proxies = proxies
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return app.test_request_context(path, headers=given, environ_base={"REMOTE_ADDR": peer})


@pytest.mark.parametrize(
    ("proxies", "forwarded", "known"),
    [
        (0, "203.0.113.1", PEER),
        (1, "203.0.113.1", "203.0.113.1"),
        (1, "10.0.0.1, 203.0.113.1", "203.0.113.1"),
        (2, "10.0.0.1, 203.0.113.1 , 198.51.100.2", "203.0.113.1"),
        (2, "203.0.113.1", PEER),
        (1, "", PEER),
        (1, "unknown", PEER),
        (1, "203.0.113.1:4711", "203.0.113.1"),
        (1, "[2001:DB8::1]:4711", "2001:db8::1"),
        (1, "[2001:db8::1]", "2001:db8::1"),
        (2, "203.0.113.1:80, 198.51.100.2:4711", "203.0.113.1"),
        (1, "[::ffff:203.0.113.1]:80", "203.0.113.1"),
        (1, "[203.0.113.1]:80", PEER),
        (1, "203.0.113.1:", PEER),
        (1, "203.0.113.1:4711:1", PEER),
        (1, "203.0.113.1:port", PEER),
        (1, "2001:db8::1]:80", PEER),
        (1, "[2001:db8::1", PEER),
        (1, "[fe80::1%eth0]:80", PEER),
        (1, "_hidden:80", PEER),
        (1, '"203.0.113.1:80"', PEER),
        (1, "0x7f.1:80", PEER),
        (1, "203.0.113.1,", PEER),
        (1, "fe80::1%eth0", PEER),
        (1, "::ffff:203.0.113.1", "203.0.113.1"),
        (1, "2001:DB8::1", "2001:db8::1"),
    ],
)
def test_only_as_many_proxies_are_believed_as_the_operator_named(app, proxies, forwarded, known):
    """
    From the right; addresses further left can be forged, and with an invalid header the peer counts.
    """
    with asked(app, proxies=proxies, X_Forwarded_For=forwarded):
        assert known == client_address()


@pytest.fixture(scope="module")
def set_apart(cluster, template):
    settings = {"GATEWAY_TRUSTED_PROXIES": "1", "GATEWAY_OWNER_TOKENS": "0"}
    with whole_gateway(cluster, template, settings=settings) as gateway:
        yield gateway.start()


def test_an_owner_reads_no_token_where_the_operator_switched_that_off(set_apart):
    """
    By neither call; everything else of the connection is theirs, and a partner reads on.
    """
    alice, calls = set_apart.person(), (("GET", "/token"), ("POST", "/refresh"), ("GET", ""))
    url = f"{set_apart.url}/v1/connections/{alice.connects('google')['connection']}"
    hers, partners = [
        [requests.request(*(method, url + path), headers={"Authorization": f"Bearer {bearer}"}, timeout=60) for method, path in calls]
        for bearer in (alice.token(), partner_of(set_apart.dsn).key)
    ]  # fmt: skip

    assert ([403, 403, 200], [200, 200, 200]) == tuple([each.status_code for each in row] for row in (hers, partners))
    assert "the operator has switched that off" in hers[0].json()["detail"]


def test_the_nearest_proxys_line_counts_whatever_the_client_sent_before_it(set_apart):
    """
    Over a socket: a proxy that adds a line of its own behind the client's (RFC 9110 section 5.3), with a blank or without.
    """
    key = partner_of(set_apart.dsn, addresses=("203.0.113.0/24",)).key

    def status(*forwarded):
        lines = [
            "GET /v1/providers HTTP/1.1",
            "Host: localhost",
            "Connection: close",
            f"Authorization: Bearer {key}",
        ]
        asked = "\r\n".join([*lines, *(f"X-Forwarded-For: {line}" for line in forwarded), "", ""])
        with socket.create_connection(("127.0.0.1", set_apart.port), timeout=60) as line:
            line.sendall(asked.encode())
            return int(line.makefile("rb").readline().split()[1])

    for forged in (
        ("203.0.113.5", "192.0.2.8"),
        ("203.0.113.5,192.0.2.8",),
        ("203.0.113.5", "203.0.113.5, 192.0.2.8"),
    ):
        assert 401 == status(*forged), forged
    for real in (("192.0.2.8", "203.0.113.5"), ("192.0.2.8,203.0.113.5",), ("::ffff:203.0.113.5",)):
        assert 200 == status(*real), real


def test_no_other_header_moves_the_address(app):
    """
    Nor is there one where the server names none.
    """
    with asked(app, proxies=1, Forwarded="for=203.0.113.1", X_Real_Ip="203.0.113.1", X_Client_Ip="203.0.113.1"):
        assert PEER == client_address()
    with asked(app, peer=""):
        assert client_address() is None


def test_a_key_is_read_from_the_one_bearer_header(app):
    """
    By its hash, with the address it came from; the scheme in any case (RFC 9110 section 11.1).
    """
    for scheme in ("Bearer", "bearer", "BEARER"):
        with asked(app, Authorization=f"{scheme} {KEY}"):
            assert Caller(key_hash=hash_key(KEY), address=PEER) == caller()


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "{}",
        "Basic {}",
        "Bearer {},Bearer {}",
        "Bearer {} x",
        "Bearer {}0",
        "Bearer\t{}",
    ],
)
def test_any_other_authorization_is_unauthenticated(app, header):
    """
    Two headers that a server joins are none; and a query holds no key (RFC 6750 section 5.3).
    """
    with (
        asked(app, f"/v1/connections?access_token={KEY}", Authorization=header.replace("{}", KEY)),
        pytest.raises(Unauthenticated),
    ):
        caller()


def fails(app, peer, path="/v1/connections", error=Unauthenticated):
    with asked(app, path, peer=peer):
        return auth_rate_limit.apply(error("no"))


def test_failures_cost_by_address_and_success_never_waits(app):
    """
    The next failure from there gets 429; from elsewhere, or of another kind, nothing changes.
    """
    most = auth_rate_limit.FAILURES_PER_MINUTE.amount
    for _ in range(most):
        assert type(fails(app, PEER)) is Unauthenticated

    limited = fails(app, PEER)
    assert isinstance(limited, RateLimited)
    assert 1 <= limited.retry_after <= 60
    assert isinstance(fails(app, PEER, "/session"), RateLimited)
    assert type(fails(app, "192.0.2.11")) is Unauthenticated
    for error in (NotFound, BadRequest):
        assert type(fails(app, PEER, error=error)) is error
    assert type(fails(app, PEER, "/metrics")) is Unauthenticated


def test_an_ipv6_customer_is_one_address(app):
    """
    All addresses of one /64 network count as one.
    """
    for at in range(auth_rate_limit.FAILURES_PER_MINUTE.amount):
        assert type(fails(app, f"2001:db8::{at:x}")) is Unauthenticated
    assert isinstance(fails(app, "2001:db8::ffff:1"), RateLimited)
    assert type(fails(app, "2001:db8:0:1::1")) is Unauthenticated
