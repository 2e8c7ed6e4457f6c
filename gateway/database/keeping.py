"""
The store's methods for whoever keeps the gateway running: sealed values by the page, hosts and their keys, leaving a provider and
giving back what it granted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple
from uuid import UUID

from gateway.database import rows
from gateway.database.partnering import asking
from gateway.models import Caller, Revocation

Kind = Literal["connection", "adoption", "parked_grant", "revocation", "ledger"]
"""Where sealed values stand in the database."""


@dataclass(frozen=True, slots=True)
class SealedRow:
    """A row with sealed values, by the column that they are sealed for."""

    id: UUID
    generation: int
    values: Mapping[str, str] = field(repr=False)


class SealedPage(NamedTuple):
    """Some rows in order. `total`: how many there are in all, told with the first page alone."""

    total: int | None
    rows: tuple[SealedRow, ...]


class Change(NamedTuple):
    """One value sealed again."""

    row: SealedRow
    column: str
    new: str


@dataclass(frozen=True, slots=True)
class Host:
    """A host that was seen lately, and marks of the keys that its processes have, the one that seals first."""

    id: str
    keys: tuple[str, ...]
    seen_seconds: int


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

    def sealed(self, kind: Kind, *, after: SealedRow | None, most: int) -> SealedPage:
        """The next rows of that kind behind `after`, at most `most`."""
        cursor = None if after is None else f"{after.id}/{after.generation}"
        page = self._call("sealed", kind=kind, after=cursor, most=most)
        return SealedPage(
            page["total"],
            tuple(SealedRow(UUID(row["id"]), row["generation"], row["values"]) for row in page["items"]),
        )

    def reseal(self, kind: Kind, changes: Sequence[Change]) -> int:
        """Puts each new value in the place of the old one, if that still stands and nobody has its row; how many it did."""
        items = [
            {
                "id": str(change.row.id),
                "generation": change.row.generation,
                "column": change.column,
                "old": change.row.values[change.column],
                "new": change.new,
            }
            for change in changes
        ]
        return int(self._call("reseal", kind=kind, changes={"items": items})["resealed"])

    def host_seen(self, *, host: str, keys: Sequence[str]) -> None:
        """Says that a process of this host runs just now, and which keys it has, by their marks."""
        self._call("host_seen", host=host, keys=list(keys))

    def hosts(self) -> tuple[Host, ...]:
        """Who was seen in the last ten minutes; a host that is being restarted with other keys, once for each."""
        return tuple(Host(row["host"], tuple(row["keys"]), row["seen_seconds"]) for row in self._call("hosts"))

    def queue_revocation(
        self,
        *,
        connection_id: UUID,
        generation: int,
        provider: str,
        token: str | None,
        refresh: str | None,
        reason: str,
        account_id: str | None = None,
    ) -> Revocation:
        """
        Keeps a sealed grant until it is given back. The same id and generation again changes nothing: a grant that was
        never stored is sealed, and queued, under an id of its own.
        """
        row = self._call(
            "queue_revocation",
            connection_id=str(connection_id),
            generation=generation,
            provider=provider,
            token=token,
            refresh=refresh,
            reason=reason,
            account_id=account_id,
        )
        return rows.revocation(row)

    def claim_revocation(self) -> Revocation | None:
        """One grant that is due to be given back, for two minutes nobody else's; None when nothing is due."""
        row = self._call("claim_revocation")
        return None if row is None else rows.revocation(row)

    def settle_revocation(
        self, *, connection_id: UUID, generation: int, done: bool, outcome: str | None = None
    ) -> bool:
        """
        Forgets a grant that was given back, or puts it off; returns whether it is still in the queue.

        `outcome`: what became of it, for the ledger, where whoever runs the gateway revoked it.
        """
        row = self._call(
            "settle_revocation", connection_id=str(connection_id), generation=generation, done=done, outcome=outcome
        )
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
