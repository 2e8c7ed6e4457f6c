"""
Limits of a provider for the calls of one account, as its responses say.

A limit that is reached is a pause for the account in every process: calls through the proxy and new tokens wait for it, and the provider is not
asked. Calls that are under way when it is reached may still exceed it.
"""

import contextlib
import re
from collections.abc import Mapping
from uuid import UUID

from gateway.catalog import AnyEntry
from gateway.database.queries.tokens import pause_account
from gateway.errors import DatabaseUnavailable, Quota
from gateway.http import parse_retry_after
from gateway.services import Runtime

_INTERVAL_MS = 10_000
"""After too many requests, where the response does not say for how long."""
_DAY_SECONDS = 86_400.0
_UNKNOWN_DAY_SECONDS = 3600.0


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
