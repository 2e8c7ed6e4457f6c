"""
Links of partners, attacked with two browsers: another user's link goes no further, and opening it does not use it up.
"""

from __future__ import annotations

import re
import threading
import uuid

import pytest

from tests.support.attack_helpers import asked, owned, problem, redeemed, refusals
from tests.support.database import rows
from tests.support.gateway_process import fields_in, told
from tests.support.link_partner import consents, new_partner, presses

SECRET = re.compile(r"/link/([A-Za-z0-9_-]{43})$")


def started(gateway, link):
    return rows(gateway.dsn, "select started_at is not null from gateway.connect_session where id = %s", link["id"])[0]


def attempts(gateway, person):
    return rows(gateway.dsn, "select count(*) from gateway.authorization_request where user_id = %s", person.id)[0]


def events(gateway, person):
    found = "select type from gateway.event where user_id = %s order by at, type"
    return rows(gateway.dsn, found, person.id)


# -- tags --------------------------------------------------------------------------------------------------------------


def tags_seen(partner, query=""):
    listed = partner.calls("GET", f"/v1/connections{query}")
    assert 200 == listed.status_code, listed.text
    return {each["id"]: each["tags"] for each in listed.json()["items"]}


def test_tags_of_a_link_are_in_the_connection_its_events_and_the_filter(gateway, acme, alice, bob):
    """
    Also where the partner completes it, and in the last event; a later link without tags leaves them.
    """
    tags = {"customer": "4711", "plan.name": "größer: als"}
    alice.signs_in()
    here = told(alice.get(consents(alice, acme.makes(alice, tags=tags)["url"])))["connection"]
    back = told(bob.get(consents(bob, acme.makes(bob, tags={"customer": "4712"})["url"])))
    assert {"customer": "4712"} in tags_seen(acme).values()  # pending
    there = acme.completes(back["connect_session"], bob, back["confirmation"]).json()
    alice.get(consents(alice, acme.makes(alice)["url"]))

    assert {"customer": "4712"} == there["tags"]
    assert tags == acme.calls("GET", f"/v1/connections/{here}").json()["tags"]
    assert (
        {here: tags}
        == tags_seen(acme, "?tag=customer:4711")
        == tags_seen(acme, "?tag=plan.name:gr%C3%B6%C3%9Fer:%20als")
    )
    assert {} == tags_seen(acme, "?tag=customer:471")
    acme.calls("DELETE", f"/v1/connections/{here}")
    rows(gateway.dsn, "select public.gateway_assign_positions_v1(1000)")
    told_of = [each for each in all_events(acme) if each["connection_id"] == here]
    assert {"connection.created", "consent.given", "connection.disconnected"} <= {each["type"] for each in told_of}
    assert [tags] * len(told_of) == [each["data"]["tags"] for each in told_of]


def all_events(partner):
    found, after = [], 0
    while after is not None:
        page = partner.calls("GET", f"/v1/events?after={after}").json()
        found, after = found + page["items"], page["next_cursor"]
    return found


def test_tags_of_one_partner_are_hidden_from_another_and_shown_to_the_product(gateway, acme, alice):
    """
    Partners that share a connection name it for themselves; neither replaces the other's tags, and events show no others either.
    """
    other, product = new_partner(gateway), new_partner(gateway, reach="all")
    alice.signs_in()
    here = told(alice.get(consents(alice, acme.makes(alice, tags={"customer": "1"})["url"])))["connection"]
    alice.get(consents(alice, other.makes(alice, tags={"account": "2"})["url"]))
    acme.calls("POST", f"/v1/connections/{here}/check")
    rows(gateway.dsn, "select public.gateway_assign_positions_v1(1000)")

    assert [{"customer": "1"}, {"account": "2"}] == [tags_seen(each)[here] for each in (acme, other)]
    assert {"customer": "1", "account": "2"} == tags_seen(product, "?tag=customer:1")[here]
    assert {} == tags_seen(other, "?tag=customer:1")
    assert "customer" not in str(all_events(other))
    assert {"customer": "1", "account": "2"} in [each["data"].get("tags") for each in all_events(product)]


