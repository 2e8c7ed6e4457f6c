"""Health checks: the process runs (`/healthz`), and its database is usable (`/readyz`)."""

from __future__ import annotations

from flask import Blueprint, Response

from gateway.errors import GatewayError
from gateway.web.request_context import runtime

blueprint = Blueprint("health", __name__)


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
