"""Import of tokens that the gateway did not write: the queue of rows, and results."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from gateway.database import Database, sql_function
from gateway.models import Account

Stored = Literal["stored", "changed", "duplicate", "no_user"]
Finished = Literal["confirmed", "refused", "later"]


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


@sql_function("import_queue")
def list_queue(database: Database, *, after: UUID | None, limit: int) -> QueuePage:
    """The rows that wait to be imported, after that id."""


@sql_function("claim_import")
def claim_row(
    database: Database,
    *,
    providers: Sequence[str],
    busy: Collection[str] = (),
    id: UUID | None = None,  # noqa: A002
) -> ImportRow | None:
    """The next due row of no `busy` provider, or that one; it is not due again for a minute. `providers`: of each name."""


@sql_function("store_import")
def store_row(
    database: Database,
    id: UUID,  # noqa: A002 -- the column's name
    *,
    token_hash: str | None,
    refresh_hash: str | None,
    provider: str,
    type: int,  # noqa: A002 -- the column's name
    one_account: bool,
    seal_id: UUID,
    token: str | None,
    refresh: str | None,
    expires_at: datetime | None,
    scope: Sequence[str],
    facts: Mapping[str, Any],
) -> Stored:
    """Put encrypted values in the place of those with these hashes, if they are still there; the connection is then `unverified`."""


@sql_function("finish_import")
def finish_row(
    database: Database,
    id: UUID,  # noqa: A002 -- the column's name
    outcome: Finished,
    *,
    seal_id: UUID | None = None,
    account: Account | None = None,
    error: str = "",
    wait_seconds: float = 0.0,
) -> None:
    """
    Take the row out of the queue, or make it due later.

    `confirmed` with an account makes the connection active; `refused` makes it need reauthorization. Both apply only to the save of that
    `seal_id`.
    """