@pytest.mark.parametrize(
    "tags",
    [{str(at): "x" for at in range(11)}, {"a b": "x"}, {"": "x"}, {"a" * 41: "x"}, {"a": ""}, {"a": "x" * 101}, {"a": 1}, {"a": None},
     {"a": "\0"}, {"a": {"b": "c"}}, ["a"], "a", {"a:b": "x"}],
)  # fmt: skip
def test_tags_are_few_short_pairs_of_text(acme, alice, tags):
    """
    Anything else is refused, and the field is named.
    """
    asked = {"user_id": alice.id, "provider": "google", "tags": tags}
    refused = acme.calls("POST", "/v1/connect-sessions", json=asked)

    assert (400, ["tags"]) == (refused.status_code, [each["field"] for each in refused.json()["errors"]])


# -- made ------------------------------------------------------------------------------------------------------------


def test_a_link_has_a_secret_that_the_database_does_not_know(gateway, acme, alice):
    """
    256 bits, of which only a hash is kept; for fifteen minutes.
    """
    link = acme.makes(alice)
    secret = SECRET.search(link["url"])[1]

    assert {"id", "url", "expires_at"} == set(link)
    assert link["url"] == f"{gateway.url}/link/{secret}"
    ((kept, minutes),) = rows(
        gateway.dsn,
        "select to_jsonb(s)::text, extract(epoch from s.expires_at - s.created_at) / 60 from gateway.connect_session s where id = %s",
        link["id"],
    )
    assert secret not in kept
    assert 15 == pytest.approx(float(minutes), abs=0.01)
    assert ["link.created"] == events(gateway, alice)


@pytest.mark.parametrize(
    ("changed", "status", "slug"),
    [
        ({"return_to": "https://evil.example/"}, 400, "return_to_refused"),
        ({"return_to": "javascript:alert(1)"}, 400, "return_to_refused"),
        ({"provider": "nowhere"}, 404, "not_found"),
        ({"user_id": "somebody"}, 400, "bad_request"),
        ({"user_id": None}, 400, "bad_request"),
        ({"scope": "contacts.readonly"}, 400, "bad_request"),
        ({"scope": ["two words"]}, 400, "bad_request"),
        ({"scope": ['quo"te']}, 400, "bad_request"),
        ({"scope": ["x"] * 51}, 400, "bad_request"),
        ({"redirect_uri": "https://evil.example/"}, 400, "bad_request"),
        ({"return_to": 5}, 400, "bad_request"),
    ],
)
def test_a_link_is_made_of_what_fits_and_of_nothing_else(gateway, acme, alice, changed, status, slug):
    """
    An unknown field, a wrong type, too many scopes, another origin: refused, and nothing is kept.
    """
    given = {"user_id": alice.id, "provider": "google"} | changed
    body = {name: value for name, value in given.items() if value is not None}
    answer = acme.calls("POST", "/v1/connect-sessions", json=body)

    assert (status, f"{gateway.url}/problems/{slug}") == (answer.status_code, answer.json()["type"])
    assert [] == rows(gateway.dsn, "select 1 from gateway.connect_session where user_id = %s", alice.id)


def test_a_name_that_is_repeated_in_a_body_is_refused_and_named(gateway, acme, alice):
    """It is unclear which of the two was meant (RFC 8259 section 4)."""
    body = f'{{"user_id": "{alice.id}", "provider": "google", "provider": "ghl"}}'
    answer = acme.calls("POST", "/v1/connect-sessions", data=body, headers={"Content-Type": "application/json"})

    assert (400, ["provider"]) == (answer.status_code, [each["field"] for each in answer.json()["errors"]])


