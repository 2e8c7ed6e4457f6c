"""Partners, as the operator manages them: keys, limits, freezes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple
from uuid import UUID

from gateway.database import Database


class NewKey(NamedTuple):
    """The ids of a partner and of a key that was made for it."""

    partner_id: UUID
    key_id: UUID


def add_partner(
    database: Database,
    *,
    name: str,
    scope: Sequence[str],
    providers: Sequence[str] | None,
    reach: str,
    reads_per_hour: int | None,
    connections_per_hour: int | None,
    freeze_on_alert: bool,
    key_hash: str,
    hint: str,
    addresses: Sequence[str] | None,
    expires_seconds: float | None,
) -> NewKey | None:
    """A new partner and its first key; None where the name is taken. Limits of None are the defaults."""
    return database.find(
        NewKey,
        "add_partner",
        name=name,
        scope=scope,
        providers=providers,
        reach=reach,
        reads_per_hour=reads_per_hour,
        connections_per_hour=connections_per_hour,
        freeze_on_alert=freeze_on_alert,
        key_hash=key_hash,
        hint=hint,
        addresses=addresses,
        expires_seconds=expires_seconds,
    )


def list_partners(database: Database, name: str | None = None) -> Mapping[str, Any]:
    """`partners` with their `keys` (never the secrets), oldest first; and what is `frozen`."""
    found: Mapping[str, Any] = database.call("partners", name=name)
    return found


def add_key(
    database: Database,
    *,
    name: str,
    key_hash: str,
    hint: str,
    addresses: Sequence[str] | None,
    expires_seconds: float | None,
) -> NewKey | Literal["two_keys", "revoked"] | None:
    """
    A further key of a partner, or why it was not made; None for no such partner.

    Addresses and lifetime of None are those of the newest key before it.
    """
    row = database.call(
        "add_key", name=name, key_hash=key_hash, hint=hint, addresses=addresses, expires_seconds=expires_seconds
    )
    if row is None or "why" in row:
        reason: Literal["two_keys", "revoked"] | None = row and row["why"]
        return reason
    return NewKey(UUID(row["partner_id"]), UUID(row["key_id"]))


def set_partner(database: Database, name: str, changes: Mapping[str, Any]) -> bool:
    """Change some of a partner's columns; False for no such partner. None for a limit is none, for `providers` every one."""
    return database.call("set_partner", name=name, changes=dict(changes)) is not None


def revoke(database: Database, name: str, key_id: UUID | None = None) -> bool | None:
    """Revoke a partner with all its keys, or one key: whether it was valid until now, None for no such partner or key."""
    row = database.call("revoke_partner", name=name, key_id=key_id)
    return None if row is None else bool(row["revoked"])


def freeze(
    database: Database,
    *,
    partner: str | None = None,
    provider: str | None = None,
    reads: bool = False,
    off: bool = False,
) -> bool | None:
    """Freeze one of them, or thaw it; whether that changed anything, None for no such partner."""
    row = database.call("freeze", partner=partner, provider=provider, reads=reads, off=off)
    return None if row is None else bool(row["changed"])
