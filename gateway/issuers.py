"""
What issuers publish of themselves: metadata (RFC 8414, OpenID Connect Discovery) and signing keys (RFC 7517).

Fetched when first needed, kept, and fetched again seldom: metadata hourly, keys every ten minutes, and once in thirty seconds
at the most however many unknown key ids come. The last good answer stands while an issuer fails. Judges id_tokens with them.
"""

from __future__ import annotations

import hmac
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard
from urllib.parse import urlsplit

from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from gateway.catalog import ENDPOINTS, Provider
from gateway.errors import GatewayError, IssuerMismatch, ProviderFailed, ProviderGarbled, ProviderUnavailable
from gateway.models import Client
from gateway.oauth import read_json
from gateway.outbound import Deadline, Outbound

METADATA_SECONDS = 3600
KEYS_SECONDS = 600
"""Supabase asks not to keep its keys longer than ten minutes."""
PAUSE_SECONDS = 30
"""Between two fetches of the same thing, whatever asks for it."""
RETRY_SECONDS = 2
"""Between two tries while there is no answer at all yet: those who queued behind a failure do not repeat it one by one."""
CLOCK_SKEW_SECONDS = 60
OPTIONAL_SECONDS = 2.0
DEADLINE_SECONDS = 9.5
MOST_WAITING = 24
"""Threads behind the first fetch of one document: an issuer that hangs must not take them all."""
WAIT_SECONDS = 3.0
_TOO_LATE_SECONDS = 0.5
"""Less than this is not worth a try: a name, a handshake and an answer may not fit in."""
_TOLD = ("issuer", "authorization_response_iss_parameter_supported", *ENDPOINTS)
"""Of metadata, what is kept: the rest may be anything."""
_LONGEST_TOKEN = 16_384
_PUBLIC = ("kty", "kid", "use", "alg", "key_ops", "crv", "n", "e", "x", "y")
"""Of a key, what it is verified with (RFC 7518 section 6). Certificates and whatever else stands there are not read."""
_LONGEST_MEMBER = 2_732
"""Letters of base64: 16,384 bits, beyond which OpenSSL verifies nothing."""
_MOST_KEYS = 48
"""Usable ones. To import one costs 0.16 ms, and honest sets have two to a dozen."""


@dataclass(slots=True)
class _Kept:
    value: Any = None
    fetched_at: float = float("-inf")
    tried_at: float = float("-inf")
    lock: threading.Lock = field(default_factory=threading.Lock)
    places: threading.BoundedSemaphore = field(default_factory=lambda: threading.BoundedSemaphore(MOST_WAITING))


class Issuers:
    """Published documents by URL, shared by all threads of a process."""

    def __init__(self, outbound: Outbound, clock: Callable[[], float] = time.monotonic) -> None:
        self._outbound = outbound
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
        answer = self._outbound.request("GET", url, headers={"Accept": "application/json"}, deadline=deadline)
        if answer.status == 404 and provider.issuer and not provider.discovery_url:  # noqa: PLR2004
            # RFC 8414 section 3.1: the well-known part stands between host and path.
            parts = urlsplit(provider.issuer)
            path = parts.path.rstrip("/")
            url = f"{parts.scheme}://{parts.netloc}/.well-known/oauth-authorization-server{path}"
            answer = self._outbound.request("GET", url, headers={"Accept": "application/json"}, deadline=deadline)
        if answer.status != 200:  # noqa: PLR2004
            raise _published_badly(answer.status)
        metadata = read_json(answer.body)
        _completed(provider, metadata, url)  # what does not fit never takes the place of what did
        return {name: metadata[name] for name in _TOLD if name in metadata}

    # -- keys --------------------------------------------------------------------------------------------------------

    def keys(self, url: str, *, key_id: str | None = None, deadline: Deadline | None = None) -> KeySet:
        """
        The public keys at `url`; fetched anew when `key_id` is not among them, but not more often than the pause.

        Raises what the endpoint does while there are none, and ProviderUnavailable where `key_id` is not among those that stand and
        newer ones are not to be had now: whoever published it just now is not to be taken for a forger.
        """

        def fetch() -> KeySet:
            answer = self._outbound.request("GET", url, headers={"Accept": "application/json"}, deadline=deadline)
            if answer.status != 200:  # noqa: PLR2004
                raise _published_badly(answer.status)
            return _asymmetric(read_json(answer.body))

        found: KeySet = self._get(url, KEYS_SECONDS, fetch, deadline)
        if key_id is not None and all(key.kid != key_id for key in found.keys):
            found = self._get(url, 0, fetch, deadline)
            old = self._clock() - self._kept[url].fetched_at >= PAUSE_SECONDS
            if old and all(key.kid != key_id for key in found.keys):
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
        keys = self.keys(provider.jwks_uri or "", key_id=key_id, deadline=deadline)
        claims = signed_claims(id_token, keys, provider.id_token_signing_alg_values)
        if claims is None:
            raise ProviderGarbled("the id_token's signature does not hold")
        problem = _claims_problem(provider, client, claims, nonce=nonce, now=now)
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