def test_only_a_partner_with_the_scope_makes_links_and_only_to_its_own_providers(gateway, alice):
    """
    A key without the scope, a key for another provider, a user's token and no key; an invalid key is reported before
    any mistake in the request.
    """
    body = {"user_id": alice.id, "provider": "google"}
    reader = new_partner(gateway, scope=["tokens:read"])
    elsewhere = new_partner(gateway, providers=["ghl"])
    bearer = {"Authorization": f"Bearer {alice.token()}"}

    def status(partner, body=body, **more):
        return partner.calls("POST", "/v1/connect-sessions", json=body, **more).status_code

    assert [403, 404, 403, 401] == [
        status(reader),
        status(elsewhere),
        status(reader, headers=bearer),
        status(reader, headers={"Authorization": ""}),
    ]
    revoked = new_partner(gateway)
    rows(gateway.dsn, "update gateway.api_key set revoked_at = now() where partner_id = %s", revoked.id)
    assert [401, 401] == [status(revoked), status(revoked, {"unknown": 1})]
    assert 403 == status(reader, {"unknown": 1})


def test_a_link_for_a_banned_user_does_not_work(gateway, acme, alice):
    """
    It is not made; one that was made before is not opened any more.
    """
    link = acme.makes(alice)
    rows(gateway.dsn, "update auth.users set banned_until = 'infinity' where id = %s", alice.id)

    again = acme.calls("POST", "/v1/connect-sessions", json={"user_id": alice.id, "provider": "google"})

    assert 404 == again.status_code
    assert 400 == alice.get(link["url"]).status_code


# -- looked at -------------------------------------------------------------------------------------------------------


def test_the_page_names_the_partner_the_scopes_and_whose_link_it_is(acme, alice, bob):
    """
    In plain words what the partner will be able to do; signed in by one's own name, to strangers masked.
    """
    alice.signs_in()
    link = acme.makes(alice, scope=["https://www.googleapis.com/auth/calendar.readonly"])

    mine, strangers = alice.get(link["url"]).text, bob.get(link["url"]).text

    for page in (mine, strangers):
        assert acme.name in page
        assert "calendar.readonly" in page
        assert "Use Gmail as you" in page
    assert alice.user.email in mine
    assert alice.user.email not in strangers
    assert "a•••@" in strangers
    assert 'id="unknown"' in strangers
    assert 'id="unknown"' not in mine


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_opening_a_link_does_not_use_it_up(gateway, acme, alice, method):
    """
    Link scanners, prefetching browsers and previews, five times over: the link starts afterwards as before.
    """
    link = acme.makes(alice)
    for _ in range(5):
        alice.browser.request(method, link["url"], allow_redirects=False, timeout=30, headers={"Purpose": "prefetch"})

    assert not started(gateway, link)
    assert 0 == attempts(gateway, alice)
    assert 303 == presses(alice, link["url"]).status_code


@pytest.mark.parametrize(
    "query",
    [
        "return_to=https://evil.example/",
        "user_id=00000000-0000-4000-8000-000000000000",
        "provider=ghl",
        "scope=everything",
        "display=popup",
        "partner=Northwind",
        "state=x&code=y",
        "another=1",
    ],
)
def test_no_query_changes_what_a_link_does(gateway, acme, alice, query):
    """
    Nor does a field that its form does not have: provider, scopes, user, partner and return address are the database's.
    """
    link = acme.makes(alice)
    page = alice.get(f"{link['url']}?{query}")
    extra = dict(pair.split("=", 1) for pair in query.split("&"))

    away = alice.post(f"{link['url']}?{query}", fields_in(page.text.split('id="link"')[1]) | extra)

    sent = asked(away.headers["Location"])
    assert (f"{gateway.url}/email/google/callback", "everything" in sent["scope"]) == (sent["redirect_uri"], False)
    assert away.headers["Location"].startswith(f"{gateway.sandbox.origin}/google/")
    back = alice.get(gateway.sandbox.consents(away.headers["Location"]))
    assert back.headers["Location"].startswith(f"{gateway.sandbox.origin}/back?")
    kept = rows(
        gateway.dsn, "select user_id::text from gateway.pending_grant where connect_session_id = %s", link["id"]
    )
    assert [alice.id] == kept


