"""
The callback is loaded again: a double click, a prefetch, the back button. The result is the same, for the same browser and user.
"""

from __future__ import annotations

import threading
import time

import pytest

from tests.support.attack_helpers import owned, problem, redeemed
from tests.support.gateway_process import fields_in, told
from tests.support.link_partner import consents
from tests.support.patience import held, wait_for

LISBON = "NorthwindLisbon00001"


@pytest.fixture
def alice(gateway):
    gateway.sandbox.state.faults.clear()
    person = gateway.person("Alice Winter")
    person.signs_in()
    yield person
    gateway.sandbox.state.faults.clear()


@pytest.mark.parametrize("provider", ["ghl", "google"])
def test_the_callback_visited_again_shows_the_connection(gateway, alice, provider):
    """
    The code is redeemed once; each visit goes to the connection.
    """
    callback = alice.consents(provider)
    first = alice.get(callback)

    again = [alice.get(callback) for _ in range(3)]

    assert "connection" in told(first)
    assert {first.headers["Location"]} == {answer.headers["Location"] for answer in again}
    assert 1 == redeemed(gateway, callback)
    assert 2 == owned(gateway, alice)


def test_visits_at_the_same_time_all_show_the_connection(gateway, alice):
    """
    The later ones wait for the first.
    """
    callback = alice.consents("zoom")
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(alice.get(callback))) for _ in range(4)]
    with held(gateway.sandbox, "zoom", "token") as is_asked:
        for thread in threads:
            thread.start()
        wait_for(is_asked)
        time.sleep(1)  # the others arrive meanwhile
    for thread in threads:
        thread.join()

    assert 1 == len({answer.headers["Location"] for answer in answers})
    assert "connection" in told(answers[0])
    assert 1 == redeemed(gateway, callback)


def test_another_browser_or_user_gets_nothing_of_a_finished_attempt(gateway, alice):
    """
    Nor does another provider's callback.
    """
    callback = alice.consents("google")
    connection = told(alice.get(callback))["connection"]
    bob, elsewhere = gateway.person("Bob Marsh"), alice.elsewhere()
    bob.signs_in()
    elsewhere.signs_in()

    refused = [bob.get(callback), elsewhere.get(callback), gateway.person("Eve Stone").get(callback)]
    refused.append(alice.get(callback.replace("/email/google/", "/email/microsoft/")))

    assert {"state_invalid"} == {problem(answer) for answer in refused}
    assert not any(connection in answer.text for answer in refused)
    assert connection == told(alice.get(callback))["connection"]


def test_a_failed_attempt_stays_failed_at_once(gateway, alice):
    """
    After the user's no there is nothing to wait for.
    """
    callback = gateway.sandbox.consents(alice.begins("google"), answer="deny")

    assert "access_denied" == told(alice.get(callback))["error"]
    assert "state_invalid" == problem(alice.get(callback))


def test_a_disconnected_connection_is_not_shown_again(gateway, alice):
    """
    The attempt does not outlive its result.
    """
    callback = alice.consents("google")
    alice.disconnects(told(alice.get(callback))["connection"])

    assert "state_invalid" == problem(alice.get(callback))


def test_a_question_and_its_answer_are_found_again_too(gateway, alice):
    """
    Before the decision the confirm page, afterwards the connection.
    """
    connection = alice.connects("ghl")["connection"]
    callback = alice.consents("ghl", LISBON)
    asked = alice.get(callback).headers["Location"]

    assert asked == alice.get(callback).headers["Location"]

    form = fields_in(alice.get(asked).text.split('id="confirm"')[-1])
    assert connection == told(alice.post(asked, form | {"answer": "replace"}))["connection"]
    assert connection == told(alice.get(callback))["connection"]


def test_a_link_s_confirmation_is_the_same_at_each_visit(gateway, acme):
    """
    A response that was lost on its way to the browser costs no link.
    """
    alice, stranger = gateway.person("Alice Winter"), gateway.person("Sam Frost")
    link = acme.makes(alice, "ghl")
    callback = consents(stranger, link["url"])

    first, again = told(stranger.get(callback)), told(stranger.get(callback))

    assert first == again
    assert 200 == acme.completes(link["id"], alice, again["confirmation"]).status_code
    assert first == told(stranger.get(callback))
