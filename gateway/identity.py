"""
Supabase access tokens: who is signed in to the product, and until when.

Only tokens of one project are accepted: its issuer, signed with its keys.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from joserfc.jwk import OctKey

from gateway.errors import Unauthenticated
from gateway.models import User
from gateway.protocol.discovery import Issuers
from gateway.protocol.id_token import CLOCK_SKEW_SECONDS, is_time, key_id_of, signed_claims
from gateway.settings import Settings

SESSION_BEYOND_TOKEN = timedelta(hours=12)
"""How much longer a session may last than the access token that started it."""
_LONGEST_LIFE_SECONDS = 30 * 86_400
_JWKS_ALGORITHMS = ("ES256", "RS256")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@dataclass(frozen=True, slots=True)
class Proof:
    """The user of a verified access token, and its expiry."""

    user: User
    expires_at: datetime


class Identity:
    """Verifies Supabase access tokens."""

    def __init__(self, settings: Settings, issuers: Issuers) -> None:
        self._issuers = issuers
        self._issuer = f"{settings.supabase_url}/auth/v1" if settings.supabase_url else None
        secret = settings.supabase_jwt_secret
        self._shared_key = OctKey.import_key(secret.get_secret_value()) if secret else None

    def read_access_token(self, token: str, *, now: datetime) -> Proof:
        """
        The user of a Supabase access token (RFC 8725; iss, aud, sub, exp and role are required).

        Raises Unauthenticated for every fault, ProviderUnavailable when the project's keys cannot be had.
        """
        if self._issuer is None:
            raise Unauthenticated("SUPABASE_URL is not set, so no access token is believed")
        claims = self._verified_claims(token)
        if claims is None:
            raise Unauthenticated("the access token's signature does not hold")
        proof = _proof(claims, self._issuer, now.timestamp())
        if proof is None:
            raise Unauthenticated("the access token's claims do not hold")
        return proof

    def _verified_claims(self, token: str) -> Mapping[str, Any] | None:
        claims = signed_claims(token, self._shared_key, ("HS256",)) if self._shared_key else None
        key_id = key_id_of(token)
        if claims is not None or key_id is None:  # a project's asymmetric tokens name their key
            return claims
        keys = self._issuers.keys(f"{self._issuer}/.well-known/jwks.json", key_id=key_id)
        return signed_claims(token, keys.of(key_id), _JWKS_ALGORITHMS)


def _proof(claims: Mapping[str, Any], issuer: str, now: float) -> Proof | None:
    expires, not_before, issued = claims.get("exp"), claims.get("nbf", 0), claims.get("iat", 0)
    if claims.get("iss") != issuer or claims.get("role") != "authenticated" or claims.get("aud") != "authenticated":
        return None
    if not is_time(expires) or expires != int(expires) or not is_time(not_before) or not is_time(issued):
        return None
    if not now < expires < now + _LONGEST_LIFE_SECONDS or max(not_before, issued) > now + CLOCK_SKEW_SECONDS:
        return None
    if not isinstance(claims.get("sub"), str) or not _UUID.fullmatch(claims["sub"]):
        return None
    user_id = uuid.UUID(claims["sub"])
    return Proof(User(user_id, _label(claims, user_id)), datetime.fromtimestamp(expires, UTC))


def _label(claims: Mapping[str, Any], user_id: uuid.UUID) -> str:
    """A name for pages; only `sub` identifies the user."""
    for name in ("email", "phone"):
        value = claims.get(name)
        if isinstance(value, str) and value.isprintable() and 0 < len(value) <= 200:  # noqa: PLR2004
            return value
    return str(user_id)
