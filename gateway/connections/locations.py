"""The accounts below a connection: the locations of an agency in which our app is installed, as the provider lists them."""

from __future__ import annotations

import uuid

from gateway import protocol
from gateway.catalog.deviations import ApiRequest, SubAccount
from gateway.database.queries.callers import reached_connection
from gateway.errors import BadRequest, ClientRejected, LacksScope, NotFound, ProviderGarbled
from gateway.http import Deadline
from gateway.models import Caller
from gateway.services import Runtime
from gateway.tokens.provider_api import call_api
from gateway.tokens.read import FreshToken

_LIST_SECONDS = 9.5


def list_locations(
    rt: Runtime, connection_id: uuid.UUID, caller: Caller, *, search: str, cursor: str, limit: int
) -> tuple[list[SubAccount], str | None]:
    """
    A page of them, and where the next one begins. `search`: a part of the name.

    Raises NotFound for a connection that the caller cannot reach, and for one without accounts below it, LacksScope, RateLimited with the
    provider's pause, and what reading a token raises.
    """
    row = reached_connection(rt.database, caller, connection_id)
    provider = rt.provider(row.provider, ClientRejected) if row else None
    above = provider.above(row.facts) if provider and row else None
    if row is None or provider is None or above is None:
        raise NotFound("no such connection of this caller, or none with accounts below it")
    if above.list_scope not in row.scope:
        raise LacksScope("the connection cannot list the accounts below it")
    base, headers = provider.api(row.facts)
    client_id = rt.clients[provider.id].client_id

    def build(fresh: FreshToken) -> ApiRequest:
        return above.list_request(
            base or "", headers, fresh.facts, client_id, search=search, cursor=cursor, limit=limit
        )

    _, found = call_api(rt, provider, connection_id, build, Deadline.after(_LIST_SECONDS))
    if found.status != 200:  # noqa: PLR2004
        raise (
            BadRequest("the provider refuses the page", [("cursor", "Not a cursor of this list")])
            if cursor
            else ProviderGarbled(f"the provider's list answers {found.status}")
        )
    return above.parse_list(protocol.parse_json(found.body), cursor)
