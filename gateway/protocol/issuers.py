"""
What issuers publish and sign: metadata (RFC 8414, OpenID Connect Discovery), keys (RFC 7517), id_tokens and other JWTs (RFC 7519, RFC 8725).

Each document is fetched when it is first needed and kept. While an issuer fails, its last good document stays in use.
"""

import hmac
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard
from urllib.parse import urlsplit

from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, KeySetSerialization

from gateway.catalog import ENDPOINTS, Provider
from gateway.errors import GatewayError, IssuerMismatch, ProviderFailed, ProviderGarbled, ProviderUnavailable
from gateway.http import Bulkhead, Deadline, HttpClient
from gateway.models import Client
from gateway.protocol.message import is_temporary, parse_json

# -- documents -------------------------------------------------------------------------------------------------------


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
        if not provider.discovery or not provider.issuer or all(getattr(provider, name) for name in ENDPOINTS):
            return provider
        is_needed = bool(provider.missing_endpoints()) or any(getattr(provider, name) is None for name in needed)
        # Where only optional endpoints are missing, a slow issuer must not cost an attempt its time.
        until = (deadline or Deadline.after(DEADLINE_SECONDS)).within(
            DEADLINE_SECONDS if is_needed else OPTIONAL_SECONDS
        )
        url = f"{provider.issuer.rstrip('/')}/.well-known/openid-configuration"
        try:
            metadata = self._get(
                url, METADATA_SECONDS, lambda: self._fetch_metadata(provider, url, until), until, provider.id
            )
            return _completed(provider, metadata)
        except ProviderFailed:
            if is_needed:
                raise
            return provider

    def keys(
        self, url: str, *, key_id: str | None = None, deadline: Deadline | None = None, provider_id: str | None = None
    ) -> KeySet:
        """
        The public keys at `url`; fetched again when `key_id` is not among them, but not more often than the pause allows.

        Raises ProviderUnavailable also when `key_id` is unknown and newer keys cannot be had: its issuer may just have
        published it.
        """
        until = deadline or Deadline.after(DEADLINE_SECONDS)

        def fetch() -> KeySet:
            return read_keys(self._fetch(url, until, provider_id))

        keys: KeySet = self._get(url, KEYS_SECONDS, fetch, until, provider_id)
        if key_id is not None and not any(key.kid == key_id for key in keys):
            keys = self._get(url, 0, fetch, until, provider_id)
            is_old = self._clock() - self._documents[url].fetched_at >= PAUSE_SECONDS
            if is_old and not any(key.kid == key_id for key in keys):
                raise ProviderUnavailable("the key is unknown, and newer keys cannot be had now")
        return keys

    def read_id_token(
        self, provider: Provider, client: Client, id_token: str, *, nonce: str, now: float, deadline: Deadline | None
    ) -> Mapping[str, Any]:
        """
        The claims of an id_token (OpenID Connect Core section 3.1.3.7), by the keys that the provider publishes. `now`: Unix seconds.

        Raises ProviderGarbled when a check fails.
        """
        key_id = key_id_of(id_token)
        keys = self.keys(provider.jwks_uri or "", key_id=key_id, deadline=deadline, provider_id=provider.id)
        claims = signed_claims(id_token, keys, _ALGORITHMS)
        if claims is None:
            raise ProviderGarbled("the id_token's signature does not hold")
        if problem := _claims_problem(provider, client, claims, nonce=nonce, now=now):
            raise ProviderGarbled(f"the id_token is refused: {problem}")
        return claims

    def _fetch_metadata(self, provider: Provider, url: str, deadline: Deadline) -> Mapping[str, Any]:
        try:
            metadata = self._fetch(url, deadline, provider.id)
        except ProviderGarbled as error:
            if error.provider_status != 404:  # noqa: PLR2004 - RFC 9110 section 15.5.5
                raise
            # RFC 8414 section 3.1: the well-known part is between host and path.
            parts = urlsplit(provider.issuer or "")
            path = f"/.well-known/oauth-authorization-server{parts.path.rstrip('/')}"
            metadata = self._fetch(f"{parts.scheme}://{parts.netloc}{path}", deadline, provider.id)
        _completed(provider, metadata)  # metadata that does not fit must not replace metadata that did
        return metadata

    def _fetch(self, url: str, deadline: Deadline, provider_id: str | None) -> Mapping[str, Any]:
        headers = {"Accept": "application/json"}
        response = self.http.request("GET", url, headers=headers, deadline=deadline, provider=provider_id)
        if response.status != 200:  # noqa: PLR2004
            kind = ProviderUnavailable if is_temporary(response.status) else ProviderGarbled
            raise kind(f"the issuer answers {response.status}", provider_status=response.status)
        return parse_json(response.body)

    def _get(
        self, url: str, keep_seconds: float, fetch: Callable[[], Any], deadline: Deadline, provider_id: str | None
    ) -> Any:
        """The document at `url`, at most `keep_seconds` old where a newer one can be had. One thread fetches it at a time."""
        with self._lock:
            document = self._documents.setdefault(url, _Document())
        if document.value is not None and self._clock() - document.fetched_at < keep_seconds:
            return document.value
        # A try that must fail for lack of time would keep others from trying during the pause.
        is_locked, in_time = False, deadline.remaining() >= _TOO_LATE_SECONDS
        if in_time:
            is_locked = document.lock.acquire(blocking=False)
        if in_time and not is_locked and document.value is None:
            with self._bulkhead.slot(provider_id or url):
                is_locked = document.lock.acquire(timeout=deadline.within(WAIT_SECONDS).remaining())
        if is_locked:
            try:
                self._renew(document, fetch)
            finally:
                document.lock.release()
        if document.value is None:
            raise ProviderUnavailable("the issuer does not answer, or did not a moment ago")
        return document.value

    def _renew(self, document: _Document, fetch: Callable[[], Any]) -> None:
        """Raises only where there is no document yet."""
        if self._clock() - document.tried_at < (RETRY_SECONDS if document.value is None else PAUSE_SECONDS):
            return
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


