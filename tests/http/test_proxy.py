"""
Calls through the proxy: what reaches the provider, what comes back, and what never does.

A gateway process of its own; the API of each provider is a server that notes every request.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

import psutil
import pytest
import requests

from gateway.database import open_postgres
from gateway.database.queries import partners as queries
from tests.support import documented
from tests.support.database import rows
from tests.support.gateway_process import whole_gateway
from tests.support.partners import events, next_hour, partner_of
from tests.support.patience import wait_for
from tests.support.upstream import PIECE, rebase, upstream

NO_ONES = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def api():
    with upstream() as server:
        yield server


@pytest.fixture(scope="module")
def made(cluster, template, api):
    """A gateway whose providers send their token in different places."""
    with whole_gateway(cluster, template) as gateway:
        rebase(gateway.folder, "google", f"{api.url}/base")
        rebase(gateway.folder, "microsoft", api.url, 'token_placement = { prefix = "Zoho-oauthtoken " }\n')
        rebase(
            gateway.folder,
            "ghl_white_label",
            api.url,
            'token_placement = { header = "X-Shopify-Access-Token", prefix = "" }\n',
        )
        gateway.start()
        gateway.memory = psutil_memory(gateway)
        gateway.alice = gateway.person("Alice Winter")
        gateway.connection = gateway.alice.connects("google")["connection"]
        gateway.key = partner_of(gateway.dsn).key
        yield gateway


def psutil_memory(gateway):
    """The resident bytes of the gateway's process."""
    process = psutil.Process(gateway.process.pid)
    return lambda: process.memory_info().rss


@pytest.fixture
def call(made, api):
    """Calls Alice's Google connection; `path` follows /proxy, as it is."""
    api.seen.clear()
    api.headers.clear()

    def called(method, path, *, connection=made.connection, key=made.key, headers=None, **more):
        url = f"{made.url}/v1/connections/{connection}/proxy{path}"
        given = {"Authorization": f"Bearer {key}"} | (headers or {})
        prepared = requests.Request(method, url, headers=given, **more).prepare()
        prepared.url = url if "params" not in more else prepared.url  # requests would clean the path
        with requests.Session() as session:
            return session.send(prepared, timeout=30, allow_redirects=False)

    return called


def token_of(made, connection):
    found = requests.get(
        f"{made.url}/v1/connections/{connection}/token", headers={"Authorization": f"Bearer {made.key}"}, timeout=60
    )
    return found.json()["access_token"]


# -- what is sent ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [
        *("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "REPORT", "MKCOL", "COPY", "LOCK", "PURGE", "LINK"),
        *("QUERY", "SEARCH", "VERSION-CONTROL", "UPDATEREDIRECTREF", "M-SEARCH", "CONNECTED", "X"),
    ],
)  # fmt: skip
def test_method_query_and_body_arrive_unchanged(call, api, method):
    """
    Any method, below the provider's base URL; the query byte for byte, repeated names and odd encodings too.
    """
    body = b"" if method in ("GET", "OPTIONS", "COPY") else bytes(range(256))
    answer = call(method, "/a/b%20c/%C3%A9?x=1&x=2&y=%2F..%2F&z=a+b;c", data=body)

    assert (200, "200") == (answer.status_code, answer.headers["Gateway-Upstream-Status"])
    seen = api.seen[-1]
    assert (method, "/base/a/b%20c/%C3%A9?x=1&x=2&y=%2F..%2F&z=a+b;c") == (seen.method, seen.target)
    assert (len(body), hashlib.sha256(body).hexdigest()) == (seen.length, seen.sha256)


def test_what_browsers_leave_as_it_is_in_a_query_arrives_so(made, api):
    """
    `fetch` sends these characters as they are.
    """
    target = '/echo?fields={id,name}&or=a|b&q="<^>`\\'
    connection = HTTPConnection("127.0.0.1", made.port, timeout=60)
    connection.request(
        "GET", f"/v1/connections/{made.connection}/proxy{target}", headers={"Authorization": f"Bearer {made.key}"}
    )

    assert 200 == connection.getresponse().status
    connection.close()
    assert f"/base{target}" == api.seen[-1].target


@pytest.mark.parametrize("method", ["TRACE", "CONNECT"])
def test_methods_for_the_connection_itself_are_refused(call, api, method):
    """
    RFC 9110 section 9.3.6 and 9.3.8: a tunnel, and an echo of the token. `Allow` names others.
    """
    answer = call(method, "/echo")

    assert (405, "method_not_allowed") == (answer.status_code, answer.json()["code"])
    assert "PATCH" in answer.headers["Allow"]
    assert [] == api.seen


def test_head_has_the_headers_alone(call, api):
    answer = call("HEAD", "/bytes/1000")

    assert (200, "", "HEAD") == (answer.status_code, answer.text, api.seen[-1].method)


