"""
The store's methods for the links of partners, and who may use a connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple
from uuid import UUID

from gateway.database import rows
from gateway.models import Caller, Status


class MadeLink(NamedTuple):
    """A connect session that was made just now."""

    id: UUID
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Link:
    """
    What the page of a link has to say. `beside`: scopes that the user's connections there have, or partners asked for; that and
    what stands is known where the user is signed in, and nowhere else.
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
    beside: tuple[str, ...]
    session_user_id: UUID | None
    """Who is signed in, in the browser that looks; None for nobody."""
    session_label: str | None
    standing: tuple[str, Status] | None
    """Label and status of what is connected already."""


Start = Literal["started", "user_mismatch", "unauthenticated"]
"""Off it goes; somebody else is signed in; nobody is, and there is nowhere to return to that could say who it was."""


class Unshared(NamedTuple):
    """A partner, by its name, that may not use a connection of that provider any more."""

    provider: str
    partner: str


class Linking:
    """A part of Store."""

    def _call(self, function: str, **arguments: object) -> Any:
        raise NotImplementedError

    # -- links -------------------------------------------------------------------------------------------------------

    def create_connect_session(
        self,
        caller: Caller,
        *,
        secret_hash: str,
        user_id: UUID,
        provider: str,
        type: int,  # noqa: A002 -- the column's name, and the argument's
        scope: Sequence[str],
        return_to: str | None,
    ) -> MadeLink | None:
        """A link of the partner for fifteen minutes; None for a provider that is not the partner's, or a user there is not."""
        row = self._call(
            "create_connect_session",
            key_hash=caller.key_hash,
            address=caller.address,
            secret_hash=secret_hash,
            user_id=str(user_id),
            provider=provider,
            type=type,
            scope=list(scope),
            return_to=return_to,
        )
        return None if row is None else MadeLink(UUID(row["id"]), rows.certain(row["expires_at"]))

    def connect_session(self, *, secret_hash: str, session_hash: str) -> Link | None:
        """What that link is for, which is not used up by asking; None for none, an old or a used one. Frozen for a partner's."""
        row = self._call("connect_session", secret_hash=secret_hash, session_hash=session_hash)
        return None if row is None else _link(row)

    def start_connect_session(
        self,
        *,
        secret_hash: str,
        session_hash: str,
        state_hash: str,
        browser_hash: str,
        encrypted: str,
        scope: Sequence[str],
    ) -> Start | None:
        """Uses the link up and keeps the attempt, once and for one caller; None for a link that is none, or not any more."""
        row = self._call(
            "start_connect_session",
            secret_hash=secret_hash,
            session_hash=session_hash,
            state_hash=state_hash,
            browser_hash=browser_hash,
            encrypted=encrypted,
            scope=list(scope),
        )
        ending: Start | None = row and row["ending"]
        return ending

    def end_consent(self, *, session_hash: str, connection_id: UUID, partner_id: UUID) -> Unshared | None:
        """Takes one of the signed-in user's own away from a partner; None for another's as for none, and for no partner of it."""
        row = self._call(
            "end_consent", session_hash=session_hash, connection_id=str(connection_id), partner_id=str(partner_id)
        )
        return None if row is None else Unshared(row["provider"], row["partner"])


def _link(row: rows.Row) -> Link:
    standing = row["standing"]
    return Link(
        id=UUID(row["id"]),
        provider=row["provider"],
        return_to=row["return_to"],
        user_id=UUID(row["user_id"]),
        user_label=row["user_label"],
        partner=row["partner"],
        partner_scope=tuple(row["partner_scope"]),
        partner_reach=row["partner_reach"],
        scope=tuple(row["scope"]),
        beside=tuple(row["beside"]),
        session_user_id=None if row["session_user_id"] is None else UUID(row["session_user_id"]),
        session_label=row["session_label"],
        standing=None if standing is None else (standing["account_label"], standing["status"]),
    )
