"""The requests of OAuth 2.0 and their responses: authorization (RFC 6749 section 4.1), tokens (sections 4.1.3, 5 and 6), revocation (RFC 7009)."""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, quote_plus, unquote_plus, urlsplit

from authlib.oauth2.rfc6749.parameters import prepare_grant_uri, prepare_token_request
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from gateway.catalog import Provider, fill
from gateway.errors import (
    AccessDenied,
    ClientRejected,
    GatewayError,
    IssuerMismatch,
    ProviderGarbled,
    ProviderUnavailable,
    StateInvalid,
)
from gateway.models import Client, Grant
from gateway.protocol.message import (
    HttpRequest,
    authenticated_post,
    decode_text,
    error_for,
    error_for_cancel,
    error_for_unreadable,
    error_names,
    is_dead_grant,
    is_temporary,
    is_visible_ascii,
    parse_json,
    parse_json_value,
    plain,
    unambiguous,
    with_facts,
)

# -- authorization (RFC 6749 section 4.1, RFC 7636, RFC 9207) --------------------------------------------------------


_LONGEST_CODE = 4096
_BESIDE_ERROR = ("error_reason", "error_subcode", "reason", "response")
_NO_CODE = frozenset({"denied", "cancelled", "canceled", "cancel"})
"""Parameters in place of a code and an error."""


