"""
`GET /v1/events`: what happened, as a cursor over the ledger's positions that may be kept for as long as events are.
"""

from __future__ import annotations

from typing import Any

from flask import Blueprint

from gateway.database.ledgering import Event
from gateway.web.session import runtime
from gateway.web.v1 import schemas
from gateway.web.v1.caller import caller
from gateway.web.v1.json_api import answer, asked
from gateway.web.v1.openapi import described

blueprint = Blueprint("events", __name__, url_prefix="/v1")


@blueprint.get("/events")
@described(schemas.Events, scope="events:read", query=schemas.EventsQuery)
def events() -> Any:
    """
    What happened, oldest first.

    Events are in the order of `position`, which never changes and is only ever added to at its end: keep `next_cursor`, or where it is
    null the last position you know, ask with `after` it, and none is missed or told twice. A page may be short, or empty, and have a
    `next_cursor` all the same: one call looks at so many events and not further. An event is here a second or two after it happened,
    and for as long as the operator keeps them. A partner is told of its own acts and of what happened to connections while it reached
    them, a user of the own.
    """
    given = asked(schemas.EventsQuery)
    page = runtime().store.events(caller(), after=given.after, most=given.limit)
    items = tuple(map(_shown, page.events))
    return answer(schemas.Events(items=items, next_cursor=None if page.after is None else str(page.after)))


def _shown(event: Event) -> schemas.Event:
    return schemas.Event(
        id=event.id,
        position=event.position,
        type=event.type,
        at=event.at,
        connection_id=event.connection_id,
        user_id=event.user_id,
        partner=event.partner,
        provider=event.provider,
        data=dict(event.data),
    )