def test_headers_that_belong_to_the_connection_or_the_caller_stay_here(call, api, made):
    """
    Hop-by-hop headers, those that `Connection` names, cookies, the caller's key and address, and the gateway's own.
    """
    given = {
        "Cookie": "a=b", "Connection": "X-Drop", "X-Drop": "1", "TE": "trailers", "Upgrade": "h2c", "X-Forwarded-For": "1.2.3.4",
        "X-Forwarded-Host": "evil.example", "Forwarded": "for=1.2.3.4", "Proxy-Authorization": "Basic YTpi", "Gateway-Retries": "0",
        "X-Custom": "kept", "If-Match": '"1"', "Content-Type": "text/csv", "Accept": "text/csv", "Expect": "100-continue",
    }  # fmt: skip
    answer = call("POST", "/echo", headers=given, data=b"a,b")

    sent = {name.lower(): value for name, value in api.seen[-1].headers.items()}
    assert {
        "x-custom": "kept",
        "if-match": '"1"',
        "content-type": "text/csv",
        "accept": "text/csv",
    }.items() <= sent.items()
    allowed = {"host", "user-agent", "accept-encoding", "authorization", "content-length"}
    assert set(sent) == {"x-custom", "if-match", "content-type", "accept"} | allowed
    assert f"Bearer {token_of(made, made.connection)}" == sent["authorization"]
    kept = {name.lower() for name in answer.headers}
    assert not kept & {"set-cookie", "x-secret", "access-control-allow-origin"}
    assert "1" != answer.headers.get("X-Request-Id")


def test_default_headers_can_be_replaced_by_the_caller(made):
    """
    HighLevel's `Version`, at the sandbox, which refuses a wrong one.
    """
    connection = made.alice.connects("ghl")["connection"]
    location = rows(made.dsn, "select facts ->> 'locationId' from gateway.connection where id = %s", connection)[0]
    url = f"{made.url}/v1/connections/{connection}/proxy/locations/{location}"
    key = {"Authorization": f"Bearer {made.key}"}

    assert location in requests.get(url, headers=key, timeout=60).text
    refused = requests.get(url, headers=key | {"Version": "1999-01-01"}, timeout=60)
    assert (401, "401") == (refused.status_code, refused.headers["Gateway-Upstream-Status"])
    assert "version header is invalid" in refused.text
    assert requests.get(url, headers=key | {"Version": "v3"}, timeout=60).ok


def test_a_header_that_cannot_be_sent_is_the_callers_to_change(made, call, api):
    answer = call("POST", "/echo", headers={"Content-Disposition": 'form-data; filename="\xfc.pdf"'.encode("latin-1")})

    assert (400, "Content-Disposition") == (answer.status_code, answer.json()["errors"][0]["field"])
    assert [] == api.seen


@pytest.mark.parametrize(
    ("provider", "where"),
    [
        ("google", lambda token: ("Authorization", f"Bearer {token}")),
        ("microsoft", lambda token: ("Authorization", f"Zoho-oauthtoken {token}")),
        ("ghl_white_label", lambda token: ("X-Shopify-Access-Token", token)),
    ],
)
def test_the_token_is_sent_where_the_catalogue_says(made, call, api, provider, where):
    connection = made.connection if provider == "google" else made.alice.connects(provider)["connection"]
    name, value = where(token_of(made, connection))

    call("GET", "/echo", connection=connection, headers={name: "the caller's"} if name != "Authorization" else {})
    assert value == api.seen[-1].headers[name]


# -- paths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        *("/../x", "/a/../x", "/a/..", "/./x", "/a/.", "/%2e%2e/x", "/a/%2E%2e/x", "/..%2fx", "/%252e%252e/x", "/a%25", "/a%2", "/%"),
        *("//evil.example/x", "/%2fevil.example", "/a//b", "/a%5cb", "/a\\b", "/a%00b", "/a%0d%0aX:1", "/%1f", "/a%7f"),
        *("/%c0%ae%c0%ae/x", "/%ff", "/..;/x", "/a/.;x/b", "/%e0%80%af"),
    ],
)  # fmt: skip
def test_a_path_that_could_be_read_in_two_ways_is_refused(call, api, path):
    """
    Before anything is sent; as it arrives, without a client that cleans it up.
    """
    answer = call("GET", path)

    assert (400, "bad_request") == (answer.status_code, answer.json()["code"])
    assert "Gateway-Upstream-Status" not in answer.headers
    assert [] == api.seen


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/@evil.example/", "/base/@evil.example/"),
        ("/http:/evil", "/base/http:/evil"),
        ("/a;b=1,c", "/base/a;b=1,c"),
        ("/a%3Fb%23c", "/base/a%3Fb%23c"),
        ("/%61%7e", "/base/a~"),
        ("/v2.0/..a/b...", "/base/v2.0/..a/b..."),
        ("/", "/base/"),
        ("/a/", "/base/a/"),
        ("/me/messages('AAMk=')/$value", "/base/me/messages('AAMk=')/$value"),
    ],
)
def test_what_is_checked_is_what_is_sent(call, api, path, sent):
    assert 200 == call("GET", path).status_code
    assert sent == api.seen[-1].target


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("/projects/a%2Fb/files/c%2Fd%20e", "/base/projects/a%2Fb/files/c%2Fd%20e"),
        ("/plain", "/base/plain"),
        ("/a%2F..%2Fb", None), ("/%2e%2e/b", None), ("/a%252Fb", None), ("/a%2F%2Fb", None), ("//b", None), ("x", None),
        ("/a%5Cb", None), ("/a%00", None), ("https://evil.example/", None), ("/a%zz", None), ("/%ff", None),
    ],
)  # fmt: skip
def test_an_encoded_slash_comes_in_a_header(call, api, given, sent):
    answer = call("GET", "/?q=1", headers={"Gateway-Path": given})

    assert (200 if sent else 400) == answer.status_code
    assert ([f"{sent}?q=1"] if sent else []) == [each.target for each in api.seen]


