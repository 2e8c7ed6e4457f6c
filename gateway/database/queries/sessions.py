"""Browser sessions, and the authorization requests made in them: stored when the browser leaves for the provider, taken once when it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from gateway.database import SqlFunction
from gateway.models import AuthorizationRequest, Connection, User, UtcTime


@dataclass(frozen=True, slots=True)
class Session:
    """The signed-in user, and the expiry."""

    user: User
    expires_at: UtcTime


open_session = SqlFunction[UUID | None]("open_session")
"""The user's id once they are signed in; None when the user does not exist, or is banned or deleted."""

read_session = SqlFunction[Session | None]("session", "session_hash")
"""The session, or None when it is unknown or has expired, or its user is banned or deleted."""

end_session = SqlFunction[Session | None]("session", "session_hash", end=True)
"""End the session, which is answered as it was."""

Mismatch = Literal["browser_mismatch", "user_mismatch"]


@dataclass(frozen=True, slots=True)
class EarlierVisit:
    """An attempt that was taken before. `request`: None while that visit is under way; `connection`: None while the grant is pending."""

    request: AuthorizationRequest | None = None
    connection: Connection | None = None


start_authorization = SqlFunction[tuple[str, ...] | None]("start_authorization")
"""Store an attempt of the signed-in user for ten minutes; the scopes to request. None when the session has ended."""

take_authorization = SqlFunction[AuthorizationRequest | EarlierVisit | Mismatch | None]("take_authorization")
"""
Take the attempt, once; afterwards its result, for the browser and user that finished it. None for an unknown or expired state, and where
the attempt failed.

A mismatch leaves it as it was, so that a link scanner or another user cannot use it up. `provider`: of the callback; the wrong one uses
the attempt up.
"""

drop_authorization = SqlFunction[None]("take_authorization", "state_hash", failed=True)
"""The attempt has failed: another visit need not wait for its result."""
