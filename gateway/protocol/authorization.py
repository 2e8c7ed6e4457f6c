"""The authorization request and its response (RFC 6749 section 4.1, RFC 7636, RFC 9207)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from urllib.parse import urlsplit

from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from gateway.catalog import Provider
from gateway.errors import IssuerMismatch, ProviderGarbled, StateInvalid
from gateway.models import Client
from gateway.protocol.message import error_for_cancel, is_visible_ascii

_LONGEST_CODE = 4096
_BESIDE_ERROR = ("error_reason", "error_subcode", "reason", "response")
_NO_CODE = frozenset({"denied", "cancelled", "canceled", "cancel"})
"""Parameters in place of a code and an error."""


def build_authorization_request(
    provider: Provider, client: Client, *, redirect_uri: str, state: str, code_verifier: str, nonce: str
) -> str:
    """The URL to send the browser to (RFC 6749 section 4.1.1, RFC 7636 section 4.3, OpenID Connect Core section 3.1.2.1)."""
    url = _constant_part(
        provider.authorization_endpoint or "",
        client.client_id,
        redirect_uri,
        provider.scope_separator.join(provider.scope),
        provider.response_type,
        tuple(provider.authorization_params.items()),
    )
    # The rest is URL-safe base64 and needs no encoding.
    url += f"&state={state}"
    if provider.pkce == "S256":
        challenge = create_s256_code_challenge(code_verifier)  # type: ignore[no-untyped-call]
        url += f"&code_challenge={challenge}&code_challenge_method=S256"
    return url + (f"&nonce={nonce}" if provider.openid else "")


@lru_cache(maxsize=256)
def _constant_part(
    endpoint: str,
    client_id: str,
    redirect_uri: str,
    scope: str,
    response_type: str,
    params: tuple[tuple[str, str], ...],
) -> str:
    url: str = prepare_grant_uri(
        endpoint, client_id, response_type, redirect_uri=redirect_uri, scope=scope or None, **dict(params)
    )
    return url


def single_parameter(parameters: Mapping[str, Sequence[str]], name: str) -> str | None:
    """The value of a parameter that may occur once at most (RFC 6749 section 3.1); StateInvalid when repeated."""
    values = parameters.get(name, ())
    if len(values) > 1:
        raise StateInvalid(f"{name} is repeated")
    return values[0] if values else None


def parse_authorization_response(provider: Provider, parameters: Mapping[str, Sequence[str]]) -> str:
    """
    The code in the callback's query (RFC 6749 section 4.1.2), or raise the error in it (section 4.1.2.1).

    The issuer is checked first (RFC 9207 section 2.4): of another issuer not even an error is believed. An error may come without an
    issuer, since it leads to no token request. Call it only after the state was taken.
    """
    error, code = single_parameter(parameters, "error"), single_parameter(parameters, "code")
    _check_issuer(provider, parameters.get("iss", ()), is_required=bool(code) and error is None)
    if error is not None or not code:
        beside = [value for name in _BESIDE_ERROR for value in parameters.get(name, ())]
        raise error_for_cancel(provider, [error or "", *beside, *(_NO_CODE & set(parameters))])
    if len(code) > _LONGEST_CODE or not is_visible_ascii(code):
        raise ProviderGarbled("the authorization response holds no usable code")
    return code


def _check_issuer(provider: Provider, given: Sequence[str], *, is_required: bool) -> None:
    if len(given) > 1:
        raise IssuerMismatch("iss is repeated")
    if not given:
        if is_required and provider.authorization_response_iss_parameter_supported:
            raise IssuerMismatch("iss is missing, and the metadata promises it")
        return
    if provider.issuer is None or provider.issuer_pattern is not None:
        # There is no single issuer to compare with: the host must be one that we would call.
        ours = {urlsplit(url or "").netloc for url in (provider.authorization_endpoint, provider.token_endpoint)}
        try:
            theirs = urlsplit(given[0]).netloc
        except ValueError:
            theirs = ""
        if not theirs or theirs not in ours:
            raise IssuerMismatch("iss names a host that is not the provider's")
    elif given[0] != provider.issuer:
        raise IssuerMismatch("iss differs from the provider's issuer")
