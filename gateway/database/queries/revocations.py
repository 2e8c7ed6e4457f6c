"""Disconnecting a connection, and the queue of grants that still have to be revoked at their provider."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from gateway.database import SqlFunction
from gateway.models import Erased, Revocation


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


find_uninstall_target = SqlFunction[UninstallTarget | None]("disconnect", look=True)
"""A connection of the signed-in user, or one that the caller reaches; None for any other."""

erase_own_connection = SqlFunction[Erased | None]("disconnect")
"""
Erase a connection of the signed-in user, or one that the caller reaches, and queue its grant; None for any other.

Where the caller is a partner and others use the connection, only the partner's access ends: `kept`.
"""

queue_revocation = SqlFunction[Revocation | None]("queue_revocation")
"""Queue an encrypted grant that was not saved to be revoked. The same seal_id again changes nothing."""

claim_revocations = SqlFunction[tuple[Revocation, ...]]("claim_revocations")
"""
Grants that no other process gets for two minutes: those that are due, of no `busy` provider; or the next in a provider's queue after the
seal_id `after`, due or not.
"""

settle_revocation = SqlFunction[bool]("settle_revocation", "seal_id")
"""
Take a grant out of the queue, or delay it; whether it is still in the queue.

`outcome` is recorded where the operator revoked the grant.
"""
