"""
The only socket to the internet.

    outbound = Outbound(user_agent="oauth-gateway/1.0 (+https://connect.example.com)")
    answer = outbound.request("POST", url, headers={...}, body="grant_type=…")

One is made for the process and kept, with its connections and its TLS context. It says what came back, whatever the status;
what that means is the caller's to judge. Redirects are not followed, cookies not kept, nothing is sent twice.
"""

from __future__ import annotations

import os
import re
import threading
import weakref
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import certifi
import requests
from requests.structures import CaseInsensitiveDict

from gateway.errors import ProviderFailed, ProviderGarbled, ProviderUnavailable, SettingsRefused
from gateway.http.addresses import Origin, Resolver, Roads, check_url, system, target_of
from gateway.http.connections import FEWEST_SECONDS, Adapter, Session, here, tls_context
from gateway.http.deadline import Call, Deadline, Watchdog
from gateway.http.limits import FOREIGN, judged, whole_body

__all__ = ["Answer", "Deadline", "Outbound", "Resolver", "check_url", "system"]

DEFAULT_SECONDS = 10.0
MOST_IN_FLIGHT = 48
"""To one origin. Three quarters of the threads: a provider that hangs leaves a quarter to the others."""

_OURS = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "accept-encoding", "user-agent", "cookie"}
)
_METHOD = re.compile(r"[A-Z]{3,10}")
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\t\x20-\x7e]*")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: any status, header names in any case, and the body whole and decoded, at most 64 KiB."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class Outbound:
    """Calls providers, within bounds of time, size, number and address. Safe to use from many threads and over a fork."""

    def __init__(
        self,
        *,
        user_agent: str = "oauth-gateway",
        allow_private: bool = False,
        ca_bundle: Path | None = None,
        resolve: Resolver = system,
    ) -> None:
        """
        `user_agent`: who we are (RFC 9110 section 10.1.5). `allow_private`: loopback and private addresses too, and there
        plain http. `ca_bundle`: PEM file with certificate authorities beside the public ones. `resolve`: for tests.

        Raises SettingsRefused when `ca_bundle` cannot be used.
        """
        self._user_agent = user_agent
        self._allow_private = allow_private
        self._resolve = resolve
        try:
            self._tls = tls_context([certifi.where(), *([str(ca_bundle)] if ca_bundle else [])])
        except OSError:
            raise SettingsRefused(["GATEWAY_CA_BUNDLE is not a readable file of certificates in PEM form."]) from None
        self._begin()
        _LIVING.add(self)

    def _begin(self) -> None:
        """Everything that a forked child must not share with its parent: connections, threads and locks."""
        self._roads = Roads(self._resolve, allow_private=self._allow_private)
        self._watchdog = Watchdog()
        self._in_flight: Counter[Origin] = Counter()
        self._lock = threading.Lock()
        self._session = Session(Adapter(self._tls))

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: str | bytes | None = None,
        deadline: Deadline | None = None,
    ) -> Answer:
        """
        One exchange, over by `deadline` (ten seconds from now, if none is given) from the name lookup to the last byte.

        `headers` about the connection, `Cookie` and `User-Agent` are ours: the caller's are left out. A `str` body goes
        as UTF-8. Raises ProviderUnavailable when there is no complete answer (which may mean that the request was acted
        upon), and ProviderGarbled when there is one that is too large or not HTTP, or when `headers` cannot be sent.
        """
        try:
            origin = check_url(url, allow_private=self._allow_private)
        except ValueError as refused:
            raise ProviderUnavailable(f"address refused: {refused}") from None
        prepared = self._prepared(method, url, headers or {}, body)
        call = self._enter(origin, deadline or Deadline.after(DEFAULT_SECONDS))
        try:
            return self._exchange(prepared, origin, call)
        except FOREIGN as error:
            failure = judged(error, origin, late=call.expired or not call.deadline.remaining())
        except ProviderFailed as error:
            failure = type(error)(str(error))
        finally:
            self._leave(origin, call)
        raise failure  # outside of the handler, so that no foreign exception, with its URL, hangs on to it

    def close(self) -> None:
        """Close the kept connections and end the watchdog."""
        self._session.close()
        self._watchdog.close()

    def _prepared(
        self, method: str, url: str, headers: Mapping[str, str], body: str | bytes | None
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
            prepared.body = body.encode() if isinstance(body, str) else body
            prepared.headers["Content-Length"] = str(len(prepared.body))
        return prepared

    def _enter(self, origin: Origin, deadline: Deadline) -> Call:
        if not deadline.remaining():
            raise ProviderUnavailable(f"{origin}: no time was left to ask")
        with self._lock:
            if self._in_flight[origin] >= MOST_IN_FLIGHT:
                raise ProviderUnavailable(f"{origin}: too many calls are waiting for it")
            self._in_flight[origin] += 1
        return self._watchdog.watch(deadline)

    def _leave(self, origin: Origin, call: Call) -> None:
        self._watchdog.release(call)
        with self._lock:
            self._in_flight[origin] -= 1
            if not self._in_flight[origin]:
                del self._in_flight[origin]

    def _exchange(self, prepared: requests.PreparedRequest, origin: Origin, call: Call) -> Answer:
        here.call, here.origin, here.target, here.roads = call, origin, target_of(str(prepared.url)), self._roads
        patience = max(FEWEST_SECONDS, call.deadline.remaining())
        response = self._session.send(prepared, stream=True, allow_redirects=False, timeout=patience, proxies={})
        try:
            body = whole_body(response.raw, response.headers)
        except BaseException:
            response.raw.close()
            raise
        if call.expired:  # an answer that ends with its connection looks complete when the watchdog cut it
            raise TimeoutError
        return Answer(response.status_code, response.headers, body)


_LIVING: weakref.WeakSet[Outbound] = weakref.WeakSet()


def _begin_anew() -> None:
    for outbound in list(_LIVING):
        outbound._begin()  # noqa: SLF001 - our own; there is no other moment for it


os.register_at_fork(after_in_child=_begin_anew)
