"""The operator's view and commands: any user's connections, all of a provider, hosts, the worker's backlog, encrypted values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple
from uuid import UUID

from gateway.database import SqlFunction
from gateway.database.queries.connections import Erased
from gateway.models import Connection, UtcTime


@dataclass(frozen=True, slots=True)
class Inspected:
    """A connection unless it was erased, its partners, and its last events, newest first."""

    connection: Connection | None
    refresh: Mapping[str, Any] | None
    """The columns that say when it is refreshed next."""
    revocations_queued: int
    partners: tuple[Mapping[str, Any], ...]
    """Those that its user gave access to. `made`: the connection was created for it."""
    events: tuple[Mapping[str, Any], ...]


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


@dataclass(frozen=True, slots=True)
class Holdings:
    """Counts for a provider, since when its tokens are frozen, and connections that the operator erased."""

    connections: int
    users: int
    pending: int
    attempts: int
    queued: int
    frozen_at: UtcTime | None
    erased: tuple[ErasedConnection, ...]


class ErasedPart(NamedTuple):
    """What one call erased: connections, and the numbers of pending grants and attempts; and whether any are left."""

    erased: tuple[Erased, ...]
    pending: int | None
    attempts: int | None
    more: bool


inspect_connection = SqlFunction[Inspected | None]("inspect_connection", "connection_id")
provider_holdings = SqlFunction[Holdings]("provider_holdings", "provider")
erase = SqlFunction[ErasedPart]("erase")
worker_backlog = SqlFunction[Mapping[str, Any]]("worker_backlog", "recent_seconds")


@dataclass(frozen=True, slots=True)
class Host:
    """A host that was seen in the last ten minutes, and the fingerprints of its keys. It encrypts with the first."""

    id: str
    keys: tuple[str, ...]
    seen_seconds: int


report_host = SqlFunction[None]("hosts")
list_hosts = SqlFunction[tuple[Host, ...]]("hosts")
housekeeping = SqlFunction[bool]("housekeeping")


# -- encrypted values -----------------------------------------------------------------------------------------------


Kind = Literal["connection", "pending_grant", "revocation", "webhook", "unclaimed_install", "event_chain"]
"""The tables that hold encrypted values. Grants move from the first to the later ones, never back."""


@dataclass(frozen=True, slots=True)
class EncryptedValue:
    """One value, and the context that its key is derived from: column, user, provider and seal_id. `id`: of its row."""

    id: UUID
    text: str = field(repr=False)
    context: Mapping[str, Any]


class Page(NamedTuple):
    """Some values, in order. `total`: how many there are; in the first page only."""

    total: int | None
    items: tuple[EncryptedValue, ...]


encrypted_values = SqlFunction[Page]("encrypted_values", "kind")
replace_encrypted = SqlFunction[int]("replace_encrypted", "kind", "changes")
