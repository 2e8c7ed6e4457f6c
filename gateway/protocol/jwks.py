"""The signing keys in a JWK set (RFC 7517)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from joserfc.errors import JoseError
from joserfc.jwk import KeySet, KeySetSerialization

from gateway.errors import ProviderGarbled

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
