"""
What a link keeps to itself, and what it leaves as it was: others' shares, whose account came back, and partners that were stopped.
"""

from __future__ import annotations

import pytest
import requests

from tests.http.test_complete import BERLIN, finishes, pending_grants, slug, waits
from tests.support.attack_helpers import asked, owned
from tests.support.database import rows
from tests.support.gateway_process import fields_in, told, without_request_id
from tests.support.link_partner import consents, new_partner, presses

CALENDAR, DRIVE = (f"https://www.googleapis.com/auth/{name}" for name in ("calendar.readonly", "drive.readonly"))
SMALLER = 'id="lost"'
STOP = {
    "frozen_at": "update gateway.partner set frozen_at = now() where id = %s",
    "revoked_at": "update gateway.partner set revoked_at = now() where id = %s",
}


@pytest.fixture
def shared(gateway, alice):
    """Alice's calendar, which she opened to Borealis."""
    alice.signs_in()
    borealis = new_partner(gateway, "Borealis")
    made = told(alice.get(consents(alice, borealis.makes(alice, scope=[CALENDAR])["url"])))
    return borealis, made["connection"]


def scope_of(partner, connection):
    return partner.calls("GET", f"/v1/connections/{connection}").json()["scope"]


# -- what others were given --------------------------------------------------------------------------------------------


def test_the_holder_of_a_link_learns_nothing_about_other_partners(acme, alice, shared):
    """
    Neither the page nor the provider's address says it, unless the link's user is signed in there.
    """
    link = acme.makes(alice, scope=[DRIVE])
    stranger = alice.elsewhere()

    assert "calendar.readonly" in alice.get(link["url"]).text
    assert "calendar.readonly" not in (page := stranger.get(link["url"]).text)
    assert "drive.readonly" in page
    assert "Connected now" not in page
    sent = asked(presses(stranger, link["url"]).headers["Location"])["scope"].split()
    assert (True, False) == (DRIVE in sent, CALENDAR in sent)


@pytest.mark.parametrize(("answer", "left"), [("replace", False), ("no", True)])
def test_a_completion_removes_no_scope_unless_it_says_so(acme, alice, shared, answer, left):
    """
    The new grant allows less than the connection: 409 for every repeated call, and `both` is not a valid answer.
    """
    borealis, row = shared
    link = acme.makes(alice, scope=[DRIVE])
    back = finishes(alice.elsewhere(), link, None)

    said = [slug(acme.completes(link["id"], alice, back["confirmation"])) for _ in range(2)]
    assert [(409, "pending_confirmation")] * 2 == said
    assert CALENDAR in scope_of(borealis, row)
    ended = acme.completes(link["id"], alice, back["confirmation"], answer=answer)

    assert (400 if left else 200) == ended.status_code
    assert left == (CALENDAR in scope_of(borealis, row))
    assert 200 == borealis.token(row).status_code


@pytest.mark.parametrize("answer", ["replace", "no"])
def test_a_user_who_signed_in_meanwhile_is_asked_before_a_link_removes_scopes(acme, alice, shared, answer):
    """
    Started without a session, with less than is connected, and finished signed in: the page lists the lost scopes and
    the partners.
    """
    borealis, row = shared
    browser = alice.elsewhere()
    callback = consents(browser, acme.makes(alice, scope=[DRIVE])["url"])
    browser.signs_in()

    question = browser.get(callback).headers["Location"]
    assert question == "/email/google/confirm"
    page = browser.get(question).text
    assert "calendar.readonly" in page.split(SMALLER)[1].split("</ul>")[0]
    assert borealis.name in page
    assert 'value="both"' not in page
    assert CALENDAR in scope_of(borealis, row)

    ended = told(browser.post(question, fields_in(page.split('id="confirm"')[1]) | {"answer": answer}))

    assert (row if answer == "replace" else None) == ended.get("connection")
    assert (answer == "no") == (CALENDAR in scope_of(borealis, row))


def test_what_a_revoked_partner_asked_for_is_asked_for_no_more(gateway, alice, shared):
    """
    A reconnect requests what the other partners need.
    """
    borealis, _ = shared
    assert CALENDAR in asked(alice.begins("google"))["scope"].split()

    rows(gateway.dsn, "update gateway.partner set revoked_at = now() where id = %s", borealis.id)

    assert CALENDAR not in asked(alice.begins("google"))["scope"].split()


def test_the_page_of_the_products_own_service_promises_no_end_of_sharing(gateway, acme, alice):
    """
    It reaches every connection: only a disconnect ends that.
    """
    own = new_partner(gateway, "Northwind back end", reach="all")

    theirs, ours = (alice.get(partner.makes(alice)["url"]).text for partner in (acme, own))

    assert "Stop sharing" in theirs
    assert "Stop sharing" not in ours
    assert "Disconnect at any time" in ours


# -- whose account it is -----------------------------------------------------------------------------------------------


def test_the_account_is_shown_when_it_is_confirmed_and_not_before(gateway, acme, alice):
    """
    A link for one user, finished by another: neither the partner nor the link's user learns whose account that was.
    """
    link, back = waits(acme, alice)
    (waiting,) = pending_grants(gateway, link)

    shown = acme.calls("GET", f"/v1/connections/{waiting}").json()
    events = rows(gateway.dsn, "select data::text from gateway.event where user_id = %s", alice.id)
    done = acme.completes(link["id"], alice, back["confirmation"]).json()

    assert {"id": "", "label": "", "kind": None} == shown["account"]
    assert {} == shown["facts"]
    assert not any(BERLIN in data for data in events)
    assert BERLIN == done["account"]["id"]


