"""
The shapes of `/v1`: what may be asked, and what is answered, as frozen models.

Requests are judged by them, answers are them (`wire`), and the API description is made from them (`openapi`), so that none of
the three can say something else. They know no HTTP, no route, no database, and no rule about who may.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from gateway import models
from gateway.errors import Remedy
from gateway.models import Status


def _digits(value: object) -> object:
    """Python reads `1_0`, ` 5 ` and `５` as numbers; an address with those in it was not meant."""
    if isinstance(value, str) and not (value.isascii() and value.isdigit() and len(value) <= _MOST_DIGITS):
        raise ValueError("not a whole number")
    return value


def _number(value: object) -> object:
    """A Literal takes no text for a number."""
    return int(value) if isinstance(value, str) and _digits(value) else value


def _canonical(value: object) -> object:
    """RFC 9562 section 4 in its one form: no braces, no `urn:uuid:`, hyphens where they belong."""
    if isinstance(value, str) and (len(value) != _UUID_LENGTH or value[8::5][:4] != "----"):
        raise ValueError("not a UUID")
    return value


_MOST_DIGITS = 18
_UUID_LENGTH = 36
_SOMEBODY = "0b7a1c9e-5b1f-4c86-9a55-3d2f1e8c7a60"
Id = Annotated[UUID, BeforeValidator(_canonical)]
ScopeToken = Annotated[str, Field(max_length=300, pattern=r"^[\x21\x23-\x5b\x5d-\x7e]+$")]
"""RFC 6749 section 3.3."""
ProviderId = Annotated[str, Field(max_length=100, pattern=r"^[a-z][a-z0-9_]*$")]
Opaque = Annotated[str, Field(max_length=500, pattern=r"^[A-Za-z0-9_.~=:+-]*$")]
"""Made here, and only ever sent back."""
Location = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[\x21-\x7e]+$")]
Limit = Annotated[int, Field(ge=1, le=100, description="The most items of one page."), BeforeValidator(_digits)]


class Asked(BaseModel):
    """Whatever a caller sends: an unknown name is a mistake that would go unnoticed."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Answered(BaseModel):
    """Whatever is answered. Closed, so that a field that is not described here is never sent."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


# -- asked -----------------------------------------------------------------------------------------------------------


class NoQuery(Asked):
    """A call without parameters."""


class ConnectionsQuery(Asked):
    """Which connections: each filter narrows."""

    user_id: Id | None = Field(default=None, description="Only those of this user.")
    provider: ProviderId | None = Field(default=None, description="Only those at this provider, by its id.")
    type: Annotated[Literal[1, 2, 3], BeforeValidator(_number)] | None = Field(
        default=None, description="1 CRM, 2 email, 3 phone."
    )
    status: Status | None = Field(default=None, description="Only those that are in this state.")
    cursor: Opaque | None = Field(default=None, min_length=1, description="`next_cursor` of the page before.")
    limit: Limit = 100


class TokenQuery(Asked):
    """How long the token has to be good for, and for which location."""

    min_seconds: Annotated[int, Field(ge=0, le=3600), BeforeValidator(_digits)] = Field(
        default=60, description="A token that is good for less is refreshed first."
    )
    location: Location | None = Field(
        default=None,
        description="The connection's own `locationId`, where its provider has such, to be sure of it. Any other is like none: "
        "tokens for the locations of an agency are not made yet.",
    )


class DisconnectQuery(Asked):
    """What else goes with the connection."""

    uninstall: Literal["0", "1"] = Field(
        default="0",
        description="1: our app is removed at the provider too, where that can be done. For everybody of that account.",
    )


class EventsQuery(Asked):
    """From where on."""

    after: Annotated[int, Field(ge=0, lt=10**_MOST_DIGITS), BeforeValidator(_digits)] = Field(
        default=0,
        description="A position: what follows it is answered. `next_cursor` of the page before, or the last one you kept.",
    )
    limit: Limit = 100


class ConnectSessionRequest(Asked):
    """A link that lets one user connect one provider, for the partner that asks for it."""

    user_id: Id = Field(description="Who is to connect: their id in the Supabase project.", examples=[_SOMEBODY])
    provider: ProviderId = Field(description="Where, by the provider's id.", examples=["ghl"])
    return_to: str | None = Field(
        default=None,
        max_length=2000,
        description="Where the browser goes afterwards: a URL on an origin of the product's own.",
        examples=["https://app.example.com/connected"],
    )
    scope: tuple[ScopeToken, ...] = Field(
        default=(), max_length=50, description="Further scopes, beside what is asked for anyway (RFC 6749 section 3.3)."
    )


class CompleteRequest(Asked):
    """Says that the user who finished in a browser unknown here is the one who is signed in there."""

    user_id: Id = Field(description="Who is signed in, in the browser that came back to you.", examples=[_SOMEBODY])
    confirmation: Opaque = Field(
        default="",
        description="What that browser brought along. Without it nothing is connected, and the grant is given back.",
        examples=["kX1c0…"],
    )
    answer: Literal["replace", "both", "no"] | None = Field(
        default=None,
        description="What becomes of another account that is connected already, or of one that allows more than what came "
        "back now. Asked for by `pending_confirmation`.",
    )


# -- answered --------------------------------------------------------------------------------------------------------


class Account(Answered):
    """
    Whose account it is at the provider: `id` is stable there, `label` is for people. Both are empty until the connection is
    confirmed.
    """

    id: str
    label: str


class Connection(Answered):
    """One user's account at one provider."""

    id: UUID
    provider: str
    type: int = Field(description="1 CRM, 2 email, 3 phone.")
    user_id: UUID
    account: Account
    status: Status
    scope: tuple[str, ...]
    expires_at: datetime | None = Field(description="When the access token runs out; null where nobody says.")
    parent_id: UUID | None = Field(default=None, description="The connection that this one is derived from.")
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, row: models.Connection) -> Connection:
        """As the API shows what stands."""
        return cls(
            id=row.id,
            provider=row.provider,
            type=row.type,
            user_id=row.user_id,
            account=Account(id=row.account.id, label=row.account.label),
            status=row.status,
            scope=row.scope,
            expires_at=row.expires_at,
            created_at=row.created_at,
            updated_at=row.updated_at,
        )


