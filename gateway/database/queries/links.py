"""Connect sessions, the links that partners make for their users, and the consent given through them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple
from uuid import UUID

from gateway.database import SqlFunction
from gateway.models import Erased, Status


class ConnectSession(NamedTuple):
    """A new connect session."""

    id: UUID
    expires_at: datetime


class Existing(NamedTuple):
    """The connection that the link's user has at the provider."""

    account_label: str
    status: Status
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Link:
    """What the page of a link shows. `scope_of_others` and `existing` are known only where the link's user is signed in."""

    id: UUID
    provider: str
    return_to: str | None
    user_id: UUID
    user_label: str | None
    partner: str
    partner_scope: tuple[str, ...]
    partner_reach: Literal["own", "all"]
    scope: tuple[str, ...]
    scope_of_others: tuple[str, ...]
    """The scopes of the user's connections there, and those that other partners asked for."""
    session_user_id: UUID | None
    """The user who is signed in, in this browser."""
    session_label: str | None
    existing: Existing | None


StartOutcome = Literal["started", "user_mismatch", "unauthenticated"]
"""`user_mismatch`: another user is signed in. `unauthenticated`: no user is, and the link has no product to return to."""

create_connect_session = SqlFunction[ConnectSession | None]("create_connect_session", "caller")
"""A link of the partner for fifteen minutes; None for a provider that is not the partner's, and for an unknown user."""

find_link = SqlFunction[Link | None]("link")
"""The content of a link, which is not used up; None for an unknown, expired or used link. Frozen for a frozen partner."""

start_connect_session = SqlFunction[StartOutcome | None]("start_connect_session")
"""Use the link up and keep the attempt: once, for one caller. None for an unknown, expired or used link."""

end_consent = SqlFunction[Erased | None]("disconnect")
"""End a partner's use of the user's connection; None where it is not the user's or the partner does not use it."""
