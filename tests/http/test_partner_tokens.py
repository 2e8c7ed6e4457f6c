"""
Partners at `/v1`, over HTTP: every key with every id, what a key never gets, and how fast what the operator decides is felt.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from urllib.parse import urlsplit

import pytest
import requests

from gateway import create_app
from gateway.database import open_postgres
from gateway.database.queries import partners as queries
from gateway.partners.keys import make_key
from gateway.web.v1.openapi import ANY_METHOD
from tests.support.database import rows
from tests.support.gateway_process import without_request_id
from tests.support.partners import events, partner_of, recorded_reads
from tests.support.patience import held, wait_for

NOBODYS = "00000000-0000-4000-8000-000000000000"
ROUTES = [
    ("GET", "/connections/{}"),
    ("GET", "/connections/{}/token"),
    ("GET", "/connections/{}/token?min_seconds=3600"),
    ("POST", "/connections/{}/refresh"),
    ("POST", "/connections/{}/check"),
    ("GET", "/connections/{}/locations"),
    ("DELETE", "/connections/{}"),
    ("DELETE", "/connections/{}?uninstall=1"),
    *((method, "/connections/{}/proxy/x") for method in ("GET", "POST", "PUT", "PATCH", "DELETE")),
]


@pytest.fixture
def operator(gateway):
    """The operator's hands on the database, from another process than the one that serves."""
    gateway.sandbox.state.faults.clear()
    store = open_postgres(gateway.dsn)
    yield store
    queries.freeze(store, reads=True, off=True)
    queries.freeze(store, provider="ghl", off=True)
    store.close()
    gateway.sandbox.state.faults.clear()


@pytest.fixture
def alice(gateway, operator):
    return gateway.person("Alice Winter")


def shown(answer):
    """All of an answer that could tell something."""
    own = ("date", "server", "x-request-id")
    kept = {name: value for name, value in answer.headers.items() if name.lower() not in own}
    return answer.status_code, kept, without_request_id(answer)


def expires(gateway, connection):
    rows(
        gateway.dsn,
        "update gateway.connection set expires_at = now(), not_before = null, refresh_at = now() + interval '1 day' where id = %s",
        connection,
    )


def refreshes(gateway, provider):
    return [
        seen
        for seen in gateway.sandbox.state.requests(provider, "token")
        if seen["form"].get("grant_type") == "refresh_token"
    ]


# -- every key with every id -----------------------------------------------------------------------------------------


def test_every_id_is_one_of_the_callers_or_like_none(gateway, alice):
    """
    Each key and each user, with each id, on each route: out of reach and not there are one answer, to the byte; nothing happens.
    """
    bob = gateway.person("Bob Marsh")
    hers, his = alice.connects("ghl")["connection"], bob.connects("google")["connection"]
    crm, own = partner_of(gateway.dsn, providers=("ghl",)), partner_of(gateway.dsn, reach="own")
    own.consented(gateway.dsn, hers)
    headers = {
        "crm": {"Authorization": f"Bearer {crm.key}"},
        "own": {"Authorization": f"Bearer {own.key}"},
        "alice": {"Authorization": f"Bearer {alice.token()}"},
        "bob": {"Authorization": f"Bearer {bob.token()}"},
    }
    reach = {"crm": hers, "own": hers, "alice": hers, "bob": his}
    before = rows(
        gateway.dsn,
        "select id, generation, checked_at from gateway.connection where id in (%s, %s) order by id",
        hers,
        his,
    )

    for who, given in headers.items():
        foreign = {hers, his} - {reach[who]}
        for method, path in ROUTES:
            none = shown(
                requests.request(method, gateway.url + "/v1" + path.format(NOBODYS), headers=given, timeout=30)
            )
            assert 404 == none[0], (who, path)
            for connection in foreign:
                answer = requests.request(
                    method, gateway.url + "/v1" + path.format(connection), headers=given, timeout=30
                )
                assert none == shown(answer), (who, method, path)
        listed = requests.get(f"{gateway.url}/v1/connections", headers=given, timeout=30).json()["items"]
        assert not foreign & {each["id"] for each in listed}
        assert requests.get(f"{gateway.url}/v1/connections/{reach[who]}", headers=given, timeout=30).ok
    assert before == rows(
        gateway.dsn,
        "select id, generation, checked_at from gateway.connection where id in (%s, %s) order by id",
        hers,
        his,
    )


