"""
`GET /v1/events`: what happened, as a cursor over event positions.
"""

from __future__ import annotations

from flask import Blueprint, Response

from gateway.database.queries import events as queries
from gateway.web.request_context import runtime
from gateway.web.v1 import schemas
from gateway.web.v1.json_api import caller, json_response, parse_query
from gateway.web.v1.openapi import described

blueprint = Blueprint("events", __name__, url_prefix="/v1")


@blueprint.get("/events")
@described(schemas.Events, scope="events:read", query=schemas.EventsQuery)
def events() -> Response:
    """
    Lists events, oldest first.

    Events are ordered by `position`, which never changes; new events are only added at the end. Store `next_cursor`, or the last
    position you know where it is null, and pass it as `after`: you then miss no event and get none twice. A page may be short or
    empty and still have a `next_cursor`, since one call scans a limited number of events. An event appears one or two seconds after
    it happened. A partner sees its own actions and what happened to connections while it could reach them; a user sees their own.
    """
    query = parse_query(schemas.EventsQuery)
    page = queries.read_events(runtime().database, caller(), after=query.after, limit=query.limit)
    items = tuple(map(schemas.Event.model_validate, page.items))
    return json_response(schemas.Events(items=items, next_cursor=None if page.next is None else str(page.next)))
