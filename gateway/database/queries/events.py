"""Events: their positions, the hash chain over them, what a caller may read, and the events that providers send."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from gateway.database import SqlFunction
from gateway.models import Connection

EventRow = Mapping[str, Any]
"""A row of gateway.event as it is stored. Times and `data` are texts, so that nothing is lost by parsing them."""


@dataclass(frozen=True, slots=True)
class Event:
    """An event as a caller sees it. `partner`: the id of the partner that caused it."""

    id: UUID
    position: int
    type: str
    at: datetime
    connection_id: UUID | None
    user_id: UUID | None
    partner: UUID | None
    provider: str | None
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class EventPage:
    """
    Some events in order. `next`: the position to continue after; None where there is nothing more for now.

    A page may hold few events or none and still have a `next`: one call looks at a limited number of positions.
    """

    items: tuple[Event, ...]
    next: int | None


class Seal(NamedTuple):
    """The end of a segment of the chain: `hash` covers every event up to `position`."""

    position: int
    hash: str


@dataclass(frozen=True, slots=True)
class Chain:
    """The state of the chain at one moment."""

    position: int
    """The last position that was assigned."""
    start: Seal
    """Where the chain begins: the end of what was dropped."""
    end: Seal
    encrypted_key: str | None = field(repr=False)
    rows_before_start: bool
    unassigned: int
    oldest_unassigned_seconds: float


@dataclass(frozen=True, slots=True)
class ChainPage:
    """The rows after a seal, in order, and the seals among them."""

    previous: Seal
    seals: tuple[Seal, ...]
    rows: tuple[dict[str, Any], ...]


append_event = SqlFunction[None]("record", "type")
"""Append an event, named `noun.past_participle`. `data` must hold no secret: partners read it."""

read_events = SqlFunction[EventPage]("events", "caller")

read_usage = SqlFunction[tuple[Mapping[str, Any], ...]]("events", "caller", after=0)
"""Token reads and proxied calls by hour, connection and partner, each with its `key`; `usage`: from, to, the filters, and after which key."""

assign_positions = SqlFunction[int]("assign_positions")
read_chain = SqlFunction[Chain]("event_chain")
read_chain_page = SqlFunction[ChainPage]("event_chain")
seal_events = SqlFunction[bool]("seal_events")
receive_event = SqlFunction[bool]("receive_event", "event")


@dataclass(frozen=True, slots=True)
class DueListing:
    """A connection whose accounts below are to be compared with the provider's list, those that are known here, and since when."""

    at: datetime
    connection: Connection
    known: frozenset[str]


due_listing = SqlFunction[DueListing | None]("due_listing", "providers")
settle_events = SqlFunction[int]("settle_events")
