"""
The store's methods for whoever runs the gateway: any connection, whosever it is, and all of a provider's. One an SQL function.

Nothing here is reached by /v1 or by a page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from gateway.database import rows
from gateway.models import Connection, Erased, Revocation


@dataclass(frozen=True, slots=True)
class Reaching:
    """A partner that the connection's owner opened it to. `made`: it was made for that partner."""

    id: UUID
    name: str
    since: datetime
    ended_at: datetime | None
    made: bool


@dataclass(frozen=True, slots=True)
class Inspected:
    """What is known of a connection: itself, if it stands, who may use it, and its last events, newest first."""

    connection: Connection | None
    refresh: Mapping[str, Any]
    waiting: int
    """Grants of it that still have to be given back."""
    partners: tuple[Reaching, ...]
    events: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Holdings:
    """What hangs on a provider: counts, and since when its tokens may not be read."""

    connections: int
    users: int
    parked: int
    attempts: int
    queued: int
    frozen_at: datetime | None


class ErasedSome(NamedTuple):
    """How many went in one call, and whether any are left."""

    erased: int
    parked: int
    attempts: int
    more: bool


@dataclass(frozen=True, slots=True)
class Revoked:
    """One erased connection in the proof. `position`: of its event, None until it has one."""

    connection_id: UUID
    account_id: str = field(repr=False)
    erased_at: datetime
    event_id: UUID
    position: int | None
    revocation: str
    """`done`, `queued`, `unsupported`, or `abandoned` after 72 hours of trying."""


class Operating:
    """A part of Store."""

    def _call(self, function: str, **arguments: object) -> Any:
        raise NotImplementedError

    def all_connections(
        self, *, provider: str | None, user_id: UUID | None, status: str | None, after: UUID | None, most: int
    ) -> tuple[Connection, ...]:
        """A page of everybody's connections, by id, behind `after`."""
        found = self._call(
            "all_connections",
            provider=provider,
            user_id=None if user_id is None else str(user_id),
            status=status,
            after=None if after is None else str(after),
            most=most,
        )
        return tuple(map(rows.connection, found))

    def inspect_connection(self, connection_id: UUID) -> Inspected | None:
        """One, whosever it is; None where there never was one that is known of."""
        row = self._call("inspect_connection", connection_id=str(connection_id))
        if row is None:
            return None
        stands = row["connection"]
        return Inspected(
            connection=stands and rows.connection(stands),
            refresh={name: stands[name] for name in _REFRESH} if stands else {},
            waiting=row["waiting"],
            partners=tuple(
                Reaching(UUID(x["id"]), x["name"], rows.certain(x["since"]), rows.when(x["ended_at"]), x["made"])
                for x in row["partners"]
            ),
            events=tuple(row["events"]),
        )

    def provider_holdings(self, provider: str) -> Holdings:
        """What hangs on a provider."""
        row = self._call("provider_holdings", provider=provider)
        return Holdings(**row | {"frozen_at": rows.when(row["frozen_at"])})

    def erase_connection(self, connection_id: UUID) -> Erased | None:
        """Erases one, whosever it is, and queues its grant; None where there is none."""
        row = self._call("erase_connection", connection_id=str(connection_id))
        return None if row is None else rows.erased(row)

    def erase_provider(self, provider: str, *, most: int) -> ErasedSome:
        """Erases up to `most` of a provider's, with what is parked and under way, and queues their grants."""
        row = self._call("erase_provider", provider=provider, most=most)
        return ErasedSome(row["erased"], row["parked"], row["attempts"], row["more"])

    def claim_revocations(self, provider: str, *, after: Revocation | None, most: int) -> tuple[Revocation, ...]:
        """The next of a provider's queue behind `after`, due or not, for two minutes nobody else's."""
        cursor = None if after is None else str(after.seal_id)
        return tuple(map(rows.revocation, self._call("claim_revocations", provider=provider, after=cursor, most=most)))

    def revoked(self, provider: str, *, since: datetime, after: Revoked | None, most: int) -> Sequence[Revoked]:
        """What was erased by whoever runs the gateway since then, in order, behind `after`, and what became of each grant."""
        found = self._call(
            "revoked",
            provider=provider,
            since=since.isoformat(),
            after_at=None if after is None else after.erased_at.isoformat(),
            after_id=None if after is None else str(after.event_id),
            most=most,
        )
        return [
            Revoked(
                UUID(x["connection_id"]), x["account_id"], rows.certain(x["erased_at"]), UUID(x["event_id"]),
                x["position"], x["revocation"],
            )
            for x in found
        ]  # fmt: skip


_REFRESH = ("refresh_at", "refresh_expires_at", "failures", "not_before")
