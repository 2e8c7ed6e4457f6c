"""
Another account came back: asked, answered once, and nothing of it lost or kept by accident.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path

import psycopg
import pytest
import requests

from tests.support.gateway_process import HIDDEN, told, whole_gateway

BERLIN, LISBON = "NorthwindBerlin00001", "NorthwindLisbon00001"
FIRST, SECOND = 0, 1


def standing(gateway, user_id):
    with psycopg.connect(gateway.dsn) as connection:
        return connection.execute(
            "select id::text, account_id, generation from gateway.connection where user_id = %s order by created_at",
            [user_id],
        ).fetchall()


def pending_grants(gateway, user_id):
    with psycopg.connect(gateway.dsn) as connection:
        count = "select count(*) from gateway.pending_grant where user_id = %s"
        return connection.execute(count, [user_id]).fetchone()[0]


def comes_back(alice, provider, account, **query):
    """Connects again as `account`; the confirm page's address."""
    answer = alice.get(alice.consents(provider, account, query=query))
    assert answer.headers["Location"].startswith(f"/crm/{provider}/confirm"), answer.headers
    return answer.headers["Location"]


def answers(person, page_at, said):
    page = person.get(page_at)
    fields = dict(HIDDEN.findall(page.text.split('id="confirm"')[1])) if 'id="confirm"' in page.text else {"csrf": ""}
    return person.post(page_at.partition("?")[0], fields | {"answer": said})


@pytest.fixture
def alice(gateway):
    made = gateway.person("Alice Winter")
    made.connects("ghl", BERLIN)
    return made


def test_the_user_is_asked_and_nothing_changes_meanwhile(gateway, alice):
    """
    The page names both accounts; the existing connection is unchanged.
    """
    (before,) = standing(gateway, alice.id)

    page = alice.get(comes_back(alice, "ghl", LISBON)).text

    assert "Northwind Berlin" in page
    assert "Northwind Lisbon" in page
    assert 'value="both"' not in page
    assert [before] == standing(gateway, alice.id)


def test_replace_keeps_the_id_and_bumps_the_generation(gateway, alice):
    """
    The row now belongs to the other account, encrypted again, and the product gets the same id.
    """
    ((row, _, generation),) = standing(gateway, alice.id)

    ended = told(answers(alice, comes_back(alice, "ghl", LISBON), "replace"))

    assert {"connection": row, "provider": "ghl"} == ended
    assert [(row, LISBON, generation + 1)] == standing(gateway, alice.id)


def test_no_leaves_everything_as_it_was(gateway, alice):
    """
    The connection stays, and the pending grant is gone.
    """
    before = standing(gateway, alice.id)
    waiting = pending_grants(gateway, alice.id)

    ended = told(answers(alice, comes_back(alice, "ghl", LISBON), "no"))

    assert "access_denied" == ended["error"]
    assert before == standing(gateway, alice.id)
    assert waiting == pending_grants(gateway, alice.id)


def test_after_a_no_the_new_grant_is_revoked_and_not_the_old(gateway):
    """
    The provider only sees the revocation of the pending refresh token.
    """
    alice = gateway.person("Alice Winter")
    accounts = gateway_accounts(gateway, "ringcentral")
    alice.connects("ringcentral", accounts[FIRST])
    before = len(gateway.sandbox.state.revocations)
    answer = alice.get(alice.consents("ringcentral", accounts[SECOND]))

    answers(alice, answer.headers["Location"], "no")

    assert len(gateway.sandbox.state.revocations) > before
    assert 1 == len(standing(gateway, alice.id))


def gateway_accounts(gateway, provider):
    """The accounts that the consent page offers."""
    person = gateway.person("Carol Frost")
    person.signs_in()
    return re.findall(r'name="account" value="([^"]+)"', requests.get(person.begins(provider), timeout=60).text)


def test_the_question_is_answered_once(gateway, alice):
    """
    Eight answers at the same moment: one counts, the others find no pending grant.
    """
    at = comes_back(alice, "ghl", LISBON)
    fields = dict(HIDDEN.findall(alice.get(at).text.split('id="confirm"')[1])) | {"answer": "replace"}
    codes = []

    def press():
        codes.append(alice.post("/crm/ghl/confirm", fields).status_code)

    threads = [threading.Thread(target=press) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 1 == codes.count(303)
    assert 7 == codes.count(400)
    ((_, account, generation),) = standing(gateway, alice.id)
    assert (LISBON, 2) == (account, generation)


def test_another_browser_or_another_user_answers_nothing(gateway, alice):
    """
    The grant is pending for this user in this browser.
    """
    at = comes_back(alice, "ghl", LISBON)
    elsewhere, bob = alice.elsewhere(), gateway.person("Bob Marsh")
    elsewhere.signs_in()
    bob.signs_in()

    assert 400 == elsewhere.get(at).status_code
    assert 400 == bob.get(at).status_code


def test_silence_is_a_no(gateway, alice):
    """
    After ten minutes the grant is revoked; the confirm page finds nothing any more.
    """
    at = comes_back(alice, "ghl", LISBON)
    with psycopg.connect(gateway.dsn) as connection:
        connection.execute(
            "update gateway.pending_grant set pending_until = now() - interval '1 second' where user_id = %s",
            [alice.id],
        )

    assert 400 == alice.get(at).status_code
    assert [BERLIN] == [account for _, account, _ in standing(gateway, alice.id)]


def test_where_many_are_allowed_both_can_be_kept(cluster, template):
    """
    Accounts = "many" gives one connection an upstream account; one more that was asked for is no question.
    """
    with whole_gateway(cluster, template) as gateway:
        Path(gateway.environ["GATEWAY_CATALOG"], "zz_many.toml").write_text(
            '[ghl]\naccounts = "many"\n', encoding="utf-8"
        )
        gateway.start()
        alice = gateway.person("Alice Winter")
        alice.connects("ghl", BERLIN)
        at = comes_back(alice, "ghl", LISBON)

        assert 'value="both"' in alice.get(at).text
        told(answers(alice, at, "both"))
        assert [BERLIN, LISBON] == [account for _, account, _ in standing(gateway, alice.id)]

        third = alice.get(alice.consents("ghl", "NorthwindAgency00001", query={"another": "1"}))
        assert "connection" in told(third)
        assert 3 == len(standing(gateway, alice.id))
        again = told(alice.get(alice.consents("ghl", LISBON)))
        assert again["connection"] == standing(gateway, alice.id)[1][0]
        assert 3 == len(standing(gateway, alice.id))
