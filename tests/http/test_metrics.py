"""
/metrics: who may read it, what it says, and that nothing of an address, a user or a secret becomes a label.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
import uuid
from pathlib import Path

import psycopg
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families as families

from gateway import __version__, create_app
from gateway.database.migrate import apply_schema
from gateway.embedded.postgres import start_or_join
from gateway.settings import LOOPBACK_ONLY
from tests.support.gateway_process import Gateway, whole_gateway


@pytest.fixture
def app(database, tmp_path):
    """The application without a server, so that a test decides who the peer is."""
    made = []

    def make(*, loopback_only=True, **more):
        settings = {
            "GATEWAY_KEYS": "3q2-7wABAgMEBQYHCAkKCxyzDQ4PEBESExQVFhcYGRo=",
            "DATABASE_URL": database,
            "GATEWAY_DATA": str(tmp_path),
            "SUPABASE_URL": "https://northwind.example",
            "ZOOM_CLIENT_ID": "a",
            "ZOOM_CLIENT_SECRET": "b",
        }
        made.append(create_app(settings | more))
        made[-1].config[LOOPBACK_ONLY] = loopback_only
        return made[-1].test_client()

    yield make
    for one in made:
        one.extensions["gateway"].database.close()


def figures(answer):
    assert 200 == answer.status_code
    text = answer.text
    return {(s.name, *sorted(s.labels.items())): s.value for f in families(text) for s in f.samples}


def read(client, peer="127.0.0.1", **headers):
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.get("/metrics", headers=sent, environ_base={"REMOTE_ADDR": peer})


# -- who -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.9.1", "::1"])
def test_without_a_token_this_machine_may_read(app, peer):
    """
    By the peer of the socket.
    """
    assert 200 == read(app(), peer).status_code


@pytest.mark.parametrize("peer", ["10.0.0.8", "203.0.113.9", "2001:db8::1", "", "localhost.example.com"])
def test_without_a_token_nobody_else_may(app, peer):
    """
    Not even from a private network.
    """
    assert 403 == read(app(), peer).status_code


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1"])
def test_a_server_that_other_machines_can_reach_needs_the_token(app, peer):
    """
    A proxy on this machine may add no header, so the peer alone proves nothing.
    """
    assert 403 == read(app(loopback_only=False), peer).status_code


def test_serve_on_every_address_needs_the_token(cluster, template):
    """
    By its own address, which `serve` knows; any other WSGI server needs the token too.
    """
    with whole_gateway(cluster, template, options=("--host", "0.0.0.0")) as made:
        made.start()
        assert 403 == requests.get(f"http://127.0.0.1:{made.port}/metrics", timeout=60).status_code


@pytest.mark.parametrize("header", ["X_Forwarded_For", "Forwarded", "X_Real_Ip", "Via", "X_Forwarded_Host"])
def test_a_proxy_on_this_machine_does_not_make_its_clients_local(app, header):
    """
    The peer is the proxy then; that something was forwarded is enough to refuse, whatever it says.
    """
    assert 403 == read(app(GATEWAY_TRUSTED_PROXIES="1"), **{header: "127.0.0.1"}).status_code


def test_a_forwarded_header_does_not_make_a_stranger_local(app):
    """
    Forged as often as one likes.
    """
    assert 403 == read(app(GATEWAY_TRUSTED_PROXIES="1"), "203.0.113.9", X_Forwarded_For="127.0.0.1").status_code


def test_with_a_token_only_its_bearer_may_read_from_anywhere(app):
    """
    And this machine no longer without it.
    """
    client = app(GATEWAY_METRICS_TOKEN="a-bearer-for-figures")

    assert 200 == read(client, "203.0.113.9", Authorization="Bearer a-bearer-for-figures").status_code
    for given in ("Bearer a-bearer-for-figure", "Bearer ", "Basic a-bearer-for-figures", "Bearer ä", ""):
        assert 401 == read(client, Authorization=given).status_code
    assert 401 == read(client).status_code


# -- what ------------------------------------------------------------------------------------------------------------


def test_the_database_says_how_far_behind_the_work_is(gateway):
    """
    Due refreshes and their age, connections, queues, breakers, and how refreshes ended lately; the build beside them.
    """
    alice = gateway.person("Alice Winter")
    held = alice.connects("google")["connection"]
    with psycopg.connect(gateway.dsn) as connection:
        connection.execute(
            "update gateway.connection set refresh_at = clock_timestamp() - interval '90 s', lease_until ="
            " clock_timestamp() + interval '1 hour' where id = %s", [held],
        )  # fmt: skip
        connection.execute(
            "insert into gateway.revocation (seal_id, refresh_seal_id, user_id, connection_id, generation, provider, reason, due_at)"
            " values (gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), %s, 1, 'zoom', 'test', 'infinity')", [held],
        )  # fmt: skip
        stopped = connection.execute(
            "select (select count(*) from gateway.partner where frozen_at is not null),"
            " (select count(*) from gateway.freeze where target like 'provider:%'),"
            " (select count(*) from gateway.freeze where target = 'reads')"
        ).fetchone()
        connection.execute(
            "insert into gateway.event (type, data) values ('grant.refreshed', '{}'),"
            " ('grant.refresh_failed', '{\"remedy\": \"operator\"}')"
        )
    try:
        found = figures(requests.get(f"{gateway.url}/metrics", timeout=60))
    finally:
        with psycopg.connect(gateway.dsn) as connection:
            connection.execute("delete from gateway.revocation where due_at = 'infinity'")
            connection.execute(
                "update gateway.connection set lease_until = null, refresh_at = 'infinity' where id = %s", [held]
            )

    assert 1 == found["gateway_build_info", ("version", __version__)]
    assert 1 == found["gateway_database_up",]
    assert found["gateway_refreshes_due",] >= 1
    assert found["gateway_refresh_lag_seconds",] >= 90
    assert found["gateway_revocations_waiting",] >= 1
    assert 0 <= found["gateway_pending_grants",]
    assert 0 <= found["gateway_events_unassigned",]
    assert 0 <= found["gateway_events_unassigned_seconds",]
    assert found["gateway_connections", ("status", "active")] >= 1
    assert 0 <= found["gateway_connections", ("status", "needs_reauthorization")]
    assert stopped == tuple(found["gateway_frozen", ("what", what)] for what in ("partner", "provider", "reads"))
    assert 0 == found["gateway_breaker_open", ("provider", "google")]
    assert found["gateway_refreshes_recent", ("outcome", "refreshed")] >= 1
    assert found["gateway_refreshes_recent", ("outcome", "operator")] >= 1


def test_requests_are_counted_by_rule_and_never_by_address(app):
    """
    Ids, queries, unknown addresses and invented methods make no series of their own, so that nothing leaks and nothing grows.
    """
    client, canary = app(), f"canary{uuid.uuid4().hex}"
    for path in (f"/connect/{canary}", f"/link/{canary}", f"/{canary}", f"/problems/not_found?state={canary}"):
        client.get(path, headers={"Authorization": f"Bearer {canary}"})
    client.open("/healthz", method=canary.upper())
    client.get("/healthz")
    text = read(client).text
    found = {key[1:]: n for key, n in figures(read(client)).items() if key[0] == "gateway_http_request_seconds_count"}
    counted = {(dict(labels)["method"], dict(labels)["rule"], dict(labels)["status"]): n for labels, n in found.items()}

    assert canary not in text.lower()
    assert 1 == counted["GET", "/healthz", "200"] == counted["GET", "/connect/<provider_id>", "404"]
    assert 1 == counted["GET", "(no route)", "404"] == counted["GET", "/link/<secret>", "400"]
    assert 1 == counted["other", "(no route)", "405"]
    assert 1 == counted["GET", "/problems/<slug>", "200"]
    assert all(dict(labels)["process"].isdigit() for labels in found)


def test_a_database_that_is_away_is_a_figure_and_not_an_error():
    """
    What watches the installation must not go blind just then.
    """
    folder = Path(tempfile.mkdtemp(prefix="gateway-metrics-"))
    folder.chmod(0o711)
    server = start_or_join(folder)
    apply_schema(server.dsn)
    gateway = Gateway(folder / "gateway", server.dsn).start()
    try:
        server.stop()
        found = figures(requests.get(f"{gateway.url}/metrics", timeout=60))
    finally:
        gateway.stop()
        server.stop()
        shutil.rmtree(folder)

    assert 0 == found["gateway_database_up",]
    assert not any(key[0] == "gateway_refreshes_due" for key in found)
    assert any(key[0] == "gateway_http_request_seconds_count" for key in found)


def test_a_peer_over_the_network_is_refused_by_the_real_server(gateway):
    """
    The server hands the peer of the socket on, and a header in its place changes nothing.
    """
    answer = requests.get(f"{gateway.url}/metrics", headers={"X-Forwarded-For": "203.0.113.9"}, timeout=60)

    assert 403 == answer.status_code
    with socket.create_connection(("127.0.0.1", gateway.port), 5) as raw:
        raw.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nRemote-Addr: 10.0.0.1\r\nConnection: close\r\n\r\n")
        assert b" 200 " in raw.recv(100)
