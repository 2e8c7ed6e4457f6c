"""Disconnecting a connection, and the queue of grants that still have to be revoked at their provider."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from gateway.database import Database, sql_function
from gateway.models import Caller, Erased, Revocation


@dataclass(frozen=True, slots=True)
class UninstallTarget:
    """What an uninstall at the provider needs to know of a connection."""

    user_id: UUID
    provider: str
    account_id: str
    facts: Mapping[str, Any]
    kept: bool
    """The connection stays: the caller is a partner, and others use the connection."""
    shared: bool
    """The account is connected elsewhere too, and the caller is a partner that has no say in that."""


@sql_function("disconnect")
def find_uninstall_target(
    database: Database, *, connection_id: UUID, session_hash: str | None, caller: Caller | None, look: bool = True
) -> UninstallTarget | None:
    """A connection of the signed-in user, or one that the caller reaches; None for any other."""


@sql_function("disconnect")
def erase_own_connection(
    database: Database, *, connection_id: UUID, session_hash: str | None = None, caller: Caller | None = None
) -> Erased | None:
    """
    Erase a connection of the signed-in user, or one that the caller reaches, and queue its grant; None for any other.

    Where the caller is a partner and others use the connection, only the partner's access ends: `kept`.
    """


@sql_function("queue_revocation")
def queue_revocation(
    database: Database,
    *,
    seal_id: UUID,
    user_id: UUID,
    provider: str,
    account_id: str | None,
    facts: Mapping[str, Any],
    token: str | None,
    refresh: str | None,
    reason: str,
) -> Revocation | None:
    """Queue an encrypted grant that was not saved to be revoked. The same seal_id again changes nothing."""


@sql_function("claim_revocations")
def claim_revocations(
    database: Database,
    *,
    busy: Collection[str] = (),
    provider: str | None = None,
    after: UUID | None = None,
    most: int = 1,
) -> tuple[Revocation, ...]:
    """
    Grants that no other process gets for two minutes: those that are due, of no `busy` provider; or the next in a provider's queue after the
    seal_id `after`, due or not.
    """


@sql_function("settle_revocation")
def settle_revocation(database: Database, seal_id: UUID, *, done: bool, outcome: str | None = None) -> bool:
    """
    Take a grant out of the queue, or delay it; whether it is still in the queue.

    `outcome` is recorded where the operator revoked the grant.
    """
