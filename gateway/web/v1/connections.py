"""
`/v1/connections` and `/v1/providers`.

The database decides who may do what, in the call that does it.
"""

import uuid
from typing import Any

from flask import Blueprint

from gateway.catalog.deviations import Page
from gateway.connections import locations
from gateway.connections.check import check
from gateway.connections.disconnect import disconnect
from gateway.database.queries.connections import check_caller, reached_connection, reached_connections
from gateway.errors import NotFound
from gateway.models import Caller, Connection
from gateway.web.request_context import runtime
from gateway.web.v1 import schemas
from gateway.web.v1.json_api import Call
from gateway.web.v1.tokens import PROVIDER_FAILED, UNUSABLE

blueprint = Blueprint("connections", __name__, url_prefix="/v1")


@blueprint.get("/connections")
@Call(schemas.Connections, scope="connections:read", query=schemas.ConnectionsQuery)
def list_connections(who: Caller, query: schemas.ConnectionsQuery) -> dict[str, Any]:
    """
    Lists connections.

    Every connection that the caller can reach, page by page. Each parameter narrows the list.
    """
    named = runtime().catalog.named.get(query.provider or "")
    name, _, value = (query.tag or "").partition(":")
    rows = reached_connections(
        runtime().database,
        who,
        of_user=query.user_id,
        provider=named.id if named else query.provider,
        wanted=query.model_dump(include={"type", "status", "account_id"}) | {"tag": {name: value} if name else None},
        after=query.cursor,
        most=query.limit + 1,
    )
    page = rows[: query.limit]
    return {
        "items": [shown_connection(row) for row in page],
        "next_cursor": str(page[-1].id) if len(rows) > len(page) else None,
    }


def shown_connection(row: Connection) -> schemas.Connection:
    return schemas.Connection.of(row, runtime().catalog.entries.get(row.provider))


@blueprint.get("/connections/<uuid:connection_id>")
@Call(schemas.Connection, scope="connections:read")
def get_connection(who: Caller, connection_id: uuid.UUID) -> schemas.Connection:
    """
    Shows one connection.

    An id the caller cannot reach returns 404, as if it did not exist.
    """
    found = reached_connection(runtime().database, who, connection_id)
    if found is None:
        raise NotFound("no such connection of this caller")
    return shown_connection(found)


@blueprint.get("/connections/<uuid:connection_id>/locations")
@Call(schemas.Locations, *UNUSABLE, *PROVIDER_FAILED, scope="connections:read", query=schemas.LocationsQuery)
def list_locations(who: Caller, query: schemas.LocationsQuery, connection_id: uuid.UUID) -> dict[str, Any]:
    """
    Lists the locations of an agency.

    Those in which the app is installed, as the provider lists them. Read the token of one with `location`, or call its API through the
    proxy with `Gateway-Location`. A connection that is no agency returns 404.
    """
    page = Page(query.q, query.cursor or "", query.limit)
    items, after = locations.list_locations(runtime(), connection_id, who, page)
    return {"items": items, "next_cursor": after}


@blueprint.delete("/connections/<uuid:connection_id>")
@Call(schemas.Receipt, *PROVIDER_FAILED, scope="connections:write", query=schemas.DisconnectQuery)
def delete_connection(who: Caller, query: schemas.DisconnectQuery, connection_id: uuid.UUID) -> schemas.Receipt:
    """
    Disconnects.

    The stored grant is erased at once and revoked at the provider; `uninstall=1` also removes our app there. While other partners
    use the connection, only the calling partner's access ends: `kept`. Afterwards the id returns 404.
    """
    receipt = disconnect(runtime(), connection_id, caller=who, uninstall=query.uninstall == "1")
    erased = receipt.erased
    return schemas.Receipt(
        connection_id=erased.connection_id,
        provider=erased.provider,
        account=schemas.Account.of(erased, runtime().catalog.entries.get(erased.provider)),
        erased_at=erased.erased_at,
        revocation=receipt.revocation,
        event_id=erased.event_id,
        uninstall=receipt.uninstalled,
    )


@blueprint.post("/connections/<uuid:connection_id>/check")
@Call(schemas.Connection, *UNUSABLE, *PROVIDER_FAILED, scope="connections:read")
def check_connection(who: Caller, connection_id: uuid.UUID) -> schemas.Connection:
    """
    Checks a connection at its provider.

    Asks the provider whose account it is, with a token that is refreshed once if the provider refuses it, and returns the connection
    as it is afterwards. Only a refused refresh, a refused API key, or another account ends a connection. A suspended connection is tried again. Once a minute per connection; takes at most ten seconds.
    """
    return shown_connection(check(runtime(), connection_id, who))


@blueprint.get("/providers")
@Call(schemas.Providers, scope=None)
def list_providers(who: Caller) -> dict[str, Any]:
    """
    Lists the providers.

    The providers that can be connected here, with the scopes that are requested.
    """
    allowed = check_caller(runtime().database, who)
    return {"items": [each for each in runtime().enabled.values() if allowed is None or each.id in allowed]}
