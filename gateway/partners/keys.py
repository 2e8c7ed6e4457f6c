"""The form of API keys, and the hash that is stored."""

import hashlib
import re
import secrets
import zlib

from gateway.errors import Unauthenticated

KEY_PREFIX = "gw_live_"

_CHECK_DIGITS = 8
_SHAPE = re.compile(rf"{KEY_PREFIX}[0-9a-f]{{{64 + _CHECK_DIGITS}}}")


def make_key() -> str:
    """A prefix that scanners for leaked secrets know, 256 random bits in hexadecimal digits, and a CRC-32 of both."""
    body = KEY_PREFIX + secrets.token_hex(32)
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
    return f"{zlib.crc32(body.encode('ascii')):0{_CHECK_DIGITS}x}"
