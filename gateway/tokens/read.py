"""
No connection ever dies by our hand: one refresh for all who need it.

`fresh_grant` returns a token that is good for long enough, and has it renewed where it must: one thread of one process claims a
lease by compare-and-set on the generation; everybody else waits, bounded, or reads the old token while it lives. Knows nothing
of the token request itself, which is `renewal`'s; who waits is counted in `flights`.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from datetime import datetime

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
    RequestRefused,
)
from gateway.http import Deadline
from gateway.models import Caller
from gateway.services import Runtime
from gateway.tokens.refresh_request import LEASE_SECONDS, REQUEST_SECONDS, block_seconds, carry_out
from gateway.tokens.single_flight import Flight, Flights, later

WAIT_SECONDS = 12.0
"""For somebody else's refresh. Who gets the lease after that still has the time for a request."""
_LOOK_SECONDS = 0.01
_LOOKS = 20
"""After so many claims that found somebody else at it the connection itself is looked at: it may be gone."""
_OFTEN_SECONDS = 60.0
"""For who wants one more new token of a connection that had ten within that time."""


@dataclass(frozen=True, slots=True)
class FreshToken:
    """An access token that may be used now, and what a caller may know of it."""

    connection_id: uuid.UUID
    generation: int
    provider: str
    access_token: str = field(repr=False)
    scope: tuple[str, ...]
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class _Asked:
    """What somebody wants who needs a refresh, and how long they may be kept."""

    caller: Caller | None
    min_seconds: int
    force: bool
    until: Deadline


_flights = Flights()


def fresh_grant(
    rt: Runtime,
    connection_id: uuid.UUID,
    *,
    caller: Caller | None = None,
    min_seconds: int = 60,
    force: bool = False,
    location: str | None = None,
    until: Deadline | None = None,
) -> FreshToken:
    """
    A token of the connection that is good for `min_seconds`, or a new one as it comes. `force`: a new one in any case.

    While the old one lives it is better than none: it is returned where nobody can get a new one just now, unless `force`; nor does
    anybody while it lives, once there were ten within a minute: RateLimited then for `force`.
    `caller`: only if they reach it; None is the gateway itself. What a caller reads is counted and told once, whatever follows.
    `location`: only if it is the connection's own. `until`: no refresh is waited for beyond it, and no request begun that could be.
    Raises NotFound, NeedsReauthorization, PendingConfirmation, RefreshInProgress (who may not wait), ProviderUnavailable,
    ProviderGarbled, ClientRejected, SecretUnreadable, DatabaseUnavailable; and for a caller Unauthenticated, Forbidden, Frozen and
    RateLimited.
    """
    with _flights.looking(connection_id, caller):
        row = _read(rt, connection_id, caller, min_seconds, counted=caller is not None, location=location)
    if row.good and not force:
        return _open(rt, row)
    if not row.refreshable:
        if row.alive:
            return _open(rt, row)
        raise NeedsReauthorization("the token ran out, and there is none to refresh it with")
    try:
        until = until or Deadline.after(WAIT_SECONDS + REQUEST_SECONDS)
        after = _renewed(rt, row, _Asked(caller, min_seconds, force, until))
    except (RefreshInProgress, ProviderFailed, ClientRejected):
        if force or not row.alive:
            raise
        after = _read(rt, connection_id, caller, min_seconds)
        if not after.alive:
            raise
    return _open(rt, after)


