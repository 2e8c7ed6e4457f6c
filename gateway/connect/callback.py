"""
Finish an attempt to connect: from the authorization response to a saved connection, or to a pending grant.

The attempt is taken only by the browser and the user that started it, before the code is redeemed. A code that was redeemed ends in a saved
grant, or the grant is revoked.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import structlog

from gateway import protocol
from gateway.account import read_account
from gateway.catalog import AnyEntry, Provider
from gateway.connect.save import save_grant
from gateway.connect.start import RequestSecrets, decrypt_secrets
from gateway.connections.revoke import revoke_or_queue
from gateway.crypto.vault import fingerprint
from gateway.database.queries.authorization import EarlierVisit, drop_authorization, take_authorization
from gateway.errors import BrowserMismatch, DatabaseUnavailable, GatewayError, StateInvalid, Unexpected, UserMismatch
from gateway.http import Deadline, Response
from gateway.models import AuthorizationRequest, Connection, Display
from gateway.services import Runtime

log = structlog.get_logger(__name__)

EXCHANGE_SECONDS = 9.5
"""For all calls to the provider in one callback. Ten seconds are promised, and the database needs some of them."""
_LOOK_SECONDS = 0.2
"""How often a second visit looks for the result of the first."""


@dataclass(frozen=True, slots=True)
class _Ended:
    provider: AnyEntry
    return_to: str | None
    display: Display


@dataclass(frozen=True, slots=True)
class Connected(_Ended):
    """The connection is saved."""

    connection_id: uuid.UUID
    missing_scope: tuple[str, ...]
    """Required scopes that the user did not grant."""


@dataclass(frozen=True, slots=True)
class Pending(_Ended):
    """The user has to decide: another account came back, or a partner's link asked for less than is connected."""


@dataclass(frozen=True, slots=True)
class AwaitsPartner(_Ended):
    """No user was signed in. The partner's server has to send the confirmation, which only this browser gets."""

    connect_session_id: uuid.UUID
    confirmation: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Failed(_Ended):
    """Nothing is connected."""

    error: GatewayError
    left_installed: bool
    """The grant could not be revoked: our app may still be installed at the provider."""


@dataclass(slots=True)
class _Redeemed:
    """What became of the code. `left_installed`: its grant was neither saved nor revoked."""

    account_id: str | None = None
    left_installed: bool = False


def finish_connect(
    rt: Runtime, path: str, slug: str, parameters: Mapping[str, Sequence[str]], *, session: str, browser: str
) -> Connected | Pending | AwaitsPartner | Failed:
    """
    End an attempt. `parameters`: the callback's query, every value of every name.

    Raises StateInvalid; BrowserMismatch or UserMismatch, which leave the attempt to the browser and the user that started it; and
    ProviderBusy, which leaves it to the next load of the same page.
    """
    state = protocol.single_parameter(parameters, "state")
    if not state:
        raise StateInvalid("no state")
    provider = rt.catalog.by_slug(path, slug)
    visitor = {
        "state_hash": fingerprint(state),
        "provider": None if provider is None else provider.id,
        "browser_hash": fingerprint(browser),
        "session_hash": fingerprint(session),
    }
    with rt.bulkhead.slot(provider.id) if provider else nullcontext():
        return _finish(rt, visitor, parameters)


def _finish(
    rt: Runtime, visitor: Mapping[str, Any], parameters: Mapping[str, Sequence[str]]
) -> Connected | Pending | AwaitsPartner | Failed:
    request = _take(rt, visitor)
    if isinstance(request, EarlierVisit):
        return _visited_before(rt, visitor, request)
    state_hash, redeemed = visitor["state_hash"], _Redeemed()
    try:
        kept = decrypt_secrets(rt, request.encrypted, state_hash)
        connection = _redeem(rt, request, parameters, kept, state_hash, redeemed)
    except GatewayError as error:
        if not isinstance(error, DatabaseUnavailable):
            with suppress(GatewayError):  # otherwise the attempt ends by itself
                drop_authorization(rt.database, state_hash)
        log.info("connect.failed", provider=request.provider, error=error.slug, reason=str(error), **error.facts())
        ended = (rt.provider(request.provider), request.return_to, request.display)
        return Failed(*ended, error, redeemed.left_installed)
    return succeeded(rt, request, kept, connection)


