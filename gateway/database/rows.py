"""
From JSON to values: what the functions of schema.sql answer, as our nouns.

Knows the shape of each answer and nothing of how it was fetched. Times come with whatever offset the database writes and are
UTC from here on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypedDict
from uuid import UUID

from pydantic import TypeAdapter

from gateway.models import Account, Connection, Erased, Revocation, Status, User

Row = Mapping[str, Any]
_CONNECTION, _REVOCATION = TypeAdapter(Connection), TypeAdapter(Revocation)


@dataclass(frozen=True, slots=True)
class Session:
    """Who is signed in, and until when."""

    user: User
    expires_at: datetime


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
    seal_id: UUID
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
    seal_id: UUID
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


def revocation(row: Row) -> Revocation:
    """From every function that hands over a grant to be revoked."""
    return _REVOCATION.validate_python(row)


def connection(row: Row) -> Connection:
    """From every function that answers a connection."""
    return _CONNECTION.validate_python(row)


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
        seal_id=UUID(row["seal_id"]),
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
        seal_id=UUID(row["seal_id"]),
        refresh=row["refresh"],
        facts=row["facts"] if isinstance(row["facts"], dict) else {},
    )