# -- what comes back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 204, 302, 304, 307, 400, 403, 404, 409, 422, 429, 500, 503])
def test_a_response_of_the_provider_is_passed_on_and_marked(call, api, status):
    """
    Whatever its status. A redirect is not followed; `Retry-After` is the provider's; nothing is sent twice.
    """
    api.headers.update({"Location": "https://evil.example/x", "Retry-After": "17", "X-RateLimit-Remaining": "0"})
    answer = call("GET", f"/status/{status}")

    said = "" if status in (204, 304) else "said"
    assert (status, str(status), said) == (answer.status_code, answer.headers["Gateway-Upstream-Status"], answer.text)
    assert ("https://evil.example/x", "17") == (answer.headers["Location"], answer.headers["Retry-After"])
    assert 1 == len(api.seen)


@pytest.mark.parametrize(
    "address", ["HTTPS://Evil.EXAMPLE/%7ea?b=c|d", "/a?{b}", "app://cb?x=a b", "/\xc3\xbc", "/[1]", "/a\\b"]
)
def test_an_address_in_a_response_arrives_as_it_was_written(call, api, address):
    """
    A signature may be over it, and only the provider knows its encoding.
    """
    api.headers.update({"location": address, "Content-Location": address})
    answer = call("GET", "/status/303")

    assert (address, address) == (answer.headers["Location"], answer.headers["Content-Location"])


def test_the_token_is_masked_where_a_response_repeats_it(call, api, made):
    """
    In headers, and in the body across pieces; lengths stay the same.
    """
    answer = call("GET", "/echo")
    token = token_of(made, made.connection)

    assert f"Bearer {'*' * len(token)}" == answer.headers["X-Said"] == answer.json()[2]["Authorization"]
    assert token not in answer.text
    half = len(token) // 2
    chunks = [b"a" * 70_000 + token[:half].encode(), token[half:].encode(), b"end", token[:5].encode()]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    api.raw["echo"] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"
    assert "a" * 70_000 + "*" * len(token) + "end" + token[:5] == call("GET", "/raw/echo").text


def test_paths_that_issue_tokens_are_refused(made):
    """
    In whatever spelling: a token in a response is one that the caller must not have.
    """
    connection = made.alice.connects("ghl")["connection"]
    for path in (
        "/oauth/locationToken",
        "/OAuth/LocationToken/",
        "/oauth/location%54oken",
        "/oauth/locationToken;x",
        "/oauth/token?a=b",
    ):
        url = f"{made.url}/v1/connections/{connection}/proxy{path}"
        answer = requests.post(url, json={}, headers={"Authorization": f"Bearer {made.key}"}, timeout=60)
        assert (403, "forbidden") == (answer.status_code, answer.json()["code"]), path
        assert "issues tokens at this path" in answer.json()["detail"]


# -- who may ---------------------------------------------------------------------------------------------------------


def test_only_a_caller_with_the_scope_reaches_the_provider(made, api, call):
    """
    Another's connection and none are one answer; nothing is sent.
    """
    reads = partner_of(made.dsn, scope=("tokens:read",)).key
    other = partner_of(made.dsn, providers=("ghl",)).key
    bob = made.person("Bob Marsh").token()

    assert 403 == call("GET", "/echo", key=reads).status_code
    assert 401 == call("GET", "/echo", key="gw_live_x").status_code
    for key in (other, bob):
        foreign = call("GET", "/echo", key=key)
        none = call("GET", "/echo", key=key, connection=NO_ONES)
        assert (404, 404) == (foreign.status_code, none.status_code)
    assert [] == api.seen
    assert 200 == call("GET", "/echo", key=made.alice.token()).status_code


@pytest.mark.parametrize("expect", ["", "Expect: 100-continue\r\n"])
@pytest.mark.parametrize("authorization", ["", "Authorization: Bearer gw_live_x\r\n", "Authorization: Basic YTpi\r\n"])
def test_a_caller_without_a_key_is_refused_before_a_large_body_comes(made, authorization, expect):
    """
    The problem follows the head, and nothing is stored; the caller is not asked to go on.
    """
    with socket.create_connection(("127.0.0.1", made.port), timeout=60) as sender:
        head = f"PUT /v1/connections/{NO_ONES}/proxy/files HTTP/1.1\r\nHost: localhost\r\n{authorization}{expect}"
        sender.sendall(f"{head}Content-Length: 999999999\r\n\r\n".encode())
        answer = sender.makefile("rb").read().decode()

    assert answer.startswith("HTTP/1.1 401 ")
    assert '"code":"unauthenticated"' in answer


