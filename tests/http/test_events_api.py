"""
`GET /v1/events` over HTTP: what it answers, and what it refuses.
"""

from __future__ import annotations

import json

import pytest

from tests.support.database import rows
from tests.support.partners import next_hour, partner_of
from tests.support.patience import wait_for


@pytest.fixture(scope="module")
def connected(gateway):
    """Alice with a connection whose events are sealed, and a partner that reaches it."""
    alice = gateway.person("Alice Winter")
    held = alice.connects("zoom")["connection"]
    acme = partner_of(gateway.dsn, reach="own")
    acme.consented(gateway.dsn, held)
    assert 200 == acme.asks(gateway, f"/connections/{held}/token").status_code
    next_hour(gateway.dsn)
    rows(gateway.dsn, "select gateway.close_hours(1000000)")
    unassigned = "select 1 from gateway.event where partner_id = %s and position is null"
    wait_for(lambda: not rows(gateway.dsn, unassigned, acme.id))
    return alice, held, acme


def pages(gateway, acme, limit):
    """Every page, by its own cursor."""
    after = "0"
    while after is not None:
        answer = acme.asks(gateway, "/events", params={"after": after, "limit": limit})
        assert 200 == answer.status_code, answer.text
        yield answer.json()
        after = answer.json()["next_cursor"]


def test_a_partner_reads_what_happened_page_by_page(gateway, connected):
    """
    In order, each once; on the last page the cursor is null, and the last position serves as one.
    """
    alice, held, acme = connected
    told = [page["items"] for page in pages(gateway, acme, 2)]
    whole = acme.asks(gateway, "/events").json()
    last = whole["items"][-1]

    assert whole["items"] == [event for page in told for event in page]
    assert all(len(page) == 2 for page in told[:-1])
    assert {"partner.added", "key.added", "tokens.read"} == {e["type"] for e in whole["items"]}
    assert {"items": [], "next_cursor": None} == acme.asks(
        gateway, "/events", params={"after": last["position"]}
    ).json()
    assert {"id", "position", "type", "at", "connection_id", "user_id", "partner", "provider", "data"} == set(last)
    assert (held, alice.id, str(acme.id), "zoom") == tuple(
        last[n] for n in ("connection_id", "user_id", "partner", "provider")
    )


def test_a_user_reads_the_own_with_a_token(gateway, connected):
    """
    And another user none of it.
    """
    alice, held, _ = connected
    bob = gateway.person("Bob Summer")
    bob.signs_in()
    told = {
        person: person.get("/v1/events", headers={"Authorization": f"Bearer {person.token()}"}).json()["items"]
        for person in (alice, bob)
    }

    assert {"connection.created", "tokens.read"} <= {event["type"] for event in told[alice]}
    assert {alice.id} == {event["user_id"] for event in told[alice]}
    assert held not in json.dumps(told[bob])


def test_a_key_without_the_scope_reads_no_events(gateway):
    """
    Whatever else it may.
    """
    answer = partner_of(gateway.dsn, scope=["tokens:read"]).asks(gateway, "/events")

    assert (403, "forbidden") == (answer.status_code, answer.json()["type"].rpartition("/")[2])


@pytest.mark.parametrize(
    "query", ["after=-1", "after=x", "after=1.5", f"after={10**19}", "limit=0", "limit=101", "limit=", "to=3"]
)
def test_what_is_no_cursor_is_refused(gateway, connected, query):
    """
    With a problem that says who must act.
    """
    answer = connected[2].asks(gateway, f"/events?{query}")

    assert (400, "fix_request") == (answer.status_code, answer.json()["remedy"])


def test_a_position_that_is_not_there_yet_answers_an_empty_page(gateway, connected):
    """
    It may be from another installation, or invented.
    """
    assert [] == connected[2].asks(gateway, f"/events?after={10**17}").json()["items"]


def test_usage_is_read_by_the_hour(gateway):
    """
    By its own key a partner sees its reads at once. A range that is none is refused, and the parameter named.
    """
    alice, made = gateway.person("Alice Winter"), partner_of(gateway.dsn)
    here = alice.connects("google")["connection"]
    for _ in range(2):
        made.asks(gateway, f"/connections/{here}/token")

    whole = made.asks(gateway, f"/usage?connection_id={here}&partner={made.id}").json()
    day = made.asks(
        gateway, f"/usage?connection_id={here}&from=2020-01-01T00:00:00Z&to=2020-01-02T00:00:00%2B01:00"
    ).json()

    assert 200 == made.asks(gateway, "/usage?to=2026-11-14T11:36:08.4878%2B17:53").status_code
    [row] = whole["items"]
    assert (here, str(made.id), "google", 2, 0) == tuple(row[name] for name in list(row)[1:])
    assert row["hour"].endswith(":00:00Z")
    assert {"items": [], "next_cursor": None} == day
    for query, field in (
        ("from=2020-01-01T00:00:00Z", "from"), ("from=1700000000", "from"), ("from=2020-01-01", "from"), ("to=x", "to"), ("hour=1", "hour"),
        ("from=2030-01-02T00:00:00Z&to=2030-01-01T00:00:00Z", "from"), ("partner=acme", "partner"), ("connection_id=1", "connection_id"),
        ("to=0001-01-01T00:00:00Z", "to"), ("from=9999-12-31T23:00:00-14:00", "from"), ("cursor=x", "cursor"), ("cursor=", "cursor"),
    ):  # fmt: skip
        refused = made.asks(gateway, f"/usage?{query}")
        assert (400, [field]) == (refused.status_code, [each["field"] for each in refused.json()["errors"]]), query
