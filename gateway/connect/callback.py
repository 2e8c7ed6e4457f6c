"""
The main job: begin and finish.

`begin` stores one attempt and says where to send the browser; `finish` takes it back, once, judges who returned before
anything is redeemed, and ends in one row or in none. Knows no Flask, no SQL and no
provider by name.
"""

from __future__ import annotations

import hmac
import json
import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import structlog

from gateway import protocol
from gateway.catalog import Provider
from gateway.connect import save
from gateway.connect.account import read_account
from gateway.connections import revoke
from gateway.crypto.vault import fingerprint
from gateway.database.queries.events import append_event
from gateway.errors import (
    BrowserMismatch,
    GatewayError,
    ProviderGarbled,
    StateInvalid,
    Unauthenticated,
    Unexpected,
    UserMismatch,
)
from gateway.http import Deadline
from gateway.models import AuthorizationRequest, Display, Grant
from gateway.services import Runtime

log = structlog.get_logger(__name__)

EXCHANGE_SECONDS = 9.5
"""For everything that is asked of the provider in one callback: ten seconds are promised, and some are the database's and ours."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended, for whoever shows it: a connection's id, or the error to return with."""

    provider: Provider
    return_to: str | None
    display: Display
    connection_id: uuid.UUID | None = None
    error: GatewayError | None = None
    parked: bool = False
    """The grant waits: another account came back, or nobody was signed in."""
    connect_session_id: uuid.UUID | None = None
    """The partner's link that it was started from."""
    confirmation: str | None = field(default=None, repr=False)
    """Where nobody was signed in: what this browser alone is told, for the partner's server to say who it was."""


# -- begin -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one attempt is made of, before a browser is sent on it."""

    state: str = field(repr=False)
    state_hash: str
    code_verifier: str = field(repr=False)
    nonce: str = field(repr=False)
    sealed: str = field(repr=False)
    """Verifier and nonce, to be kept until the browser is back."""


def make_attempt(rt: Runtime) -> Attempt:
    """Fresh state, verifier and nonce (RFC 9700 section 2.1.1: specific to this one transaction)."""
    state, code_verifier, nonce = secrets.token_urlsafe(32), secrets.token_urlsafe(48), secrets.token_urlsafe(24)
    state_hash = fingerprint(state)
    kept = json.dumps({"code_verifier": code_verifier, "nonce": nonce})
    sealed = rt.vault.seal(kept, row=state_hash, column="authorization", generation=0)
    return Attempt(state, state_hash, code_verifier, nonce, sealed)


def address_of(rt: Runtime, provider: Provider, attempt: Attempt, scope: tuple[str, ...]) -> str:
    """Where the browser is sent for it, asking for `scope` (RFC 6749 section 4.1.1)."""
    if scope != provider.scope:
        provider = provider.model_copy(update={"scope": scope})
    return protocol.build_authorization_request(
        provider,
        rt.clients[provider.id],
        redirect_uri=rt.redirect_uri(provider),
        state=attempt.state,
        code_verifier=attempt.code_verifier,
        nonce=attempt.nonce,
    )


def begin(
    rt: Runtime,
    provider_id: str,
    *,
    session: str,
    browser: str,
    return_to: str | None = None,
    display: Display = "page",
    another: bool = False,
) -> str:
    """
    The provider's URL for one attempt of the user who owns `session` (RFC 6749 section 4.1.1).

    `browser` is the secret in the cookie that binds the attempt to this browser; `another` says that one more account is
    wanted, where the catalogue allows many. Asks for the catalogue's scope and for what partners asked for that use the user's
    connections there. Raises NotFound, Unauthenticated and what
    discovery raises.
    """
    provider = rt.issuers.complete(rt.provider(provider_id))
    attempt = make_attempt(rt)
    begun = rt.store.start_authorization(
        session_hash=fingerprint(session),
        state_hash=attempt.state_hash,
        browser_hash=fingerprint(browser),
        provider=provider.id,
        sealed=attempt.sealed,
        scope=provider.scope,
        return_to=return_to,
        display=display,
        another=another,
    )
    if begun is None:
        raise Unauthenticated("no live session")
    return address_of(rt, provider, attempt, begun.scope)


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
    state = protocol.single_parameter(parameters, "state")
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
    ended = Outcome(provider, request.return_to, request.display, connect_session_id=request.connect_session_id)
    confirmation = secrets.token_urlsafe(32) if request.session_user_id is None else None
    try:
        connection_id = _redeem(rt, rt.provider(provider.id), request, state_hash, parameters, confirmation)
    except GatewayError as error:
        if not error.returned:
            raise
        log.info("connect.refused", provider=provider.id, error=error.slug, reason=str(error))
        return replace(ended, error=error)
    return replace(ended, connection_id=connection_id, parked=connection_id is None, confirmation=confirmation)


