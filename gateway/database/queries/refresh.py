"""Refreshing a token: SQL functions of refresh.sql."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from gateway.database import SqlFunction
from gateway.models import Status

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
"""The lease on the token request of that generation, or what is in the way. `most`: refreshes of a valid token within a minute."""

claim_due = SqlFunction[ClaimedRefresh | None]("claim_due")
"""The lease on a connection that is due, interrupted refreshes first. `providers`: `client`, our registration, the seconds of `lease` and `block`, and `late`, of each."""

finish_refresh = SqlFunction[Ending]("finish_refresh", "connection_id", "generation")
"""
Save the response to that generation's request as the next generation. May be repeated.

Seconds count from now, by the database's clock. `renewed`: the refresh token is a new one. `account`: what the
provider said for an unverified connection, which is active then. `facts`: those that the response names. `doubt`: why the account has to be verified again.
"""

fail_refresh = SqlFunction[Status | None]("fail_refresh", "connection_id", "generation")
"""
End the lease, with the outcome `wait`, `operator`, `suspended` or `refused`; the connection's status, or None when the lease
has already ended. `refusal`: the provider's status and error code, if it refused in any form.
"""

retry = SqlFunction[tuple[UUID, ...]]("retry")
"""Let a connection, or those of a provider that are held, suspended or were refused for long, be refreshed at once; their ids."""
