"""Postgres fails over: the server that the gateway is connected to becomes read-only."""

from __future__ import annotations

import requests

from tests.support.database import administer
from tests.support.gateway_process import whole_gateway
from tests.support.patience import wait_for


def status(gateway) -> int:
    return requests.get(f"{gateway.url}/readyz", timeout=30).status_code


def test_readyz_tells_the_truth_and_service_returns_by_itself(cluster, template):
    """
    503 soon after the server became read-only, 200 soon afterwards; the process lives on.
    """
    with whole_gateway(cluster, template) as gateway:
        gateway.start()
        try:
            administer(cluster, "alter system set default_transaction_read_only = on")
            administer(cluster, "select pg_reload_conf()")
            wait_for(lambda: status(gateway) == 503)
            assert 200 == requests.get(f"{gateway.url}/healthz", timeout=30).status_code
        finally:
            administer(cluster, "alter system reset default_transaction_read_only")
            administer(cluster, "select pg_reload_conf()")
        wait_for(lambda: status(gateway) == 200)
