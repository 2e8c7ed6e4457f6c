"""
A frozen provider for users: a connect is refused before the redirect, and an attempt under way connects nothing.
"""

from __future__ import annotations

import pytest

from gateway.database import open_postgres
from gateway.database.queries import partners as queries
from tests.support.database import rows
from tests.support.gateway_process import fields_in
from tests.support.link_partner import consents, new_partner


@pytest.fixture
def zoom(gateway):
    """Freezes Zoom; thawed in the end."""
    store = open_postgres(gateway.dsn)
    yield lambda: queries.freeze(store, provider="zoom")
    queries.freeze(store, provider="zoom", off=True)
    store.close()


def stand(gateway, person):
    return rows(gateway.dsn, "select id from gateway.connection where user_id = %s", person.id)


def test_a_user_is_stopped_before_going_to_a_frozen_provider(gateway, zoom):
    """
    On the connect page, when it is sent from a page that was open before, and on the page of a link.
    """
    alice, acme = gateway.person("Alice Winter"), new_partner(gateway)
    alice.signs_in()
    page = alice.get("/phone/zoom/connect")
    link = acme.makes(alice, "zoom")["url"]
    zoom()

    assert 200 == page.status_code
    for answer in (alice.get("/phone/zoom/connect"), alice.get(link)):
        assert 403 == answer.status_code
        assert 'data-problem="frozen"' in answer.text
    sent = alice.post("/phone/zoom/connect", fields_in(page.text)).headers["Location"]
    assert sent.startswith(("/", gateway.url)), sent
    assert "error=frozen" in sent
    assert 200 == alice.get("/phone/ringcentral/connect").status_code


def test_an_attempt_at_a_provider_that_is_frozen_meanwhile_connects_nothing_and_the_grant_is_revoked(gateway, zoom):
    """
    By oneself, and by a partner's link in a browser that is not signed in here.
    """
    alice, acme = gateway.person("Alice Winter"), new_partner(gateway)
    alice.signs_in()
    nobody = gateway.person("Somebody")
    under_way = [(alice, alice.consents("zoom")), (nobody, consents(nobody, acme.makes(alice, "zoom")["url"]))]
    zoom()
    for person, callback in under_way:
        given_back = len(gateway.sandbox.state.requests("zoom", "revoke"))
        answer = person.get(callback)
        assert "frozen" in answer.text + answer.headers.get("Location", "")
        assert "connection=" not in answer.headers.get("Location", "")
        assert "confirmation=" not in answer.headers.get("Location", "")
        assert len(gateway.sandbox.state.requests("zoom", "revoke")) > given_back

    assert [] == stand(gateway, alice)
    assert [] == rows(gateway.dsn, "select id from gateway.pending_grant where user_id = %s", alice.id)
