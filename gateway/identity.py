"""
Who is asking, and the proof.

Believes the access tokens of one Supabase project (its issuer, its keys) and nothing else; turns one into a session of ours,
whose secret only the browser has. Knows no pages and no providers.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from joserfc.jwk import OctKey

from gateway.errors import Unauthenticated
from gateway.models import User
from gateway.protocol.discovery import CLOCK_SKEW_SECONDS, Issuers, is_time, key_id_of, signed_claims
from gateway.settings import Settings

SESSION_BEYOND_TOKEN = timedelta(hours=12)
"""A session outlives the access token that opened it by at most this."""
_LONGEST_LIFE = timedelta(days=30)
_JWKS_ALGORITHMS = ("ES256", "RS256")


@dataclass(frozen=True, slots=True)
class Proof:
    """A user, as proven by an access token, and until when."""

    user: User
    expires_at: datetime


class Identity:
    """Judges Supabase access tokens."""

    def __init__(self, settings: Settings, issuers: Issuers) -> None:
        self._issuers = issuers
        self._issuer = f"{settings.supabase_url}/auth/v1" if settings.supabase_url else None
        secret = settings.supabase_jwt_secret
        self._shared = OctKey.import_key(secret.get_secret_value()) if secret else None

    def read_access_token(self, token: str, *, now: datetime) -> Proof:
        """
        The user behind a Supabase access token (RFC 8725; iss, aud, sub, exp and role required).

        Raises Unauthenticated for every fault alike, ProviderUnavailable when the project's keys cannot be had.
        """
        if self._issuer is None:
            raise Unauthenticated("SUPABASE_URL is not set, so no access token is believed")
        claims = self._verified(token)
        if claims is None:
            raise Unauthenticated("the access token's signature does not hold")
        proof = _proof(claims, self._issuer, now.timestamp())
        if proof is None:
            raise Unauthenticated("the access token's claims do not hold")
        return proof

    def _verified(self, token: str) -> Mapping[str, Any] | None:
        key_id = key_id_of(token)
        if self._shared is not None:
            claims = signed_claims(token, self._shared, ("HS256",))
            if claims is not None:
                return claims
        if key_id is None:
            # A project's asymmetric tokens name their key: without a name nothing is fetched and nothing is tried.
            return None
        keys = self._issuers.keys(f"{self._issuer}/.well-known/jwks.json", key_id=key_id)
        return signed_claims(token, keys.of(key_id), _JWKS_ALGORITHMS)


def _proof(claims: Mapping[str, Any], issuer: str, now: float) -> Proof | None:
    audience = claims.get("aud")
    expires, not_before, issued = claims.get("exp"), claims.get("nbf", 0), claims.get("iat", 0)
    if claims.get("iss") != issuer or claims.get("role") != "authenticated":
        return None
    if audience != "authenticated":
        return None
    if not is_time(expires) or expires != int(expires) or not is_time(not_before) or not is_time(issued):
        return None
    if not now < expires < now + _LONGEST_LIFE.total_seconds() or max(not_before, issued) > now + CLOCK_SKEW_SECONDS:
        return None
    user_id = _uuid(claims.get("sub"))
    if user_id is None:
        return None
    return Proof(User(user_id, _label(claims, user_id)), datetime.fromtimestamp(expires, UTC))


def _uuid(value: Any) -> uuid.UUID | None:
    if not isinstance(value, str) or len(value) != 36:  # noqa: PLR2004 - the one form that Supabase writes
        return None
    try:
        found = uuid.UUID(value)
    except ValueError:
        return None
    return found if str(found) == value.lower() else None


def _label(claims: Mapping[str, Any], user_id: uuid.UUID) -> str:
    """What to call the user on a page. Never an identity: `sub` alone is that."""
    for name in ("email", "phone"):
        value = claims.get(name)
        if isinstance(value, str) and value.isprintable() and 0 < len(value) <= 200:  # noqa: PLR2004
            return value
    return str(user_id)
