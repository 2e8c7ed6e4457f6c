"""
Secrets at rest: sealed to their row, their column and their generation.

Fernet has no associated data: a ciphertext copied to another row would open there (security: confused deputy). So every value
gets a key of its own, derived with HKDF (RFC 5869) from each master key and from where the value stands. Moved elsewhere, or
put back after a newer generation, it stays shut. The newest master key seals, every one opens.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from functools import lru_cache

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from gateway.errors import SecretUnreadable

_LENGTH = 32
"""128 bits to sign and 128 to encrypt, as the Fernet specification has it."""
_KEPT = 4096
"""Rings of derived keys that are remembered, about 1 KiB each: for what is read often. The master keys are in memory anyway."""


class Vault:
    """Seals and opens. Holds the master keys; never shows them."""

    def __init__(self, keys: Sequence[str]) -> None:
        """`keys`: Fernet keys in URL-safe base64, newest first; the settings have judged them."""
        self._masters = tuple(base64.urlsafe_b64decode(key) for key in keys)

    def __repr__(self) -> str:
        return f"Vault({len(self._masters)} keys)"

    def seal(self, secret: str, *, row: str, column: str, generation: int) -> str:
        """A Fernet token that opens only for this `row`, `column` and `generation`."""
        return _derive(self._masters[0], row, column, generation).encrypt(secret.encode()).decode("ascii")

    def open(self, sealed: str, *, row: str, column: str, generation: int) -> str:
        """
        The secret in `sealed`.

        Raises SecretUnreadable when no key opens it: a key is missing, or the value was moved, put back or changed.
        """
        try:
            return _ring(self._masters, row, column, generation).decrypt(sealed.encode()).decode()
        except (InvalidToken, UnicodeError):
            raise SecretUnreadable(f"{column} of {row} in generation {generation} does not open") from None

    def seal_some(self, secret: str | None, *, row: str, column: str, generation: int) -> str | None:
        """As `seal`; nothing stays nothing."""
        return None if secret is None else self.seal(secret, row=row, column=column, generation=generation)

    def open_some(self, sealed: str | None, *, row: str, column: str, generation: int) -> str | None:
        """As `open`; nothing stays nothing."""
        return None if sealed is None else self.open(sealed, row=row, column=column, generation=generation)

    def stale(self, sealed: str, *, row: str, column: str, generation: int) -> bool:
        """Whether it opens, but not with the newest key: time to seal it again."""
        try:
            _derive(self._masters[0], row, column, generation).decrypt(sealed.encode())
        except (InvalidToken, UnicodeError):
            self.open(sealed, row=row, column=column, generation=generation)
            return True
        return False

    def fingerprints(self) -> tuple[str, ...]:
        """What tells each key from others, newest first: 64 bits of an HMAC under it, which show nothing of it."""
        return tuple(hmac.digest(key, b"oauth-gateway key", hashlib.sha256)[:8].hex() for key in self._masters)

    def mark(self, value: str, *, purpose: str) -> str:
        """A keyed mark (HMAC-SHA-256, URL-safe base64) of `value`, for tokens in forms."""
        key = hmac.digest(self._masters[0], purpose.encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(hmac.digest(key, value.encode(), hashlib.sha256)).decode("ascii").rstrip("=")

    def marked(self, value: str, mark: str, *, purpose: str) -> bool:
        """Whether `mark` is the one of `value`, under any key; in constant time."""
        for master in self._masters:
            key = hmac.digest(master, purpose.encode(), hashlib.sha256)
            ours = base64.urlsafe_b64encode(hmac.digest(key, value.encode(), hashlib.sha256)).rstrip(b"=")
            if hmac.compare_digest(ours, mark.encode()):
                return True
        return False


@lru_cache(maxsize=_KEPT)
def _ring(masters: tuple[bytes, ...], row: str, column: str, generation: int) -> MultiFernet:
    """Every one opens, the newest first. What is sealed once is derived once, and takes no place here."""
    return MultiFernet([_derive(master, row, column, generation) for master in masters])


def _derive(master: bytes, row: str, column: str, generation: int) -> Fernet:
    # The parts are joined by a byte that none of them can hold, so that no two places share a key.
    place = "\x00".join(("oauth-gateway", row, column, str(generation))).encode()
    return Fernet(base64.urlsafe_b64encode(HKDFExpand(SHA256(), _LENGTH, place).derive(_extracted(master))))


@lru_cache(maxsize=64)
def _extracted(master: bytes) -> bytes:
    """RFC 5869 section 2.2, without a salt: the half of the derivation that is the same for every place."""
    return hmac.digest(bytes(_LENGTH), master, hashlib.sha256)


def fingerprint(secret: str) -> str:
    """SHA-256 of a random secret in hex: what stands in the database of states, sessions and browsers."""
    return hashlib.sha256(secret.encode()).hexdigest()
