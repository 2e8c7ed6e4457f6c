"""
Read an access token; refresh it first if the stored one does not last long enough.

One thread of one process refreshes a connection, by a lease in the database. Other callers wait for it, or get the old token while it
is valid. A caller's right to the connection is checked again after each wait.
"""

import math
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from gateway.database.queries.tokens import (
    ClaimedRefresh,
    Obstacle,
    ReadScope,
    StoredToken,
    claim_refresh,
    read_token,
    stored_token,
)
from gateway.errors import (
    ClientRejected,
    GatewayError,
    GrantUnusable,
    Held,
    NeedsReauthorization,
    NotFound,
    PendingConfirmation,
    ProviderBusy,
    ProviderFailed,
    ProviderUnavailable,
    Quota,
    RateLimited,
    RefreshInProgress,
    SecretUnreadable,
    Suspended,
)
from gateway.http import Deadline
from gateway.models import Caller
from gateway.services import Runtime
from gateway.tokens.refresh_request import foreign_host_wait, lease_seconds, refresh_once
from gateway.tokens.single_flight import WAIT_SECONDS, SingleFlight, looks

_LAST_SECONDS = 60
"""Where a refresh ends the token that others hold: how long a token has at least, whatever a caller asks for."""
_MOST_IN_A_MINUTE = 10
"""Refreshes of a token that is still valid. After a provider refused the token: one."""
_REPORT_SECONDS = 1.0
"""How often a process reports a caller's reads to the database, which limits them by the hour."""
_MOST_REFRESHES = 3
"""Of one read: a response from the journal may be older than its token lasts, and have a successor there."""

_refreshes = SingleFlight()


_reads_lock = threading.Lock()
_unreported: Counter[str] = Counter()
"""Reads that the database has recorded and not added to their reader's hour yet, by reader and address."""
_reported_at: dict[str, float] = {}


@dataclass(frozen=True, slots=True)
class FreshToken:
    """A valid access token, and what its caller may know about it."""

    connection_id: UUID
    generation: int
    provider: str
    access_token: str = field(repr=False)
    scope: tuple[str, ...]
    expires_at: datetime | None
    facts: Mapping[str, Any] = field(repr=False)
    user_id: UUID
    reader_id: UUID | None
    seal_id: UUID | None = None
    """Of a token that was derived for an account below the connection."""


def fresh_grant(
    rt: Runtime,
    connection_id: UUID,
    *,
    caller: Caller | None = None,
    min_seconds: int = 60,
    force: bool = False,
    refused: FreshToken | None = None,
    location: str | None = None,
    until: Deadline | None = None,
    scope: ReadScope = "tokens:read",
) -> FreshToken:
    """
    A token that is valid for `min_seconds`, or a new one, whatever its lifetime. `force`: a new one in any case. `refused`: the provider
    did not accept that one, so a newer one, at most one refresh a minute.

    `caller` None is the gateway itself; a caller's read is counted and recorded once. `location`: only if the connection has that one.
    `until` shortens the wait for a refresh. Without `force`, the old token is the answer for as long as it is valid and no new one can
    be had.
    """
    wanted = {"connection_id": connection_id, "min_seconds": min_seconds, "scope": scope}
    wanted |= {"location": location} if caller else {}
    row = _first_read(rt, caller, wanted, counted=caller is not None and refused is None)
    force = force or (refused is not None and refused.generation == row.generation)
    quiet = row.status == "held" and caller is not None  # only the worker and the operator refresh it then
    if row.alive and not force and (row.good or quiet or not row.refreshable or _refreshes.is_running(row.id)):
        return _decrypt(rt, row)
    if quiet:
        raise Held("the provider refuses many grants at the moment")
    if not row.refreshable:
        detail = "Nothing is stored that fetches a new access token. A stored one that is valid can still be read; for another, connect again."
        raise NeedsReauthorization("there is no refresh token", provider=row.provider, detail=detail)
    deadline = (until or Deadline.after(WAIT_SECONDS)).within(WAIT_SECONDS)
    most = 1 if refused else _MOST_IN_A_MINUTE
    for _ in range(_MOST_REFRESHES):
        failure: GatewayError | None = None
        try:
            _refreshes.run(row.id, row.provider, partial(_refresh, rt, row, most), deadline.remaining())
        except (ProviderBusy, RefreshInProgress):
            if not row.alive or force:  # many callers end here at once, so it costs no further call
                raise
        except (GrantUnusable, ProviderFailed, RateLimited) as error:
            failure = error
        after = _read(rt, caller, wanted)
        if after.alive and (after.generation != row.generation or not force):
            return _decrypt(rt, after)
        if failure or after.generation == row.generation:
            break
        row = after
    raise failure or RefreshInProgress("the connection changed meanwhile")


