"""
What failures cost: whoever sends wrong keys, tokens or sessions again and again is told to wait, address by address.

Counted in this process's memory, so that each of several processes counts for itself and a restart forgets. Only failures are
counted, where they are refused: what succeeds is never held up and pays nothing. How much a partner may read is the database's.
"""

from __future__ import annotations

import ipaddress
import time

from flask import Flask, request
from flask_limiter import Limiter
from limits import RateLimitItemPerMinute

from gateway.errors import GatewayError, RateLimited, Unauthenticated
from gateway.web.v1.caller import address

FAILURES_PER_MINUTE = RateLimitItemPerMinute(300)


def register(app: Flask) -> None:
    """Counts for this application."""
    limiter = Limiter(_sender, storage_uri="memory://", strategy="moving-window")
    # The extension hooks itself into every request of the application that it is given: ours are counted by hand.
    limiter.init_app(Flask(__name__))
    app.extensions["failures"] = limiter


def judged(app: Flask, error: GatewayError) -> GatewayError:
    """The error to answer with: RateLimited in place of one Unauthenticated too many from that address, below /v1 or at /session."""
    if not isinstance(error, Unauthenticated) or not (request.path.startswith("/v1/") or request.path == "/session"):
        return error
    limiter: Limiter = app.extensions["failures"]
    if limiter.limiter.hit(FAILURES_PER_MINUTE, _sender()):
        return error
    limited = RateLimited("too many failures from one address")
    limited.retry_after = max(
        1.0, limiter.limiter.get_window_stats(FAILURES_PER_MINUTE, _sender()).reset_time - time.time()
    )
    return limited


def _sender() -> str:
    """The address; of IPv6 the network of 64 bits that one customer is given (RFC 6177)."""
    known = address()
    if known is None:
        return "unknown"
    return str(ipaddress.ip_network(f"{known}/64", strict=False)) if ":" in known else known
