"""`GET /v1/events`: what happened, as a cursor over event positions; `GET /v1/usage`: how much was read."""

from datetime import timedelta
from typing import Any

from flask import Blueprint

from gateway.database.queries.connections import check_caller
from gateway.database.queries.events import read_events, read_usage
from gateway.errors import BadRequest
from gateway.models import Caller
from gateway.web.request_context import runtime
from gateway.web.v1 import schemas
from gateway.web.v1.json_api import Call

_LONGEST_USAGE = timedelta(days=31)

blueprint = Blueprint("events", __name__, url_prefix="/v1")


@blueprint.get("/events")
@Call(schemas.Events, scope="events:read", query=schemas.EventsQuery)
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


@blueprint.get("/usage")
@Call(schemas.UsagePage, scope="events:read", query=schemas.UsageQuery)
def list_usage(who: Caller, query: schemas.UsageQuery) -> dict[str, Any]:
    """
    Counts token reads and proxied calls.

    By hour, connection and partner; the present hour is included as far as it has gone. A partner with reach `own` sees its own, one with
    reach `all` everything of its providers, a user what was read of the own connections. `partner` is null where the owner read.
    """
    until = query.to or runtime().now()
    since = query.from_ or until - timedelta(days=1)
    if not timedelta(0) <= until - since <= _LONGEST_USAGE:
        check_caller(runtime().database, who, "events:read")
        raise BadRequest("the range", [("from", "before `to`, and by 31 days at most")])
    usage = query.model_dump(mode="json", exclude={"limit", "cursor"}) | {
        "from": since,
        "to": query.to,
        "after": query.cursor,
    }
    rows = read_usage(runtime().database, who, usage=usage, limit=query.limit + 1)
    page = rows[: query.limit]
    items = [{name: value for name, value in row.items() if name != "key"} for row in page]
    return {"items": items, "next_cursor": page[-1]["key"] if len(rows) > len(page) else None}
