"""
`GET /v1/events`: what happened, as a cursor over event positions.
"""

from __future__ import annotations

from typing import Any

from flask import Blueprint

from gateway.database.queries.events import read_events
from gateway.models import Caller
from gateway.web.request_context import runtime
from gateway.web.v1 import schemas
from gateway.web.v1.json_api import api_call

blueprint = Blueprint("events", __name__, url_prefix="/v1")


@blueprint.get("/events")
@api_call(schemas.Events, scope="events:read", query=schemas.EventsQuery)
def list_events(who: Caller, query: schemas.EventsQuery) -> dict[str, Any]:
    """
    Lists events, oldest first.

    Events are ordered by `position`, which never changes; new events are only added at the end. Store `next_cursor`, or the last
    position you know where it is null, and pass it as `after`: you then miss no event and get none twice. A page may be short or
    empty and still have a `next_cursor`, since one call scans a limited number of events. An event appears one or two seconds after
    it happened. A partner sees its own actions and what happened to connections while it could reach them; a user sees their own.
    """
    page = read_events(runtime().database, who, after=query.after, limit=query.limit)
    return {"items": page.items, "next_cursor": None if page.next is None else str(page.next)}
