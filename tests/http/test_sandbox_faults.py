"""
Faults of the sandbox happen as planned and as often as planned, and requests are recorded.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
import requests

from gateway.sandbox import make_server
from gateway.sandbox.fault_plan import OPTIONS
from gateway.sandbox.faults import AT_AUTHORIZE, AT_TOKEN, REPLACEMENTS
from gateway.sandbox.response_faults import IN_BODY, IN_QUERY
from gateway.sandbox.signing import claims_of
from tests.support.oauth_client import Walker
from tests.support.patience import held, wait_for


@pytest.fixture
def google(sandbox):
    return Walker(sandbox, "google")


def _raw(origin: str, path: str, seconds: float, enough: int = 10**9) -> bytes:
    """What comes within so many seconds of asking for a path, or that many bytes of it; raises what the socket raises."""
    parts, got = urlsplit(origin), b""
    with socket.create_connection((parts.hostname, parts.port), timeout=30) as link:
        link.sendall(f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
        until = time.monotonic() + seconds
        while len(got) < enough and (left := until - time.monotonic()) > 0:
            link.settimeout(left)
            try:
                piece = link.recv(65_536)
            except TimeoutError:
                break
            if not piece:
                break
            got += piece
    return got


def test_every_fault_that_is_described_is_carried_out():
    """The reference and the code name the same faults."""
    assert {"slow", "another_account", *REPLACEMENTS, *AT_TOKEN, *AT_AUTHORIZE, *IN_BODY, *IN_QUERY} == set(OPTIONS)


@pytest.mark.parametrize(
    ("fault", "options", "shows"),
    [
        ("status", {"status": 503, "body": "down", "retry_after": 7}, lambda a: (a.status_code, a.text) == (503, "down") and a.headers["Retry-After"] == "7"),
        ("redirect", {"status": 308, "to": "https://attacker.example/"}, lambda a: (a.status_code, a.headers["Location"]) == (308, "https://attacker.example/")),
        ("not_json", {}, lambda a: a.headers["Content-Type"] == "application/json" and not a.text.endswith("}")),
        ("html_200", {}, lambda a: a.status_code == 200 and "<h1>" in a.text),
        ("error_200", {}, lambda a: (a.status_code, a.json()["error"]) == (200, "invalid_grant")),
        ("error", {"status": 401, "error": "invalid_client"}, lambda a: (a.status_code, a.json()["error"]) == (401, "invalid_client")),
        ("other_client", {}, lambda a: (a.status_code, a.json()["error"]) == (401, "invalid_client")),
        ("error_description_markup", {}, lambda a: "<script>" in a.json()["error_description"]),
        ("deep_json", {"depth": 5000}, lambda a: "[" * 5000 in a.text),
        ("no_access_token", {}, lambda a: "access_token" not in a.json()),
        ("no_refresh_token", {}, lambda a: "refresh_token" not in a.json()),
        ("expires_in", {"value": "3600"}, lambda a: a.json()["expires_in"] == "3600"),
        ("expires_in", {"raw": "1e309"}, lambda a: '"expires_in": 1e309,' in a.text),
        ("token_bytes", {"kind": "nul"}, lambda a: "\x00" in a.json()["access_token"]),
        ("token_bytes", {"kind": "crlf", "field": "refresh_token"}, lambda a: "\r\n" in a.json()["refresh_token"]),
        ("token_bytes", {"kind": "huge"}, lambda a: len(a.json()["access_token"]) == 4 * 1024 * 1024),
        ("scope_less", {}, lambda a: "gmail.send" not in a.json()["scope"]),
        ("scope_more", {}, lambda a: "extra.write" in a.json()["scope"]),
        ("huge_body", {"megabytes": 3}, lambda a: len(a.content) > 3 * 1024 * 1024),
        ("gzip_bomb", {"megabytes": 3}, lambda a: len(a.content) > 3 * 1024 * 1024 > 100 * int(a.headers["Content-Length"])),
    ],
)  # fmt: skip
def test_the_token_endpoint_goes_wrong_once_and_then_is_right_again(sandbox, google, fault, options, shows):
    """A planned fault is used up by the answers that it was planned for."""
    sandbox.state.add_fault(fault, "google", "token", **options)
    first, second = google.returns(access_type="offline")["code"], google.returns(access_type="offline")["code"]
    form = {
        "grant_type": "authorization_code",
        "code": first,
        "redirect_uri": "http://localhost:8000/crm/main/callback",
    }
    form |= {"client_id": google.client_id, "client_secret": google.secret}

    answer = requests.post(google.token_url, data=form, timeout=60, allow_redirects=False)

    assert shows(answer), answer.text[:500]
    right = google.redeems(second)
    assert 200 == right.status_code
    assert 3599 == right.json()["expires_in"]


@pytest.mark.parametrize(
    ("kind", "differs"),
    [
        ("aud", "aud"),
        ("azp", "azp"),
        ("nonce", "nonce"),
        ("sub", "sub"),
        ("iss", "iss"),
        ("expired", "exp"),
        ("future", "iat"),
    ],
)
def test_an_identity_token_can_be_wrong_in_one_claim(sandbox, google, kind, differs):
    """Signed as it should be, and wrong all the same."""
    right = claims_of(google.connects(nonce="once")["id_token"])
    sandbox.state.add_fault("id_token", "google", "token", kind=kind)
    wrong = claims_of(google.connects(nonce="once")["id_token"])

    assert right[differs] != wrong[differs]


@pytest.mark.parametrize(("kind", "algorithm"), [("unsigned", "none"), ("hs256", "HS256"), ("signature", "RS256")])
def test_an_identity_token_can_be_signed_wrongly(sandbox, google, kind, algorithm):
    """RFC 8725 section 2.1: none, the public key as a shared secret, and a signature that does not fit."""
    sandbox.state.add_fault("id_token", "google", "token", kind=kind)
    token = google.connects()["id_token"]
    head = token.partition(".")[0]

    assert algorithm == json.loads(base64.urlsafe_b64decode(head + "=="))["alg"]
    assert (kind == "unsigned") == token.endswith(".")


@pytest.mark.parametrize(
    ("fault", "shows"),
    [
        ("wrong_iss", lambda back, _: "https://attacker.example" == back["iss"]),
        ("no_iss", lambda back, _: "iss" not in back),
        ("no_state", lambda back, _: "state" not in back),
        ("deny", lambda back, _: "access_denied" == back["error"]),
        ("error_description_markup", lambda back, _: "<script>" in back["error_description"]),
        ("other_client", lambda back, google: 400 == google.redeems(back["code"]).status_code),
    ],
)
def test_the_authorization_response_can_be_bent(sandbox, google, fault, shows):
    """RFC 9207 section 2.4 and RFC 6749 section 4.1.2.1 from the other side."""
    sandbox.state.add_fault(fault, "google", "authorize")

    assert shows(google.returns(), google)


def test_iss_can_come_twice_and_metadata_can_name_another_issuer(sandbox, google):
    """Two more ways to mix providers up."""
    sandbox.state.add_fault("repeated_iss", "google", "authorize")
    sandbox.state.add_fault("issuer_differs", "google", "discovery")

    assert 3 == sandbox.consents(google.asks()).count("iss=")
    assert "https://attacker.example" == google.reads("/.well-known/openid-configuration", "").json()["issuer"]


@pytest.mark.parametrize(("fault", "begins"), [("drip_headers", b"HTTP/1.1 200 OK\r\nContent"), ("drip_body", b"HTTP/1.1 200 OK\r\n"), ("silence", b"")])  # fmt: skip
def test_an_answer_can_drip_or_never_come(sandbox, google, fault, begins):
    """One byte at a time, and no end of it."""
    sandbox.state.add_fault(fault, "google", "jwks", seconds=0.05 if fault != "silence" else 30)
    got = _raw(sandbox.origin, "/google/oauth2/v3/certs", 30 if begins else 1, enough=40)

    assert got.startswith(begins)
    assert len(got) < 300
    assert (b"\r\n\r\n" in got) == (fault == "drip_body")


def test_a_connection_can_be_reset_in_place_of_an_answer(sandbox):
    """A reset, not a polite end."""
    sandbox.state.add_fault("reset", "google", "jwks")

    with pytest.raises(ConnectionResetError):
        _raw(sandbox.origin, "/google/oauth2/v3/certs", 30)


def test_slowness_delays_only_its_own_response(sandbox, google):
    """For one code; other requests are served meanwhile."""
    slow, quick = google.returns()["code"], google.returns()["code"]
    with ThreadPoolExecutor(1) as pool:
        with held(sandbox, "google", "token", code=slow) as is_asked:
            waiting = pool.submit(google.redeems, slow)
            wait_for(is_asked)
            assert 200 == google.redeems(quick).status_code
            assert not waiting.done()

        assert 200 == waiting.result(30).status_code


def test_the_consent_page_can_plan_a_failure_for_its_own_code(google):
    """The small fieldset: fail with 500 at the token endpoint, once."""
    code = google.returns(consent={"fault": "status"})["code"]

    assert [500, 200] == [google.redeems(code).status_code for _ in range(2)]


def test_a_fault_can_be_narrowed_to_refreshing_and_repeated_until_it_is_cleared(sandbox, google):
    """grant_type narrows, times 0 has no end."""
    control = f"{sandbox.origin}/_sandbox/faults"
    plan = {"provider": "google", "endpoint": "token", "fault": "status", "times": 0, "grant_type": "refresh_token"}
    assert 201 == requests.post(control, json=plan, timeout=60).status_code
    token = google.connects(access_type="offline")["refresh_token"]
    assert [500, 500, 500] == [google.refreshes(token).status_code for _ in range(3)]

    requests.delete(control, timeout=60)

    assert 200 == google.refreshes(token).status_code
    assert 400 == requests.post(control, json={"fault": "earthquake"}, timeout=60).status_code


def test_what_was_sent_is_written_down_and_counted(sandbox, google):
    """Tests of a client need to see its requests as they came."""
    code = google.returns()["code"]
    google.redeems(code)
    google.redeems(code)
    seen = requests.get(f"{sandbox.origin}/_sandbox/requests?provider=google&endpoint=token", timeout=60).json()[
        "requests"
    ]
    counted = requests.get(f"{sandbox.origin}/_sandbox/counters", timeout=60).json()["token_requests"]

    assert [(code, 200), (code, 400)] == [(one["form"]["code"], one["status"]) for one in seen]
    assert {code: 2} == counted


def test_the_control_surface_answers_no_web_page_and_no_other_name(sandbox):
    """A page that happens to be open, or a name that was bent to this machine, gets nothing."""
    control = f"{sandbox.origin}/_sandbox/requests"

    assert 200 == requests.get(control, timeout=60).status_code
    assert 403 == requests.get(control, headers={"Sec-Fetch-Site": "cross-site"}, timeout=60).status_code
    assert 403 == requests.get(control, headers={"Host": "rebound.attacker.example"}, timeout=60).status_code


def test_switches_the_clock_and_a_withdrawal_are_within_reach_of_curl(sandbox, google):
    """What tests do with the object, a terminal does over HTTP."""
    control = f"{sandbox.origin}/_sandbox"
    token = google.connects(access_type="offline")["refresh_token"]
    before = sandbox.state.now()

    assert requests.post(f"{control}/switches", json={"google_iss": False}, timeout=60).json()["google_iss"] is False
    assert 400 == requests.post(f"{control}/switches", json={"gravity": False}, timeout=60).status_code
    assert before + 31 == requests.post(f"{control}/clock", json={"advance": 31}, timeout=60).json()["now"]
    assert 1 == requests.post(f"{control}/withdraw", json={"provider": "google"}, timeout=60).json()["ended"]
    assert 400 == google.refreshes(token).status_code


def test_connections_are_kept_and_stopping_ends_them():
    """A client that keeps its connection needs one; after stop there is none."""
    server = make_server().start()
    link = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    link.connect()
    kept = link.sock
    for path in ("/_sandbox/health", "/google/oauth2/v3/certs", "/nowhere"):
        link.request("GET", path)
        assert link.getresponse().read()
        assert kept is link.sock

    server.stop()

    link.request("GET", "/_sandbox/health")
    with pytest.raises(ConnectionError):
        link.getresponse()
    with pytest.raises(ConnectionError):
        socket.create_connection(("127.0.0.1", server.port), timeout=2)
    link.close()


@pytest.mark.parametrize("ending", ["terminated", "orphaned"])
def test_it_runs_as_a_process_and_ends_with_its_parent(ending):
    """`python -m gateway.sandbox`, stopped by a signal or by its parent's end."""
    command = [sys.executable, "-m", "gateway.sandbox", "--port", "0", "--until-stdin-closes"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        origin = process.stdout.readline().split()[2]
        assert requests.get(f"{origin}/", timeout=60).ok
        if ending == "terminated":
            os.kill(process.pid, signal.SIGTERM)
        else:
            process.stdin.close()
        try:
            assert 0 == process.wait(60)
        finally:
            process.kill()