def succeeded(
    rt: Runtime, request: AuthorizationRequest, kept: RequestSecrets, connection: Connection | None
) -> Connected | Pending | AwaitsPartner:
    """What a saved or pending grant means for the browser."""
    provider = rt.entry(request.provider)
    ended = (provider, request.return_to, request.display)
    if not request.is_signed_in and request.connect_session_id is not None:
        return AwaitsPartner(*ended, request.connect_session_id, kept.confirmation)
    if connection is None:
        return Pending(*ended)
    return Connected(*ended, connection.id, provider.missing_scope(connection.scope))


def _visited_before(
    rt: Runtime, visitor: Mapping[str, Any], earlier: AuthorizationRequest | EarlierVisit
) -> Connected | Pending | AwaitsPartner:
    """
    What the first visit led to, for the same browser and user: a double click, a prefetch or the back button loads the callback again.

    Waits while the first visit is under way. Raises StateInvalid where it failed.
    """
    until = Deadline.after(EXCHANGE_SECONDS)
    while isinstance(earlier, EarlierVisit) and earlier.request is None and until.remaining():
        time.sleep(_LOOK_SECONDS)
        earlier = _take(rt, visitor)
    if not isinstance(earlier, EarlierVisit) or earlier.request is None:
        raise StateInvalid("the first visit has not ended")
    kept = decrypt_secrets(rt, earlier.request.encrypted, visitor["state_hash"])
    return succeeded(rt, earlier.request, kept, earlier.connection)


def _take(rt: Runtime, visitor: Mapping[str, Any]) -> AuthorizationRequest | EarlierVisit:
    taken = take_authorization(rt.database, **visitor)
    if taken is None:
        raise StateInvalid("an unknown or expired state, one that failed, or one of another provider")
    if taken == "browser_mismatch":
        raise BrowserMismatch("the callback came from another browser")
    if taken == "user_mismatch":
        raise UserMismatch("the callback came from another user, or no user is signed in")
    return taken


def _redeem(
    rt: Runtime,
    request: AuthorizationRequest,
    parameters: Mapping[str, Sequence[str]],
    kept: RequestSecrets,
    state_hash: str,
    redeemed: _Redeemed,
) -> Connection | None:
    deadline = Deadline.after(EXCHANGE_SECONDS)
    entry = rt.provider(request.provider)
    asked = rt.issuers.complete(entry.filled(kept.fields), deadline)
    code = protocol.parse_authorization_response(asked, parameters)
    facts = {**kept.fields, **entry.learn("callback", {name: values[0] for name, values in parameters.items()})}
    provider = rt.issuers.complete(entry.filled(facts), deadline)
    answer = send_code(rt, provider, code, kept.code_verifier, deadline)
    revoke = partial(revoke_or_queue, rt, provider, user_id=request.user_id, beside=request.has_connection)
    with _revoke_unless_saved(partial(revoke, deadline=deadline), answer.body, facts, redeemed):
        token = protocol.parse_token_response(provider, answer.status, answer.body, now=rt.now(), scope=request.scope)
        token = protocol.TokenResponse(token.grant, {**token.rest, **facts})
        account = read_account(rt, provider, token, nonce=kept.nonce, deadline=deadline)
        redeemed.account_id = account.id
        confirmation = None if request.is_signed_in else kept.confirmation
        grant = replace(token.grant, facts={**token.grant.facts, **facts, **account.facts})
        return save_grant(rt, provider, request, grant, account, state_hash=state_hash, confirmation=confirmation)


def send_code(rt: Runtime, provider: Provider, code: str, code_verifier: str, deadline: Deadline) -> Response:
    """The response to the token request with this code."""
    wire = protocol.build_code_request(
        provider,
        rt.clients[provider.id],
        code=code,
        redirect_uri=rt.redirect_uri(provider),
        code_verifier=code_verifier,
    )
    return rt.request_tokens(provider, wire, deadline)


@contextmanager
def _revoke_unless_saved(
    revoke: Callable[..., bool], body: bytes, fields: Mapping[str, str], redeemed: _Redeemed
) -> Iterator[None]:
    """The context in which a token response is used. After any failure in it, the tokens in `body` are revoked."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a grant must not stay valid because of a bug
        if grant := protocol.find_grant(body):
            redeemed.left_installed = not revoke(replace(grant, facts=fields), account_id=redeemed.account_id)
        raise error if isinstance(error, GatewayError) else Unexpected(type(error).__name__) from None
