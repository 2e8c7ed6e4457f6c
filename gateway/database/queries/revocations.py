"""Disconnecting a connection, and the queue of grants that still have to be revoked at their provider."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from gateway.database import Database
from gateway.database.queries.callers import caller_arguments
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


def find_uninstall_target(
    database: Database, *, connection_id: UUID, session_hash: str | None, caller: Caller | None
) -> UninstallTarget | None:
    """A connection of the signed-in user, or one that the caller reaches; None for any other."""
    return database.find(
        UninstallTarget,
        "disconnect",
        session_hash=session_hash,
        connection_id=connection_id,
        **caller_arguments(caller),
        look=True,
    )


def erase_own_connection(
    database: Database, *, connection_id: UUID, session_hash: str | None = None, caller: Caller | None = None
) -> Erased | None:
    """
    Erase a connection of the signed-in user, or one that the caller reaches, and queue its grant; None for any other.

    Where the caller is a partner and others use the connection, only the partner's access ends: `kept`.
    """
    return database.find(
        Erased, "disconnect", session_hash=session_hash, connection_id=connection_id, **caller_arguments(caller)
    )


def queue_revocation(
    database: Database,
    *,
    seal_id: UUID,
    user_id: UUID,
    provider: str,
    account_id: str | None,
    token: str | None,
    refresh: str | None,
    reason: str,
) -> Revocation | None:
    """Queue an encrypted grant that was not saved to be revoked. The same seal_id again changes nothing."""
    return database.find(
        Revocation,
        "queue_revocation",
        seal_id=seal_id,
        user_id=user_id,
        provider=provider,
        account_id=account_id,
        token=token,
        refresh=refresh,
        reason=reason,
    )


def claim_revocation(database: Database, busy: Collection[str] = ()) -> Revocation | None:
    """A grant that is due, of no `busy` provider: no other process gets it for two minutes. None when nothing is due."""
    due = database.read_all(Revocation, "claim_revocations", busy=list(busy), provider=None, after=None, most=1)
    return next(iter(due), None)


def claim_revocations(
    database: Database, provider: str, *, after: Revocation | None, most: int
) -> tuple[Revocation, ...]:
    """The next grants in a provider's queue after `after`, due or not: no other process gets them for two minutes."""
    return database.read_all(
        Revocation, "claim_revocations", busy=[], provider=provider, after=after and after.seal_id, most=most
    )


def settle_revocation(database: Database, seal_id: UUID, *, done: bool, outcome: str | None = None) -> bool:
    """
    Take a grant out of the queue, or delay it; whether it is still in the queue.

    `outcome` is recorded where the operator revoked the grant.
    """
    return bool(database.call("settle_revocation", seal_id=seal_id, done=done, outcome=outcome)["left"])
