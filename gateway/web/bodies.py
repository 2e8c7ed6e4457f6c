"""
Bodies, read within a bound: whoever sends one a byte at a time keeps nobody else waiting, and is cut off in the end.

WSGI's input knows no timeout (PEP 3333), and granian's waits for as long as the client likes: 64 bodies that never come would be 64
threads that never answer, and it takes no account to send them. So no more than PLACES are read at once, and where all are taken the
next is refused unread. An answer to a request whose body is still being read stops granian's loop, which leaves one way to end such a
reading: the connection itself is shut down, by a thread that looks after those that last.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from flask import Flask

from gateway.errors import BadRequest, Overloaded

if TYPE_CHECKING:
    from _typeshed.wsgi import InputStream, StartResponse, WSGIApplication, WSGIEnvironment

log = structlog.get_logger(__name__)

PLACES = 24
"""Bodies of this process that may be under way at once; of 64 threads, 40 are left for whoever sends none."""
LONGEST_SECONDS = 30.0
"""Ours fill a packet or two; and no answer takes that long to make."""
_LOOK_SECONDS = 5.0
_SINCE_SENT = struct.Struct("=44xI")
"""Of tcp_info (linux/tcp.h): tcpi_last_data_sent, in milliseconds."""


class _Places:
    """Who reads a body in this process, since when. The thread that looks after them starts with the first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: dict[int, float] = {}
        self._first = threading.Event()
        self._port = 0

    def read(self, stream: InputStream, most: int, port: int) -> bytes:
        """The body, at most `most` bytes of it; of a client that is gone what it sent. Raises Overloaded, and has read nothing then."""
        me = threading.get_ident()
        with self._lock:
            if len(self._taken) >= PLACES:
                raise Overloaded("too many bodies are under way")
            self._taken[me] = time.monotonic()
        if port not in (0, self._port):
            self._look_after(port)
        self._first.set()
        try:
            return stream.read(most)
        except Exception:  # noqa: BLE001 - each server has its own; the body is too short then
            return b""
        finally:
            del self._taken[me]

    def _look_after(self, port: int) -> None:
        with self._lock:
            begun, self._port = self._port, port
        if not begun and sys.platform == "linux":
            threading.Thread(target=self._look, name="bodies", daemon=True).start()

    def _look(self) -> None:
        while True:
            self._first.clear()
            if not self._taken:
                self._first.wait()
            time.sleep(_LOOK_SECONDS)
            oldest = min(list(self._taken.values()), default=None)
            if oldest is not None and time.monotonic() - oldest > LONGEST_SECONDS:
                log.warning("bodies.cut_off", connections=_shut_down_overdue(self._port))


def _shut_down_overdue(port: int) -> int:
    """
    Ends the connections to our `port` on which we have sent nothing for LONGEST_SECONDS; how many.

    WSGI does not say which connection a request came on. But all that we do ourselves is over sooner, so that what stands on such a
    connection waits for its client; or nothing does, and whoever keeps an idle connection has to open another (RFC 9112 section 9.5).
    """
    ended = 0
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError, ValueError), socket.socket(fileno=os.dup(int(entry.name))) as found:
            if found.family not in (socket.AF_INET, socket.AF_INET6) or found.getsockname()[1] != port:
                continue
            found.getpeername()  # OSError where it is the one that listens
            told = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SINCE_SENT.size)
            if _SINCE_SENT.unpack(told)[0] > LONGEST_SECONDS * 1000:
                found.shutdown(socket.SHUT_RDWR)
                ended += 1
    return ended


class _Body:
    """`wsgi.input` (PEP 3333): read whole when somebody first reads of it."""

    def __init__(self, places: _Places, stream: InputStream, port: int, *, told: int, most: int) -> None:
        """`told`: how many bytes the client said there are, at least; `most`: how many are read at all."""
        self._places, self._stream, self._port = places, stream, port
        self._told, self._most = told, most
        self._whole: BytesIO | None = None

    def _there(self) -> BytesIO:
        if self._whole is None:
            body = self._places.read(self._stream, self._most, self._port)
            if len(body) < self._told:
                raise BadRequest("the body was cut short")
            self._whole = BytesIO(body)
        return self._whole

    def read(self, size: int = -1) -> bytes:
        """As a file's."""
        return self._there().read(size)

    def readline(self, size: int = -1) -> bytes:
        """As a file's."""
        return self._there().readline(size)

    def readlines(self, hint: int = -1) -> list[bytes]:
        """As a file's."""
        return self._there().readlines(hint)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._there())


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None


class _Bounded:
    """A WSGI application whose requests have bounded bodies."""

    def __init__(self, app: WSGIApplication, largest: int) -> None:
        self._app, self._largest, self._places = app, largest, _Places()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "GET":
            told = _number(environ.get("CONTENT_LENGTH"))
            environ["wsgi.input"] = _Body(
                self._places,
                environ["wsgi.input"],
                _number(environ.get("SERVER_PORT")) or 0,  # a server on a Unix socket has none
                told=min(told or 0, self._largest),
                most=self._largest if told is None else min(told, self._largest),
            )
        return self._app(environ, start_response)


def register(app: Flask) -> None:
    """Bounds this application's bodies; one that is larger than it takes is refused by Flask unread."""
    app.wsgi_app = _Bounded(app.wsgi_app, app.config["MAX_CONTENT_LENGTH"] + 1)  # type: ignore[method-assign] # as Flask's documents have it
