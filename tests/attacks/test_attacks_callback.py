"""
The callback under attack: another browser, another user, a second time, too late, at the wrong door.

Each attack ends in a page, no token request and no row. A stranger does not use an attempt up.
RFC 6749 section 10.12, RFC 9700 sections 2.1 and 4.7.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from urllib.parse import urlsplit

import pytest
import requests

from tests.support.attack_helpers import asked, owned, problem, redeemed, refusals, state_row
from tests.support.database import rows
from tests.support.gateway_process import told

CALLBACKS = {
    "ghl": "/crm/main/callback",
    "google": "/email/google/callback",
    "ringcentral": "/phone/ringcentral/callback",
}


# -- another browser, another user ------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", sorted(CALLBACKS))
@pytest.mark.parametrize("victim", ["signed in", "in a flow of their own", "nobody", "the same user elsewhere"])
def test_a_callback_in_another_browser_redeems_nothing(gateway, alice, bob, provider, victim):
    """
    Login CSRF: no token request, no row for either, and the refusal is on record.
    """
    callback = alice.consents(provider)
    opener = {"nobody": gateway.person("Bob Marsh"), "the same user elsewhere": alice.elsewhere()}.get(victim, bob)
    if victim == "in a flow of their own":
        opener.begins(provider)
    if victim == "the same user elsewhere":
        opener.signs_in()

    answer = opener.get(callback)

    assert (403, "browser_mismatch") == (answer.status_code, problem(answer))
    assert 0 == redeemed(gateway, callback) == owned(gateway, alice, bob)
    assert ["browser_mismatch"] == refusals(gateway, alice)


@pytest.mark.parametrize("first", ["another browser", "another user", "a link scanner"])
def test_a_wrong_callback_does_not_use_the_attempt_up(gateway, alice, bob, first):
    """
    However often it comes, the right browser and user finish afterwards, once; the refusal is recorded once.
    """
    callback = alice.consents("google")
    opener = {"another browser": alice.elsewhere(), "another user": bob}.get(first, gateway.person("Bob Marsh"))
    if first == "another browser":
        opener.signs_in()
    if first == "another user":
        opener.browser.cookies.set("gateway-browser", alice.browser.cookies["gateway-browser"])

    refused = [opener.get(callback) for _ in range(3)]

    slug = "user_mismatch" if first == "another user" else "browser_mismatch"
    assert [(403, slug)] * 3 == [(answer.status_code, problem(answer)) for answer in refused]
    assert [slug] == refusals(gateway, alice)
    assert 0 == redeemed(gateway, callback)
    assert "connection" in told(alice.get(callback))
    assert "state_invalid" == problem(opener.get(callback))
    assert 1 == redeemed(gateway, callback)


def test_the_providers_address_sent_to_a_victim_ends_there(gateway, alice, bob):
    """
    Session fixation across users: Bob follows Alice's address at the provider, says yes there, and nothing is Alice's.
    """
    sent = alice.begins("google")
    callback = gateway.sandbox.consents(sent, "117003288451920047733")

    answer = bob.get(callback)

    assert "browser_mismatch" == problem(answer)
    assert 0 == redeemed(gateway, callback) == owned(gateway, alice, bob)


@pytest.mark.parametrize("returning", ["another user", "nobody"])
def test_the_binding_cookie_alone_finishes_nothing(gateway, alice, bob, returning):
    """
    Even with the cookie of Alice's attempt, the signed-in user must be Alice.
    """
    callback = alice.consents("google")
    opener = bob if returning == "another user" else gateway.person("Bob Marsh")
    opener.browser.cookies.set("gateway-browser", alice.browser.cookies["gateway-browser"])

    answer = opener.get(callback)

    assert (403, "user_mismatch") == (answer.status_code, problem(answer))
    assert ["user_mismatch"] == refusals(gateway, alice)
    assert 0 == redeemed(gateway, callback) == owned(gateway, alice, opener)


def test_a_session_that_was_ended_meanwhile_finishes_nothing(gateway, alice):
    """
    Signed out by the server between leaving and coming back: the code is not redeemed.
    """
    callback = alice.consents("ringcentral")
    rows(gateway.dsn, "delete from gateway.session where user_id = %s", alice.id)

    assert "user_mismatch" == problem(alice.get(callback))
    assert 0 == redeemed(gateway, callback) == owned(gateway, alice)


# -- a second time, too late, another state ----------------------------------------------------------------------------


@pytest.mark.parametrize("cookies", ["those of now", "those from before the callback"])
def test_a_callback_serves_once(gateway, alice, cookies):
    """
    The state is one-time in the database: its browser sees the result again, and nothing is redeemed or saved a second time.
    """
    callback = alice.consents("google")
    saved = alice.browser.cookies.copy()
    first = alice.get(callback)
    if cookies != "those of now":
        alice.browser.cookies = saved

    answer = alice.get(f"{callback}&more=1")

    assert "connection" in told(first)
    assert (303, first.headers["Location"]) == (answer.status_code, answer.headers["Location"])
    assert [1] == rows(gateway.dsn, "select generation from gateway.connection where user_id = %s", alice.id)
    assert 1 == redeemed(gateway, callback)


@pytest.mark.parametrize("at_once", [10, 20])
def test_callbacks_at_once_redeem_one_code_once(gateway, alice, at_once):
    """
    However many come together, the provider sees one token request, and all are answered with its connection.
    """
    callback = alice.consents("ringcentral")
    cookies, gate = alice.browser.cookies.get_dict(), Barrier(at_once)

    def opened(_):
        gate.wait(60)
        return requests.get(callback, cookies=cookies, allow_redirects=False, timeout=30)

    with ThreadPoolExecutor(at_once) as pool:
        answers = list(pool.map(opened, range(at_once)))

    assert {303} == {answer.status_code for answer in answers}
    assert 1 == len({answer.headers["Location"] for answer in answers})
    assert 1 == redeemed(gateway, callback)
    assert 2 == owned(gateway, alice)


def test_a_state_of_eleven_minutes_is_too_old(gateway, alice):
    """
    An attempt lives ten minutes by the database's clock, and is gone after being refused.
    """
    callback = alice.consents("google")
    digest = hashlib.sha256(asked(callback)["state"].encode()).hexdigest()
    older = "update gateway.authorization_request set created_at = created_at - interval '11 minutes',"
    rows(gateway.dsn, older + " expires_at = expires_at - interval '11 minutes' where state_hash = %s", digest)

    assert "state_invalid" == problem(alice.get(callback))
    assert 0 == redeemed(gateway, callback) == owned(gateway, alice)


@pytest.mark.parametrize("query", ["", "state=", "state=chosen", "state=%00", "state=" + "x" * 5000])
def test_a_state_that_was_not_ours_is_refused(gateway, alice, query):
    """
    None, an empty one, an invented one: a page, and no provider's error is read before.
    """
    answer = alice.get(f"/email/google/callback?code=any&error=access_denied&{query}")

    assert (400, "state_invalid") == (answer.status_code, problem(answer))


def test_a_state_chosen_by_the_link_is_not_used(gateway, alice):
    """
    Nothing in the query of a connect link reaches the provider: state, redirect_uri, client_id and scope are ours.
    """
    chosen = {
        "state": "chosen-by-me",
        "redirect_uri": "https://evil.example/cb",
        "client_id": "mine",
        "scope": "everything",
    }
    chosen |= {"code_challenge": "x" * 43, "code_challenge_method": "plain", "nonce": "n", "response_type": "token"}

    sent = asked(alice.begins("google", **chosen))

    assert f"{gateway.url}/email/google/callback" == sent["redirect_uri"]
    assert "sandbox-google" == sent["client_id"]
    assert ("S256", "code") == (sent["code_challenge_method"], sent["response_type"])
    assert not set(chosen.values()) & {sent[name] for name in ("state", "code_challenge", "nonce", "scope")}
    assert len(sent["state"]) >= 43


@pytest.mark.parametrize("name", ["state", "code", "iss", "error"])
def test_a_repeated_parameter_is_refused(gateway, alice, name):
    """
    RFC 6749 section 3.1: which of the two would be believed must not matter, so neither is.
    """
    callback = alice.consents("google")
    other = {"state": "another", "code": "another", "iss": "https://evil.example", "error": "access_denied"}[name]
    twice = f"&{name}={other}" + (f"&{name}={other}" if name == "error" else "")

    for address in (callback + twice, callback.replace("?", f"?{name}={other}&")):
        answer = alice.get(address)
        assert 400 == answer.status_code
        assert problem(answer) in ("state_invalid", "issuer_mismatch")
    assert 0 == redeemed(gateway, callback) == owned(gateway, alice)


@pytest.mark.parametrize("provider", sorted(CALLBACKS))
def test_the_state_of_one_provider_does_not_serve_at_anothers_callback(gateway, alice, provider):
    """
    One redirect URI a provider: the code of one is never sent to another, and the attempt is over (CORF).
    """
    callback = alice.consents(provider)
    query = urlsplit(callback).query

    doors = [f"{door}?{query}" for name, door in CALLBACKS.items() if name != provider] + [
        f"/crm/nobody/callback?{query}"
    ]
    assert {"state_invalid"} == {problem(alice.get(door)) for door in doors}

    assert "state_invalid" == problem(alice.get(callback))
    assert 0 == redeemed(gateway, callback) == owned(gateway, alice)


def test_a_posted_callback_fails_closed(gateway, alice):
    """
    form_post from another site comes without the Lax cookie; it is not offered, and does not use the state up.
    """
    callback = alice.consents("google")
    address = f"{gateway.url}{urlsplit(callback).path}"

    posted = requests.post(address, data=asked(callback), headers={"Origin": "null"}, allow_redirects=False, timeout=30)
    in_query = alice.post(callback, headers={"Origin": "https://accounts.google.com", "Sec-Fetch-Site": "cross-site"})

    assert (405, 405) == (posted.status_code, in_query.status_code)
    assert 0 == redeemed(gateway, callback)
    assert 1 == state_row(gateway, callback)


def test_a_head_request_redeems_nothing(gateway, alice):
    """
    HEAD is safe (RFC 9110 section 9.2.1): what scans links with it neither connects nor uses an attempt up.
    """
    callback = alice.consents("google")

    alice.browser.head(callback, allow_redirects=False, timeout=30)

    assert 0 == redeemed(gateway, callback)
    assert "connection" in told(alice.get(callback))
