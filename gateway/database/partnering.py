"""
The store's methods for partners: what the operator decides about them, and what they and users reach through `/v1`.

A caller's key is judged inside of each function, in the same call: a refusal comes back as Unauthenticated, Forbidden, Frozen or
RateLimited.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from gateway.database import rows
from gateway.models import Caller, Connection

CheckOutcome = Literal["confirmed", "refused", "unknown"]


@dataclass(frozen=True, slots=True)
class Checking:
    """The right to probe a connection, once a minute; `facts` say where to ask."""

    connection: Connection
    facts: Mapping[str, Any] = field(repr=False)


def asking(caller: Caller | None) -> dict[str, str | None]:
    """The arguments that say who asks; nobody for the gateway itself."""
    if caller is None:
        return {"user_id": None, "key_hash": None, "address": None}
    user_id = None if caller.user_id is None else str(caller.user_id)
    return {"user_id": user_id, "key_hash": caller.key_hash, "address": caller.address}


class Partnering:
    """A part of Store."""

    def _call(self, function: str, **arguments: object) -> Any:
        raise NotImplementedError

    # -- what the operator decides -----------------------------------------------------------------------------------

    def add_partner(
        self,
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
    ) -> tuple[UUID, UUID] | None:
        """The ids of a new partner and its first key; None where the name is taken. Limits of None are the usual ones."""
        row = self._call(
            "add_partner",
            name=name,
            scope=list(scope),
            providers=None if providers is None else list(providers),
            reach=reach,
            reads_per_hour=reads_per_hour,
            connections_per_hour=connections_per_hour,
            freeze_on_alert=freeze_on_alert,
            key_hash=key_hash,
            hint=hint,
            addresses=None if addresses is None else list(addresses),
            expires_seconds=expires_seconds,
        )
        return (UUID(row["partner_id"]), UUID(row["key_id"])) if row["added"] else None

    def partners(self, name: str | None = None) -> Mapping[str, Any]:
        """`partners` with their `keys`, less the secrets, oldest first; and what is `frozen` beside them."""
        found: Mapping[str, Any] = self._call("partners", name=name)
        return found

    def add_key(
        self,
        *,
        name: str,
        key_hash: str,
        hint: str,
        addresses: Sequence[str] | None,
        expires_seconds: float | None,
    ) -> tuple[UUID, UUID] | Literal["two_keys", "revoked"] | None:
        """
        The ids of a partner and of its new key, or why not; None for no such partner.

        Addresses and lifetime of None are those of the newest key before it.
        """
        row = self._call(
            "add_key",
            name=name,
            key_hash=key_hash,
            hint=hint,
            addresses=None if addresses is None else list(addresses),
            expires_seconds=expires_seconds,
        )
        if row is None:
            return None
        if not row["added"]:
            why: Literal["two_keys", "revoked"] = row["why"]
            return why
        return UUID(row["partner_id"]), UUID(row["key_id"])

    def revoke_key(self, *, name: str, key_id: UUID) -> bool | None:
        """Whether it was live until now; None for no such key of that partner."""
        row = self._call("revoke_key", name=name, key_id=str(key_id))
        return None if row is None else bool(row["revoked"])

    def revoke_partner(self, name: str) -> bool | None:
        """Whether it was live until now, its keys with it; None for no such partner."""
        row = self._call("revoke_partner", name=name)
        return None if row is None else bool(row["revoked"])

    def freeze(
        self, *, partner: str | None = None, provider: str | None = None, reads: bool = False, off: bool = False
    ) -> bool | None:
        """Freezes one of them, or thaws it; whether that changed anything, None for no such partner."""
        row = self._call("freeze", partner=partner, provider=provider, reads=reads, off=off)
        return None if row is None else bool(row["changed"])

    # -- what they reach ---------------------------------------------------------------------------------------------

    def caller(self, caller: Caller, needs: str | None = None) -> tuple[str, ...] | None:
        """The providers that the caller may know of, None for all of them. `needs`: the scope that a key has to have."""
        found = self._call("caller", **asking(caller), needs=needs)["providers"]
        return None if found is None else tuple(found)

    def reached_connection(self, caller: Caller, connection_id: UUID) -> Connection | None:
        """One within reach; None for any other as for none."""
        row = self._call("reached_connection", connection_id=str(connection_id), **asking(caller))
        return None if row is None else rows.connection(row)

    def reached_connections(
        self,
        caller: Caller,
        *,
        of_user: UUID | None = None,
        provider: str | None = None,
        type: int | None = None,  # noqa: A002 -- the column's name, and the argument's
        status: str | None = None,
        after: UUID | None = None,
        most: int = 100,
    ) -> tuple[Connection, ...]:
        """At most `most` of those within reach, behind the id `after`, in the order of ids."""
        found = self._call(
            "reached_connections",
            **asking(caller),
            of_user=None if of_user is None else str(of_user),
            provider=provider,
            type=type,
            status=status,
            after=None if after is None else str(after),
            most=most,
        )
        return tuple(map(rows.connection, found))

    def begin_check(self, caller: Caller, connection_id: UUID) -> Checking | None:
        """The right to probe one within reach, once a minute (RateLimited); None for any other as for none."""
        row = self._call("begin_check", connection_id=str(connection_id), **asking(caller))
        if row is None:
            return None
        return Checking(rows.connection(row), row["facts"] if isinstance(row["facts"], dict) else {})

    def end_check(
        self, caller: Caller, connection_id: UUID, *, generation: int, outcome: CheckOutcome, error: str = ""
    ) -> Connection | None:
        """What stands after a probe, None where it is gone. `refused` marks the connection, if it is that generation still."""
        row = self._call(
            "end_check",
            connection_id=str(connection_id),
            generation=generation,
            outcome=outcome,
            error=error,
            key_hash=caller.key_hash,
        )
        return None if row is None else rows.connection(row)
