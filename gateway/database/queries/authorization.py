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


_SCOPE = TypeAdapter(tuple[str, ...])
_REQUEST = TypeAdapter(AuthorizationRequest)
_CONNECTION: TypeAdapter[Connection | None] = TypeAdapter(Connection | None)


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
    return None if row is None else _SCOPE.validate_python(row["scope"])


def take_authorization(
    database: Database, *, state_hash: str, provider: str | None, browser_hash: str, session_hash: str
) -> AuthorizationRequest | Mismatch | None:
    """
    Take the attempt, once. A mismatch leaves it as it was, so that a link scanner or another user cannot use it up.

    `provider`: of the callback; the wrong one uses the attempt up. None for an unknown, expired or used state.
    """
    row = database.call(
        "take_authorization",
        state_hash=state_hash,
        provider=provider,
        browser_hash=browser_hash,
        session_hash=session_hash,
    )
    if row is None:
        return None
    mismatch: Mismatch | None = row.get("mismatch")
    return mismatch or _REQUEST.validate_python(row)


def authorization_result(
    database: Database, *, state_hash: str, provider: str | None, browser_hash: str, session_hash: str
) -> EarlierVisit | None:
    """What a used attempt led to, for the browser and user that finished it. None for any other, and where it failed."""
    row = database.call(
        "authorization_result",
        state_hash=state_hash,
        provider=provider,
        browser_hash=browser_hash,
        session_hash=session_hash,
    )
    if row is None or "running" in row:
        return None if row is None else EarlierVisit()
    return EarlierVisit(_REQUEST.validate_python(row["request"]), _CONNECTION.validate_python(row["connection"]))


def drop_authorization(database: Database, state_hash: str) -> None:
    """The attempt has failed: another visit need not wait for its result."""
    database.call("drop_authorization", state_hash=state_hash)
