"""
One token request for a connection (RFC 6749 section 6), and its end in the database, whatever it is.

Whoever holds a claim comes here. The answer goes into the journal before anything else happens to it, is judged then, and saved
as the next generation. What an error means is decided by who must act: only a refusal of the grant ends a connection, and only
after a second look. Knows nobody who waits.
"""

from __future__ import annotations

import contextlib
import random
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import structlog

from gateway import protocol
from gateway.catalog import Provider
from gateway.connect.account import judge_same_account
from gateway.connections import revoke
from gateway.database import ClaimedRefresh
from gateway.errors import (
    ClientRejected,
    DatabaseUnavailable,
    GatewayError,
    NeedsReauthorization,
    ProviderFailed,
    RefreshInProgress,
    SecretUnreadable,
)
from gateway.http import Deadline
from gateway.marks import mark
from gateway.models import Grant
from gateway.services import Runtime

log = structlog.get_logger(__name__)

REQUEST_SECONDS = 8.0
LEASE_SECONDS = 15.0
"""Longer than a request may take, so that nobody else sends one while it is under way."""
_AFTER_SECONDS = 3.0
"""Of the lease, for what follows the request: the answer on disk, and in the database."""
_JUDGE_SECONDS = 2.0
"""For the keys that an answer is judged with, where they have to be fetched; less where its request took nearly all its time."""
BLOCK_SECONDS = 60.0
LOOK_SECONDS = 5.0
"""How often a worker looks for what was left behind."""
_UNDER_WAY_SECONDS = 2.0
"""So long an answer in the journal is left to whoever wrote it."""
_BACK_OFF = (2.0, 300.0)
_OPERATOR_SECONDS = 300.0

if LEASE_SECONDS < REQUEST_SECONDS + _AFTER_SECONDS:
    raise AssertionError("the lease has to outlive the request")


@dataclass(frozen=True, slots=True)
class _Judged:
    """What an answer brings. Seconds count from when it came; None where the provider says nothing."""

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    renewed: bool
    scope: tuple[str, ...]
    expires_seconds: float | None
    refresh_expires_seconds: float | None


def block_seconds(provider: Provider) -> float:
    """
    How long other hosts leave a dead intent alone: until whoever looks next still comes before the provider stops forgiving a
    repeated token.
    """
    window = provider.replay_seconds
    return max(LEASE_SECONDS, window - 2 * LOOK_SECONDS) if window else BLOCK_SECONDS


# -- one refresh -----------------------------------------------------------------------------------------------------


def carry_out(rt: Runtime, provider: Provider, claim: ClaimedRefresh, asked_at: float) -> None:
    """
    One token request for the claim, and its end in the database. `asked_at`: when the claim was asked for, monotonic.

    Where this host's journal holds an answer to that generation's request already, nothing is sent: that answer is saved.
    Raises RefreshInProgress when the claim came so late that the lease would not outlive the request.
    """
    mark("refresh.claimed")
    kept: Mapping[str, Any] | None = None
    try:
        deadline = Deadline(asked_at + LEASE_SECONDS - _AFTER_SECONDS).within(REQUEST_SECONDS)
        kept = rt.journal.read(claim.id, claim.generation) or _answered(rt, provider, claim, deadline)
        bring_home(rt, provider, claim.id, claim.generation, kept, deadline)
    except NeedsReauthorization:
        _refused(rt, claim)
        raise
    except ClientRejected:
        _fail(rt, claim, "operator", "client_rejected", _OPERATOR_SECONDS)
        raise
    except SecretUnreadable as error:
        _fail(rt, claim, "operator", error.slug, back_off(claim.failures, error))
        raise
    except ProviderFailed as error:
        if kept is not None:
            error.retry_after = _seconds(kept["retry_after"])
        alone = kept is not None and _of_this_connection(kept)
        _fail(rt, claim, "alone" if alone else "wait", error.slug, back_off(claim.failures, error))
        raise
    except (DatabaseUnavailable, RefreshInProgress):
        raise  # the lease runs out by itself, and the intent is taken up again
    except Exception:
        # A defect of ours, and of this connection perhaps: it rests, so that it does not come up before all others again.
        _fail(rt, claim, "operator", "unexpected", _OPERATOR_SECONDS)
        raise


def _answered(rt: Runtime, provider: Provider, claim: ClaimedRefresh, deadline: Deadline) -> Mapping[str, Any]:
    """The provider's answer as it came; in the journal, if it may hold tokens."""
    row = str(claim.id)
    held = rt.vault.open(claim.refresh or "", row=row, column="refresh", generation=claim.generation)
    provider = rt.issuers.complete(provider, deadline)
    wire = protocol.refresh_request(provider, rt.clients[provider.id], refresh_token=held, facts=claim.facts)
    if deadline.remaining() < 1.0:
        raise RefreshInProgress("the claim came too late to be used")
    mark("refresh.asking")
    try:
        answer = rt.outbound.request(wire.method, wire.url, headers=wire.headers, body=wire.body, deadline=deadline)
    except ProviderFailed as error:
        if provider.replay_seconds:
            # The answer may have been lost on the way: then it is to be had again, while the provider forgives.
            error.retry_after = provider.replay_seconds / 3
        raise
    mark("refresh.answered")
    kept = {
        "provider": provider.id,
        "account_id": claim.account_id,
        "scope": list(claim.scope),
        "held": held,
        "status": answer.status,
        "body": answer.body.decode("latin-1"),
        "retry_after": answer.headers.get("Retry-After"),
        "at": rt.now().isoformat(),
    }
    if answer.status < 300:  # noqa: PLR2004 - RFC 9110 section 15.3
        rt.journal.write(claim.id, claim.generation, kept)
        mark("refresh.journalled")
    return kept


