"""The operator's view and commands: any user's connections, all of a provider, and the worker's backlog."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from gateway.database import Database, sql_function
from gateway.models import Connection, Erased, UtcTime


@dataclass(frozen=True, slots=True)
class ConsentedPartner:
    """A partner that the connection's user gave access to. `made`: the connection was created for it."""

    id: UUID
    name: str
    since: UtcTime
    ended_at: UtcTime | None
    made: bool


@dataclass(frozen=True, slots=True)
class Inspected:
    """A connection unless it was erased, its partners, and its last events, newest first."""

    connection: Connection | None
    refresh: Mapping[str, Any] | None
    """The columns that say when it is refreshed next."""
    revocations_queued: int
    partners: tuple[ConsentedPartner, ...]
    events: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Holdings:
    """Counts for a provider, and since when its tokens are frozen."""

    connections: int
    users: int
    pending: int
    attempts: int
    queued: int
    frozen_at: UtcTime | None


class ErasedPart(NamedTuple):
    """What one call erased: connections, and the numbers of pending grants and attempts; and whether any are left."""

    erased: tuple[Erased, ...]
    pending: int | None
    attempts: int | None
    more: bool


@dataclass(frozen=True, slots=True)
class ErasedConnection:
    """An erased connection in the proof. `position`: of its event, None until it has one."""

    connection_id: UUID
    account_id: str = field(repr=False)
    erased_at: UtcTime
    event_id: UUID
    position: int | None
    revocation: str
    """`done`, `queued`, `unsupported`, or `abandoned` after 72 hours of trying."""


@sql_function("all_connections")
def all_connections(
    database: Database,
    *,
    provider: str | None = None,
    user_id: UUID | None = None,
    status: str | None = None,
    clients: Mapping[str, str] | None = None,
    scopes: Mapping[str, Sequence[str]] | None = None,
    after: UUID | None = None,
    most: int,
) -> tuple[Connection, ...]:
    """
    A page of all users' connections, in the order of ids, after the id `after`.

    `clients`: our registrations; only connections of another one. `scopes`: the required scopes; only connections that lack one.
    """


@sql_function("inspect_connection")
def inspect_connection(database: Database, connection_id: UUID) -> Inspected | None:
    """Any user's connection, also an erased one; None where neither it nor an event of it is known."""


@sql_function("provider_holdings")
def provider_holdings(database: Database, provider: str) -> Holdings:
    """Counts for a provider."""


@sql_function("erase")
def erase(
    database: Database, *, connection_id: UUID | None = None, provider: str | None = None, most: int = 1
) -> ErasedPart:
    """Erase a connection, or up to `most` of a provider with its pending grants and attempts, and queue their grants."""


@sql_function("erased_connections")
def erased_connections(
    database: Database, provider: str, *, since: UtcTime, after_at: UtcTime | None, after_id: UUID | None, most: int
) -> tuple[ErasedConnection, ...]:
    """Connections that the operator erased since then, in order, after that event, with the result for each grant."""


@sql_function("worker_backlog")
def worker_backlog(database: Database, recent_seconds: int = 0) -> Mapping[str, Any]:
    """
    The worker's backlog: counts, and the age of the oldest due refresh in seconds.

    `refreshes`: how many of all processes ended lately, by `refreshed` or by the remedy of their error.
    """
