"""
The sandbox's own HTTP server: HTTP/1.1 with kept connections, and a raw socket for faults.

Werkzeug's development server closes the connection after every response, which would hide how clients reuse connections. `stop` also ends
idle connections.
"""

from __future__ import annotations

import http.client
import io
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler
from werkzeug.wsgi import get_input_stream

from .app import OFFERS, create_app
from .state import State
from .supabase import USERS, access_token


class Handler(WSGIRequestHandler):
    """One connection: serves requests until one side closes, or for a minute without a request."""

    protocol_version = "HTTP/1.1"
    timeout = 60
    wbufsize = 65_536
    disable_nagle_algorithm = True

    def run_wsgi(self) -> None:
        """Reads the whole body first, so that the next request starts where it should (RFC 9112 section 9.3)."""
        environ = self.make_environ()
        environ["wsgi.input"] = io.BytesIO(get_input_stream(environ).read())
        environ["wsgi.input_terminated"] = True
        head: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], _exc: object = None) -> Callable[[bytes], int]:
            head[:] = [status, headers]
            return self.wfile.write

        answer = self.server.app(environ, start_response)
        try:
            self._send(iter(answer), head)
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        finally:
            if hasattr(answer, "close"):
                answer.close()

    def _send(self, chunks: Any, head: list[Any]) -> None:
        first = next(chunks, b"")
        status, headers = head
        self.send_response(int(status.split(" ", 1)[0]), status.partition(" ")[2])
        for name, value in headers:
            self.send_header(name, value)
        sized = any(name.lower() == "content-length" for name, _ in headers) or status[:3] in ("204", "304")
        if not sized:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for chunk in _and_then(first, chunks):
            if chunk and self.command != "HEAD":
                self.wfile.write(chunk if sized else b"%x\r\n%b\r\n" % (len(chunk), chunk))
        if not sized:
            self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 - Werkzeug's name
        """No log: queries contain codes, and `/_sandbox/requests` shows more."""


def _and_then(first: bytes, rest: Iterable[bytes]) -> Iterable[bytes]:
    yield first
    yield from rest


class _Server(ThreadedWSGIServer):
    """Tracks its open connections, so that it can close them."""

    daemon_threads = True

    def __init__(self, host: str, port: int, app: Any) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(host, port, app, Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        try:
            super().finish_request(request, client_address)
        finally:
            self._open.discard(request)

    def drop(self) -> None:
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:  # closed by its peer in the meantime
                continue


class SandboxServer:
    """The running sandbox, for tests and the demo: `state`, `port`, `origin`, `start()`, `stop()`; a context manager."""

    def __init__(self, state: State, server: _Server) -> None:
        """Use `make_server`, which has bound the port."""
        self.state = state
        self._server = server
        self.port: int = server.port
        self.origin = state.origin
        self._thread: threading.Thread | None = None

    def start(self) -> SandboxServer:
        """Serve from a new thread; return at once."""
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        return self

    def serve(self) -> None:
        """Serve in this thread until interrupted."""
        self._server.serve_forever(poll_interval=0.2)

    def stop(self) -> None:
        """Stop listening, end slow faults, and close every connection."""
        self.state.closing.set()
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join(5)
        self._server.server_close()
        self._server.drop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def user_token(self, name: str) -> str:
        """An access token of Alice or Bob, as the sign-in service issues it."""
        return access_token(self.state, USERS[name])

    def consents(self, url: str, account: str | None = None, scope: Iterable[str] | None = None, **form: str) -> str:
        """
            Submit the consent page of an authorization URL without a browser; the URL it redirects to.

        By default with the first account and all requested scopes; `answer="deny"` denies. Raises ValueError with the page when the provider
        refuses the request.
        """
        parts = urlsplit(url)
        fields: list[tuple[str, str]] = [("answer", "allow"), *form.items()]
        fields += [("account", account)] if account else []
        fields += [("grant_scope", name) for name in scope] + [("choose_scope", "1")] if scope is not None else []
        link = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
        try:
            kind = {"Content-Type": "application/x-www-form-urlencoded"}
            link.request(
                "POST", f"{parts.path}?{parts.query}", urlencode(dict(fields) if scope is None else fields), kind
            )
            answer = link.getresponse()
            page = answer.read().decode()
        finally:
            link.close()
        if answer.status != 303:
            message = f"The provider answered {answer.status}: {page[:2000]}"
            raise ValueError(message)
        return answer.headers["Location"]


def make_server(
    port: int = 0,
    *,
    gateway: str = "http://localhost:8000",
    bind: str = "127.0.0.1",
    origins: Iterable[str] = (),
    offers: Iterable[str] = OFFERS,
    clock: Callable[[], float] = time.time,
) -> SandboxServer:
    """
    A sandbox bound to a port (0: a free one) that does not serve yet.

    `gateway`: the origin redirect URIs may point to, as they may to `origins`. `offers`: providers that the product's front
    end has buttons for. `clock`: seconds since 1970.
    """
    state = State(gateway, origins, clock)
    server = _Server(bind, port, create_app(state, tuple(offers)))
    state.origin = f"http://{bind if bind not in ('0.0.0.0', '::') else '127.0.0.1'}:{server.port}"
    return SandboxServer(state, server)
