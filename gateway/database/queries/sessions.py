"""Browser sessions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from gateway.database import Database
from gateway.models import User, UtcTime


@dataclass(frozen=True, slots=True)
class Session:
    """The signed-in user, and the expiry."""

    user: User
    expires_at: UtcTime


def open_session(
    database: Database, *, session_hash: str, user_id: UUID, label: str, expires_at: datetime
) -> UUID | None:
    """The user's id once they are signed in; None when the user does not exist, or is banned or deleted."""
    opened = database.call(
        "open_session", session_hash=session_hash, user_id=user_id, label=label, expires_at=expires_at
    )
    return None if opened is None else user_id


def read_session(database: Database, session_hash: str) -> Session | None:
    """The session, or None when it is unknown or has expired, or its user is banned or deleted."""
    return database.find(Session, "session", session_hash=session_hash)


def end_session(database: Database, session_hash: str) -> bool:
    """Whether the session existed."""
    return bool(database.call("end_session", session_hash=session_hash)["ended"])
