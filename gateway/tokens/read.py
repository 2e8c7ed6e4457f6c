"""
Reading an access token, with a refresh first where the stored one is not good enough.

One thread of one process refreshes a connection, by a lease in the database. Other callers wait for it, or get the old token while it
is valid. A caller's right to the connection is checked again after each wait.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from gateway.database import ClaimedRefresh, StoredGrant
from gateway.errors import (
    ClientRejected,
    GatewayError,
    NeedsReauthorization,
    NotFound,
    PendingConfirmation,
    ProviderFailed,
    ProviderUnavailable,
    RateLimited,
    RefreshInProgress,
)
from gateway.http import Deadline
from gateway.models import Caller
from gateway.services import Runtime
from gateway.tokens.refresh_request import foreign_host_wait, lease_seconds, refresh_once
from gateway.tokens.single_flight import SingleFlight, in_progress

WAIT_SECONDS = 10.0
"""How long a caller waits for a refresh, whichever process sends the request."""
_FIRST_LOOK_SECONDS, _NEXT_LOOKS_SECONDS = 0.025, 0.5
"""A process that waits for another process's lease doubles its pauses from the first to the second."""
_TOO_FREQUENT_SECONDS = 60.0
"""Retry-After for a connection that was refreshed ten times within a minute."""

_refreshes = SingleFlight()


@dataclass(frozen=True, slots=True)
class FreshToken:
    """An access token that may be used now, and what its caller may know about it."""

    connection_id: UUID
    generation: int
    provider: str
    access_token: str = field(repr=False)
    scope: tuple[str, ...]
    expires_at: datetime | None


def fresh_grant(
    rt: Runtime,
    connection_id: UUID,
    *,
    caller: Caller | None = None,
    min_seconds: int = 60,
    force: bool = False,
    location: str | None = None,
    until: Deadline | None = None,
) -> FreshToken:
    """
    A token that is valid for `min_seconds`, or a new one with the lifetime it has. `force`: a new one in any case.

    `caller` None is the gateway itself; a caller's read is counted and recorded once. `location`: only if the connection is of that one.
    `until` shortens the wait for a refresh. Without `force`, the old token is the answer for as long as it is valid and no new one can
    be had.
    """
    row = _read(rt, connection_id, caller, min_seconds, counted=caller is not None, location=location)
    if row.alive and not force and (row.good or not row.refreshable or _refreshes.is_running(row.id)):
        return _decrypt(rt, row)
    if not row.refreshable:
        raise NeedsReauthorization("the token expired, and there is none to refresh it with")
    seconds = (until or Deadline.after(WAIT_SECONDS)).within(WAIT_SECONDS).remaining()
    failure: GatewayError | None = None
    try:
        _refreshes.run(row.id, lambda: _refresh(rt, row), seconds)
    except (RefreshInProgress, ProviderFailed, ClientRejected, NeedsReauthorization, RateLimited) as error:
        failure = error
    after = _read(rt, connection_id, caller, min_seconds)
    if after.generation != row.generation or (after.alive and not force):
        return _decrypt(rt, after)
    raise failure or in_progress("the connection changed meanwhile")


def _read(
    rt: Runtime,
    connection_id: UUID,
    caller: Caller | None,
    min_seconds: int,
    *,
    counted: bool = False,
    location: str | None = None,
) -> StoredGrant:
    row = rt.store.grant(
        connection_id=connection_id, caller=caller, min_seconds=min_seconds, counted=counted, location=location
    )
    if row is None:
        raise NotFound("no such connection of this caller")
    if row.status == "needs_reauthorization":
        raise NeedsReauthorization("the provider refused the grant")
    if row.status == "pending_confirmation":
        raise PendingConfirmation("the connection is not confirmed yet")
    return row


def _decrypt(rt: Runtime, row: StoredGrant) -> FreshToken:
    token = rt.vault.decrypt(
        row.token or "", column="token", user_id=row.user_id, provider=row.provider, seal_id=row.seal_id
    )
    return FreshToken(row.id, row.generation, row.provider, token, row.scope, row.expires_at)


def _refresh(rt: Runtime, row: StoredGrant) -> None:
    """Refresh that generation of a connection; while another process holds its lease, wait for it to end."""
    provider = rt.provider(row.provider)
    until, pause = Deadline.after(WAIT_SECONDS), _FIRST_LOOK_SECONDS
    while True:
        started, lease = time.monotonic(), lease_seconds(provider)
        claim = rt.store.claim_refresh(
            connection_id=row.id,
            generation=row.generation,
            host=rt.journal.host,
            lease_seconds=lease,
            block_seconds=foreign_host_wait(provider),
        )
        if isinstance(claim, ClaimedRefresh):
            return refresh_once(rt, provider, claim, started, lease)
        if claim == "moved":
            return None
        if claim != "leased":
            raise _refusal(claim, row)
        if until.remaining() < pause:
            raise in_progress("another process is refreshing the connection")
        time.sleep(pause * random.uniform(1.0, 1.25))  # noqa: S311 - jitter, not a secret
        pause = min(2 * pause, _NEXT_LOOKS_SECONDS)


def _refusal(obstacle: str, row: StoredGrant) -> GatewayError:
    """Why no token request may be sent now."""
    if obstacle == "blocked":
        return in_progress("the host that began the last refresh may hold its response", row.wait_seconds or 5.0)
    error: GatewayError
    if obstacle == "often":
        error = RateLimited("the connection was refreshed ten times within a minute")
        error.retry_after = _TOO_FREQUENT_SECONDS
    else:
        error = ProviderUnavailable("the provider failed a moment ago")
        error.retry_after = row.wait_seconds or None
    return error
