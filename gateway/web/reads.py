"""
The read that is asked for most, answered before Flask: `GET /v1/connections/<id>/token`, without a query.

Finding a route and keeping a context costs as much as looking the token up (bench/README.md). Here is the plain case and its success
alone: with a query, by another method, at another address it is Flask's, and what goes wrong here is raised by the route there.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING

from flask import Flask

from gateway.errors import Forbidden
from gateway.models import Caller
from gateway.services import Runtime
from gateway.tokens.read import fresh_grant
from gateway.web.v1 import schemas
from gateway.web.v1.caller import read_caller
from gateway.web.v1.json_api import JSON, written

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

RULE = "/v1/connections/<uuid:connection_id>/token"
_PLAIN = re.compile(r"/v1/connections/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/token", re.ASCII)
_WENT_WRONG = "gateway.read_went_wrong"


def fresh_token(
    rt: Runtime,
    asks: Caller,
    connection_id: uuid.UUID,
    *,
    min_seconds: int = 60,
    force: bool = False,
    location: str | None = None,
) -> schemas.Token:
    """What `/v1` answers to whoever reads or refreshes a token. Raises what `fresh_grant` does."""
    if asks.key_hash is None and not rt.settings.owner_tokens:
        rt.store.caller(asks)  # whoever is shut out is told that, here as anywhere
        raise Forbidden("GATEWAY_OWNER_TOKENS is off")
    fresh = fresh_grant(rt, connection_id, caller=asks, min_seconds=min_seconds, force=force, location=location)
    provider = rt.catalog.get(fresh.provider)
    return schemas.Token(
        connection_id=fresh.connection_id,
        access_token=fresh.access_token,
        expires_at=fresh.expires_at,
        scope=fresh.scope,
        api_base_url=provider.api_base_url if provider else None,
    )


def raise_what_went_wrong(environ: WSGIEnvironment) -> None:
    """In the route: raises what a plain read met before Flask, once. Nothing is read a second time for it."""
    error: Exception | None = environ.pop(_WENT_WRONG, None)
    if error is not None:
        raise error


def register(app: Flask) -> None:
    """Stands before this application's routes."""
    app.wsgi_app = _PlainReads(app.wsgi_app, app.extensions["gateway"])  # type: ignore[method-assign] # as Flask's documents have it


class _PlainReads:
    """A WSGI application (PEP 3333) that answers plain reads and hands everything else on."""

    def __init__(self, app: WSGIApplication, rt: Runtime) -> None:
        self._app, self._rt = app, rt

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        plain = environ["REQUEST_METHOD"] == "GET" and not environ.get("QUERY_STRING")
        found = _PLAIN.fullmatch(environ["PATH_INFO"]) if plain else None
        if found is None:
            return self._app(environ, start_response)
        environ["gateway.rule"] = RULE
        try:
            body = written(fresh_token(self._rt, read_caller(self._rt, environ), uuid.UUID(found[1])))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is raised where errors are answered
            environ[_WENT_WRONG] = error
            return self._app(environ, start_response)
        start_response("200 OK", [("Content-Type", JSON), ("Content-Length", str(len(body)))])
        return [body]
