"""Import of tokens that the gateway did not write: the queue of rows, and results."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from gateway.database import SqlFunction

Stored = Literal["stored", "changed", "duplicate", "no_user"]


@dataclass(frozen=True, slots=True)
class ImportRow:
    """A claimed row of provider_data. `provider`: of the connection, or by the row's name; None for an unknown name."""

    id: UUID
    user_id: UUID | None
    name: str | None
    provider: str | None
    seal_id: UUID | None
    refresh_seal_id: UUID | None
    """None for a row that is no connection yet; so are `generation` 0 and `account_id` None."""
    generation: int
    account_id: str | None
    status: str | None
    scope: tuple[str, ...]
    token: str | None = field(repr=False)
    refresh: str | None = field(repr=False)
    expires: str | None
    expires_at: datetime | None
    data: Any
    attempts: int


@dataclass(frozen=True, slots=True)
class QueuedRow:
    """A row that waits to be imported."""

    id: UUID
    name: str | None


@dataclass(frozen=True, slots=True)
class QueuePage:
    """Some rows in order of id, and how many there are in all."""

    total: int
    items: tuple[QueuedRow, ...]


list_queue = SqlFunction[QueuePage]("import_queue")
"""The rows that wait to be imported, after that id."""

claim_row = SqlFunction[ImportRow | None]("claim_import")
"""The next due row of no `busy` provider, or that one; it is not due again for a minute. `providers`: of each name."""

store_row = SqlFunction[Stored]("store_import", "id")
"""Put encrypted values in the place of those with these hashes, if they are still there; the connection is then `unverified`."""

finish_row = SqlFunction[None]("finish_import", "id", "outcome")
"""
Take the row out of the queue, or make it due later.

`confirmed` with an account makes the connection active; `refused` makes it need reauthorization. Both apply only to the save of that
`seal_id`.
"""
