"""
Requests built: where to send the browser, and what to send to a token or revocation endpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from string import Formatter
from typing import Any
from urllib.parse import quote_plus

from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri, prepare_token_request
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from gateway.catalog import Provider
from gateway.models import Client


@dataclass(frozen=True, slots=True)
class WireRequest:
    """What to send: form-encoded POST unless there is no body."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: str | None = field(default=None, repr=False)


# -- authorization (RFC 6749 section 4.1.1, 7636 section 4.3, OpenID Connect Core section 3.1.2.1) --------------------


def authorization_request(
    provider: Provider, client: Client, *, redirect_uri: str, state: str, code_verifier: str, nonce: str
) -> str:
    """The URL to send the browser to."""
    same = _same_for_all_attempts(
        provider.authorization_endpoint or "",
        client.client_id,
        redirect_uri,
        provider.scope_separator.join(provider.scope),
        tuple(provider.authorization_params.items()),
    )
    # What follows is URL-safe base64 and needs no encoding.
    once = f"&state={state}"
    if provider.pkce == "S256":
        challenge = create_s256_code_challenge(code_verifier)  # type: ignore[no-untyped-call]
        once += f"&code_challenge={challenge}&code_challenge_method=S256"
    return same + once + (f"&nonce={nonce}" if provider.openid else "")


@lru_cache(maxsize=256)
def _same_for_all_attempts(
    endpoint: str, client_id: str, redirect_uri: str, scope: str, params: tuple[tuple[str, str], ...]
) -> str:
    url: str = prepare_grant_uri(
        endpoint, client_id, "code", redirect_uri=redirect_uri, scope=scope or None, **dict(params)
    )
    return url


# -- token and revocation (RFC 6749 sections 4.1.3 and 6, RFC 7009 section 2.1) ----------------------------------------


def code_request(
    provider: Provider, client: Client, *, code: str, redirect_uri: str, code_verifier: str
) -> WireRequest:
    """The token request that redeems `code`. A verifier goes along unless the provider rejects it (RFC 7636 section 4.5)."""
    verifier = {"code_verifier": code_verifier} if provider.pkce == "S256" else {}
    body = prepare_token_request(
        "authorization_code", redirect_uri=redirect_uri, code=code, **verifier, **provider.token_params
    )
    return _authenticated(provider, client, provider.token_endpoint or "", body)


def refresh_request(provider: Provider, client: Client, *, refresh_token: str, facts: Mapping[str, Any]) -> WireRequest:
    """The token request that refreshes (RFC 6749 section 6). `facts`: what is known of the connection, for `refresh_params`."""
    known = {fact: told for fact, told in facts.items() if isinstance(told, str)} if isinstance(facts, Mapping) else {}
    more = {
        name: value.format_map(known)
        for name, value in provider.refresh_params.items()
        if all(part[1] is None or part[1] in known for part in Formatter().parse(value))
    }
    body = prepare_token_request("refresh_token", refresh_token=refresh_token, **more)
    return _authenticated(provider, client, provider.token_endpoint or "", body)


def revocation_request(provider: Provider, client: Client, *, token: str, hint: str) -> WireRequest:
    """RFC 7009 section 2.1. `hint`: `refresh_token` or `access_token`."""
    body = f"token={quote_plus(token)}&token_type_hint={hint}"
    return _authenticated(provider, client, provider.revocation_endpoint or "", body)


def _authenticated(provider: Provider, client: Client, url: str, body: str) -> WireRequest:
    method = provider.token_endpoint_auth_method
    headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
    if method == "private_key_jwt":
        # RFC 7523 section 2.2; the audience is the issuer alone where it is known, so that no other server can replay it.
        signer = PrivateKeyJWT(token_endpoint=provider.issuer or url, headers={"typ": "client-authentication+jwt"})
        auth = ClientAuth(client.client_id, client.client_secret, signer)
    elif method == "client_secret_basic":
        # RFC 6749 section 2.3.1 form-encodes both before they are joined; Authlib leaves that to us.
        auth = ClientAuth(quote_plus(client.client_id), quote_plus(client.client_secret), method)
    else:
        auth = ClientAuth(client.client_id, client.client_secret, method)
    url, headers, body = auth.prepare("POST", url, headers, body)  # type: ignore[no-untyped-call]
    return WireRequest("POST", url, headers, body)