@pytest.mark.parametrize("secret", ["x", "x" * 43, "x" * 200, "..%2f..", "%00" * 43])
def test_a_secret_that_is_none_opens_nothing(gateway, alice, secret):
    """
    Unknown, short, long or strange: one page, and no form.
    """
    page = alice.get(f"/link/{secret}")

    assert 'id="link"' not in page.text
    assert page.status_code in (400, 404)


# -- started ---------------------------------------------------------------------------------------------------------


def test_another_signed_in_user_is_refused_before_any_redirect(gateway, acme, alice, bob):
    """
    The attacker's link in the victim's browser: page and form show the link's user, masked; the link is not used up.
    """
    alice.signs_in()
    bob.signs_in()
    link = acme.makes(alice)
    stranger = gateway.person("Bob Marsh", user_id=bob.id)
    page = stranger.get(link["url"])
    stranger.signs_in()

    looked = stranger.get(link["url"])
    pressed = stranger.post(link["url"], fields_in(page.text.split('id="link"')[1]))

    for answer in (looked, pressed):
        assert (403, "user_mismatch") == (answer.status_code, problem(answer))
        assert "Location" not in answer.headers
        assert "a•••@" in answer.text
        assert alice.user.email not in answer.text
    assert not started(gateway, link)
    assert ["user_mismatch"] == refusals(gateway, alice)
    assert 303 == presses(alice, link["url"]).status_code


def test_a_link_starts_once_however_many_press_at_once(gateway, acme, alice):
    """
    Ten posts of the same form at the same moment: one goes to the provider, nine get "already used".
    """
    link = acme.makes(alice)
    fields = fields_in(alice.get(link["url"]).text.split('id="link"')[1])
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(alice.post(link["url"], fields))) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [303] + 9 * [400] == sorted(answer.status_code for answer in answers)
    assert {"state_invalid", None} == {problem(answer) for answer in answers}
    assert 1 == attempts(gateway, alice)
    assert 400 == alice.get(link["url"]).status_code


def test_an_old_link_is_like_a_used_one(gateway, acme, alice):
    """
    After fifteen minutes, at the page and at the form.
    """
    link = acme.makes(alice)
    fields = fields_in(alice.get(link["url"]).text.split('id="link"')[1])
    rows(gateway.dsn, "update gateway.connect_session set expires_at = now() where id = %s", link["id"])

    assert ["state_invalid"] * 2 == [problem(alice.get(link["url"])), problem(alice.post(link["url"], fields))]
    told = alice.get(link["url"]).text
    assert "older than 15 minutes" in told
    assert "HTTP status" not in told


def test_the_form_is_of_this_browser_and_this_link_alone(gateway, acme, alice, bob):
    """
    Without its mark, with another link's, in another browser or from another site, nothing starts.
    """
    link, other = acme.makes(alice), acme.makes(alice)
    fields = fields_in(alice.get(link["url"]).text.split('id="link"')[1])
    others = fields_in(alice.get(other["url"]).text.split('id="link"')[1])
    bob.get(link["url"])

    tries = [
        alice.post(link["url"], {}),
        alice.post(link["url"], others),
        bob.post(link["url"], fields),
        gateway.person("Nobody").post(link["url"], fields),
        alice.post(link["url"], fields, headers={"Origin": "https://evil.example"}),
        alice.post(link["url"], fields, headers={"Sec-Fetch-Site": "cross-site"}),
    ]

    assert [403] * 6 == [answer.status_code for answer in tries]
    assert not started(gateway, link)


def test_without_a_return_address_the_user_has_to_sign_in(gateway, acme, alice):
    """
    A link without return_to, opened without a session: redirect to the product's sign-in and back; the link is not
    used up.
    """
    link = acme.makes(alice, return_to=None)
    page = alice.get(link["url"])

    assert page.headers["Location"].startswith(f"{gateway.sandbox.origin}/login?next=")
    assert link["url"] == told(page)["next"]
    alice.signs_in()
    ended = told(alice.get(consents(alice, link["url"])))
    assert {"connection", "provider"} == set(ended)


