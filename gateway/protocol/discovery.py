"""
Documents of issuers: metadata (RFC 8414, OpenID Connect Discovery) and signing keys (RFC 7517).

Each document is fetched when it is first needed and kept. While an issuer fails, its last good document stays in use.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from gateway.catalog import ENDPOINTS, Provider
from gateway.errors import GatewayError, IssuerMismatch, ProviderFailed, ProviderGarbled, ProviderUnavailable
from gateway.http import Bulkhead, Deadline, HttpClient
from gateway.models import Client
from gateway.protocol.id_token import PublishedKeys, key_id_of, parse_id_token
from gateway.protocol.message import is_temporary, parse_json

METADATA_SECONDS = 3600
KEYS_SECONDS = 600
"""Supabase asks not to keep its keys longer than ten minutes."""
PAUSE_SECONDS = 30
"""The shortest time between two fetches of one document, however many unknown key ids arrive."""
RETRY_SECONDS = 2
"""The same while there is no good document yet."""
OPTIONAL_SECONDS = 2.0
DEADLINE_SECONDS = 9.5
WAIT_SECONDS = 3.0
_TOO_LATE_SECONDS = 0.5
"""Less time is not enough for a name lookup, a handshake and a response."""
_KEPT_METADATA = ("issuer", "authorization_response_iss_parameter_supported", *ENDPOINTS)


@dataclass(slots=True)
class _Document:
    value: Any = None
    fetched_at: float = float("-inf")
    tried_at: float = float("-inf")
    lock: threading.Lock = field(default_factory=threading.Lock)


class Issuers:
    """Published documents by URL, shared by all threads of a process."""

    def __init__(
        self, http: HttpClient, clock: Callable[[], float] = time.monotonic, *, bulkhead: Bulkhead | None = None
    ) -> None:
        """`bulkhead`: bounds the threads that wait for a first fetch, as it bounds those that fetch."""
        self.http = http
        self._bulkhead = bulkhead or Bulkhead()
        self._clock = clock
        self._documents: dict[str, _Document] = {}
        self._lock = threading.Lock()

    def complete(
        self, provider: Provider, deadline: Deadline | None = None, *, needed: tuple[str, ...] = ()
    ) -> Provider:
        """
        `provider`, with what it leaves out taken from its issuer's metadata.

        `needed`: endpoints that the caller needs besides those of every flow. Raises IssuerMismatch when the metadata is another
        issuer's (RFC 8414 section 3.3), ProviderUnavailable or ProviderGarbled when it cannot be had.
        """
        if (
            not provider.discovery
            or not (provider.issuer or provider.discovery_url)
            or all(getattr(provider, name) for name in ENDPOINTS)
        ):
            return provider
        is_needed = bool(provider.missing_endpoints()) or any(getattr(provider, name) is None for name in needed)
        if not is_needed:
            # Only optional endpoints are missing: a slow issuer must not cost an attempt its time.
            deadline = deadline.within(OPTIONAL_SECONDS) if deadline else Deadline.after(OPTIONAL_SECONDS)
        until = deadline or Deadline.after(DEADLINE_SECONDS)
        url = provider.discovery_url or f"{(provider.issuer or '').rstrip('/')}/.well-known/openid-configuration"
        try:
            metadata = self._get(
                url, METADATA_SECONDS, lambda: self._fetch_metadata(provider, url, until), until, provider.id
            )
            return _completed(provider, metadata, url)
        except ProviderFailed:
            if is_needed:
                raise
            return provider

    def keys(
        self, url: str, *, key_id: str | None = None, deadline: Deadline | None = None, provider_id: str | None = None
    ) -> PublishedKeys:
        """
        The public keys at `url`; fetched again when `key_id` is not among them, but not more often than the pause allows.

        Raises ProviderUnavailable also when `key_id` is unknown and newer keys cannot be had: its issuer may just have
        published it.
        """

        def fetch() -> PublishedKeys:
            return PublishedKeys(parse_json(self._fetch(url, deadline, provider_id)))

        keys: PublishedKeys = self._get(url, KEYS_SECONDS, fetch, deadline, provider_id)
        if key_id is not None and not keys.knows(key_id):
            keys = self._get(url, 0, fetch, deadline, provider_id)
            is_old = self._clock() - self._documents[url].fetched_at >= PAUSE_SECONDS
            if is_old and not keys.knows(key_id):
                raise ProviderUnavailable("the key is unknown, and newer keys cannot be had now")
        return keys

    def read_id_token(
        self,
        provider: Provider,
        client: Client,
        id_token: str,
        *,
        nonce: str,
        now: float,
        deadline: Deadline | None,
    ) -> Mapping[str, Any]:
        """`parse_id_token` with the keys that the provider publishes."""
        key_id = key_id_of(id_token)
        keys = self.keys(provider.jwks_uri or "", key_id=key_id, deadline=deadline, provider_id=provider.id)
        return parse_id_token(provider, client, id_token, keys.of(key_id), nonce=nonce, now=now)

    def _fetch_metadata(self, provider: Provider, url: str, deadline: Deadline) -> Mapping[str, Any]:
        try:
            metadata = parse_json(self._fetch(url, deadline, provider.id))
        except _NotFound:
            if provider.discovery_url or not provider.issuer:
                raise
            # RFC 8414 section 3.1: the well-known part is between host and path.
            parts = urlsplit(provider.issuer)
            path = f"/.well-known/oauth-authorization-server{parts.path.rstrip('/')}"
            metadata = parse_json(self._fetch(f"{parts.scheme}://{parts.netloc}{path}", deadline, provider.id))
        _completed(provider, metadata, url)  # metadata that does not fit must not replace metadata that did
        return {name: metadata[name] for name in _KEPT_METADATA if name in metadata}

    def _fetch(self, url: str, deadline: Deadline | None, provider_id: str | None) -> bytes:
        headers = {"Accept": "application/json"}
        response = self.http.request("GET", url, headers=headers, deadline=deadline, provider=provider_id)
        if is_temporary(response.status):
            raise ProviderUnavailable(f"the issuer answers {response.status}")
        if response.status != 200:  # noqa: PLR2004
            raise (_NotFound if response.status == 404 else ProviderGarbled)(f"the issuer answers {response.status}")  # noqa: PLR2004
        return response.body

    def _get(
        self,
        url: str,
        keep_seconds: float,
        fetch: Callable[[], Any],
        deadline: Deadline | None,
        provider_id: str | None,
    ) -> Any:
        """The document at `url`, at most `keep_seconds` old where a newer one can be had. One thread fetches it at a time."""
        with self._lock:
            document = self._documents.setdefault(url, _Document())
        if document.value is not None and self._clock() - document.fetched_at < keep_seconds:
            return document.value
        if deadline is not None and deadline.remaining() < _TOO_LATE_SECONDS:
            # A try that must fail for lack of time would keep others from trying during the pause.
            if document.value is None:
                raise ProviderUnavailable("no time is left to ask the issuer")
            return document.value
        if not document.lock.acquire(blocking=False):
            if document.value is not None:
                return document.value
            with self._bulkhead.slot(provider_id or url):
                wait = deadline.within(WAIT_SECONDS).remaining() if deadline else WAIT_SECONDS
                if not document.lock.acquire(timeout=wait):
                    raise ProviderUnavailable("the issuer is being asked, and does not answer")
        try:
            return self._renewed(document, fetch)
        finally:
            document.lock.release()

    def _renewed(self, document: _Document, fetch: Callable[[], Any]) -> Any:
        pause = RETRY_SECONDS if document.value is None else PAUSE_SECONDS
        if self._clock() - document.tried_at < pause:
            if document.value is None:
                raise ProviderUnavailable("the issuer did not answer a moment ago")
            return document.value
        try:
            found = fetch()
            if document.value and not found:  # an empty key set
                raise ProviderGarbled("the issuer publishes nothing usable any more")
            document.value, document.fetched_at = found, self._clock()
        except GatewayError:
            if document.value is None:
                raise
        finally:
            document.tried_at = self._clock()
        return document.value


class _NotFound(ProviderGarbled):
    """There is no document at this address."""


def _completed(provider: Provider, metadata: Mapping[str, Any], source: str) -> Provider:
    expected = provider.issuer_pattern or provider.issuer
    if expected is not None and metadata.get("issuer") != expected:
        raise IssuerMismatch("the metadata is another issuer's")
    # The endpoints stay tied to the issuer that named them, so that `iss` can be compared with it later.
    found: dict[str, Any] = {"issuer": metadata.get("issuer")} if expected is None else {}
    if found and not isinstance(found["issuer"], str):
        raise ProviderGarbled("the metadata does not name its issuer (RFC 8414 section 2)")
    for name in ENDPOINTS:
        if getattr(provider, name) is None and isinstance(metadata.get(name), str):
            found[name] = metadata[name]
    if source.startswith("https://") and not all(url.startswith("https://") for url in found.values()):
        raise ProviderGarbled("the metadata names an address over plain http")
    if metadata.get("authorization_response_iss_parameter_supported") is True:
        found["authorization_response_iss_parameter_supported"] = True
    try:
        whole = Provider.model_validate(provider.model_dump() | found)
    except ValueError:
        raise ProviderGarbled("the metadata holds something that is no endpoint") from None
    if whole.missing_endpoints():
        raise ProviderGarbled("the metadata leaves endpoints out")
    return whole
