"""
One token request for a connection (RFC 6749 section 6), and its result in the database.

The response goes into the journal before it is parsed, since it may hold the only valid refresh token; one that contains tokens stays
there until it is saved. Only a refusal of the grant ends a connection. Knows nothing of the callers that wait.
"""

import random
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import structlog
from pydantic_core import to_jsonable_python

from gateway.account import NAME_SECONDS, names_another_account, read_account, refreshed_addresses
from gateway.catalog import Provider
from gateway.connections import revoke
from gateway.database.queries.tokens import ClaimedRefresh, claim_due, fail_refresh, finish_refresh, stored_token
from gateway.errors import (
    ClientRejected,
    DatabaseUnavailable,
    GatewayError,
    Held,
    NeedsReauthorization,
    ProviderFailed,
    ProviderGarbled,
    ProviderUnavailable,
    RefreshInProgress,
    SecretUnreadable,
    Suspended,
)
from gateway.http import Deadline, parse_retry_after
from gateway.models import Account, Grant, Status, Unit
from gateway.protocol.oauth import build_refresh_request, find_grant, parse_token_response
from gateway.services import Runtime

log = structlog.get_logger(__name__)

_REQUEST_SECONDS = 30.0
"""A response that arrives after this is lost, so it is longer than any caller waits."""
_REPEATABLE_REQUEST_SECONDS = 8.0
"""Where the provider accepts a used refresh token again for a while: soon enough to repeat the request."""
_SAVE_SECONDS = 7.0
"""By how much the lease outlives the request: for the response on disk and in the database."""
_FOREIGN_HOST_SECONDS = 60.0
LOOK_SECONDS = 5.0
"""How often a worker looks for interrupted refreshes."""
_UNDER_WAY_SECONDS = 2.0
"""The worker leaves younger journal entries to the thread that wrote them."""
_ACCOUNT_SECONDS = 6.0
_BACK_OFF = (2.0, 300.0)
_OPERATOR_SECONDS = 300.0
_SUSPENDED_SECONDS = 3600.0
_NO_ENDPOINT = (404, 405, 410)
"""Without an error's name, these speak of the address and not of a grant: the provider has moved its token endpoint."""


def request_seconds(provider: Provider) -> float:
    return _REPEATABLE_REQUEST_SECONDS if provider.replay_seconds else _REQUEST_SECONDS


def lease_seconds(provider: Provider) -> float:
    """How long a claim keeps every other process from sending a request."""
    return request_seconds(provider) + _SAVE_SECONDS


def foreign_host_wait(provider: Provider) -> float:
    """
    How long other hosts leave an interrupted refresh alone: its response may be in the journal of the host that began it.

    Where the provider accepts a used refresh token again, the next look of a worker must still fall into that time.
    """
    window = provider.replay_seconds
    return max(lease_seconds(provider), window - 2 * LOOK_SECONDS) if window else _FOREIGN_HOST_SECONDS


# -- one refresh -----------------------------------------------------------------------------------------------------


def refresh_once(rt: Runtime, provider: Provider, claim: ClaimedRefresh, started: float) -> None:
    """
    Send the token request of a claim and save the response; every failure is recorded in the database before it is raised.

    A response to the same request in this host's journal is saved instead: the process that sent it crashed, or the database lost the
    commit. `started`: monotonic time before the claim was made. Raises RefreshInProgress when the claim came too late.
    """
    response: Mapping[str, Any] | None = None
    try:
        if not claim.refresh:
            raise _Ended("no_refresh_token")
        token = rt.vault.decrypt(
            claim.refresh, column="refresh", user_id=claim.user_id, provider=claim.provider, seal_id=claim.seal_id
        )
        sent: str | None = token
        response = rt.journal.get(claim.id, claim.generation)
        if response is not None and response["refresh_token"] == token:
            sent = _save_earlier(rt, provider, response)
        if sent is None:
            return
        # A refresh token belongs to the registration that it was issued to (RFC 6749 section 6): no other one may send it.
        if claim.client_id not in (None, rt.clients[provider.id].client_id):
            raise _Ended("client_replaced")
        deadline = Deadline(started + request_seconds(provider))
        response = send_request(rt, provider, claim, deadline, token=token, sent=sent)
        store_response(rt, provider, response)
    except (DatabaseUnavailable, RefreshInProgress):
        raise  # the lease ends by itself, and the refresh is taken up again
    except Exception as error:
        if _record(rt, claim, error, response) == "held":
            raise Held("the provider refuses many grants at the moment") from None
        raise


