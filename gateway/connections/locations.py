"""The accounts below a connection: the locations of an agency in which our app is installed, as the provider lists them."""

import uuid
from collections.abc import Collection
from dataclasses import asdict
from functools import partial

import structlog

from gateway.catalog import Provider
from gateway.catalog.deviations import ApiRequest, IncomingEvent, Page, SubAccount
from gateway.database.queries.connections import reached_connection
from gateway.database.queries.events import DueListing, due_listing, receive_event
from gateway.errors import BadRequest, ClientRejected, LacksScope, NotFound, ProviderGarbled
from gateway.http import Deadline
from gateway.models import Caller, Connection, Unit
from gateway.protocol.message import parse_json
from gateway.services import Runtime
from gateway.tokens.provider_api import call_api
from gateway.tokens.read import FreshToken

log = structlog.get_logger(__name__)

_LIST_SECONDS = 9.5
_MOST_PAGES = 200
_NO_AGENCY = "This connection is not an agency's, so it has no locations. `account.kind` says what a connection is."
_FEW = 5
"""More accounts that are gone at once, and more than half of them, are a mistake of the list."""


def list_locations(
    rt: Runtime, connection_id: uuid.UUID, caller: Caller, page: Page
) -> tuple[list[SubAccount], str | None]:
    """
    A page of them, and where the next one begins.

    Raises NotFound for a connection that the caller cannot reach, and for one without accounts below it, LacksScope, RateLimited with the
    provider's pause, and what reading a token raises.
    """
    row = reached_connection(rt.database, caller, connection_id)
    provider = rt.entry(row.provider, ClientRejected) if row else None
    if row is None:
        raise NotFound("no such connection of this caller")
    if not isinstance(provider, Provider) or not provider.deviation.has_accounts_below(row.facts):
        raise NotFound("no accounts below the connection", detail=_NO_AGENCY)
    return _list(rt, provider, row, page)


def _list(rt: Runtime, provider: Provider, row: Connection, page: Page) -> tuple[list[SubAccount], str | None]:
    if provider.deviation.list_scope not in row.scope:
        raise LacksScope("the connection cannot list the accounts below it")
    base, headers = provider.api(row.facts)
    client_id = rt.clients[provider.id].client_id

    def build(fresh: FreshToken) -> ApiRequest:
        return provider.deviation.list_request(base or "", headers, fresh.facts, client_id, page)

    _, found = call_api(rt, provider, row.id, build, Deadline.after(_LIST_SECONDS))
    if found.status != 200 and page.cursor:  # noqa: PLR2004
        raise BadRequest("the provider refuses the page", [("cursor", "not a cursor of this list")])
    if found.status != 200:  # noqa: PLR2004
        raise ProviderGarbled(f"the provider's list answers {found.status}")
    return provider.deviation.parse_list(parse_json(found.body), page.cursor)


def claim_next(rt: Runtime, busy: Collection[str]) -> list[Unit]:
    """The worker's job: compare the accounts below a connection with the provider's list, once a day: a deleted account sends nothing."""
    free = [name for name in rt.catalog.providers if name in rt.clients and name not in busy]
    due = due_listing(rt.database, free)
    return [] if due is None else [Unit(due.connection.provider, partial(_compare, rt, due))]


def _compare(rt: Runtime, due: DueListing) -> None:
    row, provider = due.connection, rt.provider(due.connection.provider)
    above = provider.deviation
    if not above.has_accounts_below(row.facts) or above.list_scope not in row.scope:
        return
    listed, cursor = set[str](), ""
    for _ in range(_MOST_PAGES):
        accounts, after = _list(rt, provider, row, Page(cursor=cursor))
        listed |= {each.id for each in accounts}
        if after is None:
            break
        cursor = after
    else:
        return
    gone = due.known - listed
    if len(gone) > _FEW and 2 * len(gone) > len(due.known):
        log.error("listing.refused", provider=provider.id, gone=len(gone), known=len(due.known), remedy="operator")
        return
    for account_id, is_end in [*((each, True) for each in gone), *((each, False) for each in listed - due.known)]:
        event = IncomingEvent("listing", (account_id, row.account.id), at=due.at, topic="installation", is_end=is_end)
        given = {"id": f"listing {uuid.uuid4()}", "providers": [provider.id], "body": ""}
        receive_event(rt.database, {**asdict(event), **given})
    due_listing(rt.database, (), listed=row.id)
