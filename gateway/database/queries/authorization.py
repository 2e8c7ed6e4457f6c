"""Authorization requests: stored when the browser leaves for the provider, taken once when it returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gateway.database import Database, sql_function
from gateway.models import AuthorizationRequest, Connection, Display

Mismatch = Literal["browser_mismatch", "user_mismatch"]


@dataclass(frozen=True, slots=True)
class EarlierVisit:
    """An attempt that was taken before. `request`: None while that visit is under way; `connection`: None while the grant is pending."""

    request: AuthorizationRequest | None = None
    connection: Connection | None = None


@sql_function("start_authorization")
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


@sql_function("take_authorization")
def take_authorization(
    database: Database, *, state_hash: str, provider: str | None, browser_hash: str, session_hash: str
) -> AuthorizationRequest | EarlierVisit | Mismatch | None:
    """
    Take the attempt, once; afterwards its result, for the browser and user that finished it. None for an unknown or expired state, and where
    the attempt failed.

    A mismatch leaves it as it was, so that a link scanner or another user cannot use it up. `provider`: of the callback; the wrong one uses
    the attempt up.
    """


@sql_function("drop_authorization")
def drop_authorization(database: Database, state_hash: str) -> None:
    """The attempt has failed: another visit need not wait for its result."""
