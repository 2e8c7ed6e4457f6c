"""
Limit failed authentication: after 300 failures in a minute an address has to wait.

Counted per process, in memory. Only failures count, so that a valid request never waits here. The limits of a partner are in the
database.
"""

import ipaddress
import time

from flask import Flask, current_app, request
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from gateway.errors import GatewayError, Quota, RateLimited, Unauthenticated
from gateway.web.request_context import client_address, is_api

FAILURES_PER_MINUTE = RateLimitItemPerMinute(300)


def register(app: Flask) -> None:
    app.extensions["failures"] = MovingWindowRateLimiter(MemoryStorage())


def apply(error: GatewayError) -> GatewayError:
    """Count failed authentication below /v1 and at /session. RateLimited instead of `error` when the address had too many."""
    if not isinstance(error, Unauthenticated) or not (is_api() or request.path == "/session"):
        return error
    limiter: MovingWindowRateLimiter = current_app.extensions["failures"]
    network = _network()
    if limiter.hit(FAILURES_PER_MINUTE, network):
        return error
    most = FAILURES_PER_MINUTE.amount
    seconds = max(1.0, limiter.get_window_stats(FAILURES_PER_MINUTE, network).reset_time - time.time())
    return RateLimited("too many failures from one address", Quota(most, most, seconds))


def _network() -> str:
    """The client's address; of IPv6 the /64 that one customer gets (RFC 6177)."""
    address = client_address()
    if address is None:
        return "unknown"
    return str(ipaddress.ip_network(f"{address}/64", strict=False)) if ":" in address else address
