"""
The nouns, frozen.

Plain values that pass between modules. They know no database, no HTTP and no provider. What holds a secret hides it from `repr`, so that
no log line, traceback or debugger shows one.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import methodcaller
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator

Status = Literal["active", "unverified", "suspended", "held", "pending_confirmation", "needs_reauthorization"]
Display = Literal["page", "popup"]
UtcTime = Annotated[datetime, AfterValidator(methodcaller("astimezone", UTC))]
"""A time that is in UTC once it was read from a database response."""


@dataclass(frozen=True, slots=True)
class Client:
    """Our registration at a provider (RFC 6749 section 2)."""

    client_id: str
    client_secret: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class User:
    """A user of the product. `id` is `auth.users.id`."""

    id: UUID
    label: str


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of `/v1`: either a user with an access token, or a partner with a key."""

    user_id: UUID | None = None
    key_hash: str | None = field(default=None, repr=False)
    """SHA-256 of the partner's key, hex."""
    address: str | None = None
    """Where the call comes from, for keys that may be used from certain networks only."""


OPERATOR: Mapping[str, bool] = {"is_operator": True}
"""Instead of a Caller: the command line, which reaches everything."""


@dataclass(frozen=True, slots=True)
class Account:
    """An account at a provider: `id` is stable there, `label` is for people."""

    id: str
    label: str
    facts: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """What was learned with it about the addresses of its API."""


@dataclass(frozen=True, slots=True)
class Grant:
    """The secrets of one connection, decrypted in memory only (RFC 6749 section 5.1)."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    scope: tuple[str, ...] = ()
    expires_at: datetime | None = None
    refresh_expires_at: datetime | None = None
    id_token: str | None = field(default=None, repr=False)
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the token response that the catalogue keeps (`locationId`, `companyId` …)."""
    rest: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The whole response without its secrets, while it is judged."""


@dataclass(frozen=True, slots=True)
class Clock:
    """The database's clock when it was read, so that a time can be sent to the database even if this machine's clock is wrong."""

    at: UtcTime
    read: float = field(default_factory=time.monotonic)
    """When the response arrived, on this process's monotonic clock."""


@dataclass(frozen=True, slots=True)
class Connection:
    """A durable row: one user's account at one provider. `id` is `provider_data.id` everywhere."""

    id: UUID
    user_id: UUID
    provider: str
    type: int
    generation: int
    status: Status
    reason: str | None
    """Why it is not active: a slug."""
    account: Account
    scope: tuple[str, ...]
    facts: Mapping[str, Any] = field(repr=False, hash=False)
    tags: Mapping[str, str] = field(hash=False)
    """What partners named it by, as far as the caller may see it."""
    refreshable: bool
    """Whether there is a refresh token; if not, the connection ends at `expires_at`."""
    expires_at: UtcTime | None
    created_at: UtcTime
    updated_at: UtcTime


@dataclass(frozen=True, slots=True)
class Unit:
    """Claimed work of the worker at one provider; empty where no provider is called."""

    provider: str
    run: Callable[[], object]
