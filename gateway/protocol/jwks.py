"""
The signing keys in a JWK set (RFC 7517).

A key is imported when a token first names it: importing a set of a hundred would delay every caller.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from joserfc.errors import JoseError
from joserfc.jwk import KeySet, KeySetSerialization

from gateway.errors import ProviderGarbled

_PUBLIC = ("kty", "kid", "use", "alg", "key_ops", "crv", "n", "e", "x", "y")
"""The members that verification needs (RFC 7518 section 6). Others, such as certificates, are not read."""
_LONGEST_MEMBER = 2_732
"""Base64 characters of 16,384 bits, the largest RSA key that OpenSSL verifies with."""
_MOST_KEYS = 48
"""Honest sets have two to a dozen."""
_MOST_TRIED = 8
"""Keys of one name, or without a name; and at first, to see whether the set is usable."""


class PublishedKeys:
    """
    Asymmetric signing keys; symmetric and unknown ones are left out. False when none is usable.

    Raises ProviderGarbled when the document is not a JWK set.
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
        The keys of that name, else those without a name, which are known by their thumbprint. For a token without a key id, all
        keys of a small set: joserfc verifies when only one fits (OpenID Connect Core section 10.1).
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
        """The usable ones of the first few; each is imported once."""
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
    """RFC 7518 section 3.3: an RSA modulus has 2048 bits or more, which is 342 characters of base64."""
    if not isinstance(entry, dict) or entry.get("kty") not in ("RSA", "EC", "OKP") or entry.get("use", "sig") != "sig":
        return False
    lengths = [len(str(entry.get(name, ""))) for name in _PUBLIC]
    return max(lengths) <= _LONGEST_MEMBER and (entry.get("kty") != "RSA" or len(str(entry.get("n"))) >= 342)  # noqa: PLR2004
