"""
One attempt to connect, from the button to a saved connection, or to a pending grant (RFC 6749 section 4.1).

The browser and the user that started an attempt take it once, before the code is redeemed. A code that was redeemed ends in a saved grant,
or the grant is revoked.
"""

import json
import secrets
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple, TypeVar

import structlog

from gateway.account import read_account
from gateway.catalog import AnyEntry, Provider
from gateway.connect.form import read_form
from gateway.connections.revoke import revoke_or_queue
from gateway.crypto.vault import fingerprint
from gateway.database.postgres import answered_by
from gateway.database.queries.connect import (
    AuthorizationRequest,
    EarlierVisit,
    drop_authorization,
    start_authorization,
    take_authorization,
)
from gateway.database.queries.connections import NewGrant, save_connection
from gateway.errors import (
    DatabaseUnavailable,
    GatewayError,
    StateInvalid,
    Unauthenticated,
    Unexpected,
)
from gateway.http import Deadline, Response
from gateway.models import Account, Connection, Display, Grant
from gateway.protocol.oauth import (
    build_authorization_request,
    build_code_request,
    find_grant,
    parse_authorization_response,
    parse_token_response,
    single_parameter,
)
from gateway.services import Runtime

log = structlog.get_logger(__name__)

_COLUMN = "authorization_request"
EXCHANGE_SECONDS = 9.5
"""For all calls to the provider in one callback. Ten seconds are promised, and the database needs some of them."""
_LOOK_SECONDS = 0.2
"""How often a second visit looks for the result of the first."""
_T = TypeVar("_T")

# -- start ------------------------------------------------------------------------------------------------------------


class RequestSecrets(NamedTuple):
    """What the callback needs of an attempt: the PKCE verifier (RFC 7636) and the nonce (OpenID Connect Core section 3.1.2.1)."""

    code_verifier: str
    nonce: str
    confirmation: str
    """For the partner's server, where no user is signed in."""
    fields: Mapping[str, str]
    """What the user entered before the redirect."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt, before the browser is redirected."""

    state: str = field(repr=False)
    secrets: RequestSecrets = field(repr=False)
    state_hash: str
    encrypted: str = field(repr=False)
    """The secrets, encrypted, as the database keeps them until the browser returns."""


Begin = Callable[[AnyEntry, Attempt], tuple[str, ...]]
"""Keeps an attempt at a provider; the scopes to request."""


def start_connect(rt: Runtime, provider: Provider, entered: Mapping[str, str], begin: Begin) -> str:
    """
    The provider's URL for one attempt, which `begin` keeps. `entered`: the form.

    Raises FieldsRefused, what discovery raises before anything is kept, and what `begin` raises.
    """
    fields = read_form(provider, entered)
    provider, attempt = rt.issuers.complete(provider.filled(fields)), new_attempt(rt, fields)
    return build_authorization_request(
        provider.model_copy(update={"scope": begin(provider, attempt)}),
        rt.clients[provider.id],
        redirect_uri=provider.redirect_uri(rt.settings.public_url),
        state=attempt.state,
        code_verifier=attempt.secrets.code_verifier,
        nonce=attempt.secrets.nonce,
    )


def by_user(
    rt: Runtime, *, session: str, browser: str, return_to: str | None, display: Display, add_account: bool
) -> Begin:
    """
    Attempts of the signed-in user. The scope is the catalogue's, and the scopes of partners that use the user's connections there.

    `browser`: the secret in the cookie that binds the attempt to this browser. `add_account`: the user wants one more account, where the
    catalogue allows many. Raises Unauthenticated and Frozen.
    """

    def begin(provider: AnyEntry, attempt: Attempt) -> tuple[str, ...]:
        scope = start_authorization(
            rt.database,
            session_hash=fingerprint(session),
            state_hash=attempt.state_hash,
            browser_hash=fingerprint(browser),
            provider=provider.id,
            encrypted=attempt.encrypted,
            scope=provider.scope,
            return_to=return_to,
            display=display,
            add_account=add_account,
        )
        if scope is None or isinstance(scope, str):
            raise Unauthenticated("the session has ended")
        return scope

    return begin


