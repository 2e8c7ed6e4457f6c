"""
Connections that go where they were judged to go, and stay under the watchdog's eye.

Subclasses of what `requests` and urllib3 offer for it: the address is pinned, one TLS context serves them all, kept
connections are renewed in time. Knows no OAuth, and nothing of who calls.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
import sys
import threading
import time
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection

from gateway.errors import ProviderUnavailable
from gateway.http.addresses import Origin, Roads
from gateway.http.deadline import Call, Lifeline
from gateway.http.limits import Measured

IDLE_SECONDS = 60.0
_KEPT_PER_ORIGIN = 32
_KEPT_ORIGINS = 256
FEWEST_SECONDS = 0.001
"""Zero would make a socket non-blocking."""

# urllib3 logs request targets with their query, where some providers want a token, and header lines it cannot parse.
for _name in ("connection", "connectionpool", "poolmanager", "response", "util.retry"):
    logging.getLogger(f"urllib3.{_name}").addFilter(lambda _: False)


class _Here(threading.local):
    """What the connections below this thread are for: urllib3 makes them and lets nothing be handed to them."""

    call: Call
    origin: Origin
    target: str
    roads: Roads


here = _Here()


class _Pinned(HTTPConnection):
    """Connects to the addresses that were judged; name, SNI and certificate stay those of the host."""

    response_class = Measured
    _lifeline: Lifeline | None = None
    _used_at = 0.0

    def _new_conn(self) -> socket.socket:
        sock = _connected(here.origin, here.roads, here.call)
        sys.audit("http.client.connect", self, self.host, self.port)
        self._lifeline = Lifeline(sock)
        try:
            here.call.hold(self._lifeline)
        except TimeoutError:
            sock.close()
            raise
        return sock

    @property
    def is_connected(self) -> bool:
        return time.monotonic() - self._used_at < IDLE_SECONDS and super().is_connected

    def request(self, method: str, url: str, body: Any = None, headers: Any = None, **named: Any) -> None:  # noqa: ARG002
        self._used_at = time.monotonic()
        if self._lifeline is not None:
            here.call.hold(self._lifeline)
        # What was checked is what is sent: urllib3 has encoded `url` once more.
        super().request(method, here.target, body, headers, **named)

    def close(self) -> None:
        lifeline, self._lifeline = self._lifeline, None
        super().close()
        if lifeline is not None:
            lifeline.retire()


class _PinnedTls(_Pinned, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Pinned


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _PinnedTls


def _connected(origin: Origin, roads: Roads, call: Call) -> socket.socket:
    """A socket to the first judged address that answers; each has an equal share of the time that is left."""
    addresses = roads.addresses(origin, call.deadline)
    problem = "no address"
    for position, address in enumerate(addresses):
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(max(FEWEST_SECONDS, call.deadline.remaining() / (len(addresses) - position)))
            sock.connect((address, origin.port))
            sock.settimeout(max(FEWEST_SECONDS, call.deadline.remaining()))
        except OSError as error:
            sock.close()
            problem = os.strerror(error.errno) if error.errno else "no connection in time"
        else:
            return sock
    raise ProviderUnavailable(f"{origin}: {problem}")


class Adapter(HTTPAdapter):
    """Pools by origin, all over one TLS context; no proxies, retries, redirects or cookies."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__(_KEPT_ORIGINS, _KEPT_PER_ORIGIN, max_retries=0, pool_block=False)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **named: Any) -> None:  # noqa: FBT001, FBT002
        """The parent's, with our own connections."""
        self.poolmanager = PoolManager(connections, maxsize=maxsize, block=block, **named)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}

    def get_connection_with_tls_context(self, *_: Any, **__: Any) -> Any:
        """The pool of this call's origin, whatever the environment says of proxies."""
        origin = here.origin
        tls = {"ssl_context": self._context, "cert_reqs": "CERT_REQUIRED"} if origin.scheme == "https" else {}
        return self.poolmanager.connection_from_host(origin.host, origin.port, origin.scheme, pool_kwargs=tls)

    def cert_verify(self, conn: Any, *_: Any, **__: Any) -> None:
        """Nothing: the parent would have each new connection load the CA bundle again (16 ms); the context has it."""

    def build_response(self, req: requests.PreparedRequest, resp: Any) -> requests.Response:
        """The parent's without cookies: one user's would otherwise be there to be sent with the next one's call."""
        response = requests.Response()
        response.status_code, response.raw, response.request = resp.status, resp, req
        response.headers.update(resp.headers)
        return response


class Session(requests.Session):
    """Sends prepared requests through one adapter, and has no memory and no environment of its own."""

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self.trust_env = False
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        for scheme in ("https://", "http://"):
            self.mount(scheme, adapter)

    def get_redirect_target(self, _response: requests.Response) -> None:
        """None: the parent would prepare the next request even if told not to follow, and read this answer unbounded."""


def tls_context(authorities: list[str]) -> ssl.SSLContext:
    """
    TLS 1.2 or newer, verified against the PEM files `authorities` and nothing else.

    Raises OSError (ssl.SSLError is one) when a file cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False
    for file in authorities:
        context.load_verify_locations(file)
    return context
