"""
The store's methods for whoever keeps the gateway running: sealed values by the page, hosts and their keys, leaving a provider and
giving back what it granted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from gateway.database import rows
from gateway.database.partnering import asking
from gateway.models import Caller, Revocation


@dataclass(frozen=True, slots=True)
class Leaving:
    """What an uninstall at the provider has to say."""

    user_id: UUID
    provider: str
    account_id: str
    facts: Mapping[str, Any]
    kept: bool = False
    """The connection will stay: a partner leaves it, and others do not."""
    shared: bool = False
    """The account is connected elsewhere too, and who leaves is a partner that has no say in that."""


class Keeping:
    """A part of Store."""

    def _call(self, function: str, **arguments: object) -> Any:
        raise NotImplementedError

    def queue_revocation(
        self,
        *,
        seal_id: UUID,
        user_id: UUID,
        provider: str,
        account_id: str | None,
        token: str | None,
        refresh: str | None,
        reason: str,
    ) -> Revocation:
        """Keep an encrypted grant that was not saved, until it is revoked. The same seal_id again changes nothing."""
        row = self._call(
            "queue_revocation",
            seal_id=str(seal_id),
            user_id=str(user_id),
            provider=provider,
            account_id=account_id,
            token=token,
            refresh=refresh,
            reason=reason,
        )
        return rows.revocation(row)

    def claim_revocation(self) -> Revocation | None:
        """One grant that is due to be given back, for two minutes nobody else's; None when nothing is due."""
        row = self._call("claim_revocation")
        return None if row is None else rows.revocation(row)

    def settle_revocation(self, seal_id: UUID, *, done: bool, outcome: str | None = None) -> bool:
        """
        Take a grant out of the queue, or put it off; returns whether it is still in the queue.

        `outcome`: what became of it, recorded where the operator revoked it.
        """
        row = self._call("settle_revocation", seal_id=str(seal_id), done=done, outcome=outcome)
        return bool(row["left"])

    def leaving(self, *, connection_id: UUID, session_hash: str | None, caller: Caller | None) -> Leaving | None:
        """One of the user's own, or within the caller's reach, as an uninstall needs it; None for another's as for none."""
        row = self._call("leaving", session_hash=session_hash, connection_id=str(connection_id), **asking(caller))
        facts = row["facts"] if row and isinstance(row["facts"], dict) else {}
        return row and Leaving(
            UUID(row["user_id"]), row["provider"], row["account_id"], facts, row["kept"], bool(row["shared"])
        )

    def recent_refreshes(self, seconds: int) -> Mapping[str, int]:
        """How refreshes ended lately, on whichever machine: `refreshed`, or by who must act, and how many."""
        found: Mapping[str, int] = self._call("recent_refreshes", seconds=seconds)
        return found
