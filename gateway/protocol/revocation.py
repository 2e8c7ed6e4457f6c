"""The revocation request and its response (RFC 7009)."""

from __future__ import annotations

from urllib.parse import quote_plus

from gateway.catalog import Provider
from gateway.errors import ClientRejected, ProviderGarbled, ProviderUnavailable
from gateway.models import Client
from gateway.protocol.message import HttpRequest, authenticated_post, parse_json


def build_revocation_request(provider: Provider, client: Client, *, token: str, hint: str) -> HttpRequest:
    """RFC 7009 section 2.1. `hint`: `refresh_token` or `access_token`."""
    body = f"token={quote_plus(token)}&token_type_hint={hint}"
    return authenticated_post(provider, client, provider.revocation_endpoint or "", body)


def parse_revocation_response(status: int, body: bytes) -> None:
    """
    Return when the token is no longer valid (RFC 7009 section 2.2); raise ProviderUnavailable or ClientRejected when it may be.

    A token that the server does not know is revoked.
    """
    if status < 300:  # noqa: PLR2004
        return
    if status == 400 and _error_code(body) in ("invalid_token", "invalid_grant"):  # noqa: PLR2004
        return
    if status in (400, 401, 403):
        raise ClientRejected(f"the revocation endpoint answers {status}")
    raise ProviderUnavailable(f"the revocation endpoint answers {status}")


def _error_code(body: bytes) -> str | None:
    try:
        error = parse_json(body).get("error")
    except ProviderGarbled:
        return None
    return error if isinstance(error, str) else None
