"""`POST /<type>/webhooks`: the webhooks of providers. Registered once per provider type, below its path."""

from __future__ import annotations

from flask import Blueprint, Response, request

from gateway.web.request_context import runtime
from gateway.webhooks import receive

blueprint = Blueprint("provider_events", __name__)


@blueprint.post("/webhooks")
def incoming(path: str) -> Response:
    """2xx once the event is stored, or where there is nothing to store: the provider repeats everything else."""
    request.max_content_length = receive.LARGEST
    receive.receive(runtime(), path, request.headers.get, request.get_data(cache=False))
    return Response(status=200)