def _first_read(rt: Runtime, caller: Caller | None, wanted: dict[str, Any], *, counted: bool) -> StoredToken:
    """The row; `wanted` is changed where a refresh would end the token that other callers hold, so that it comes late."""
    row = _read(rt, caller, wanted, counted=counted)
    provider = rt.catalog.providers.get(row.provider)
    if row.good or not row.alive or provider is None or not provider.refresh_ends_access_token:
        return row
    wanted["min_seconds"] = min(wanted["min_seconds"], _LAST_SECONDS)
    return _read(rt, caller, wanted)


def _read(rt: Runtime, caller: Caller | None, wanted: Mapping[str, Any], *, counted: bool = False) -> StoredToken:
    if caller is None:
        row = stored_token(rt.database, **wanted)
    elif counted:
        row = _counted_read(rt, caller, wanted)
    else:
        row = read_token(rt.database, caller, counted=False, **wanted)
    if row is None:
        raise NotFound("no such connection of this caller")
    if row.status == "needs_reauthorization":
        raise NeedsReauthorization(str(row.reason), provider=row.provider)
    if row.status == "suspended" and caller is not None:
        raise Suspended(str(row.reason))
    if row.status == "pending_confirmation":
        raise PendingConfirmation("the connection is not confirmed yet")
    return row


def _counted_read(rt: Runtime, caller: Caller, wanted: Mapping[str, Any]) -> StoredToken | None:
    reader = f"{caller.key_hash or caller.user_id} {caller.address}"
    with _reads_lock:
        unreported = _unreported.pop(reader, 0)
    report = time.monotonic() - _reported_at.get(reader, -math.inf) >= _REPORT_SECONDS
    row = None
    try:
        row = read_token(rt.database, caller, unreported=unreported, report=report, **wanted)
    finally:
        if row is not None and row.reported:
            _reported_at[reader] = time.monotonic()
        elif reads := unreported + (row is not None and row.status in ("active", "held")):
            with _reads_lock:
                _unreported[reader] += reads
    return row


def _decrypt(rt: Runtime, row: StoredToken) -> FreshToken:
    token = rt.vault.decrypt(
        row.token or "", column="token", user_id=row.user_id, provider=row.provider, seal_id=row.seal_id
    )
    given = (row.id, row.generation, row.provider, token, row.scope, row.expires_at, row.facts)
    return FreshToken(*given, row.user_id, row.reader_id)


def _refresh(rt: Runtime, row: StoredToken, most: int) -> None:
    """Refresh that generation of a connection, in a slot of its provider: without one, nothing is claimed."""
    with rt.bulkhead.slot(row.provider):
        provider = rt.provider(row.provider, ClientRejected)
        for _ in looks(first_pause_seconds=0.025):  # while another process holds the lease
            started = time.monotonic()
            claim = claim_refresh(
                rt.database,
                row.id,
                row.generation,
                host=rt.journal.host,
                lease_seconds=lease_seconds(provider),
                block_seconds=foreign_host_wait(provider),
                most=most,
            )
            if isinstance(claim, ClaimedRefresh):
                refresh_once(rt, provider, claim, started)
                return
            if claim.obstacle in ("moved", "gone"):
                return
            if claim.obstacle != "leased":
                raise _refusal(claim, most)


_OPERATORS: Mapping[str, type[GatewayError]] = {error.slug: error for error in (ClientRejected, SecretUnreadable)}
"""Errors of a refresh for which the operator has to act, not the provider."""


def _refusal(found: Obstacle, most: int) -> GatewayError:
    if found.obstacle == "frequent":
        quota = Quota(most, most, found.retry_after or 60.0)
        return RateLimited("the connection was refreshed too often within a minute", quota)
    if found.obstacle == "blocked":
        reason = "the host that began the last refresh may hold its response"
        return RefreshInProgress(reason, retry_after=found.retry_after)
    kind = _OPERATORS.get(found.error or "", ProviderUnavailable)
    return kind("the last refresh failed a moment ago", retry_after=found.retry_after)