class _Ended(NeedsReauthorization):
    """Ended without a request; its argument is the reason."""


def _save_earlier(rt: Runtime, provider: Provider, response: Mapping[str, Any]) -> str | None:
    """Save a response from the journal. Where it could not be read, the refresh token to send now: the one in it may be the only valid one."""
    try:
        store_response(rt, provider, response)
    except ProviderFailed as error:
        if response["status"] < 300 and not isinstance(error, ProviderGarbled):  # noqa: PLR2004
            raise
        found = find_grant(response["body"].encode("latin-1"))
        return (found and found.refresh_token) or str(response["sent"])
    return None


def send_request(
    rt: Runtime, provider: Provider, claim: ClaimedRefresh, deadline: Deadline, *, token: str, sent: str
) -> Mapping[str, Any]:
    """The provider's response as it came; in the journal if it may contain tokens. `token`: the stored one; `sent`: the one to send."""
    provider = rt.issuers.complete(provider.filled(claim.facts), deadline)
    request = build_refresh_request(provider, rt.clients[provider.id], refresh_token=sent, facts=claim.facts)
    if deadline.remaining() < 1.0:
        raise RefreshInProgress("the claim came too late to be used")
    try:
        answer = rt.request_tokens(provider, request, deadline)
    except ProviderFailed as error:
        if provider.replay_seconds:
            # The response may have been lost on the way. The request can be repeated while the provider accepts the used token.
            error.retry_after = provider.replay_seconds / 3
        raise
    response = {
        **to_jsonable_python(claim),
        "refresh_token": token,
        "sent": sent,
        "status": answer.status,
        "body": answer.body.decode("latin-1"),
        "retry_after": answer.headers.get("Retry-After"),
        "received_at": rt.now().isoformat(),
    }
    # An earlier response, in which `sent` was found, is replaced only by other tokens.
    if find_grant(answer.body) or (answer.status < 300 and sent == token):  # noqa: PLR2004 - RFC 9110 section 15.3
        rt.journal.put(claim.id, claim.generation, response)
    return response


def store_response(rt: Runtime, provider: Provider, response: Mapping[str, Any]) -> None:
    """Save the tokens of a response as the next generation. A response that contains tokens and cannot be used stays in the journal."""
    body, connection_id, generation = response["body"].encode("latin-1"), UUID(response["id"]), response["generation"]
    try:
        grant, account, doubt = parse_response(rt, provider, response)
    except GatewayError as error:
        is_stored, is_refused = response["sent"] == response["refresh_token"], isinstance(error, NeedsReauthorization)
        if is_refused or (is_stored and find_grant(body) is None):
            rt.journal.delete(connection_id, generation)
        if is_refused and not is_stored:
            raise ProviderGarbled("what an earlier response seemed to hold was no refresh token") from None
        raise
    user_id, seal_id = UUID(response["user_id"]), uuid4()
    encrypt = partial(rt.vault.encrypt, user_id=user_id, provider=provider.id, seal_id=seal_id)
    renewed = grant.refresh_token is not None
    # RFC 6749 section 6: without a new refresh token the old one stays valid; to have used it may have prolonged it.
    refresh_token = grant.refresh_token or response["sent"]
    refresh_expires_at = grant.refresh_expires_at
    if not renewed and provider.refresh_token_seconds:
        refresh_expires_at = _received_at(rt, response) + timedelta(seconds=provider.refresh_token_seconds)
    ending = finish_refresh(
        rt.database,
        connection_id,
        generation,
        token=encrypt(grant.access_token, column="token"),
        refresh=encrypt(refresh_token, column="refresh"),
        seal_id=seal_id,
        scope=grant.scope,
        account=None if account is None else {"id": account.id, "label": account.label},
        facts=dict(grant.facts),
        expires_seconds=rt.seconds_until(grant.expires_at),
        refresh_expires_seconds=rt.seconds_until(refresh_expires_at),
        renewed=renewed,
        doubt=doubt,
    )
    if ending in ("gone", "reconnected"):
        unused = Grant(grant.access_token, refresh_token)
        deadline = Deadline.after(_REPEATABLE_REQUEST_SECONDS)
        revoke.revoke_or_queue(rt, provider, unused, user_id=user_id, beside=True, deadline=deadline)
        rt.journal.delete(connection_id, generation)
    else:
        log.info("grant.refreshed", provider=provider.id, connection_id=str(connection_id))
        rt.journal.mark_committed(connection_id, generation)