def key_id_of(token: str) -> str | None:
    """The `kid` in a token's header, unverified; None when there is none or it is not to be believed."""
    if len(token) > _LONGEST_TOKEN:
        return None
    try:
        header = jws.extract_compact(token.encode()).headers()
    except (JoseError, ValueError, UnicodeError):
        return None
    key_id = header.get("kid")
    return key_id if isinstance(key_id, str) and len(key_id) <= 200 else None  # noqa: PLR2004


def unverified_claims(token: str) -> Mapping[str, Any]:
    """The claims of a compact JWT as they stand there; none where it is none. Only for one that its issuer handed over itself."""
    try:
        return read_json(jws.extract_compact(token.encode()).payload)
    except (JoseError, ProviderGarbled, ValueError):
        return {}


def signed_claims(token: str, keys: Any, algorithms: tuple[str, ...]) -> Mapping[str, Any] | None:
    """
    The claims of a compact JWT (RFC 7519) whose signature one of `keys` verifies with one of `algorithms`, else None.

    RFC 8725 sections 3.1 and 3.2: the algorithms are ours to say; joserfc holds them to the key's type.
    """
    if len(token) > _LONGEST_TOKEN:
        return None
    try:
        decoded = jwt.decode(token, keys, algorithms=list(algorithms))
    except (JoseError, ValueError, TypeError, UnicodeError, RecursionError, KeyError):
        return None
    return decoded.claims if isinstance(decoded.claims, dict) else None


def _claims_problem(  # noqa: PLR0911 - one line a rule, in the order of the specification
    provider: Provider, client: Client, claims: Mapping[str, Any], *, nonce: str | None, now: float
) -> str | None:
    issuer = provider.issuer
    if provider.issuer_pattern:
        issuer = provider.issuer_pattern.replace("{tenantid}", str(claims.get("tid")))
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    expires, issued = claims.get("exp"), claims.get("iat")
    given_nonce = claims.get("nonce")
    if issuer is not None and claims.get("iss") != issuer:
        return "iss"
    if client.client_id not in audiences:
        return "aud"
    if (len(audiences) > 1 or "azp" in claims) and claims.get("azp") != client.client_id:
        return "azp"
    if not is_time(expires) or expires <= now - CLOCK_SKEW_SECONDS:
        return "exp"
    if not is_time(issued) or issued > now + 10 * CLOCK_SKEW_SECONDS:
        return "iat"
    if nonce is not None and (
        not isinstance(given_nonce, str)
        or not hmac.compare_digest(given_nonce.encode("utf-8", "replace"), nonce.encode())
    ):
        return "nonce"
    if not isinstance(claims.get("sub"), str) or not claims["sub"]:
        return "sub"
    return None


def is_time(value: Any) -> TypeGuard[float]:
    """Whether a claim is a NumericDate (RFC 7519 section 2)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53  # false for NaN too


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


def _asymmetric(document: Mapping[str, Any]) -> KeySet:
    """The signing keys in a JWK set; symmetric ones and kinds that we do not know are left out."""
    entries = document.get("keys")
    if not isinstance(entries, list):
        raise ProviderGarbled("the key set holds no keys")
    usable: list[Any] = []
    for entry in entries:
        if len(usable) >= _MOST_KEYS:
            break
        if (
            not isinstance(entry, dict)
            or not _is_sound(entry)
            or entry.get("kty") not in ("RSA", "EC", "OKP")
            or entry.get("use", "sig") != "sig"
        ):
            continue
        try:
            public = {name: entry[name] for name in _PUBLIC if name in entry}
            usable.extend(KeySet.import_key_set({"keys": [public]}).keys)
        except (JoseError, ValueError, TypeError, KeyError):
            continue
    return KeySet(usable)


def _is_sound(entry: Mapping[str, Any]) -> bool:
    """RFC 7518 section 3.3: an RSA modulus has 2048 bits or more, which is 342 letters of base64; and no member is endless."""
    lengths = [len(str(entry.get(name, ""))) for name in _PUBLIC]
    return max(lengths) <= _LONGEST_MEMBER and (entry.get("kty") != "RSA" or len(str(entry.get("n"))) >= 342)  # noqa: PLR2004


def _published_badly(status: int) -> GatewayError:
    if status in (408, 425, 429) or status >= 500:  # noqa: PLR2004
        return ProviderUnavailable(f"the issuer answers {status}")
    return ProviderGarbled(f"the issuer answers {status}")
