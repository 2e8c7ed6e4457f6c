"""Partners, as the operator manages them: keys, limits, freezes."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple
from uuid import UUID

from gateway.database import SqlFunction


class NewKey(NamedTuple):
    partner_id: UUID
    key_id: UUID


list_partners = SqlFunction[Mapping[str, Any]]("partners", "name")
add_key = SqlFunction[NewKey | Literal["taken", "two_keys", "revoked"] | None]("add_key")

set_partner = SqlFunction[bool | None]("change_partner", "name", "changes")
"""Change some of a partner's columns; False or None for no such partner. None for a limit is none, for `providers` every one."""

revoke = SqlFunction[bool | None]("change_partner", "name", "key_id")
"""Revoke a partner with all its keys, or one key: whether it was valid until now, None for no such partner or key."""

freeze = SqlFunction[bool | None]("freeze")
