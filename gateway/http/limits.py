"""
Answers within bounds: read by measure, decoded no further than allowed, and failures named in our own words.

The libraries' messages hold URLs and what the provider sent: none of them is repeated. Knows no sockets and no addresses.
"""

from __future__ import annotations

import http.client
import io
import ssl
import zlib
from collections.abc import Iterator, Mapping
from email.errors import MissingHeaderBodySeparatorDefect
from typing import Any

from urllib3.exceptions import HTTPError, InvalidHeader

from gateway.errors import ProviderFailed, ProviderGarbled, ProviderUnavailable

LARGEST_BODY = 64 * 1024
"""Four times what the largest honest answer has, a key set with certificates: memory and time for what is not JSON after all."""
_LARGEST_HEAD = 64 * 1024
_MOST_LINES_OF_HEAD = 512
_MOST_LINES_OF_BODY = 256
"""One a chunk: who sends a byte at a time is read at the price of many answers."""
_LARGEST_ON_WIRE = 2 * LARGEST_BODY
"""Chunk sizes and trailers included. Tiny chunks cost CPU: whoever sends more framing than content is not served."""

_OK = 200

FOREIGN = (HTTPError, http.client.HTTPException, OSError, zlib.error)
"""What the libraries below raise; `requests.RequestException` is an OSError."""


class TooMuch(http.client.HTTPException):
    """An answer larger than anything that our protocols have to say."""


class _Meter(io.BufferedReader):
    """
    Reads no more than `left` bytes and `lines` lines, then raises TooMuch.

    http.client bounds lines and their number, not their sum, and takes a chunk of the size "-1" as "all there is".
    """

    left = _LARGEST_HEAD
    lines = _MOST_LINES_OF_HEAD

    def readline(self, size: int | None = -1, /) -> bytes:
        self.lines -= 1
        if self.lines < 0:
            raise TooMuch
        return self._spend(super().readline(size))

    def read(self, size: int | None = -1, /) -> bytes:
        bounded = size if size is not None and 0 <= size <= self.left else self.left + 1
        return self._spend(super().read(bounded))

    def _spend(self, data: bytes) -> bytes:
        self.left -= len(data)
        if self.left < 0:
            raise TooMuch
        return data


class Measured(http.client.HTTPResponse):
    """An answer whose head and whole length on the wire are bounded."""

    def begin(self) -> None:
        """The parent's. Raises TooMuch above the bound for a head, BadStatusLine for what cannot be the final one."""
        self.fp = meter = _Meter(self.fp.detach())
        try:
            super().begin()
        except (http.client.HTTPException, OSError):
            raise
        except Exception:  # noqa: BLE001 - the parser of mail, which reads the head, decodes what it finds in Content-Type
            raise http.client.BadStatusLine("header") from None
        meter.left, meter.lines = _LARGEST_ON_WIRE, _MOST_LINES_OF_BODY
        if self.status < _OK:
            # An interim answer taken for the final one would leave the real one to the next call on this connection.
            raise http.client.BadStatusLine("1xx")
        if any(isinstance(defect, MissingHeaderBodySeparatorDefect) for defect in self.headers.defects):
            # From a line that is no header on the parser drops them all, those that say where the answer ends among them.
            raise http.client.BadStatusLine("header")
        lengths = {value.strip() for value in self.headers.get_all("Content-Length", ())}
        if len(lengths) > 1 or not all(length.isascii() and length.isdigit() for length in lengths):
            # RFC 9112 section 6.3: http.client would read on until the connection ends, and the end could be anywhere.
            raise http.client.BadStatusLine("length")


def whole_body(raw: Any, headers: Mapping[str, str]) -> bytes:
    """The body, read to its end and decoded. Raises TooMuch above LARGEST_BODY, ProviderGarbled when undecodable."""
    pieces: list[bytes] = []
    size = 0
    while piece := raw.read(LARGEST_BODY + 1 - size, decode_content=False):
        pieces.append(piece)
        size += len(piece)
        if size > LARGEST_BODY:
            raise TooMuch
    return _decoded(b"".join(pieces), headers.get("content-encoding", "identity").strip().lower())


def _decoded(body: bytes, coding: str) -> bytes:
    """We ask for `identity`, and some compress all the same. A bomb grows no further than one byte over the bound."""
    if coding in ("", "identity") or not body:
        return body
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise ProviderGarbled("the answer has a content coding that was not asked for")
    # 32: it finds out by itself whether gzip or zlib, which is what `deflate` means (RFC 9110 section 8.4.1).
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    decoded = inflater.decompress(body, LARGEST_BODY + 1)
    if len(decoded) > LARGEST_BODY:
        raise TooMuch
    if not inflater.eof or inflater.unused_data:
        raise ProviderGarbled("the answer's gzip is cut short, or goes on after its end")
    return decoded


def judged(error: BaseException, origin: object, *, late: bool) -> ProviderFailed:
    """What `error`, one of FOREIGN, means. `late`: the deadline has passed, which explains whatever went wrong."""
    if late:
        return ProviderUnavailable(f"{origin}: no complete answer in time")
    causes = list(_causes(error))
    for kinds, failure, sentence in _MEANINGS:
        if any(isinstance(cause, kinds) for cause in causes):
            return failure(f"{origin}: {sentence}{_why_refused(causes)}")
    return ProviderUnavailable(f"{origin}: the connection broke")


_MEANINGS: tuple[tuple[tuple[type[BaseException], ...], type[ProviderFailed], str], ...] = (
    ((TooMuch,), ProviderGarbled, "the answer is too large"),
    ((ssl.SSLCertVerificationError,), ProviderUnavailable, "the certificate was not accepted"),
    ((ssl.SSLError,), ProviderUnavailable, "TLS failed"),
    (
        (http.client.RemoteDisconnected, http.client.IncompleteRead),
        ProviderUnavailable,
        "closed before the answer was complete",
    ),
    ((http.client.HTTPException, InvalidHeader, zlib.error), ProviderGarbled, "the answer is not HTTP"),
)


def _why_refused(causes: list[BaseException]) -> str:
    """OpenSSL's fixed words for a certificate that was not accepted."""
    return next(
        (f" ({cause.verify_message})" for cause in causes if isinstance(cause, ssl.SSLCertVerificationError)), ""
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
