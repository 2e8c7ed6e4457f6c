"""
The store's methods for adopting what others wrote into provider_data, one an SQL function, and what they answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from gateway.database import rows
from gateway.models import Account

Adopted = Literal["adopted", "changed", "no_user", "duplicate"]


@dataclass(frozen=True, slots=True)
class Adoptable:
    """A row of provider_data that holds a secret. Its plaintext is not here: whoever claims the row gets it."""

    id: UUID
    at: str
    """When it was made, as the database writes it: with `id`, where the next page begins."""
    user_id: UUID | None
    name: str | None
    provider: str | None
    """Of the connection, or what the row's name stands for; None where it stands for nothing."""
    generation: int
    """0 for a row that is no connection yet."""
    seal_id: UUID | None
    refresh_seal_id: UUID | None
    plain: bool
    token: str | None = field(repr=False)
    refresh: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class AdoptablePage:
    """Some rows, oldest first. `total` is told with the first page."""

    total: int
    rows: tuple[Adoptable, ...]


@dataclass(frozen=True, slots=True)
class ClaimedAdoption:
    """The right to ask a provider about one row, for a minute. `account_id` is None for a row that is no connection yet."""

    id: UUID
    lease_id: UUID
    attempts: int
    user_id: UUID | None
    provider: str
    generation: int
    account_id: str | None
    account_key: str | None
    scope: tuple[str, ...]
    refresh_expires_at: datetime | None
    seal_id: UUID | None
    refresh_seal_id: UUID | None
    token: str | None = field(repr=False)
    refresh: str | None = field(repr=False)
    expires: str | None
    data: Mapping[str, Any]
    """Of a connection, what is believed of it; else what the row says."""
    refresh_hash: str | None
    sealed: str | None = field(repr=False)
    """What the refresh token of `refresh_hash` brought, where it was used already."""
    beside: bool
    """The same user has another connection of this provider."""


class Adopting:
    """A part of Store: what `adopt` calls."""

    def _call(self, function: str, **arguments: object) -> Any:
        raise NotImplementedError

    def adoptable(self, *, after: Adoptable | None, most: int, providers: Sequence[str]) -> AdoptablePage:
        """The next `most` rows behind `after` that hold a secret. `providers`: what a row's name may stand for."""
        page = self._call(
            "adoptable",
            after_at=None if after is None else after.at,
            after_id=None if after is None else str(after.id),
            most=most,
            providers=list(providers),
        )
        return AdoptablePage(page["total"], tuple(map(_adoptable, page["rows"])))

    def claim_adoption(self, connection_id: UUID | None = None, provider: str | None = None) -> ClaimedAdoption | None:
        """
        The lease on that row, as one of `provider` if it is no connection yet; None when somebody has it.

        Without an id, the next connection over whose secrets something was written; None when nothing is due.
        """
        row = self._call(
            "claim_adoption",
            connection_id=None if connection_id is None else str(connection_id),
            provider=provider,
        )
        return None if row is None else _claimed(row)

    def keep_refreshed(self, claim: ClaimedAdoption, *, refresh_hash: str, sealed: str) -> bool:
        """Keeps what a used refresh token brought, sealed, beside the row; False when the lease is not ours any more."""
        row = self._call(
            "keep_refreshed",
            connection_id=str(claim.id),
            lease_id=str(claim.lease_id),
            refresh_hash=refresh_hash,
            sealed=sealed,
        )
        return bool(row["kept"])

    def adopt_connection(
        self,
        claim: ClaimedAdoption,
        *,
        token_hash: str | None,
        refresh_hash: str | None,
        type: int,  # noqa: A002 -- the column's name, and the argument's
        account_key: str,
        account: Account,
        scope: Sequence[str],
        token: str,
        refresh: str | None,
        seal_id: UUID,
        expires_at: datetime | None,
        refresh_expires_at: datetime | None,
        data: Mapping[str, Any],
    ) -> Adopted:
        """
        Makes a claimed row the next generation of a connection, if what stands there still has these hashes.

        `data` is laid over what the row has.
        """
        row = self._call(
            "adopt_connection",
            connection_id=str(claim.id),
            lease_id=str(claim.lease_id),
            generation=claim.generation + 1,
            token_hash=token_hash,
            refresh_hash=refresh_hash,
            provider=claim.provider,
            type=type,
            account_key=account_key,
            account_id=account.id,
            account_label=account.label,
            scope=list(scope),
            token=token,
            refresh=refresh,
            seal_id=str(seal_id),
            expires_at=None if expires_at is None else expires_at.isoformat(),
            refresh_expires_at=None if refresh_expires_at is None else refresh_expires_at.isoformat(),
            data=dict(data),
        )
        why: Adopted = "adopted" if row["adopted"] else row["why"]
        return why

    def settle_adoption(
        self,
        claim: ClaimedAdoption,
        *,
        refused: bool,
        token_hash: str | None,
        refresh_hash: str | None,
        error: str,
        again: bool = False,
    ) -> bool:
        """
        Gives the lease back; whether a connection was marked, which `refused` asks for where these hashes still stand.

        `again`: it has to be asked about once more, later.
        """
        row = self._call(
            "settle_adoption",
            connection_id=str(claim.id),
            lease_id=str(claim.lease_id),
            refused=refused,
            token_hash=token_hash,
            refresh_hash=refresh_hash,
            error=error,
            again=again,
        )
        return bool(row["marked"])


def _uuid(text: str | None) -> UUID | None:
    return None if text is None else UUID(text)


def _adoptable(row: rows.Row) -> Adoptable:
    return Adoptable(
        id=UUID(row["id"]),
        at=row["at"],
        user_id=None if row["user_id"] is None else UUID(row["user_id"]),
        name=row["name"],
        provider=row["provider"],
        generation=row["generation"],
        seal_id=_uuid(row["seal_id"]),
        refresh_seal_id=_uuid(row["refresh_seal_id"]),
        plain=row["plain"],
        token=row["token"],
        refresh=row["refresh"],
    )


def _claimed(row: rows.Row) -> ClaimedAdoption:
    return ClaimedAdoption(
        id=UUID(row["id"]),
        lease_id=UUID(row["lease_id"]),
        attempts=row["attempts"],
        user_id=None if row["user_id"] is None else UUID(row["user_id"]),
        provider=row["provider"],
        generation=row["generation"],
        account_id=row["account_id"],
        account_key=row["account_key"],
        scope=tuple(row["scope"]),
        refresh_expires_at=rows.when(row["refresh_expires_at"]),
        seal_id=_uuid(row["seal_id"]),
        refresh_seal_id=_uuid(row["refresh_seal_id"]),
        token=row["token"],
        refresh=row["refresh"],
        expires=row["expires"],
        data=row["data"] if isinstance(row["data"], dict) else {},
        refresh_hash=row["refresh_hash"],
        sealed=row["sealed"],
        beside=row["beside"],
    )
