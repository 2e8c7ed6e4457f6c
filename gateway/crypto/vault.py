"""
Encryption of stored secrets.

A Fernet token has no associated data: copied to another row, it would still decrypt there. So every value gets a key of its own, derived
with HKDF (RFC 5869) from a master key and from the value's context: its column, its user, its provider and the random `seal_id` of the
save that wrote it. Moved to another row, column, user or provider, or put back after a later save, it does not decrypt. The newest master
key encrypts; every master key decrypts.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Sequence
from functools import lru_cache
from uuid import UUID

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway.errors import SecretUnreadable

_KEY_BYTES = 32
"""128 bits to sign and 128 bits to encrypt (Fernet specification)."""
_CACHED_KEYS = 1024
"""Derived keys of the values that are read most, about 1 KiB each. The master keys are in memory anyway."""


class Vault:
    """Encrypts and decrypts. Holds the master keys and never shows them."""

    def __init__(self, keys: Sequence[str]) -> None:
        """`keys`: Fernet keys in URL-safe base64, newest first, already validated by the settings."""
        self._masters = tuple(base64.urlsafe_b64decode(key) for key in keys)

    def __repr__(self) -> str:
        return f"Vault({len(self._masters)} keys)"

    def encrypt(
        self, text: str, *, column: str, seal_id: UUID | str, user_id: UUID | None = None, provider: str = ""
    ) -> str:
        """
        A Fernet token that decrypts only in this context.

        `column` names the kind of value: `token` and `refresh` of a connection, a pending grant and the queue of revocations;
        `authorization_request`, `response_journal`, `event_chain`. Only the first two belong to a user and a provider.
        """
        return _derive(self._masters[0], _context(column, user_id, provider, seal_id)).encrypt(text.encode()).decode()

    def decrypt(
        self, encrypted: str, *, column: str, seal_id: UUID | str, user_id: UUID | None = None, provider: str = ""
    ) -> str:
        """
        The text of `encrypted`.

        Raises SecretUnreadable when no key decrypts it: a key is missing, or the value was moved, put back or changed.
        """
        try:
            keys = _keys(self._masters, column, user_id, provider, seal_id)
            return keys.decrypt(encrypted.encode()).decode()
        except (InvalidToken, UnicodeError):
            raise SecretUnreadable(f"no key decrypts this {column}") from None

    def encrypted_with_old_key(
        self, encrypted: str, *, column: str, seal_id: UUID | str, user_id: UUID | None = None, provider: str = ""
    ) -> bool:
        """Whether it decrypts, but not with the newest key: it has to be encrypted again. Raises SecretUnreadable."""
        try:
            _derive(self._masters[0], _context(column, user_id, provider, seal_id)).decrypt(encrypted.encode())
        except (InvalidToken, UnicodeError):
            self.decrypt(encrypted, column=column, seal_id=seal_id, user_id=user_id, provider=provider)
            return True
        return False

    def key_ids(self) -> tuple[str, ...]:
        """Names of the keys, newest first: 64 bits of an HMAC under each, which reveal nothing of it."""
        return tuple(hmac.digest(key, b"oauth-gateway key", hashlib.sha256)[:8].hex() for key in self._masters)

    def keyed_hash(self, value: str, *, purpose: str) -> str:
        """HMAC-SHA-256 of `value` under the newest key, in URL-safe base64: a form's token, which is bound to a session or a link, or the name of a key that has none."""
        return _signature(self._masters[0], value, purpose)

    def verify_keyed_hash(self, token: str, value: str, *, purpose: str) -> bool:
        """Whether `token` was made for `value`, with any key; in constant time."""
        expected = (_signature(master, value, purpose) for master in self._masters)
        return any([hmac.compare_digest(each.encode(), token.encode()) for each in expected])  # noqa: C419 - all are compared


def _context(column: str, user_id: UUID | None, provider: str, seal_id: UUID | str) -> bytes:
    return json.dumps(["oauth-gateway", column, str(user_id or ""), provider, str(seal_id)]).encode()


@lru_cache(maxsize=_CACHED_KEYS)
def _keys(
    masters: tuple[bytes, ...], column: str, user_id: UUID | None, provider: str, seal_id: UUID | str
) -> MultiFernet:
    """Only reads are cached: a value is encrypted once."""
    context = _context(column, user_id, provider, seal_id)
    return MultiFernet([_derive(master, context) for master in masters])


def _derive(master: bytes, context: bytes) -> Fernet:
    return Fernet(base64.urlsafe_b64encode(HKDF(SHA256(), _KEY_BYTES, None, context).derive(master)))


def _signature(master: bytes, value: str, purpose: str) -> str:
    key = hmac.digest(master, purpose.encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(hmac.digest(key, value.encode(), hashlib.sha256)).decode().rstrip("=")


def fingerprint(secret: str) -> str:
    """SHA-256 of a random secret in hex: what the database keeps of states, sessions, links and browsers."""
    return hashlib.sha256(secret.encode()).hexdigest()