def test_the_matrix_knows_every_route_that_takes_a_connection(gateway, monkeypatch):
    """
    A route that is added later has to be in it.
    """
    for name, value in gateway.environ.items():
        monkeypatch.setenv(name, value)
    there = {
        (method, rule.rule.replace("<rest:path>", "x"))
        for rule in create_app().url_map.iter_rules()
        for method in set(rule.methods or ANY_METHOD) - {"HEAD", "OPTIONS"}
        if rule.rule.startswith("/v1/connections/")
    }

    assert there == {(method, "/v1" + urlsplit(path).path.format("<uuid:connection_id>")) for method, path in ROUTES}


def test_invalid_keys_get_the_same_response(gateway, alice):
    """
    Unknown, mistyped, expired, revoked, of a revoked partner, and from elsewhere: one answer, to the byte, on every route.
    """
    hers = alice.connects("ghl")["connection"]
    expired, revoked, gone = (partner_of(gateway.dsn) for _ in range(3))
    bound = partner_of(gateway.dsn, addresses=("192.0.2.0/24",))
    rows(gateway.dsn, "update gateway.api_key set expires_at = now() where partner_id = %s", expired.id)
    rows(gateway.dsn, "update gateway.api_key set revoked_at = now() where partner_id = %s", revoked.id)
    rows(gateway.dsn, "update gateway.partner set revoked_at = now() where id = %s", gone.id)
    unknown = make_key()
    keys = [unknown, unknown[:-1], "nonsense", expired.key, revoked.key, gone.key, bound.key]
    forwarded = {"X-Forwarded-For": "192.0.2.1", "Forwarded": "for=192.0.2.1"}

    for method, path in [*ROUTES[:2], *ROUTES[4:6], ("GET", "/connections"), ("GET", "/providers")]:
        said = [
            shown(
                requests.request(
                    method,
                    gateway.url + "/v1" + path.format(hers),
                    headers={"Authorization": f"Bearer {key}", **forwarded},
                    timeout=30,
                )
            )
            for key in keys
        ]
        assert 401 == said[0][0]
        assert all(each == said[0] for each in said), (method, path)


# -- what a key gets, and what it never gets -------------------------------------------------------------------------


def test_a_partner_reads_a_valid_token_and_is_named_in_the_events(gateway, alice):
    """
    The provider accepts the token; an expired one is refreshed first. Each read is recorded once, with its reader and
    without a secret.
    """
    hers = alice.connects("google")["connection"]
    made = partner_of(gateway.dsn)
    first = made.asks(gateway, f"/connections/{hers}/token")
    expires(gateway, hers)
    second = made.asks(gateway, f"/connections/{hers}/token")
    third = made.asks(gateway, f"/connections/{hers}/refresh", "POST")

    assert [200] * 3 == [answer.status_code for answer in (first, second, third)]
    tokens = [answer.json()["access_token"] for answer in (first, second, third)]
    assert 3 == len(set(tokens))
    assert "no-store" == first.headers["Cache-Control"]
    for answer in (first, second, third):
        assert gateway.sandbox.state.by_access[answer.json()["access_token"]]
    assert 3 == recorded_reads(gateway.dsn, partner_id=made.id, connection_id=hers)
    found = rows(gateway.dsn, "select user_id::text, provider from gateway.token_read where partner_id = %s", made.id)
    assert {(alice.id, "google")} == set(found)


