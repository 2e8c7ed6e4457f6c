"""Events that providers send: SQL functions of provider_events.sql."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gateway.database import Database, sql_function
from gateway.models import Connection


@sql_function("receive_event")
def receive_event(database: Database, event: Mapping[str, Any]) -> bool:
    """Store an event, unless it is stored already or its account is not connected; whether it was stored now."""


@dataclass(frozen=True, slots=True)
class DueListing:
    """A connection whose accounts below are to be compared with the provider's list, those that are known here, and since when."""

    at: datetime
    connection: Connection
    known: frozenset[str]


@sql_function("due_listing")
def due_listing(database: Database, providers: Sequence[str]) -> DueListing | None:
    """The one that has waited longest, if that is a day."""


@sql_function("settle_events")
def settle_events(database: Database, *, most: int) -> int:
    """Change the connections as stored events say, and hand these on; how many were settled."""
