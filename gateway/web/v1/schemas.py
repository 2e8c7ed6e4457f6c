"""
The schemas of `/v1`: what a request may contain and what a response contains, as frozen models.

Requests are validated by them, responses are made of them, and the OpenAPI description is generated from them, so that the three agree.
"""

import json
import re
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from gateway import models
from gateway.catalog import AnyEntry
from gateway.errors import Remedy
from gateway.models import Status

_MOST_DIGITS = 18
_UUID_LENGTH = 36
_EXAMPLE_USER = "0b7a1c9e-5b1f-4c86-9a55-3d2f1e8c7a60"


def _digits(value: object) -> object:
    """Python also parses `1_0`, ` 5 ` and `５` as numbers; refuse them."""
    if isinstance(value, str) and not (value.isascii() and value.isdigit() and len(value) <= _MOST_DIGITS):
        raise ValueError("not a whole number in digits alone, like 60")
    return value


def _number(value: object) -> object:
    """A Literal of numbers does not accept text, and a query is text."""
    return int(value) if isinstance(value, str) and _digits(value) else value


def _whole(value: object) -> object:
    """To JSON Schema, `5.0` is an integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _canonical(value: object) -> object:
    """Only the canonical form of RFC 9562 section 4: no braces, no `urn:uuid:`."""
    if isinstance(value, str) and (len(value) != _UUID_LENGTH or value[8::5][:4] != "----"):
        raise ValueError("not a UUID")
    return value


def _iso(value: object) -> object:
    """Not the number that pydantic also takes as a time."""
    if isinstance(value, str) and value[4:5] != "-":
        raise ValueError("write it like 2026-03-01T10:00:00Z")
    return value


def _in_utc(value: datetime) -> datetime:
    """PostgreSQL knows no offset of 16 hours, and the calendar's ends have no neighbours."""
    if not 1970 <= value.year < 9999:  # noqa: PLR2004
        raise ValueError("the year is out of range")
    return value.astimezone(UTC)


def _tag_name(name: str) -> str:
    """Not as a pattern: generators of clients know none for names."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,40}", name):
        raise ValueError("a name has 1 to 40 letters, digits, `_`, `.` and `-`")
    return name


Id = Annotated[UUID, BeforeValidator(_canonical)]
ScopeToken = Annotated[str, Field(max_length=300, pattern=r"^[\x21\x23-\x5b\x5d-\x7e]+$")]
"""RFC 6749 section 3.3."""
ProviderId = Annotated[str, Field(max_length=100, pattern=r"^[a-z][a-z0-9_]*$")]
Opaque = Annotated[str, Field(max_length=500, pattern=r"^[A-Za-z0-9_.~=:+-]*$")]
"""Made here; clients only send it back."""
Moment = Annotated[AwareDatetime, BeforeValidator(_iso), AfterValidator(_in_utc)]
TagName = Annotated[str, AfterValidator(_tag_name)]
TagValue = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]
LocationId = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[\x21-\x7e]+$")]
EVENT_TYPES = tuple(json.loads(Path(__file__).with_name("event_types.json").read_bytes()))
EventType = Literal[EVENT_TYPES]  # type: ignore[valid-type]
Limit = Annotated[int, Field(ge=1, le=100, description="The most items of one page."), BeforeValidator(_digits)]
ProviderType = Annotated[int, Field(description="1 CRM (HighLevel), 2 email, 3 phone, 4 other apps.")]


class RequestModel(BaseModel):
    """A request. Unknown names are refused: a mistyped filter would otherwise show everything."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class ResponseModel(BaseModel):
    """A response. Closed: a field that is not described here is never sent."""

    model_config = ConfigDict(frozen=True, extra="forbid", from_attributes=True, hide_input_in_errors=True)


# -- requests --------------------------------------------------------------------------------------------------------


class NoQuery(RequestModel):
    """A call without parameters."""