def build_authorization_request(
    provider: Provider, client: Client, *, redirect_uri: str, state: str, code_verifier: str, nonce: str
) -> str:
    """The URL to send the browser to (RFC 6749 section 4.1.1, RFC 7636 section 4.3, OpenID Connect Core section 3.1.2.1)."""
    params = {"redirect_uri": redirect_uri, "state": state, **provider.authorization_params}
    if provider.pkce == "S256":
        challenge = create_s256_code_challenge(code_verifier)  # type: ignore[no-untyped-call]
        params |= {"code_challenge": challenge, "code_challenge_method": "S256"}
    if provider.openid:
        params["nonce"] = nonce
    scope = provider.scope_separator.join(provider.scope) or None
    url: str = prepare_grant_uri(
        provider.authorization_endpoint or "", client.client_id, provider.response_type, scope=scope, **params
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


# -- tokens (RFC 6749 sections 4.1.3, 5 and 6) -----------------------------------------------------------------------

_LONGEST_LIFE, _MILLISECONDS = 10 * 365 * 86_400, 100_000_000_000
"""Seconds; a longer lifetime has no end. A larger Unix time is in milliseconds."""
_MOST_SCOPES, _LONGEST_SCOPE = 500, 300
_MOST_ITEMS, _LONGEST_FACT = 10_000, 200
_LARGEST_NUMBER = 2**53
_SECRETS = frozenset({"access_token", "refresh_token", "id_token"})
_NAMES = {
    "accesstoken": "access_token",
    "tokentype": "token_type",
    "expiresin": "expires_in",
    "refreshtoken": "refresh_token",
    "idtoken": "id_token",
    "scope": "scope",
    "scopes": "scope",
    "refreshtokenexpiresin": "refresh_token_expires_in",
    "refreshexpiresin": "refresh_token_expires_in",  # Keycloak
    "xrefreshtokenexpiresin": "refresh_token_expires_in",  # Intuit
    "expires": "expires_at",
    "expiresat": "expires_at",
    "expireson": "expires_at",
}
"""The standard names, by how providers write them, without hyphens, underscores and case."""
_ENVELOPES = ("data", "result", "response")
"""Where an error may be, too; tokens may be below any one name."""
_NO_TOKEN = frozenset({"null", "none", "nil", "undefined", "false"})
_PROOF_TYPES = frozenset({"mac", "dpop", "pop", "hawk", "hok", "n_a", "basic"})
"""Types of tokens that are not sent as Bearer (RFC 6749 section 7.1, RFC 9449, RFC 8693)."""
_JSON_TOKEN = re.compile(r'"((?:access|refresh)[_-]?token)"\s*:\s*("(?:[^"\\]|\\.)*")', re.IGNORECASE)
_OTHER_TOKEN = re.compile(r"\b((?:access|refresh)[_-]?token)\s*[=:>]\s*([^\s&<]+)", re.IGNORECASE)
"""In a form, XML or YAML."""


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
    params = {name: text for name, value in provider.refresh_params.items() if (text := fill(value, facts)) is not None}
    body = prepare_token_request("refresh_token", refresh_token=refresh_token, **params)
    url, method = provider.token_endpoint or "", provider.refresh_auth_method
    return authenticated_post(provider, client, url, body, method=method)


def parse_token_response(
    provider: Provider,
    status: int,
    body: bytes,
    *,
    now: datetime,
    scope: tuple[str, ...],
    refused: type[GatewayError] = AccessDenied,
) -> Grant:
    """
    Parse a token response (RFC 6749 section 5.1) or raise the error in it (section 5.2).

    `scope`: the requested scope, granted as it is when the response leaves it out (section 3.3). `refused`: what a refused
    grant means to the caller. Some providers answer 200 with an error in the body, so the error is read before the status.
    What is not needed may have any form: a lifetime that is no number is unknown.
    """
    response = _parse_body(provider, status, body)
    if status >= 400 or any(error_names({"error": response.get("error")})) or "access_token" not in response:  # noqa: PLR2004 - RFC 9110 section 15.5
        # Tokens that were issued are no refusal, whatever is beside them. A refresh token alone may be the request's, repeated in its error.
        if (status < 300 or "access_token" in response) and find_grant(body):  # noqa: PLR2004
            raise with_facts(
                ProviderGarbled("the response holds tokens beside an error"), status, error_names(response)
            )
        raise error_for(provider, status, error_names(response), refused=refused)
    access_token = _token(response, "access_token")
    if access_token is None:
        raise ProviderGarbled("the token response holds no access_token")
    if str(response.get("token_type")).strip().lower() in _PROOF_TYPES:
        raise ProviderGarbled("the token response is of another type than Bearer")
    refresh_token, id_token = _token(response, "refresh_token"), response.get("id_token")
    usual = None if "expires_in" in response else _end(now, provider.access_token_seconds)
    return Grant(
        access_token=access_token,
        refresh_token=refresh_token,
        scope=_granted_scope(provider, response.get("scope"), scope),
        expires_at=_end(now, response.get("expires_in", response.get("expires_at"))) or usual,
        refresh_expires_at=_end(now, response.get("refresh_token_expires_in"))
        or _end(now, provider.refresh_token_seconds)
        if refresh_token
        else None,
        id_token=id_token.strip() or None if isinstance(id_token, str) else None,
        facts={name: fact for name in provider.facts if (fact := parse_fact(response.get(name))) is not None},
        rest={name: value for name, value in response.items() if name not in _SECRETS},
    )


def find_grant(body: bytes) -> Grant | None:
    """The tokens in a rejected response, however little of it can be read: they are valid and must be revoked."""
    text, found = decode_text(body).lstrip("\ufeff \r\n\t"), dict[str, str]()
    if not text.startswith(("{", "[")):
        found = {plain(name): unquote_plus(value) for name, value in _OTHER_TOKEN.findall(text)}
    if "accesstoken" not in found:  # a sentence about a refresh token, or the request's, repeated in its error
        found.clear()
    in_text = re.sub(r'\\(["/\\])', r"\1", text)  # JSON in a JSON text
    for name, value in _JSON_TOKEN.findall(text) or _JSON_TOKEN.findall(in_text):
        with suppress(ValueError):  # an escape that JSON does not have
            found[plain(name)] = json.loads(value, strict=False)
    access, refresh = (
        token if is_visible_ascii(token := found.get(name, "").strip()) else ""
        for name in ("accesstoken", "refreshtoken")
    )
    return Grant(access, refresh or None) if access or refresh else None


def _parse_body(provider: Provider, status: int, body: bytes) -> Mapping[str, Any]:
    """The response with the standard names, from JSON or a form; of an envelope, what is in it."""
    if 300 <= status < 400:  # noqa: PLR2004 - RFC 9110 section 15.4: following would send the secrets to another host
        raise ProviderGarbled(f"the token endpoint answers with redirect {status}", provider_status=status)
    if is_temporary(status):
        raise ProviderUnavailable(f"the token endpoint answers {status}", provider_status=status)
    try:
        found = parse_json_value(body)
    except ProviderGarbled:
        found = _form(body)
    if isinstance(found, list):
        found = {"errors": found}
    is_text = not isinstance(found, dict) and not body.lstrip().startswith(b"<")
    if is_text and is_dead_grant(provider, words := decode_text(body[:200])):
        found = {"error": words}
    if not isinstance(found, dict):
        raise error_for_unreadable(status, body)
    return _opened(found)


def _opened(response: Mapping[str, Any], depth: int = 3) -> dict[str, Any]:
    """The response, and what is in its envelope: the one object below it that holds tokens, or an error."""
    opened = _standard_names(response)
    below = {name: _opened(each, depth - 1) for name, each in response.items() if isinstance(each, dict) and depth}
    holders = [each for each in below.values() if "access_token" in each]
    if "access_token" in opened or len(holders) > 1:
        return opened
    holders = holders or [below[name] for name in _ENVELOPES if name in below]
    return {**holders[0], **opened} if holders else opened


def _standard_names(response: Mapping[str, Any]) -> dict[str, Any]:
    named = [(_NAMES.get(plain(name), name), value) for name, value in response.items()]
    return unambiguous([each for each in named if each[1] is not None])


def _form(body: bytes) -> dict[str, Any] | None:
    """GitHub and Facebook used to answer with a form."""
    with suppress(ValueError):
        form = unambiguous(parse_qsl(decode_text(body).strip(" \r\n?&"), strict_parsing=True, max_num_fields=100))
        return form if {"access_token", "error"} & set(_standard_names(form)) else None
    return None


def _token(response: Mapping[str, Any], name: str) -> str | None:
    """Visible ASCII (RFC 6749 appendix A.12 and A.17), without white space around it; None for an empty value."""
    value = response.get(name)
    text = value.strip() if isinstance(value, str) else value
    if not text or str(text).lower() in _NO_TOKEN:
        return None
    if not isinstance(text, str) or not is_visible_ascii(text):
        raise ProviderGarbled(f"{name} is not a token")
    return text


def parse_fact(value: Any) -> Any:
    """A fact as a row and a page can hold it: text, a number, true or false, or a list of these; None for anything else."""
    if isinstance(value, list):
        return [
            fact
            for item in value[:_MOST_ITEMS]
            if not isinstance(item, list) and (fact := parse_fact(item)) is not None
        ]
    if isinstance(value, bool) or (isinstance(value, int) and abs(value) < _LARGEST_NUMBER):
        return value
    return value if isinstance(value, str) and 0 < len(value) <= _LONGEST_FACT and value.isprintable() else None


def _granted_scope(provider: Provider, given: Any, requested: tuple[str, ...]) -> tuple[str, ...]:
    """The words in `given`, text or a list of texts; the requested scope where there are none (RFC 6749 section 3.3)."""
    text = " ".join(item for item in given if isinstance(item, str)) if isinstance(given, list) else given
    if not isinstance(text, str):
        return requested
    for mark in ',;|+"[]{}':
        text = text if any(mark in name for name in requested) else text.replace(mark, " ")
    words = text.replace(provider.scope_separator, " ").split(None, 4 * _MOST_SCOPES)[: 4 * _MOST_SCOPES]
    spelling = {name.lower(): name for name in requested}
    readable = (
        spelling.get(word.lower(), word) for word in words if word.isprintable() and len(word) <= _LONGEST_SCOPE
    )
    return tuple(dict.fromkeys(readable))[:_MOST_SCOPES] or requested


def _end(now: datetime, value: Any) -> datetime | None:
    """The end of a lifetime in seconds, or a time; None where it is unknown: missing, zero, negative, past, endless, or no time at all."""
    at = parse_time(value)
    for seconds in (at.timestamp(), (at - now).total_seconds()) if at else ():
        if 1 <= seconds <= _LONGEST_LIFE:
            return (now + timedelta(seconds=int(seconds))).astimezone(UTC)
    return None


def parse_time(value: object) -> datetime | None:
    """A time in UTC: ISO 8601, or Unix time in seconds or milliseconds. None for anything else."""
    with suppress(ValueError, OverflowError, OSError):
        number = float(str(value))
        return datetime.fromtimestamp(number / 1000 if number > _MILLISECONDS else number, UTC)
    with suppress(ValueError, OverflowError):
        at = datetime.fromisoformat(str(value).strip())
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    return None


# -- revocation -------------------------------------------------------------------------------------------------------


def build_revocation_request(provider: Provider, client: Client, *, token: str, hint: str) -> HttpRequest:
    """RFC 7009 section 2.1. `hint`: `refresh_token` or `access_token`."""
    url, method = provider.revocation_endpoint or "", provider.revocation_endpoint_auth_method
    if method == "bearer":
        return HttpRequest("POST", url, {"Accept": "application/json", "Authorization": f"Bearer {token}"})
    body = f"{provider.revocation_parameter}={quote_plus(token)}&token_type_hint={hint}"
    return authenticated_post(provider, client, url, body, method=method)


def parse_revocation_response(provider: Provider, status: int, body: bytes) -> None:
    """
    Return when the token is no longer valid (RFC 7009 section 2.2); raise ProviderUnavailable or ClientRejected when it may be.

    A token that the server does not know is revoked.
    """
    response: Mapping[str, Any] = {}
    with suppress(ProviderGarbled):
        response = parse_json(body)
    if status < 300 and not any(error_names({"error": response.get("error")})):  # noqa: PLR2004 - some answer 200 and refuse
        return
    names = error_names(response)
    if status in (200, 400, 401, 403, 404, 410) and any(is_dead_grant(provider, name) for name in names):
        return
    if status in (200, 400, 401, 403):
        raise ClientRejected(f"the revocation endpoint answers {status}")
    raise ProviderUnavailable(f"the revocation endpoint answers {status}")
