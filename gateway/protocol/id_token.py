"""
Tokens that an issuer signs: what they say, and whether it is to be believed.

Values in, values out; keys come from whoever has them.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any, TypeGuard

from joserfc import jws, jwt
from joserfc.errors import JoseError

from gateway.catalog import Provider
from gateway.errors import ProviderGarbled
from gateway.models import Client
from gateway.protocol import read_json

CLOCK_SKEW_SECONDS = 60
_LONGEST_TOKEN = 16_384


def key_id_of(token: str) -> str | None:
    """The `kid` in a token's header, unverified; None when there is none or it is not to be believed."""
    if len(token) > _LONGEST_TOKEN:
        return None
    try:
        header = jws.extract_compact(token.encode()).headers()
    except (JoseError, ValueError, UnicodeError):
        return None
    key_id = header.get("kid")
    return key_id if isinstance(key_id, str) and len(key_id) <= 200 else None  # noqa: PLR2004


def unverified_claims(token: str) -> Mapping[str, Any]:
    """The claims of a compact JWT as they stand there; none where it is none. Only for one that its issuer handed over itself."""
    try:
        return read_json(jws.extract_compact(token.encode()).payload)
    except (JoseError, ProviderGarbled, ValueError):
        return {}


def signed_claims(token: str, keys: Any, algorithms: tuple[str, ...]) -> Mapping[str, Any] | None:
    """
    The claims of a compact JWT (RFC 7519) whose signature one of `keys` verifies with one of `algorithms`, else None.

    RFC 8725 sections 3.1 and 3.2: the algorithms are ours to say; joserfc holds them to the key's type.
    """
    if len(token) > _LONGEST_TOKEN:
        return None
    try:
        decoded = jwt.decode(token, keys, algorithms=list(algorithms))
    except (JoseError, ValueError, TypeError, UnicodeError, RecursionError, KeyError):
        return None
    return decoded.claims if isinstance(decoded.claims, dict) else None


def claims_problem(  # noqa: PLR0911 - one line a rule, in the order of the specification
    provider: Provider, client: Client, claims: Mapping[str, Any], *, nonce: str | None, now: float
) -> str | None:
    """What is wrong with an id_token's claims: the name of the claim, or None."""
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
    if nonce is not None and (
        not isinstance(given_nonce, str)
        or not hmac.compare_digest(given_nonce.encode("utf-8", "replace"), nonce.encode())
    ):
        return "nonce"
    if not isinstance(claims.get("sub"), str) or not claims["sub"]:
        return "sub"
    return None


def is_time(value: Any) -> TypeGuard[float]:
    """Whether a claim is a NumericDate (RFC 7519 section 2)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53  # false for NaN too
