"""
The HTTP client for providers and for Supabase's REST API: HTTP/1.1, whole or streamed.

    http = HttpClient(user_agent="oauth-gateway/1.0 (+https://connect.example.com)")
    response = http.request("POST", url, headers={...}, body="grant_type=…", provider="acme")

One per process. It returns any status; the caller judges it. It follows no redirect, keeps no cookie and sends nothing twice;
a proxy is used for https alone, and only the one in the settings. `requests` sits above the connections, so that requests-mock can replace them in tests.
"""

import contextlib
import math
import re
import ssl
import zlib
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpcore
import requests
from pydantic import SecretStr
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict

from gateway.errors import ProviderFailed, ProviderGarbled, ProviderUnavailable
from gateway.http.addresses import AddressPolicy, Resolver, check_url, system_addresses
from gateway.http.bulkhead import FAILURES, Bulkhead, Exchange
from gateway.http.connection import Call, Connection, Deadline, Pool, Proxy, ResponseTooLarge, tls_context

DEFAULT_SECONDS = 10.0
LARGEST_BODY = 64 * 1024
"""Default limit of a response body: four times the largest real one, a key set with certificates."""
_FREE_PIECES = 256
_SMALLEST_PIECE = 256
"""On average, after the free ones: each chunk costs CPU, however small it is."""
_READ = 64 * 1024

_OURS = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "accept-encoding", "user-agent", "cookie"}
)
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\t\x20-\x7e]*")

TRANSPORT_ERRORS = (OSError, httpcore.ProtocolError, httpcore.NetworkError, ResponseTooLarge)
"""What sockets, `ssl`, `requests` and httpcore raise."""


@dataclass(frozen=True, slots=True)
class Response:
    """Any status, header names in any case, and the whole decoded body."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def is_success(self) -> bool:
        """RFC 9110 section 15.3."""
        return 200 <= self.status < 300  # noqa: PLR2004


@dataclass(frozen=True, slots=True)
class StreamedResponse:
    """Any status, header names in any case, and the body as it arrives, without a limit and not decoded."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: Iterator[bytes] = field(repr=False)


class HttpClient:
    """Calls within limits of time, size, number and address. Safe to use from many threads and after a fork."""

    def __init__(
        self,
        *,
        user_agent: str = "oauth-gateway",
        allow_private: bool = False,
        ca_bundle: Path | None = None,
        https_proxy: SecretStr | None = None,
        bulkhead: Bulkhead | None = None,
        resolve: Resolver = system_addresses,
    ) -> None:
        """
        `user_agent`: RFC 9110 section 10.1.5. `allow_private`: also loopback and private addresses, and plain http there.
        `ca_bundle`: PEM file with additional certificate authorities. `https_proxy`: http://[user:password@]host:port.
        `bulkhead`: bounds the calls under way.

        Raises SettingsRefused when `ca_bundle` cannot be used.
        """
        self._user_agent = user_agent
        self._allow_private = allow_private
        self._bulkhead = bulkhead
        proxy = Proxy.read(https_proxy.get_secret_value()) if https_proxy else None
        self._pool = Pool(AddressPolicy(resolve, allow_private=allow_private), tls_context(ca_bundle), proxy)
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
        failures: Container[int] = FAILURES,
    ) -> Response:
        """
        One exchange, over by `deadline` (default: ten seconds from now) from the name lookup to the last byte.

        `provider`: whose share of the bulkhead the call uses. `failures`: as of `stream`. `limit`: bytes of the body, on the wire and decoded. Caller
        headers that frame the message, `Cookie` and `User-Agent` are left out. Raises ProviderUnavailable when no complete response
        came (the request may have been processed) and ProviderGarbled when the response is too large or not HTTP; both with the part of the
        response that came.
        """
        sent = body.encode() if isinstance(body, str) else body
        options: Any = {"headers": headers, "deadline": deadline, "provider": provider, "failures": failures}
        with self.stream(method, url, body=sent, idle_seconds=math.inf, **options) as response:
            wire, received = bytearray(), bytearray()
            pieces = _bounded(response.body, limit, wire)
            try:
                for piece in decoded(pieces, response.headers):
                    received += piece
                    if len(received) > limit:
                        raise ProviderGarbled("the response is too large")
            except ProviderFailed as error:
                with contextlib.suppress(ProviderFailed):
                    deque(pieces, maxlen=0)  # the rest of a body that cannot be decoded
                error.partial = Response(response.status, response.headers, bytes(received or wire))
                raise
            return Response(response.status, response.headers, bytes(received))

    @contextlib.contextmanager
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
        caller: str = "",
        failures: Container[int] = FAILURES,
        is_abandoned: Callable[[], bool] | None = None,
    ) -> Iterator[StreamedResponse]:
        """
        Like `request`, in constant memory: `body` is sent as it is produced, the response body is an iterator.

        `body_length`: its length, where it is known; else it is sent in chunks. `idle_seconds`: the longest single wait.
        `caller`: whom the call is made for: its failures close the provider to no other. `failures`: the statuses that count as such. `is_abandoned`: whether the call can be ended with CallerGone.
        A response that arrives before the whole body was sent ends the sending.
        """
        try:
            origin = check_url(url, allow_private=self._allow_private)
        except ValueError as refused:
            raise ProviderUnavailable(f"address refused: {refused}") from None
        prepared = self._prepared(method, url, headers or {}, body, body_length)
        call = Call(origin, deadline or Deadline.after(DEFAULT_SECONDS), idle_seconds, is_abandoned)
        if not call.deadline.remaining():
            raise ProviderUnavailable(f"{origin}: no time was left to ask")
        with (
            self._bulkhead.exchange(provider or origin.host, caller, failures)
            if self._bulkhead
            else contextlib.nullcontext(Exchange()) as exchange
        ):
            response = self._send(prepared, call)
            exchange.status = response.status_code
            try:
                yield StreamedResponse(response.status_code, response.headers, _received(response.raw, call))
            finally:
                response.raw.close()

    def close(self) -> None:
        """Close the kept connections; a later call opens a new one for itself."""
        self._pool.close()

    def _send(self, prepared: requests.PreparedRequest, call: Call) -> requests.Response:
        try:
            return self._session.send(prepared, stream=True, allow_redirects=False, timeout=call, proxies={})  # type: ignore[arg-type]
        except TRANSPORT_ERRORS as error:
            failure = _translated(error, call)
        # The body may have come although its head is not HTTP.
        received = bytes(call.received)
        failure.partial = Response(200, {}, received.partition(b"\r\n\r\n")[2] or received[received.find(b"{") :])
        raise failure  # outside the handler: foreign exceptions, with URLs in them, must not be attached to it

    def _prepared(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | Iterable[bytes] | None,
        length: int | None,
    ) -> requests.PreparedRequest:
        if not _TOKEN.fullmatch(method):
            raise ProviderGarbled("the method cannot be sent")
        prepared = requests.PreparedRequest()
        prepared.method, prepared.url = method, url
        prepared.headers = CaseInsensitiveDict({"User-Agent": self._user_agent, "Accept-Encoding": "identity"})
        for name, value in headers.items():
            if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
                raise ProviderGarbled("a header holds what HTTP does not allow (RFC 9110 section 5.5)")
            if name.lower() not in _OURS:
                prepared.headers[name] = value
        if body is not None:
            prepared.body = body  # type: ignore[assignment] # requests itself puts iterators there
            length = len(body) if isinstance(body, bytes) else length
            framing = ("Transfer-Encoding", "chunked") if length is None else ("Content-Length", str(length))
            prepared.headers[framing[0]] = framing[1]
        return prepared


