"""
From JSON to values: what the functions of schema.sql answer, as our nouns.

Knows the shape of each answer and nothing of how it was fetched. Times come with whatever offset the database writes and are
UTC from here on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypedDict
from uuid import UUID

from gateway.models import (
    Account,
    AuthorizationRequest,
    Clock,
    Connection,
    Erased,
    ParkedGrant,
    Revocation,
    Standing,
    Status,
    User,
)

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Session:
    """Who is signed in, and until when."""

    user: User
    expires_at: datetime


class Begun(NamedTuple):
    """An attempt that is kept: whose it is, and all that is asked for."""

    user: User
    scope: tuple[str, ...]


class Sharing(NamedTuple):
    """A partner that may use a connection. `made`: the connection was made for it."""

    partner_id: UUID
    name: str
    made: bool


class Listing(NamedTuple):
    """
    A signed-in user's connections, by type, then oldest first, and who may use them beside the product, by their ids.

    `frozen`: the providers where nothing may be connected just now.
    """

    user: User
    connections: tuple[Connection, ...]
    sharing: Mapping[UUID, tuple[Sharing, ...]]
    frozen: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Saved:
    """
    How a save went. If `saved`, `standing` is the new row; if not, what to seal for instead (generation + 1).

    Where nothing stands, `standing` is a fresh id at generation 0. `created`: the gateway had no such connection before.
    """

    saved: bool
    standing: Standing
    created: bool
    answered: bool = False
    """Not saved because the parked grant is gone: somebody answered, or time did."""
    connection: Connection | None = None
    """What stands now in full, where it came by a partner's link."""


class SchemaState(TypedDict):
    """What stands in the database: version 0 for none. `own_auth`: plain Postgres, so auth.users is ours to fill."""

    version: int
    own_auth: bool


@dataclass(frozen=True, slots=True)
class StoredGrant:
    """What a token read needs. `good` for the seconds that were asked for, `alive` now, both by the database's clock."""

    id: UUID
    user_id: UUID
    provider: str
    generation: int
    status: Status
    scope: tuple[str, ...]
    expires_at: datetime | None
    token: str | None = field(repr=False)
    good: bool
    alive: bool
    refreshable: bool
    leased: bool
    wait_seconds: float


@dataclass(frozen=True, slots=True)
class ClaimedRefresh:
    """The right to send one token request. `again`: whoever had it before died over it."""

    id: UUID
    user_id: UUID
    provider: str
    generation: int
    lease_id: UUID
    account_id: str
    scope: tuple[str, ...]
    again: bool
    failures: int
    refresh: str | None = field(repr=False)
    facts: Mapping[str, Any]


def iso(moment: datetime | None) -> str | None:
    """A time as an argument."""
    return None if moment is None else moment.isoformat()


def when(text: str | None) -> datetime | None:
    """A timestamptz in JSON (ISO 8601), in UTC."""
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC)


def certain(text: str) -> datetime:
    """The same where there always is one."""
    return datetime.fromisoformat(text).astimezone(UTC)


def user(row: Row) -> User:
    """From `user_id` and `label`."""
    return User(UUID(row["user_id"]), row["label"])


def standing(row: Row) -> Standing:
    """From `id`, `generation`, `account_id`, `account_label`, and `refresh`, `token` and `scope` where they are told."""
    return Standing(
        UUID(row["id"]),
        row["generation"],
        row["account_id"],
        row["account_label"],
        refresh=row.get("refresh"),
        token=row.get("token"),
        scope=tuple(row.get("scope") or ()),
    )


def authorization_request(row: Row) -> AuthorizationRequest:
    """From gateway_take_authorization."""
    return AuthorizationRequest(
        provider=row["provider"],
        user_id=UUID(row["user_id"]),
        browser_hash=row["browser_hash"],
        sealed=row["sealed"],
        scope=tuple(row["scope"]),
        return_to=row["return_to"],
        display=row["display"],
        session_user_id=None if row["session_user_id"] is None else UUID(row["session_user_id"]),
        session_label=row["session_label"],
        another=row["another"],
        standing=tuple(map(standing, row["standing"])),
        clock=Clock(certain(row["taken_at"])),
        connect_session_id=None if row["connect_session_id"] is None else UUID(row["connect_session_id"]),
    )


