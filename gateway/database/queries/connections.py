"""
Connections: save in one call, list, and what callers of /v1 reach, a partner with a key or a user; the import of tokens that the gateway did
not write; disconnecting, and the queue of grants that still have to be revoked at their provider.

A function with a caller checks the key in the same call, and raises Unauthenticated, Forbidden, Frozen or RateLimited for a refusal.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple
from uuid import UUID

from gateway.database import SqlFunction
from gateway.models import Account, Connection, Display, User, UtcTime


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
    row_names: tuple[str, ...]
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
list_connections = SqlFunction[Listing | None]("connections", "session_hash")

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


# -- import ---------------------------------------------------------------------------------------------------------


ImportStored = Literal["stored", "changed", "duplicate", "no_user"]


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
    version: str
    """Changes with each write to the row."""


list_imports = SqlFunction[tuple[UUID, ...]]("import_queue")
claim_import = SqlFunction[ImportRow | None]("claim_import")
store_import = SqlFunction[ImportStored]("store_import", "id")
finish_import = SqlFunction[None]("finish_import", "id", "outcome")


# -- disconnect and revoke ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Revocation:
    """An encrypted grant that still has to be revoked at its provider (RFC 7009)."""

    seal_id: UUID
    """Of the save that encrypted `token`."""
    refresh_seal_id: UUID
    """Of the save that encrypted `refresh`: an earlier one if a reconnect had no refresh token."""
    user_id: UUID
    provider: str
    token: str | None = field(repr=False)
    refresh: str | None = field(repr=False)
    facts: Mapping[str, Any] = field(default_factory=dict, repr=False)
    beside: bool = False
    """The same account is connected elsewhere, or again: some providers would end that along with this grant."""


@dataclass(frozen=True, slots=True)
class Erased:
    """What a disconnect erased, and the grant that is left to revoke."""

    connection_id: UUID
    provider: str
    account: Account
    facts: Mapping[str, Any] = field(repr=False, hash=False)
    erased_at: UtcTime
    event_id: UUID
    """The event that records it."""
    revocation: Revocation | None
    kept: bool = False
    """Nothing was erased: only a partner's access ended, because others still use the connection."""


@dataclass(frozen=True, slots=True)
class UninstallTarget:
    user_id: UUID
    provider: str
    account_id: str
    facts: Mapping[str, Any]
    kept: bool
    """The connection stays: the caller is a partner, and others use the connection."""
    shared: bool
    """The account is connected elsewhere too, and the caller is a partner that has no say in that."""


find_uninstall_target = SqlFunction[UninstallTarget | None]("disconnect", look=True)
erase_own_connection = SqlFunction[Erased | None]("disconnect")
queue_revocation = SqlFunction[Revocation | None]("queue_revocation")
claim_revocations = SqlFunction[tuple[Revocation, ...]]("claim_revocations")
settle_revocation = SqlFunction[bool]("settle_revocation", "seal_id")
