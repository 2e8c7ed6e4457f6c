"""
The HTTP client for providers and for Supabase's REST API: HTTP/1.1, whole or streamed.

    http = HttpClient(user_agent="oauth-gateway/1.0 (+https://connect.example.com)")
    response = http.request("POST", url, headers={...}, body="grant_type=…", provider="google")

One per process. It returns any status; the caller judges it. It follows no redirect, keeps no cookie, uses no proxy and sends
nothing twice. `requests` sits above the connections, so that requests-mock can replace them in tests.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import select
import socket
import ssl
import threading
import time
import weakref
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import certifi
import httpcore
import requests
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict

from gateway.errors import ProviderFailed, ProviderGarbled, ProviderUnavailable, SettingsRefused
from gateway.http.addresses import AddressPolicy, Origin, Resolver, check_url, system_addresses, target_of
from gateway.http.bulkhead import Bulkhead

DEFAULT_SECONDS = 10.0
LARGEST_BODY = 64 * 1024
"""Default limit of a response body: four times the largest honest one, a key set with certificates."""
IDLE_SECONDS = 60.0
"""How long an unused connection is kept. Middleboxes forget idle connections without a word."""
_LARGEST_HEAD = 32 * 1024
_FREE_PIECES = 256
_SMALLEST_PIECE = 256
"""On average, after the free ones: each chunk costs CPU, however small it is."""
_BUFFERED = 16 * 1024
_READ = 64 * 1024
_KEPT_PER_ORIGIN = 32
_KEPT_ORIGINS = 256
_OK = 200

_OURS = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "accept-encoding", "user-agent", "cookie"}
)
_METHOD = re.compile(r"[A-Z]{3,10}")
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\t\x20-\x7e]*")

logging.getLogger("httpcore").setLevel(logging.WARNING)  # its debug lines hold response headers
logging.getLogger("httpcore.http11").setLevel(logging.WARNING)


class ResponseTooLarge(Exception):
    """The response is larger than the caller's limit."""


TRANSPORT_ERRORS = (OSError, httpcore.ProtocolError, httpcore.NetworkError, ResponseTooLarge)
"""What sockets, `ssl`, `requests` and httpcore raise."""


class Deadline:
    """A moment on the monotonic clock by which something must be over."""

    __slots__ = ("at",)

    def __init__(self, at: float) -> None:
        """`at`: seconds of `time.monotonic`."""
        self.at = at

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """The moment `seconds` from now."""
        return cls(time.monotonic() + seconds)

    def within(self, seconds: float) -> Deadline:
        """The moment `seconds` from now, but no later than this one."""
        return Deadline(min(self.at, time.monotonic() + seconds))

    def remaining(self) -> float:
        """Seconds left; 0.0 when it has passed."""
        return max(0.0, self.at - time.monotonic())


@dataclass(frozen=True, slots=True)
class Response:
    """Any status, header names in any case, and the whole decoded body."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class StreamedResponse:
    """Any status, header names in any case, and the body as it arrives, without a limit and not decoded."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: Iterator[bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Call:
    """One exchange. It reaches the adapter as `timeout`, the one argument that `requests` hands through untouched."""

    origin: Origin
    deadline: Deadline
    idle_seconds: float
    is_streamed: bool


