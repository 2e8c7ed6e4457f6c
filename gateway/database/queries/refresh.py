"""Refreshing a token: SQL functions of refresh.sql."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from gateway.database import Database, sql_function
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
    unnamed: bool
    """The account's name is not known: its id is shown."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why no token request may be sent now, and for how many seconds, where that is known."""

    obstacle: Literal["gone", "moved", "leased", "waiting", "blocked", "frequent"]
    retry_after: float | None = None
    error: str | None = None
    """Of the last refresh, where the next one has to wait because it failed."""


@sql_function("claim_refresh")
def claim_refresh(
    database: Database,
    connection_id: UUID,
    generation: int,
    *,
    host: str,
    lease_seconds: float,
    block_seconds: float,
    most: int,
) -> ClaimedRefresh | Obstacle:
    """The lease on the token request of that generation, or what is in the way. `most`: refreshes of a valid token within a minute."""


@sql_function("claim_due")
def claim_due(database: Database, *, host: str, providers: Mapping[str, Mapping[str, Any]]) -> ClaimedRefresh | None:
    """The lease on a connection that is due, interrupted refreshes first. `providers`: `client`, our registration, the seconds of `lease` and `block`, and `late`, of each."""


@sql_function("finish_refresh")
def finish_refresh(
    database: Database,
    connection_id: UUID,
    generation: int,
    *,
    token: str,
    refresh: str | None,
    seal_id: UUID,
    scope: Sequence[str],
    account: Mapping[str, Any] | None,
    expires_seconds: float | None,
    refresh_expires_seconds: float | None,
    renewed: bool,
    doubt: str | None = None,
) -> Ending:
    """
    Save the response to that generation's request as the next generation. May be repeated.

    Seconds count from now, by the database's clock. `renewed`: the refresh token is a new one. `account`: what the
    provider said for an unverified connection, which is active then. `doubt`: why the account has to be verified again.
    """


@sql_function("fail_refresh")
def fail_refresh(
    database: Database,
    connection_id: UUID,
    generation: int,
    *,
    lease_id: UUID,
    outcome: str,
    error: str,
    wait_seconds: float,
    refusal: Mapping[str, Any] | None = None,
) -> Status | None:
    """
    End the lease, with the outcome `wait`, `operator`, `suspended` or `refused`; the connection's status, or None when the lease
    has already ended. `refusal`: the provider's status and error code, if it refused in any form.
    """


@sql_function("retry")
def retry(database: Database, *, connection_id: UUID | None = None, provider: str | None = None) -> tuple[UUID, ...]:
    """Let a connection, or those of a provider that are held, suspended or were refused for long, be refreshed at once; their ids."""
