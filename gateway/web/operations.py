"""
Operations: the process runs (`/healthz`), its database is usable (`/readyz`), and `/metrics` in Prometheus' text format.

The figures from the database (work that is due, connections, queues) are the same from every process. Each process has its own
circuit breakers and counts its own requests, by route and never by address, since an address may hold ids or secrets. Readers send
GATEWAY_METRICS_TOKEN as bearer token; without that setting, only the same machine may read, and only where the server is bound to loopback.
"""

import hmac
import os
import time
from collections.abc import Iterator
from typing import get_args

from flask import Blueprint, Flask, Response, current_app, g, request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Histogram, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily, Metric

from gateway import __version__
from gateway.database.queries.operator import worker_backlog
from gateway.errors import Forbidden, GatewayError, Unauthenticated
from gateway.models import Status
from gateway.services import Runtime
from gateway.settings import LOOPBACK_ONLY, is_loopback
from gateway.web.request_context import route, runtime

blueprint = Blueprint("operations", __name__)

RECENT_SECONDS = 300
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip", "Via")


@blueprint.get("/healthz")
def alive() -> Response:
    """The process responds; it asks nothing else."""
    return _text("ok")


@blueprint.get("/readyz")
def ready() -> Response:
    try:
        schema = runtime().database.schema()
    except GatewayError:
        return _text("the database is not responding", 503)
    if not schema["is_current"]:
        return _text("the schema is older than this gateway: run db apply", 503)
    return _text("ready")


def _text(text: str, status: int = 200) -> Response:
    return Response(f"{text}\n", status, mimetype="text/plain")


@blueprint.get("/metrics")
def metrics() -> Response:
    """All figures. An unavailable database is a figure, not an error."""
    _check_reader()
    registry: CollectorRegistry = current_app.extensions["metrics"]
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


def _check_reader() -> None:
    token = runtime().settings.metrics_token
    if token is not None:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), token.get_secret_value().encode()):
            raise Unauthenticated("not the bearer of GATEWAY_METRICS_TOKEN")
        return
    # The peer of the socket, also behind ProxyFix. A proxy on this machine sends requests of other machines, with or without such a header.
    environ = request.environ.get("werkzeug.proxy_fix.orig", request.environ)
    is_local = current_app.config.get(LOOPBACK_ONLY) and is_loopback(environ.get("REMOTE_ADDR") or "")
    if not is_local or any(name in request.headers for name in _FORWARDED):
        raise Forbidden(
            "without GATEWAY_METRICS_TOKEN only this machine may read /metrics, from a server bound to loopback"
        )


def register(app: Flask) -> None:
    registry = CollectorRegistry()
    registry.register(_Database(app.extensions["gateway"]))
    seconds = Histogram(
        "gateway_http_request_seconds",
        "Duration of requests to this process, by route. _count is their number.",
        ("method", "rule", "status", "process"),
        buckets=_BUCKETS,
        registry=registry,
    )
    app.extensions["metrics"] = registry

    @app.after_request
    def observe(response: Response) -> Response:
        method = request.method if request.method in _METHODS else "other"
        # The process: a server may fork after it built the application.
        seconds.labels(method, route(), response.status_code, os.getpid()).observe(time.perf_counter() - g.began)
        return response


class _Database:
    def __init__(self, rt: Runtime) -> None:
        self._rt = rt

    def collect(self) -> Iterator[Metric]:
        """Every figure; without the database only `gateway_database_up 0` and the build."""
        yield InfoMetricFamily("gateway_build", "The version.", {"version": __version__})
        open_circuits = self._rt.bulkhead.open_circuits()
        breakers = {each.id: int(each.id in open_circuits) for each in self._rt.enabled.values()}
        text = "1: calls to the provider fail in this process, its own or a caller's; it sends only probes for them."
        yield _by("gateway_breaker_open", text, "provider", breakers)
        try:
            lag = worker_backlog(self._rt.database, RECENT_SECONDS)
        except GatewayError:
            yield GaugeMetricFamily("gateway_database_up", "Whether the database responds.", 0)
            return
        yield GaugeMetricFamily("gateway_database_up", "Whether the database responds.", 1)
        for name, text, value in (
            ("refreshes_due", "Connections whose refresh is due.", lag["due"]),
            ("refresh_lag_seconds", "How long the oldest of them has been due.", lag["oldest_due_seconds"]),
            ("dead_intents", "Refreshes whose process crashed and that were not repeated yet.", lag["dead_intents"]),
            ("revocations_waiting", "Grants to be revoked at their provider.", lag["revocations"]),
            ("pending_grants", "Grants that wait for a decision.", lag["pending_grants"]),
            ("events_unassigned", "Events that have no position yet.", lag["events_unassigned"]),
            ("events_unassigned_seconds", "Age of the oldest of them.", lag["oldest_unassigned_seconds"]),
        ):
            yield GaugeMetricFamily(f"gateway_{name}", text, float(value))
        by_status = {status: lag["connections"].get(status, 0) for status in get_args(Status)}
        incidents = {each.id: int(each.id in lag["incidents"]) for each in self._rt.enabled.values()}
        outcomes = {name: lag["refreshes"].get(name, 0) for name in ("refreshed", "wait", "operator", "reconnect")}
        yield _by("gateway_connections", "Connections by status.", "status", by_status)
        yield _by(
            "gateway_frozen", "Frozen partners and providers; reads: 1 when all are frozen.", "what", lag["frozen"]
        )
        yield _by("gateway_incident", "1: the provider refuses many grants, which are held.", "provider", incidents)
        text = f"Outcomes of refreshes in the last {RECENT_SECONDS} s: refreshed, or who must act."
        yield _by("gateway_refreshes_recent", text, "outcome", outcomes)


def _by(name: str, text: str, label: str, values: dict[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
