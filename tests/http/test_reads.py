"""
The plain token read, which is answered before Flask: like the same read that Flask answers, told and counted once, whatever happens.
"""

from __future__ import annotations

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families as families

from tests.support.database import rows
from tests.support.partners import events, partner_of

RULE = "/v1/connections/<uuid:connection_id>/token"


@pytest.fixture
def connection(gateway):
    gateway.sandbox.state.faults.clear()
    return gateway.person("Alice Winter").connects("google")["connection"]


def shown(answer):
    kept = {name: value for name, value in answer.headers.items() if name.lower() != "date"}
    return answer.status_code, kept, answer.content


def counted(gateway, status):
    """How often the rule was answered so."""
    text = requests.get(f"{gateway.url}/metrics", timeout=30).text
    wanted = {"rule": RULE, "status": status, "method": "GET"}
    samples = [sample for family in families(text) for sample in family.samples]
    return sum(
        sample.value
        for sample in samples
        if sample.name == "gateway_http_request_seconds_count" and wanted.items() <= sample.labels.items()
    )


def test_plain_or_by_flask_is_one_answer(gateway, connection):
    """To the byte, headers included; for a key, for the owner, for a front end of the product, and for whoever may not."""
    reader = partner_of(gateway.dsn)
    without = partner_of(gateway.dsn, scope=("connections:read",))
    path = f"{gateway.url}/v1/connections/{connection}/token"
    strange = f"{gateway.url}/v1/connections/00000000-0000-4000-8000-000000000000/token"
    for address in (path, strange):
        for headers in (
            {"Authorization": f"Bearer {reader.key}"},
            {"Authorization": f"Bearer {reader.key}", "Origin": gateway.sandbox.origin},
            {"Authorization": f"Bearer {reader.key}", "Origin": "https://evil.example"},
            {"Authorization": f"Bearer {without.key}"},
            {"Authorization": f"Bearer {gateway.person().token()}"},
            {"Authorization": "Bearer gw_live_nonsense"},
            {},
        ):
            plain = requests.get(address, headers=headers, timeout=30)
            by_flask = requests.get(f"{address}?min_seconds=60", headers=headers, timeout=30)
            assert shown(by_flask) == shown(plain)


def test_a_plain_read_is_told_and_counted_once(gateway, connection):
    """By the rule of the route, in the ledger and in the figures."""
    reader, before = partner_of(gateway.dsn), counted(gateway, "200")

    assert 200 == reader.asks(gateway, f"/connections/{connection}/token").status_code

    assert before + 1 == counted(gateway, "200")
    assert 1 == len(events(gateway.dsn, "token.read", partner_id=reader.id, connection_id=connection))


def test_what_goes_wrong_is_answered_by_the_route_and_nothing_is_read_twice(gateway, connection):
    """A token that does not open: told as a read, once, and refused as what it is."""
    reader, before = partner_of(gateway.dsn), counted(gateway, "500")
    rows(gateway.dsn, "update public.provider_data set token = 'gAAAA' where id = %s", connection)

    answer = reader.asks(gateway, f"/connections/{connection}/token")

    assert (500, "secret_unreadable") == (answer.status_code, answer.json()["type"].rsplit("/", 1)[1])
    assert before + 1 == counted(gateway, "500")
    assert 1 == len(events(gateway.dsn, "token.read", partner_id=reader.id, connection_id=connection))


@pytest.mark.parametrize(
    ("method", "tail", "status"),
    [("HEAD", "", 200), ("POST", "", 405), ("GET", "/", 200), ("GET", "?min_seconds=x", 400), ("GET", "?a=b", 400)],
)
def test_anything_but_the_plain_read_is_flasks(gateway, connection, method, tail, status):
    """Another method, another address, a query that is none."""
    reader = partner_of(gateway.dsn)
    assert status == reader.asks(gateway, f"/connections/{connection}/token{tail}", method=method).status_code