def test_rate_limit_headers_of_the_provider_are_passed_on(call, api, made, early):
    """
    Without such headers, the response says how much is left at the gateway.
    """
    key = partner_of(made.dsn, reads_per_hour=50).key
    own = call("GET", "/echo", key=key)
    api.headers.update(
        {"RateLimit-Limit": "7", "RateLimit-Remaining": "3", "X-RateLimit-Remaining-Day": "9", "Retry-After": "5"}
    )
    theirs = call("GET", "/status/200", key=key)

    assert ("50", "49") == (own.headers["RateLimit-Limit"], own.headers["RateLimit-Remaining"])
    named = {
        name.lower(): value
        for name, value in theirs.headers.items()
        if "ratelimit" in name.lower() or name == "Retry-After"
    }
    assert {
        "ratelimit-limit": "7",
        "ratelimit-remaining": "3",
        "x-ratelimit-remaining-day": "9",
        "retry-after": "5",
    } == named


FULL = {"X-RateLimit-Max": "100", "X-RateLimit-Remaining": "7", "X-RateLimit-Interval-Milliseconds": "10000"}
FULL |= {"X-RateLimit-Limit-Daily": "200000", "X-RateLimit-Daily-Remaining": "5000"}


@pytest.fixture
def location(made):
    """Two users' connections of one HighLevel sub-account."""
    held = [
        made.person(name).connects("ghl_white_label", "NorthwindBerlin00001")["connection"]
        for name in ("Dora Hill", "Emil Hill")
    ]
    yield held
    rows(made.dsn, "delete from gateway.provider_pause")


@pytest.mark.parametrize(
    ("status", "said", "kind", "limit", "seconds"),
    [
        (200, {"X-RateLimit-Remaining": "0"}, "burst", 100, 10),
        (200, {"X-RateLimit-Remaining": "-1", "X-RateLimit-Max": "25"}, "burst", 25, 10),
        (429, {"X-RateLimit-Remaining": "3", "X-RateLimit-Interval-Milliseconds": "30000"}, "burst", 100, 30),
        (429, {"retry-after": "7"}, "burst", 100, 7),
        (429, {"Retry-After": "999999"}, "burst", 100, 86_400),
        (200, {"X-RateLimit-Daily-Remaining": "0", "X-RateLimit-Daily-Reset": "7200000"}, "daily", 200_000, 7200),
        (429, {"X-RateLimit-Daily-Remaining": "0", "X-RateLimit-Remaining": "0"}, "daily", 200_000, 3600),
        (200, {"X-RateLimit-Daily-Remaining": "0", "X-RateLimit-Daily-Reset": "nonsense"}, "daily", 200_000, 3600),
    ],
)
def test_a_limit_of_the_provider_is_kept_for_the_account_before_the_provider_is_asked(
    made, call, api, location, status, said, kind, limit, seconds
):
    """
    By the numbers of its responses, for every user of the account, and for no other account; then calls go through again. A check is a call too.
    """
    api.answers["limited"] = (status, b"{}")
    api.headers.update(FULL | said)
    first = call("GET", "/status/limited", connection=location[0])
    assert status == first.status_code
    assert (f"{kind}_limit" if status == 429 else None) == first.headers.get("Gateway-Upstream-Error")
    assert (status == 429) == first.headers.get("Retry-After", "").isdigit()
    asked = len(api.seen)
    second = call("GET", "/status/limited", connection=location[1])
    problem = second.json()

    assert (429, "rate_limited", limit) == (second.status_code, problem["code"], problem["limit"])
    assert f"{kind} limit" in problem["detail"]
    assert seconds - 5 <= int(second.headers["Retry-After"]) <= seconds
    assert "Gateway-Upstream-Status" not in second.headers
    rows(made.dsn, "update gateway.connection set checked_at = null where id = %s", location[1])
    key = {"Authorization": f"Bearer {made.key}"}
    checked = requests.post(f"{made.url}/v1/connections/{location[1]}/check", headers=key, timeout=60)
    assert (429, problem["detail"]) == (checked.status_code, checked.json()["detail"])
    assert asked == len(api.seen)
    assert (
        200
        == requests.get(
            f"{made.url}/v1/connections/{location[1]}/token",
            headers={"Authorization": f"Bearer {made.key}"},
            timeout=60,
        ).status_code
    )
    other = made.person("Frank Hill").connects("ghl_white_label", "NorthwindLisbon00001")["connection"]
    api.headers.clear()
    assert status == call("GET", "/status/limited", connection=other).status_code
    rows(made.dsn, "update gateway.provider_pause set expires_at = now()")
    assert status == call("GET", "/status/limited", connection=location[1]).status_code


def test_calls_that_are_left_are_not_held_back(call, api, location):
    api.headers.update(FULL)

    assert {200} == {call("GET", "/status/200", connection=location[0]).status_code for _ in range(3)}


