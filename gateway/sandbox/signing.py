"""
The sandbox's signing keys, made at every start.

RS256 for the providers' identity tokens and HighLevel's access tokens, ES256 for the sign-in service. It can also sign wrongly on purpose.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from functools import cached_property
from typing import Any

from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey


class Keys:
    """Two key pairs, each made when it is first needed."""

    @cached_property
    def rsa(self) -> RSAKey:
        """RFC 7518 section 3.3."""
        return RSAKey.generate_key(2048, parameters={"kid": "sandbox-rsa", "use": "sig", "alg": "RS256"})

    @cached_property
    def ec(self) -> ECKey:
        """RFC 7518 section 3.4."""
        return ECKey.generate_key("P-256", parameters={"kid": "sandbox-ec", "use": "sig", "alg": "ES256"})

    def rs256(self, claims: dict[str, Any]) -> str:
        """A compact JWS (RFC 7519) that `rsa_set` verifies."""
        return jwt.encode({"alg": "RS256", "kid": "sandbox-rsa", "typ": "JWT"}, claims, self.rsa)

    def es256(self, claims: dict[str, Any]) -> str:
        """A compact JWS (RFC 7519) that `ec_set` verifies."""
        return jwt.encode({"alg": "ES256", "kid": "sandbox-ec", "typ": "JWT"}, claims, self.ec)

    def rsa_set(self) -> dict[str, Any]:
        """RFC 7517 section 5: the public half alone."""
        return {"keys": [self.rsa.as_dict(private=False)]}

    def ec_set(self) -> dict[str, Any]:
        """RFC 7517 section 5: the public half alone."""
        return {"keys": [self.ec.as_dict(private=False)]}

    def unsigned(self, claims: dict[str, Any]) -> str:
        """RFC 8725 section 2.1: `alg` is `none` and there is no signature."""
        return f"{_part({'alg': 'none', 'typ': 'JWT'})}.{_part(claims)}."

    def confused(self, claims: dict[str, Any]) -> str:
        """RFC 8725 section 2.1: HS256 with the public RSA key as its secret."""
        signed = f"{_part({'alg': 'HS256', 'kid': 'sandbox-rsa', 'typ': 'JWT'})}.{_part(claims)}"
        digest = hmac.new(self.rsa.as_pem(private=False), signed.encode(), hashlib.sha256).digest()
        return f"{signed}.{_base64url(digest)}"


def claims_of(token: str) -> dict[str, Any]:
    """The claims of a compact JWS, without looking at its signature."""
    middle = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
    return claims


def _part(value: dict[str, Any]) -> str:
    return _base64url(json.dumps(value, separators=(",", ":")).encode())


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
