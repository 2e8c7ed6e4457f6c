"""
Webhooks that providers send: what each changes, in whatever order and however often it arrives.
"""

from __future__ import annotations

import base64
import itertools
import json
import random
import uuid
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.database.queries.tokens import ClaimedRefresh, claim_refresh, fail_refresh, finish_refresh
from gateway.errors import BadRequest, Forbidden, NotFound, NotSigned
from gateway.sandbox.highlevel_webhooks import PUBLIC_KEY, event, signature
from gateway.sandbox.state import State
from gateway.webhooks import receive
from tests.support.database import Person, rows
from tests.support.event_fixtures import housekeep

SANDBOX = State("http://localhost:1")
BERLIN, LISBON, AGENCY = "BBBBlocation0000001x", "BBBBlocation0000002x", "AAAAcompany00000001x"
LOCATION = {"account_id": BERLIN, "facts": {"locationId": BERLIN, "companyId": AGENCY, "userType": "Location"}}
COMPANY = {"account_id": AGENCY, "facts": {"companyId": AGENCY, "userType": "Company"}}


@pytest.fixture
def rt(runtime):
    registered = {"GHL_CLIENT_ID": "64a000000000000000000000-sandbox1", "GHL_CLIENT_SECRET": "s"}
    return runtime(**registered, GHL_WEBHOOK_PUBLIC_KEY=PUBLIC_KEY)


def sent(rt, body, signed=None):
    header = signature(body) if signed is None else signed
    receive.receive(rt, "crm", {"X-GHL-Signature": header}.get, body)


def happens(rt, kind, **fields):
    """An event arrives, and a worker settles it."""
    sent(rt, event(SANDBOX, kind, **fields))
    return receive.settle(rt)


def connected(store, name, **changes):
    person = Person(name)
    person.signs_in(store)
    return person.connects(store, **changes)


def at(seconds):
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def status(database, row):
    return rows(database, "select row_to_json(x) from (select status, reason from gateway.connection where id = %s) x", row.id)[0]  # fmt: skip


def handed_on(database, kind="provider_event.received"):
    return rows(database, "select data from gateway.event where type = %s order by at", kind)


ENDED = {"status": "needs_reauthorization", "reason": "uninstalled"}
ACTIVE = {"status": "active", "reason": None}


def test_an_uninstall_ends_the_connections_of_every_user_of_that_location_and_no_other(rt, store, database):
    alice, bob, carol = (connected(store, name, **LOCATION) for name in ("Alice", "Bob", "Carol"))
    other = {"account_id": LISBON, "facts": {"locationId": LISBON, "companyId": AGENCY, "userType": "Location"}}
    dora, agency = connected(store, "Dora", **other), connected(store, "Emil", **COMPANY)
    happens(rt, "UNINSTALL", locationId=BERLIN)

    assert [status(database, each) for each in (alice, bob, carol)] == [ENDED] * 3
    assert [status(database, each) for each in (dora, agency)] == [ACTIVE] * 2


def test_an_uninstall_of_an_agency_ends_its_locations_too_even_where_only_they_are_connected(rt, store, database):
    located = connected(store, "Alice", **LOCATION)
    happens(rt, "UNINSTALL", companyId=AGENCY)
    assert status(database, located) == ENDED
    located, agency = connected(store, "Bob", **LOCATION), connected(store, "Emil", **COMPANY)
    happens(rt, "UNINSTALL", companyId=AGENCY, timestamp=at(1))

    assert [status(database, each) for each in (located, agency)] == [ENDED] * 2


def test_an_uninstall_from_before_the_connection_was_made_does_not_end_it(rt, store, database):
    alice = Person("Alice")
    alice.signs_in(store)
    alice.connects(store, **LOCATION)
    happens(rt, "UNINSTALL", locationId=BERLIN)
    again = alice.connects(store, **LOCATION)
    happens(rt, "UNINSTALL", locationId=BERLIN, timestamp=at(-60))

    assert status(database, again) == ACTIVE