class ConnectionsQuery(RequestModel):
    """Filters for the list of connections."""

    user_id: Id | None = Field(default=None, description="Only connections of this user.")
    provider: ProviderId | None = Field(default=None, description="Only connections at the provider with this id.")
    type: Annotated[Literal[1, 2, 3, 4], BeforeValidator(_number)] | None = Field(
        default=None, description="1 CRM (HighLevel), 2 email, 3 phone, 4 other apps."
    )
    status: Status | None = Field(default=None, description="Only connections with this status.")
    account_id: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        pattern=r"^[^\x00-\x1f\x7f]+$",
        description="Only connections of the account with this id at the provider.",
    )
    tag: str | None = Field(
        default=None,
        max_length=141,
        pattern=r"^[A-Za-z0-9_.-]{1,40}:[^\x00-\x1f\x7f]{1,100}$",
        description="Only connections with this tag, as `name:value`.",
    )
    cursor: Annotated[Id, WithJsonSchema({"type": "string"})] | None = Field(
        default=None, description="`next_cursor` of the previous page."
    )
    limit: Limit = 100


class TokenQuery(RequestModel):
    """How long the token has to be valid, and for which location."""

    min_seconds: Annotated[int, Field(ge=0, le=3600), BeforeValidator(_digits)] = Field(
        default=60, description="A stored token with less time left is refreshed first."
    )
    location: LocationId | None = Field(
        default=None,
        description="The id of the connection's location, or of a location of the agency that is connected: the token is for that one. Any "
        "location in which the app is not installed returns 404.",
    )


class LocationsQuery(RequestModel):
    """A page of the locations of an agency."""

    q: str = Field(
        default="", max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$", description="A part of the name of a location."
    )
    cursor: Opaque | None = Field(default=None, min_length=1, description="`next_cursor` of the previous page.")
    limit: Limit = 100


class DisconnectQuery(RequestModel):
    """What else to remove."""

    uninstall: Literal["0", "1"] = Field(
        default="0",
        description="1: also remove our app at the provider, where the provider supports that. Affects every user of that account.",
    )


class EventsQuery(RequestModel):
    """Where to start."""

    after: Annotated[int, Field(ge=0, lt=10**_MOST_DIGITS), BeforeValidator(_digits)] = Field(
        default=0,
        description="A position: the events after it are returned. `next_cursor` of the previous page, or the last position you stored.",
    )
    limit: Limit = 100


class UsageQuery(RequestModel):
    """Which hours to count, and of what."""

    from_: Moment | None = Field(
        default=None, alias="from", description="Hours that begin then or later; by default a day before `to`."
    )
    to: Moment | None = Field(default=None, description="Hours that begin before; at most 31 days after `from`.")
    connection_id: Id | None = Field(default=None, description="Only this connection.")
    partner: Id | None = Field(default=None, description="Only this partner, by its id.")
    cursor: Opaque | None = Field(default=None, min_length=1, description="`next_cursor` of the previous page.")
    limit: Limit = 100


class ConnectSessionRequest(RequestModel):
    """A link that lets one user connect one provider for the partner."""

    user_id: Id = Field(
        description="The user who connects: their id in the Supabase project.", examples=[_EXAMPLE_USER]
    )
    provider: ProviderId = Field(description="The provider's id.", examples=["ghl"])
    return_to: str | None = Field(
        default=None,
        max_length=2000,
        description="Where the browser goes afterwards: a URL on an origin of the product.",
        examples=["https://app.example.com/connected"],
    )
    scope: tuple[ScopeToken, ...] = Field(
        default=(),
        max_length=50,
        description="Scopes to request in addition to the default ones (RFC 6749 section 3.3).",
    )
    tags: Annotated[dict[TagName, TagValue], Field(max_length=10)] = Field(
        default={},
        description="Your own names for the connection, in it and in its events. They replace those of your last link for it. "
        "Names have 1 to 40 letters, digits, `_`, `.` and `-`. Other partners with reach `own` do not see them. No secrets.",
        examples=[{"customer": "4711"}],
    )


class CompleteRequest(RequestModel):
    """Names the user who was signed in at the product when the link was finished in a browser without a session here."""

    user_id: Id = Field(
        description="The user who is signed in, in the browser that came back.", examples=[_EXAMPLE_USER]
    )
    confirmation: Opaque = Field(
        default="",
        description="The `confirmation` from that browser. Without it nothing is connected, and the grant is revoked.",
        examples=["kX1c0…"],
    )
    answer: Literal["replace", "both", "no"] | None = Field(
        default=None,
        description="What to do when another account is connected, or the same account with more access. Required after "
        "`pending_confirmation`.",
    )


