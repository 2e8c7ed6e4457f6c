"""
Connections that end with their call: every read and send gets the time that is left, and no more.

HTTP/1.1 by h11 through httpcore, in a small pool. A connection with anything unread is closed, never used again.
"""

import base64
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
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import certifi
import httpcore
import requests

from gateway.errors import BadRequest, ProviderUnavailable, SettingsRefused
from gateway.http.addresses import AddressPolicy, Origin, target_of

IDLE_SECONDS = 60.0
"""How long an unused connection is kept. Middleboxes forget idle connections without a word."""
_CONNECT_SECONDS = 10.0
_LARGEST_HEAD = 32 * 1024
_READ = 64 * 1024
_MOST_IDLE = 128
_LOOK_SECONDS = 0.5
"""How often a streamed call looks whether its caller still waits."""
_OK = 200

logging.getLogger("httpcore").setLevel(logging.WARNING)  # its debug lines hold response headers
logging.getLogger("httpcore.http11").setLevel(logging.WARNING)


class ResponseTooLarge(Exception):
    """The response is larger than the caller's limit."""


class CallerGone(BadRequest):
    """The caller of a call that is streamed has hung up, so the call was ended."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock by which something must be over."""

    at: float
    """Seconds of `time.monotonic`."""

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        """The moment `seconds` from now."""
        return cls(time.monotonic() + seconds)

    def within(self, seconds: float) -> "Deadline":
        """The moment `seconds` from now, but no later than this one."""
        return Deadline(min(self.at, time.monotonic() + seconds))

    def remaining(self) -> float:
        """Seconds left; 0.0 when it has passed."""
        return max(0.0, self.at - time.monotonic())


