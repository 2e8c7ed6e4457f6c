"""Reading and refreshing a token."""

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
save_derived = SqlFunction[bool]("save_derived", "connection_id", "account_id", "lease_id")
pause_account = SqlFunction[None]("pause_account", "connection_id")


# -- refresh --------------------------------------------------------------------------------------------------------


Ending = Literal["saved", "gone", "reconnected", "refreshed"]
"""`gone`: the connection was deleted; `reconnected`: its user connected again; `refreshed`: a response to the request was saved before."""


@dataclass(frozen=True, slots=True)
class ClaimedRefresh:
    """The right to send one token request."""

    id: UUID
    user_id: UUID
    provider: str
    generation: int
    lease_id: UUID
    account_id: str
    scope: tuple[str, ...]
    failures: int
    seal_id: UUID
    refresh: str | None = field(repr=False)
    facts: Mapping[str, Any]
    client_id: str | None
    """Our registration that the grant belongs to; None where it is not known."""
    unverified: bool
    """The provider has not confirmed the account yet."""
    interrupted: bool
    """A process ended in its last refresh: the provider's response may be lost."""
    unnamed: bool
    """The account's name is not known: its id is shown."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why no token request may be sent now, and for how many seconds, where that is known."""

    obstacle: Literal["gone", "moved", "leased", "waiting", "blocked", "frequent"]
    retry_after: float | None = None
    error: str | None = None
    """Of the last refresh, where the next one has to wait because it failed."""


claim_refresh = SqlFunction[ClaimedRefresh | Obstacle]("claim_refresh", "connection_id", "generation")
claim_due = SqlFunction[ClaimedRefresh | None]("claim_due")
finish_refresh = SqlFunction[Ending]("finish_refresh", "connection_id", "generation")
fail_refresh = SqlFunction[Status | None]("fail_refresh", "connection_id", "generation")
retry = SqlFunction[tuple[UUID, ...]]("retry")