class WebhookRequest(RequestModel):
    """An endpoint for events."""

    url: str = Field(
        max_length=2000,
        description="Where events are sent by POST: https, at a public address. Redirects are not followed.",
        examples=["https://partner.example/webhooks"],
    )
    event_types: Annotated[tuple[EventType, ...], Field(min_length=1, max_length=50)] | None = Field(
        default=None, description="Only events of these types; without it, all.", examples=[["connection.created"]]
    )


class ReplayRequest(RequestModel):
    """Where to start again."""

    after: Annotated[int, BeforeValidator(_whole)] = Field(
        ge=0, lt=10**15, description="Events after this position are delivered again.", examples=[0]
    )


# -- responses -------------------------------------------------------------------------------------------------------

T = TypeVar("T")


class Page(ResponseModel, Generic[T]):
    """Items, and where the next page begins."""

    items: tuple[T, ...]
    next_cursor: str | None = Field(default=None, description="Opaque; null on the last page.")


def _optional(description: str) -> Any:
    """A field that is left out where there is nothing to say."""
    return Field(default=None, exclude_if=lambda value: value is None, description=description)


class Account(ResponseModel):
    """The account at the provider: a stable `id`, and a `label` for people. Both are empty until the connection is confirmed."""

    id: str
    label: str
    kind: str | None = Field(
        default=None, description="Where the provider has several kinds: HighLevel `location`, `agency`."
    )

    @classmethod
    def of(cls, row: models.Connection | models.Erased, provider: AnyEntry | None) -> "Account":
        """The account of a row, with what the catalogue adds."""
        kind = provider.account_kind(row.facts) if provider else None
        return cls(id=row.account.id, label=row.account.label, kind=kind)


class Connection(ResponseModel):
    """One user's account at one provider."""

    id: UUID
    provider: str
    type: ProviderType
    user_id: UUID
    account: Account
    status: Status
    reason: str | None = Field(description="Why it is not active: a slug. Null for an active connection.")
    scope: tuple[str, ...]
    missing_scope: tuple[str, ...] = Field(description="Scopes that are asked for now and that this connection lacks.")
    expires_at: datetime | None = Field(description="When the access token expires; null when unknown.")
    refreshable: bool = Field(description="False: there is no refresh token, and the connection ends at `expires_at`.")
    facts: dict[str, Any] = Field(
        description="What the provider says of the account, for example `locationId` and `companyId`."
    )
    tags: dict[str, str] = Field(description="From the connect session.")
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, row: models.Connection, provider: AnyEntry | None) -> "Connection":
        stored = {name: getattr(row, name) for name in cls.model_fields.keys() & {each.name for each in fields(row)}}
        missing = provider.missing_scope(row.scope) if provider else ()
        return cls(**stored | {"account": Account.of(row, provider), "missing_scope": missing})


class Connections(Page[Connection]):
    """A page of connections."""


class Location(ResponseModel):
    """An account below a connection."""

    id: str = Field(description="For `location` of a token, and for the header `Gateway-Location`.")
    label: str
    detail: str = Field(description="Its address, where the provider says it.")


class Locations(Page[Location]):
    """A page of locations."""


class Token(ResponseModel):
    """An access token to use now. Keep it until `expires_at`. The API never returns a refresh token."""

    connection_id: UUID
    access_token: str = Field(repr=False)
    token_type: str = Field(
        default="Bearer",
        description="`Bearer` (RFC 6750), `Basic` (RFC 7617: the token is `user:password`), or the provider's own: the word before the "
        "token, or the name of its header or query parameter.",
    )
    expires_at: datetime | None = Field(description="Null when the provider does not say.")
    scope: tuple[str, ...]
    api_base_url: str | None = Field(description="The base URL of the provider's API.")
    headers: dict[str, str] = Field(
        description="Send these with every call of the provider's API, beside `Authorization: Bearer`; where the token goes elsewhere, "
        "that header too."
    )


