"""
For those who operate it: is it alive, is it ready.
"""

from __future__ import annotations

from flask import Blueprint
from werkzeug.wrappers import Response

from gateway.database import SCHEMA_VERSION
from gateway.errors import GatewayError
from gateway.web.session import runtime

blueprint = Blueprint("ops", __name__)


@blueprint.get("/healthz")
def alive() -> Response:
    """The process answers; nothing else is asked."""
    return Response("ok\n", mimetype="text/plain")


@blueprint.get("/readyz")
def ready() -> Response:
    """The database answers, with a schema that is new enough."""
    try:
        version = runtime().store.schema()["version"]
    except GatewayError:
        return Response("the database is not answering\n", status=503, mimetype="text/plain")
    if version < SCHEMA_VERSION:
        return Response("the schema is older than this gateway: run db apply\n", status=503, mimetype="text/plain")
    return Response("ready\n", mimetype="text/plain")
