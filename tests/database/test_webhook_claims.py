"""
Outgoing webhooks: what a claim may do, where a delivery may go, and how secrets are kept.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import replace

import pytest
from cryptography.fernet import Fernet
from standardwebhooks import Webhook

from gateway.connections.rotate_keys import rotate
from gateway.database.queries.webhooks import Attempt, change_webhook, claim_deliveries, end_delivery, list_webhooks
from gateway.errors import BadRequest, SecretUnreadable
from gateway.events.chain import assign_positions
from gateway.models import OPERATOR
from gateway.webhooks import deliver, endpoints
from gateway.webhooks.deliver import claim_next
from tests.support.commands import run_command
from tests.support.database import rows
from tests.support.event_fixtures import KEY
from tests.support.partners import partner
from tests.support.receiver import Receiver
from tests.support.scripted_server import listening, once


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


def ended(store, claim):
    [event] = claim.events
    attempt = Attempt(event.position, event.id, event.type, 204, None, 1)
    return end_delivery(store, claim.id, claim_id=claim.claim_id, attempt=attempt, wait_seconds=0.0)


def test_a_claim_whose_lease_is_over_moves_no_cursor(allowing, store, database):
    made, _ = endpoints.create(allowing, partner(store).caller(), "http://127.0.0.1:9/", ["webhook.tested"])
    happen(database, allowing, made)
    late, current = claimed(store, 0), claimed(store)
    position = late.events[0].position

    assert not ended(store, late)
    assert list_webhooks(store, OPERATOR).webhooks[0].position < position
    assert ended(store, current)
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
        rows(database, "update gateway.webhook set due_at = now()")
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


def responded(text):
    return once(text.replace("\n", "\r\n").encode() + b"\r\n\r\n")


def with_endless_body(line):
    line.request()
    line.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not line.listener.closing.is_set():
        line.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")


def with_endless_hints(line):
    line.request()
    while not line.listener.closing.is_set():
        line.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")


def with_a_dripped_head(line):
    line.request()
    line.drip(b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 1000)


ODD_RECEIVERS = {
    "299": (responded("HTTP/1.1 299 Odd\nContent-Length: 0"), 299),
    "a body that is cut short": (responded("HTTP/1.1 200 OK\nContent-Length: 1000"), 200),
    "an endless body": (with_endless_body, 200),
    "hints before the response": (responded("HTTP/1.1 103 Early Hints\nLink: x\n\nHTTP/1.1 204 No Content"), 204),
    "304": (responded("HTTP/1.1 304 Not Modified"), 304),
    "999": (responded("HTTP/1.1 999 Odd\nContent-Length: 0"), 999),
    "endless hints": (with_endless_hints, None),
    "another protocol": (responded("HTTP/1.1 101 Switching Protocols\nUpgrade: x\nConnection: upgrade"), None),
    "a huge head": (responded("HTTP/1.1 200 OK" + "\nX: a" * 20_000), None),
    "no HTTP": (once(b"SSH-2.0\r\n"), None),
    "an impossible length": (responded("HTTP/1.1 200 OK\nContent-Length: x"), None),
    "a closed connection": (lambda _: None, None),
    "a reset": (lambda line: (line.request(), line.reset()), None),
}
SLOW_RECEIVERS = {
    "a dripped head": (with_a_dripped_head, None),
    "silence": (lambda line: line.stay_silent(), None),
}


@pytest.mark.parametrize(("receivers", "seconds"), [(ODD_RECEIVERS, 10.0), (SLOW_RECEIVERS, 0.5)])
def test_only_a_2xx_head_within_the_time_is_a_delivery(allowing, store, database, monkeypatch, receivers, seconds):
    """
    Whatever else a receiver does is a failed attempt, with its status or a reason in the log, and the event comes again.
    """
    monkeypatch.setattr(deliver, "DELIVERY_SECONDS", seconds)
    seen = {}
    with listening() as listen:
        for name, (script, _) in receivers.items():
            made, _ = endpoints.create(allowing, partner(store).caller(), listen(script).url(), ["webhook.tested"])
            happen(database, allowing, made)
            deliver_next(allowing)
            [found], [attempt] = list_webhooks(store, OPERATOR, made.id)
            succeeded = attempt.status in range(200, 300)
            seen[name] = attempt.status
            assert (found.position >= attempt.position, found.failures) == (succeeded, not succeeded), name
            assert (attempt.error is None) == (attempt.status is not None), name

    assert seen == {name: status for name, (_, status) in receivers.items()}


@pytest.mark.parametrize("change", ["delete", "replay", "rotate"])
def test_an_endpoint_may_change_while_a_delivery_runs(allowing, store, database, change):
    """
    A deleted one gets no further event and leaves nothing behind; a replay is not undone by the delivery that ends after it.
    """
    called = partner(store).caller()

    def respond(_):
        if len(receiver.received) > 1:
            return 204
        if change == "rotate":
            endpoints.rotate_secret(allowing, called, made.id)
        else:
            change_webhook(store, made.id, change, called, after=made.position)
        return 204

    with Receiver(respond) as receiver:
        made, secret = endpoints.create(allowing, called, receiver.url, ["webhook.tested"])
        for _ in range(2):
            happen(database, allowing, made)
        deliver_next(allowing)
        for unit in claim_next(allowing, ()):
            unit.run()

    positions = [Webhook(secret).verify(r.body, r.headers)["data"]["position"] for r in receiver.received]
    first, second = positions[0], positions[0] + 1
    assert positions == {"delete": [first], "replay": [first, first, second], "rotate": [first, second]}[change]
    left = [each.failures for each in list_webhooks(store, OPERATOR).webhooks]
    assert left == ([] if change == "delete" else [0])


def test_a_secret_that_this_gateway_cannot_read_is_no_failure_of_the_receiver(runtime, allowing, store, database):
    made, _ = endpoints.create(allowing, partner(store).caller(), "http://127.0.0.1:9/", ["webhook.tested"])
    happen(database, allowing, made)
    with pytest.raises(SecretUnreadable):
        deliver_next(runtime(Fernet.generate_key().decode(), GATEWAY_ALLOW_PRIVATE_HOSTS="1"))

    assert list_webhooks(store, OPERATOR).webhooks[0].failures == 0


def test_the_command_line_lists_endpoints_and_attempts_and_replays(allowing, store, database):
    made, _ = endpoints.create(allowing, partner(store).caller(), "http://127.0.0.1:9/", ["webhook.tested"])
    happen(database, allowing, made)
    deliver_next(allowing)

    def said(*arguments, code=0):
        ended = run_command({"DATABASE_URL": database}, "webhooks", *arguments)
        assert ended.exit_code == code, ended.output
        return ended.output

    [shown], [attempt] = (json.loads(said("list", *of, "--json")) for of in ((), ("--deliveries", str(made.id))))
    assert (shown["id"], shown["failures"], attempt["type"]) == (str(made.id), 1, "webhook.tested")
    assert attempt["error"] in said("list", "--deliveries", str(made.id))
    assert json.loads(said("replay", str(made.id), "--after", "0", "--json"))["failures"] == 0
    assert [each.id for each in claimed(store).events] == [uuid.UUID(attempt["event_id"])]
    for wrong in (("list", "--deliveries", str(uuid.uuid4())), ("replay", str(uuid.uuid4()), "--after", "0")):
        assert "no such endpoint" in said(*wrong, code=2)
    for after in ("-1", "x", "9" * 20):
        assert "--after" in said("replay", str(made.id), "--after", after, code=2)


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
