"""
Giving grants back (RFC 7009): at once where it can be, from a sealed queue where it cannot.

Owns the calls to revocation endpoints and what their answers mean for the queue. Knows no pages; which grants are to be given
back is decided elsewhere.
"""

from __future__ import annotations

import threading
import uuid
from dataclasses import replace
from typing import Literal

import structlog

from gateway import protocol
from gateway.catalog import Provider
from gateway.errors import DatabaseUnavailable, GatewayError, ProviderFailed
from gateway.http import Deadline
from gateway.models import Grant, Revocation
from gateway.services import Runtime

log = structlog.get_logger(__name__)

REVOKE_SECONDS = 4.0
_TOO_LATE_SECONDS = 1.0
"""Less than this is not worth a try: a name, a handshake and two answers do not fit in."""

Revoked = Literal["done", "queued", "unsupported"]


def give_back(
    rt: Runtime,
    provider: Provider,
    grant: Grant,
    *,
    beside: bool,
    account_id: str | None = None,
    deadline: Deadline | None = None,
) -> bool:
    """
    Whether a grant that was not stored is given back: before `deadline`, or, where little is left of that, beside whoever waits.

    Where a revocation ends everything between the account and us (`revocation_ends = "account"`), a connection that stands
    would die along with it. The database knows whether one of anybody's does; where the account is not known, `beside`, one
    of this user's, decides.
    """
    if account_id is None and beside and provider.revocation_ends == "account":
        return False
    orphan = uuid.uuid4()
    try:
        queued = rt.store.queue_revocation(
            connection_id=orphan,
            generation=1,
            provider=provider.id,
            token=rt.vault.seal_some(grant.access_token, row=str(orphan), column="token", generation=1),
            refresh=rt.vault.seal_some(grant.refresh_token, row=str(orphan), column="refresh", generation=1),
            reason="not_stored",
            account_id=account_id,
        )
    except GatewayError:
        return _give_back_unqueued(rt, provider, grant, beside=beside)
    if deadline is not None and deadline.remaining() < _TOO_LATE_SECONDS:
        # Whoever waits has waited for long. It stands in the queue, whatever becomes of this thread.
        threading.Thread(target=settle, args=(rt, queued), name="give-back", daemon=True).start()
        ends_more = queued is not None and queued.beside and provider.revocation_ends == "account"
        return queued is not None and provider.revocation_endpoint is not None and not ends_more
    return settle(rt, queued, deadline) != "unsupported"


def _give_back_unqueued(rt: Runtime, provider: Provider, grant: Grant, *, beside: bool) -> bool:
    """While the database is away there is no queue to fall back on: once, now, if it can do no harm."""
    if provider.revocation_endpoint is None or (beside and provider.revocation_ends == "account"):
        return False
    try:
        held = Revocation(uuid.uuid4(), provider.id, 1, grant.access_token, grant.refresh_token)
        _revoke(rt, provider, held, Deadline.after(REVOKE_SECONDS))
    except ProviderFailed as error:
        log.warning("revocation.lost", provider=provider.id, reason=str(error))
        return False
    return True


def settle(rt: Runtime, queued: Revocation | None, deadline: Deadline | None = None) -> Revoked:
    """Gives a queued grant back, if that can be done now and before `deadline`, and brings the queue up to date."""
    if queued is None:
        return "unsupported"
    soon = deadline.within(REVOKE_SECONDS) if deadline else Deadline.after(REVOKE_SECONDS)
    done: Revoked = "queued"
    try:
        done = _try(rt, queued, soon)
    except GatewayError as error:
        log.warning("revocation.queued", provider=queued.provider, reason=str(error))
    try:
        rt.store.settle_revocation(
            connection_id=queued.connection_id,
            generation=queued.generation,
            done=done != "queued",
            outcome=done,
        )
    except DatabaseUnavailable:
        # It stands in the queue still and will be tried again: a second revocation does no harm.
        log.warning("revocation.unsettled", provider=queued.provider)
    return done


def work_once(rt: Runtime) -> bool:
    """One grant from the queue, unanswered ones among them; whether there was any."""
    queued = rt.store.claim_revocation()
    if queued is None:
        return False
    settle(rt, queued)
    return True


def _try(rt: Runtime, queued: Revocation, deadline: Deadline) -> Revoked:
    provider = rt.catalog.get(queued.provider)
    if provider is None or provider.id not in rt.clients:
        return "queued"
    provider = rt.issuers.complete(provider, deadline, needed=("revocation_endpoint",))
    if provider.revocation_endpoint is None or (queued.beside and provider.revocation_ends == "account"):
        return "unsupported"
    row, generation = str(queued.connection_id), queued.generation
    token = rt.vault.open_some(queued.token, column="token", row=row, generation=generation)
    refresh = rt.vault.open_some(queued.refresh, column="refresh", row=row, generation=generation)
    _revoke(rt, provider, replace(queued, token=token, refresh=refresh), deadline)
    return "done"


def _revoke(rt: Runtime, provider: Provider, grant: Revocation, deadline: Deadline) -> None:
    """Both tokens, the longer-lived first. Its answer counts: RFC 7009 section 2.1 lets the other end with it."""
    client = rt.clients[provider.id]
    held = [(grant.refresh, "refresh_token"), (grant.token, "access_token")]
    for token, hint in [(token, hint) for token, hint in held if token is not None]:
        wire = protocol.revocation_request(provider, client, token=token, hint=hint)
        answer = rt.outbound.request(wire.method, wire.url, headers=wire.headers, body=wire.body, deadline=deadline)
        protocol.read_revocation_response(answer.status, answer.body)
        if provider.revocation_ends == "account":
            return