@dataclass(frozen=True, slots=True)
class Call:
    """One exchange. It reaches the adapter as `timeout`, the one argument that `requests` hands through untouched."""

    origin: Origin
    deadline: Deadline
    idle_seconds: float
    is_abandoned: Callable[[], bool] | None = None
    received: bytearray = field(default_factory=bytearray, repr=False)
    """What came until the head of the response was complete."""

    def seconds_left(self) -> float:
        """How long the next wait may take. Raises TimeoutError when no time is left."""
        if left := min(self.deadline.remaining(), self.idle_seconds):
            return left
        raise TimeoutError


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy for https (GATEWAY_HTTPS_PROXY). It resolves the names, so it decides which addresses may be reached."""

    origin: Origin
    authorization: bytes = field(repr=False)

    @classmethod
    def read(cls, url: str) -> "Proxy":
        """From `http://[user:password@]host:port`."""
        parts = urlsplit(url)
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else ""
        # As an https origin, a public address is allowed as well as a private one.
        return cls(Origin("https", parts.hostname or "", parts.port or 0), base64.b64encode(user.encode()))

    def tunnel(self, sock: socket.socket, call: Call) -> None:
        """Ask for a tunnel to the origin (RFC 9110 section 9.3.6). Raises ProviderUnavailable when the proxy refuses."""
        host = str(call.origin).removeprefix("https://").encode()
        authorization = b"Proxy-Authorization: Basic " + self.authorization + b"\r\n" if self.authorization else b""
        sock.settimeout(call.seconds_left())
        sock.sendall(b"CONNECT " + host + b" HTTP/1.1\r\nHost: " + host + b"\r\n" + authorization + b"\r\n")
        head = b""
        while b"\r\n\r\n" not in head:
            sock.settimeout(call.seconds_left())
            received = sock.recv(_READ)
            head += received
            if not received or len(head) > _LARGEST_HEAD:
                raise ProviderUnavailable(
                    f"{call.origin}: the proxy (GATEWAY_HTTPS_PROXY) does not answer as an HTTP proxy"
                )
        status = re.match(rb"HTTP/1\.[01] ([0-9]{3})[ \r]", head)
        if status is None or not status[1].startswith(b"2"):
            code = status[1].decode() if status else "no HTTP"
            raise ProviderUnavailable(f"{call.origin}: the proxy (GATEWAY_HTTPS_PROXY) refuses to connect ({code})")


class Pool:
    """Idle connections, the last used one last."""

    def __init__(self, policy: AddressPolicy, tls: ssl.SSLContext, proxy: Proxy | None = None) -> None:
        self._policy = policy
        self._tls = tls
        self._proxy = proxy
        self._idle: list[Connection] = []
        self._lock = threading.Lock()
        self._is_closed = False

    def take(self, call: Call) -> "Connection":
        """A kept connection that is still usable, else a new one. A forked child does not use its parent's."""
        wanted = call.origin, os.getpid()
        while True:
            with self._lock:
                kept = next((each for each in reversed(self._idle) if each.to == wanted), None)
                if kept is not None:
                    self._idle.remove(kept)
            if kept is None:
                return self._connect(replace(call, deadline=call.deadline.within(_CONNECT_SECONDS)))
            if not kept.has_expired():
                return kept
            kept.close()

    def put_back(self, connection: "Connection") -> None:
        """Keep a connection whose exchange is complete; close any other."""
        surplus: Connection | None = connection
        with self._lock:
            if connection.is_idle() and not self._is_closed:
                self._idle.append(connection)
                is_full = len(self._idle) > _MOST_IDLE or self._idle[0].has_expired()
                surplus = self._idle.pop(0) if is_full else None
        if surplus is not None:
            surplus.close()

    def close(self) -> None:
        """Close the idle connections now, and each of the others after its exchange."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _connect(self, call: Call) -> "Connection":
        is_secure = call.origin.scheme == "https"
        proxy = self._proxy if is_secure else None
        sock = self._open(proxy.origin if proxy else call.origin, call)
        try:
            if proxy:
                proxy.tunnel(sock, call)
            if is_secure:
                sock.settimeout(call.seconds_left())
                sock = self._tls.wrap_socket(sock, server_hostname=call.origin.host)
        except BaseException:
            sock.close()
            raise
        return Connection(call.origin, sock)

    def _open(self, origin: Origin, call: Call) -> socket.socket:
        """To the first permitted address that answers; each has an equal share of the time left."""
        problem = "no address"
        is_proxy = origin != call.origin
        addresses = self._policy.resolve(origin, call.seconds_left(), any_address=is_proxy)
        for position, address in enumerate(addresses):
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.settimeout(call.seconds_left() / (len(addresses) - position))
                sock.connect((address, origin.port))
            except OSError as error:
                sock.close()
                problem = os.strerror(error.errno) if error.errno else "no connection in time"
                continue
            return sock
        what = "the proxy (GATEWAY_HTTPS_PROXY): " if is_proxy else ""
        raise ProviderUnavailable(f"{call.origin}: {what}{problem}")


class Connection(httpcore.HTTP11Connection):
    """One HTTP/1.1 connection (h11). It is never used again while anything of it is unread."""

    def __init__(self, origin: Origin, sock: socket.socket) -> None:
        self.to = origin, os.getpid()
        self._socket = _Socket(sock)
        self._at = httpcore.Origin(origin.scheme.encode(), origin.host.encode(), origin.port)
        self._host = str(origin).partition("://")[2].removesuffix({"http": ":80", "https": ":443"}[origin.scheme])
        super().__init__(self._at, self._socket, keepalive_expiry=IDLE_SECONDS)

    def exchange(self, request: requests.PreparedRequest, call: Call) -> httpcore.Response:
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
        self._early: bytes | None = None
        self.is_ended = False
        self.head_left: float = 0

    def begin(self, call: Call) -> None:
        """From now on it serves `call`."""
        self._call = call
        self.head_left = _LARGEST_HEAD

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 - the deadline is the timeout
        """Some bytes, b"" at the end. Raises TimeoutError, and ResponseTooLarge for a head without an end."""
        if self.head_left <= 0:
            raise ResponseTooLarge
        if self._early is not None:
            data, self._early = self._early, None
        else:
            data = self._receive(int(min(max_bytes, self.head_left)))
        if self.head_left < math.inf:
            self._call.received.extend(data)
        self.head_left -= len(data)
        self.is_ended = not data
        return data

    def _receive(self, most: int) -> bytes:
        until = Deadline.after(self._call.seconds_left())
        while True:
            self._sock.settimeout(max(0.001, min(until.remaining(), _LOOK_SECONDS)))
            try:
                return self._sock.recv(most)
            except TimeoutError:
                self._check_caller()
                if not until.remaining():
                    raise

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002 - the deadline is the timeout
        """Send all of it. Raises TimeoutError and httpcore.WriteError; the peer may have answered before it hung up."""
        view = memoryview(buffer)
        try:
            while view:
                if self._call.idle_seconds < math.inf:  # streamed
                    self._wait_for_space()
                self._sock.settimeout(self._call.seconds_left())
                view = view[self._sock.send(view) :]
        except TimeoutError:
            raise
        except OSError:
            raise httpcore.WriteError from None

    def _wait_for_space(self) -> None:
        """Until the peer reads on. Raises httpcore.WriteError when it has answered instead: the rest is not sent. Raises CallerGone."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN | select.POLLOUT)
        until = Deadline.after(self._call.seconds_left())
        while True:
            ready = poll.poll(math.ceil(min(until.remaining(), _LOOK_SECONDS) * 1000))
            self._check_caller()
            if not ready:
                if not until.remaining():
                    raise TimeoutError
                continue
            if ready[0][1] & ~select.POLLOUT:
                self._sock.settimeout(0)
                with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError):  # a session ticket is no response
                    self._early = self._sock.recv(_READ)
                    raise httpcore.WriteError
            if ready[0][1] & select.POLLOUT:
                return

    def _check_caller(self) -> None:
        if self._call.is_abandoned is not None and self._call.is_abandoned():
            raise CallerGone("the caller hung up before the provider's response was complete") from None

    def has_decrypted(self) -> bool:
        """Whether OpenSSL holds bytes that were not read."""
        return self._early is not None or (isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0)

    def get_extra_info(self, info: str) -> Any:
        """`is_readable`: whether an idle connection was closed by the peer, or has unexpected data."""
        if info != "is_readable" or self._sock.fileno() < 0:
            return info == "is_readable"
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        self._sock.close()


@lru_cache(maxsize=4)  # it is read once: parsing the public authorities takes 50 ms
def tls_context(ca_bundle: Path | None) -> ssl.SSLContext:
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
            raise SettingsRefused(problem) from None
    return context