def test_a_freeze_of_token_reads_keeps_the_proxy(made, call):
    """
    A freeze of the provider stops it.
    """
    store = open_postgres(made.dsn)
    try:
        queries.freeze(store, reads=True)
        assert 200 == call("GET", "/echo").status_code
        queries.freeze(store, provider="google")
        assert (403, "frozen") == ((answer := call("GET", "/echo")).status_code, answer.json()["code"])
    finally:
        queries.freeze(store, reads=True, off=True)
        queries.freeze(store, provider="google", off=True)
        store.close()


def test_calls_are_recorded_by_partner_connection_and_hour(made, call, early):
    """
    Beside token reads, and not as such; a refused call is none.
    """
    acme = partner_of(made.dsn)
    for _ in range(3):
        call("GET", "/echo", key=acme.key)
    acme.asks(made, f"/connections/{made.connection}/token")
    call("GET", "/../x", key=acme.key)

    found = rows(made.dsn, "select scope, reads from gateway.token_read where partner_id = %s order by scope", acme.id)
    assert [("proxy", 3), ("tokens:read", 1)] == found
    assert [1] == rows(made.dsn, "select connections::integer from gateway.usage where reader_id = %s", acme.id)
    next_hour(made.dsn)
    rows(made.dsn, "select gateway.close_hours(1000000)::text")
    assert [3] == [each["calls"] for each in events(made.dsn, "proxy.used", partner_id=acme.id)]
    assert [1] == [each["reads"] for each in events(made.dsn, "tokens.read", partner_id=acme.id)]


def test_another_location_is_not_found(made, call):
    assert 404 == call("GET", "/echo", headers={"Gateway-Location": "elsewhere"}).status_code


# -- expired tokens, retries, outages --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "challenge", ['Bearer realm="api", error="invalid_token", scope="mail.read"', 'Bearer scope="mail.read"', None]
)
def test_a_refusal_that_only_names_the_scope_is_about_the_token(made, call, api, challenge):
    """
    RFC 6750 section 3: `scope` says what the resource needs.
    """
    connection = made.person("Carol Spring").connects("google")["connection"]
    api.answers["expired"] = (401, b'{"error": "invalid_token", "scope": "mail.read"}')
    api.headers |= {"WWW-Authenticate": challenge} if challenge else {}

    assert (401, 2) == (call("GET", "/status/expired", connection=connection).status_code, len(api.seen))


@pytest.mark.parametrize("body", [None, b"", b"a" * 1024 * 1024])
def test_a_refused_token_is_refreshed_once_and_the_call_repeated(made, call, api, body):
    """
    With the same body, and once a minute: the next 401 is passed on.
    """
    connection = made.person("Carol Spring").connects("google")["connection"]
    old = token_of(made, connection)
    api.answers["expired"] = (401, b'{"error": "invalid_token"}')

    answer = call("PUT", "/status/expired", connection=connection, data=body)
    assert (401, 2) == (answer.status_code, len(api.seen))
    assert [f"Bearer {old}", f"Bearer {token_of(made, connection)}"] == [
        each.headers["Authorization"] for each in api.seen
    ]
    assert f"Bearer {old}" != api.seen[1].headers["Authorization"]
    assert 1 == len({each.sha256 for each in api.seen})
    call("GET", "/status/expired", connection=connection)
    assert 3 == len(api.seen)


def test_fifty_refused_calls_at_once_cause_one_refresh(made, call, api):
    connection = made.person("Carol Spring").connects("google")["connection"]
    api.answers["expired"] = (401, b"expired")
    with ThreadPoolExecutor(12) as threads:
        list(threads.map(lambda _: call("GET", "/status/expired", connection=connection), range(50)))

    [generation] = rows(made.dsn, "select generation from gateway.connection where id = %s", connection)
    assert 2 == generation


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (401, b'{"message": "The token is not authorized for this scope."}', {}),
        (401, b"", {"WWW-Authenticate": 'Bearer error="insufficient_scope"'}),
        (401, b'{"message": "The token is not authorized for this scope."}', {"Content-Encoding": "gzip"}),
        (403, b"forbidden", {}),
    ],
)
def test_a_refusal_that_is_not_about_the_token_is_passed_on(call, api, made, status, body, headers):
    """
    Also where the provider compresses it unasked.
    """
    api.answers["no"] = (status, gzip.compress(body) if headers.get("Content-Encoding") else body)
    api.headers.update(headers)
    before = rows(made.dsn, "select generation from gateway.connection where id = %s", made.connection)

    answer = call("GET", "/status/no")
    assert (status, body, 1) == (answer.status_code, answer.content, len(api.seen))
    assert before == rows(made.dsn, "select generation from gateway.connection where id = %s", made.connection)


def test_a_large_body_is_not_sent_twice(made, call, api):
    """
    The caller sends it again, with the new token.
    """
    connection = made.person("Carol Spring").connects("google")["connection"]
    api.answers["expired"] = (401, b"expired")

    assert 401 == call("POST", "/status/expired", connection=connection, data=b"a" * (1024 * 1024 + 1)).status_code
    assert 1 == len(api.seen)
    assert [2] == rows(made.dsn, "select generation from gateway.connection where id = %s", connection)