def test_a_frozen_or_revoked_partners_link_does_not_start(gateway, alice):
    """
    Both the page and the form refuse it.
    """
    partner = new_partner(gateway)
    link = partner.makes(alice)
    fields = fields_in(alice.get(link["url"]).text.split('id="link"')[1])

    rows(gateway.dsn, "update gateway.partner set frozen_at = now() where id = %s", partner.id)
    frozen = [problem(alice.get(link["url"])), problem(alice.post(link["url"], fields))]
    rows(gateway.dsn, "update gateway.partner set frozen_at = null, revoked_at = now() where id = %s", partner.id)
    revoked = [problem(alice.get(link["url"])), problem(alice.post(link["url"], fields))]

    assert (["frozen"] * 2, ["state_invalid"] * 2) == (frozen, revoked)
    assert 0 == attempts(gateway, alice)


# -- finished signed in ----------------------------------------------------------------------------------------------


def test_finished_signed_in_as_that_user_it_is_active_and_shared(gateway, acme, alice):
    """
    In one transaction: the connection, the owner's consent for this partner, and the events.
    """
    alice.signs_in()
    link = acme.makes(alice)

    ended = told(alice.get(consents(alice, link["url"])))

    assert {"connection", "provider"} == set(ended)
    shared = "select partner_id, made, ended_at from gateway.consent where connection_id = %s"
    assert [(acme.id, True, None)] == rows(gateway.dsn, shared, ended["connection"])
    assert 200 == acme.token(ended["connection"]).status_code
    assert {"link.created", "connection.created", "consent.given"} <= set(events(gateway, alice))
    did = "select partner_id from gateway.event where connection_id = %s and type = 'connection.created'"
    assert [acme.id] == rows(gateway.dsn, did, ended["connection"])
    assert 404 == new_partner(gateway).token(ended["connection"]).status_code


def test_the_callback_is_judged_by_browser_and_user_before_anything_is_redeemed(gateway, acme, alice, bob):
    """
    The provider's address sent to a victim, or the victim signed in there meanwhile: refused, and the code is not touched.
    """
    first = consents(alice, acme.makes(alice)["url"])
    bob.signs_in()
    sent = bob.get(first)

    second = consents(alice, acme.makes(alice)["url"])
    switched = gateway.person("Bob Marsh", user_id=bob.id)
    switched.browser.cookies.update(alice.browser.cookies)
    switched.signs_in()
    taken = switched.get(second)

    assert ["browser_mismatch", "user_mismatch"] == [problem(sent), problem(taken)]
    assert [0, 0] == [redeemed(gateway, first), redeemed(gateway, second)]
    assert 0 == owned(gateway, alice, bob)
    assert [] == rows(gateway.dsn, "select 1 from gateway.pending_grant where user_id = %s", alice.id)


def test_a_providers_no_goes_back_to_where_the_link_came_from(gateway, acme, alice):
    """
    With the slug alone, and nothing connected; the page's own way out says the same.
    """
    link = acme.makes(alice)
    out = re.search(r'id="not-now" href="([^"]+)"', alice.get(link["url"]).text)[1]

    ended = alice.get(consents(alice, link["url"], answer="deny"))

    assert ended.headers["Location"] == f"{gateway.sandbox.origin}/back?error=access_denied&provider=google"
    assert out.replace("&amp;", "&") == ended.headers["Location"]
    assert 0 == owned(gateway, alice)


