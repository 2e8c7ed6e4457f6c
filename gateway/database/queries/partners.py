"""Partners, as the operator manages them: keys, limits, freezes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple
from uuid import UUID

from gateway.database import Database, sql_function


class NewKey(NamedTuple):
    """The ids of a partner and of a key that was made for it."""

    partner_id: UUID
    key_id: UUID


@sql_function("add_partner")
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


@sql_function("partners")
def list_partners(database: Database, name: str | None = None) -> Mapping[str, Any]:
    """`partners` with their `keys` (never the secrets), oldest first; and what is `frozen`."""


@sql_function("add_key")
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


@sql_function("set_partner")
def set_partner(database: Database, name: str, changes: Mapping[str, Any]) -> bool:
    """Change some of a partner's columns; False for no such partner. None for a limit is none, for `providers` every one."""


@sql_function("revoke_partner")
def revoke(database: Database, name: str, key_id: UUID | None = None) -> bool | None:
    """Revoke a partner with all its keys, or one key: whether it was valid until now, None for no such partner or key."""


@sql_function("freeze")
def freeze(
    database: Database,
    *,
    partner: str | None = None,
    provider: str | None = None,
    reads: bool = False,
    off: bool = False,
) -> bool | None:
    """Freeze one of them, or thaw it; whether that changed anything, None for no such partner."""