@pytest.mark.parametrize(
    ("method", "path", "retries", "status", "calls"),
    [
        ("GET", "/script/503-200", "1", 200, 2),
        ("GET", "/script/502-504-429-200", "3", 200, 4),
        ("GET", "/script/503-503-200", "1", 503, 2),
        ("GET", "/script/503-201", None, 503, 1),
        ("GET", "/script/500-200", "3", 500, 1),
        ("PUT", "/script/503-202", "1", 202, 2),
        ("PROPFIND", "/script/503-207", "1", 207, 2),
        ("LOCK", "/script/503-203", "1", 503, 1),
        ("POST", "/script/503-203", "3", 503, 1),
        ("PATCH", "/script/503-203", "3", 503, 1),
    ],
)
def test_a_call_is_repeated_only_where_the_caller_asks_and_the_method_allows_it(
    call, api, method, path, retries, status, calls
):
    answer = call(method, path, headers={"Gateway-Retries": retries} if retries else {})

    assert (status, calls) == (answer.status_code, len(api.seen))


@pytest.mark.parametrize("retries", ["4", "-1", "", "one", "1.0", "1 1"])
def test_other_numbers_of_retries_are_refused(call, api, retries):
    answer = call("GET", "/echo", headers={"Gateway-Retries": retries})

    assert (400, []) == (answer.status_code, api.seen)


def test_a_pause_that_is_too_long_is_the_callers(call, api):
    api.headers["Retry-After"] = "30"
    assert (429, 1) == (call("GET", "/script/429-200", headers={"Gateway-Retries": "3"}).status_code, len(api.seen))