def test_no_call_of_any_key_or_user_returns_a_refresh_token(gateway, alice):
    """
    All scopes and every route, through good days and failures: the only secret that leaves is the access token, by two calls.
    """
    made = partner_of(
        gateway.dsn,
        scope=(
            "connections:read",
            "connections:write",
            "tokens:read",
            "sessions:write",
            "events:read",
        ),
    )
    heard, tokens = [], []
    for provider in ("ghl", "google"):
        hers = alice.connects(provider)["connection"]
        for given in ({"Authorization": f"Bearer {made.key}"}, {"Authorization": f"Bearer {alice.token()}"}):
            paths = (
                "/connections",
                f"/connections?user_id={alice.id}",
                "/providers",
                "/events",
                f"/connections/{hers}",
            )
            heard += [requests.get(f"{gateway.url}/v1{path}", headers=given, timeout=30) for path in paths]
            heard.append(requests.get(f"{gateway.url}/openapi.json", headers=given, timeout=30))
            assert all(answer.ok for answer in heard[-len(paths) - 1 :])
            tokens.append(requests.get(f"{gateway.url}/v1/connections/{hers}/token", headers=given, timeout=30))
            tokens.append(requests.post(f"{gateway.url}/v1/connections/{hers}/refresh", headers=given, timeout=30))
            heard.append(requests.post(f"{gateway.url}/v1/connections/{hers}/check", headers=given, timeout=30))
            gateway.sandbox.state.add_fault("status", provider, "token", status=500)
            heard.append(requests.post(f"{gateway.url}/v1/connections/{hers}/refresh", headers=given, timeout=30))
            expires(gateway, hers)
        heard.append(made.asks(gateway, f"/connections/{hers}", "DELETE"))
    gateway.sandbox.state.faults.clear()

    state = gateway.sandbox.state
    said = "\n".join(f"{answer.headers}\n{answer.text}" for answer in heard)
    assert not [token for token in (*state.by_refresh, *state.by_access) if token in said]
    for answer in tokens:
        assert not [token for token in state.by_refresh if token in answer.text]
    assert any(answer.ok for answer in tokens)
    kept = "\n".join(map(str, rows(gateway.dsn, "select data from gateway.event")))
    assert not [token for token in (*state.by_refresh, *state.by_access, made.key) if token in kept]
    assert made.key not in gateway.log.read_text()


def test_a_key_without_the_scope_is_forbidden_whatever_it_requests(gateway, alice):
    """
    The same for an id that is there as for none; the providers are for any key, less those that it is not for.
    """
    hers = alice.connects("ghl")["connection"]
    made = partner_of(gateway.dsn, scope=("events:read",), providers=("google", "zoom"))

    for method, path in [*ROUTES, ("GET", "/connections")]:
        answers = [made.asks(gateway, path.format(connection), method) for connection in (hers, NOBODYS)]
        assert [403, 403] == [answer.status_code for answer in answers]
        assert without_request_id(answers[0]) == without_request_id(answers[1])
    assert {"google", "zoom"} == {each["id"] for each in made.asks(gateway, "/providers").json()["items"]}


def test_providers_are_listed_by_type_and_name(gateway):
    """
    On the page of connections too, where users look for one of many.
    """
    listed = partner_of(gateway.dsn).asks(gateway, "/providers").json()["items"]
    order = [(each["type"], each["name"].lower()) for each in listed]

    assert {1, 2, 3} <= {kind for kind, _ in order}
    assert sorted(order) == order


def test_a_list_is_read_to_its_end_by_the_cursor(gateway, alice):
    """
    Opaque, and refused where it is not one of ours; each filter narrows.
    """
    hers = {alice.connects(provider)["connection"] for provider in ("ghl", "google", "zoom")}
    made, found, query = partner_of(gateway.dsn), [], {"user_id": alice.id, "limit": 2}
    while True:
        page = made.asks(gateway, "/connections", params=query).json()
        found += [each["id"] for each in page["items"]]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]

    assert sorted(hers) == found
    (one,) = made.asks(gateway, "/connections", params={"user_id": alice.id, "provider": "google", "type": "2"}).json()[
        "items"
    ]
    assert ("google", alice.id, "active") == (one["provider"], one["user_id"], one["status"])
    assert [] == made.asks(gateway, "/connections", params={"user_id": alice.id, "type": "4"}).json()["items"]
    for cursor in ("x", "A" * 22 + "=", "A" * 21 + "B", hers.copy().pop().replace("-", "")):
        assert 400 == made.asks(gateway, "/connections", params={"cursor": cursor}).status_code


