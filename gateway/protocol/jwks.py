"""
The signing keys in a JWK set (RFC 7517), each made ready when a token first names it.

To import a key costs 0.16 ms, and whoever publishes a hundred would have everybody wait for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from joserfc.errors import JoseError
from joserfc.jwk import KeySet, KeySetSerialization

from gateway.errors import ProviderGarbled

_PUBLIC = ("kty", "kid", "use", "alg", "key_ops", "crv", "n", "e", "x", "y")
"""Of a key, what it is verified with (RFC 7518 section 6). Certificates and whatever else stands there are not read."""
_LONGEST_MEMBER = 2_732
"""Letters of base64: 16,384 bits, beyond which OpenSSL verifies nothing."""
_CURVES = ("P-256", "P-384", "P-521", "secp256k1", "Ed25519", "Ed448")
"""Of those that sign, what a token can be verified with here."""
_MOST_KEYS = 48
"""That are kept; honest sets have two to a dozen."""
_MOST_TRIED = 8
"""Of one name, or without one; and at first, to see whether a set can be used at all."""


class PublishedKeys:
    """
    Asymmetric signing keys; symmetric ones and kinds that we do not know are left out. False when none can be used.

    Raises ProviderGarbled for what is no JWK set.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        entries = document.get("keys")
        if not isinstance(entries, list):
            raise ProviderGarbled("the key set holds no keys")
        self._entries: list[Mapping[str, Any]] = []
        for entry in entries:
            if len(self._entries) < _MOST_KEYS and _is_sound(entry):
                self._entries.append({name: entry[name] for name in _PUBLIC if name in entry})
        self._ready: dict[int, KeySet] = {}
        self._usable = any(True for _ in self._imported(range(len(self._entries))))

    def __bool__(self) -> bool:
        return self._usable

    def __len__(self) -> int:
        return len(self._entries) if self._usable else 0

    def of(self, key_id: str | None) -> KeySet:
        """
        Those of that name (of several, a token's algorithm says which), else those without a name, which go by their thumbprint. For a
        token without a name, all of a small set: it is verified where that is a single key (OpenID Connect Core section 10.1).
        """
        every = range(len(self._entries))
        if key_id is None:
            return self._usable_of(every if len(every) <= _MOST_TRIED else ())
        named = self._usable_of([number for number in every if self._entries[number].get("kid") == key_id])
        return named or self._usable_of([number for number in every if self._entries[number].get("kid") is None])

    def knows(self, key_id: str) -> bool:
        """Whether a key has that name, its own or its thumbprint (RFC 7638)."""
        return any(key.kid == key_id for key in self.of(key_id))

    def _usable_of(self, numbers: Sequence[int]) -> KeySet:
        return KeySet([key for each in self._imported(numbers) for key in each.keys])

    def _imported(self, numbers: Sequence[int]) -> Iterator[KeySet]:
        """Those that can be, of the first few; each once."""
        for number in numbers[:_MOST_TRIED]:
            if number not in self._ready:
                self._ready[number] = _imported(self._entries[number])
            if self._ready[number]:
                yield self._ready[number]


def _imported(entry: Mapping[str, Any]) -> KeySet:
    try:
        return KeySet.import_key_set(KeySetSerialization(keys=[dict(entry)]))
    except (JoseError, ValueError, TypeError, KeyError):
        return KeySet([])


def _is_sound(entry: Any) -> bool:
    """RFC 7518 section 3.3: an RSA modulus has 2048 bits or more, which is 342 letters of base64; and no member is endless."""
    if not isinstance(entry, dict) or entry.get("kty") not in ("RSA", "EC", "OKP") or entry.get("use", "sig") != "sig":
        return False
    if entry["kty"] != "RSA" and entry.get("crv") not in _CURVES:
        return False
    lengths = [len(str(entry.get(name, ""))) for name in _PUBLIC]
    return max(lengths) <= _LONGEST_MEMBER and (entry.get("kty") != "RSA" or len(str(entry.get("n"))) >= 342)  # noqa: PLR2004