def _completed(provider: Provider, metadata: Mapping[str, Any]) -> Provider:
    if metadata.get("issuer") != (provider.issuer_pattern or provider.issuer):
        raise IssuerMismatch("the metadata is another issuer's")
    found: dict[str, Any] = {
        name: metadata[name]
        for name in ENDPOINTS
        if getattr(provider, name) is None and isinstance(metadata.get(name), str)
    }
    is_secure = (provider.issuer or "").startswith("https://")
    if is_secure and not all(url.startswith("https://") for url in found.values()):
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


# -- keys and tokens --------------------------------------------------------------------------------------------------


CLOCK_SKEW_SECONDS = 60
_ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA")
_LONGEST_TOKEN = 16_384
_PUBLIC = ("kty", "kid", "use", "alg", "key_ops", "crv", "n", "e", "x", "y")
"""The members that verification needs (RFC 7518 section 6). Others, such as certificates, are not read."""
_LONGEST_MEMBER = 2_732
"""Base64 characters of 16,384 bits, the largest RSA key that OpenSSL verifies with."""
_MOST_KEYS = 32
"""Real sets have two to a dozen keys; importing one takes CPU."""


def read_keys(document: Mapping[str, Any]) -> KeySet:
    """
    The asymmetric signing keys of a JWK set; symmetric and unknown ones are left out. A key without a name goes by its thumbprint (RFC 7638),
    and verifies a token without a key id where it is the only one (OpenID Connect Core section 10.1).

    Raises ProviderGarbled when the document is not a JWK set.
    """
    entries = document.get("keys")
    if not isinstance(entries, list):
        raise ProviderGarbled("the key set holds no keys")
    public = [{name: entry[name] for name in _PUBLIC if name in entry} for entry in entries if _is_sound(entry)]
    return KeySet([key for entry in public[:_MOST_KEYS] for key in _imported(entry)])


def _imported(entry: Mapping[str, Any]) -> KeySet:
    try:
        return KeySet.import_key_set(KeySetSerialization(keys=[dict(entry)]))
    except (JoseError, ValueError, TypeError, KeyError):
        return KeySet([])


def _is_sound(entry: Any) -> bool:
    """RFC 7518 section 3.3: an RSA modulus has 2048 bits or more, which is 342 characters of base64."""
    if not isinstance(entry, dict) or entry.get("kty") not in ("RSA", "EC", "OKP") or entry.get("use", "sig") != "sig":
        return False
    lengths = [len(str(entry.get(name, ""))) for name in _PUBLIC]
    return max(lengths) <= _LONGEST_MEMBER and (entry["kty"] != "RSA" or len(str(entry.get("n"))) >= 342)  # noqa: PLR2004


def key_id_of(token: str) -> str | None:
    """The `kid` in a token's header, unverified; None when there is none, or none that could be a name."""
    key_id = unverified_header(token).get("kid")
    return key_id if isinstance(key_id, str) and len(key_id) <= 200 else None  # noqa: PLR2004


def unverified_header(token: str) -> Mapping[str, Any]:
    """The header of a compact JWT without a check, {} for anything else."""
    if len(token) > _LONGEST_TOKEN:
        return {}
    try:
        return jws.extract_compact(token.encode()).headers()
    except (JoseError, ValueError, UnicodeError):
        return {}


def unverified_claims(token: str) -> Mapping[str, Any]:
    """The claims of a compact JWT without a check, {} for anything else. Only for a token that came from its issuer directly."""
    try:
        return parse_json(jws.extract_compact(token.encode()).payload)
    except (JoseError, ProviderGarbled, ValueError):
        return {}


def signed_claims(token: str, keys: Any, algorithms: tuple[str, ...]) -> Mapping[str, Any] | None:
    """
    The claims of a compact JWT whose signature one of `keys` verifies with one of `algorithms`, else None.

    RFC 8725 sections 3.1 and 3.2: the caller chooses the algorithms; joserfc checks that they fit the key's type.
    """
    if len(token) > _LONGEST_TOKEN:
        return None
    try:
        decoded = jwt.decode(token, keys, algorithms=list(algorithms))
    except (JoseError, ValueError, TypeError, UnicodeError, RecursionError, KeyError):
        return None
    return decoded.claims if isinstance(decoded.claims, dict) else None


def _claims_problem(  # noqa: PLR0911 - one line a rule, in the order of the specification
    provider: Provider, client: Client, claims: Mapping[str, Any], *, nonce: str, now: float
) -> str | None:
    """The name of the first claim that is wrong, or None."""
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
    if not isinstance(given_nonce, str) or not hmac.compare_digest(
        given_nonce.encode("utf-8", "replace"), nonce.encode()
    ):
        return "nonce"
    if not isinstance(claims.get("sub"), str) or not claims["sub"]:
        return "sub"
    return None


def is_time(value: Any) -> TypeGuard[float]:
    """Whether a claim is a NumericDate (RFC 7519 section 2)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53  # false for NaN too