# -- an answer that was lost -------------------------------------------------------------------------------------------


def test_a_completion_whose_response_was_lost_can_be_repeated(gateway, acme, alice):
    """
    The same words within ten minutes: the same connection. Other words, or later, come too late, and harm nothing.
    """
    link, back = waits(acme, alice)
    bob, word = gateway.person("Bob Marsh"), back["confirmation"]
    first = acme.completes(link["id"], alice, word)

    again = [acme.completes(link["id"], alice, word, answer=answer) for answer in (None, "replace")]
    assert [(200, first.json())] * 2 == [(each.status_code, each.json()) for each in again]
    wrong = [
        acme.completes(link["id"], bob, word),
        acme.completes(link["id"], alice, "x" * 43),
        acme.completes(link["id"], alice, word, answer="no"),
    ]
    assert [(400, "state_invalid")] * 3 == [slug(each) for each in wrong]
    rows(
        gateway.dsn,
        "update gateway.connect_session set ended_at = ended_at - interval '10 minutes' where id = %s",
        link["id"],
    )
    assert (400, "state_invalid") == slug(acme.completes(link["id"], alice, word))
    assert 200 == acme.token(first.json()["id"]).status_code


# -- partners that were stopped ----------------------------------------------------------------------------------------


def given_back(gateway, before):
    return len(gateway.sandbox.state.revocations) > before


@pytest.mark.parametrize("column", ["frozen_at", "revoked_at"])
@pytest.mark.parametrize("known", [True, False])
def test_for_a_partner_that_was_stopped_on_the_way_nothing_is_connected(gateway, alice, column, known):
    """
    Between "Continue" and the callback, signed in or not: the grant is revoked, and the product gets `frozen`.
    """
    partner, before = new_partner(gateway), len(gateway.sandbox.state.revocations)
    if known:
        alice.signs_in()
    callback = consents(alice, partner.makes(alice, "ringcentral")["url"])
    rows(gateway.dsn, STOP[column], partner.id)

    back = told(alice.get(callback))

    assert {"error": "frozen", "provider": "ringcentral"} == back
    assert 0 == owned(gateway, alice)
    assert given_back(gateway, before)
    assert [] == rows(gateway.dsn, "select 1 from gateway.pending_grant where user_id = %s", alice.id)


@pytest.mark.parametrize(("column", "said"), [("frozen_at", (403, "frozen")), ("revoked_at", (401, "unauthenticated"))])
def test_a_stopped_partner_completes_nothing_and_its_pending_grants_are_revoked(gateway, alice, column, said):
    """
    Like every grant that nobody confirms: once its ten minutes are over.
    """
    partner = new_partner(gateway)
    link, back = waits(partner, alice)
    rows(gateway.dsn, STOP[column], partner.id)

    assert said == slug(partner.completes(link["id"], alice, back["confirmation"]))
    late = "update gateway.pending_grant set pending_until = now() where connect_session_id = %s"
    rows(gateway.dsn, late, link["id"])
    rows(gateway.dsn, "select public.gateway_housekeeping_v1(365)")
    assert [] == pending_grants(gateway, link)
    rows(gateway.dsn, "update gateway.partner set frozen_at = null, revoked_at = null where id = %s", partner.id)
    assert (400, "state_invalid") == slug(partner.completes(link["id"], alice, back["confirmation"]))
    assert 0 == owned(gateway, alice)


def test_a_question_is_not_answered_for_a_partner_that_was_stopped(gateway, alice):
    """
    Another account came back by its link, and its user is asked: the answer comes too late, and the connection stays.
    """
    partner = new_partner(gateway)
    alice.connects("ghl", BERLIN)
    at = alice.get(consents(alice, partner.makes(alice, "ghl")["url"], "NorthwindLisbon00001")).headers["Location"]
    fields = fields_in(alice.get(at).text.split('id="confirm"')[1])
    rows(gateway.dsn, "update gateway.partner set frozen_at = now() where id = %s", partner.id)

    refused = alice.post(at, fields | {"answer": "replace"})

    assert "frozen" == told(refused)["error"]
    assert [] == rows(gateway.dsn, "select 1 from gateway.pending_grant where user_id = %s", alice.id)
    assert [BERLIN] == rows(gateway.dsn, "select account_id from gateway.connection where user_id = %s", alice.id)


# -- a token of one location -------------------------------------------------------------------------------------------


def test_a_token_is_of_the_location_that_was_asked_for_or_none(gateway, alice):
    """
    The connection's own answers as without; any other, and any where a provider has none, is like no connection.
    """
    row, mail = alice.connects("ghl", BERLIN)["connection"], alice.connects("google")["connection"]
    partner = new_partner(gateway, reach="all")

    def reads(connection, location):
        bearer = {"Authorization": f"Bearer {partner.key}"}
        query = {} if location is None else {"location": location}
        return requests.get(
            f"{gateway.url}/v1/connections/{connection}/token", params=query, headers=bearer, timeout=30
        )

    plain, own = reads(row, None), reads(row, BERLIN)
    assert (200, plain.json()) == (own.status_code, own.json())
    none = reads("00000000-0000-4000-8000-000000000000", BERLIN)
    for other in (reads(row, "elsewhere"), reads(row, BERLIN.lower()), reads(mail, BERLIN)):
        assert (404, without_request_id(none)) == (other.status_code, without_request_id(other))
    assert [400] * 4 == [reads(row, wrong).status_code for wrong in ("", "x" * 65, "two words", "é")]