def _received_at(rt: Runtime, response: Mapping[str, Any]) -> datetime:
    """When a response arrived; now, where this host's clock was ahead then."""
    return min(datetime.fromisoformat(response["received_at"]), rt.now())


def parse_response(
    rt: Runtime, provider: Provider, response: Mapping[str, Any]
) -> tuple[Grant, Account | None, str | None]:
    """
    The grant in a response, or the error in it; lifetimes count from its arrival.

    Where the account of the connection is not verified yet, or its name is not known, the provider is asked for it. The last part of the
    result is a reason to verify it again before the tokens are used.
    """
    answer = parse_token_response(
        provider,
        response["status"],
        response["body"].encode("latin-1"),
        now=_received_at(rt, response),
        scope=tuple(response["scope"]),
        refused=NeedsReauthorization,
    )
    answer = replace(answer, rest={**response["facts"], **answer.rest})
    if not response["unverified"]:
        if names_another_account(provider, answer, response["account_id"]):
            return answer, None, "another_account"
        account = _named(rt, provider, answer, response["account_id"]) if response["unnamed"] else None
        facts = {**answer.facts, **refreshed_addresses(provider, answer)}
        return replace(answer, facts=facts), account, None
    deadline = Deadline.after(_ACCOUNT_SECONDS)
    account = read_account(rt, rt.issuers.complete(provider, deadline), answer, nonce=None, deadline=deadline)
    if response["account_id"] not in ("", account.id):
        raise NeedsReauthorization("the token belongs to another account")
    return replace(answer, facts={**answer.facts, **account.facts}), account, None


def _named(rt: Runtime, provider: Provider, answer: Grant, account_id: str) -> Account | None:
    """The account with its name, which was not to be had at the connect; None where it still is not."""
    deadline = Deadline.after(NAME_SECONDS)
    try:
        account = read_account(rt, rt.issuers.complete(provider, deadline), answer, nonce=None, deadline=deadline)
    except GatewayError:
        return None
    return account if account.id == account_id else None


# -- the worker's part -----------------------------------------------------------------------------------------------


def claim_next(rt: Runtime, busy: Collection[str]) -> list[Unit]:
    """The worker's job: refresh one connection that is due, or whose refresh was interrupted. Not of `busy` providers."""
    started = time.monotonic()
    providers = {
        each.id: {
            "lease": lease_seconds(each),
            "block": foreign_host_wait(each),
            "client": rt.clients[each.id].client_id,
            "late": each.refresh_ends_access_token,
        }
        for each in rt.registered()
        if each.id not in busy
    }
    claim = claim_due(rt.database, host=rt.journal.host, providers=providers)
    if claim is None:
        return []
    return [Unit(claim.provider, partial(refresh_once, rt, rt.provider(claim.provider), claim, started))]


def find_unsaved(rt: Runtime, busy: Collection[str]) -> list[Unit]:
    """The worker's job: save the responses of this host's journal that are not in the database; one unit for each provider."""
    entries = defaultdict(list)
    for connection_id, generation in rt.journal.pending(_UNDER_WAY_SECONDS):
        try:
            response = rt.journal.get(connection_id, generation)
        except GatewayError as error:
            log.warning("journal.entry_failed", connection=str(connection_id), error=error.slug)
            continue
        if response is not None and response["provider"] not in busy:
            entries[response["provider"]].append(response)
    known = [(rt.catalog.providers.get(name), each) for name, each in entries.items()]
    return [Unit(provider.id, partial(_save_all, rt, provider, each)) for provider, each in known if provider]


