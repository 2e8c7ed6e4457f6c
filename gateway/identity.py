"""
Supabase access tokens: who is signed in to the product, and until when.

Only tokens of one project are accepted: its issuer, signed with its keys, given to the product and not to a third-party app.
"""

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from joserfc.jwk import OctKey

from gateway.errors import Unauthenticated
from gateway.models import User
from gateway.protocol.issuers import CLOCK_SKEW_SECONDS, Issuers, is_time, key_id_of, signed_claims, unverified_header
from gateway.settings import Settings

SESSION_BEYOND_TOKEN = timedelta(hours=12)
"""How much longer a session may last than the access token that started it."""
_LONGEST_LIFE_SECONDS = 30 * 86_400
_JWKS_ALGORITHMS = ("ES256", "RS256")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@dataclass(frozen=True, slots=True)
class Proof:
    user: User
    expires_at: datetime


class Identity:
    def __init__(self, settings: Settings, issuers: Issuers) -> None:
        self.issuers = issuers
        self._issuer = f"{settings.supabase_url}/auth/v1" if settings.supabase_url else None
        secret = settings.supabase_jwt_secret
        self._shared_key = OctKey.import_key(secret.get_secret_value()) if secret else None
        self._anonymous_users = settings.anonymous_users

    def read_access_token(self, token: str, *, now: datetime) -> Proof:
        """
        The user of a Supabase access token (RFC 8725; iss, aud, sub, exp and role are required).

        Raises Unauthenticated for every fault, ProviderUnavailable when the project's keys cannot be had.
        """
        if self._issuer is None:
            raise Unauthenticated("SUPABASE_URL is not set, so no access token is believed")
        claims = self._verified_claims(token)
        if claims is None:
            raise Unauthenticated(f"the access token's signature does not hold: {self._signature_problem(token)}")
        if claims.get("client_id") is not None:
            # Supabase's OAuth server gave it to a third-party app. Apart from this claim it looks like the user's own token.
            raise Unauthenticated("the access token was issued to a third-party app (claim client_id)")
        if claims.get("is_anonymous") and not self._anonymous_users:
            raise Unauthenticated("the access token is an anonymous user's, and GATEWAY_ANONYMOUS_USERS is off")
        wrong = _wrong_claim(claims, self._issuer, now.timestamp())
        if wrong is not None:
            name, found = wrong
            error = Unauthenticated(f"the access token's claim {name}: {found}")
            error.detail = f"The claim `{name}` of the access token is not accepted here. Send a valid token."
            raise error
        user_id = uuid.UUID(claims["sub"])
        return Proof(User(user_id, _label(claims, user_id)), datetime.fromtimestamp(claims["exp"], UTC))

    def _verified_claims(self, token: str) -> Mapping[str, Any] | None:
        claims = signed_claims(token, self._shared_key, ("HS256",)) if self._shared_key else None
        key_id = key_id_of(token)
        if claims is not None or key_id is None:  # a project's asymmetric tokens name their key
            return claims
        keys = self.issuers.keys(f"{self._issuer}/.well-known/jwks.json", key_id=key_id)
        return signed_claims(token, keys, _JWKS_ALGORITHMS)

    def _signature_problem(self, token: str) -> str:
        """For the log: what the operator can do. The header is not verified, and not repeated."""
        if unverified_header(token).get("alg") != "HS256":
            return "no key that the project in SUPABASE_URL publishes has signed it"
        if self._shared_key is None:
            return "it is signed with a shared secret (HS256), and SUPABASE_JWT_SECRET is not set"
        return "SUPABASE_JWT_SECRET is not the secret that signed it"


def _wrong_claim(  # noqa: PLR0911 - one line a rule
    claims: Mapping[str, Any], issuer: str, now: float
) -> tuple[str, str] | None:
    """The first claim that is wrong, and what was found and expected; for the log."""
    for name, expected in (("iss", issuer), ("aud", "authenticated"), ("role", "authenticated")):
        if claims.get(name) != expected:
            return name, f"found {_shown(claims.get(name))}, expected {expected}"
    for name, default in (("exp", None), ("nbf", 0), ("iat", 0)):
        if not is_time(claims.get(name, default)):
            return name, f"found {_shown(claims.get(name))}, expected seconds since 1970"
    expires, early = claims["exp"], max(("nbf", "iat"), key=lambda name: claims.get(name, 0))
    if expires != int(expires) or expires > now + _LONGEST_LIFE_SECONDS:
        return "exp", f"found {_shown(expires)}, expected whole seconds within 30 days"
    if expires <= now:
        return "exp", f"expired {now - expires:.0f} s ago by this machine's clock"
    if claims.get(early, 0) > now + CLOCK_SKEW_SECONDS:
        ahead = claims[early] - now
        return (
            early,
            f"{ahead:.0f} s in the future ({CLOCK_SKEW_SECONDS} s are tolerated): this machine's clock is behind, or theirs ahead",
        )
    if not isinstance(claims.get("sub"), str) or not _UUID.fullmatch(claims["sub"]):
        return "sub", "expected the id of a user (a uuid)"
    return None


def _shown(value: object) -> str:
    """A claim for the log: a token may hold anything."""
    return repr(value)[:200] if value is not None else "none"


def _label(claims: Mapping[str, Any], user_id: uuid.UUID) -> str:
    """A name for pages; only `sub` identifies the user."""
    for name in ("email", "phone"):
        value = claims.get(name)
        if isinstance(value, str) and value.isprintable() and 0 < len(value) <= 200:  # noqa: PLR2004
            return value
    return str(user_id)
