"""`/v1/connect-sessions`: a partner makes a link for one user and one provider, and completes it."""

import uuid

import structlog
from flask import Blueprint

from gateway import errors
from gateway.connect import links
from gateway.models import Caller
from gateway.web.redirects import app_address
from gateway.web.request_context import runtime
from gateway.web.v1 import schemas
from gateway.web.v1.connections import shown_connection
from gateway.web.v1.json_api import Call

blueprint = Blueprint("connect_sessions", __name__, url_prefix="/v1/connect-sessions")

log = structlog.get_logger(__name__)


@blueprint.post("")
@Call(
    schemas.ConnectSession,
    errors.NotFound,
    errors.ReturnToRefused,
    errors.RateLimited,
    scope="sessions:write",
    status=201,
    body=schemas.ConnectSessionRequest,
)
def create_connect_session(who: Caller, body: schemas.ConnectSessionRequest) -> links.NewLink:
    """
    Makes a link.

    For one user and one provider; it can be started once within fifteen minutes. Send the user's browser to `url`: the page there
    names you and the access you ask for. `scope` adds to the default scopes. A provider that is not enabled, or not one of yours,
    returns 404, and so does a user that the Supabase project does not know. On plain Postgres an unknown user is created. In fifteen
    minutes you can make 1,000 links, and 20 for one user; beyond that the response is 429.
    """
    return_to = app_address(runtime().settings, body.return_to)
    return links.create(
        runtime(),
        who,
        user_id=body.user_id,
        provider_id=body.provider,
        scope=body.scope,
        return_to=return_to,
        tags=body.tags,
    )


@blueprint.post("/<uuid:session_id>/complete")
@Call(
    schemas.Connection,
    errors.AccessDenied,
    errors.StateInvalid,
    errors.UserMismatch,
    errors.PendingConfirmation,
    scope="sessions:write",
    body=schemas.CompleteRequest,
)
def complete_connect_session(who: Caller, body: schemas.CompleteRequest, session_id: uuid.UUID) -> schemas.Connection:
    """
    Completes a link.

    For a link that was finished in a browser without a session here. The browser came back to you with `confirmation`, and you name
    the user who is signed in there. With a wrong user, or a wrong or missing confirmation, nothing is connected and the grant is
    revoked at once. When another account is connected already, or the same account with more access, the response is
    `pending_confirmation`: send the call again with an `answer`. Repeating a call within ten minutes returns the same response.
    """
    connection = links.complete(
        runtime(), who, session_id, user_id=body.user_id, confirmation=body.confirmation, choice=body.answer
    )
    log.info("connection.created", provider=connection.provider, connection_id=str(connection.id))
    return shown_connection(connection)
