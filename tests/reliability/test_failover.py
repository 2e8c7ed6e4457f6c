"""Postgres fails over: the server that the gateway is connected to becomes read-only."""

from __future__ import annotations

import time

import requests

from tests.support.database import administer
from tests.support.gateway_process import whole_gateway


def _until(status: int, url: str) -> bool:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if requests.get(url, timeout=10).status_code == status:
            return True
        time.sleep(0.05)
    return False


def test_readyz_tells_the_truth_and_service_returns_by_itself(cluster, template):
    """
    503 within seconds while the server is read-only, 200 within seconds afterwards; the process lives on.
    """
    with whole_gateway(cluster, template) as gateway:
        gateway.start()
        try:
            administer(cluster, "alter system set default_transaction_read_only = on")
            administer(cluster, "select pg_reload_conf()")
            assert _until(503, f"{gateway.url}/readyz")
            assert 200 == requests.get(f"{gateway.url}/healthz", timeout=10).status_code
        finally:
            administer(cluster, "alter system reset default_transaction_read_only")
            administer(cluster, "select pg_reload_conf()")
        assert _until(200, f"{gateway.url}/readyz")
