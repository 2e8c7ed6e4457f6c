"""Events that providers send: SQL functions of provider_events.sql."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from gateway.database import SqlFunction
from gateway.models import Connection

receive_event = SqlFunction[bool]("receive_event", "event")
"""Store an event, unless it is stored already or its account is not connected; whether it was stored now."""


@dataclass(frozen=True, slots=True)
class DueListing:
    """A connection whose accounts below are to be compared with the provider's list, those that are known here, and since when."""

    at: datetime
    connection: Connection
    known: frozenset[str]


due_listing = SqlFunction[DueListing | None]("due_listing", "providers")
"""The one that has waited longest, if that is a day."""

settle_events = SqlFunction[int]("settle_events")
"""Change the connections as stored events say, and hand these on; how many were settled."""
