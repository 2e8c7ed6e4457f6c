"""Browser sessions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from gateway.database import Database, sql_function
from gateway.models import User, UtcTime


@dataclass(frozen=True, slots=True)
class Session:
    """The signed-in user, and the expiry."""

    user: User
    expires_at: UtcTime


@sql_function("open_session")
def open_session(
    database: Database, *, session_hash: str, user_id: UUID, label: str, expires_at: datetime
) -> UUID | None:
    """The user's id once they are signed in; None when the user does not exist, or is banned or deleted."""


@sql_function("session")
def read_session(database: Database, session_hash: str) -> Session | None:
    """The session, or None when it is unknown or has expired, or its user is banned or deleted."""


@sql_function("end_session")
def end_session(database: Database, session_hash: str) -> bool:
    """Whether the session existed."""
