"""Revoke grants at their provider (RFC 7009): at once where possible, else from an encrypted queue."""

import threading
import uuid
from collections.abc import Collection
from dataclasses import replace
from functools import partial
from typing import Literal

import structlog

from gateway.catalog import ApiKeyProvider, Provider
from gateway.database.queries.connections import Revocation, claim_revocations, queue_revocation, settle_revocation
from gateway.errors import GatewayError, ProviderFailed
from gateway.http import Deadline
from gateway.models import Grant, Unit
from gateway.protocol.oauth import build_revocation_request, parse_revocation_response
from gateway.services import Runtime

log = structlog.get_logger(__name__)

REVOKE_SECONDS = 4.0
_MINIMUM_SECONDS = 1.0
"""With less time than this, no attempt is made while the user waits: name lookup, handshake and two responses do not fit."""

Revoked = Literal["done", "queued", "unsupported"]


def revoke_or_queue(
    rt: Runtime,
    provider: Provider,
    grant: Grant,
    *,
    user_id: uuid.UUID,
    beside: bool,
    account_id: str | None = None,
    deadline: Deadline | None = None,
) -> bool:
    """
    Revoke a grant that was not stored; whether it is or will be revoked.

    Where a revocation ends everything between the account and us (`revocation_ends = "account"`), it would also end other connections of the
    same account. The database knows of them by `account_id`. Where the account is unknown, `beside` (the user has another connection
    there) decides. With too little time left before `deadline`, a thread revokes after the caller has its response.
    """
    if account_id is None and beside and provider.revocation_ends == "account":
        return False
    seal_id = uuid.uuid4()
    encrypt = partial(rt.vault.encrypt, user_id=user_id, provider=provider.id, seal_id=seal_id)
    try:
        queued = queue_revocation(
            rt.database,
            seal_id=seal_id,
            user_id=user_id,
            provider=provider.id,
            account_id=account_id,
            facts=grant.facts,
            token=grant.access_token and encrypt(grant.access_token, column="token"),
            refresh=grant.refresh_token and encrypt(grant.refresh_token, column="refresh"),
            reason="not_stored",
        )
    except GatewayError:
        return revoke_now(rt, provider, grant, beside=beside)
    if deadline is not None and deadline.remaining() < _MINIMUM_SECONDS:
        threading.Thread(target=finish_revocation, args=(rt, queued), name="revoke", daemon=True).start()
        return queued is not None and _may_revoke(provider, queued)
    return finish_revocation(rt, queued, deadline) != "unsupported"


def revoke_now(rt: Runtime, provider: Provider, grant: Grant, *, beside: bool) -> bool:
    """Revoke once, now: the database is unavailable, or the grant is no user's yet, so nothing can be queued."""
    unused, tokens = uuid.uuid4(), (grant.access_token, grant.refresh_token)
    held = Revocation(unused, unused, unused, provider.id, *tokens, grant.facts, beside)
    if not _may_revoke(provider, held):
        return False
    try:
        _send(rt, provider, held, Deadline.after(REVOKE_SECONDS))
    except ProviderFailed as error:
        log.warning("revocation.lost", provider=provider.id, reason=str(error))
        return False
    return True


def finish_revocation(rt: Runtime, queued: Revocation | None, deadline: Deadline | None = None) -> Revoked:
    """Revoke a queued grant if possible before `deadline`, and update the queue."""
    if queued is None:
        return "unsupported"
    until = deadline.within(REVOKE_SECONDS) if deadline else Deadline.after(REVOKE_SECONDS)
    outcome: Revoked = "queued"
    try:
        outcome = _revoke(rt, queued, until)
    except GatewayError as error:
        log.warning("revocation.queued", provider=queued.provider, reason=str(error))
    try:
        settle_revocation(rt.database, queued.seal_id, done=outcome != "queued", outcome=outcome)
    except GatewayError:
        # The grant is still queued and will be revoked again, which does no harm.
        log.warning("revocation.report_failed", provider=queued.provider)
    return outcome


def claim_next(rt: Runtime, busy: Collection[str]) -> list[Unit]:
    """The worker's job: revoke one due grant from the queue. Not of `busy` providers."""
    claimed = claim_revocations(rt.database, busy=busy)
    return [Unit(queued.provider, partial(finish_revocation, rt, queued)) for queued in claimed]


def _revoke(rt: Runtime, queued: Revocation, deadline: Deadline) -> Revoked:
    provider = rt.catalog.entries.get(queued.provider)
    if isinstance(provider, ApiKeyProvider):
        return "unsupported"  # its user deletes a key
    if provider is None or provider.id not in rt.clients:
        return "queued"
    provider = rt.issuers.complete(provider.filled(queued.facts), deadline, needed=("revocation_endpoint",))
    if not _may_revoke(provider, queued):
        return "unsupported"
    decrypt = partial(rt.vault.decrypt, user_id=queued.user_id, provider=queued.provider)
    token = queued.token and decrypt(queued.token, column="token", seal_id=queued.seal_id)
    refresh = queued.refresh and decrypt(queued.refresh, column="refresh", seal_id=queued.refresh_seal_id)
    _send(rt, provider, replace(queued, token=token, refresh=refresh), deadline)
    return "done"


def _may_revoke(provider: Provider, grant: Revocation) -> bool:
    """Whether the provider revokes grants, and would not end other connections of the account along with this one."""
    return provider.revocation_endpoint is not None and not (grant.beside and provider.revocation_ends == "account")


def _send(rt: Runtime, provider: Provider, grant: Revocation, deadline: Deadline) -> None:
    """
    Revoke both tokens, the refresh token first: RFC 7009 section 2.1 lets a server end the access token with it. After that, a refusal of the
    access token says that it has ended.
    """
    tokens = {"refresh_token": grant.refresh, "access_token": grant.token}
    sent = [(hint, token) for hint in provider.revocation_tokens if (token := tokens[hint])]
    for number, (hint, token) in enumerate(sent):
        wire = build_revocation_request(provider, rt.clients[provider.id], token=token, hint=hint)
        answer = rt.http.request(
            wire.method, wire.url, headers=wire.headers, body=wire.body, deadline=deadline, provider=provider.id
        )
        if not (number and 400 <= answer.status < 500):  # noqa: PLR2004 - RFC 9110 section 15.5
            parse_revocation_response(provider, answer.status, answer.body)
        if provider.revocation_ends == "account":
            return
