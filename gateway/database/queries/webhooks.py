"""Endpoints of outgoing webhooks, and what is to be delivered to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import TypeAdapter

from gateway.database import Database
from gateway.database.queries.events import Event
from gateway.models import Caller

Change = Literal["delete", "test", "replay", "rotate"]


@dataclass(frozen=True, slots=True)
class Webhook:
    """An endpoint. `event_types`: None for every type. `position`: everything up to there was delivered."""

    id: UUID
    partner_id: UUID
    partner: str
    url: str
    event_types: tuple[str, ...] | None
    position: int
    failures: int
    failing_since: datetime | None
    disabled_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt to deliver an event. `status`: None where no response came; `error` then says why."""

    position: int
    event_id: UUID
    type: str
    status: int | None
    error: str | None
    duration_ms: int
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class EncryptedSecret:
    """A signing secret of an endpoint."""

    seal_id: UUID
    encrypted: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Claim:
    """Events in order, for one endpoint, which no other process delivers to until the lease ends."""

    id: UUID
    claim_id: UUID
    url: str
    failures: int
    secrets: tuple[EncryptedSecret, ...]
    events: tuple[Event, ...]


OPERATOR = Caller()
"""Without a key: every endpoint."""
_WEBHOOK = TypeAdapter(Webhook | None)
_WEBHOOKS = TypeAdapter(tuple[Webhook, ...])
_ATTEMPTS = TypeAdapter(tuple[Attempt, ...])


def create_webhook(
    database: Database,
    caller: Caller,
    *,
    webhook_id: UUID,
    url: str,
    event_types: Sequence[str] | None,
    secret: EncryptedSecret,
) -> Webhook | None:
    """A new endpoint, for the events from now on; None where the partner has ten."""
    return database.find(
        Webhook,
        "create_webhook",
        key_hash=caller.key_hash,
        address=caller.address,
        id=webhook_id,
        url=url,
        event_types=event_types,
        seal_id=secret.seal_id,
        secret=secret.encrypted,
    )


def list_webhooks(database: Database, caller: Caller = OPERATOR) -> tuple[Webhook, ...]:
    """The endpoints of the calling partner; without a caller, all."""
    found = database.call("webhooks", key_hash=caller.key_hash, address=caller.address, webhook_id=None)
    return _WEBHOOKS.validate_python(found["webhooks"])


def read_webhook(
    database: Database, webhook_id: UUID, caller: Caller = OPERATOR
) -> tuple[Webhook | None, tuple[Attempt, ...]]:
    """One endpoint and its last hundred attempts, newest first."""
    found = database.call("webhooks", key_hash=caller.key_hash, address=caller.address, webhook_id=webhook_id)
    first = next(iter(found["webhooks"]), None)
    return _WEBHOOK.validate_python(first), _ATTEMPTS.validate_python(found["deliveries"])


def change_webhook(
    database: Database,
    webhook_id: UUID,
    change: Change,
    caller: Caller = OPERATOR,
    *,
    after: int | None = None,
    secret: EncryptedSecret | None = None,
) -> Webhook | None:
    """The endpoint after a change; None where the caller has no such endpoint. `replay` needs `after`, `rotate` a `secret`."""
    return database.find(
        Webhook,
        "change_webhook",
        key_hash=caller.key_hash,
        address=caller.address,
        webhook_id=webhook_id,
        change=change,
        after=after,
        seal_id=secret and secret.seal_id,
        secret=secret and secret.encrypted,
    )


def claim_deliveries(database: Database, *, most: int, lease_seconds: float) -> Claim | None:
    """The next events of the endpoint that has been due longest; None when there is nothing to deliver."""
    return database.find(Claim, "claim_deliveries", most=most, lease_seconds=lease_seconds)


def end_deliveries(
    database: Database,
    claim: Claim,
    *,
    delivered: int | None,
    attempts: Sequence[Attempt],
    wait_seconds: float | None,
    gone: bool,
) -> bool:
    """
    Log the attempts and move the cursor to `delivered` (None: nothing was). `wait_seconds`: after a failure. Whether the endpoint is disabled.
    """
    row = database.call(
        "end_deliveries",
        id=claim.id,
        claim_id=claim.claim_id,
        position=delivered,
        attempts={"items": attempts},
        wait_seconds=wait_seconds,
        gone=gone,
    )
    return bool(row.get("disabled"))
