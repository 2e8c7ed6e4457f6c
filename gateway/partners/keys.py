"""The form of API keys, and the hash that is stored."""

import hashlib
import re
import secrets
import zlib

from gateway.errors import Unauthenticated

KEY_PREFIX = "gw_live_"

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SECRET_DIGITS = 43
"""Of base 62, for 256 bits."""
_CHECK_DIGITS = 6
_SHAPE = re.compile(rf"{KEY_PREFIX}[0-9A-Za-z]{{{_SECRET_DIGITS + _CHECK_DIGITS}}}", re.ASCII)


def make_key() -> str:
    """A prefix that scanners for leaked secrets know, 256 random bits in base 62, and a CRC-32 of both."""
    body = KEY_PREFIX + _base62(secrets.randbits(256), _SECRET_DIGITS)
    return body + _check(body)


def read_key(text: str) -> str:
    """The SHA-256 (hex) of a key, as the database stores it. Raises Unauthenticated for a wrong form or checksum, without a database call."""
    if not is_key(text):
        raise Unauthenticated("the key has a wrong shape or checksum")
    return hash_key(text)


def is_key(text: str) -> bool:
    return bool(_SHAPE.fullmatch(text)) and _check(text[:-_CHECK_DIGITS]) == text[-_CHECK_DIGITS:]


def hash_key(text: str) -> str:
    """The hash to store. A fast one is enough: a key has 256 random bits."""
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _check(body: str) -> str:
    return _base62(zlib.crc32(body.encode("ascii")), _CHECK_DIGITS)


def _base62(number: int, digits: int) -> str:
    found = []
    for _ in range(digits):
        number, digit = divmod(number, 62)
        found.append(_ALPHABET[digit])
    return "".join(reversed(found))