def test_an_uninstall_whose_time_is_a_whole_second_ends_a_connection_of_that_second(rt, store, database):
    """
    It was rounded down: the connection was made before it.
    """
    alice = connected(store, "Alice", **LOCATION)
    happens(rt, "UNINSTALL", locationId=BERLIN, timestamp=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")

    assert status(database, alice) == ENDED


@pytest.mark.parametrize("fields", [{"locationId": BERLIN}, {"companyId": AGENCY}])
def test_a_refresh_under_way_does_not_bring_back_what_was_uninstalled(rt, store, database, fields):
    """
    By the location itself, and by its agency.
    """
    row = connected(store, "Alice", **LOCATION)
    lease = {"host": "h", "lease_seconds": 30, "block_seconds": 60, "most": 10}
    assert isinstance(claim_refresh(store, row.id, row.generation, **lease), ClaimedRefresh)
    happens(rt, "UNINSTALL", **fields)
    given = {"token": "gAAAA", "refresh": "gAAAA", "seal_id": uuid.uuid4(), "scope": (), "account": None, "facts": {}}
    late = finish_refresh(
        store, row.id, row.generation, **given, expires_seconds=60, refresh_expires_seconds=None, renewed=True
    )

    assert late == "refreshed"
    assert status(database, row) == ENDED


@pytest.mark.parametrize("seed", range(3))
def test_twenty_copies_of_each_event_in_any_order_around_the_callback_lead_to_the_same(rt, store, database, seed):
    both = {"locationId": f"{BERLIN}-{seed}", "companyId": f"{AGENCY}-{seed}"}
    kinds = [("INSTALL", -30), ("UNINSTALL", -20), ("INSTALL", -10)]
    bodies = [event(SANDBOX, kind, **both, timestamp=at(seconds)) for kind, seconds in kinds] * 20
    chance = random.Random(seed)
    chance.shuffle(bodies)
    before = chance.randrange(len(bodies))
    for body in bodies[:before]:
        sent(rt, body)
        chance.random() < 0.3 and receive.settle(rt)
    facts = {"companyId": both["companyId"], "userType": "Company"}
    row = connected(store, f"Emil {seed}", account_id=both["companyId"], facts=facts)
    for body in bodies[before:]:
        sent(rt, body)
        chance.random() < 0.3 and receive.settle(rt)
    while receive.settle(rt):
        pass

    below = rows(database, "select account_id from gateway.derived_token where connection_id = %s", row.id)
    assert (status(database, row), below) == (ACTIVE, [both["locationId"]])
    assert len(handed_on(database, "install.received")) == 2


def test_a_mass_refusal_of_a_hundred_grants_ends_none(store, database):
    """
    Also the first ones, which were refused before the incident could be seen; and what an uninstall ends meanwhile stays ended.
    """
    held = [connected(store, f"Owner {n}", account_id=f"{BERLIN}-{n}") for n in range(100)]
    rows(database, "select gateway.end_uninstalled(array[%s::uuid])::text", held[0].id)
    for row in held[1:]:
        lease = claim_refresh(store, row.id, row.generation, host="h", lease_seconds=30, block_seconds=60, most=10)
        given = {"lease_id": lease.lease_id, "outcome": "refused", "error": "grant_refused", "wait_seconds": 2}
        fail_refresh(store, row.id, row.generation, **given, refusal={"status": 400, "code": "invalid_grant"})

    found = rows(database, "select status from gateway.connection order by status")
    assert found == ["held"] * 99 + ["needs_reauthorization"]
    assert len(handed_on(database, "provider.incident")) == 1


def test_an_event_waits_while_a_connection_is_locked(rt, store, database):
    row = connected(store, "Alice", **LOCATION)
    with psycopg.connect(database) as other:
        other.execute("select from public.provider_data where id = %s for update", [row.id])
        happens(rt, "UNINSTALL", locationId=BERLIN)
        assert status(database, row) == ACTIVE
    rows(database, "update gateway.incoming_event set due_at = now()")
    receive.settle(rt)

    assert status(database, row) == ENDED


def test_installs_before_and_after_the_callback_repeated_and_out_of_order_lead_to_the_same(rt, store, database):
    """
    Every order of two installs, an uninstall between them, and the callback; each event sent twice.
    """
    ends = set()
    for number, order in enumerate(itertools.permutations(["first", "end", "second", "callback"])):
        location, agency = f"{BERLIN}{number}", f"{AGENCY}{number}"
        both = {"locationId": location, "companyId": agency}
        bodies = {
            "first": event(SANDBOX, "INSTALL", **both, timestamp=at(-30)),
            "end": event(SANDBOX, "UNINSTALL", **both, timestamp=at(-20)),
            "second": event(SANDBOX, "INSTALL", **both, timestamp=at(-10)),
        }
        for step in order:
            if step == "callback":
                facts = {"companyId": agency, "userType": "Company"}
                row = connected(store, f"Emil {number}", account_id=agency, facts=facts)
            else:
                sent(rt, bodies[step])
                sent(rt, bodies[step])
            while receive.settle(rt):
                pass
        below = rows(database, "select account_id from gateway.derived_token where connection_id = %s", row.id)
        installs = rows(database, "select count(*) from gateway.event where type = 'install.received' and connection_id = %s", row.id)  # fmt: skip
        ends.add((status(database, row)["status"], tuple(below) == (location,), installs[0]))

    assert ends == {("active", True, 2)}


def test_an_event_is_handed_on_once_for_each_connection_with_its_bytes_as_they_came(rt, store, database):
    connected(store, "Alice", **LOCATION)
    connected(store, "Bob", **LOCATION)
    text = (
        f'{{"type":"ContactCreate","locationId":"{BERLIN}","name":"Zoë \\u00eb \\/ 1.0","score":1.0,"webhookId":"w-1"}}'
    )
    for _ in range(3):
        sent(rt, text.encode())
        receive.settle(rt)
    shown = rows(
        database, "select gateway.event_json(e, null) from gateway.event e where e.type = 'provider_event.received'"
    )

    assert [each["data"]["body"] for each in shown] == [text] * 2
    assert {each["data"]["event"] for each in shown} == {"ContactCreate"}


RSA = rsa.generate_private_key(65537, 2048)
RSA_DER = RSA.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def by_rsa(body):
    return base64.b64encode(RSA.sign(body, PKCS1v15(), SHA256())).decode()


@pytest.mark.parametrize("on", [True, False])
def test_the_earlier_rsa_signature_counts_only_where_it_is_switched_on(runtime, tmp_path, on):
    """
    And only where the present one is missing; not over another body, and not by another key.
    """
    (tmp_path / "own.toml").write_text(
        f"[ghl.webhooks]\nsignature_header = 'X-GHL-Signature'\npublic_key = '{PUBLIC_KEY}'\n"
        f"legacy_header = 'X-WH-Signature'\nlegacy_public_key = '{base64.b64encode(RSA_DER).decode()}'\n"
    )
    registered = {"GHL_CLIENT_ID": "64a000000000000000000000-sandbox1", "GHL_CLIENT_SECRET": "s"}
    rt = runtime(**registered, GATEWAY_CATALOG=str(tmp_path), GATEWAY_LEGACY_WEBHOOKS="1" if on else "0")
    body = event(SANDBOX, "ContactCreate", locationId=BERLIN)
    accepted = [
        {"X-WH-Signature": by_rsa(body)},
        {"X-WH-Signature": by_rsa(body), "X-GHL-Signature": "N/A"},
    ]
    refused = [
        {"X-WH-Signature": by_rsa(body), "X-GHL-Signature": signature(body + b" ")},
        {"X-WH-Signature": by_rsa(body + b" ")},
        {"X-WH-Signature": signature(body)},
        {"X-GHL-Signature": by_rsa(body)},
        {"X-WH-Signature": "N/A"},
        {"X-WH-Signature": "é"},
        {},
    ]
    for given in accepted if on else []:
        receive.receive(rt, "crm", given.get, body)
    for given in refused if on else [*refused, *accepted]:
        with pytest.raises(NotSigned):
            receive.receive(rt, "crm", given.get, body)


@pytest.mark.parametrize(
    "fields",
    [
        {"locationId": BERLIN},
        {"altId": BERLIN, "altType": "location"},
        {"locationId": BERLIN, "altId": BERLIN, "altType": "location", "companyId": AGENCY},
        {"companyId": AGENCY},
        {"altId": AGENCY, "altType": "company"},
    ],
)
def test_the_location_is_found_wherever_an_event_names_it(rt, store, database, fields):
    connected(store, "Alice", **(LOCATION if BERLIN in fields.values() else COMPANY))
    happens(rt, "InvoicePaid", **fields)

    assert len(handed_on(database)) == 1


def test_an_agency_gets_the_events_of_its_locations(rt, store, database):
    connected(store, "Emil", **COMPANY)
    happens(rt, "INSTALL", locationId=LISBON, companyId=AGENCY)
    happens(rt, "ContactCreate", locationId=LISBON)

    assert [each["account_id"] for each in handed_on(database)] == [LISBON]
    assert [each["account_id"] for each in handed_on(database, "install.received")] == [LISBON]


@pytest.mark.parametrize(
    "kind", ["EXTERNAL_AUTH_CONNECTED", "OpportunityCreate", "LocationCreate", "UserCreate", "SMS"]
)
def test_every_other_event_of_a_location_is_handed_on_and_changes_nothing(rt, store, database, kind):
    """
    An external authentication, business events, one whose documented fields are missing, and types that no document knows.
    """
    row, agency = connected(store, "Alice", **LOCATION), connected(store, "Emil", **COMPANY)
    named = {"id": BERLIN} if kind == "LocationCreate" else {"locationId": BERLIN}
    happens(rt, kind, **named, companyId=AGENCY, authType="oauth2", scopes=["a"])

    assert [each["event"] for each in handed_on(database)] == [kind] * 2
    assert [status(database, each) for each in (row, agency)] == [ACTIVE] * 2


@pytest.mark.parametrize("kind", ["ContactCreate", "UNINSTALL", "UPDATE", "PLAN_CHANGE", "LocationCreate", "NewKind"])
def test_of_an_unknown_location_nothing_is_stored(rt, database, kind):
    happens(rt, kind, locationId=BERLIN, companyId=AGENCY)
    happens(rt, kind)

    assert rows(database, "select id from gateway.incoming_event") == []


def test_a_changed_plan_a_new_version_and_a_new_name_are_taken_over_and_the_later_one_counts(rt, store, database):
    row = connected(store, "Alice", **LOCATION)
    happens(rt, "PLAN_CHANGE", locationId=BERLIN, companyId=AGENCY, newPlanId="second")
    happens(rt, "PLAN_CHANGE", locationId=BERLIN, companyId=AGENCY, newPlanId="first", timestamp=at(-60))
    happens(rt, "LocationUpdate", id=BERLIN, companyId=AGENCY, name="Northwind Berlin")
    rows(database, "update gateway.connection set refresh_at = now() + interval '1 day'")
    happens(rt, "UPDATE", locationId=BERLIN, versionId="64a000000000000000000009")
    found = rows(
        database,
        "select jsonb_build_array(c.facts ->> 'planId', c.facts ->> 'versionId', c.account_label, c.refresh_at <= now(),"
        " d.data ->> 'planId', d.data -> 'account' ->> 'label') from gateway.connection c join public.provider_data d using (id)"
        " where c.id = %s",
        row.id,
    )[0]

    assert found == ["second", "64a000000000000000000009", "Northwind Berlin", True, "second", "Northwind Berlin"]


@pytest.mark.parametrize(
    "fields",
    [
        {"locationId": BERLIN, "appId": "64b000000000000000000000"},
        {"locationId": BERLIN, "appId": None},
        {"locationId": BERLIN, "appId": "64a000000000000000000000-sandbox1"},
    ],
)
def test_an_uninstall_of_another_app_is_refused(rt, store, database, fields):
    """
    HighLevel signs the webhooks of every app with one key.
    """
    row = connected(store, "Alice", **LOCATION)
    with pytest.raises(Forbidden):
        happens(rt, "UNINSTALL", **fields)

    assert status(database, row) == ACTIVE


def test_an_event_may_be_72_hours_old_and_no_older(rt, store):
    connected(store, "Alice", **LOCATION)
    assert happens(rt, "ContactCreate", locationId=BERLIN, timestamp=at(-71.9 * 3600))
    for seconds in (-72.1 * 3600, 72.1 * 3600):
        with pytest.raises(BadRequest):
            happens(rt, "ContactCreate", locationId=BERLIN, timestamp=at(seconds))


def test_an_id_is_kept_for_seven_days_and_the_body_is_erased_with_it(rt, store, database):
    connected(store, "Alice", **LOCATION)
    body = event(SANDBOX, "ContactCreate", locationId=BERLIN)
    sent(rt, body)
    receive.settle(rt)
    rows(database, "update gateway.incoming_event set received_at = now() - interval '6 days 23 hours'")
    housekeep(rt)
    sent(rt, body)
    assert not receive.settle(rt)
    rows(database, "update gateway.incoming_event set received_at = now() - interval '7 days 1 hour'")
    housekeep(rt)

    assert rows(database, "select body from gateway.incoming_event") == []
    assert len(handed_on(database)) == 1


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b'{"type":', b"\xff", b'"INSTALL"', b"[" * 100_000])
def test_a_signed_body_that_is_no_object_is_a_bad_request(rt, body):
    with pytest.raises(BadRequest):
        sent(rt, body)


