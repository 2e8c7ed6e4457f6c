"""Events that providers send: SQL functions of provider_events.sql."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.database import Database, sql_function


@sql_function("receive_event")
def receive_event(database: Database, event: Mapping[str, Any]) -> bool:
    """Store an event, unless it is stored already or its account is not connected; whether it was stored now."""


@sql_function("settle_events")
def settle_events(database: Database, *, most: int) -> int:
    """Change the connections as stored events say, and hand these on; how many were settled."""
