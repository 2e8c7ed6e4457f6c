"""
`/metrics`: figures for whoever operates it, in Prometheus' text format.

What the database knows (how far behind the work is, connections, queues, breakers) is the same from every process. Requests are
counted by each process for itself, labelled with its number; by the rule that matched and never by an address, which may hold ids
or secrets. Read with the bearer GATEWAY_METRICS_TOKEN, or without one from this machine alone.
"""

from __future__ import annotations

import hmac
import os
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, get_args

from flask import Blueprint, Flask, current_app, request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Histogram, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily, Metric
from werkzeug.wrappers import Response

from gateway import __version__, events
from gateway.errors import Forbidden, GatewayError, Unauthenticated
from gateway.models import Status
from gateway.services import Runtime
from gateway.settings import is_loopback
from gateway.web.session import runtime

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

blueprint = Blueprint("metrics", __name__)

RECENT_SECONDS = 300
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_NO_ROUTE = "(no route)"
_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip", "Via")


@blueprint.get("/metrics")
def figures() -> Response:
    """All of them. A database that is away is one of the figures, not an error."""
    _judge_reader()
    registry: CollectorRegistry = current_app.extensions["metrics"]
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


def _judge_reader() -> None:
    token = runtime().settings.metrics_token
    if token is not None:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), token.get_secret_value().encode()):
            raise Unauthenticated("not the bearer of GATEWAY_METRICS_TOKEN")
        return
    # The peer of the socket itself, whatever a middleware makes of it. A proxy on this machine speaks for others.
    environ = request.environ.get("werkzeug.proxy_fix.orig", request.environ)
    if not is_loopback(environ.get("REMOTE_ADDR") or "") or any(name in request.headers for name in _FORWARDED):
        raise Forbidden("without GATEWAY_METRICS_TOKEN only this machine may read /metrics")


# -- requests --------------------------------------------------------------------------------------------------------


def register(app: Flask) -> None:
    """Counts every answer of this application."""
    registry = CollectorRegistry()
    registry.register(_Database(app.extensions["gateway"]))
    seconds = Histogram(
        "gateway_http_request_seconds",
        "Answers of this process by the rule that matched, and how long they took; _count counts them.",
        ("method", "rule", "status", "process"),
        buckets=_BUCKETS,
        registry=registry,
    )
    app.extensions["metrics"] = registry
    app.wsgi_app = _Counted(app.wsgi_app, seconds)  # type: ignore[method-assign] # as Flask's documents have it


class _Counted:
    """A WSGI application (PEP 3333) whose answers are counted, from outside of Flask: also those that went wrong in it."""

    def __init__(self, app: WSGIApplication, seconds: Histogram) -> None:
        self._app = app
        self._seconds = seconds
        self._known: dict[tuple[int, str, str, str], Any] = {}

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        began, answered = time.perf_counter(), ("500", _NO_ROUTE)

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            nonlocal answered
            answered = status[:3], _rule(environ)
            return start_response(status, headers, exc_info) if exc_info else start_response(status, headers)

        try:
            return self._app(environ, start)
        finally:
            self._count(environ["REQUEST_METHOD"], *answered, time.perf_counter() - began)

    def _count(self, method: str, status: str, rule: str, seconds: float) -> None:
        key = (
            os.getpid(),
            method if method in _METHODS else "other",
            rule,
            status,
        )  # a server may fork after this was made
        child = self._known.get(key)
        if child is None:
            child = self._known[key] = self._seconds.labels(*key[1:], str(key[0]))
        child.observe(seconds)


def _rule(environ: WSGIEnvironment) -> str:
    if (read := environ.get("gateway.rule")) is not None:
        return str(read)
    asked = environ.get("werkzeug.request")  # Flask takes it away when it is done
    return str(asked.url_rule.rule) if asked is not None and asked.url_rule else _NO_ROUTE


# -- the database ----------------------------------------------------------------------------------------------------


class _Database:
    """What the database knows, asked at each reading."""

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt

    def describe(self) -> Iterator[Metric]:
        """Nothing: the registry would read it all to learn the names."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Every figure; only `gateway_database_up 0` and the build where the database does not answer."""
        yield InfoMetricFamily("gateway_build", "What runs here.", {"version": __version__})
        try:
            lag = self._rt.store.lag()
            refreshes = self._rt.store.recent_refreshes(RECENT_SECONDS)
            broken = events.standing(self._rt) is not None
        except GatewayError:
            yield GaugeMetricFamily("gateway_database_up", "Whether the database answers.", 0)
            return
        yield GaugeMetricFamily("gateway_database_up", "Whether the database answers.", 1)
        for name, text, value in (
            ("refreshes_due", "Connections whose refresh ahead is due.", lag["due"]),
            ("refresh_lag_seconds", "How long the oldest of them has been due.", lag["oldest_due_seconds"]),
            ("dead_intents", "Refreshes that somebody died over, not taken up again yet.", lag["dead_intents"]),
            ("revocations_waiting", "Grants that still have to be given back.", lag["revocations"]),
            ("parked_grants", "Grants of another account that wait for their user's word.", lag["parked_grants"]),
            ("events_unsealed", "Events that the ledger has not sealed yet.", lag["events_unsealed"]),
            ("events_unsealed_seconds", "How long the oldest of them has waited.", lag["oldest_unsealed_seconds"]),
            ("ledger_broken", "1: the ledger does not end as it was sealed, and nothing more is sealed.", broken),
        ):
            yield GaugeMetricFamily(f"gateway_{name}", text, float(value))
        yield _by(
            "gateway_connections",
            "Connections by status.",
            "status",
            {status: lag["connections"].get(status, 0) for status in get_args(Status)},
        )
        yield _by(
            "gateway_frozen",
            "How many partners and providers are frozen, and whether all reads are.",
            "what",
            lag["frozen"],
        )
        yield _by(
            "gateway_breaker_open",
            "1: its token endpoint fails for many and is left alone, but for a probe.",
            "provider",
            {each.id: int(each.id in lag["open_breakers"]) for each in self._rt.enabled()},
        )
        yield _by(
            "gateway_refreshes_recent",
            f"How refreshes ended in the last {RECENT_SECONDS} s: refreshed, or who must act.",
            "outcome",
            {outcome: refreshes.get(outcome, 0) for outcome in ("refreshed", "wait", "operator", "reconnect")},
        )


def _by(name: str, text: str, label: str, values: dict[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