class HttpClient:
    """Calls within limits of time, size, number and address. Safe to use from many threads and after a fork."""

    def __init__(
        self,
        *,
        user_agent: str = "oauth-gateway",
        allow_private: bool = False,
        ca_bundle: Path | None = None,
        bulkhead: Bulkhead | None = None,
        resolve: Resolver = system_addresses,
    ) -> None:
        """
        `user_agent`: RFC 9110 section 10.1.5. `allow_private`: also loopback and private addresses, and plain http there.
        `ca_bundle`: PEM file with certificate authorities in addition to the public ones. `bulkhead`: bounds the calls in flight.

        Raises SettingsRefused when `ca_bundle` cannot be used.
        """
        self._user_agent = user_agent
        self._allow_private = allow_private
        self._bulkhead = bulkhead
        self._resolve = resolve
        self._tls = _tls_context(ca_bundle)
        self._reset()
        _CLIENTS.add(self)

    def _reset(self) -> None:
        """Make what a forked child must not share with its parent: connections, threads and locks."""
        self._pool = _Pool(AddressPolicy(self._resolve, allow_private=self._allow_private), self._tls)
        self._session = _Session(self._pool)

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: str | bytes | None = None,
        deadline: Deadline | None = None,
        provider: str | None = None,
        limit: int = LARGEST_BODY,
    ) -> Response:
        """
        One exchange, over by `deadline` (default: ten seconds from now) from the name lookup to the last byte.

        `provider`: whose share of the bulkhead the call uses. `limit`: bytes of the body, on the wire and decoded. Caller
        headers that frame the message, `Cookie` and `User-Agent` are left out. Raises ProviderUnavailable when no complete response
        came (the request may have been processed) and ProviderGarbled when the response is too large or not HTTP.
        """
        sent = body.encode() if isinstance(body, str) else body
        with self._exchange(method, url, headers, sent, deadline, provider) as response:
            raw = _limited(response.body, limit)
            coding = response.headers.get("content-encoding", "identity").strip().lower()
            return Response(response.status, response.headers, _decoded(raw, coding, limit))

    def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | Iterable[bytes] | None = None,
        body_length: int | None = None,
        deadline: Deadline | None = None,
        idle_seconds: float = 30.0,
        provider: str | None = None,
    ) -> contextlib.AbstractContextManager[StreamedResponse]:
        """
        Like `request`, in constant memory: `body` is sent as it is produced, the response body is an iterator.

        `body_length`: its length, where it is known; else it is sent in chunks. `idle_seconds`: the longest single wait.
        A response that arrives before the whole body was sent ends the sending.
        """
        return self._exchange(
            method, url, headers, body, deadline, provider, length=body_length, idle_seconds=idle_seconds
        )

    def close(self) -> None:
        """Close the kept connections; later calls open new ones."""
        pool = self._pool
        self._reset()
        pool.close()

    @contextlib.contextmanager
    def _exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        body: bytes | Iterable[bytes] | None,
        deadline: Deadline | None,
        provider: str | None,
        *,
        length: int | None = None,
        idle_seconds: float = math.inf,
    ) -> Iterator[StreamedResponse]:
        try:
            origin = check_url(url, allow_private=self._allow_private)
        except ValueError as refused:
            raise ProviderUnavailable(f"address refused: {refused}") from None
        prepared = self._prepared(method, url, headers or {}, body, length)
        streamed = idle_seconds < math.inf
        call = _Call(origin, deadline or Deadline.after(DEFAULT_SECONDS), idle_seconds, streamed)
        if not call.deadline.remaining():
            raise ProviderUnavailable(f"{origin}: no time was left to ask")
        with self._bulkhead.slot(provider or origin.host) if self._bulkhead else contextlib.nullcontext():
            response = self._send(prepared, call)
            try:
                yield StreamedResponse(response.status_code, response.headers, _received(response.raw, call))
            finally:
                response.raw.close()

    def _send(self, prepared: requests.PreparedRequest, call: _Call) -> requests.Response:
        try:
            return self._session.send(prepared, stream=True, allow_redirects=False, timeout=call, proxies={})  # type: ignore[arg-type]
        except TRANSPORT_ERRORS as error:
            failure = _translated(error, call)
        raise failure  # outside the handler: foreign exceptions, with URLs in them, must not be attached to it

    def _prepared(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | Iterable[bytes] | None,
        length: int | None,
    ) -> requests.PreparedRequest:
        if not _METHOD.fullmatch(method):
            raise ProviderGarbled("the method cannot be sent")
        prepared = requests.PreparedRequest()
        prepared.method, prepared.url = method, url
        prepared.headers = CaseInsensitiveDict({"User-Agent": self._user_agent, "Accept-Encoding": "identity"})
        for name, value in headers.items():
            if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
                raise ProviderGarbled("a header holds what HTTP does not allow (RFC 9110 section 5.5)")
            if name.lower() not in _OURS:
                prepared.headers[name] = value
        if body is not None:
            prepared.body = body  # type: ignore[assignment] # requests itself puts iterators there
            length = len(body) if isinstance(body, bytes) else length
            framing = ("Transfer-Encoding", "chunked") if length is None else ("Content-Length", str(length))
            prepared.headers[framing[0]] = framing[1]
        return prepared