# -- what the operator decides is felt at once -----------------------------------------------------------------------


def test_a_freeze_or_a_revocation_holds_from_the_next_read_on(gateway, alice, operator):
    """
    Decided in another process than the one that serves, and asked for right afterwards: no process remembers a key.
    """
    hers = alice.connects("ghl")["connection"]
    made, other = partner_of(gateway.dsn), partner_of(gateway.dsn)
    path, mine = f"/connections/{hers}/token", {"Authorization": f"Bearer {alice.token()}"}

    def reads():
        owner = requests.get(f"{gateway.url}/v1{path}", headers=mine, timeout=30)
        return [answer.status_code for answer in (made.asks(gateway, path), other.asks(gateway, path), owner)]

    assert [200, 200, 200] == reads()
    queries.freeze(operator, partner=made.name)
    assert [403, 200, 200] == reads()
    assert "operator" == made.asks(gateway, path).json()["remedy"]
    queries.freeze(operator, partner=made.name, off=True)
    for what in ({"provider": "ghl"}, {"reads": True}):
        queries.freeze(operator, **what)
        assert [403, 403, 403] == reads()
        assert made.asks(gateway, f"/connections/{hers}").ok
        queries.freeze(operator, **what, off=True)
    assert [200, 200, 200] == reads()
    queries.revoke(operator, made.name)
    assert [401, 200, 200] == reads()


def test_a_partner_that_is_frozen_while_it_waits_gets_nothing_and_the_owner_does(gateway, alice, operator):
    """
    Both wait for one refresh; what it brings is judged for the partner once more.
    """
    hers = alice.connects("ghl")["connection"]
    made = partner_of(gateway.dsn)
    mine = {"Authorization": f"Bearer {alice.token()}"}
    expires(gateway, hers)
    before = len(refreshes(gateway, "ghl"))
    with ThreadPoolExecutor(2) as threads, held(gateway.sandbox, "ghl", "token"):
        leads = threads.submit(
            lambda: requests.get(f"{gateway.url}/v1/connections/{hers}/token", headers=mine, timeout=30)
        )
        wait_for(lambda: rows(gateway.dsn, "select lease_id from gateway.connection where id = %s", hers) != [None])
        follows = threads.submit(lambda: made.asks(gateway, f"/connections/{hers}/token"))
        wait_for(lambda: recorded_reads(gateway.dsn, partner_id=made.id))
        queries.freeze(operator, partner=made.name)

    assert (200, 403) == (leads.result().status_code, follows.result().status_code)
    assert before + 1 == len(refreshes(gateway, "ghl"))
    assert "frozen" in follows.result().json()["type"]


def test_a_partner_that_leads_a_refresh_and_is_frozen_leaves_those_who_wait_their_token(gateway, alice, operator):
    """
    Its own end is its own: the owner, who waited for what it led, is served.
    """
    hers = alice.connects("ghl")["connection"]
    made = partner_of(gateway.dsn)
    mine = {"Authorization": f"Bearer {alice.token()}"}
    expires(gateway, hers)
    with ThreadPoolExecutor(2) as threads, held(gateway.sandbox, "ghl", "token"):
        leads = threads.submit(lambda: made.asks(gateway, f"/connections/{hers}/token"))
        wait_for(lambda: rows(gateway.dsn, "select lease_id from gateway.connection where id = %s", hers) != [None])
        follows = threads.submit(
            lambda: requests.get(f"{gateway.url}/v1/connections/{hers}/token", headers=mine, timeout=30)
        )
        wait_for(lambda: recorded_reads(gateway.dsn, connection_id=hers) == 2)
        queries.freeze(operator, partner=made.name)

    assert (403, 200) == (leads.result().status_code, follows.result().status_code)


