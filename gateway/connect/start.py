"""Start an attempt to connect: the state, the verifier and the nonce of one authorization request (RFC 6749 section 4.1.1)."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway import protocol
from gateway.catalog import AnyEntry, Provider
from gateway.connect.form import read_form
from gateway.crypto.vault import fingerprint
from gateway.database.queries import authorization
from gateway.errors import Unauthenticated
from gateway.models import Display
from gateway.services import Runtime

_COLUMN = "authorization_request"


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
    return authorization_url(rt, provider, attempt, begin(provider, attempt))


def by_user(
    rt: Runtime, *, session: str, browser: str, return_to: str | None, display: Display, add_account: bool
) -> Begin:
    """
    Attempts of the signed-in user. The scope is the catalogue's, and the scopes of partners that use the user's connections there.

    `browser`: the secret in the cookie that binds the attempt to this browser. `add_account`: the user wants one more account, where the
    catalogue allows many. Raises Unauthenticated and Frozen.
    """

    def begin(provider: AnyEntry, attempt: Attempt) -> tuple[str, ...]:
        scope = authorization.start_authorization(
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
        if scope is None:
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


def authorization_url(rt: Runtime, provider: Provider, attempt: Attempt, scope: tuple[str, ...]) -> str:
    """Where to send the browser, asking for `scope`."""
    if scope != provider.scope:
        provider = provider.model_copy(update={"scope": scope})
    return protocol.build_authorization_request(
        provider,
        rt.clients[provider.id],
        redirect_uri=rt.redirect_uri(provider),
        state=attempt.state,
        code_verifier=attempt.secrets.code_verifier,
        nonce=attempt.secrets.nonce,
    )
