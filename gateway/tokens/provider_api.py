"""A call of the provider's API on behalf of the gateway, with a connection's token."""

import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from gateway.catalog import Provider
from gateway.catalog.deviations import ApiRequest
from gateway.errors import LacksScope, ProviderGarbled, ProviderLimit, ProviderUnavailable, Suspended
from gateway.http import Deadline, Response
from gateway.protocol.message import api_error, is_temporary
from gateway.services import Runtime
from gateway.tokens.provider_limits import note_limit
from gateway.tokens.read import FreshToken, fresh_grant

_FAILURES = range(500, 600)
"""Too many requests for one account say nothing about others."""


def call_api(
    rt: Runtime, provider: Provider, connection_id: UUID, build: Callable[[FreshToken], ApiRequest], deadline: Deadline
) -> tuple[FreshToken, Response]:
    """
    The token that was used, and the response. A token that the provider no longer accepts is refreshed once.

    Raises ProviderLimit with the provider's pause, also before the request where that lasts, LacksScope, Suspended, ProviderGarbled for another 401 that a new token does not change,
    ProviderUnavailable, and what `fresh_grant` raises.
    """
    fresh = fresh_grant(rt, connection_id, until=deadline, scope="proxy")
    found = send_api(rt, provider, fresh.access_token, fresh.facts, build(fresh), deadline)
    if api_error(provider, found) == "token_refused":
        fresh = fresh_grant(rt, connection_id, refused=fresh, until=deadline, scope="proxy")
        found = send_api(rt, provider, fresh.access_token, fresh.facts, build(fresh), deadline)
    limit = note_limit(rt, provider, connection_id, found.status, found.headers)
    if limit and found.status == 429:  # noqa: PLR2004 - RFC 6585 section 4
        raise ProviderLimit("the provider limits calls for this account", *limit)
    if is_temporary(found.status):
        raise ProviderUnavailable(f"the provider's API answers {found.status}")
    if (error := api_error(provider, found)) == "missing_scope":
        raise LacksScope("the provider says that the token does not allow this")
    if error == "suspended":
        raise Suspended("the provider says that the account is not active")
    if found.status == 401:  # noqa: PLR2004
        raise ProviderGarbled(f"the provider's API refuses the call: {error}")
    return fresh, found


def send_api(
    rt: Runtime, provider: Provider, token: str, facts: Mapping[str, Any], asked: ApiRequest, deadline: Deadline
) -> Response:
    """One request with an access token. `facts`: of its connection."""
    placement = provider.token_placement
    headers = {"Accept": "application/json", **provider.api(facts)[1], **placement.headers(token)}
    body = None
    if asked.form is not None:
        headers["Content-Type"], body = "application/x-www-form-urlencoded", urlencode(asked.form)
    elif asked.json is not None:
        headers["Content-Type"], body = "application/json", json.dumps(dict(asked.json))
    url = placement.url(asked.url, token)
    return rt.http.request(
        asked.method, url, headers=headers, body=body, deadline=deadline, provider=provider.id, failures=_FAILURES
    )
