"""
What callers of /v1 reach: a partner with a key, or a user.

Each function checks the key in the same call, and raises Unauthenticated, Forbidden, Frozen or RateLimited for a refusal.
"""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from gateway.database import Database
from gateway.models import Caller, Connection

CheckOutcome = Literal["confirmed", "another_account", "suspended", "unknown"]


def caller_arguments(caller: Caller | None) -> dict[str, Any]:
    """The arguments that name the caller; all None for the gateway itself."""
    if caller is None:
        return {"user_id": None, "key_hash": None, "address": None}
    return {"user_id": caller.user_id, "key_hash": caller.key_hash, "address": caller.address}


def check_caller(database: Database, caller: Caller, needs: str | None = None) -> tuple[str, ...] | None:
    """The providers that the caller may know of, None for all. `needs`: the scope that a key must have."""
    providers = database.call("caller", **caller_arguments(caller), needs=needs)["providers"]
    return None if providers is None else tuple(providers)


def reached_connection(
    database: Database, caller: Caller, connection_id: UUID, *, check: bool = False
) -> Connection | None:
    """A connection that the caller reaches; None for any other. `check`: the right to check it, which a caller has once a minute."""
    return database.find(
        Connection, "reached_connection", connection_id=connection_id, **caller_arguments(caller), check=check
    )


def reached_connections(
    database: Database,
    caller: Caller,
    *,
    of_user: UUID | None = None,
    provider: str | None = None,
    type: int | None = None,  # noqa: A002 -- the column's name
    status: str | None = None,
    account_id: str | None = None,
    after: UUID | None = None,
    most: int = 100,
) -> tuple[Connection, ...]:
    """At most `most` of the connections that the caller reaches, in the order of ids, after the id `after`."""
    return database.read_all(
        Connection,
        "reached_connections",
        **caller_arguments(caller),
        of_user=of_user,
        provider=provider,
        type=type,
        status=status,
        account_id=account_id,
        after=after,
        most=most,
    )


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
    return database.find(
        Connection,
        "end_check",
        connection_id=connection_id,
        generation=generation,
        outcome=outcome,
        label=label,
        key_hash=caller and caller.key_hash,
    )
