"""Reading a stored token: SQL functions of tokens.sql."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from gateway.database import Database, sql_function
from gateway.models import Caller, Status

ReadScope = Literal["tokens:read", "proxy"]
"""What a caller reads a token for: to have it, or for a call through the proxy."""


@dataclass(frozen=True, slots=True)
class StoredToken:
    """An encrypted token. `good`: valid for the seconds that were asked for, `alive`: valid now, both by the database's clock."""

    id: UUID
    user_id: UUID
    provider: str
    generation: int
    seal_id: UUID
    status: Status
    reason: str | None
    scope: tuple[str, ...]
    facts: Mapping[str, Any] = field(repr=False)
    expires_at: datetime | None
    token: str | None = field(repr=False)
    good: bool | None
    alive: bool | None
    refreshable: bool | None
    reader_id: UUID | None = None
    """The partner or the user that reads it."""
    reported: bool = False
    """The reads that the caller had not reported are in the database now."""


@sql_function("read_token")
def read_token(
    database: Database,
    caller: Caller,
    connection_id: UUID,
    *,
    min_seconds: int,
    location: str | None = None,
    counted: bool = True,
    unreported: int = 0,
    report: bool = True,
    scope: ReadScope = "tokens:read",
) -> StoredToken | None:
    """
    The token of a connection that the caller may read, checked and recorded in one call; None for any other connection.

    `counted`: counts towards the caller's limits. `unreported`: its reads that this process has counted since the last report.
    """


@sql_function("stored_token")
def stored_token(database: Database, connection_id: UUID, *, min_seconds: int = 0) -> StoredToken | None:
    """The gateway's own read: no permission is checked, and nothing is recorded."""
