"""
The main job: begin, finish, disconnect.

`begin` stores one attempt and says where to send the browser; `finish` takes it back, once, judges who returned before
anything is redeemed, and ends in one row or in none; `disconnect` erases and gives back. Knows no Flask, no SQL and no
provider by name.
"""

from __future__ import annotations

import hmac
import json
import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import structlog

from gateway import oauth
from gateway.account import read_account
from gateway.catalog import Provider
from gateway.errors import (
    BrowserMismatch,
    DatabaseUnavailable,
    GatewayError,
    NotFound,
    ProviderFailed,
    StateInvalid,
    Unauthenticated,
    UserMismatch,
)
from gateway.models import Account, AuthorizationRequest, Display, Erased, Grant, Revocation, Standing
from gateway.outbound import Deadline
from gateway.runtime import Runtime
from gateway.vault import fingerprint

log = structlog.get_logger(__name__)

EXCHANGE_SECONDS = 10.0
"""For everything that is asked of the provider in one callback."""
REVOKE_SECONDS = 4.0
_SAVE_TRIES = 3

Revoked = Literal["done", "queued", "unsupported"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended, for whoever shows it: a connection's id, or the error to return with."""

    provider: Provider
    return_to: str | None
    display: Display
    connection_id: uuid.UUID | None = None
    error: GatewayError | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a disconnect did."""

    erased: Erased
    revocation: Revoked


# -- begin -----------------------------------------------------------------------------------------------------------


def begin(
    rt: Runtime, provider_id: str, *, session: str, browser: str, return_to: str | None, display: Display = "page"
) -> str:
    """
    The provider's URL for one attempt of the user who owns `session` (RFC 6749 section 4.1.1).

    `browser` is the secret in the cookie that binds the attempt to this browser. Raises NotFound, Unauthenticated and what
    discovery raises.
    """
    provider = rt.issuers.complete(rt.provider(provider_id))
    state, code_verifier, nonce = secrets.token_urlsafe(32), secrets.token_urlsafe(48), secrets.token_urlsafe(24)
    state_hash = fingerprint(state)
    sealed = rt.vault.seal(
        json.dumps({"code_verifier": code_verifier, "nonce": nonce}),
        row=state_hash,
        column="authorization",
        generation=0,
    )
    user = rt.store.start_authorization(
        session_hash=fingerprint(session),
        state_hash=state_hash,
        browser_hash=fingerprint(browser),
        provider=provider.id,
        sealed=sealed,
        scope=provider.scope,
        return_to=return_to,
        display=display,
    )
    if user is None:
        raise Unauthenticated("no live session")
    return oauth.authorization_request(
        provider,
        rt.clients[provider.id],
        redirect_uri=rt.redirect_uri(provider),
        state=state,
        code_verifier=code_verifier,
        nonce=nonce,
    )


# -- finish ----------------------------------------------------------------------------------------------------------


def finish(
    rt: Runtime, path: str, slug: str, parameters: Mapping[str, Sequence[str]], *, session: str, browser: str
) -> Outcome:
    """
    The end of an attempt: `parameters` is the callback's query, every value of every name.

    The state is taken whatever follows, so that it serves once. Who came back is judged before the code is redeemed. Raises
    what has to be shown here (StateInvalid, BrowserMismatch, UserMismatch, IssuerMismatch, DatabaseUnavailable); what may
    be returned to the product is in the Outcome.
    """
    state = oauth.single(parameters, "state")
    if not state:
        raise StateInvalid("no state")
    state_hash = fingerprint(state)
    request = rt.store.take_authorization(state_hash=state_hash, session_hash=fingerprint(session))
    if request is None:
        raise StateInvalid("unknown, expired or used state")
    provider = rt.catalog.by_slug(path, slug)
    if provider is None or request.provider != provider.id:
        raise StateInvalid("the state belongs to another provider's callback")
    _judge_who(rt, request, browser)
    try:
        connection_id = _redeem(rt, rt.provider(provider.id), request, state_hash, parameters)
    except GatewayError as error:
        if not error.returned:
            raise
        log.info("connect.refused", provider=provider.id, error=error.slug, reason=str(error))
        return Outcome(provider, request.return_to, request.display, error=error)
    return Outcome(provider, request.return_to, request.display, connection_id=connection_id)


def _judge_who(rt: Runtime, request: AuthorizationRequest, browser: str) -> None:
    """The user who starts a flow is the user who ends it, in the same browser; there is no switch."""
    mismatch: GatewayError | None = None
    if not hmac.compare_digest(request.browser_hash, fingerprint(browser)):
        mismatch = BrowserMismatch("the callback came from another browser")
    elif request.session_user_id != request.user_id:
        mismatch = UserMismatch("the callback came from another user, or from nobody")
    if mismatch is not None:
        rt.store.record(
            "connect.refused", user_id=request.user_id, provider=request.provider, data={"error": mismatch.slug}
        )
        raise mismatch


def _redeem(
    rt: Runtime,
    provider: Provider,
    request: AuthorizationRequest,
    state_hash: str,
    parameters: Mapping[str, Sequence[str]],
) -> uuid.UUID:
    deadline = Deadline.after(EXCHANGE_SECONDS)
    provider = rt.issuers.complete(provider, deadline)
    code = oauth.read_authorization_response(provider, parameters)
    kept = json.loads(rt.vault.open(request.sealed, row=state_hash, column="authorization", generation=0))
    answer = _exchange(rt, provider, request, code, kept["code_verifier"], deadline)
    try:
        account = read_account(rt, provider, answer, nonce=kept["nonce"], deadline=deadline)
        return _save(rt, provider, request, answer.grant, account)
    except GatewayError as error:
        # The code is redeemed but nothing stands here: what was granted is given back where that can be done.
        if not _give_back(rt, provider, answer.grant, spared=request.standing is not None):
            error.left_installed = (provider.name, provider.installed_apps_url)
        raise


def _exchange(
    rt: Runtime, provider: Provider, request: AuthorizationRequest, code: str, code_verifier: str, deadline: Deadline
) -> oauth.TokenAnswer:
    client = rt.clients[provider.id]
    wire = oauth.code_request(
        provider, client, code=code, redirect_uri=rt.redirect_uri(provider), code_verifier=code_verifier
    )
    answer = rt.outbound.request(wire.method, wire.url, headers=wire.headers, body=wire.body, deadline=deadline)
    return oauth.read_token_response(provider, answer.status, answer.body, now=rt.now(), scope=request.scope)


def _save(rt: Runtime, provider: Provider, request: AuthorizationRequest, grant: Grant, account: Account) -> uuid.UUID:
    """Compare-and-set: the seal needs the id and the generation, so what stands is believed and sealed for again."""
    standing = request.standing or Standing(uuid.uuid4(), 0)
    for _ in range(_SAVE_TRIES):
        saved = rt.store.save_connection(
            connection_id=standing.id,
            generation=standing.generation + 1,
            user_id=request.user_id,
            user_label=request.session_label,
            provider=provider.id,
            type=provider.type,
            account_key="" if provider.accounts == "one" else account.id,
            account_id=account.id,
            account_label=account.label,
            scope=grant.scope,
            token=_seal(rt, standing, "token", grant.access_token),
            refresh=_seal(rt, standing, "refresh", grant.refresh_token),
            expires_at=grant.expires_at,
            refresh_expires_at=grant.refresh_expires_at,
            data={
                **grant.facts,
                "account": {"id": account.id, "label": account.label},
                "scope": list(grant.scope),
                "status": "active",
            },
        )
        if saved.saved:
            return saved.standing.id
        standing = saved.standing
    raise DatabaseUnavailable("the row kept changing while it was saved")


def _seal(rt: Runtime, standing: Standing, column: str, secret: str | None) -> str | None:
    if secret is None:
        return None
    return rt.vault.seal(secret, row=str(standing.id), column=column, generation=standing.generation + 1)


# -- give back -------------------------------------------------------------------------------------------------------


def _give_back(rt: Runtime, provider: Provider, grant: Grant, *, spared: bool) -> bool:
    """
    Whether a grant that was not stored is revoked, now or soon.

    Where a revocation ends everything between the account and us (`revocation_ends = "account"`), a connection that stands
    already would die with it; then the new grant is left to expire.
    """
    if provider.revocation_endpoint is None:
        return False
    if spared and provider.revocation_ends == "account":
        return True
    orphan = Standing(uuid.uuid4(), 0)
    revocation = Revocation(orphan.id, provider.id, 1, grant.access_token, grant.refresh_token)
    try:
        _revoke(rt, provider, revocation)
    except ProviderFailed as error:
        log.warning("revocation.queued", provider=provider.id, reason=str(error))
    else:
        return True
    try:
        rt.store.queue_revocation(
            connection_id=orphan.id,
            generation=1,
            provider=provider.id,
            token=_seal(rt, orphan, "token", grant.access_token),
            refresh=_seal(rt, orphan, "refresh", grant.refresh_token),
            reason="not_stored",
        )
    except GatewayError:
        return False
    return True


def _revoke(rt: Runtime, provider: Provider, open_grant: Revocation) -> None:
    """RFC 7009 for both tokens; the longer-lived one first, and its answer is the one that counts."""
    client = rt.clients[provider.id]
    deadline = Deadline.after(REVOKE_SECONDS)
    held = [(open_grant.refresh, "refresh_token"), (open_grant.token, "access_token")]
    for token, hint in [(token, hint) for token, hint in held if token is not None]:
        wire = oauth.revocation_request(provider, client, token=token, hint=hint)
        answer = rt.outbound.request(wire.method, wire.url, headers=wire.headers, body=wire.body, deadline=deadline)
        oauth.read_revocation_response(answer.status, answer.body)
        if provider.revocation_ends == "account":
            return


# -- disconnect ------------------------------------------------------------------------------------------------------


def disconnect(rt: Runtime, connection_id: uuid.UUID, *, session: str) -> Receipt:
    """
    Erases the connection of the user who owns `session`, then gives the grant back to its provider.

    Erased first and at once; the revocation stands sealed in a queue until the provider has taken it. Raises NotFound for
    another's id as for none.
    """
    erased = rt.store.disconnect(session_hash=fingerprint(session), connection_id=connection_id)
    if erased is None:
        raise NotFound("no such connection of this user")
    return Receipt(erased, _settle(rt, erased.revocation))


def _settle(rt: Runtime, queued: Revocation | None) -> Revoked:
    if queued is None:
        return "unsupported"
    provider = rt.catalog.get(queued.provider)
    done: Revoked = "queued"
    try:
        if provider is not None and provider.id in rt.clients:
            provider = rt.issuers.complete(provider)
            if provider.revocation_endpoint is None:
                done = "unsupported"
            else:
                _revoke(rt, provider, _opened(rt, queued))
                done = "done"
    except GatewayError as error:
        log.warning("revocation.queued", provider=queued.provider, reason=str(error))
    try:
        rt.store.settle_revocation(
            connection_id=queued.connection_id, generation=queued.generation, done=done != "queued"
        )
    except DatabaseUnavailable:
        log.warning("revocation.unsettled", provider=queued.provider)
    return done


def _opened(rt: Runtime, queued: Revocation) -> Revocation:
    def opened(column: str, sealed: str | None) -> Any:
        if sealed is None:
            return None
        return rt.vault.open(sealed, row=str(queued.connection_id), column=column, generation=queued.generation)

    return Revocation(
        queued.connection_id,
        queued.provider,
        queued.generation,
        opened("token", queued.token),
        opened("refresh", queued.refresh),
    )
