"""
HTTP/1.1 to the REST API, on kept connections, under one deadline for each call.

httpx bounds each read, so that an answer that drips keeps a call alive for ever. Here every read, write and connect of a
call gets no more than what is left of the call's time. Knows no Supabase and no function; sends nothing twice.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future

import httpcore
import httpx

_CONNECTIONS = 20
_IDLE_SECONDS = 30.0
_LONGEST_ANSWER = 16 * 1024 * 1024


class Lost(httpx.TransportError):
    """There was no answer. Its words are ours."""


class _Here(threading.local):
    """The call that this thread is in: until when (by the monotonic clock), and the status of its answer."""

    until = 0.0
    status = 0

    def begin(self, seconds: float) -> None:
        self.until, self.status = time.monotonic() + seconds, 0

    def left(self, timeout: float | None) -> float:
        """Seconds for the next step. Raises httpcore.ReadTimeout when there are none."""
        left = self.until - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout
        return left if timeout is None else min(left, timeout)


here = _Here()


class Road(httpx.BaseTransport):
    """What httpx sends by: a pool of HTTP/1.1 connections, whole answers, no proxies, no redirects, no second try."""

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=tls,
            max_connections=_CONNECTIONS,
            max_keepalive_connections=_CONNECTIONS,
            keepalive_expiry=_IDLE_SECONDS,
            http1=True,
            http2=False,  # shared by threads, some calls in a hundred fail
            retries=0,
            network_backend=_Bounded(),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """The answer, read to its end. Raises Lost when there is none, or none of an API."""
        url = request.url
        try:
            answer = self._pool.handle_request(
                httpcore.Request(
                    request.method,
                    httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                    headers=request.headers.raw,
                    content=request.read(),
                    extensions=request.extensions,
                )
            )
            try:
                body = _whole(answer)
            finally:
                answer.close()
        except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError) as error:
            problem = type(error).__name__
        else:
            response = httpx.Response(answer.status, headers=answer.headers, content=body)
            here.status = response.status_code
            if not response.is_success or response.headers.get("Content-Type", "").startswith("application/json"):
                return response
            # supabase-py would hand a proxy's sign-in page on as if a function had answered a text.
            problem = f"HTTP {response.status_code} with another answer than JSON"
        raise Lost(problem)

    def close(self) -> None:
        """Closes every connection."""
        self._pool.close()


def _whole(answer: httpcore.Response) -> bytes:
    parts, size = [], 0
    for part in answer.iter_stream():
        here.left(None)
        parts.append(part)
        size += len(part)
        if size > _LONGEST_ANSWER:
            raise httpcore.RemoteProtocolError
    return b"".join(parts)


class _Bounded(httpcore.NetworkBackend):
    """Sockets whose every wait ends with the call."""

    def __init__(self) -> None:
        self._plain = httpcore.SyncBackend()
        self._names = _Names()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """To the first address that answers; looking the name up is within the time."""
        until = time.monotonic() + here.left(timeout)
        found = self._names.addresses(host, until - time.monotonic())
        for position, address in enumerate(found):
            share = max(0.01, (until - time.monotonic()) / (len(found) - position))
            try:
                stream = self._plain.connect_tcp(address, port, here.left(share), local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
            return _BoundedStream(stream)
        raise httpcore.ConnectError


class _Names:
    """
    What the machine resolves names to, in time.

    Nothing interrupts getaddrinfo: it runs in a thread of its own, one for each name however many wait, and is left behind.
    """

    def __init__(self) -> None:
        self._running: dict[str, Future[Sequence[str]]] = {}
        self._lock = threading.Lock()

    def addresses(self, host: str, seconds: float) -> Sequence[str]:
        """In the order to try them. Raises httpcore.ConnectTimeout, and ConnectError where the name has none."""
        with self._lock:
            future = self._running.get(host)
            if future is None:
                future = self._running[host] = Future()
                threading.Thread(target=self._run, args=(host, future), name="store-dns", daemon=True).start()
        try:
            return future.result(timeout=seconds)
        except TimeoutError:
            raise httpcore.ConnectTimeout from None
        except (OSError, UnicodeError):
            raise httpcore.ConnectError from None

    def _run(self, host: str, future: Future[Sequence[str]]) -> None:
        problem: Exception | None = None
        try:
            entries = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait have to hear of it
            problem = error
        with self._lock:  # first: whoever asks after the answer came gets a lookup of its own
            del self._running[host]
        if problem is None:
            future.set_result([str(entry[4][0]) for entry in entries])
        else:
            future.set_exception(problem)


class _BoundedStream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, here.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, here.left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _BoundedStream(self._stream.start_tls(ssl_context, server_hostname, here.left(timeout)))

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)
