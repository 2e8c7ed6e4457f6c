"""
Outgoing webhooks while a receiver hangs, and while the worker is killed.
"""

from __future__ import annotations

import json
import os
import signal
import threading

import pytest

from gateway.events.chain import assign_positions
from gateway.webhooks import deliver, endpoints
from gateway.worker import loop
from tests.support.database import rows
from tests.support.event_fixtures import KEY
from tests.support.forked import Command
from tests.support.partners import partner
from tests.support.patience import wait_for
from tests.support.receiver import Receiver

ALLOWED = {"GATEWAY_ALLOW_PRIVATE_HOSTS": "1"}


@pytest.fixture
def rt(runtime):
    return runtime(**ALLOWED)


def happen(database, made, count):
    """Events for one endpoint alone."""
    rows(
        database,
        "insert into gateway.event (type, partner_id, data) select 'webhook.tested', %s, %s::jsonb from generate_series(1, %s)",
        made.partner_id,
        json.dumps({"webhook_id": str(made.id)}),
        count,
    )


def test_a_partner_whose_receivers_hang_delays_no_other(rt, store, database, monkeypatch):
    """
    Fifty partners; the ten endpoints of one never respond, and take a quarter of the places. The others have every event meanwhile.
    """
    monkeypatch.setattr(deliver, "DELIVERY_SECONDS", 120.0)
    hanging = threading.Event()
    under_way = "select count(*) from gateway.webhook where url = %s and claim_id is not null and due_at > now()"
    most = 0

    def arrived():
        nonlocal most
        most = max(most, *rows(database, under_way, dead.url))
        return len({r.headers["webhook-id"] for r in receiver.received}) == 147

    with Receiver(lambda _: 204) as receiver, Receiver(lambda _: hanging.wait(120) and None) as dead:
        hangs = partner(store).caller()
        others = [partner(store).caller() for _ in range(49)]
        for caller in [hangs] * 10 + others:
            made, _ = endpoints.create(rt, caller, dead.url if caller is hangs else receiver.url, ["webhook.tested"])
            happen(database, made, 3)
        assign_positions(rt)
        stopped = threading.Event()
        threads = loop.start_worker(rt, stopped)
        wait_for(arrived, 100)
        stopped.set()
        hanging.set()
        for thread in threads:
            thread.join(20)

    assert 0 < most <= 4


def test_a_worker_that_is_killed_loses_no_event(rt, store, database, tmp_path):
    """
    The receiver kills the worker during deliveries, six times. Every event arrives, the first arrivals in order.
    """
    made_keys = {"GATEWAY_KEYS": KEY, "DATABASE_URL": database, "GATEWAY_DATA": str(tmp_path)} | ALLOWED
    settings = made_keys | {"SUPABASE_URL": "https://northwind.example"}
    inherited = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "PG_BINDIR")}
    process: list[Command] = []
    kills = iter((1, 4, 9, 15, 22, 30))
    at = [next(kills)]

    def respond(_):
        if len(receiver.received) >= at[0]:
            at[0] = next(kills, 10**9)
            process[-1].send_signal(signal.SIGKILL)
            return None
        return 204

    with Receiver(respond) as receiver:
        made, _ = endpoints.create(rt, partner(store).caller(), receiver.url, ["webhook.tested"])
        happen(database, made, 40)
        assign_positions(rt)
        for _ in range(7):
            # The lease of the killed worker is over.
            rows(database, "update gateway.webhook set due_at = now()")
            process.append(Command("worker", environ=inherited | settings, log=tmp_path / "log"))
            wait_for(lambda: process[-1].poll() is not None or len(set(receiver.positions())) == 40)
            process[-1].kill()
            process[-1].wait()
            if len(set(receiver.positions())) == 40:
                break
    first = list(dict.fromkeys(receiver.positions()))

    assert at[0] == 10**9
    assert first == sorted(first)
    assert len(first) == 40
