"""
`/v1/connect-sessions`: a partner makes a link for one user and one provider, and completes it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TypeVar

import structlog
from flask import Blueprint, Response

from gateway.connect import links
from gateway.errors import (
    AccessDenied,
    GatewayError,
    NotFound,
    PendingConfirmation,
    RateLimited,
    ReturnToRefused,
    StateInvalid,
    UserMismatch,
)
from gateway.models import Caller
from gateway.web.redirects import app_address
from gateway.web.request_context import runtime
from gateway.web.v1 import schemas
from gateway.web.v1.json_api import caller, json_response, parse_body
from gateway.web.v1.openapi import described

blueprint = Blueprint("connect_sessions", __name__, url_prefix="/v1/connect-sessions")

log = structlog.get_logger(__name__)
_T = TypeVar("_T")


@blueprint.post("")
@described(
    schemas.ConnectSession,
    NotFound,
    ReturnToRefused,
    RateLimited,
    scope="sessions:write",
    status=201,
    body=schemas.ConnectSessionRequest,
    partners_only=True,
)
def create() -> Response:
    """
    Makes a link.

    For one user and one provider; it can be started once within fifteen minutes. Send the user's browser to `url`: the page there
    names you and the access you ask for. `scope` adds to the default scopes. A provider that is not enabled, or not one of yours,
    returns 404, and so does a user that the Supabase project does not know. On plain Postgres an unknown user is created. In fifteen
    minutes you can make 1,000 links, and 20 for one user; beyond that the response is 429.
    """
    who = caller()
    session = _parse(who, lambda: parse_body(schemas.ConnectSessionRequest))
    return_to = _parse(who, lambda: app_address(runtime().settings, session.return_to))
    made = links.create(
        runtime(), who, user_id=session.user_id, provider_id=session.provider, scope=session.scope, return_to=return_to
    )
    return json_response(schemas.ConnectSession(id=made.id, url=made.url, expires_at=made.expires_at), 201)


@blueprint.post("/<uuid:session_id>/complete")
@described(
    schemas.Connection,
    AccessDenied,
    StateInvalid,
    UserMismatch,
    PendingConfirmation,
    scope="sessions:write",
    body=schemas.CompleteRequest,
    partners_only=True,
)
def complete(session_id: uuid.UUID) -> Response:
    """
    Completes a link.

    For a link that was finished in a browser without a session here. The browser came back to you with `confirmation`, and you name
    the user who is signed in there. With a wrong user, or a wrong or missing confirmation, nothing is connected and the grant is
    revoked at once. When another account is connected already, or the same account with more access, the response is
    `pending_confirmation`: send the call again with an `answer`. Repeating a call within ten minutes returns the same response.
    """
    who = caller()
    body = _parse(who, lambda: parse_body(schemas.CompleteRequest))
    connection = links.complete(
        runtime(), who, session_id, user_id=body.user_id, confirmation=body.confirmation, choice=body.answer
    )
    log.info("connection.created", provider=connection.provider, connection_id=str(connection.id))
    return json_response(schemas.Connection.of(connection, runtime().catalog.get(connection.provider)))


def _parse(who: Caller, parse: Callable[[], _T]) -> _T:
    """Parse the request. An invalid key is reported before a mistake in the request."""
    try:
        return parse()
    except GatewayError:
        links.check_caller(runtime(), who)
        raise
