"""The token request and its response (RFC 6749 sections 4.1.3, 5 and 6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from string import Formatter
from typing import Any

from authlib.oauth2.rfc6749.parameters import prepare_token_request

from gateway.catalog import Provider
from gateway.errors import AccessDenied, ClientRejected, GatewayError, ProviderGarbled, ProviderUnavailable
from gateway.models import Client, Grant
from gateway.protocol.message import (
    HttpRequest,
    authenticated_post,
    error_for,
    is_temporary,
    is_visible_ascii,
    parse_json,
)

_LONGEST_LIFE = 10 * 365 * 86_400
"""Seconds; a longer lifetime is an error."""
_MOST_SCOPES = 500
_LONGEST_FACT = 200
_SECRETS = frozenset({"access_token", "refresh_token", "id_token"})


@dataclass(frozen=True, slots=True)
class TokenResponse:
    """A checked token response: the grant, and the rest of the JSON without its secrets."""

    grant: Grant
    rest: Mapping[str, Any]


def build_code_request(
    provider: Provider, client: Client, *, code: str, redirect_uri: str, code_verifier: str
) -> HttpRequest:
    """The request that redeems `code` (RFC 6749 section 4.1.3), with the verifier (RFC 7636 section 4.5)."""
    verifier = {"code_verifier": code_verifier} if provider.pkce == "S256" else {}
    body = prepare_token_request(
        "authorization_code", redirect_uri=redirect_uri, code=code, **verifier, **provider.token_params
    )
    return authenticated_post(provider, client, provider.token_endpoint or "", body)


def build_refresh_request(
    provider: Provider, client: Client, *, refresh_token: str, facts: Mapping[str, Any]
) -> HttpRequest:
    """The request that refreshes (RFC 6749 section 6). `facts`: of the connection, for the provider's `refresh_params`."""
    known = {name: fact for name, fact in facts.items() if isinstance(fact, str)} if isinstance(facts, Mapping) else {}
    params = {
        name: value.format_map(known)
        for name, value in provider.refresh_params.items()
        if all(part[1] is None or part[1] in known for part in Formatter().parse(value))
    }
    body = prepare_token_request("refresh_token", refresh_token=refresh_token, **params)
    return authenticated_post(provider, client, provider.token_endpoint or "", body)


def parse_token_response(
    provider: Provider,
    status: int,
    body: bytes,
    *,
    now: datetime,
    scope: tuple[str, ...],
    refused: type[GatewayError] = AccessDenied,
) -> TokenResponse:
    """
    Parse a token response (RFC 6749 section 5.1) or raise the error in it (section 5.2).

    `scope`: the requested scope, granted as it is when the response leaves it out (section 3.3). `refused`: what a refused
    grant means to the caller. Some providers answer 200 with an error in the body, so the error is read before the status.
    """
    response = _parse_body(provider, status, body)
    error = response.get("error")
    if error is not None or status >= 400:  # noqa: PLR2004 - RFC 9110 section 15.5
        by_status = "invalid_client" if status in (401, 403) else "unknown"
        raise error_for(error if isinstance(error, str) else by_status, refused=refused)
    access_token = _token(response, "access_token")
    if access_token is None:
        raise ProviderGarbled("the token response holds no access_token")
    token_type = response.get("token_type", "Bearer")
    if not isinstance(token_type, str) or token_type.lower() != "bearer":
        raise ProviderGarbled("the token response is of another type than Bearer")
    grant = Grant(
        access_token=access_token,
        refresh_token=_token(response, "refresh_token"),
        token_type="Bearer",  # noqa: S106 - RFC 6750
        scope=_granted_scope(provider, response.get("scope"), scope),
        expires_at=_expiry(now, response, "expires_in"),
        refresh_expires_at=_refresh_expiry(provider, now, response),
        id_token=_token(response, "id_token"),
        facts={name: fact for name in provider.facts if (fact := _fact(response.get(name))) is not None},
    )
    return TokenResponse(grant, {name: value for name, value in response.items() if name not in _SECRETS})


def find_grant(provider: Provider, body: bytes) -> Grant | None:
    """The tokens in a rejected response: they are valid and must be revoked."""
    try:
        response = _reshaped(provider, parse_json(body))
    except ProviderGarbled:
        return None
    access_token, refresh_token = (
        token if isinstance(token := response.get(name), str) and is_visible_ascii(token) else None
        for name in ("access_token", "refresh_token")
    )
    if not access_token and not refresh_token:
        return None
    return Grant(access_token or "", refresh_token or None, "Bearer", (), None)


def _parse_body(provider: Provider, status: int, body: bytes) -> Mapping[str, Any]:
    if 300 <= status < 400:  # noqa: PLR2004 - RFC 9110 section 15.4: following would send the secrets to another host
        raise ProviderGarbled(f"the token endpoint answers with redirect {status}")
    if is_temporary(status):
        raise ProviderUnavailable(f"the token endpoint answers {status}")
    try:
        response = parse_json(body)
    except ProviderGarbled:
        if status == 401:  # noqa: PLR2004 - RFC 6749 section 5.2: client authentication failed
            raise ClientRejected("the token endpoint answers 401") from None
        raise
    return _reshaped(provider, response)


def _reshaped(provider: Provider, response: Mapping[str, Any]) -> Mapping[str, Any]:
    for deviation in provider.deviations:
        response = deviation.token_response(response)
    return response


def _token(response: Mapping[str, Any], name: str) -> str | None:
    """Visible ASCII (RFC 6749 appendix A.12 and A.17)."""
    value = response.get(name)
    if value is None or (value == "" and name != "access_token"):
        return None
    if not isinstance(value, str) or not value or not is_visible_ascii(value):
        raise ProviderGarbled(f"{name} is not a token")
    return value


def _fact(value: Any) -> str | None:
    """A fact as text for a row and a page; JSON's `true` stays `true`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value) if isinstance(value, str | int) else ""
    return text if 0 < len(text) <= _LONGEST_FACT and text.isprintable() else None


def _granted_scope(provider: Provider, given: Any, requested: tuple[str, ...]) -> tuple[str, ...]:
    if given is None or given == "":
        return requested
    if isinstance(given, list) and all(isinstance(item, str) for item in given):
        given = " ".join(given)
    if not isinstance(given, str) or not given.isprintable():
        raise ProviderGarbled("scope is not a list of words")
    words = given.replace(provider.scope_separator, " ").split(None, 4 * _MOST_SCOPES)
    return tuple(dict.fromkeys(words[: 4 * _MOST_SCOPES]))[:_MOST_SCOPES]


def _expiry(now: datetime, response: Mapping[str, Any], name: str) -> datetime | None:
    """`now` plus a number of seconds (RFC 6749 section 4.2.2); None when the response leaves it out."""
    if name not in response:
        return None
    seconds = response[name]
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise ProviderGarbled(f"{name} is not a number")
    if not 0 < seconds <= _LONGEST_LIFE:  # false for NaN and infinity too
        raise ProviderGarbled(f"{name} is out of bounds")
    return (now + timedelta(seconds=int(seconds))).astimezone(UTC)


def _refresh_expiry(provider: Provider, now: datetime, response: Mapping[str, Any]) -> datetime | None:
    if not response.get("refresh_token"):
        return None
    if response.get("refresh_token_expires_in") is not None:
        return _expiry(now, response, "refresh_token_expires_in")
    seconds = provider.refresh_token_seconds
    return now + timedelta(seconds=seconds) if seconds else None
