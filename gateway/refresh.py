"""
No connection ever dies by our hand: one refresh for all who need it, and nothing of its answer lost on the way.

`fresh_grant` returns a token that is good for long enough, and refreshes where it must: one process claims a lease by
compare-and-set on the generation, sends one token request (RFC 6749 section 6), writes the answer to the journal before
anything else, and saves it as the next generation. Everybody else waits, bounded, or reads the old one while it lives. What an
error means is decided by who must act: only a refusal of the grant ends a connection, and only after a second look.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import structlog

from gateway import oauth, revocation
from gateway.account import judge_same_account
from gateway.catalog import Provider
from gateway.errors import (
    ClientRejected,
    DatabaseUnavailable,
    GatewayError,
    NeedsReauthorization,
    NotFound,
    PendingConfirmation,
    ProviderFailed,
    ProviderUnavailable,
    RefreshInProgress,
    SecretUnreadable,
)
from gateway.models import Grant
from gateway.outbound import Deadline
from gateway.runtime import Runtime
from gateway.store import ClaimedRefresh, StoredGrant

log = structlog.get_logger(__name__)

REQUEST_SECONDS = 10.0
LEASE_SECONDS = 15.0
"""Longer than a request may take, so that nobody else sends one while it is under way."""
WAIT_SECONDS = 12.0
LOOK_SECONDS = 0.05
MOST_WAITING = 48
"""In one process: three quarters of its threads. A healthy connection is read as fast as ever."""
BLOCK_SECONDS = 60.0
_BACK_OFF = (2.0, 300.0)
_OPERATOR_SECONDS = 300.0

if LEASE_SECONDS <= REQUEST_SECONDS:
    raise AssertionError("the lease has to outlive the request")


@dataclass(frozen=True, slots=True)
class FreshToken:
    """An access token that may be used now, and what a caller may know of it."""

    connection_id: uuid.UUID
    provider: str
    access_token: str = field(repr=False)
    scope: tuple[str, ...]
    expires_at: datetime | None


class _Flight:
    """One refresh of one connection in this process; those who wait for it share its end."""

    def __init__(self) -> None:
        self.landed = threading.Event()


_flights: dict[uuid.UUID, _Flight] = {}
_flights_lock = threading.Lock()
_waiting = threading.BoundedSemaphore(MOST_WAITING)


def fresh_grant(
    rt: Runtime,
    connection_id: uuid.UUID,
    *,
    user_id: uuid.UUID | None = None,
    min_seconds: int = 60,
    force: bool = False,
) -> FreshToken:
    """
    A token of the connection that is good for `min_seconds`, or a new one as it comes. `force`: a new one in any case.

    `user_id`: only if it is theirs. Raises NotFound, NeedsReauthorization, PendingConfirmation, RefreshInProgress (who may not
    wait), ProviderUnavailable, ProviderGarbled, ClientRejected, SecretUnreadable, DatabaseUnavailable.
    """
    row = _read(rt, connection_id, user_id, min_seconds)
    if row.good and not force:
        return _open(rt, row)
    if not row.refreshable:
        if row.alive:
            return _open(rt, row)
        raise NeedsReauthorization("the token ran out, and there is none to refresh it with")
    with _flights_lock:
        flight = _flights.get(connection_id)
        leading = flight is None
        if flight is None:
            flight = _flights[connection_id] = _Flight()
    if leading:
        try:
            return _lead(rt, row, user_id, min_seconds)
        finally:
            with _flights_lock:
                del _flights[connection_id]
            flight.landed.set()
    if row.alive and not force:
        return _open(rt, row)
    return _follow(rt, row, flight, user_id, min_seconds)


def _read(rt: Runtime, connection_id: uuid.UUID, user_id: uuid.UUID | None, min_seconds: int) -> StoredGrant:
    row = rt.store.grant(connection_id=connection_id, user_id=user_id, min_seconds=min_seconds)
    if row is None:
        raise NotFound("no such connection of this caller")
    if row.status == "needs_reauthorization":
        raise NeedsReauthorization("the provider refused the grant")
    if row.status == "pending_confirmation":
        raise PendingConfirmation("nobody confirmed it yet")
    return row


def _open(rt: Runtime, row: StoredGrant) -> FreshToken:
    token = rt.vault.open(row.token or "", row=str(row.id), column="token", generation=row.generation)
    return FreshToken(row.id, row.provider, token, row.scope, row.expires_at)


# -- waiting ---------------------------------------------------------------------------------------------------------


def _follow(rt: Runtime, row: StoredGrant, flight: _Flight, user_id: uuid.UUID | None, min_seconds: int) -> FreshToken:
    """Waits for the refresh of this process, if there is a place to wait."""
    if not _waiting.acquire(blocking=False):
        raise RefreshInProgress("too many wait already")
    try:
        flight.landed.wait(WAIT_SECONDS)
    finally:
        _waiting.release()
    after = _read(rt, row.id, user_id, min_seconds)
    if after.generation != row.generation or after.alive:
        return _open(rt, after)
    raise _why_not(after)


def _lead(rt: Runtime, row: StoredGrant, user_id: uuid.UUID | None, min_seconds: int) -> FreshToken:
    """Claims and refreshes; or, where another process has the lease, looks until the generation moves."""
    provider = rt.provider(row.provider)
    deadline = time.monotonic() + WAIT_SECONDS
    first = row
    while True:
        claim = rt.store.claim_refresh(
            connection_id=row.id,
            generation=row.generation,
            host=rt.journal.host,
            lease_seconds=LEASE_SECONDS,
            block_seconds=block_seconds(provider),
        )
        if isinstance(claim, ClaimedRefresh):
            carry_out(rt, provider, claim)
            return _open(rt, _read(rt, row.id, user_id, min_seconds))
        row = _read(rt, row.id, user_id, min_seconds)
        if row.generation != first.generation or row.good or row.alive:
            return _open(rt, row)
        if claim in ("waiting", "breaker"):
            raise _why_not(row)
        if time.monotonic() > deadline:
            raise RefreshInProgress("another process is still at it")
        time.sleep(LOOK_SECONDS)


def _why_not(row: StoredGrant) -> GatewayError:
    """For whoever cannot have a token now: the provider is at fault, or somebody is still asking it."""
    if row.leased:
        return RefreshInProgress("another process is still at it")
    error = ProviderUnavailable("the provider failed a moment ago")
    error.retry_after = row.wait_seconds or None
    return error


def block_seconds(provider: Provider) -> float:
    """How long others leave a dead intent alone: until just before the provider stops forgiving a repeated token."""
    window = provider.replay_seconds
    return max(LEASE_SECONDS, window - 5.0) if window else BLOCK_SECONDS


# -- one refresh -----------------------------------------------------------------------------------------------------


def carry_out(rt: Runtime, provider: Provider, claim: ClaimedRefresh) -> None:
    """
    One token request for the claim, and its end in the database, whatever it is.

    Where the claim is one again, after somebody died over it, the answer may lie in this host's journal: then that is saved.
    """
    try:
        if claim.again and (answer := rt.journal.read(claim.id, claim.generation)) is not None:
            _save(rt, provider, claim.id, claim.generation, answer)
            return
        answer = _answered(rt, provider, claim)
        rt.journal.write(claim.id, claim.generation, answer)
        _save(rt, provider, claim.id, claim.generation, answer)
    except NeedsReauthorization:
        _refused(rt, claim)
        raise
    except ClientRejected:
        _fail(rt, claim, "operator", "client_rejected", _OPERATOR_SECONDS)
        raise
    except (ProviderFailed, SecretUnreadable) as error:
        _fail(rt, claim, "wait", error.slug, back_off(claim.failures, error))
        raise


def _answered(rt: Runtime, provider: Provider, claim: ClaimedRefresh) -> dict[str, Any]:
    provider = rt.issuers.complete(provider)
    row, generation = str(claim.id), claim.generation
    held = rt.vault.open(claim.refresh or "", row=row, column="refresh", generation=generation)
    wire = oauth.refresh_request(provider, rt.clients[provider.id], refresh_token=held, facts=claim.facts)
    deadline = Deadline.after(REQUEST_SECONDS)
    answer = rt.outbound.request(wire.method, wire.url, headers=wire.headers, body=wire.body, deadline=deadline)
    try:
        read = oauth.read_token_response(
            provider, answer.status, answer.body, now=rt.now(), scope=claim.scope, refused=NeedsReauthorization
        )
    except ProviderUnavailable as error:
        error.retry_after = _seconds(answer.headers.get("Retry-After"))
        raise
    judge_same_account(rt, provider, read, claim.account_id, deadline)
    grant = read.grant
    return {
        "access_token": grant.access_token,
        # RFC 6749 section 6: an answer without one leaves the old one in force.
        "refresh_token": grant.refresh_token or held,
        "scope": list(grant.scope),
        "expires_at": grant.expires_at.isoformat() if grant.expires_at else None,
        "refresh_expires_at": grant.refresh_expires_at.isoformat() if grant.refresh_expires_at else None,
    }


def _save(
    rt: Runtime, provider: Provider, connection_id: uuid.UUID, generation: int, answer: Mapping[str, Any]
) -> None:
    """The answer as the next generation. Where the connection is gone or was made anew, it is given back instead."""
    row, following = str(connection_id), generation + 1
    saved = rt.store.finish_refresh(
        connection_id=connection_id,
        generation=generation,
        token=rt.vault.seal(answer["access_token"], row=row, column="token", generation=following),
        refresh=rt.vault.seal_some(answer["refresh_token"], row=row, column="refresh", generation=following),
        scope=answer["scope"],
        expires_at=_time(answer["expires_at"]),
        refresh_expires_at=_time(answer["refresh_expires_at"]),
    )
    if not saved:
        grant = Grant(answer["access_token"], answer["refresh_token"], "Bearer", tuple(answer["scope"]), None)
        revocation.give_back(rt, rt.issuers.complete(provider), grant, beside=True)
    rt.journal.forget(connection_id, generation)


def work_once(rt: Runtime) -> bool:
    """One connection that is due, or that somebody died over; whether there was any. Failures are in the database by then."""
    claim = rt.store.claim_due(
        host=rt.journal.host,
        lease_seconds=LEASE_SECONDS,
        block_seconds={provider.id: block_seconds(provider) for provider in rt.enabled()},
        providers=[provider.id for provider in rt.enabled()],
    )
    if claim is None:
        return False
    try:
        carry_out(rt, rt.provider(claim.provider), claim)
    except DatabaseUnavailable:
        raise
    except GatewayError as error:
        log.info("grant.refresh_ended", provider=claim.provider, error=error.slug)
    return True


def replay(rt: Runtime) -> int:
    """Brings every answer of this host's journal into the database; how many. Raises DatabaseUnavailable when it is away."""
    done = 0
    for connection_id, generation in rt.journal.pending():
        row = rt.store.grant(connection_id=connection_id, user_id=None, min_seconds=0)
        answer = rt.journal.read(connection_id, generation)
        if answer is None:
            continue
        provider = rt.catalog.get(row.provider) if row else None
        if row is not None and provider is None:
            continue
        if row is not None and provider is not None:
            _save(rt, provider, connection_id, generation, answer)
        else:
            log.warning("journal.orphan", connection=str(connection_id))
            rt.journal.forget(connection_id, generation)
        done += 1
    return done


