"""
The store's methods for reading and refreshing grants, one an SQL function.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal
from uuid import UUID

from gateway.database import rows
from gateway.database.partnering import asking
from gateway.database.rows import ClaimedRefresh, StoredGrant
from gateway.models import Caller

Obstacle = Literal["moved", "leased", "waiting", "blocked", "often", "breaker"]
"""The generation moved; somebody is at it; too soon after a failure; another host may know more; its token lives,
and it had ten within a minute; the provider is spared."""
Ending = Literal["saved", "gone", "reconnected", "refreshed"]
"""Of an answer: it stands; there is no row any more; its user was there first; it, or one to the same request, stood already."""


class Refreshing:
    """A part of Store: what `refresh` and `worker` call."""

    def _call(self, function: str, **arguments: object) -> Any:
        raise NotImplementedError

    def grant(
        self,
        *,
        connection_id: UUID,
        caller: Caller | None,
        min_seconds: int,
        counted: bool = False,
        location: str | None = None,
    ) -> StoredGrant | None:
        """
        The stored grant, in one call; None for one that the caller does not reach as for none. `caller` None: the gateway itself.

        `counted`: a read of theirs, which counts towards a partner's limits and is told by an event, if there is a grant to read.
        `location`: one of another location is like none.
        """
        where = {} if location is None else {"location": location}
        row = self._call(
            "grant",
            connection_id=str(connection_id),
            min_seconds=min_seconds,
            **asking(caller),
            counted=counted,
            **where,
        )
        return None if row is None else rows.stored_grant(row)

    def claim_refresh(
        self, *, connection_id: UUID, generation: int, host: str, lease_seconds: float, block_seconds: float
    ) -> ClaimedRefresh | Obstacle:
        """The lease on one token request, or what stands in its way."""
        row = self._call(
            "claim_refresh",
            connection_id=str(connection_id),
            generation=generation,
            host=host,
            lease_seconds=lease_seconds,
            block_seconds=block_seconds,
        )
        if row["claimed"]:
            return rows.claimed_refresh(row)
        obstacle: Obstacle = row["obstacle"]
        return obstacle

    def claim_due(
        self, *, host: str, lease_seconds: float, block_seconds: Mapping[str, float], providers: Sequence[str]
    ) -> ClaimedRefresh | None:
        """The lease on whatever is due at one of `providers`, dead intents first; None when nothing is."""
        row = self._call(
            "claim_due",
            host=host,
            lease_seconds=lease_seconds,
            block_seconds=dict(block_seconds),
            providers=list(providers),
        )
        return None if row is None else rows.claimed_refresh(row)

    def finish_refresh(
        self,
        *,
        connection_id: UUID,
        generation: int,
        token: str,
        refresh: str | None,
        seal_id: UUID,
        scope: Sequence[str],
        expires_seconds: float | None,
        refresh_expires_seconds: float | None,
        renewed: bool,
    ) -> Ending:
        """
        Saves the answer to that generation's request as the next one. May be repeated when nobody said how it went.

        Seconds from now, by the database's clock. `renewed`: the refresh token is a new one.
        """
        row = self._call(
            "finish_refresh",
            connection_id=str(connection_id),
            generation=generation,
            token=token,
            refresh=refresh,
            seal_id=str(seal_id),
            scope=list(scope),
            expires_seconds=expires_seconds,
            refresh_expires_seconds=refresh_expires_seconds,
            renewed=renewed,
        )
        ending: Ending = row["ending"]
        return ending

    def fail_refresh(
        self, *, connection_id: UUID, generation: int, lease_id: UUID, outcome: str, error: str, wait_seconds: float
    ) -> bool:
        """Gives the lease back and says why: `wait`, `alone`, `operator` or `refused`. False when the lease is not ours any more."""
        row = self._call(
            "fail_refresh",
            connection_id=str(connection_id),
            generation=generation,
            lease_id=str(lease_id),
            outcome=outcome,
            error=error,
            wait_seconds=wait_seconds,
        )
        return bool(row["told"])

    def lag(self) -> Mapping[str, Any]:
        """How far behind the work is: counts, and the age of the oldest due refresh in seconds."""
        found: Mapping[str, Any] = self._call("lag")
        return found
