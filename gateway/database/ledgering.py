"""
The store's methods for the chain of events, and for whoever reads it: one an SQL function.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from gateway.database import rows
from gateway.database.partnering import asking
from gateway.errors import Unexpected
from gateway.models import Caller


@dataclass(frozen=True, slots=True)
class RawEvent:
    """A row of gateway.event as it stands. `columns`: all of them but time, position and hash, as texts."""

    id: UUID
    at: datetime | None
    """None where somebody wrote a time that is none here: infinite, or of another era."""
    said_at: str
    """The same as a text, in UTC: what is hashed."""
    columns: Mapping[str, str | None]
    position: int | None
    hash: str | None


@dataclass(frozen=True, slots=True)
class Ends:
    """Where the chain is said to end and to begin; and the hashes of the rows that stand at its end, and at a place one asked for."""

    position: int
    hash: str
    mark: str
    sealed_key: str | None = field(repr=False)
    dropped_position: int
    dropped_hash: str
    dropped_mark: str
    accepted: str
    at_head: str | None
    at_seen: str | None


class Unsealed(NamedTuple):
    """What is to be sealed, oldest first, behind which head."""

    ends: Ends
    rows: tuple[RawEvent, ...]


@dataclass(frozen=True, slots=True)
class Ledger(Ends):
    """Beside where it ends and begins, what waits to be sealed, and whether rows stand where none may."""

    unsealed: int
    oldest_unsealed_seconds: float
    before: bool
    beyond: bool


@dataclass(frozen=True, slots=True)
class Event:
    """A sealed event as its readers are told of it. `partner`: the id of the one whose doing it was."""

    id: UUID
    position: int
    type: str
    at: datetime
    connection_id: UUID | None
    user_id: UUID | None
    partner: UUID | None
    provider: str | None
    data: Mapping[str, Any]


class EventPage(NamedTuple):
    """
    Some events in order, and from which position to go on: None where nothing follows just now.

    There may be few of them, or none, and more behind: one call looks at so much and not further.
    """

    events: tuple[Event, ...]
    after: int | None


def raw_event(row: rows.Row) -> RawEvent:
    """From every function that tells of rows as they stand. `data` is a text here: nothing may be lost by reading it."""
    columns = {name: value for name, value in row.items() if name not in ("at", "position", "hash")}
    try:
        at = rows.certain(row["at"])
    except (ValueError, OverflowError):
        return RawEvent(UUID(row["id"]), None, row["at"], columns, row["position"], row["hash"])
    return RawEvent(UUID(row["id"]), at, at.isoformat(), columns, row["position"], row["hash"])


def _ends(row: rows.Row) -> Ends:
    return Ends(**{name: row[name] for name in Ends.__dataclass_fields__})


def _event(row: rows.Row) -> Event:
    known = {name: None if row[name] is None else UUID(row[name]) for name in ("connection_id", "user_id", "partner")}
    return Event(
        id=UUID(row["id"]),
        position=row["position"],
        type=row["type"],
        at=rows.certain(row["at"]),
        provider=row["provider"],
        data=row["data"] if isinstance(row["data"], dict) else {},
        **known,
    )


class Ledgering:
    """A part of Store."""

    def _call(self, function: str, **arguments: object) -> Any:
        raise NotImplementedError

    def unsealed_events(self, *, most: int, lease_seconds: float, seen: int | None = None) -> Unsealed | None:
        """What is to be sealed, for so long nobody else's; None when nothing is, or somebody is at it. `seen`: as of `ledger`."""
        row = self._call("unsealed_events", most=most, lease_seconds=lease_seconds, seen=seen)
        if row is None:
            return None
        return Unsealed(_ends(row), tuple(map(raw_event, row["items"])))

    def seal_events(self, *, head_position: int, head_hash: str, sealed: Sequence[tuple[UUID, str]], mark: str) -> bool:
        """Puts the rows, with their hashes, behind that head; False, and nothing done, where it moved or a row went."""
        items = [{"id": str(row), "hash": digest} for row, digest in sealed]
        done = self._call(
            "seal_events", head_position=head_position, head_hash=head_hash, sealed={"items": items}, mark=mark
        )
        return bool(done["sealed"])

    def keep_ledger_key(self, sealed_key: str) -> str | None:
        """Keeps the chain's key, if there is none and no chain yet; the one that stands then."""
        stands: str | None = self._call("keep_ledger_key", sealed_key=sealed_key)["sealed_key"]
        return stands

    def ledger(self, *, seen: int | None = None) -> Ledger:
        """The state of the chain, at one moment; `at_seen` is the hash at position `seen`."""
        row = self._call("ledger", seen=seen)
        if row is None:
            raise Unexpected("ledger: its row is gone")
        return Ledger(**{name: row[name] for name in Ledger.__dataclass_fields__})

    def accept_head(
        self, stands: Ends, *, position: int, digest: str, mark: str, accepted: str, data: Mapping[str, Any]
    ) -> bool:
        """
        Lets the chain go on from an older head than `stands`, and tells so in it.

        False, and nothing done, where the head moved, or rows stand behind that position.
        """
        done = self._call(
            "accept_head",
            from_position=stands.position,
            from_hash=stands.hash,
            to_position=position,
            to_hash=digest,
            mark=mark,
            accepted=accepted,
            data=dict(data),
        )
        return bool(done["accepted"])

    def ledger_page(
        self, *, after: int, most: int, days: int | None = None
    ) -> tuple[tuple[RawEvent, ...], datetime | None]:
        """The rows of the next `most` positions, as many as there are; and the moment before which rows of `days` are too old."""
        row = self._call("ledger_page", after=after, most=most, days=days)
        return tuple(map(raw_event, row["items"])), rows.when(row["before"])

    def drop_events(self, *, from_position: int, until_position: int, until_hash: str, mark: str, days: int) -> bool:
        """Drops the front of the chain up to there; False, and nothing done, where it moved or a row is too young."""
        done = self._call(
            "drop_events",
            from_position=from_position,
            until_position=until_position,
            until_hash=until_hash,
            mark=mark,
            days=days,
        )
        return bool(done["dropped"])

    def events(self, caller: Caller, *, after: int, most: int) -> EventPage:
        """The sealed events behind position `after` that the caller may be told of. Raises as every call of a partner."""
        row = self._call(
            "events",
            **asking(caller),
            after=after,
            most=most,
        )
        return EventPage(tuple(map(_event, row["items"])), row["next"])