# -- reading a response ----------------------------------------------------------------------------------------------


def _received(raw: Any, call: _Call) -> Iterator[bytes]:
    try:
        yield from raw.stream(_READ, decode_content=False)
    except TRANSPORT_ERRORS as error:
        failure = _translated(error, call)
    else:
        return
    raise failure


def _limited(pieces: Iterator[bytes], limit: int) -> bytes:
    """The whole body. Raises ProviderGarbled when it is larger than `limit`, or comes in too many tiny chunks."""
    body = bytearray()
    for count, piece in enumerate(pieces):
        body += piece
        if len(body) > limit or count > _FREE_PIECES + len(body) // _SMALLEST_PIECE:
            raise ProviderGarbled("the response is too large")
    return bytes(body)


def _decoded(body: bytes, coding: str, limit: int) -> bytes:
    """Decode a body that was compressed although `identity` was requested; a bomb is inflated to one byte over the limit."""
    if coding in ("", "identity") or not body:
        return body
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise ProviderGarbled("the response has a content coding that was not asked for")
    # 32: detect gzip or zlib, which is what `deflate` means (RFC 9110 section 8.4.1).
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        decoded = inflater.decompress(body, limit + 1)
    except zlib.error:
        raise ProviderGarbled("the response cannot be decompressed") from None
    if len(decoded) > limit:
        raise ProviderGarbled("the response is too large")
    if not inflater.eof or inflater.unused_data:
        raise ProviderGarbled("the response's gzip is cut short, or goes on after its end")
    return decoded


def _translated(error: BaseException, call: _Call) -> ProviderFailed:
    """Our error for one of TRANSPORT_ERRORS. The libraries' messages hold URLs and response data: none is repeated."""
    if isinstance(error, TimeoutError) or not call.deadline.remaining():
        return ProviderUnavailable(f"{call.origin}: no complete response in time")
    if isinstance(error, ResponseTooLarge):
        return ProviderGarbled(f"{call.origin}: the response is too large")
    if isinstance(error, httpcore.ProtocolError):
        return ProviderGarbled(f"{call.origin}: the response is not HTTP")
    if isinstance(error, ssl.SSLCertVerificationError):
        return ProviderUnavailable(f"{call.origin}: the certificate was not accepted ({error.verify_message})")
    if isinstance(error, ssl.SSLError):
        return ProviderUnavailable(f"{call.origin}: TLS failed")
    return ProviderUnavailable(f"{call.origin}: the connection broke before the response was complete")


# -- connections -----------------------------------------------------------------------------------------------------


class _Session(requests.Session):
    """Sends prepared requests through one adapter, without environment and memory."""

    def __init__(self, pool: _Pool) -> None:
        super().__init__()
        self.trust_env = False
        for scheme in ("https://", "http://"):
            self.mount(scheme, _Adapter(pool))

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: the parent prepares the next request even when it may not follow, and reads this response without a limit."""


class _Adapter(BaseAdapter):
    def __init__(self, pool: _Pool) -> None:
        super().__init__()
        self._pool = pool

    def send(  # type: ignore[override] # `timeout` is our _Call
        self, request: requests.PreparedRequest, *_: Any, timeout: _Call, **__: Any
    ) -> requests.Response:
        """The response's head; `raw` streams its body."""
        connection = self._pool.take(timeout)
        received = connection.exchange(request, timeout)
        response = requests.Response()
        response.status_code, response.request = received.status, request
        for name, value in received.headers:
            key, text = name.decode("ascii"), value.decode("latin-1")
            response.headers[key] = f"{response.headers[key]}, {text}" if key in response.headers else text
        response.raw = _RawBody(received, connection, self._pool)
        return response

    def close(self) -> None:
        """Nothing: HttpClient closes the pool."""