def new_attempt(rt: Runtime, fields: Mapping[str, str] | None = None) -> Attempt:
    """Fresh secrets for one attempt (RFC 9700 section 2.1.1: specific to this one transaction)."""
    state = secrets.token_urlsafe(32)
    fresh = RequestSecrets(
        secrets.token_urlsafe(48), secrets.token_urlsafe(24), secrets.token_urlsafe(32), fields or {}
    )
    state_hash = fingerprint(state)
    encrypted = rt.vault.encrypt(json.dumps(fresh), column=_COLUMN, seal_id=state_hash)
    return Attempt(state, fresh, state_hash, encrypted)


def decrypt_secrets(rt: Runtime, encrypted: str, state_hash: str) -> RequestSecrets:
    """The secrets of a taken attempt. Raises SecretUnreadable."""
    return RequestSecrets(*json.loads(rt.vault.decrypt(encrypted, column=_COLUMN, seal_id=state_hash)))


# -- the callback -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Ended:
    provider: AnyEntry
    return_to: str | None
    display: Display


@dataclass(frozen=True, slots=True)
class Connected(_Ended):
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
    error: GatewayError
    left_installed: bool
    """The grant could not be revoked: our app may still be installed at the provider."""


class _NotSaved(Exception):
    """The code was redeemed, and its grant was not saved because of `error`; `left_installed`: nor revoked."""

    def __init__(self, error: GatewayError, *, left_installed: bool) -> None:
        self.error, self.left_installed = error, left_installed


def finish_connect(
    rt: Runtime, path: str, slug: str, parameters: Mapping[str, Sequence[str]], *, session: str, browser: str
) -> Connected | Pending | AwaitsPartner | Failed:
    """
    End an attempt, or repeat what the first visit led to. `parameters`: the callback's query, every value of every name.

    Raises StateInvalid; BrowserMismatch or UserMismatch, which leave the attempt to the browser and the user that started it; and
    ProviderBusy, which leaves it to the next load of the same page.
    """
    state, provider = single_parameter(parameters, "state"), rt.catalog.by_slug.get((path, slug))
    if not state or provider is None:
        raise StateInvalid("no state, or a state at no provider's address")
    visitor = {
        "state_hash": fingerprint(state),
        "provider": provider.id,
        "browser_hash": fingerprint(browser),
        "session_hash": fingerprint(session),
    }
    with rt.bulkhead.slot(provider.id):
        return _finish(rt, visitor, parameters)


def _finish(
    rt: Runtime, visitor: Mapping[str, str], parameters: Mapping[str, Sequence[str]]
) -> Connected | Pending | AwaitsPartner | Failed:
    state_hash, until = visitor["state_hash"], Deadline.after(EXCHANGE_SECONDS)
    while isinstance(request := take_authorization(rt.database, **visitor), EarlierVisit):
        # A double click, a prefetch or the back button loads the callback again, in the same browser.
        if request.request is not None:
            kept = decrypt_secrets(rt, request.request.encrypted, state_hash)
            return succeeded(rt, request.request, kept, request.connection)
        if not until.remaining():
            raise StateInvalid("the first visit has not ended")
        time.sleep(_LOOK_SECONDS)
    if request is None:
        raise StateInvalid("an unknown or expired state, one that failed, or one of another provider")
    try:
        kept = decrypt_secrets(rt, request.encrypted, state_hash)
        connection = _redeem(rt, request, parameters, kept, state_hash)
        return succeeded(rt, request, kept, connection)
    except _NotSaved as failed:
        error, left_installed = failed.error, failed.left_installed
    except GatewayError as refused:
        error, left_installed = refused, False
    if not isinstance(error, DatabaseUnavailable):
        with suppress(GatewayError):  # otherwise the attempt ends by itself
            drop_authorization(rt.database, state_hash)
    log.info("connect.failed", provider=request.provider, error=error.slug, reason=str(error), **error.facts())
    return Failed(rt.provider(request.provider), request.return_to, request.display, error, left_installed)


def succeeded(
    rt: Runtime, request: AuthorizationRequest, kept: RequestSecrets, connection: Connection | None
) -> Connected | Pending | AwaitsPartner:
    provider = rt.entry(request.provider)
    ended = (provider, request.return_to, request.display)
    if not request.is_signed_in and request.connect_session_id is not None:
        return AwaitsPartner(*ended, request.connect_session_id, kept.confirmation)
    if connection is None:
        return Pending(*ended)
    return Connected(*ended, connection.id, provider.missing_scope(connection.scope))


