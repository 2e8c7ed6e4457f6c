"""
Connections: save in one call, list, and what callers of /v1 reach: a partner with a key, or a user.

A function with a caller checks the key in the same call, and raises Unauthenticated, Forbidden, Frozen or RateLimited for a refusal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple
from uuid import UUID

from gateway.database import SqlFunction
from gateway.models import Connection, Display, User


@dataclass(frozen=True, slots=True)
class NewGrant:
    """An encrypted grant, as it is passed to the database. `seal_id` is new for each save, and identifies a repeated call."""

    seal_id: UUID
    user_id: UUID
    provider: str
    type: int
    many_accounts: bool
    """Whether a user may have several connections of this provider."""
    account_id: str
    account_label: str
    scope: tuple[str, ...]
    facts: Mapping[str, Any]
    client_id: str | None
    """Our registration that the grant belongs to; None where it is not known."""
    token: str = field(repr=False)
    refresh: str | None = field(repr=False)
    """None keeps the refresh token of the same account's connection."""
    browser_hash: str
    return_to: str | None
    display: Display
    connect_session_id: UUID | None
    confirmation_hash: str | None = None
    """The grant waits until the partner sends what this is the hash of."""


class Sharing(NamedTuple):
    """A partner that may use a connection. `made`: the connection was made for it."""

    id: UUID
    name: str
    made: bool


class Listing(NamedTuple):
    """The signed-in user, their connections by type and age, the partners that use each, what ends with each, and the providers that are frozen."""

    user: User
    connections: tuple[Connection, ...]
    sharing: Mapping[UUID, tuple[Sharing, ...]]
    ends_with: Mapping[UUID, int]
    """For each connection, how many others of any user end when our app is uninstalled from its account."""
    frozen: frozenset[str] = frozenset()


save_connection = SqlFunction[Connection | None]("save_connection", "grant")
"""
Create or update a connection, in one transaction; None where the grant is kept as pending instead.

Pending, because the user has another account there and did not ask for one more; because a partner's link asked for less than the
connection allows; because the connection has a required scope that the grant lacks; or because of `confirmation_hash`. A repeated call gets the same result. Seconds count by the database's clock;
after `not_after` nothing is saved, because the caller has given up. `state_hash`: of the attempt, which keeps the result.
"""

list_connections = SqlFunction[Listing | None]("connections", "session_hash")
"""The signed-in user and all of their connections; None when the session has ended."""

CheckOutcome = Literal["confirmed", "refused", "another_account", "suspended", "unknown"]

check_caller = SqlFunction[tuple[str, ...] | None]("caller", "caller", "needs")
"""The providers that the caller may know of, None for all. `needs`: the scope that a key must have."""

reached_connection = SqlFunction[Connection | None]("reached_connection", "caller", "connection_id")
"""A connection that the caller reaches; None for any other. `check`: the right to check it, which a caller has once a minute."""

reached_connections = SqlFunction[tuple[Connection, ...]]("reached_connections", "caller")
"""
At most `most` of the connections that the caller reaches, or the operator, in the order of ids, after the id `after`.

`wanted`: any of type, status, account_id and tag (a pair); `clients`: our registrations, and only connections of another one; `scopes`: the
required ones of each provider, and only connections that lack one.
"""

end_check = SqlFunction[Connection | None]("end_check", "caller", "connection_id")
"""
The connection after a check, None where it is gone. An outcome changes it only if it still has that generation.

`label`: the account's name, which is kept where the connection has none.
"""
