"""
A call of the provider's API on behalf of the gateway, with a connection's token; and the provider's limits for the calls of one account.

A limit that is reached, as a response says, is a pause for the account in every process: calls through the proxy and new tokens wait for it,
and the provider is not asked. Calls that are under way when it is reached may still exceed it.
"""

import contextlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from gateway.catalog import AnyEntry, Provider
from gateway.catalog.deviations import ApiRequest
from gateway.database.queries.tokens import pause_account
from gateway.errors import (
    DatabaseUnavailable,
    LacksScope,
    ProviderGarbled,
    ProviderLimit,
    ProviderUnavailable,
    Quota,
    Suspended,
)
from gateway.http import Deadline, Response, parse_retry_after
from gateway.protocol.message import api_error, is_temporary
from gateway.services import Runtime
from gateway.tokens.read import FreshToken, fresh_grant

_FAILURES = range(500, 600)
"""Too many requests for one account say nothing about others."""
_INTERVAL_MS = 10_000
"""After too many requests, where the response does not say for how long."""
_DAY_SECONDS = 86_400.0
_UNKNOWN_DAY_SECONDS = 3600.0


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


def note_limit(
    rt: Runtime,
    entry: AnyEntry,
    connection_id: UUID,
    status: int,
    headers: Mapping[str, str],
    account_id: str | None = None,
) -> tuple[str, Quota] | None:
    """Pause the account of a connection, or `account_id` below it, if a response says that a limit is reached: which one, and for how long."""
    found = reached_limit(entry, status, headers, rt.now().timestamp())
    if found:
        kind, quota = found
        given = {"account_id": account_id, "kind": kind, "most": quota.limit, "seconds": quota.seconds}
        with contextlib.suppress(DatabaseUnavailable):  # the response counts more
            pause_account(rt.database, connection_id, **given)
    return found


def reached_limit(entry: AnyEntry, status: int, headers: Mapping[str, str], now: float) -> tuple[str, Quota] | None:
    """`daily` or `burst`, with its size and the seconds until it ends; None where calls are left, or the entry knows no headers for it."""
    if entry.limit_headers is None:
        return None
    said = {field: _number(headers.get(name)) for field, name in entry.limit_headers.model_dump().items()}
    most, left, daily_most, daily_left = (said[name] for name in ("most", "remaining", "daily_most", "daily_remaining"))
    if daily_left is not None and daily_left <= 0:
        return "daily", Quota(daily_most or 0, daily_most or 0, _seconds_left(said["daily_reset_ms"], now))
    if status == 429 or (left is not None and left <= 0):  # noqa: PLR2004 - RFC 6585 section 4
        interval = min(said["interval_ms"] or _INTERVAL_MS, 3_600_000) / 1000
        pause = parse_retry_after(headers.get("Retry-After")) or max(interval, 1.0)
        return "burst", Quota(most or 0, most or 0, min(pause, _DAY_SECONDS))
    return None


def _seconds_left(reset: int | None, now: float) -> float:
    """Unit and epoch are not documented: milliseconds that are left or since 1970, or seconds since 1970."""
    meanings = [(reset or 0) / 1000, (reset or 0) / 1000 - now, (reset or 0) - now]
    return next((left for left in meanings if 0 < left <= _DAY_SECONDS), _UNKNOWN_DAY_SECONDS)


def _number(value: str | None) -> int | None:
    return int(value) if value and re.fullmatch(r"-?[0-9]{1,15}", value.strip()) else None
