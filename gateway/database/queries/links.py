"""Connect sessions, the links that partners make for their users, and the consent given through them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple
from uuid import UUID

from gateway.database import Database, sql_function
from gateway.models import Caller, Erased, Status


class ConnectSession(NamedTuple):
    """A new connect session."""

    id: UUID
    expires_at: datetime


class Existing(NamedTuple):
    """The connection that the link's user has at the provider."""

    account_label: str
    status: Status


@dataclass(frozen=True, slots=True)
class Link:
    """
    What the page of a link shows.

    `scope_of_others` and `existing` are known only where the link's user is signed in.
    """

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


@sql_function("create_connect_session")
def create_connect_session(
    database: Database,
    caller: Caller,
    *,
    secret_hash: str,
    user_id: UUID,
    provider: str,
    type: int,  # noqa: A002 -- the column's name
    scope: Sequence[str],
    return_to: str | None,
    tags: Mapping[str, str],
) -> ConnectSession | None:
    """A link of the partner for fifteen minutes; None for a provider that is not the partner's, and for an unknown user."""


@sql_function("link")
def find_link(database: Database, *, secret_hash: str, session_hash: str) -> Link | None:
    """The content of a link, which is not used up; None for an unknown, expired or used link. Frozen for a frozen partner."""


@sql_function("start_connect_session")
def start_connect_session(
    database: Database,
    *,
    secret_hash: str,
    session_hash: str,
    state_hash: str,
    browser_hash: str,
    encrypted: str,
    scope: Sequence[str],
) -> StartOutcome | None:
    """Use the link up and keep the attempt: once, for one caller. None for an unknown, expired or used link."""


@sql_function("disconnect")
def end_consent(database: Database, *, session_hash: str, connection_id: UUID, partner_id: UUID) -> Erased | None:
    """End a partner's use of the user's connection; None where it is not the user's or the partner does not use it."""
