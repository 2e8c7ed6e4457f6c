"""
The store's methods for what waits and what is shared: parked grants, the links of partners, and who may use a connection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple
from uuid import UUID

from gateway.database import rows
from gateway.models import Account, Caller, Connection, Display, ParkedGrant, Revocation, Status


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


@dataclass(frozen=True, slots=True)
class Completion:
    """
    What a partner's completion came upon. `open`: `parked` waits, and this is its confirmation and its user. `done`: it was
    completed with these a moment ago, and `connection` stands.

    `state_invalid`, `user_mismatch`: it is not, or nothing waits; what was taken off for that is `revocation`.
    """

    ending: Literal["open", "done", "state_invalid", "user_mismatch"]
    parked: ParkedGrant | None = None
    connection: Connection | None = None
    revocation: Revocation | None = None


class Unshared(NamedTuple):
    """A partner, by its name, that may not use a connection of that provider any more."""

    provider: str
    partner: str


class Linking:
    """A part of Store."""

    def _call(self, function: str, **arguments: object) -> Any:
        raise NotImplementedError

    # -- parked grants -----------------------------------------------------------------------------------------------

    def park_grant(
        self,
        *,
        parked_id: UUID,
        user_id: UUID,
        provider: str,
        browser_hash: str,
        account: Account,
        scope: Sequence[str],
        token: str | None,
        refresh: str | None,
        expires_at: datetime | None,
        refresh_expires_at: datetime | None,
        facts: Mapping[str, str],
        return_to: str | None,
        display: Display,
        not_after: datetime | None = None,
        connect_session_id: UUID | None = None,
        confirmation_hash: str | None = None,
    ) -> None:
        """
        Keeps a grant for ten minutes, sealed for `parked_id` in generation 1; one parked before is given back.

        `not_after` as of `save_connection`. With a `confirmation_hash` it waits for the partner of that link instead of for its
        user, beside whatever else is parked.
        """
        self._call(
            "park_grant",
            parked_id=str(parked_id),
            user_id=str(user_id),
            provider=provider,
            browser_hash=browser_hash,
            account_id=account.id,
            account_label=account.label,
            scope=list(scope),
            token=token,
            refresh=refresh,
            expires_at=rows.iso(expires_at),
            refresh_expires_at=rows.iso(refresh_expires_at),
            facts=dict(facts),
            return_to=return_to,
            display=display,
            not_after=rows.iso(not_after),
            connect_session_id=None if connect_session_id is None else str(connect_session_id),
            confirmation_hash=confirmation_hash,
        )

    def parked_grant(self, *, session_hash: str, browser_hash: str, provider: str) -> ParkedGrant | None:
        """What waits for the signed-in user's word, in this browser; None for nothing."""
        row = self._call("parked_grant", session_hash=session_hash, browser_hash=browser_hash, provider=provider)
        return None if row is None else rows.parked_grant(row)

    def refuse_parked_grant(self, parked_id: UUID) -> Revocation | None:
        """Takes a parked grant off and queues it to be given back; None when it was answered already."""
        row = self._call("refuse_parked_grant", parked_id=str(parked_id))
        return None if row is None else rows.revocation(row)

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
        sealed: str,
        scope: Sequence[str],
    ) -> Start | None:
        """Uses the link up and keeps the attempt, once and for one caller; None for a link that is none, or not any more."""
        row = self._call(
            "start_connect_session",
            secret_hash=secret_hash,
            session_hash=session_hash,
            state_hash=state_hash,
            browser_hash=browser_hash,
            sealed=sealed,
            scope=list(scope),
        )
        ending: Start | None = row and row["ending"]
        return ending

    def claim_completion(
        self, caller: Caller, *, connect_session_id: UUID, user_id: UUID, confirmation_hash: str
    ) -> Completion | None:
        """What waits there for this partner; None for another's session as for none. A wrong word takes it off, once."""
        row = self._call(
            "claim_completion",
            key_hash=caller.key_hash,
            address=caller.address,
            connect_session_id=str(connect_session_id),
            user_id=str(user_id),
            confirmation_hash=confirmation_hash,
        )
        if row is None:
            return None
        parked, stands, queued = row.get("parked"), row.get("connection"), row.get("revocation")
        return Completion(
            row["ending"],
            parked and rows.parked_grant(parked),
            stands and rows.connection(stands),
            queued and rows.revocation(queued),
        )

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
