"""Tokens signed by an issuer, id_tokens (OpenID Connect Core section 3.1.3.7) and other JWTs (RFC 7519, RFC 8725), and its keys (RFC 7517)."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any, TypeGuard

from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, KeySetSerialization

from gateway.catalog import Provider
from gateway.errors import ProviderGarbled
from gateway.models import Client
from gateway.protocol.message import parse_json

CLOCK_SKEW_SECONDS = 60
_ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA")
_LONGEST_TOKEN = 16_384
_PUBLIC = ("kty", "kid", "use", "alg", "key_ops", "crv", "n", "e", "x", "y")
"""The members that verification needs (RFC 7518 section 6). Others, such as certificates, are not read."""
_LONGEST_MEMBER = 2_732
"""Base64 characters of 16,384 bits, the largest RSA key that OpenSSL verifies with."""
_MOST_KEYS = 32
"""Real sets have two to a dozen keys; importing one takes CPU."""
_MOST_NAMELESS = 8
"""Keys that are tried for a token without a key id."""


class PublishedKeys:
    """
    Asymmetric signing keys; symmetric and unknown ones are left out. False when none is usable.

    Raises ProviderGarbled when the document is not a JWK set.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        entries = document.get("keys")
        if not isinstance(entries, list):
            raise ProviderGarbled("the key set holds no keys")
        public = [{name: entry[name] for name in _PUBLIC if name in entry} for entry in entries if _is_sound(entry)]
        self._keys = [(entry.get("kid"), key) for entry in public[:_MOST_KEYS] for key in _imported(entry).keys]

    def __len__(self) -> int:
        return len(self._keys)

    def of(self, key_id: str | None) -> KeySet:
        """
        The keys of that name, else those without a name, which are known by their thumbprint. For a token without a key id, all
        keys of a small set: joserfc verifies when only one fits (OpenID Connect Core section 10.1).
        """
        if key_id is None:
            return KeySet([key for _, key in self._keys] if len(self._keys) <= _MOST_NAMELESS else [])
        named = [key for name, key in self._keys if name == key_id]
        return KeySet(named or [key for name, key in self._keys if name is None])

    def knows(self, key_id: str) -> bool:
        """Whether a key has that name, its own or its thumbprint (RFC 7638)."""
        return any(key.kid == key_id for key in self.of(key_id))


def _imported(entry: Mapping[str, Any]) -> KeySet:
    try:
        return KeySet.import_key_set(KeySetSerialization(keys=[dict(entry)]))
    except (JoseError, ValueError, TypeError, KeyError):
        return KeySet([])


def _is_sound(entry: Any) -> bool:
    """RFC 7518 section 3.3: an RSA modulus has 2048 bits or more, which is 342 characters of base64."""
    if not isinstance(entry, dict) or entry.get("kty") not in ("RSA", "EC", "OKP") or entry.get("use", "sig") != "sig":
        return False
    lengths = [len(str(entry.get(name, ""))) for name in _PUBLIC]
    return max(lengths) <= _LONGEST_MEMBER and (entry["kty"] != "RSA" or len(str(entry.get("n"))) >= 342)  # noqa: PLR2004


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
    provider: Provider, client: Client, id_token: str, keys: KeySet, *, nonce: str, now: float
) -> Mapping[str, Any]:
    """
    The claims of an id_token (OpenID Connect Core section 3.1.3.7). Raises ProviderGarbled when a check fails. `now`: Unix seconds.
    """
    claims = signed_claims(id_token, keys, _ALGORITHMS)
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