def _redeem(
    rt: Runtime,
    request: AuthorizationRequest,
    parameters: Mapping[str, Sequence[str]],
    kept: RequestSecrets,
    state_hash: str,
) -> Connection | None:
    """Redeem the code, and save its grant. After any failure from then on the grant is revoked."""
    deadline = Deadline.after(EXCHANGE_SECONDS)
    entry = rt.provider(request.provider)
    asked = rt.issuers.complete(entry.filled(kept.fields), deadline)
    code = parse_authorization_response(asked, parameters)
    facts = {**kept.fields, **entry.learn("callback", {name: values[0] for name, values in parameters.items()})}
    provider = rt.issuers.complete(entry.filled(facts), deadline)
    answer = send_code(rt, provider, code, kept.code_verifier, deadline)
    account = None
    try:
        grant = parse_token_response(provider, answer.status, answer.body, now=rt.now(), scope=request.scope)
        grant = replace(grant, rest={**grant.rest, **facts})
        account = read_account(rt, provider, grant, nonce=kept.nonce, deadline=deadline)
        confirmation = None if request.is_signed_in else kept.confirmation
        grant = replace(grant, facts={**grant.facts, **facts, **account.facts})
        return save_grant(rt, provider, request, grant, account, state_hash=state_hash, confirmation=confirmation)
    except Exception as error:  # noqa: BLE001 - a grant must not stay valid because of a bug
        found = find_grant(answer.body)
        is_revoked = found is None or revoke_or_queue(
            rt,
            provider,
            replace(found, facts=facts),
            user_id=request.user_id,
            beside=request.has_connection,
            account_id=account.id if account else None,
            deadline=deadline,
        )
        known = error if isinstance(error, GatewayError) else Unexpected(type(error).__name__)
        raise _NotSaved(known, left_installed=not is_revoked) from None


def send_code(rt: Runtime, provider: Provider, code: str, code_verifier: str, deadline: Deadline) -> Response:
    wire = build_code_request(
        provider,
        rt.clients[provider.id],
        code=code,
        redirect_uri=provider.redirect_uri(rt.settings.public_url),
        code_verifier=code_verifier,
    )
    return rt.request_tokens(provider, wire, deadline)


# -- save -------------------------------------------------------------------------------------------------------------


def save_grant(
    rt: Runtime,
    provider: AnyEntry,
    request: AuthorizationRequest,
    grant: Grant,
    account: Account,
    *,
    state_hash: str,
    confirmation: str | None = None,
) -> Connection | None:
    """
    The connection of the user who made `request`; None where the grant is pending, as one with a `confirmation` is until the partner's
    server sends that. Raises Frozen, Unauthenticated for a user who was banned or deleted meanwhile, and DatabaseUnavailable: then nothing is
    saved, now or later.
    """
    seal_id = uuid.uuid4()
    encrypt = partial(rt.vault.encrypt, user_id=request.user_id, provider=provider.id, seal_id=seal_id)
    new = NewGrant(
        seal_id=seal_id,
        user_id=request.user_id,
        provider=provider.id,
        type=provider.type,
        many_accounts=provider.accounts == "many",
        account_id=account.id,
        account_label=account.label,
        scope=grant.scope,
        facts=grant.facts,
        row_names=provider.row_names,
        client_id=client.client_id if (client := rt.clients.get(provider.id)) else None,
        token=encrypt(grant.access_token, column="token"),
        refresh=grant.refresh_token and encrypt(grant.refresh_token, column="refresh"),
        browser_hash=request.browser_hash,
        return_to=request.return_to,
        display=request.display,
        connect_session_id=request.connect_session_id,
        confirmation_hash=confirmation and fingerprint(confirmation),
    )
    return repeat_once(
        lambda: save_connection(
            rt.database,
            new,
            requested_scope=request.scope,
            required_scope=provider.required,
            add_account=request.add_account,
            expires_seconds=rt.seconds_until(grant.expires_at),
            refresh_expires_seconds=rt.seconds_until(grant.refresh_expires_at),
            not_after=answered_by(request.clock),
            state_hash=state_hash,
        )
    )


def repeat_once(call: Callable[[], _T]) -> _T:
    """`call`, and once more if the database went away before it answered: the call may have been carried out."""
    try:
        return call()
    except DatabaseUnavailable:
        return call()
