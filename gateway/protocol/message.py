"""What the protocol's messages share: the form of a request, client authentication, JSON, and who must act on an error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote_plus

from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc7523 import PrivateKeyJWT

from gateway.catalog import Provider
from gateway.errors import (
    AccessDenied,
    ClientRejected,
    GatewayError,
    NeedsReauthorization,
    ProviderGarbled,
    ProviderUnavailable,
)
from gateway.models import Client

_JSON_MARKS, _MOST_VALUES = (b"{", b"[", b","), 4096
"""The number of values makes JSON slow to parse, not its length."""

_DENIED = frozenset(
    {"access_denied", "consent_required", "interaction_required", "login_required", "account_selection_required"}
)
_REGISTRATION = frozenset({
    "invalid_client", "unauthorized_client", "invalid_request", "invalid_scope", "unsupported_response_type",
    "unsupported_grant_type", "invalid_request_object", "redirect_uri_mismatch", "invalid_redirect_uri",
})  # fmt: skip
_TEMPORARY = frozenset({"temporarily_unavailable", "server_error", "slow_down"})
_GRANT_REFUSED = frozenset({"invalid_grant", "bad_verification_code", "invalid_code", "expired_token"})


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What to send; a form, unless there is no body."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: str | None = field(default=None, repr=False)


def authenticated_post(provider: Provider, client: Client, url: str, body: str) -> HttpRequest:
    """A form with the client's authentication (RFC 6749 section 2.3, RFC 7523 section 2.2)."""
    method = provider.token_endpoint_auth_method
    headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
    if method == "private_key_jwt":
        # The audience is only the issuer, where it is known, so that no other server can replay the assertion.
        signer = PrivateKeyJWT(token_endpoint=provider.issuer or url, headers={"typ": "client-authentication+jwt"})
        auth = ClientAuth(client.client_id, client.client_secret, signer)
    elif method == "client_secret_basic":
        # RFC 6749 section 2.3.1 form-encodes both before they are joined; Authlib does not.
        auth = ClientAuth(quote_plus(client.client_id), quote_plus(client.client_secret), method)
    else:
        auth = ClientAuth(client.client_id, client.client_secret, method)
    url, headers, body = auth.prepare("POST", url, headers, body)  # type: ignore[no-untyped-call]
    return HttpRequest("POST", url, headers, body)


def parse_json(body: bytes) -> Mapping[str, Any]:
    """The JSON object in `body` (RFC 8259). Raises ProviderGarbled for anything else, repeated names and NaN included."""
    if sum(map(body.count, _JSON_MARKS)) > _MOST_VALUES:
        raise ProviderGarbled("the response has too many values")
    try:
        found = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_unique_names)
    except (ValueError, RecursionError):
        raise ProviderGarbled("the response is not JSON") from None
    if not isinstance(found, dict):
        raise ProviderGarbled("the response is not a JSON object")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is repeated")
    return found


def is_temporary(status: int) -> bool:
    """Whether the same request may succeed later (RFC 9110 sections 15.5.9 and 15.6, RFC 8470, RFC 6585 section 4)."""
    return status in (408, 425, 429) or status >= 500  # noqa: PLR2004


def is_visible_ascii(value: str) -> bool:
    """Whether a code or token consists of VSCHAR and spaces (RFC 6749 appendix A); anything else could break a header or a row."""
    return value.isascii() and value.isprintable()


def error_for(code: str, *, refused: type[GatewayError]) -> GatewayError:
    """
    Our error for an error code (RFC 6749 sections 4.1.2.1 and 5.2); only known codes reach the log.

    `refused`: what a refused grant means to the caller.
    """
    if code in _TEMPORARY:
        return ProviderUnavailable(f"the provider answers {code}")
    if code in _REGISTRATION:
        return ClientRejected(f"the provider answers {code}")
    if code in _DENIED and not issubclass(refused, NeedsReauthorization):
        return AccessDenied(f"the provider answers {code}")
    if code in _GRANT_REFUSED | _DENIED:
        # A refresh that requires interaction (Microsoft's `interaction_required`) cannot ask the user.
        return refused(f"the provider answers {code}")
    return ProviderGarbled("the provider answers with an error that no standard names")