def parse_retry_after(value: str | None) -> float | None:
    """Retry-After in seconds (RFC 9110 section 10.2.3); a date or nonsense counts as not given."""
    return float(value) if value is not None and re.fullmatch("[0-9]{1,6}", value) else None


# -- reading a response ----------------------------------------------------------------------------------------------


def _received(raw: Any, call: Call) -> Iterator[bytes]:
    try:
        yield from raw.stream(_READ, decode_content=False)
    except TRANSPORT_ERRORS as error:
        failure = _translated(error, call)
    else:
        return
    raise failure


def _bounded(pieces: Iterator[bytes], limit: int, read: bytearray) -> Iterator[bytes]:
    """The pieces, added to `read`. Raises ProviderGarbled when they are more than `limit` bytes, or too many tiny ones."""
    for count, piece in enumerate(pieces):
        read += piece
        if len(read) > limit or count > _FREE_PIECES + len(read) // _SMALLEST_PIECE:
            raise ProviderGarbled("the response is too large")
        yield piece


def decoded(pieces: Iterator[bytes], headers: Mapping[str, str]) -> Iterator[bytes]:
    """The pieces of a body, in small ones where it was compressed although `identity` was requested. They raise ProviderGarbled."""
    coding = headers.get("Content-Encoding", "identity").strip().lower()
    return pieces if coding in ("", "identity") else _inflated(pieces, coding)


def _inflated(pieces: Iterator[bytes], coding: str) -> Iterator[bytes]:
    # 32: detect gzip or zlib, which is what `deflate` means (RFC 9110 section 8.4.1).
    inflater, has_begun = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32), False
    try:
        for piece in pieces:
            has_begun = True  # a response to HEAD has no body
            if coding not in ("gzip", "x-gzip", "deflate"):
                raise ProviderGarbled("the response has a content coding that was not asked for")
            data = inflater.decompress(piece, _READ)
            while data:
                yield data
                data = inflater.decompress(inflater.unconsumed_tail, _READ)
    except zlib.error:
        raise ProviderGarbled("the response cannot be decompressed") from None
    if has_begun and (not inflater.eof or inflater.unused_data):
        raise ProviderGarbled("the response's gzip is cut short, or goes on after its end")


def _translated(error: BaseException, call: Call) -> ProviderFailed:
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


class _Session(requests.Session):
    """Sends prepared requests through one adapter, without environment and memory."""

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self.trust_env = False
        for scheme in ("https://", "http://"):
            self.mount(scheme, _Adapter(pool))

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: the parent prepares the next request even when it may not follow, and reads this response without a limit."""


class _Adapter(BaseAdapter):
    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self._pool = pool

    def send(  # type: ignore[override] # `timeout` is our Call
        self, request: requests.PreparedRequest, *_: Any, timeout: Call, **__: Any
    ) -> requests.Response:
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

    def __init__(self, received: httpcore.Response, connection: Connection, pool: Pool) -> None:
        self._received = received
        self._connection = connection
        self._pool = pool

    def stream(self, _amount: int, decode_content: bool | None = None) -> Iterator[bytes]:  # noqa: ARG002, FBT001
        return self._received.iter_stream()

    def close(self) -> None:
        """Keep the connection when the body was read to its end, else close it."""
        self._received.close()
        self._pool.put_back(self._connection)
