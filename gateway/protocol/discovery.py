"""
What issuers publish of themselves: metadata (RFC 8414, OpenID Connect Discovery) and signing keys (RFC 7517).

Fetched when first needed, kept, and fetched again seldom: metadata hourly, keys every ten minutes, and once in thirty seconds
at the most however many unknown key ids come. The last good answer stands while an issuer fails. Judges id_tokens with them: what
is a key is `keys`' to say, and what holds of a token `tokens`'.
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
from gateway.http import Deadline, HttpClient, Response
from gateway.models import Client
from gateway.protocol import read_json
from gateway.protocol.id_token import (
    CLOCK_SKEW_SECONDS,
    claims_problem,
    is_time,
    key_id_of,
    signed_claims,
    unverified_claims,
)
from gateway.protocol.jwks import PublishedKeys

__all__ = [
    "CLOCK_SKEW_SECONDS",
    "Issuers",
    "PublishedKeys",
    "is_time",
    "key_id_of",
    "signed_claims",
    "unverified_claims",
]

METADATA_SECONDS = 3600
KEYS_SECONDS = 600
"""Supabase asks not to keep its keys longer than ten minutes."""
PAUSE_SECONDS = 30
"""Between two fetches of the same thing, whatever asks for it."""
RETRY_SECONDS = 2
"""Between two tries while there is no answer at all yet: those who queued behind a failure do not repeat it one by one."""
OPTIONAL_SECONDS = 2.0
DEADLINE_SECONDS = 9.5
MOST_WAITING = 24
"""Threads behind the first fetch of one document: an issuer that hangs must not take them all."""
WAIT_SECONDS = 3.0
_TOO_LATE_SECONDS = 0.5
"""Less than this is not worth a try: a name, a handshake and an answer may not fit in."""
_TOLD = ("issuer", "authorization_response_iss_parameter_supported", *ENDPOINTS)
"""Of metadata, what is kept: the rest may be anything."""


@dataclass(slots=True)
class _Kept:
    value: Any = None
    fetched_at: float = float("-inf")
    tried_at: float = float("-inf")
    lock: threading.Lock = field(default_factory=threading.Lock)
    places: threading.BoundedSemaphore = field(default_factory=lambda: threading.BoundedSemaphore(MOST_WAITING))


class Issuers:
    """Published documents by URL, shared by all threads of a process."""

    def __init__(self, http: HttpClient, clock: Callable[[], float] = time.monotonic) -> None:
        self._http = http
        self._clock = clock
        self._kept: dict[str, _Kept] = {}
        self._guard = threading.Lock()

    # -- metadata ----------------------------------------------------------------------------------------------------

    def complete(
        self, provider: Provider, deadline: Deadline | None = None, *, needed: tuple[str, ...] = ()
    ) -> Provider:
        """
        `provider` with what it left out filled in from its issuer's metadata; unchanged when nothing is missing.

        `needed`: endpoints that the caller cannot do without, beside those of every flow. Raises IssuerMismatch when the metadata is another issuer's (RFC 8414 section 3.3), ProviderUnavailable or
        ProviderGarbled when there is none to be had.
        """
        if not (provider.issuer or provider.discovery_url) or all(getattr(provider, name) for name in ENDPOINTS):
            return provider
        wanting = bool(provider.missing_endpoints()) or any(getattr(provider, name) is None for name in needed)
        if not wanting:
            # What is still missing is optional: a slow issuer must not cost an attempt its time.
            deadline = deadline.within(OPTIONAL_SECONDS) if deadline else Deadline.after(OPTIONAL_SECONDS)
        deadline = deadline or Deadline.after(DEADLINE_SECONDS)  # one for both places where it may stand
        url = provider.discovery_url or f"{(provider.issuer or '').rstrip('/')}/.well-known/openid-configuration"
        try:
            metadata = self._get(url, METADATA_SECONDS, lambda: self._discover(provider, url, deadline), deadline)
            return _completed(provider, metadata, url)
        except ProviderFailed:
            if wanting:
                raise
            return provider

    def _discover(self, provider: Provider, url: str, deadline: Deadline | None) -> Mapping[str, Any]:
        answer = self._ask(url, deadline, provider.id)
        if answer.status == 404 and provider.issuer and not provider.discovery_url:  # noqa: PLR2004
            # RFC 8414 section 3.1: the well-known part stands between host and path.
            parts = urlsplit(provider.issuer)
            path = parts.path.rstrip("/")
            url = f"{parts.scheme}://{parts.netloc}/.well-known/oauth-authorization-server{path}"
            answer = self._ask(url, deadline, provider.id)
        if answer.status != 200:  # noqa: PLR2004
            raise _published_badly(answer.status)
        metadata = read_json(answer.body)
        _completed(provider, metadata, url)  # what does not fit never takes the place of what did
        return {name: metadata[name] for name in _TOLD if name in metadata}

    def _ask(self, url: str, deadline: Deadline | None, provider_id: str | None) -> Response:
        return self._http.request(
            "GET", url, headers={"Accept": "application/json"}, deadline=deadline, provider=provider_id
        )

    # -- keys --------------------------------------------------------------------------------------------------------

    def keys(
        self, url: str, *, key_id: str | None = None, deadline: Deadline | None = None, provider_id: str | None = None
    ) -> PublishedKeys:
        """
        The public keys at `url`; fetched anew when `key_id` is not among them, but not more often than the pause.

        Raises what the endpoint does while there are none, and ProviderUnavailable where `key_id` is not among those that stand and
        newer ones are not to be had now: whoever published it just now is not to be taken for a forger.
        """

        def fetch() -> PublishedKeys:
            answer = self._ask(url, deadline, provider_id)
            if answer.status != 200:  # noqa: PLR2004
                raise _published_badly(answer.status)
            return PublishedKeys(read_json(answer.body))

        found: PublishedKeys = self._get(url, KEYS_SECONDS, fetch, deadline)
        if key_id is not None and not found.knows(key_id):
            found = self._get(url, 0, fetch, deadline)
            old = self._clock() - self._kept[url].fetched_at >= PAUSE_SECONDS
            if old and not found.knows(key_id):
                raise ProviderUnavailable("a key that is not known here, and newer ones cannot be had now")
        return found

    def _get(self, url: str, keep_seconds: float, fetch: Callable[[], Any], deadline: Deadline | None) -> Any:
        with self._guard:
            kept = self._kept.setdefault(url, _Kept())
        if kept.value is not None and self._clock() - kept.fetched_at < keep_seconds:
            return kept.value
        if deadline is not None and deadline.remaining() < _TOO_LATE_SECONDS:
            # To try and fail for want of our own time would keep others from trying for the length of the pause.
            if kept.value is None:
                raise ProviderUnavailable("no time is left to ask the issuer")
            return kept.value
        # Whoever has an older answer goes on with it rather than wait behind a slow issuer.
        if not kept.lock.acquire(blocking=False):
            if kept.value is not None:
                return kept.value
            _wait_a_little(kept, deadline)
        try:
            return self._fetched(kept, fetch)
        finally:
            kept.lock.release()

    def _fetched(self, kept: _Kept, fetch: Callable[[], Any]) -> Any:
        pause = PAUSE_SECONDS if kept.value is not None else RETRY_SECONDS
        if self._clock() - kept.tried_at < pause:
            if kept.value is None:
                raise ProviderUnavailable("the issuer did not answer a moment ago")
            return kept.value
        try:
            found = fetch()
            if kept.value and not found:  # an empty key set
                raise ProviderGarbled("the issuer publishes nothing usable any more")
            kept.value = found
            kept.fetched_at = self._clock()
        except GatewayError:
            if kept.value is None:
                raise
        finally:
            kept.tried_at = self._clock()
        return kept.value

    # -- tokens ------------------------------------------------------------------------------------------------------

    def read_id_token(
        self,
        provider: Provider,
        client: Client,
        id_token: str,
        *,
        nonce: str | None,
        now: float,
        deadline: Deadline | None,
    ) -> Mapping[str, Any]:
        """
        The claims of an id_token (OpenID Connect Core section 3.1.3.7); ProviderGarbled when any check fails.

        `now`: Unix seconds. `nonce`: None for the answer to a refresh, which has none (section 12.2).
        """
        key_id = key_id_of(id_token)
        keys = self.keys(provider.jwks_uri or "", key_id=key_id, deadline=deadline, provider_id=provider.id)
        claims = signed_claims(id_token, keys.of(key_id), provider.id_token_signing_alg_values)
        if claims is None:
            raise ProviderGarbled("the id_token's signature does not hold")
        problem = claims_problem(provider, client, claims, nonce=nonce, now=now)
        if problem:
            raise ProviderGarbled(f"the id_token is refused: {problem}")
        return claims


def _wait_a_little(kept: _Kept, deadline: Deadline | None) -> None:
    """Comes back with the lock. Raises ProviderUnavailable where too many wait already, or when it takes too long."""
    if not kept.places.acquire(blocking=False):
        raise ProviderUnavailable("too many wait for this issuer already")
    try:
        if not kept.lock.acquire(timeout=deadline.within(WAIT_SECONDS).remaining() if deadline else WAIT_SECONDS):
            raise ProviderUnavailable("the issuer is being asked, and does not answer")
    finally:
        kept.places.release()


def _completed(provider: Provider, metadata: Mapping[str, Any], source: str) -> Provider:
    expected = provider.issuer_pattern or provider.issuer
    if expected is not None and metadata.get("issuer") != expected:
        raise IssuerMismatch("the metadata is another issuer's")
    # Endpoints stay tied to the issuer they came from, or nothing could be compared with it later.
    found: dict[str, Any] = {"issuer": metadata.get("issuer")} if expected is None else {}
    if found and not isinstance(found["issuer"], str):
        raise ProviderGarbled("the metadata does not say whose it is (RFC 8414 section 2)")
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


def _published_badly(status: int) -> GatewayError:
    if status in (408, 425, 429) or status >= 500:  # noqa: PLR2004
        return ProviderUnavailable(f"the issuer answers {status}")
    return ProviderGarbled(f"the issuer answers {status}")
