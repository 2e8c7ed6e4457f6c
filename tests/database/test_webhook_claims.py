"""
Outgoing webhooks: what a claim may do, where a delivery may go, and how secrets are kept.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from cryptography.fernet import Fernet
from standardwebhooks import Webhook

from gateway.connections.rotate_keys import rotate
from gateway.database.queries.webhooks import claim_deliveries, end_deliveries, list_webhooks
from gateway.errors import BadRequest
from gateway.events.chain import assign_positions
from gateway.models import OPERATOR
from gateway.webhooks import endpoints
from gateway.webhooks.deliver import claim_next
from tests.support.database import rows
from tests.support.event_fixtures import KEY
from tests.support.partners import partner
from tests.support.receiver import Receiver


@pytest.fixture
def allowing(runtime):
    """A runtime that may call this machine."""
    return runtime(GATEWAY_ALLOW_PRIVATE_HOSTS="1")


def happen(database, rt, made):
    """An event for one endpoint, with its position."""
    rows(
        database,
        "insert into gateway.event (type, partner_id, data) values ('webhook.tested', %s, %s::jsonb)",
        made.partner_id,
        json.dumps({"webhook_id": str(made.id)}),
    )
    assign_positions(rt)


def deliver_next(rt):
    (unit,) = claim_next(rt, ())
    unit.run()


def claimed(store, seconds=30):
    return claim_deliveries(store, most=20, of_partner=4, lease_seconds=seconds)


def ended(store, claim, position, failures=0):
    end_deliveries(
        store,
        claim.id,
        claim_id=claim.claim_id,
        position=position,
        attempts={"items": []},
        failures=failures,
        wait_seconds=0.0,
    )


def test_a_claim_whose_lease_is_over_moves_no_cursor(allowing, store, database):
    made, _ = endpoints.create(allowing, partner(store).caller(), "http://127.0.0.1:9/", ["webhook.tested"])
    happen(database, allowing, made)
    late, current = claimed(store, 0), claimed(store)
    position = late.events[0].position

    ended(store, late, position)
    assert list_webhooks(store, OPERATOR).webhooks[0].position < position
    ended(store, current, position)
    assert list_webhooks(store, OPERATOR).webhooks[0].position == position


def test_an_endpoint_is_disabled_by_attempts_and_not_by_a_worker_that_was_away(allowing, store, database):
    """
    A failure, three days without a worker, and a second failure: the next attempt waits. After as many attempts as three days have, it is disabled.
    """
    made, _ = endpoints.create(allowing, partner(store).caller(), "http://127.0.0.1:9/", ["webhook.tested"])
    happen(database, allowing, made)
    deliver_next(allowing)
    waited, shown = 0.0, []
    for _ in range(25):
        [due] = rows(database, "select extract(epoch from due_at - now())::float8 from gateway.webhook")
        waited += due
        rows(database, "update gateway.webhook set due_at = now(), failing_since = now() - interval '5 days'")
        shown += list_webhooks(store, OPERATOR).webhooks
        deliver_next(allowing)
    last = list_webhooks(store, OPERATOR).webhooks[0]

    assert [each.failures for each in shown] == list(range(1, 26))
    assert {each.disabled_at for each in shown} == {None}
    assert last.disabled_at is not None
    assert 65 < waited / 3600 < 80
    reasons = rows(database, "select data ->> 'reason' from gateway.event where type = 'webhook.disabled'")
    assert reasons == ["failing"]


def test_a_redirect_is_a_failure_and_is_not_followed(allowing, store, database):
    with Receiver(lambda _: 302) as receiver:
        made, _ = endpoints.create(allowing, partner(store).caller(), receiver.url, ["webhook.tested"])
        happen(database, allowing, made)
        deliver_next(allowing)

    assert len(receiver.received) == 1
    assert list_webhooks(store, OPERATOR).webhooks[0].failures == 1


def test_a_private_address_is_refused_at_once_and_at_each_delivery(rt, allowing, store, database):
    """
    An endpoint from a time when it was allowed gets nothing any more.
    """
    with Receiver() as receiver:
        with pytest.raises(BadRequest):
            endpoints.create(rt, partner(store).caller(), receiver.url, None)
        made, _ = endpoints.create(allowing, partner(store).caller(), receiver.url, ["webhook.tested"])
        happen(database, rt, made)
        deliver_next(rt)

    assert receiver.received == []
    assert rows(database, "select status from gateway.webhook_delivery") == [None]


def test_a_secret_survives_a_rotation_of_the_keys(allowing, runtime, store, database):
    new = Fernet.generate_key().decode()
    made, secret = endpoints.create(allowing, partner(store).caller(), "http://127.0.0.1:9/", ["webhook.tested"])
    [*_, report] = rotate(runtime(new, KEY), check=False)
    assert report.is_clean
    only_new = runtime(new, GATEWAY_ALLOW_PRIVATE_HOSTS="1")
    with Receiver() as receiver:
        rows(database, "update gateway.webhook set url = %s", receiver.url)
        happen(database, only_new, replace(made, url=receiver.url))
        deliver_next(only_new)

    got = receiver.received[0]
    assert Webhook(secret).verify(got.body, got.headers)["type"] == "webhook.tested"


def test_no_event_or_log_has_the_secret_or_the_address(allowing, store, database, capfd):
    """
    The address of an endpoint often holds a secret of its own.
    """
    url = "http://127.0.0.1:9/hook?key=canary"
    made, secret = endpoints.create(allowing, partner(store).caller(), url, ["webhook.tested"])
    happen(database, allowing, made)
    deliver_next(allowing)
    said = json.dumps([rows(database, "select to_jsonb(e)::text from gateway.event e"), capfd.readouterr()])
    said += json.dumps(rows(database, "select to_jsonb(d)::text from gateway.webhook_delivery d"))

    assert "canary" not in said
    assert secret not in said