# -- failures --------------------------------------------------------------------------------------------------------


def _refused(rt: Runtime, claim: ClaimedRefresh) -> None:
    """Before a refusal is believed the generation is looked at once more: somebody may have connected again meanwhile."""
    row = rt.store.grant(connection_id=claim.id, user_id=None, min_seconds=0)
    if row is not None and row.generation == claim.generation:
        _fail(rt, claim, "refused", NeedsReauthorization.slug, 0)


def _fail(rt: Runtime, claim: ClaimedRefresh, outcome: str, error: str, wait_seconds: float) -> None:
    log.warning("grant.refresh_failed", provider=claim.provider, error=error, outcome=outcome)
    try:
        rt.store.fail_refresh(
            connection_id=claim.id,
            generation=claim.generation,
            lease_id=claim.lease_id,
            outcome=outcome,
            error=error,
            wait_seconds=wait_seconds,
        )
    except DatabaseUnavailable:
        # The lease runs out by itself, and the intent is taken up again.
        log.warning("grant.refresh_untold", provider=claim.provider)


def back_off(failures: int, error: GatewayError) -> float:
    """Seconds until the next try: what the provider asks for, else doubling with full jitter between bounds."""
    asked = error.retry_after
    lowest, highest = _BACK_OFF
    if asked is not None:
        return float(min(max(asked, lowest), 3600.0))
    ceiling = min(highest, lowest * 2.0 ** min(failures, 16))
    return lowest + random.random() * (ceiling - lowest)  # noqa: S311 - jitter, not a secret


def _seconds(value: str | None) -> float | None:
    """Retry-After in seconds (RFC 9110 section 10.2.3); a date or nonsense counts as nothing said."""
    return float(value) if value is not None and value.isascii() and value.isdigit() and len(value) < 6 else None  # noqa: PLR2004


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