def _judge_who(rt: Runtime, request: AuthorizationRequest, browser: str) -> None:
    """
    The user who starts a flow is the user who ends it, in the same browser; there is no switch.

    By a partner's link nobody may be signed in here at all: then the partner's server has to say who it was, afterwards.
    """
    nobody_yet = (
        request.connect_session_id is not None and request.session_user_id is None and request.return_to is not None
    )
    mismatch: GatewayError | None = None
    if not hmac.compare_digest(request.browser_hash, fingerprint(browser)):
        mismatch = BrowserMismatch("the callback came from another browser")
    elif request.session_user_id != request.user_id and not nobody_yet:
        mismatch = UserMismatch("the callback came from another user, or from nobody")
    if mismatch is not None:
        append_event(
            rt.database,
            "connect.refused",
            user_id=request.user_id,
            provider=request.provider,
            data={"error": mismatch.slug},
        )
        raise mismatch


def _redeem(
    rt: Runtime,
    provider: Provider,
    request: AuthorizationRequest,
    state_hash: str,
    parameters: Mapping[str, Sequence[str]],
    confirmation: str | None,
) -> uuid.UUID | None:
    """The id of the connection that stands now, or None where the grant was parked, as it is with a `confirmation`."""
    deadline = Deadline.after(EXCHANGE_SECONDS)
    provider = rt.issuers.complete(provider, deadline)
    code = protocol.parse_authorization_response(provider, parameters)
    kept = json.loads(rt.vault.open(request.sealed, row=state_hash, column="authorization", generation=0))
    answer = _exchange(rt, provider, request, code, kept["code_verifier"], deadline)
    account_id: str | None = None
    try:
        account = read_account(rt, provider, answer, nonce=kept["nonce"], deadline=deadline)
        account_id = account.id
        awaited = confirmation and fingerprint(confirmation)
        return save.keep(rt, provider, request, answer.grant, account, confirmation_hash=awaited)
    except Exception as caught:  # noqa: BLE001 - a grant must not be left alive by a defect of ours
        # Whatever went wrong: the code is redeemed but nothing stands here, so that what was granted is given back.
        error = caught if isinstance(caught, GatewayError) else Unexpected(type(caught).__name__)
        _undo(rt, provider, request, answer.grant, error, deadline, account_id=account_id)
        raise error from None


def _exchange(
    rt: Runtime, provider: Provider, request: AuthorizationRequest, code: str, code_verifier: str, deadline: Deadline
) -> protocol.TokenResponse:
    client = rt.clients[provider.id]
    wire = protocol.build_code_request(
        provider, client, code=code, redirect_uri=rt.redirect_uri(provider), code_verifier=code_verifier
    )
    answer = rt.http.request(
        wire.method, wire.url, headers=wire.headers, body=wire.body, deadline=deadline, provider=provider.id
    )
    try:
        return protocol.parse_token_response(provider, answer.status, answer.body, now=rt.now(), scope=request.scope)
    except ProviderGarbled as error:
        left = protocol.find_grant(provider, answer.body)
        if left is not None:
            _undo(rt, provider, request, left, error, deadline)
        raise


def _undo(
    rt: Runtime,
    provider: Provider,
    request: AuthorizationRequest,
    grant: Grant,
    error: GatewayError,
    deadline: Deadline,
    *,
    account_id: str | None = None,
) -> None:
    """Gives back what was granted; where that cannot be done, `error` says where the app may still stand."""
    beside = bool(request.standing)
    if not revoke.revoke_or_queue(rt, provider, grant, beside=beside, account_id=account_id, deadline=deadline):
        error.left_installed = (provider.name, provider.installed_apps_url)
