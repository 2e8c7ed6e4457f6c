"""The revocation request and its response (RFC 7009)."""

from __future__ import annotations

from urllib.parse import quote_plus

from gateway.catalog import Provider
from gateway.errors import ClientRejected, ProviderGarbled, ProviderUnavailable
from gateway.models import Client
from gateway.protocol.message import HttpRequest, authenticated_post, parse_json
from gateway.protocol.refusal import error_names, is_dead_grant


def build_revocation_request(provider: Provider, client: Client, *, token: str, hint: str) -> HttpRequest:
    """RFC 7009 section 2.1. `hint`: `refresh_token` or `access_token`."""
    url, method = provider.revocation_endpoint or "", provider.revocation_endpoint_auth_method
    if method == "bearer":
        return HttpRequest("POST", url, {"Accept": "application/json", "Authorization": f"Bearer {token}"})
    body = f"{provider.revocation_parameter}={quote_plus(token)}&token_type_hint={hint}"
    return authenticated_post(provider, client, url, body, method=method)


def parse_revocation_response(provider: Provider, status: int, body: bytes) -> None:
    """
    Return when the token is no longer valid (RFC 7009 section 2.2); raise ProviderUnavailable or ClientRejected when it may be.

    A token that the server does not know is revoked.
    """
    if status < 300:  # noqa: PLR2004
        return
    if status in (400, 401, 403, 404, 410) and any(is_dead_grant(provider, name) for name in _error_names(body)):
        return
    if status in (400, 401, 403):
        raise ClientRejected(f"the revocation endpoint answers {status}")
    raise ProviderUnavailable(f"the revocation endpoint answers {status}")


def _error_names(body: bytes) -> list[str]:
    try:
        return list(error_names(parse_json(body)))
    except ProviderGarbled:
        return []
