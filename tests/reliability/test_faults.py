"""
Hostile and broken responses of simulated providers: each has its slug, stores nothing, and ends in time.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
import requests

from gateway.http.bulkhead import BUDGET
from tests.support.gateway_process import told, whole_gateway
from tests.support.patience import wait_for

REDIRECTS = [301, 302, 303, 307, 308]
TOKEN_FAULTS = [
    ("not_json", {}, "provider_garbled"),
    ("html_200", {}, "provider_garbled"),
    ("error_200", {}, "access_denied"),
    ("error", {"error": "invalid_grant"}, "access_denied"),
    ("error", {"error": "invalid_client", "status": 401}, "client_rejected"),
    ("error", {"error": "unauthorized_client"}, "client_rejected"),
    ("error", {"error": "temporarily_unavailable"}, "provider_unavailable"),
    ("error_description_markup", {}, "provider_unavailable"),
    ("status", {"status": 500}, "provider_unavailable"),
    ("status", {"status": 503}, "provider_unavailable"),
    ("status", {"status": 429, "retry_after": 7}, "provider_unavailable"),
    ("status", {"status": 401, "body": "no", "content_type": "text/plain"}, "client_rejected"),
    ("status", {"status": 404, "body": "<h1>gone</h1>", "content_type": "text/html"}, "provider_garbled"),
    ("no_access_token", {}, "provider_garbled"),
    ("token_bytes", {"kind": "nul"}, "provider_garbled"),
    ("token_bytes", {"kind": "crlf"}, "provider_garbled"),
    ("token_bytes", {"kind": "huge"}, "provider_garbled"),
    ("token_bytes", {"kind": "crlf", "field": "refresh_token"}, "provider_garbled"),
    ("huge_body", {}, "provider_garbled"),
    ("gzip_bomb", {}, "provider_garbled"),
    ("deep_json", {}, "provider_garbled"),
    ("reset", {}, "provider_unavailable"),
    ("other_client", {}, "client_rejected"),
    *[("redirect", {"status": status}, "provider_garbled") for status in REDIRECTS],
]
ID_TOKENS = ["aud", "azp", "nonce", "sub", "iss", "expired", "future", "unsigned", "hs256", "signature", "missing"]


@pytest.fixture
def alice(gateway):
    made = gateway.person("Alice Winter")
    made.signs_in()
    yield made
    gateway.sandbox.state.faults.clear()


def stored(gateway, user_id):
    with psycopg.connect(gateway.dsn) as connection:
        query = "select count(*) from public.provider_data where auth_provider_id = %s"
        return connection.execute(query, [user_id]).fetchone()[0]


def ends(alice, provider, **options):
    """The slug and duration of a callback."""
    callback = alice.consents(provider, **options)
    started = time.monotonic()
    answer = alice.get(callback)
    seconds = time.monotonic() - started
    slug = told(answer).get("error") if answer.status_code == 303 else None
    if answer.status_code != 303:
        slug = answer.text.split('data-problem="')[1].split('"')[0]
    return slug, seconds


@pytest.mark.parametrize("provider", ["ghl", "google"])
@pytest.mark.parametrize(("fault", "options", "slug"), TOKEN_FAULTS, ids=json.dumps)
def test_a_broken_token_response_has_its_slug_and_stores_nothing(gateway, alice, provider, fault, options, slug):
    """
    Whatever the token endpoint responds, the product gets a slug, and no row is stored.
    """
    options = options | ({"to": f"{gateway.sandbox.origin}/elsewhere"} if fault == "redirect" else {})
    gateway.sandbox.state.add_fault(fault, provider, "token", **options)

    ended, seconds = ends(alice, provider)

    assert slug == ended
    assert 0 == stored(gateway, alice.id)
    assert seconds < 30  # a provider that is waited for hangs for sixty
    assert not [seen for seen in gateway.sandbox.state.requests() if "elsewhere" in seen["path"]]


@pytest.mark.parametrize("kind", ID_TOKENS)
def test_an_id_token_that_does_not_hold_is_refused(gateway, alice, kind):
    """
    OpenID Connect Core section 3.1.3.7, check by check; and the grant is revoked.
    """
    before = len(gateway.sandbox.state.revocations)
    gateway.sandbox.state.add_fault("id_token", "google", "token", kind=kind)

    ended, _ = ends(alice, "google")

    assert "provider_garbled" == ended
    assert 0 == stored(gateway, alice.id)
    assert len(gateway.sandbox.state.revocations) > before


@pytest.mark.parametrize(
    ("fault", "options", "slug"),
    [
        ("not_json", {}, "provider_garbled"),
        ("html_200", {}, "provider_garbled"),
        ("status", {"status": 500}, "provider_unavailable"),
        ("reset", {}, "provider_unavailable"),
        ("gzip_bomb", {}, "provider_garbled"),
        *[("redirect", {"status": status}, "provider_garbled") for status in REDIRECTS],
    ],
)
@pytest.mark.parametrize("provider", ["ringcentral", "zoom"])
def test_after_a_broken_account_response_the_grant_is_revoked(gateway, alice, provider, fault, options, slug):
    """
    Where only the account endpoint names the account. The code is redeemed by then: nothing is stored, and the grant is revoked.
    """
    before = len(gateway.sandbox.state.revocations)
    options = options | ({"to": f"{gateway.sandbox.origin}/elsewhere"} if fault == "redirect" else {})
    gateway.sandbox.state.add_fault(fault, provider, "userinfo", **options)

    ended, _ = ends(alice, provider)

    assert slug == ended
    assert 0 == stored(gateway, alice.id)
    assert len(gateway.sandbox.state.revocations) > before
    assert not [seen for seen in gateway.sandbox.state.requests() if "elsewhere" in seen["path"]]


def test_a_provider_that_drips_or_is_silent_ends_within_ten_seconds(gateway):
    """
    A total deadline, not one per read, for headers, body and silence; other requests work meanwhile.
    """
    ended, waiting = {}, []
    for endpoint in ("token", "userinfo"):
        seen = [
            len(gateway.sandbox.state.requests(provider, endpoint)) for provider in ("google", "ringcentral", "ghl")
        ]
        for fault, provider in (("drip_headers", "google"), ("drip_body", "ringcentral"), ("silence", "ghl")):
            alice = gateway.person("Alice Winter")
            alice.signs_in()
            gateway.sandbox.state.add_fault(fault, provider, endpoint)
            waiting.append(
                threading.Thread(
                    target=lambda *who: ended.update({who: ends(*who[1:])}), args=(endpoint, alice, provider)
                )
            )
            waiting[-1].start()
        wait_for(
            lambda endpoint=endpoint, seen=seen: all(
                len(gateway.sandbox.state.requests(provider, endpoint)) > before
                for provider, before in zip(("google", "ringcentral", "ghl"), seen, strict=True)
            )
        )
    served_meanwhile = 0
    while any(each.is_alive() for each in waiting):
        assert requests.get(f"{gateway.url}/readyz", timeout=30).ok
        served_meanwhile += any(each.is_alive() for each in waiting)
        time.sleep(0.25)

    assert len(ended) == 6
    for (endpoint, alice, provider), (slug, seconds) in ended.items():
        only_a_name = endpoint == "userinfo" and provider != "ringcentral"  # the token response names the account
        assert (None if only_a_name else "provider_unavailable") == slug
        assert (2 if only_a_name else 5) < seconds < 30
        assert (1 if only_a_name else 0) == stored(gateway, alice.id)
    assert served_meanwhile > 1


def test_less_scope_than_asked_is_stored_as_granted(gateway, alice):
    """
    Granular consent: what was left out is not claimed.
    """
    gateway.sandbox.state.add_fault("scope_less", "google", "token")

    answer = alice.get(alice.consents("google"))

    assert "connection" in told(answer)
    with psycopg.connect(gateway.dsn) as connection:
        query = "select data -> 'scope' from public.provider_data where auth_provider_id = %s"
        (scope,) = connection.execute(query, [alice.id]).fetchone()
    assert "https://www.googleapis.com/auth/gmail.send" not in scope


def test_a_second_consent_without_a_refresh_token_keeps_the_first(gateway, alice):
    """
    Google sends a refresh token once; connecting again must not lose it.
    """
    alice.connects("google")
    gateway.sandbox.state.add_fault("no_refresh_token", "google", "token")

    alice.connects("google")

    with psycopg.connect(gateway.dsn) as connection:
        query = "select refresh from public.provider_data where auth_provider_id = %s"
        assert connection.execute(query, [alice.id]).fetchone()[0].startswith("gAAAAA")


@pytest.mark.parametrize(("fault", "slug"), [("wrong_iss", "issuer_mismatch"), ("repeated_iss", "issuer_mismatch")])
@pytest.mark.parametrize("provider", ["google", "ghl", "microsoft"])
def test_a_response_from_another_issuer_redeems_nothing(gateway, alice, provider, fault, slug):
    """
    RFC 9207, also where no issuer is configured: the host has to be the provider's.
    """
    gateway.sandbox.state.add_fault(fault, provider, "authorize")
    before = len(gateway.sandbox.state.requests(provider, "token"))

    ended, _ = ends(alice, provider)

    assert slug == ended
    assert before == len(gateway.sandbox.state.requests(provider, "token"))


def test_a_denied_consent_by_fault_comes_back(gateway, alice):
    """
    The provider sends the browser straight back with access_denied.
    """
    gateway.sandbox.state.add_fault("deny", "zoom", "authorize")

    callback = alice.get(alice.begins("zoom")).headers["Location"]

    assert "access_denied" == told(alice.get(callback))["error"]
    assert urlsplit(callback).path == "/phone/zoom/callback"


@pytest.mark.parametrize(
    ("fault", "options"),
    [("token_bytes", {"kind": "nul"}), ("token_bytes", {"kind": "nul", "field": "refresh_token"})],
)
def test_a_rejected_response_is_revoked_all_the_same(gateway, alice, fault, options):
    """
    The provider granted something, whatever the form of its response: its tokens are revoked.
    """
    before = len(gateway.sandbox.state.revocations)
    gateway.sandbox.state.add_fault(fault, "ringcentral", "token", **options)

    ended, _ = ends(alice, "ringcentral")

    assert "provider_garbled" == ended
    assert 0 == stored(gateway, alice.id)
    assert len(gateway.sandbox.state.revocations) > before


def test_a_revocation_takes_no_longer_than_what_is_left_of_the_ten_seconds(gateway, alice):
    """
    A silent account endpoint leaves none: the grant is revoked in the background.
    """
    gateway.sandbox.state.add_fault("silence", "ringcentral", "userinfo")
    before = len(gateway.sandbox.state.revocations)

    ended, seconds = ends(alice, "ringcentral")

    assert ("provider_unavailable", 0) == (ended, stored(gateway, alice.id))
    assert seconds < 30
    wait_for(lambda: len(gateway.sandbox.state.revocations) > before)


def test_an_issuer_that_hangs_does_not_take_the_threads(cluster, template):
    """
    Eighty callers of a provider whose discovery is silent: while one of them waits to the end, other requests are served, and callers
    beyond the half of the slots that one provider gets are refused.
    """
    registered = {"SILENT_CLIENT_ID": "x", "SILENT_CLIENT_SECRET": "y"}
    with (
        whole_gateway(cluster, template, settings=registered) as gateway,
        socket.create_server(("127.0.0.1", 0)) as silent,
    ):
        issuer = f"http://127.0.0.1:{silent.getsockname()[1]}"
        table = f'[silent]\nname = "Silent"\ntype = 2\nissuer = "{issuer}"\n'
        Path(gateway.environ["GATEWAY_CATALOG"], "silent.toml").write_text(table, encoding="utf-8")
        gateway.start()
        carol = gateway.person("Carol Frost")
        carol.signs_in()
        answered = []

        def connects():
            answered.append(carol.get("/email/silent/connect"))

        crowd = [threading.Thread(target=connects) for _ in range(80)]
        for one in crowd:
            one.start()
        with silent.accept()[0]:  # of the first of them, which waits for 9.5 seconds
            assert requests.get(f"{gateway.url}/healthz", timeout=30).ok
            served_meanwhile = any(one.is_alive() for one in crowd)
            for one in crowd:
                one.join()
    assert served_meanwhile
    assert {503, 504} >= {each.status_code for each in answered}
    assert len([each for each in answered if 'data-problem="provider_busy"' in each.text]) >= 80 - BUDGET
