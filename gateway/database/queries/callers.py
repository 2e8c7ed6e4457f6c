"""
What callers of /v1 reach: a partner with a key, or a user.

Each function checks the key in the same call, and raises Unauthenticated, Forbidden, Frozen or RateLimited for a refusal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal
from uuid import UUID

from gateway.database import Database, sql_function
from gateway.models import Caller, Connection

CheckOutcome = Literal["confirmed", "refused", "another_account", "suspended", "unknown"]


@sql_function("caller")
def check_caller(database: Database, caller: Caller, needs: str | None = None) -> tuple[str, ...] | None:
    """The providers that the caller may know of, None for all. `needs`: the scope that a key must have."""


@sql_function("reached_connection")
def reached_connection(
    database: Database, caller: Caller, connection_id: UUID, *, check: bool = False
) -> Connection | None:
    """A connection that the caller reaches; None for any other. `check`: the right to check it, which a caller has once a minute."""


@sql_function("reached_connections")
def reached_connections(
    database: Database,
    caller: Caller,
    *,
    of_user: UUID | None = None,
    provider: str | None = None,
    type: int | None = None,  # noqa: A002 -- the column's name
    status: str | None = None,
    account_id: str | None = None,
    tag: Mapping[str, str] | None = None,
    after: UUID | None = None,
    most: int = 100,
) -> tuple[Connection, ...]:
    """At most `most` of the connections that the caller reaches, in the order of ids, after the id `after`."""


@sql_function("end_check")
def end_check(
    database: Database,
    caller: Caller | None,
    connection_id: UUID,
    *,
    generation: int,
    outcome: CheckOutcome,
    label: str | None = None,
) -> Connection | None:
    """
    The connection after a check, None where it is gone. An outcome changes it only if it still has that generation.

    `label`: the account's name, which is kept where the connection has none.
    """
