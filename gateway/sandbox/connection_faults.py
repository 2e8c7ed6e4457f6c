"""
Floods and broken connections: endless bodies, slow bytes, silence, a reset.

Some write to the raw socket, not through WSGI, and then end the connection. Every loop ends when the sandbox stops or the peer disconnects.
"""

from __future__ import annotations

import os
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

from flask import Response, request

from .state import State

MEGABYTE = 1024 * 1024


class Hangup(ConnectionAbortedError):
    """The server has to close the connection and write nothing more."""


def huge_body(_state: State, said: Mapping[str, Any]) -> Response:
    """A JSON object with an access token of many megabytes, in chunks."""

    def body() -> Iterator[bytes]:
        yield b'{"token_type": "Bearer", "access_token": "'
        for _ in range(int(said.get("megabytes", 300))):
            yield b"A" * MEGABYTE
        yield b'"}'

    return Response(body(), content_type="application/json")


def gzip_bomb(_state: State, said: Mapping[str, Any]) -> Response:
    """A thousandth of its decoded size on the wire, whatever the client accepts."""
    packed = Response(_packed(int(said.get("megabytes", 300))), content_type="application/json")
    packed.headers["Content-Encoding"] = "gzip"
    return packed


@cache
def _packed(megabytes: int) -> bytes:
    """One megabyte is compressed once and its block repeated: compressing 300 of them takes ten seconds on a busy machine."""
    head, block, tail = b'{"token_type": "Bearer", "access_token": "', b"A" * MEGABYTE, b'"}'
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    packed_head, packed_block = (packer.compress(part) + packer.flush(zlib.Z_FULL_FLUSH) for part in (head, block))
    checksum = zlib.crc32(head)
    for _ in range(megabytes):
        checksum = zlib.crc32(block, checksum)
    size = len(head) + megabytes * len(block) + len(tail)
    end = struct.pack("<LL", zlib.crc32(tail, checksum), size % 2**32)  # RFC 1952 section 2.3.1
    packed_tail = packer.compress(tail) + packer.flush()
    return b"\x1f\x8b\x08" + bytes(7) + packed_head + packed_block * megabytes + packed_tail + end


def deep_json(_state: State, said: Mapping[str, Any]) -> Response:
    """Arrays within arrays."""
    depth = int(said.get("depth", 1_000_000))
    return Response(b'{"access_token": ' + b"[" * depth + b"]" * depth + b"}", content_type="application/json")


def drip_headers(state: State, said: Mapping[str, Any]) -> Response:
    """A header that never ends, one byte at a time."""
    return _raw(_drip(state, b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Slow: ", _every(said)))


def drip_body(state: State, said: Mapping[str, Any]) -> Response:
    """Headers at once, and a body that never ends, one byte at a time."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{"
    return _raw(_drip(state, head, _every(said), at_once=len(head)))


def silence(state: State, said: Mapping[str, Any]) -> Response:
    """Accept, wait some seconds, then close."""
    return _raw(lambda: state.closing.wait(float(said.get("seconds", 60))))


def reset(_state: State, _said: Mapping[str, Any]) -> Response:
    """RFC 9293 section 3.5.3: a reset instead of a response."""
    link: socket.socket = request.environ["werkzeug.socket"]

    def cut() -> None:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(link.detach())  # at once, and past the server, which would end it politely

    return _raw(cut)


def _every(said: Mapping[str, Any]) -> float:
    return float(said.get("seconds", 0.3))


def _drip(state: State, opening: bytes, seconds: float, at_once: int = 17) -> Callable[[], None]:
    link: socket.socket = request.environ["werkzeug.socket"]

    def dripping() -> None:
        link.sendall(opening[:at_once])
        rest = iter(opening[at_once:])
        until = time.monotonic() + 300
        while time.monotonic() < until and not state.closing.wait(seconds):
            link.sendall(bytes([next(rest, 0x61)]))

    return dripping


def _raw(work: Callable[[], object]) -> Response:
    """A response whose body, at its first byte, writes to the socket itself and closes it."""

    def body() -> Iterator[bytes]:
        work()
        yield from _hang_up()

    return Response(body())


def _hang_up() -> Iterator[bytes]:
    raise Hangup