def test_what_ends_a_partners_refresh_is_not_reported_to_other_waiting_callers(gateway, alice, operator):
    """
    Frozen while it started a refresh that failed: the owner gets the provider's error.
    """
    hers = alice.connects("ghl")["connection"]
    made = partner_of(gateway.dsn)
    path, mine = f"{gateway.url}/v1/connections/{hers}/token", {"Authorization": f"Bearer {alice.token()}"}
    expires(gateway, hers)
    gateway.sandbox.state.add_fault("status", "ghl", "token", status=500)
    with ThreadPoolExecutor(2) as threads, held(gateway.sandbox, "ghl", "token"):
        leads = threads.submit(lambda: made.asks(gateway, f"/connections/{hers}/token"))
        wait_for(lambda: rows(gateway.dsn, "select lease_id from gateway.connection where id = %s", hers) != [None])
        follows = threads.submit(lambda: requests.get(path, headers=mine, timeout=30))
        wait_for(lambda: recorded_reads(gateway.dsn, connection_id=hers) == 2)
        queries.freeze(operator, partner=made.name)

    assert (403, 504) == (leads.result().status_code, follows.result().status_code)


def test_a_limit_is_reported_with_retry_after(gateway, alice, early):
    """
    429, Retry-After, and who must act: time.
    """
    hers = alice.connects("ghl")["connection"]
    made = partner_of(gateway.dsn, reads_per_hour=2)
    answers = [made.asks(gateway, f"/connections/{hers}/token") for _ in range(3)]

    assert [200, 200, 429] == [answer.status_code for answer in answers]
    assert 1 <= int(answers[2].headers["Retry-After"]) <= 7200
    assert "wait" == answers[2].json()["remedy"]
    assert (2, 2) == (answers[2].json()["limit"], answers[2].json()["used"])
    assert [("2", "1"), ("2", "0"), ("2", "0")] == [quota_of(each) for each in answers]


def quota_of(answer):
    return answer.headers.get("RateLimit-Limit"), answer.headers.get("RateLimit-Remaining")


def test_each_answer_that_counts_says_how_much_is_left(gateway, alice, early):
    """
    Token, refresh, proxy, link and check; as a problem says it too. No limit, no header; what is not counted has none either.
    """
    hers = alice.connects("ghl")["connection"]
    made, unlimited = partner_of(gateway.dsn, reads_per_hour=100), partner_of(gateway.dsn)
    wanted = {"user_id": alice.id, "provider": "google"}
    calls = {
        ("99", "100"): ("GET", f"/connections/{hers}/token"),
        ("98", "100"): ("POST", f"/connections/{hers}/refresh"),
        ("97", "100"): ("GET", f"/connections/{hers}/proxy/locations/x"),
        ("0", "1"): ("POST", f"/connections/{hers}/check"),
        (None, None): ("GET", f"/connections/{hers}"),
    }
    for (left, most), (method, path) in calls.items():
        answer = made.asks(gateway, path, method)
        assert (most, left) == quota_of(answer), (path, answer.text)
        assert left is None or 0 < int(answer.headers["RateLimit-Reset"]) <= 3600
    assert ("20", "19") == quota_of(made.asks(gateway, "/connect-sessions", "POST", json=wanted))
    assert ("20", "18") == quota_of(made.asks(gateway, "/connect-sessions", "POST", json=wanted))
    assert (None, None) == quota_of(unlimited.asks(gateway, f"/connections/{hers}/token"))
    checked = made.asks(gateway, f"/connections/{hers}/check", "POST")
    left = datetime.fromisoformat(checked.json()["resets_at"]) - datetime.now(UTC)
    assert (429, 1, 1) == (checked.status_code, checked.json()["limit"], checked.json()["used"])
    assert abs(left.total_seconds() - int(checked.headers["Retry-After"])) < 30
    assert checked.headers["Retry-After"] == checked.headers["RateLimit-Reset"]
    alices = {"Authorization": f"Bearer {alice.token()}"}
    assert ("3600", "3599") == quota_of(
        requests.get(f"{gateway.url}/v1/connections/{hers}/token", headers=alices, timeout=30)
    )
    often = [unlimited.asks(gateway, f"/connections/{hers}/refresh", "POST") for _ in range(10)][-1]
    assert (429, 10, 10) == (often.status_code, often.json()["limit"], often.json()["used"])


# -- leaving and checking --------------------------------------------------------------------------------------------


