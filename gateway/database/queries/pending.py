"""Pending grants: kept for ten minutes until their user, or the partner of their link, has decided."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from gateway.database import SqlFunction
from gateway.models import Clock, Connection, PendingGrant, Revocation

Choice = Literal["replace", "both", "no"]


@dataclass(frozen=True, slots=True)
class Decided:
    """The result of a decision. `revocation`: a deleted grant that has to be revoked."""

    ending: Literal["saved", "access_denied", "state_invalid", "user_mismatch", "frozen", "one_account"]
    connection: Connection | None = None
    revocation: Revocation | None = None


pending_grant = SqlFunction[PendingGrant | None]("pending_grant")
"""The pending grant of the signed-in user in this browser; None if there is none."""

decide_pending_grant = SqlFunction[Decided]("decide_pending_grant")
"""
Save a pending grant as its user's connection, or delete it and queue its revocation.

`state_invalid`: it was decided before, except by a call of the same `call_id`, which gets the same result. Raises PendingConfirmation,
which leaves it pending, where the grant allows less than the connection and the choice is not `replace`.
"""

complete_link = SqlFunction[Decided | None]("complete_connect_session", "caller")
"""
Decide for a link that was finished where no user was signed in; None for another partner's session and for an unknown one.

A repeated call within ten minutes gets the same result. A wrong user or confirmation deletes the grant. Raises PendingConfirmation,
which leaves it pending, where a choice is needed.
"""


@dataclass(frozen=True, slots=True)
class UnclaimedInstall:
    """An installation that was started at the provider. `shared`: its account is connected already."""

    id: UUID
    provider: str
    account_id: str
    encrypted: str = field(repr=False)
    browser_hash: str
    clock: Clock
    shared: bool


unclaimed_install = SqlFunction[UnclaimedInstall | None]("unclaimed_install", "browser_hash")
"""Keep an installation for a browser: `put`. Else its newest; without a browser one that was not claimed in time. `take` removes it."""