def bring_home(
    rt: Runtime,
    provider: Provider,
    connection_id: uuid.UUID,
    generation: int,
    kept: Mapping[str, Any],
    deadline: Deadline,
) -> None:
    """Judges an answer from the journal and saves it as the next generation, or gives it back. Raises what it holds."""
    with contextlib.suppress(ProviderFailed):
        provider = rt.issuers.complete(provider, deadline)
    try:
        judged = _judged(rt, provider, kept, deadline)
    except GatewayError:
        rt.journal.forget(connection_id, generation)
        raise
    row, following = str(connection_id), generation + 1
    passed = max(0.0, (rt.now() - datetime.fromisoformat(kept["at"])).total_seconds())
    ending = rt.store.finish_refresh(
        connection_id=connection_id,
        generation=generation,
        token=rt.vault.seal(judged.access_token, row=row, column="token", generation=following),
        refresh=rt.vault.seal(judged.refresh_token, row=row, column="refresh", generation=following),
        scope=judged.scope,
        expires_seconds=judged.expires_seconds and judged.expires_seconds - passed,
        refresh_expires_seconds=judged.refresh_expires_seconds and judged.refresh_expires_seconds - passed,
        renewed=judged.renewed,
    )
    mark("refresh.saved")
    if ending in ("gone", "reconnected"):
        grant = Grant(judged.access_token, judged.refresh_token, "Bearer", judged.scope, None)
        revoke.revoke_or_queue(rt, provider, grant, beside=True, deadline=deadline)
    rt.journal.forget(connection_id, generation)
    mark("refresh.forgotten")


def _judged(rt: Runtime, provider: Provider, kept: Mapping[str, Any], deadline: Deadline) -> _Judged:
    """The grant in an answer, or the error in it. By no clock: lifetimes stay seconds."""
    now = rt.now()
    body = kept["body"].encode("latin-1")
    read = protocol.read_token_response(
        provider, kept["status"], body, now=now, scope=tuple(kept["scope"]), refused=NeedsReauthorization
    )
    judge_same_account(rt, provider, read, kept["account_id"], deadline.within(_JUDGE_SECONDS))
    grant = read.grant
    renewed = grant.refresh_token is not None
    return _Judged(
        access_token=grant.access_token,
        # RFC 6749 section 6: an answer without one leaves the old one in force; to have used it may have prolonged it.
        refresh_token=grant.refresh_token or kept["held"],
        renewed=renewed,
        scope=grant.scope,
        expires_seconds=_until(grant.expires_at, now),
        refresh_expires_seconds=_until(grant.refresh_expires_at, now) if renewed else provider.refresh_token_seconds,
    )


def _of_this_connection(kept: Mapping[str, Any]) -> bool:
    """Whether an error tells of this connection alone: the endpoint works, and speaks its protocol."""
    if kept["status"] in (408, 425, 429) or kept["status"] >= 500:  # noqa: PLR2004
        return False
    try:
        protocol.read_json(kept["body"].encode("latin-1"))
    except ProviderFailed:
        return False
    return True


def _until(moment: datetime | None, now: datetime) -> float | None:
    return None if moment is None else (moment - now).total_seconds()


# -- work ------------------------------------------------------------------------------------------------------------


def work_once(rt: Runtime) -> bool:
    """One connection that is due, or that somebody died over; whether there was any. Failures are in the database by then."""
    asked_at = time.monotonic()
    claim = rt.store.claim_due(
        host=rt.journal.host,
        lease_seconds=LEASE_SECONDS,
        block_seconds={provider.id: block_seconds(provider) for provider in rt.enabled()},
        providers=[provider.id for provider in rt.enabled()],
    )
    if claim is None:
        return False
    try:
        carry_out(rt, rt.provider(claim.provider), claim, asked_at)
    except DatabaseUnavailable:
        raise
    except GatewayError as error:
        log.info("grant.refresh_ended", provider=claim.provider, error=error.slug)
    return True


def replay(rt: Runtime) -> int:
    """
    Brings every answer that this host's journal still holds into the database; how many. Raises DatabaseUnavailable when it
    is away. One that cannot be brought does not stand before the others.
    """
    done = 0
    for connection_id, generation in rt.journal.pending(_UNDER_WAY_SECONDS):
        try:
            kept = rt.journal.read(connection_id, generation)
            provider = rt.catalog.get(kept["provider"]) if kept else None
            if kept is not None and provider is not None:
                bring_home(rt, provider, connection_id, generation, kept, Deadline.after(REQUEST_SECONDS))
                done += 1
        except DatabaseUnavailable:
            raise
        except GatewayError as error:
            log.warning("journal.unread", connection=str(connection_id), error=error.slug)
    return done


# -- failures --------------------------------------------------------------------------------------------------------


def _refused(rt: Runtime, claim: ClaimedRefresh) -> None:
    """Before a refusal is believed the generation is looked at once more: somebody may have connected again meanwhile."""
    try:
        row = rt.store.grant(connection_id=claim.id, caller=None, min_seconds=0)
    except DatabaseUnavailable:
        return  # the intent stands; whoever takes it up is refused as well, and tells then
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