def test_partners_share_a_connection_until_the_last_of_them_leaves(gateway, alice):
    """
    The first to disconnect ends its own access: kept, and not uninstalled. The one that it was made for erases it,
    and it is revoked.
    """
    hers = alice.connects("zoom")["connection"]
    first, second = partner_of(gateway.dsn, reach="own"), partner_of(gateway.dsn, reach="own")
    first.consented(gateway.dsn, hers)
    second.consented(gateway.dsn, hers, made=True)
    token = second.asks(gateway, f"/connections/{hers}/token").json()["access_token"]
    assert token == first.asks(gateway, f"/connections/{hers}/token").json()["access_token"]

    left = first.asks(gateway, f"/connections/{hers}?uninstall=1", "DELETE")

    assert (200, "kept") == (left.status_code, left.json()["revocation"])
    assert "uninstall" not in left.json()
    assert [404, 404] == [first.asks(gateway, f"/connections/{hers}{path}").status_code for path in ("", "/token")]
    assert token == second.asks(gateway, f"/connections/{hers}/token").json()["access_token"]
    gone = second.asks(gateway, f"/connections/{hers}", "DELETE")
    assert (200, "done") == (gone.status_code, gone.json()["revocation"])
    assert 404 == second.asks(gateway, f"/connections/{hers}").status_code
    assert hers not in alice.get("/connections").text


def test_a_check_asks_the_provider_whose_account_it_is(gateway, alice):
    """
    Confirmed it stays; a second one within the minute waits.
    """
    hers = alice.connects("ghl")["connection"]
    made = partner_of(gateway.dsn, scope=("connections:read",))
    before = len(gateway.sandbox.state.requests("ghl", "userinfo"))

    answer = made.asks(gateway, f"/connections/{hers}/check", "POST")

    assert (200, hers, "active") == (answer.status_code, answer.json()["id"], answer.json()["status"])
    assert before + 1 == len(gateway.sandbox.state.requests("ghl", "userinfo"))
    assert [{"outcome": "confirmed"}] == events(gateway.dsn, "connection.checked", partner_id=made.id)
    again = made.asks(gateway, f"/connections/{hers}/check", "POST")
    assert 429 == again.status_code
    assert 1 <= int(again.headers["Retry-After"]) <= 60
    assert 0 == recorded_reads(gateway.dsn, connection_id=hers)


@pytest.mark.parametrize(
    ("refusals", "withdrawn", "status", "requests_"),
    [(1, False, "active", 1), (2, False, "active", 1), (1, True, "needs_reauthorization", 1)],
)
def test_a_token_that_the_provider_refuses_is_refreshed_once(gateway, alice, refusals, withdrawn, status, requests_):
    """
    Only if the grant is refused, its owner has to connect again: a refused access token says nothing about it.
    """
    hers = alice.connects("google")["connection"]
    before = len(refreshes(gateway, "google"))
    gateway.sandbox.state.add_fault("status", "google", "userinfo", refusals, status=401)
    if withdrawn:
        gateway.sandbox.state.withdraw("google")

    answer = requests.post(
        f"{gateway.url}/v1/connections/{hers}/check", headers={"Authorization": f"Bearer {alice.token()}"}, timeout=30
    )

    assert (200, status) == (answer.status_code, answer.json()["status"])
    assert before + requests_ == len(refreshes(gateway, "google"))
    assert [status] == rows(gateway.dsn, "select status from gateway.connection where id = %s", hers)


def test_a_token_of_another_account_ends_the_connection(gateway, alice):
    """
    What the provider says of the account is compared, and not only whether it takes the token.
    """
    hers = alice.connects("google")["connection"]
    rows(gateway.dsn, "update gateway.connection set account_id = 'somebody else' where id = %s", hers)

    answer = requests.post(
        f"{gateway.url}/v1/connections/{hers}/check", headers={"Authorization": f"Bearer {alice.token()}"}, timeout=30
    )

    assert (200, "needs_reauthorization") == (answer.status_code, answer.json()["status"])
    assert [{"reason": "another_account"}] == events(
        gateway.dsn, "connection.needs_reauthorization", connection_id=hers
    )


