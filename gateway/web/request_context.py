"""
What belongs to the current request: the Runtime, its route, its client's address, its id and its line in the access log.

The id is in each log line of the request, in error responses, and in the response header `X-Request-Id`.
"""

import ipaddress
import math
import re
import secrets
import time
from functools import lru_cache
from typing import cast

import structlog
from flask import Flask, current_app, g, request
from werkzeug.wrappers import Response

from gateway.errors import counted
from gateway.services import Runtime

log = structlog.get_logger(__name__)

HEADER = "X-Request-Id"
QUOTA_HEADERS = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")
"""draft-ietf-httpapi-ratelimit-headers, as most clients know them."""
_ID = re.compile(r"[A-Za-z0-9._+/=-]{1,128}", re.ASCII)
_WITH_PORT = re.compile(r"\[([0-9A-Fa-f.]*:[0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?|([0-9.]+):[0-9]{1,5}", re.ASCII)
NO_ROUTE = "(no route)"


def register(app: Flask) -> None:
    """Register this first: its before-hook then runs first, and its after-hook last."""
    rt: Runtime = app.extensions["gateway"]

    def start() -> None:
        sent = request.environ.get("HTTP_X_REQUEST_ID", "") if rt.settings.trusted_proxies else ""
        g.request_id = sent if _ID.fullmatch(sent) else secrets.token_hex(12)
        g.began = time.perf_counter()
        counted.set(None)
        structlog.contextvars.bind_contextvars(request_id=g.request_id)

    def finish(response: Response) -> Response:
        response.headers.add(HEADER, g.request_id)
        # A provider's own headers stay.
        if is_api() and (quota := counted.get()) and QUOTA_HEADERS[0] not in response.headers:
            values = (quota.limit, max(0, quota.limit - quota.used), math.ceil(quota.seconds))
            response.headers.extend(zip(QUOTA_HEADERS, map(str, values), strict=True))
        log.info(
            "request.finished",
            method=request.method,
            route=route(),
            status=response.status_code,
            duration_ms=round((time.perf_counter() - g.began) * 1000, 1),
            principal=g.get("principal"),
        )
        return response

    app.before_request(start)
    app.after_request(finish)


def runtime() -> Runtime:
    return cast("Runtime", current_app.extensions["gateway"])


def is_api() -> bool:
    """Whether a program calls: the JSON API, or a provider's webhook. By path: an address without a route has no blueprint."""
    return request.path == "/v1" or request.path.startswith("/v1/") or request.path.rstrip("/").endswith("/webhooks")


def route() -> str:
    """The rule that matched: an address itself may hold ids or secrets."""
    return request.url_rule.rule if request.url_rule else NO_ROUTE


def request_id() -> str:
    return str(g.get("request_id", ""))


def client_address() -> str | None:
    """
    The client's IP address; None where the server does not know one.

    Each of the GATEWAY_TRUSTED_PROXIES in front appends the address it saw to X-Forwarded-For. So the client is that many places from
    the right; what is further left can be forged. With fewer addresses the request did not come through the proxies, and the peer
    counts. Some WSGI servers also accept the header as `X_Forwarded_For` (ours does not): there the nearest proxy has to drop it.
    """
    hops = runtime().settings.trusted_proxies
    if hops:
        addresses = request.environ.get("HTTP_X_FORWARDED_FOR", "").split(",")
        found = _parse_ip(addresses[-hops].strip()) if len(addresses) >= hops else None
        if found is not None:
            return found
    return _parse_ip(request.environ.get("REMOTE_ADDR", ""))


@lru_cache(maxsize=1024)
def _parse_ip(text: str) -> str | None:
    """An address in one form; some proxies add a port to it, in front of which IPv6 has brackets."""
    form = _WITH_PORT.fullmatch(text)
    try:
        found = ipaddress.ip_address(form[1] or form[2] if form else text)
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address):
        return None if found.scope_id else str(found.ipv4_mapped or found)
    return str(found)