class _RawBody:
    """The part of urllib3's response that is used: `stream` and `close`."""

    def __init__(self, received: httpcore.Response, connection: _Connection, pool: _Pool) -> None:
        self._received = received
        self._connection = connection
        self._pool = pool

    def stream(self, _amount: int, decode_content: bool | None = None) -> Iterator[bytes]:  # noqa: ARG002, FBT001
        """The body as it arrives."""
        return self._received.iter_stream()

    def close(self) -> None:
        """Keep the connection when the body was read to its end, else close it."""
        self._received.close()
        self._pool.put_back(self._connection)


class _Pool:
    """Idle connections by origin, the last used one first."""

    def __init__(self, policy: AddressPolicy, tls: ssl.SSLContext) -> None:
        self._policy = policy
        self._tls = tls
        self._idle: dict[Origin, list[_Connection]] = {}
        self._lock = threading.Lock()
        self._is_closed = False

    def take(self, call: _Call) -> _Connection:
        """A kept connection that is still usable, else a new one."""
        while True:
            with self._lock:
                idle = self._idle.get(call.origin)
                connection = idle.pop() if idle else None
            if connection is None:
                return self._connect(call)
            if not connection.has_expired():
                return connection
            connection.close()

    def put_back(self, connection: _Connection) -> None:
        """Keep a connection whose exchange is complete; close any other."""
        surplus = [connection]
        with self._lock:
            if connection.is_idle() and not self._is_closed:
                idle = self._idle.setdefault(connection.to, [])
                idle.append(connection)
                surplus = [idle.pop(0)] if len(idle) > _KEPT_PER_ORIGIN or idle[0].has_expired() else []
                if len(self._idle) > _KEPT_ORIGINS:
                    surplus += self._idle.pop(next(iter(self._idle)))
        for each in surplus:
            each.close()

    def close(self) -> None:
        """Close the idle connections now, and each of the others after its exchange."""
        with self._lock:
            self._is_closed = True
            idle = [connection for kept in self._idle.values() for connection in kept]
            self._idle.clear()
        for connection in idle:
            connection.close()

    def _connect(self, call: _Call) -> _Connection:
        """To the first permitted address that answers; each has an equal share of the time left."""
        origin, problem = call.origin, "no address"
        addresses = self._policy.resolve(origin, call.deadline.remaining())
        for position, address in enumerate(addresses):
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.settimeout(max(0.001, call.deadline.remaining() / (len(addresses) - position)))
                sock.connect((address, origin.port))
            except OSError as error:
                sock.close()
                problem = os.strerror(error.errno) if error.errno else "no connection in time"
                continue
            return _Connection(origin, self._secured(sock, call) if origin.scheme == "https" else sock)
        raise ProviderUnavailable(f"{origin}: {problem}")

    def _secured(self, sock: socket.socket, call: _Call) -> ssl.SSLSocket:
        try:
            sock.settimeout(max(0.001, call.deadline.remaining()))
            return self._tls.wrap_socket(sock, server_hostname=call.origin.host)
        except BaseException:
            sock.close()
            raise


class _Connection(httpcore.HTTP11Connection):
    """One HTTP/1.1 connection (h11). It is never used again while anything of it is unread."""

    def __init__(self, origin: Origin, sock: socket.socket) -> None:
        self.to = origin
        self._socket = _Socket(sock)
        self._at = httpcore.Origin(origin.scheme.encode(), origin.host.encode(), origin.port)
        self._host = str(origin).partition("://")[2].removesuffix({"http": ":80", "https": ":443"}[origin.scheme])
        super().__init__(self._at, self._socket, keepalive_expiry=IDLE_SECONDS)

    def exchange(self, request: requests.PreparedRequest, call: _Call) -> httpcore.Response:
        """Send `request`, its target byte for byte as it was checked, and read the head of the response."""
        self._socket.begin(call)
        target = target_of(str(request.url)).encode()
        headers = [(b"Host", self._host.encode())]
        headers += [(name.encode(), value.encode()) for name, value in request.headers.items()]
        url = httpcore.URL(scheme=self._at.scheme, host=self._at.host, port=self._at.port, target=target)
        body: Any = request.body
        received = self.handle_request(httpcore.Request(str(request.method), url, headers=headers, content=body))
        version = received.extensions["http_version"]
        if received.status < _OK or version not in (b"HTTP/1.1", b"HTTP/1.0"):
            self.close()
            raise httpcore.RemoteProtocolError
        self._socket.head_left = math.inf
        return received

    def _receive_event(self, timeout: float | None = None) -> Any:
        try:
            return super()._receive_event(timeout)
        except httpcore.RemoteProtocolError:
            if self._socket.is_ended:  # cut short, not malformed
                raise ConnectionResetError from None
            raise

    def _response_closed(self) -> None:
        # What follows a response would be taken for the response of the next call, which may be another user's.
        if self._h11_state.trailing_data[0] or self._socket.has_decrypted():
            self.close()
        else:
            super()._response_closed()


