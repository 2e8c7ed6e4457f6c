"""
`/v1/connections` and `/v1/providers`.

The database decides who may do what, in the call that does it.
"""

from __future__ import annotations

import base64
import uuid

from flask import Blueprint, Response

from gateway.connections.check import check
from gateway.connections.disconnect import disconnect
from gateway.database.queries.callers import check_caller, reached_connection, reached_connections
from gateway.errors import BadRequest, NotFound
from gateway.models import Connection
from gateway.web.request_context import runtime
from gateway.web.v1 import schemas
from gateway.web.v1.json_api import caller, json_response, parse_query
from gateway.web.v1.openapi import described
from gateway.web.v1.tokens import PROVIDER_FAILED, UNUSABLE

blueprint = Blueprint("api", __name__, url_prefix="/v1")


@blueprint.get("/connections")
@described(schemas.Connections, scope="connections:read", query=schemas.ConnectionsQuery)
def connections() -> Response:
    """
    Lists connections.

    Every connection that the caller can reach, page by page. Each parameter narrows the list.
    """
    query, rt = parse_query(schemas.ConnectionsQuery), runtime()
    rows = reached_connections(
        rt.database,
        caller(),
        of_user=query.user_id,
        provider=query.provider,
        type=query.type,
        status=query.status,
        account_id=query.account_id,
        after=_parse_cursor(query.cursor),
        most=query.limit + 1,
    )
    page = rows[: query.limit]
    return json_response(
        schemas.Connections(
            items=tuple(schemas.Connection.of(row, rt.catalog.get(row.provider)) for row in page),
            next_cursor=_cursor(page[-1].id) if len(rows) > len(page) else None,
        )
    )


def _response(row: Connection) -> Response:
    return json_response(schemas.Connection.of(row, runtime().catalog.get(row.provider)))


def _cursor(last: uuid.UUID) -> str:
    return base64.urlsafe_b64encode(last.bytes).decode("ascii").rstrip("=")


def _parse_cursor(cursor: str | None) -> uuid.UUID | None:
    if cursor is None:
        return None
    try:
        last = uuid.UUID(bytes=base64.urlsafe_b64decode(cursor + "=="))
    except ValueError:
        last = None
    if last is None or _cursor(last) != cursor:
        raise BadRequest("no such cursor", [("cursor", "Not a cursor of this list")])
    return last


@blueprint.get("/connections/<uuid:connection_id>")
@described(schemas.Connection, scope="connections:read")
def connection(connection_id: uuid.UUID) -> Response:
    """
    Shows one connection.

    An id the caller cannot reach returns 404, as if it did not exist.
    """
    parse_query(schemas.NoQuery)
    found = reached_connection(runtime().database, caller(), connection_id)
    if found is None:
        raise NotFound("no such connection of this caller")
    return _response(found)


@blueprint.delete("/connections/<uuid:connection_id>")
@described(schemas.Receipt, *PROVIDER_FAILED, scope="connections:write", query=schemas.DisconnectQuery)
def delete(connection_id: uuid.UUID) -> Response:
    """
    Disconnects.

    The stored grant is erased at once and revoked at the provider; `uninstall=1` also removes our app there. While other partners
    use the connection, only the calling partner's access ends: `kept`. Afterwards the id returns 404.
    """
    uninstall = parse_query(schemas.DisconnectQuery).uninstall == "1"
    receipt = disconnect(runtime(), connection_id, caller=caller(), uninstall=uninstall)
    erased = receipt.erased
    return json_response(
        schemas.Receipt(
            connection_id=erased.connection_id,
            provider=erased.provider,
            account=schemas.Account.model_validate(erased.account),
            erased_at=erased.erased_at,
            revocation=receipt.revocation,
            event_id=erased.event_id,
            uninstall=receipt.uninstalled,
        )
    )


@blueprint.post("/connections/<uuid:connection_id>/check")
@described(schemas.Connection, *UNUSABLE, *PROVIDER_FAILED, scope="connections:read")
def checked(connection_id: uuid.UUID) -> Response:
    """
    Checks a connection at its provider.

    Asks the provider whose account it is, with a token that is refreshed once if the provider refuses it, and returns the connection
    as it is afterwards. Only a refused refresh, or another account, ends a connection. A suspended connection is tried again. Once a minute per connection; takes at most ten seconds.
    """
    parse_query(schemas.NoQuery)
    return _response(check(runtime(), connection_id, caller()))


@blueprint.get("/providers")
@described(schemas.Providers, scope=None)
def providers() -> Response:
    """
    Lists the providers.

    The providers that can be connected here, with the scopes that are requested.
    """
    parse_query(schemas.NoQuery)
    rt = runtime()
    allowed = check_caller(rt.database, caller())
    items = (each for each in rt.enabled() if allowed is None or each.id in allowed)
    return json_response(schemas.Providers(items=tuple(map(schemas.ProviderEntry.model_validate, items))))