def _read(
    rt: Runtime,
    connection_id: uuid.UUID,
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
        raise PendingConfirmation("nobody confirmed it yet")
    return row


def _open(rt: Runtime, row: StoredGrant) -> FreshToken:
    token = rt.vault.open(row.token or "", row=str(row.id), column="token", generation=row.generation)
    return FreshToken(row.id, row.generation, row.provider, token, row.scope, row.expires_at)


def _renewed(rt: Runtime, row: StoredGrant, asked: _Asked) -> StoredGrant:
    """What stands after a refresh, which this thread leads if nobody in this process does, or whoever did had less time."""
    after = None
    while after is None:
        after = _aboard(rt, row, asked)
    return after


def _aboard(rt: Runtime, row: StoredGrant, asked: _Asked) -> StoredGrant | None:
    boarded = _flights.board(row, asked.caller, force=asked.force)
    if boarded is None:
        return row
    flight, part = boarded
    try:
        if part == "follow":
            return _follow(rt, row, flight, asked)
        flight.after = _lead(rt, row, asked)
        return flight.after  # noqa: TRY300 - it is shared first
    except GatewayError as error:
        if part == "lead":
            flight.error = error
        raise
    finally:
        _flights.leave(row, part)


# -- waiting ---------------------------------------------------------------------------------------------------------


def _follow(rt: Runtime, row: StoredGrant, flight: Flight, asked: _Asked) -> StoredGrant | None:
    """
    Waits for the refresh of this process; None where its leader had to give up and this thread need not yet.

    What its leader read was judged for whom it read it: anybody else is judged once more,
    since tokens may have been frozen, a user banned or a key revoked while they waited.
    """
    flight.landed.wait(asked.until.within(WAIT_SECONDS).remaining())
    ours = asked.caller is None or asked.caller == flight.caller
    if ours and flight.after is not None and flight.after.generation != row.generation:
        return flight.after
    after = _read(rt, row.id, asked.caller, asked.min_seconds)
    if after.generation != row.generation or (after.alive and not asked.force):
        return after
    if isinstance(flight.error, RefreshInProgress) and asked.until.remaining() >= REQUEST_SECONDS:
        return None
    if isinstance(flight.error, RateLimited) or (
        flight.error is not None and not isinstance(flight.error, RequestRefused)
    ):
        # The same end, unless it was about who led (a refresh looks again, and counts nothing); and an instance of its own: tracebacks of two threads do not mix.
        shared = type(flight.error)(str(flight.error))
        shared.retry_after = flight.error.retry_after
        raise shared
    raise _why_not(after)


def _lead(rt: Runtime, row: StoredGrant, asked: _Asked) -> StoredGrant:
    """Claims and refreshes; or, where another process has the lease, looks until the generation moves."""
    provider = rt.provider(row.provider)
    first, looks = row, 0
    while asked.until.remaining() >= REQUEST_SECONDS:
        asked_at = time.monotonic()
        claim = rt.store.claim_refresh(
            connection_id=row.id,
            generation=row.generation,
            host=rt.journal.host,
            lease_seconds=LEASE_SECONDS,
            block_seconds=block_seconds(provider),
        )
        if isinstance(claim, ClaimedRefresh):
            try:
                carry_out(rt, provider, claim, asked_at)
            except (NeedsReauthorization, ProviderFailed, ClientRejected):
                # What the old grant was answered means nothing any more where its user has connected again meanwhile.
                if _read(rt, row.id, asked.caller, asked.min_seconds).generation == claim.generation:
                    raise
            return _read(rt, row.id, asked.caller, asked.min_seconds)
        if claim not in ("leased", "blocked") or looks % _LOOKS == 0:
            row = _read(rt, row.id, asked.caller, asked.min_seconds)
        looks += 1
        if row.generation != first.generation or (row.alive and not asked.force):
            return row
        if claim == "often" and asked.force:
            raise _too_often()
        if claim in ("waiting", "breaker"):
            raise _why_not(row)
        time.sleep(_LOOK_SECONDS)
    raise later("another process is still at it" if looks else "no time is left for a request")


def _too_often() -> RateLimited:
    error = RateLimited("ten new tokens of one connection within a minute")
    error.retry_after = _OFTEN_SECONDS
    return error


def _why_not(row: StoredGrant) -> GatewayError:
    """For whoever cannot have a token now: the provider is at fault, or somebody is still asking it."""
    if row.leased:
        return later("another process is still at it")
    error = ProviderUnavailable("the provider failed a moment ago")
    error.retry_after = row.wait_seconds or None
    return error
