"""
The nouns, frozen.

Plain values that pass between rooms. They know no database, no HTTP and no provider. Whatever holds a secret hides it from
`repr`, so that no log line, traceback or debugger shows one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

Status = Literal["active", "pending_confirmation", "needs_reauthorization"]
Display = Literal["page", "popup"]


@dataclass(frozen=True, slots=True)
class Client:
    """Our registration at a provider (RFC 6749 section 2)."""

    client_id: str
    client_secret: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class User:
    """Somebody of the product, as its Supabase project knows them. `id` is `auth.users.id`."""

    id: UUID
    label: str


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks through `/v1`: a user whom an access token proved, or a partner, known by its key. One of the two."""

    user_id: UUID | None = None
    key_hash: str | None = field(default=None, repr=False)
    """SHA-256 of the partner's key, hex."""
    address: str | None = None
    """Where the call comes from, for keys that may be used from there alone."""


@dataclass(frozen=True, slots=True)
class Account:
    """Whose account it is at the provider: `id` is stable there, `label` is for people."""

    id: str
    label: str


@dataclass(frozen=True, slots=True)
class Grant:
    """The secrets of one connection, open only in memory (RFC 6749 section 5.1)."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    token_type: str
    scope: tuple[str, ...]
    expires_at: datetime | None
    refresh_expires_at: datetime | None = None
    id_token: str | None = field(default=None, repr=False)
    facts: Mapping[str, str] = field(default_factory=dict)
    """The provider's own facts beside the tokens that the catalogue asks to keep (`locationId`, `companyId` …)."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What stands in the database of a connection, for compare-and-set."""

    id: UUID
    generation: int
    account_id: str | None = None
    account_label: str | None = None
    refresh: str | None = field(default=None, repr=False)
    """The sealed refresh token that stands, for an answer that brings none."""
    token: str | None = field(default=None, repr=False)
    """The sealed access token that stands, where a save was refused: no two seals of anything are the same."""
    scope: tuple[str, ...] = ()
    """What it allows."""


@dataclass(frozen=True, slots=True)
class Clock:
    """The database's clock as it was read, so that a moment can be named to it however wrong this machine's is."""

    at: datetime
    heard: float = field(default_factory=time.monotonic)
    """When the answer was here, in seconds of this process's monotonic clock."""

    def after(self, seconds: float) -> datetime:
        """What it shows that many seconds from now; too early by the answer's way here, and never too late."""
        return self.at + timedelta(seconds=time.monotonic() - self.heard + seconds)


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """One attempt that we sent a browser on, as taken back from the database, once."""

    provider: str
    user_id: UUID
    browser_hash: str
    sealed: str
    scope: tuple[str, ...]
    return_to: str | None
    display: Display
    session_user_id: UUID | None
    """Who is signed in, in the browser that came back; None for nobody."""
    session_label: str
    another: bool
    """The user asked for one more account, so that a new one is no surprise."""
    standing: tuple[Standing, ...]
    """What stands of this user at this provider, newest first."""
    clock: Clock
    connect_session_id: UUID | None = None
    """The partner's link that it was started from; None for a user who came by themselves."""


@dataclass(frozen=True, slots=True)
class Connection:
    """A durable row: one user's account at one provider. `id` is `provider_data.id` everywhere."""

    id: UUID
    user_id: UUID
    provider: str
    type: int
    generation: int
    status: Status
    account: Account
    scope: tuple[str, ...]
    expires_at: datetime | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class ParkedGrant:
    """A sealed grant, until somebody says what becomes of it: of another account than the one that stands, or of whom nobody knew."""

    id: UUID
    user: User
    provider: str
    account: Account
    scope: tuple[str, ...]
    token: str | None = field(repr=False)
    refresh: str | None = field(repr=False)
    expires_at: datetime | None
    refresh_expires_at: datetime | None
    facts: Mapping[str, str]
    return_to: str | None
    display: Display
    standing: tuple[Standing, ...]
    clock: Clock
    shared_with: tuple[str, ...] = ()
    """The names of partners that use what stands."""


@dataclass(frozen=True, slots=True)
class Revocation:
    """A sealed grant that still has to be given back to its provider (RFC 7009)."""

    connection_id: UUID
    provider: str
    generation: int
    token: str | None = field(repr=False)
    refresh: str | None = field(repr=False)
    beside: bool = False
    """The same account is connected still, or again: some providers would end that along with this grant."""


@dataclass(frozen=True, slots=True)
class Erased:
    """What a disconnect removed, and what is left to give back."""

    connection_id: UUID
    provider: str
    account: Account
    erased_at: datetime
    event_id: UUID
    """Of the event that tells of it."""
    revocation: Revocation | None
    kept: bool = False
    """Nothing was erased: a partner's reach ended, and others use the connection still."""
