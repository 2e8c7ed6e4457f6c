"""Tokens signed by an issuer: id_tokens (OpenID Connect Core section 3.1.3.7) and other JWTs (RFC 7519, RFC 8725)."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

from joserfc import jws, jwt
from joserfc.errors import JoseError

from gateway.catalog import Provider
from gateway.errors import ProviderGarbled
from gateway.models import Client
from gateway.protocol.jwks import PublishedKeys
from gateway.protocol.message import parse_json

CLOCK_SKEW_SECONDS = 60
_LONGEST_TOKEN = 16_384


def key_id_of(token: str) -> str | None:
    """The `kid` in a token's header, unverified; None when there is none, or none that could be a name."""
    key_id = _header(token).get("kid")
    return key_id if isinstance(key_id, str) and len(key_id) <= 200 else None  # noqa: PLR2004


def algorithm_of(token: str) -> object:
    """The `alg` in a token's header, unverified."""
    return _header(token).get("alg")


def _header(token: str) -> Mapping[str, Any]:
    if len(token) > _LONGEST_TOKEN:
        return {}
    try:
        return jws.extract_compact(token.encode()).headers()
    except (JoseError, ValueError, UnicodeError):
        return {}


def unverified_claims(token: str) -> Mapping[str, Any]:
    """The claims of a compact JWT without a check, {} for anything else. Only for a token that came from its issuer directly."""
    try:
        return parse_json(jws.extract_compact(token.encode()).payload)
    except (JoseError, ProviderGarbled, ValueError):
        return {}


def signed_claims(token: str, keys: Any, algorithms: tuple[str, ...]) -> Mapping[str, Any] | None:
    """
    The claims of a compact JWT whose signature one of `keys` verifies with one of `algorithms`, else None.

    RFC 8725 sections 3.1 and 3.2: the caller chooses the algorithms; joserfc checks that they fit the key's type.
    """
    if len(token) > _LONGEST_TOKEN:
        return None
    try:
        decoded = jwt.decode(token, keys, algorithms=list(algorithms))
    except (JoseError, ValueError, TypeError, UnicodeError, RecursionError, KeyError):
        return None
    return decoded.claims if isinstance(decoded.claims, dict) else None


def parse_id_token(
    provider: Provider,
    client: Client,
    id_token: str,
    *,
    nonce: str,
    now: float,
    fetch_keys: Callable[[str | None], PublishedKeys],
) -> Mapping[str, Any]:
    """
    The claims of an id_token (OpenID Connect Core section 3.1.3.7). Raises ProviderGarbled when a check fails.

    `now`: Unix seconds. `fetch_keys`: the issuer's keys,
    with the key of that id among them where it exists.
    """
    key_id = key_id_of(id_token)
    claims = signed_claims(id_token, fetch_keys(key_id).of(key_id), provider.id_token_signing_alg_values)
    if claims is None:
        raise ProviderGarbled("the id_token's signature does not hold")
    problem = _claims_problem(provider, client, claims, nonce=nonce, now=now)
    if problem:
        raise ProviderGarbled(f"the id_token is refused: {problem}")
    return claims


def _claims_problem(  # noqa: PLR0911 - one line a rule, in the order of the specification
    provider: Provider, client: Client, claims: Mapping[str, Any], *, nonce: str, now: float
) -> str | None:
    """The name of the first claim that is wrong, or None."""
    issuer = provider.issuer
    if provider.issuer_pattern:
        issuer = provider.issuer_pattern.replace("{tenantid}", str(claims.get("tid")))
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    expires, issued = claims.get("exp"), claims.get("iat")
    given_nonce = claims.get("nonce")
    if issuer is not None and claims.get("iss") != issuer:
        return "iss"
    if client.client_id not in audiences:
        return "aud"
    if (len(audiences) > 1 or "azp" in claims) and claims.get("azp") != client.client_id:
        return "azp"
    if not is_time(expires) or expires <= now - CLOCK_SKEW_SECONDS:
        return "exp"
    if not is_time(issued) or issued > now + 10 * CLOCK_SKEW_SECONDS:
        return "iat"
    if not isinstance(given_nonce, str) or not hmac.compare_digest(
        given_nonce.encode("utf-8", "replace"), nonce.encode()
    ):
        return "nonce"
    if not isinstance(claims.get("sub"), str) or not claims["sub"]:
        return "sub"
    return None


def is_time(value: Any) -> TypeGuard[float]:
    """Whether a claim is a NumericDate (RFC 7519 section 2)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53  # false for NaN too
