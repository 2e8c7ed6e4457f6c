"""Reading a stored token: SQL functions of tokens.sql."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from gateway.database import SqlFunction
from gateway.models import Status

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


read_token = SqlFunction[StoredToken | None]("read_token", "caller", "connection_id")
"""
The token of a connection that the caller may read, checked and recorded in one call; None for any other connection.

`counted`: counts towards the caller's limits. `unreported`: its reads that this process has counted since the last report.
"""

stored_token = SqlFunction[StoredToken | None]("stored_token", "connection_id")
"""The gateway's own read: no permission is checked, and nothing is recorded."""


@dataclass(frozen=True, slots=True)
class DerivedToken:
    """A stored token of an account below a connection; or the right to derive one: `lease_id`; or neither for now."""

    token: str | None = field(default=None, repr=False)
    seal_id: UUID | None = None
    scope: tuple[str, ...] = ()
    expires_at: datetime | None = None
    lease_id: UUID | None = None
    retry_after: float | None = None
    is_paused: bool = False
    """The last request failed a moment ago; if not, another process derives the token."""


derived_token = SqlFunction[DerivedToken | None]("derived_token", "connection_id", "account_id")
"""
The token of an account below a connection, not the one with the `refused` seal; None where the connection has ended. With `lease_seconds`
the right to derive one, where there is none.
"""

save_derived = SqlFunction[bool]("save_derived", "connection_id", "account_id", "lease_id")
"""
End a lease: with a token, with a pause, or with neither: the account is not one below it. False where the connection or the account ended
meanwhile.
"""

pause_account = SqlFunction[None]("pause_account", "connection_id")
"""Let no process call the provider for the connection's account, or `account_id` below it, for that many seconds."""
