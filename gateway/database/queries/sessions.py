"""Browser sessions."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from gateway.database import SqlFunction
from gateway.models import User, UtcTime


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