@pytest.mark.parametrize("value", [None, 5, True, [], {}, "", "x" * 10_000, "\x00", "\ud800"])
def test_fields_of_any_form_break_nothing(rt, store, database, value):
    connected(store, "Alice", **LOCATION)
    fields = dict.fromkeys(("altId", "altType", "companyId", "timestamp", "webhookId", "name", "newPlanId"), value)
    body = json.dumps({"type": "PLAN_CHANGE", "appId": "64a000000000000000000000", "locationId": BERLIN} | fields)
    sent(rt, body.encode())
    assert receive.settle(rt)

    assert len(handed_on(database)) == 1


def test_without_a_provider_that_sends_webhooks_there_is_nothing_here(runtime, rt):
    for other, path in ((runtime(), "crm"), (rt, "email")):
        with pytest.raises(NotFound):
            receive.receive(other, path, {}.get, b"{}")


def test_the_published_key_is_the_default(runtime):
    registered = {"GHL_CLIENT_ID": "64a000000000000000000000-sandbox1", "GHL_CLIENT_SECRET": "s"}
    body = event(SANDBOX, "INSTALL", locationId=BERLIN)

    with pytest.raises(NotSigned):
        sent(runtime(**registered), body)
    white_label = {f"GHL_WHITE_LABEL{name[3:]}": value for name, value in registered.items()}
    sent(runtime(**white_label, GHL_WEBHOOK_PUBLIC_KEY=PUBLIC_KEY), body)