BROKEN = {
    "empty": (b"", 504),
    "no HTTP": (b"nonsense\r\n\r\n", 502),
    "HTTP/0.9": (b"<html>", 504),
    "endless head": (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000, 502),
    "two lengths": (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 502),
    "cut short at once": (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", 504),
    "an unknown coding": (b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 1\r\n\r\na", 502),
    "an unknown coding of a stream": (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: zstd\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        502,
    ),
    "no gzip": (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\na", 502),
    "switched protocols": (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", 502),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_response_is_a_problem_of_the_gateway(call, api, name):
    api.raw["broken"], status = BROKEN[name]
    answer = call("GET", "/raw/broken")

    assert (status, "application/problem+json") == (answer.status_code, answer.headers["Content-Type"])
    assert "Gateway-Upstream-Status" not in answer.headers


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip", "compress", "aws-chunked"])
@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 304), ("GET", 204), ("DELETE", 200)])
def test_a_coding_without_a_body_is_passed_on(call, api, method, status, coding):
    """
    With the other headers about the body that there is not: there is nothing to decode.
    """
    length = {"HEAD": b"1000", "DELETE": b"0"}.get(method)
    told = b'ETag: "a"\r\n' + (b"Content-Length: %b\r\n" % length if length else b"")
    api.raw["coded"] = b"HTTP/1.1 %d X\r\nContent-Encoding: %b\r\n%b\r\n" % (status, coding.encode(), told)
    answer = call(method, "/raw/coded")

    assert (status, str(status), b"") == (answer.status_code, answer.headers["Gateway-Upstream-Status"], answer.content)
    assert '"a"' == answer.headers["ETag"]
    assert (coding if status != 304 else None) == answer.headers.get("Content-Encoding")  # RFC 9110 section 15.4.5
    assert length is None or length.decode() == answer.headers["Content-Length"]


@pytest.mark.parametrize(
    "head",
    [
        *("Transfer-Encoding: chunked\r\nContent-Length: 99", "Content-Length: 99\r\nTRANSFER-ENCODING: Chunked"),
        *(
            f"Transfer-Encoding: chunked\r\n{name}: x"
            for name in ("Trailer", "Trailers", "Keep-Alive", "Upgrade", "TE")
        ),
    ],
)
def test_a_response_is_framed_anew(call, api, head):
    """
    RFC 9112 section 6.3: `Transfer-Encoding` counts, and what is about the provider's connection stays there.
    """
    api.raw["framed"] = f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n2\r\nok\r\n0\r\nX-Trailer: 1\r\n\r\n".encode()
    answer = call("GET", "/raw/framed")

    assert (200, "ok", "200") == (answer.status_code, answer.text, answer.headers["Gateway-Upstream-Status"])
    assert not {"content-length", "trailer", "trailers", "keep-alive", "upgrade", "te"} & {
        *map(str.lower, answer.headers)
    }


def test_a_response_that_breaks_off_does_not_look_whole(call, api):
    """
    By length, and in chunks.
    """
    for head in (b"Content-Length: 100000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n186a0\r\n"):
        api.raw["half"] = b"HTTP/1.1 200 OK\r\n" + head + b"a" * 50_000
        with pytest.raises((requests.exceptions.ChunkedEncodingError, requests.exceptions.ConnectionError)):
            call("GET", "/raw/half")


def test_a_compressed_response_is_decoded_in_bounded_memory(made, call, api):
    """
    It was asked for uncompressed; a bomb of 200 MB is passed on as it unfolds.
    """
    bomb = gzip.compress(bytes(200_000_000), 9)
    api.raw["bomb"] = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb) + bomb
    before = made.memory()

    assert 200_000_000 == len(call("GET", "/raw/bomb").content)
    assert made.memory() - before < 40_000_000


# -- streams ---------------------------------------------------------------------------------------------------------


def _streamed(made, size):
    """Up and down at once; what went wrong."""
    url = f"{made.url}/v1/connections/{made.connection}/proxy"
    key = {"Authorization": f"Bearer {made.key}"}
    digest = hashlib.sha256()
    pieces = (PIECE[: min(len(PIECE), size - at)] for at in range(0, size, len(PIECE)))
    up = requests.post(f"{url}/echo", data=pieces, headers=key | {"Expect": "100-continue"}, timeout=120).json()
    for at in range(0, size, len(PIECE)):
        digest.update(PIECE[: min(len(PIECE), size - at)])
    received, sha = 0, hashlib.sha256()
    with requests.get(f"{url}/bytes/{size}", headers=key, stream=True, timeout=120) as answer:
        for piece in answer.iter_content(1 << 20):
            received += len(piece)
            sha.update(piece)
    return [each for each in (up[3], received) if each != size] + [
        each for each in (up[4], sha.hexdigest()) if each != digest.hexdigest()
    ]


def test_four_large_streams_up_and_down_take_little_memory(made, api):
    """
    40 MB each here, 1 GB each in the bench. The body that arrives in chunks is kept on disk.
    """
    before, most = made.memory(), 0
    with ThreadPoolExecutor(4) as threads:
        running = [threads.submit(_streamed, made, 40_000_000) for _ in range(4)]
        while not all(each.done() for each in running):
            most = max(most, made.memory())
            time.sleep(0.1)

    assert [[]] * 4 == [each.result() for each in running]
    assert most - before < 60_000_000


@pytest.mark.parametrize("kind", ["text/event-stream", "application/json"])
def test_a_stream_arrives_as_it_is_sent(made, api, kind):
    """
    Its head before its first event, and each event before the next one is sent.
    """
    key = {"Authorization": f"Bearer {made.key}"}
    url = f"{made.url}/v1/connections/{made.connection}/proxy/stream/{kind}"
    with requests.get(url, headers=key, stream=True, timeout=60) as answer:
        assert (200, "200", kind) == (
            answer.status_code,
            answer.headers["Gateway-Upstream-Status"],
            answer.headers["Content-Type"],
        )
        pieces = answer.iter_content(None)
        for event in (b"data: one\n\n", b": still here\n\n", b"data: two\n\n"):
            api.events.put(event)
            assert event == next(pieces)
        api.events.put(b"")
        assert [] == list(pieces)


@pytest.mark.parametrize("path", ["/slow", "/silent"])
def test_a_client_that_goes_away_ends_the_call(made, api, call, path):
    """
    While the provider is silent, before its response and in the middle of it.
    """
    before = api.abandoned
    with socket.create_connection(("127.0.0.1", made.port)) as client:
        client.sendall(
            f"GET /v1/connections/{made.connection}/proxy{path}/20 HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: Bearer {made.key}\r\n\r\n".encode()
        )
        wait_for(lambda: api.waiting)
    wait_for(lambda: api.abandoned > before, 15)  # the provider itself would wait for twenty
    assert 200 == call("GET", "/echo").status_code


# -- fairness --------------------------------------------------------------------------------------------------------


def test_a_greedy_partner_leaves_slots_for_others(made, api):
    """
    Sixty calls at once to a silent provider: sixteen wait, the others get 429 with `Retry-After`. Another partner's call goes through, and
    the same partner's calls to another provider. A partner that has a quarter of the places, and finds no other, did nothing wrong: 503.
    """
    greedy, other, busy = partner_of(made.dsn), partner_of(made.dsn), partner_of(made.dsn)
    path = f"/connections/{made.connection}/proxy"
    elsewhere = f"/connections/{made.alice.connects('ghl_white_label')['connection']}/proxy"
    with ThreadPoolExecutor(60) as threads:
        running = [threads.submit(greedy.asks, made, f"{path}/silent") for _ in range(60)]
        wait_for(lambda: sum(each.done() for each in running) >= 44)
        assert 200 == other.asks(made, f"{path}/echo").status_code
        assert 200 == greedy.asks(made, f"{elsewhere}/echo").status_code
        assert 16 == sum(not each.done() for each in running)
        waiting = [threads.submit(busy.asks, made, f"{path}/silent") for _ in range(9)]
        wait_for(lambda: any(each.done() for each in waiting))
        api.released = True
        answers, others = [each.result() for each in running], [each.result() for each in waiting]
    api.released = False

    refused = [each for each in answers if each.status_code == 429]
    assert (16, 44) == (sum(each.status_code == 200 for each in answers), len(refused))
    assert {"rate_limited"} == {each.json()["code"] for each in refused}
    full = [each for each in others if each.status_code != 200]
    assert [(503, "provider_busy")] == [(each.status_code, each.json()["code"]) for each in full]
    assert all(1 <= int(each.headers["Retry-After"]) <= 10 for each in refused + full)


def test_a_provider_that_fails_is_left_alone_until_a_probe_succeeds(made, api, call):
    """
    503 with `Retry-After`, without a call; other providers are called meanwhile, and other partners' calls and refreshes go through, since
    the failures may be due to what was asked for.
    """
    connection = made.alice.connects("microsoft")["connection"]
    api.raw["empty"] = b""
    for path, status in (("/status/503", 503), ("/raw/empty", 504)) * 5:
        assert status == call("GET", path, connection=connection).status_code
    other = partner_of(made.dsn)
    assert 200 == other.asks(made, f"/connections/{connection}/proxy/echo").status_code
    assert 200 == other.asks(made, f"/connections/{connection}/refresh", "POST").status_code
    seen = len(api.seen)
    refused = call("GET", "/echo", connection=connection)

    assert (503, "provider_busy", seen) == (refused.status_code, refused.json()["code"], len(api.seen))
    assert 1 <= int(refused.headers["Retry-After"]) <= 6
    assert 200 == call("GET", "/echo").status_code
    wait_for(lambda: call("GET", "/echo", connection=connection).status_code == 200)
    assert 200 == call("GET", "/echo", connection=connection).status_code


def test_what_a_caller_can_cause_does_not_close_the_provider(call):
    """
    500 and 429 may be due to the request: another caller's call still goes through.
    """
    for status in (500, 429) * 8:
        call("GET", f"/status/{status}")

    assert 200 == call("GET", "/echo").status_code


# -- clients ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_fetch_of_node_works_unchanged(made, api, call):
    """
    A JSON body, a streamed body, a refusal.
    """
    script = """
    const base = process.argv[1], headers = {Authorization: `Bearer ${process.argv[2]}`};
    const json = await fetch(`${base}/echo?x=1`, {method: "PATCH", headers, body: JSON.stringify({a: "ü"})});
    const piece = new Uint8Array(65536), stream = new ReadableStream({start(c) { for (let i = 0; i < 32; i++) c.enqueue(piece); c.close(); }});
    const streamed = await fetch(`${base}/echo`, {method: "POST", headers, body: stream, duplex: "half"});
    const refused = await fetch(`${base}/a%25`, {headers});
    console.log(JSON.stringify([json.headers.get("gateway-upstream-status"), (await json.json())[3], (await streamed.json())[3], refused.status]));
    """
    url = f"{made.url}/v1/connections/{made.connection}/proxy"
    run = subprocess.run(
        ["node", "--input-type=module", "-e", script, "--", url, made.key],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ["200", 10, 32 * 65536, 400] == json.loads(run.stdout), run.stderr


def test_a_browser_may_call_with_its_users_token(made):
    """
    From an origin of the product: the preflight, and the header that marks the response.
    """
    url = f"{made.url}/v1/connections/{made.connection}/proxy/echo"
    origin = {"Origin": made.sandbox.origin}
    asked = {"Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": "authorization,version"}
    preflight = requests.options(url, headers=origin | asked, timeout=60)
    answer = requests.patch(url, headers=origin | {"Authorization": f"Bearer {made.alice.token()}"}, timeout=60)

    assert (204, 200) == (preflight.status_code, answer.status_code)
    assert "PATCH" in preflight.headers["Access-Control-Allow-Methods"]
    assert "authorization,version" == preflight.headers["Access-Control-Allow-Headers"]
    assert made.sandbox.origin == answer.headers["Access-Control-Allow-Origin"]
    assert "Gateway-Upstream-Status" in answer.headers["Access-Control-Expose-Headers"]


@pytest.mark.parametrize(
    "run",
    [
        documented.run_python,
        pytest.param(
            documented.run_typescript,
            marks=pytest.mark.skipif(not os.environ.get("CI") and not documented.HAS_NODE, reason="needs `npm ci`"),
        ),
    ],
)
def test_the_example_of_the_document_runs_unchanged(made, tmp_path, run):
    """
    docs/partners.md, with requests and with fetch, at HighLevel's sandbox; and what it says when the gateway refuses.
    """
    connection = made.alice.connects("ghl")["connection"]
    [(location, label)] = rows(
        made.dsn, "select facts ->> 'locationId', account_label from gateway.connection where id = %s", connection
    )
    environ = {"CONNECT_URL": made.url, "CONNECTION_ID": connection, "LOCATION_ID": location}

    assert label == run(tmp_path, "LOCATION_ID", **environ, PARTNER_KEY=made.key).stdout.strip()
    refused = run(tmp_path, "LOCATION_ID", **environ, PARTNER_KEY="gw_live_x")
    assert "refused by the gateway: unauthenticated" in refused.stderr
