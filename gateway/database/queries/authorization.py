"""Authorization requests: stored when the browser leaves for the provider, taken once when it returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from pydantic import TypeAdapter

from gateway.database import Database
from gateway.models import AuthorizationRequest, Connection, Display

Mismatch = Literal["browser_mismatch", "user_mismatch"]


class EarlierVisit(NamedTuple):
    """An attempt that was taken before. `request`: None while that visit is under way; `connection`: None while the grant is pending."""

    request: AuthorizationRequest | None = None
    connection: Connection | None = None


_VISIT = TypeAdapter(EarlierVisit)


def start_authorization(
    database: Database,
    *,
    session_hash: str,
    state_hash: str,
    browser_hash: str,
    provider: str,
    encrypted: str,
    scope: Sequence[str],
    return_to: str | None,
    display: Display,
    add_account: bool,
) -> tuple[str, ...] | None:
    """Store an attempt of the signed-in user for ten minutes; the scopes to request. None when the session has ended."""
    row = database.call(
        "start_authorization",
        session_hash=session_hash,
        state_hash=state_hash,
        browser_hash=browser_hash,
        provider=provider,
        encrypted=encrypted,
        scope=scope,
        return_to=return_to,
        display=display,
        add_account=add_account,
    )
    return None if row is None else tuple(row["scope"])


def take_authorization(
    database: Database, *, state_hash: str, provider: str | None, browser_hash: str, session_hash: str
) -> AuthorizationRequest | EarlierVisit | Mismatch | None:
    """
    Take the attempt, once; afterwards its result, for the browser and user that finished it. None for an unknown or expired state, and where
    the attempt failed.

    A mismatch leaves it as it was, so that a link scanner or another user cannot use it up. `provider`: of the callback; the wrong one uses
    the attempt up.
    """
    row = database.call(
        "take_authorization",
        state_hash=state_hash,
        provider=provider,
        browser_hash=browser_hash,
        session_hash=session_hash,
    )
    if row is None or "mismatch" in row:
        mismatch: Mismatch | None = row and row["mismatch"]
        return mismatch
    if "running" in row:
        return EarlierVisit()
    visit = _VISIT.validate_python(row)
    return visit if "connection" in row else visit.request


def drop_authorization(database: Database, state_hash: str) -> None:
    """The attempt has failed: another visit need not wait for its result."""
    database.call("drop_authorization", state_hash=state_hash)