class Receipt(ResponseModel):
    """What a disconnect erased, and whether the grant was revoked at the provider."""

    connection_id: UUID
    provider: str
    account: Account
    erased_at: datetime
    revocation: Literal["done", "queued", "unsupported", "kept"] = Field(
        description="done: revoked. queued: retried for 72 hours. unsupported: the provider has no revocation call. "
        "kept: others still use the connection; only your access ended."
    )
    event_id: UUID
    uninstall: Literal["done", "failed", "unsupported", "kept"] | None = _optional(
        "Only with `uninstall=1`. kept: other users have connected the same account."
    )


class ProviderEntry(ResponseModel):
    """A provider that can be connected here."""

    id: str
    name: str
    type: ProviderType
    scope: tuple[str, ...] = Field(description="The default scopes. A connect session can add to them.")


class Providers(Page[ProviderEntry]):
    """All providers, on one page."""


class ConnectSession(ResponseModel):
    """A link to send the user's browser to, once."""

    id: UUID
    url: str = Field(repr=False)
    expires_at: datetime


class Event(ResponseModel):
    """Something that happened."""

    id: UUID
    position: int = Field(description="The place in the order of events: unique and without gaps.")
    type: str = Field(
        description="`noun.past_participle`, for example `tokens.read`. Ignore types that you do not know."
    )
    at: datetime
    connection_id: UUID | None
    user_id: UUID | None
    partner: UUID | None = Field(
        description="The partner that acted, whose link was used, or whose key or consent changed."
    )
    provider: str | None
    data: dict[str, Any]


class Events(Page[Event]):
    """A page of events, oldest first. `next_cursor` is the position to continue from, as text."""


class Usage(ResponseModel):
    """What a partner, or the owner, did with a connection in an hour."""

    hour: datetime = Field(description="Its beginning.")
    connection_id: UUID
    partner: UUID | None = Field(description="Null: the connection's owner.")
    provider: str
    token_reads: int
    proxied_calls: int


class UsagePage(Page[Usage]):
    """A page of usage, by hour."""


class Webhook(ResponseModel):
    """An endpoint for events."""

    id: UUID
    url: str
    event_types: tuple[str, ...] | None = Field(description="Null: every type.")
    position: int = Field(description="Every event up to this position was delivered.")
    failures: int = Field(description="Failed attempts since the last delivery.")
    failing_since: datetime | None
    disabled_at: datetime | None = Field(
        description="Set after 26 failures in a row (three days), or a response with status 410. A replay enables it again."
    )
    created_at: datetime


class NewWebhook(Webhook):
    """An endpoint with its new secret."""

    secret: str = Field(repr=False, description="For verification, `whsec_…`; shown once.")


class Webhooks(Page[Webhook]):
    """All endpoints of the partner, on one page."""


class Delivery(ResponseModel):
    """An attempt to deliver an event."""

    event_id: UUID = Field(description="Also the header `webhook-id`.")
    position: int
    type: str
    at: datetime
    status: int | None = Field(description="Of your response; null where none came.")
    error: str | None
    duration_ms: int


class Deliveries(Page[Delivery]):
    """The latest attempts, newest first, on one page."""


class FieldError(ResponseModel):
    """A field at fault."""

    field: str
    reason: str


class Problem(ResponseModel):
    """RFC 9457: what went wrong, and who must act."""

    type: str = Field(description="A page that explains the problem.")
    title: str
    status: int
    detail: str
    code: str = Field(description="The last part of `type`, for programs.")
    remedy: Remedy = Field(
        description="fix_request: send something else. reconnect: the owner connects again. wait: try later, see Retry-After. "
        "operator, report: the operator of this service."
    )
    request_id: str = Field(description="Also in the header X-Request-Id and in the log.")
    limit: int | None = _optional("Of `rate_limited`: the most that is allowed.")
    used: int | None = _optional("Of `rate_limited`: how much is used.")
    resets_at: datetime | None = _optional("Of `rate_limited`: when there is more again.")
    errors: tuple[FieldError, ...] | None = _optional("Of a `bad_request`: the fields at fault.")
    connect_url: str | None = _optional("Of `needs_reauthorization`: where the owner connects again.")
