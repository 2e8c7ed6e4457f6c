"""Retry: refresh connections that are held, suspended or were refused, at the operator's request."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import NamedTuple

from gateway.database.queries.tokens import retry
from gateway.errors import DatabaseUnavailable, GatewayError
from gateway.services import Runtime
from gateway.tokens.read import fresh_grant


class Retried(NamedTuple):
    """A connection and its result: `refreshed`, or the slug of what prevented it. `of`: how many there are in all."""

    id: uuid.UUID
    result: str
    of: int


def retry_connections(
    rt: Runtime, *, connection_id: uuid.UUID | None = None, provider: str | None = None
) -> Iterator[Retried]:
    """Refresh one connection, or all of a provider that wait; one result after the other. What is left is due for the worker."""
    ids = retry(rt.database, connection_id=connection_id, provider=provider)
    for each in ids:
        result = "refreshed"
        try:
            fresh_grant(rt, each, force=True)
        except DatabaseUnavailable:
            raise
        except GatewayError as error:
            result = error.slug
        yield Retried(each, result, len(ids))
