"""
From JSON to values: what the functions of schema.sql answer, as our nouns.

Knows the shape of each answer and nothing of how it was fetched. Times come with whatever offset the database writes and are
UTC from here on.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypedDict
from uuid import UUID

from pydantic import TypeAdapter

from gateway.models import Account, Connection, Erased, Revocation

Row = Mapping[str, Any]
_CONNECTION, _REVOCATION = TypeAdapter(Connection), TypeAdapter(Revocation)


class SchemaState(TypedDict):
    """What stands in the database: version 0 for none. `own_auth`: plain Postgres, so auth.users is ours to fill."""

    version: int
    own_auth: bool


def iso(moment: datetime | None) -> str | None:
    """A time as an argument."""
    return None if moment is None else moment.isoformat()


def when(text: str | None) -> datetime | None:
    """A timestamptz in JSON (ISO 8601), in UTC."""
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC)


def certain(text: str) -> datetime:
    """The same where there always is one."""
    return datetime.fromisoformat(text).astimezone(UTC)


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