class _Socket(httpcore.NetworkStream):
    """A socket whose every read and send ends with the call: it may take the time that is left, and no more."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._unsent = bytearray()
        self._early: bytes | None = None
        self.is_ended = False
        self.head_left: float = 0

    def begin(self, call: _Call) -> None:
        """From now on it serves `call`."""
        self._call = call
        self.head_left = _LARGEST_HEAD

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 - the deadline is the timeout
        """Some bytes, b"" at the end. Raises TimeoutError, and ResponseTooLarge for a head without an end."""
        if self._unsent:
            with contextlib.suppress(httpcore.WriteError):  # the peer may have answered before it hung up
                self._flush()
        if self.head_left <= 0:
            raise ResponseTooLarge
        if self._early is not None:
            data, self._early = self._early, None
        else:
            self._sock.settimeout(self._seconds_left())
            data = self._sock.recv(int(min(max_bytes, self.head_left)))
        self.head_left -= len(data)
        self.is_ended = not data
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002 - the deadline is the timeout
        """Send, together with what follows where both are small. Raises TimeoutError and httpcore.WriteError."""
        self._unsent += buffer
        if len(self._unsent) >= _BUFFERED:
            self._flush()

    def _flush(self) -> None:
        view = memoryview(bytes(self._unsent))
        self._unsent.clear()
        try:
            while view:
                if self._call.is_streamed:
                    self._wait_for_space()
                self._sock.settimeout(self._seconds_left())
                view = view[self._sock.send(view) :]
        except TimeoutError:
            raise
        except OSError:
            raise httpcore.WriteError from None

    def _wait_for_space(self) -> None:
        """Until the peer reads on. Raises httpcore.WriteError when it has answered instead: the rest is not sent."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN | select.POLLOUT)
        while True:
            ready = poll.poll(math.ceil(self._seconds_left() * 1000))
            if not ready:
                raise TimeoutError
            if ready[0][1] & ~select.POLLOUT:
                self._sock.settimeout(0)
                with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError):  # a session ticket is no response
                    self._early = self._sock.recv(_READ)
                    raise httpcore.WriteError
            if ready[0][1] & select.POLLOUT:
                return

    def _seconds_left(self) -> float:
        left = self._call.deadline.remaining()
        if not left:
            raise TimeoutError
        return min(left, self._call.idle_seconds)

    def has_decrypted(self) -> bool:
        """Whether OpenSSL holds bytes that were not read."""
        return self._early is not None or (isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0)

    def get_extra_info(self, info: str) -> Any:
        """`is_readable`: whether an idle connection was closed by the peer, or has data that nobody asked for."""
        if info != "is_readable" or self._sock.fileno() < 0:
            return info == "is_readable"
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()


def _tls_context(ca_bundle: Path | None) -> ssl.SSLContext:
    """TLS 1.2 or newer, verified against the public authorities and those in `ca_bundle`, whatever the environment says."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False
    context.load_verify_locations(certifi.where())
    if ca_bundle is not None:
        try:
            context.load_verify_locations(ca_bundle)
        except OSError:  # ssl.SSLError is one
            problem = "GATEWAY_CA_BUNDLE is not a readable file of certificates in PEM form."
            raise SettingsRefused([problem]) from None
    return context


_CLIENTS: weakref.WeakSet[HttpClient] = weakref.WeakSet()


def _reset_all() -> None:
    for client in list(_CLIENTS):
        client._reset()  # noqa: SLF001 - the child must not touch its parent's connections


os.register_at_fork(after_in_child=_reset_all)