def parked_grant(row: Row) -> ParkedGrant:
    """From gateway_parked_grant."""
    return ParkedGrant(
        id=UUID(row["id"]),
        user=user(row),
        provider=row["provider"],
        account=Account(row["account_id"], row["account_label"]),
        scope=tuple(row["scope"]),
        token=row["token"],
        refresh=row["refresh"],
        expires_at=when(row["expires_at"]),
        refresh_expires_at=when(row["refresh_expires_at"]),
        facts=row["facts"],
        return_to=row["return_to"],
        display=row["display"],
        standing=tuple(map(standing, row["standing"])),
        clock=Clock(certain(row["told_at"])),
        shared_with=tuple(row.get("shared_with", ())),
    )


def revocation(row: Row) -> Revocation:
    """From gateway_claim_revocation, gateway_refuse_parked_grant and within gateway_disconnect."""
    return Revocation(
        UUID(row["connection_id"]), row["provider"], row["generation"], row["token"], row["refresh"], row["beside"]
    )


def connection(row: Row) -> Connection:
    """From gateway_connection, and each of gateway_connections."""
    return Connection(
        id=UUID(row["id"]),
        user_id=UUID(row["user_id"]),
        provider=row["provider"],
        type=row["type"],
        generation=row["generation"],
        status=row["status"],
        account=Account(row["account_id"], row["account_label"]),
        scope=tuple(row["scope"]),
        expires_at=when(row["expires_at"]),
        created_at=certain(row["created_at"]),
        updated_at=certain(row["updated_at"]),
    )


def listing(row: Row) -> Listing:
    """From gateway_connections."""
    sharing = {
        UUID(each["id"]): tuple(Sharing(UUID(one["id"]), one["name"], one["made"]) for one in each["partners"])
        for each in row["connections"]
    }
    return Listing(user(row), tuple(map(connection, row["connections"])), sharing, frozenset(row["frozen"]))


def saved(row: Row) -> Saved:
    """From gateway_save_connection."""
    whole = row.get("connection")
    return Saved(row["saved"], standing(row), row["created"], row.get("answered", False), whole and connection(whole))


def erased(row: Row) -> Erased:
    """From gateway_disconnect."""
    connection_id, queued = UUID(row["connection_id"]), row["revocation"]
    return Erased(
        connection_id=connection_id,
        provider=row["provider"],
        account=Account(row["account_id"], row["account_label"]),
        erased_at=certain(row["erased_at"]),
        event_id=UUID(row["event_id"]),
        revocation=None if queued is None else revocation(queued),
        kept=row["kept"],
    )


def stored_grant(row: Row) -> StoredGrant:
    """From gateway_grant."""
    return StoredGrant(
        id=UUID(row["id"]),
        user_id=UUID(row["user_id"]),
        provider=row["provider"],
        generation=row["generation"],
        status=row["status"],
        scope=tuple(row["scope"]),
        expires_at=when(row["expires_at"]),
        token=row["token"],
        good=row["good"],
        alive=row["alive"],
        refreshable=row["refreshable"],
        leased=bool(row["leased"]),
        wait_seconds=float(row["wait_seconds"] or 0),
    )


def claimed_refresh(row: Row) -> ClaimedRefresh:
    """From gateway_claim_refresh and gateway_claim_due."""
    return ClaimedRefresh(
        id=UUID(row["id"]),
        user_id=UUID(row["user_id"]),
        provider=row["provider"],
        generation=row["generation"],
        lease_id=UUID(row["lease_id"]),
        account_id=row["account_id"],
        scope=tuple(row["scope"]),
        again=row["again"],
        failures=row["failures"],
        refresh=row["refresh"],
        facts=row["facts"] if isinstance(row["facts"], dict) else {},
    )
