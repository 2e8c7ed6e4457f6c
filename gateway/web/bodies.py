"""
Bodies, read within a bound: whoever sends one a byte at a time keeps nobody else waiting, and is cut off in the end.

WSGI's input knows no timeout (PEP 3333), and granian's waits for as long as the client likes: 64 bodies that never come would be 64
threads that never answer, and it takes no account to send them. So no more than PLACES are read at once, and where all are taken the
next is refused unread. An answer to a request whose body is still being read stops granian's loop, which leaves one way to end such a
reading: the connection itself is shut down (`overdue`), by a thread that looks after those that last.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from io import BytesIO
from typing import TYPE_CHECKING

import structlog
from flask import Flask

from gateway.errors import BadRequest, Overloaded, TooLarge
from gateway.web.overdue import Overdue

if TYPE_CHECKING:
    from _typeshed.wsgi import InputStream, StartResponse, WSGIApplication, WSGIEnvironment

log = structlog.get_logger(__name__)

PLACES = 24
"""Bodies of this process that may be under way at once; of 64 threads, 40 are left for whoever sends none."""
_LOOK_SECONDS = 5.0


class _Places:
    """Who reads a body in this process, since when. The thread that looks after them starts with the first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: dict[int, float] = {}
        self._first = threading.Event()
        self._ports: set[int] = set()

    def read(self, stream: InputStream, most: int, port: int) -> bytes:
        """The body, at most `most` bytes of it; of a client that is gone what it sent. Raises Overloaded, and has read nothing then."""
        me = threading.get_ident()
        with self._lock:
            if len(self._taken) >= PLACES:
                raise Overloaded("too many bodies are under way")
            self._taken[me] = time.monotonic()
        try:
            if port and port not in self._ports:
                self._look_after(port)
            self._first.set()
            return stream.read(most)
        except Exception:  # noqa: BLE001 - each server has its own; the body is too short then
            return b""
        finally:
            del self._taken[me]

    def _look_after(self, port: int) -> None:
        with self._lock:
            begun = bool(self._ports)
            self._ports.add(port)
        if not begun and sys.platform == "linux":
            threading.Thread(target=self._look, name="bodies", daemon=True).start()

    def _look(self) -> None:
        while True:
            self._first.clear()
            if not self._taken:
                self._first.wait()
            overdue = Overdue()  # of this time: what nobody waits for needs no memory
            while self._taken:
                time.sleep(_LOOK_SECONDS)
                try:
                    if ended := overdue.end(self._ports):
                        log.warning("bodies.cut_off", connections=ended)
                except Exception as error:  # noqa: BLE001 - it is all that ends them, so it goes on
                    log.error("bodies.not_looked_after", kind=type(error).__name__)  # noqa: TRY400


class _Body:
    """`wsgi.input` (PEP 3333): read whole when somebody first reads of it."""

    def __init__(self, places: _Places, environ: WSGIEnvironment, largest: int) -> None:
        self._places, self._stream, self._largest = places, environ["wsgi.input"], largest
        self._port = _number(environ.get("SERVER_PORT")) or 0  # a server on a Unix socket has none
        self._told = _number(environ.get("CONTENT_LENGTH"))
        # Of JSON half is none; half a form is a shorter one, and no browser sends a form whose length it does not say.
        self._endless = (
            self._told is None
            and "HTTP_TRANSFER_ENCODING" in environ
            and environ.get("CONTENT_TYPE") != "application/json"
        )
        self._whole: BytesIO | None = None

    def _there(self) -> BytesIO:
        if self._whole is None:
            if self._endless:
                raise BadRequest("a body whose length nobody says")
            if self._told is not None and self._told > self._largest:
                raise TooLarge("a body of more than is taken")
            found = self._places.read(self._stream, self._largest + 1 if self._told is None else self._told, self._port)
            if self._told is not None and len(found) < self._told:
                raise BadRequest("the body was cut short")
            if len(found) > self._largest:
                raise TooLarge("a body of more than is taken")
            self._whole = BytesIO(found)
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
            environ["wsgi.input"] = _Body(self._places, environ, self._largest)
        return self._app(environ, start_response)


def register(app: Flask) -> None:
    """Bounds this application's bodies; one that says that it is larger is refused unread."""
    app.wsgi_app = _Bounded(app.wsgi_app, app.config["MAX_CONTENT_LENGTH"])  # type: ignore[method-assign] # as Flask's documents have it
