"""Endpoints of outgoing webhooks, and what is to be delivered to them."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from gateway.database import SqlFunction
from gateway.database.queries.events import Event


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


class Endpoints(NamedTuple):
    """Endpoints, and where one was asked for, its attempts."""

    webhooks: tuple[Webhook, ...]
    deliveries: tuple[Attempt, ...]


list_webhooks = SqlFunction[Endpoints]("webhooks", "caller", "webhook_id")

change_webhook = SqlFunction[Webhook | None]("change_webhook", "webhook_id", "change", "caller")
"""
The endpoint after a change; None where the caller has no such endpoint. `replay` needs `after`, `rotate` a `secret`, `create` both `new` and a
`secret`: the events from now on are for it, and None says that the partner has ten.
"""

claim_deliveries = SqlFunction[Claim | None]("claim_deliveries")
end_delivery = SqlFunction[bool]("end_delivery", "id")