class Connections(Answered):
    """A page of connections."""

    items: tuple[Connection, ...]
    next_cursor: str | None = Field(description="Opaque; null on the last page.")


class Token(Answered):
    """An access token that may be used now. Keep it until `expires_at`; a refresh token is never answered."""

    connection_id: UUID
    access_token: str = Field(repr=False)
    token_type: str = Field(default="Bearer", description="RFC 6750.")
    expires_at: datetime | None = Field(description="Null where the provider does not say.")
    scope: tuple[str, ...]
    api_base_url: str | None = Field(description="Where the provider's API is.")


class Receipt(Answered):
    """What a disconnect erased, and what became of the grant at the provider."""

    connection_id: UUID
    provider: str
    account: Account
    erased_at: datetime
    revocation: Literal["done", "queued", "unsupported", "kept"] = Field(
        description="done: withdrawn. queued: tried again for 72 hours. unsupported: the provider knows no such call. "
        "kept: others use the connection still, only your reach ended."
    )
    event_id: UUID
    uninstall: Literal["done", "failed", "unsupported", "kept"] | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="Only where `uninstall=1` was asked. kept: the account is connected for others too, whom it would cut off.",
    )


class ProviderEntry(Answered):
    """A provider that may be connected here."""

    id: str
    name: str
    type: int = Field(description="1 CRM, 2 email, 3 phone.")
    scope: tuple[str, ...] = Field(description="What is asked for unless a connect session adds to it.")


class Providers(Answered):
    """All of them; never more than a page."""

    items: tuple[ProviderEntry, ...]
    next_cursor: None = None


class ConnectSession(Answered):
    """The link to send the user's browser to, once."""

    id: UUID
    url: str = Field(repr=False)
    expires_at: datetime


class Event(Answered):
    """Something that happened, in the ledger's order."""

    id: UUID
    position: int = Field(description="Its place in the ledger: no two have the same, none is left out.")
    type: str = Field(description="`noun.past`, as `token.read`. Further ones come: skip what you do not know.")
    at: datetime
    connection_id: UUID | None
    user_id: UUID | None
    partner: UUID | None = Field(
        description="The partner that did it, by whose link it came about, or whose key or consent it is about."
    )
    provider: str | None
    data: dict[str, Any]


class Events(Answered):
    """A page of events, oldest first."""

    items: tuple[Event, ...]
    next_cursor: str | None = Field(
        description="The position to go on from, as text, while more follow or may; else null."
    )


class Problem(Answered):
    """RFC 9457: what went wrong, and who must act."""

    type: str = Field(description="A page that explains it.")
    title: str
    status: int
    detail: str
    remedy: Remedy = Field(
        description="fix_request: send something else. reconnect: the owner connects again. wait: later, see Retry-After. "
        "operator, report: whoever runs this service."
    )
    fields: tuple[str, ...] | None = Field(
        default=None, exclude_if=lambda value: value is None, description="Of a bad_request: which names in it."
    )