def test_scopes_of_several_partners_are_merged_and_none_is_lost(gateway, acme, alice):
    """
    What was asked for by one is asked for with the other's link, and when the user connects again without any link.
    """
    alice.signs_in()
    other = new_partner(gateway, "Borealis")
    calendar, drive = (f"https://www.googleapis.com/auth/{name}" for name in ("calendar.readonly", "drive.readonly"))
    alice.get(consents(alice, acme.makes(alice, scope=[calendar])["url"]))

    away = presses(alice, other.makes(alice, scope=[drive])["url"])
    both = asked(away.headers["Location"])["scope"].split()
    alice.get(gateway.sandbox.consents(away.headers["Location"]))
    own = asked(alice.begins("google"))["scope"].split()

    for scope in (both, own):
        assert {calendar, drive, "openid"} <= set(scope)
        assert len(scope) == len(set(scope))
    (connection,) = acme.calls("GET", f"/v1/connections?user_id={alice.id}").json()["items"]
    assert 200 == other.token(connection["id"]).status_code == acme.token(connection["id"]).status_code


def test_another_account_through_a_link_is_asked_about_and_shared_after_the_answer(gateway, acme, alice):
    """
    The confirm page names the partners of the existing connection; the new partner gets access with the answer and
    not before.
    """
    alice.connects("ghl", "NorthwindBerlin00001")
    at = alice.get(consents(alice, acme.makes(alice, "ghl")["url"], "NorthwindLisbon00001")).headers["Location"]
    assert at == "/crm/ghl/confirm"
    assert [] == acme.calls("GET", f"/v1/connections?user_id={alice.id}").json()["items"]

    page = alice.get(at).text
    ended = told(alice.post(at, fields_in(page.split('id="confirm"')[1]) | {"answer": "replace"}))

    assert 200 == acme.token(ended["connection"]).status_code
    assert [False] == rows(
        gateway.dsn, "select made from gateway.consent where connection_id = %s", ended["connection"]
    )
    again = alice.get(alice.consents("ghl", "NorthwindBerlin00001"))
    assert acme.name in alice.get(again.headers["Location"]).text


# -- no longer shared ------------------------------------------------------------------------------------------------


def test_the_owner_sees_which_partners_use_a_connection_and_stops_one(gateway, acme, alice):
    """
    The partner's next read finds nothing; the connection stays with its owner.
    """
    alice.signs_in()
    made = told(alice.get(consents(alice, acme.makes(alice)["url"])))["connection"]
    page = alice.get("/connections").text
    assert f"Shared with <bdi>{acme.name}</bdi>" in page
    assert "Disconnect removes it completely" in page

    stop = f"/connections/{made}/stop-sharing"
    ended = alice.post(stop, fields_in(page.split(f'action="{stop}"')[1].split("</form>")[0]))

    assert ended.headers["Location"] == "/connections?sharing=ended&provider=google"
    assert 404 == acme.token(made).status_code
    assert "is no longer shared" in (after := alice.get(ended.headers["Location"]).text)
    assert acme.name not in after
    assert 1 == events(gateway, alice).count("consent.ended")
    assert 2 == owned(gateway, alice)


def test_a_user_cannot_stop_another_users_sharing(gateway, acme, alice, bob):
    """
    Another's connection, another partner, no mark: nothing changes.
    """
    alice.signs_in()
    bob.signs_in()
    made = told(alice.get(consents(alice, acme.makes(alice)["url"])))["connection"]
    csrf = fields_in(bob.get("/connections").text)["csrf"]
    hers = fields_in(alice.get("/connections").text)["csrf"]

    tries = [
        bob.post(f"/connections/{made}/stop-sharing", {"csrf": csrf, "partner": str(acme.id)}),
        alice.post(f"/connections/{made}/stop-sharing", {"csrf": hers, "partner": str(uuid.uuid4())}),
        alice.post(f"/connections/{made}/stop-sharing", {"csrf": hers, "partner": "nobody"}),
        alice.post(f"/connections/{made}/stop-sharing", {"csrf": csrf, "partner": str(acme.id)}),
    ]

    assert [404, 404, 404, 403] == [answer.status_code for answer in tries]
    assert 200 == acme.token(made).status_code
