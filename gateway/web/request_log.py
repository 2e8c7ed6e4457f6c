"""
Request ids and the access log: one line per request.

The id is in each log line of the request, in error responses, and in the response header `X-Request-Id`.
"""

from __future__ import annotations

import re
import secrets
import time

import structlog
from flask import Flask, g, request
from werkzeug.wrappers import Response

from gateway.services import Runtime

log = structlog.get_logger(__name__)

HEADER = "X-Request-Id"
_ID = re.compile(r"[A-Za-z0-9._+/=-]{1,128}", re.ASCII)
NO_ROUTE = "(no route)"


def register(app: Flask) -> None:
    """Register this first: its before-hook then runs first, and its after-hook last."""
    rt: Runtime = app.extensions["gateway"]

    def start() -> None:
        sent = request.environ.get("HTTP_X_REQUEST_ID", "") if rt.settings.trusted_proxies else ""
        g.request_id = sent if _ID.fullmatch(sent) else secrets.token_hex(12)
        g.began = time.perf_counter()
        structlog.contextvars.bind_contextvars(request_id=g.request_id)

    def finish(response: Response) -> Response:
        response.headers.add(HEADER, g.request_id)
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


def route() -> str:
    """The rule that matched: an address itself may hold ids or secrets."""
    return request.url_rule.rule if request.url_rule else NO_ROUTE


def request_id() -> str:
    """The id of the current request."""
    return str(g.get("request_id", ""))