def test_a_provider_that_is_away_tells_nothing_of_a_connection(gateway, alice):
    """
    It stays as it is, and the caller may ask later.
    """
    hers = alice.connects("google")["connection"]
    gateway.sandbox.state.add_fault("status", "google", "userinfo", status=503)

    answer = requests.post(
        f"{gateway.url}/v1/connections/{hers}/check", headers={"Authorization": f"Bearer {alice.token()}"}, timeout=30
    )

    assert (504, "wait") == (answer.status_code, answer.json()["remedy"])
    assert ["active"] == rows(gateway.dsn, "select status from gateway.connection where id = %s", hers)


@pytest.mark.parametrize(
    "said",
    [
        {"status": 204, "body": ""},
        {"status": 302, "location": "https://elsewhere.example/", "body": ""},
        {"status": 404},
        {"status": 200, "body": "{}", "content_type": "application/json"},
        {"status": 200, "body": "<h1>Maintenance</h1>", "content_type": "text/html"},
    ],
    ids=["204", "302", "404", "names nobody", "html"],
)
def test_an_unusable_response_changes_nothing(gateway, alice, said):
    """
    It does not mean that the connection works; nor does it end anything.
    """
    hers = alice.connects("google")["connection"]
    gateway.sandbox.state.add_fault("status", "google", "userinfo", **said)

    answer = _checked(gateway, alice, hers)

    assert (502, "provider_garbled") == (answer.status_code, answer.json()["type"].rsplit("/", 1)[-1])
    assert ["active"] == rows(gateway.dsn, "select status from gateway.connection where id = %s", hers)
    assert {"outcome": "confirmed"} not in events(gateway.dsn, "connection.checked", connection_id=hers)


def test_a_token_that_does_not_reach_the_account_is_taken_all_the_same(gateway, alice):
    """
    RFC 6750 section 3.1: 403 is about the scope.
    """
    hers = alice.connects("google")["connection"]
    gateway.sandbox.state.add_fault("status", "google", "userinfo", status=403)

    answer = _checked(gateway, alice, hers)

    assert (200, "active") == (answer.status_code, answer.json()["status"])
    assert [{"outcome": "unknown"}] == events(gateway.dsn, "connection.checked", connection_id=hers)


def test_an_account_that_the_id_token_alone_names_is_let_be(gateway, alice):
    """
    Microsoft's tenant and object are not in what its account endpoint says: that is no fault of the connection.
    """
    hers = alice.connects("microsoft")["connection"]

    answer = _checked(gateway, alice, hers)

    assert (200, "active") == (answer.status_code, answer.json()["status"])
    assert {"outcome": "refused"} not in events(gateway.dsn, "connection.checked", connection_id=hers)


def test_a_check_is_over_within_ten_seconds_whatever_hangs(gateway, alice):
    """
    A refused token is renewed. Where the provider takes too long for that, the check ends and the refresh goes on.
    """
    hers, others = alice.connects("google")["connection"], alice.connects("microsoft")["connection"]
    gateway.sandbox.state.add_fault("status", "google", "userinfo", status=401)
    before = len(refreshes(gateway, "microsoft"))
    gateway.sandbox.state.add_fault("slow", "microsoft", "userinfo", seconds=3)
    gateway.sandbox.state.add_fault("status", "microsoft", "userinfo", status=401)

    with ThreadPoolExecutor(2) as threads, held(gateway.sandbox, "google", "token"):
        began = time.monotonic()
        renewed, late = threads.map(lambda row: _checked(gateway, alice, row), (hers, others))
        took = time.monotonic() - began

    assert (503, "wait") == (renewed.status_code, renewed.json()["remedy"])
    assert took < 20  # the provider would be waited for longer
    assert (200, "active") == (late.status_code, late.json()["status"])
    assert before + 1 == len(refreshes(gateway, "microsoft"))
    wait_for(lambda: [2] == rows(gateway.dsn, "select generation from gateway.connection where id = %s", hers))


def _checked(gateway, user, connection_id):
    return requests.post(
        f"{gateway.url}/v1/connections/{connection_id}/check",
        headers={"Authorization": f"Bearer {user.token()}"},
        timeout=30,
    )
