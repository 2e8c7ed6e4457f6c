"""Events: their positions, the hash chain over them, and what a caller may read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from gateway.database import Database, sql_function
from gateway.models import Caller

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


@sql_function("record")
def append_event(
    database: Database,
    type: str,  # noqa: A002 -- the column's name
    *,
    connection_id: UUID | None = None,
    user_id: UUID | None = None,
    provider: str | None = None,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Append an event, named `noun.past_participle`. `data` must hold no secret: partners read it."""


@sql_function("events")
def read_events(database: Database, caller: Caller, *, after: int, limit: int) -> EventPage:
    """The events after that position which the caller may see. Raises what every call of a partner raises."""


@sql_function("events")
def read_usage(
    database: Database, caller: Caller, *, usage: Mapping[str, Any], limit: int, after: int = 0
) -> tuple[Mapping[str, Any], ...]:
    """Token reads and proxied calls by hour, connection and partner, each with its `key`; `usage`: from, to, the filters, and after which key."""


@sql_function("assign_positions")
def assign_positions(database: Database, *, limit: int) -> int:
    """Give the next positions to committed events that have none, oldest first; how many. 0 while another process does it."""


@sql_function("event_chain")
def read_chain(database: Database, *, new_key: str | None = None) -> Chain:
    """The state of the chain. `new_key` becomes its encrypted key if it has none and nothing is sealed yet."""


@sql_function("event_chain_page")
def read_chain_page(database: Database, *, after: int, limit: int) -> ChainPage:
    """
    The rows after the last seal at or before `after`: about `limit` positions, and at least up to the next seal.

    Where no seal follows: the next rows after `after`.
    """


@sql_function("seal_events")
def seal_events(database: Database, *, after: int, position: int, hash: str) -> bool:  # noqa: A002 -- the column's name
    """Extend the chain, which ends at `after`, to `position`; False, and nothing done, if another process extended it first."""
