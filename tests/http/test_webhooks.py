"""
Outgoing webhooks, from outside: a partner adds an endpoint, the running gateway delivers to it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from standardwebhooks import Webhook, WebhookVerificationError

from gateway.sandbox.highlevel_webhooks import deliver, event, signature
from tests.support import documented
from tests.support.database import rows
from tests.support.gateway_process import fields_in
from tests.support.partners import partner_of
from tests.support.patience import wait_for
from tests.support.receiver import Receiver

NODE = Path(__file__).resolve().parents[1] / "node"


@pytest.fixture
def partner(gateway):
    return partner_of(gateway.dsn)


@pytest.fixture
def receiver():
    with Receiver() as made:
        yield made


def added(gateway, partner, receiver, **body):
    answer = partner.asks(gateway, "/webhooks", "POST", json={"url": receiver.url} | body)
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_an_event_arrives_signed_and_verifies_with_the_standard_libraries(gateway, alice, partner, receiver):
    """
    In Python and in JavaScript; with another secret, or a changed body, it does not. The body is the event as /v1/events shows it.
    """
    endpoint = added(gateway, partner, receiver)
    held = alice.connects("zoom")["connection"]
    wanted = ("connection.created", held)
    wait_for(lambda: wanted in [(r.event["type"], r.event["connection_id"]) for r in receiver.received])
    got = next(r for r in receiver.received if wanted == (r.event["type"], r.event["connection_id"]))
    shown = partner.asks(gateway, "/events", params={"after": got.event["position"] - 1}).json()["items"][0]

    assert got.event == shown
    assert got.headers["webhook-id"] == shown["id"]
    body = Webhook(endpoint["secret"]).verify(got.body, got.headers)
    assert (body["type"], body["timestamp"]) == (shown["type"], shown["at"])
    for changed in (got.body.replace(b"zoom", b"zoon"), got.body + b" "):
        with pytest.raises(WebhookVerificationError):
            Webhook(endpoint["secret"]).verify(changed, got.headers)
    assert verified_by_node(endpoint["secret"], got.headers, got.body) == {"type": "connection.created"}
    assert "error" in verified_by_node("whsec_" + "A" * 44, got.headers, got.body)


def verified_by_node(secret, headers, body):
    line = json.dumps({"headers": headers, "body": body.decode()})
    command = ["node", "--no-warnings", "verify_webhook.mjs", secret]
    ended = subprocess.run(command, cwd=NODE, input=line + "\n", capture_output=True, text=True, timeout=60, check=True)
    return json.loads(ended.stdout)


def test_an_endpoint_gets_only_the_types_it_asked_for(gateway, alice, partner, receiver):
    added(gateway, partner, receiver, event_types=["connection.disconnected"])
    held = alice.connects("zoom")["connection"]
    alice.disconnects(held)
    wait_for(lambda: receiver.received)

    assert {r.event["type"] for r in receiver.received} == {"connection.disconnected"}


def test_a_receiver_that_was_down_misses_nothing_and_recognises_repeats(gateway, partner):
    """
    Every event arrives, in order; what is sent again has the id that it had before.
    """
    down = True
    with Receiver(
        lambda r: (
            503 if down else None if r.event["position"] % 3 == 0 and seen.get(r.headers["webhook-id"], 0) < 1 else 200
        )
    ) as receiver:
        seen: dict[str, int] = {}
        endpoint = added(gateway, partner, receiver)
        for _ in range(5):
            partner.asks(gateway, f"/webhooks/{endpoint['id']}/test", "POST")
        wait_for(lambda: receiver.received)
        down = False
        hurried(gateway, endpoint)
        count = len(receiver.received)

        def everything():
            seen.update({r.headers["webhook-id"]: 1 for r in receiver.received})
            hurried(gateway, endpoint)
            return position(gateway, partner, endpoint) == last_position(gateway)

        wait_for(everything)
    arrived = [r.event["id"] for r in receiver.received]
    expected = [
        str(each)
        for each in rows(
            gateway.dsn,
            "select id from gateway.event where type = 'webhook.tested' and data ->> 'webhook_id' = %s order by position",
            endpoint["id"],
        )
    ]

    assert list(dict.fromkeys(each for each in arrived if each in expected)) == expected
    assert len(arrived) > count
    deliveries = partner.asks(gateway, f"/webhooks/{endpoint['id']}/deliveries").json()["items"]
    assert {503, 200} <= {each["status"] for each in deliveries}


def hurried(gateway, endpoint):
    """As if the wait after a failure were over."""
    rows(gateway.dsn, "update gateway.webhook set due_at = now() where id = %s and claim_id is null", endpoint["id"])


def position(gateway, partner, endpoint):
    found = partner.asks(gateway, "/webhooks").json()["items"]
    return next(each["position"] for each in found if each["id"] == endpoint["id"])


def last_position(gateway):
    return rows(gateway.dsn, "select max(position) from gateway.event")[0]


def test_an_endpoint_that_says_it_is_gone_is_disabled_and_a_replay_enables_it(gateway, partner):
    with Receiver(lambda _: 410) as receiver:
        endpoint = added(gateway, partner, receiver)
        partner.asks(gateway, f"/webhooks/{endpoint['id']}/test", "POST")
        shown = {}

        def disabled():
            shown.update(partner.asks(gateway, "/webhooks").json()["items"][0])
            return shown["disabled_at"] is not None

        wait_for(disabled)
        told = rows(
            gateway.dsn,
            "select data from gateway.event where type = 'webhook.disabled' and partner_id = %s",
            partner.id,
        )
        assert [each["reason"] for each in told] == ["gone"]
        refused = partner.asks(gateway, f"/webhooks/{endpoint['id']}/test", "POST")
        assert (400, "webhook_id") == (refused.status_code, refused.json()["errors"][0]["field"])
        assert "replay" in refused.json()["errors"][0]["reason"]
        receiver.respond = lambda _: 204
        before = len(receiver.received)
        answer = partner.asks(
            gateway, f"/webhooks/{endpoint['id']}/replay", "POST", json={"after": endpoint["position"]}
        )

        assert answer.json()["disabled_at"] is None
        wait_for(lambda: len(receiver.received) > before)
        assert receiver.received[before].event["id"] == receiver.received[0].event["id"]


def test_while_a_secret_changes_both_verify(gateway, partner, receiver):
    """
    And the header stays short, since web servers refuse long ones: an eleventh secret has to wait for the end of another, and ends none early.
    """
    endpoint = added(gateway, partner, receiver, event_types=["webhook.tested"])
    rotated = partner.asks(gateway, f"/webhooks/{endpoint['id']}/rotate-secret", "POST").json()
    partner.asks(gateway, f"/webhooks/{endpoint['id']}/test", "POST")
    wait_for(lambda: any(r.event["type"] == "webhook.tested" for r in receiver.received))
    got = receiver.received[-1]

    assert rotated["secret"] != endpoint["secret"]
    for each in (endpoint, rotated):
        Webhook(each["secret"]).verify(got.body, got.headers)
    rows(
        gateway.dsn,
        "update gateway.webhook_secret set expires_at = now() where webhook_id = %s and expires_at is not null",
        endpoint["id"],
    )
    partner.asks(gateway, f"/webhooks/{endpoint['id']}/test", "POST")
    wait_for(lambda: receiver.received[-1] != got)
    last = receiver.received[-1]
    Webhook(rotated["secret"]).verify(last.body, last.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(endpoint["secret"]).verify(last.body, last.headers)
    answers = [partner.asks(gateway, f"/webhooks/{endpoint['id']}/rotate-secret", "POST") for _ in range(10)]
    assert [200] * 9 + [429] == [each.status_code for each in answers]
    assert ("rate_limited", 10) == (answers[-1].json()["code"], answers[-1].json()["limit"])
    assert 86_000 < int(answers[-1].headers["Retry-After"]) <= 86_400
    newest = answers[-2].json()["secret"]
    partner.asks(gateway, f"/webhooks/{endpoint['id']}/test", "POST")
    wait_for(lambda: receiver.received[-1] != last)
    for secret in (newest, rotated["secret"]):
        Webhook(secret).verify(receiver.received[-1].body, receiver.received[-1].headers)
    assert 10 == len(receiver.received[-1].headers["webhook-signature"].split())


def test_endpoints_belong_to_one_partner(gateway, alice, partner, receiver):
    """
    Another partner's id answers like none; a user and a key without the scope are refused.
    """
    endpoint = added(gateway, partner, receiver)
    other = partner_of(gateway.dsn)
    alice.signs_in()
    without = partner_of(gateway.dsn, scope=("events:read",))

    for method, path in (("DELETE", ""), ("POST", "/test"), ("POST", "/rotate-secret"), ("GET", "/deliveries")):
        for wanted in (endpoint["id"], uuid.uuid4()):
            assert other.asks(gateway, f"/webhooks/{wanted}{path}", method).status_code == 404
    assert other.asks(gateway, "/webhooks").json()["items"] == []
    assert without.asks(gateway, "/webhooks").status_code == 403
    bearer = {"Authorization": f"Bearer {alice.token()}"}
    assert alice.get("/v1/webhooks", headers=bearer).status_code == 403
    assert partner.asks(gateway, f"/webhooks/{endpoint['id']}", "DELETE").status_code == 200
    assert partner.asks(gateway, "/webhooks").json()["items"] == []


@pytest.mark.parametrize(
    "url",
    [
        "ftp://partner.example/",
        "https://user:pass@partner.example/",
        "https://169.254.169.254/latest",
        "https://partner.example/#fragment",
        "javascript:alert(1)",
        "https://",
        "",
        "http://partner.example\r\nX: y/",
    ],
)
def test_an_address_that_may_not_be_called_is_refused_with_the_reason(gateway, partner, url):
    answer = partner.asks(gateway, "/webhooks", "POST", json={"url": url})

    assert answer.status_code == 400
    assert [each["field"] for each in answer.json()["errors"]] == ["url"]


@pytest.mark.parametrize(
    "types",
    [["conection.created"], ["connection.created", "tokens.reads"], ["CONNECTION.CREATED"], ["connection.*"], [""]],
)
def test_a_type_of_event_that_does_not_exist_is_refused_with_those_that_do(gateway, partner, types):
    """
    A typing error would leave the endpoint without events, and its owner without a reason.
    """
    answer = partner.asks(gateway, "/webhooks", "POST", json={"url": "https://partner.example/", "event_types": types})
    [problem] = answer.json()["errors"]

    assert answer.status_code == 400
    assert problem["field"].startswith("event_types")
    assert "'connection.created'" in problem["reason"]
    assert partner.asks(gateway, "/webhooks").json()["items"] == []


def test_a_partner_has_at_most_ten_endpoints(gateway, partner, receiver):
    for _ in range(10):
        added(gateway, partner, receiver)
    answer = partner.asks(gateway, "/webhooks", "POST", json={"url": receiver.url})

    assert answer.status_code == 400
    assert "ten" in answer.text


def test_a_frozen_partner_gets_its_events_later(gateway, partner, receiver):
    endpoint = added(gateway, partner, receiver)
    rows(gateway.dsn, "update gateway.partner set frozen_at = now() where id = %s", partner.id)
    rows(
        gateway.dsn,
        "insert into gateway.event (type, partner_id, data) values ('webhook.tested', %s, %s::jsonb)",
        partner.id,
        json.dumps({"webhook_id": endpoint["id"]}),
    )
    time.sleep(3)
    assert not receiver.received
    rows(gateway.dsn, "update gateway.partner set frozen_at = null where id = %s", partner.id)
    wait_for(lambda: receiver.received)


# -- webhooks of providers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signed", [None, "N/A", "", "AAAA", "x" * 5000, "rsa of the wrong header"])
def test_a_webhook_without_a_valid_signature_gets_a_clear_401(gateway, signed):
    """
    Such as the webhook of a workflow, which HighLevel does not sign; any number of them do not shut out signed ones.
    """
    body = event(gateway.sandbox.state, "UNINSTALL", locationId="NorthwindBerlin00001")
    headers = {"X-WH-Signature": signature(body), "x-highlevel-signature": "s3cret"}
    headers |= {} if signed is None else {"X-GHL-Signature": signed}
    refused = requests.post(
        f"{gateway.url}/crm/webhooks", data=body, headers=headers, timeout=60, allow_redirects=False
    )

    assert refused.status_code == 401
    assert (refused.json()["code"], refused.json()["remedy"]) == ("unauthenticated", "fix_request")
    assert "The webhook of a workflow is not" in refused.json()["detail"]
    assert deliver(gateway.sandbox.state, body) == 200


def test_webhooks_are_taken_at_one_address_only(gateway):
    body = event(gateway.sandbox.state, "UNINSTALL", locationId="NorthwindBerlin00001")
    headers = {"X-GHL-Signature": signature(body)}
    answers = [
        requests.get(f"{gateway.url}/crm/webhooks", timeout=60).status_code,
        requests.post(f"{gateway.url}/email/webhooks", data=body, headers=headers, timeout=60).status_code,
        requests.post(f"{gateway.url}/crm/webhooks", data=b"[" + body, headers=headers, timeout=60).status_code,
        requests.post(f"{gateway.url}/crm/webhooks/", data=body, timeout=60).status_code,
        deliver(gateway.sandbox.state, event(gateway.sandbox.state, "X", locationId="l", note="x" * 300_000)),
        deliver(gateway.sandbox.state, event(gateway.sandbox.state, "X", locationId="l", note="x" * 600_000)),
    ]

    assert answers == [405, 404, 401, 401, 200, 413]


def test_an_uninstalled_location_needs_reauthorization_and_its_events_reach_the_partner(
    gateway, alice, bob, partner, receiver
):
    """
    Two users share a sub-account. Its events are handed on unchanged; the uninstall ends both connections, with the reason.
    """
    added(gateway, partner, receiver)
    held = {each.connects("ghl", "NorthwindLisbon00001")["connection"] for each in (alice, bob)}
    text = '{"type":"NoteCreate", "locationId":"NorthwindLisbon00001","body":"Zoë \\u00eb","n":1.0,"webhookId":"%s"}'
    body = (text % uuid.uuid4()).encode()
    assert deliver(gateway.sandbox.state, body) == 200
    uninstall = event(gateway.sandbox.state, "UNINSTALL", locationId="NorthwindLisbon00001")
    assert [deliver(gateway.sandbox.state, uninstall) for _ in range(3)] == [200] * 3

    def came(kind):
        return [r.event for r in receiver.received if r.event["type"] == kind and r.event["connection_id"] in held]

    wait_for(lambda: len(came("connection.needs_reauthorization")) == 2 and len(came("provider_event.received")) == 4)
    assert [e["data"]["body"].encode() for e in came("provider_event.received")] == [body] * 2 + [uninstall] * 2
    shown = [partner.asks(gateway, f"/connections/{each}").json() for each in held]
    assert {(each["status"], each["reason"]) for each in shown} == {("needs_reauthorization", "uninstalled")}
    for each in (alice, bob):
        assert "The app was uninstalled from this account" in each.get("/connections").text


def test_an_install_and_an_uninstall_are_announced_by_the_provider_while_they_happen(gateway, alice, bob):
    """
    The webhook of the install comes before or after the callback is done; the uninstall by one user ends the other's connection.
    """
    state = gateway.sandbox.state
    state.switches["highlevel_webhooks"] = True
    try:
        first, second = (each.connects("ghl", "NorthwindBerlin00001")["connection"] for each in (alice, bob))
        received = "select 1 from gateway.event where type = 'install.received' and connection_id = %s"
        wait_for(lambda: rows(gateway.dsn, received, second))
        alice.post(f"/connections/{first}/disconnect", {"csrf": csrf(alice), "uninstall": "1"})
        ended = "select reason from gateway.connection where id = %s and status = 'needs_reauthorization'"
        wait_for(lambda: rows(gateway.dsn, ended, second) == ["uninstalled"])
        forwarded = "select 1 from gateway.event where type = 'provider_event.received' and connection_id = %s"
        wait_for(lambda: rows(gateway.dsn, forwarded, second))
    finally:
        state.switches["highlevel_webhooks"] = False
        state.uninstalled.clear()


def csrf(person):
    return fields_in(person.get("/connections").text)["csrf"]


@contextmanager
def python_receiver(secret, folder):
    """The documented Flask application, on a real port."""
    (folder / "receiver.py").write_text(documented.example("python", "WEBHOOK_SECRET"))
    command = [sys.executable, "-m", "flask", "--app", "receiver.py", "run", "--port", "0"]
    environ = os.environ | {"WEBHOOK_SECRET": secret, "PYTHONUNBUFFERED": "1"}
    with running(command, folder, environ, r"http://127\.0\.0\.1:(\d+)") as found:
        yield found


@contextmanager
def typescript_receiver(secret, folder):
    """The documented Edge Function, in Node."""
    source = documented.example("ts", "WEBHOOK_SECRET")
    assert (
        f"standardwebhooks@{json.loads((NODE / 'package.json').read_text())['dependencies']['standardwebhooks']}"
        in source
    )
    (folder / "receiver.ts").write_text(source)
    command = ["node", "--no-warnings", "edge_function.mjs", str(folder / "receiver.ts"), secret]
    with running(command, NODE, dict(os.environ), r"port (\d+)") as found:
        yield found


@contextmanager
def running(command, folder, environ, pattern):
    """The address of a process that says its port in its output, and the output file."""
    log = folder / "receiver.log" if folder != NODE else Path(command[3]).with_suffix(".log")
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=folder, env=environ, stdout=out, stderr=out)
    try:
        wait_for(lambda: re.search(pattern, log.read_text()) or process.poll() is not None)
        yield f"http://127.0.0.1:{re.search(pattern, log.read_text())[1]}/webhooks", log
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("receiver_in", [python_receiver, typescript_receiver])
def test_the_documented_receivers_verify_what_the_gateway_sends(
    gateway, alice, partner, receiver, tmp_path, receiver_in
):
    """
    What the gateway sent is accepted, and a repeat recognised; with a changed body it is refused.
    """
    endpoint = added(gateway, partner, receiver, event_types=["connection.created"])
    held = alice.connects("zoom")["connection"]
    wait_for(lambda: receiver.received)
    sent = receiver.received[0]
    with receiver_in(endpoint["secret"], tmp_path) as (url, log):
        accepted = requests.post(url, data=sent.body, headers=sent.headers, timeout=60)
        refused = requests.post(url, data=sent.body + b" ", headers=sent.headers, timeout=60)
        repeated = requests.post(url, data=sent.body, headers=sent.headers, timeout=60)

        assert (accepted.status_code, refused.status_code, repeated.status_code) == (204, 401, 204)
        wait_for(lambda: f"connection.created {held}" in log.read_text())
        assert log.read_text().count(held) == 1
