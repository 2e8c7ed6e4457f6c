"""
`/v1`: connections and their tokens, for partners by their keys, and for users by their Supabase access tokens.

A door: who calls is read by `principal`, and judged by the database in the call that does what was asked for.
"""

from __future__ import annotations

import base64
import uuid

from flask import Blueprint, Response, request

from gateway.connections.check import check
from gateway.connections.disconnect import disconnect
from gateway.errors import (
    BadRequest,
    ClientRejected,
    NeedsReauthorization,
    NotFound,
    PendingConfirmation,
    ProviderGarbled,
    ProviderUnavailable,
    RefreshInProgress,
    SecretUnreadable,
)
from gateway.web.reads import fresh_token, raise_what_went_wrong
from gateway.web.session import runtime
from gateway.web.v1 import schemas
from gateway.web.v1.caller import caller
from gateway.web.v1.json_api import answer, asked
from gateway.web.v1.openapi import described

blueprint = Blueprint("api", __name__, url_prefix="/v1")

UNUSABLE = (NeedsReauthorization, PendingConfirmation, RefreshInProgress, SecretUnreadable)
FAILED = (ClientRejected, ProviderGarbled, ProviderUnavailable)


@blueprint.get("/connections")
@described(schemas.Connections, scope="connections:read", query=schemas.ConnectionsQuery)
def connections() -> Response:
    """
    Lists connections.

    All that the caller reaches, page by page; each parameter narrows them.
    """
    query = asked(schemas.ConnectionsQuery)
    rows = runtime().store.reached_connections(
        caller(),
        of_user=query.user_id,
        provider=query.provider,
        type=query.type,
        status=query.status,
        after=_behind(query.cursor),
        most=query.limit + 1,
    )
    page = rows[: query.limit]
    return answer(
        schemas.Connections(
            items=tuple(map(schemas.Connection.of, page)),
            next_cursor=_cursor(page[-1].id) if len(rows) > len(page) else None,
        )
    )


def _cursor(last: uuid.UUID) -> str:
    """The place behind a row, as whoever pages sends it back."""
    return base64.urlsafe_b64encode(last.bytes).decode("ascii").rstrip("=")


def _behind(cursor: str | None) -> uuid.UUID | None:
    if cursor is None:
        return None
    try:
        last = uuid.UUID(bytes=base64.urlsafe_b64decode(cursor + "=="))
    except ValueError:
        last = None
    if last is None or _cursor(last) != cursor:
        refused = BadRequest("no such cursor")
        refused.fields = ("cursor",)
        raise refused
    return last


@blueprint.get("/connections/<uuid:connection_id>")
@described(schemas.Connection, scope="connections:read")
def connection(connection_id: uuid.UUID) -> Response:
    """
    Shows one connection.

    Another's is like none.
    """
    asked(schemas.NoQuery)
    found = runtime().store.reached_connection(caller(), connection_id)
    if found is None:
        raise NotFound("no such connection of this caller")
    return answer(schemas.Connection.of(found))


@blueprint.delete("/connections/<uuid:connection_id>")
@described(schemas.Receipt, *FAILED, scope="connections:write", query=schemas.DisconnectQuery)
def disconnected(connection_id: uuid.UUID) -> Response:
    """
    Disconnects.

    What is stored is erased at once, and the grant is given back to the provider; with `uninstall=1` our app there goes too.
    Where others use the connection still, only the reach of the partner that calls ends: `kept`. Afterwards the id is like none.
    """
    rt = runtime()
    uninstall = asked(schemas.DisconnectQuery).uninstall == "1"
    receipt = disconnect(rt, connection_id, caller=caller(), uninstall=uninstall)
    erased = receipt.erased
    return answer(
        schemas.Receipt(
            connection_id=erased.connection_id,
            provider=erased.provider,
            account=schemas.Account(id=erased.account.id, label=erased.account.label),
            erased_at=erased.erased_at,
            revocation=receipt.revocation,
            event_id=erased.event_id,
            uninstall=receipt.uninstalled,
        )
    )


@blueprint.get("/connections/<uuid:connection_id>/token")
@described(schemas.Token, *UNUSABLE, *FAILED, scope="tokens:read", query=schemas.TokenQuery)
def token(connection_id: uuid.UUID) -> Response:
    """
    Reads an access token.

    One that is good for `min_seconds`: where the one that stands is not, it is refreshed first. A new one that is itself shorter
    is answered as it is.
    """
    raise_what_went_wrong(request.environ)
    query = asked(schemas.TokenQuery)
    fresh = fresh_token(runtime(), caller(), connection_id, min_seconds=query.min_seconds, location=query.location)
    return answer(fresh)


@blueprint.post("/connections/<uuid:connection_id>/refresh")
@described(schemas.Token, *UNUSABLE, *FAILED, scope="tokens:read")
def refreshed(connection_id: uuid.UUID) -> Response:
    """
    Fetches a new access token.

    Whatever stands: for when the provider refuses a token that should be good.
    """
    asked(schemas.NoQuery)
    return answer(fresh_token(runtime(), caller(), connection_id, min_seconds=0, force=True))


@blueprint.post("/connections/<uuid:connection_id>/check")
@described(schemas.Connection, *UNUSABLE, *FAILED, scope="connections:read")
def checked(connection_id: uuid.UUID) -> Response:
    """
    Probes a connection at its provider.

    The provider is asked whose account it is, with a token that is refreshed once if it does not take it; the answer is the
    connection as it stands then. Where the provider answers past the question, nothing is known of it and nothing changes.
    Once a minute for each connection; over within ten seconds.
    """
    asked(schemas.NoQuery)
    return answer(schemas.Connection.of(check(runtime(), connection_id, caller())))


@blueprint.get("/providers")
@described(schemas.Providers, scope=None)
def providers() -> Response:
    """
    Lists the providers.

    Those that may be connected here, with the scopes that are asked for.
    """
    asked(schemas.NoQuery)
    rt = runtime()
    theirs = rt.store.caller(caller())
    return answer(
        schemas.Providers(
            items=tuple(
                schemas.ProviderEntry(id=each.id, name=each.name, type=each.type, scope=each.scope)
                for each in rt.enabled()
                if theirs is None or each.id in theirs
            )
        )
    )
