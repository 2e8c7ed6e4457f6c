"""Encrypted values, page by page, for a key rotation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple
from uuid import UUID

from gateway.database import SqlFunction

Kind = Literal["connection", "pending_grant", "revocation", "webhook", "unclaimed_install", "event_chain"]
"""The tables that hold encrypted values. Grants move from the first to the later ones, never back."""


@dataclass(frozen=True, slots=True)
class EncryptedValue:
    """One value and the context that its key is derived from."""

    id: UUID
    """Of its row."""
    column: str
    text: str = field(repr=False)
    user_id: UUID | None
    provider: str
    seal_id: str

    @property
    def context(self) -> dict[str, Any]:
        """The arguments of Vault.decrypt and Vault.encrypt."""
        return {
            "column": self.column,
            "user_id": self.user_id,
            "provider": self.provider,
            "seal_id": self.seal_id,
        }


class Page(NamedTuple):
    """Some values, in order. `total`: how many there are; in the first page only."""

    total: int | None
    items: tuple[EncryptedValue, ...]


encrypted_values = SqlFunction[Page]("encrypted_values", "kind")
"""The next values of that kind, after that one."""

replace_encrypted = SqlFunction[int]("replace_encrypted", "kind", "changes")
"""
Replace each `old` text by the `new` one, in `column` of row `id`: {"items": [...]}. How many were replaced. Values that changed meanwhile stay, and locked rows are left for the next
pass.
"""