def _save_all(rt: Runtime, provider: Provider, responses: Sequence[Mapping[str, Any]]) -> None:
    for response in responses:
        try:
            store_response(rt, provider, response)
        except DatabaseUnavailable:
            raise
        except GatewayError as error:
            log.warning("journal.entry_failed", connection=response["id"], error=error.slug)
            _leave(rt, provider, response)


def _leave(rt: Runtime, provider: Provider, response: Mapping[str, Any]) -> None:
    """Leave a response that cannot be used to the next request. Of a connection that is gone, its tokens are revoked."""
    connection_id, generation = UUID(response["id"]), response["generation"]
    row, grant = stored_token(rt.database, connection_id), find_grant(response["body"].encode("latin-1"))
    if row is not None and row.generation <= generation:
        rt.journal.postpone(connection_id, generation, _OPERATOR_SECONDS)
        return
    if row is None and grant is not None:
        user_id, account_id = UUID(response["user_id"]), response["account_id"]
        revoke.revoke_or_queue(rt, provider, grant, user_id=user_id, beside=False, account_id=account_id)
    rt.journal.delete(connection_id, generation)


# -- failures --------------------------------------------------------------------------------------------------------


def _record(rt: Runtime, claim: ClaimedRefresh, error: Exception, response: Mapping[str, Any] | None) -> Status | None:
    """Record a failure; the connection's status afterwards. A connection that is held is an incident of its provider."""
    if isinstance(error, ProviderFailed) and response is not None and error.retry_after is None:
        error.retry_after = parse_retry_after(response["retry_after"])
    outcome, reason, wait_seconds = _judged(claim, error)
    status, facts = None, error.facts() if isinstance(error, GatewayError) else {}
    try:
        status = fail_refresh(
            rt.database,
            claim.id,
            claim.generation,
            lease_id=claim.lease_id,
            outcome=outcome,
            error=reason,
            wait_seconds=wait_seconds,
            refusal=_refusal(error),
        )
    except DatabaseUnavailable:
        log.warning("refresh.report_failed", provider=claim.provider)  # the lease ends by itself
    log.warning("refresh.failed", provider=claim.provider, error=reason, outcome=outcome, status=status, **facts)
    if status == "held":
        log.error("provider.incident", provider=claim.provider, remedy="operator")
    return status


def _judged(claim: ClaimedRefresh, error: Exception) -> tuple[str, str, float]:
    """The outcome, which says who must act, the reason, and the seconds until the next try."""
    match error:
        case NeedsReauthorization():
            refused = "response_lost" if claim.interrupted else "grant_refused"
            reason = str(error) if isinstance(error, _Ended) else "not_confirmed" if claim.unverified else refused
            return "refused", reason, back_off(claim.failures, error)
        case Suspended():
            return "suspended", error.slug, _SUSPENDED_SECONDS
        case ClientRejected():
            return "operator", error.slug, _OPERATOR_SECONDS * 2.0 ** min(claim.failures, 4)
        case SecretUnreadable():
            return "operator", error.slug, back_off(claim.failures, error)
        case ProviderFailed():
            return "wait", error.slug, back_off(claim.failures, error)
        case _:
            # A bug, perhaps with this connection only: it waits, so that it does not delay others.
            return "operator", "unexpected", _OPERATOR_SECONDS


def _refusal(error: Exception) -> dict[str, Any] | None:
    """Status and name of an error that refuses; None for trouble that passes, and for a page that is no error."""
    if not isinstance(error, NeedsReauthorization | ProviderFailed) or isinstance(error, ProviderUnavailable):
        return None
    status, code = error.provider_status, error.provider_error
    is_refusal = code is not None or (400 <= (status or 0) < 500 and status not in _NO_ENDPOINT)  # noqa: PLR2004 - RFC 9110 section 15.5
    return {"status": status, "code": code} if is_refusal else None


def back_off(failures: int, error: GatewayError) -> float:
    """Seconds until the next try: what the provider asks for, else doubling with full jitter between bounds."""
    lowest, highest = _BACK_OFF
    if error.retry_after is not None:
        return float(min(max(error.retry_after, lowest), 3600.0))
    ceiling = min(highest, lowest * 2.0 ** min(failures, 16))
    return lowest + random.random() * (ceiling - lowest)  # noqa: S311 - jitter, not a secret
