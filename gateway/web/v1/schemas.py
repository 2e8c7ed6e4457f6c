"""
The schemas of `/v1`: what a request may contain and what a response contains, as frozen models.

Requests are validated by them, responses are made of them, and the OpenAPI description is generated from them, so that the three agree.
fields.toml describes the fields, examples.json has an example of each schema.
"""

import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    WithJsonSchema,
    WrapValidator,
    create_model,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from gateway import models
from gateway.catalog import AnyEntry
from gateway.database.queries.connections import Erased
from gateway.errors import Remedy
from gateway.models import Status

_HERE = Path(__file__).parent
TEXTS: dict[str, dict[str, str]] = tomllib.loads((_HERE / "fields.toml").read_text(encoding="utf-8"))
_EXAMPLES: dict[str, JsonSchemaValue] = json.loads((_HERE / "examples.json").read_text(encoding="utf-8"))
_MOST_DIGITS = 18
_UUID_LENGTH = 36


def _whole(value: object) -> object:
    """Python also parses `1_0`, ` 5 ` and `５` as numbers; refuse them. To JSON Schema, `5.0` is an integer."""
    if isinstance(value, str) and not (value.isascii() and value.isdigit() and len(value) <= _MOST_DIGITS):
        raise ValueError("not a whole number in digits alone, like 60")
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _canonical(value: object) -> object:
    """Only the canonical form of RFC 9562 section 4: no braces, no `urn:uuid:`."""
    if isinstance(value, str) and (len(value) != _UUID_LENGTH or value[8::5][:4] != "----"):
        raise ValueError("not a UUID")
    return value


def _cursor(form: str) -> WrapValidator:
    def check(value: object, parse: Callable[[object], object]) -> object:
        if not re.fullmatch(form, str(value)):
            raise ValueError("not a cursor of this list")
        return parse(value)

    return WrapValidator(check)


def _moment(value: object, parse: Callable[[object], datetime]) -> datetime:
    """In UTC: PostgreSQL knows no offset of 16 hours, and the calendar's ends have no neighbours. pydantic takes numbers too."""
    if isinstance(value, str) and value[4:5] != "-":
        raise ValueError("write it like 2026-03-01T10:00:00Z")
    found = parse(value)
    if not 1970 <= found.year < 9999:  # noqa: PLR2004
        raise ValueError("the year is out of range")
    return found.astimezone(UTC)


def _tag_name(name: str) -> str:
    """Not as a pattern: generators of clients know none for names."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,40}", name):
        raise ValueError("a name has 1 to 40 letters, digits, `_`, `.` and `-`")
    return name


Id = Annotated[UUID, BeforeValidator(_canonical)]
WHOLE = BeforeValidator(_whole)
ScopeToken = Annotated[str, Field(max_length=300, pattern=r"^[\x21\x23-\x5b\x5d-\x7e]+$")]
"""RFC 6749 section 3.3."""
ProviderId = Annotated[str, Field(max_length=100, pattern=r"^[a-z][a-z0-9_]*$")]
Text = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]*$")]
Opaque = Annotated[str, Field(max_length=500, pattern=r"^[A-Za-z0-9_.~=:+-]*$")]
"""Made here; clients only send it back."""
Cursor = Annotated[Opaque, Field(min_length=1)]
Moment = Annotated[AwareDatetime, WrapValidator(_moment)]
TagName = Annotated[str, AfterValidator(_tag_name)]
TagValue = Annotated[Text, Field(min_length=1, max_length=100)]
LocationId = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[\x21-\x7e]+$")]
EVENT_TYPES = tuple(json.loads((_HERE / "event_types.json").read_bytes()))
EventType = Literal[EVENT_TYPES]  # type: ignore[valid-type]
Limit = Annotated[int, Field(ge=1, le=100), WHOLE]


class _Model(BaseModel):
    """A frozen model without further fields. Its JSON Schema has the texts and the example that are written beside."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core)
        written = handler.resolve_ref_schema(schema)
        written.pop("title", None)
        for field in written.get("properties", {}).values():
            field.pop("title", None)
        for kind in reversed(cls.__mro__):
            for name, text in TEXTS.get(kind.__name__, {}).items():
                written["properties"][name]["description"] = text
        if cls.__name__ in _EXAMPLES:
            written["examples"] = [_EXAMPLES[cls.__name__]]
        return schema


class RequestModel(_Model):
    """A request. Unknown names are refused: a mistyped filter would otherwise show everything."""


class ResponseModel(_Model):
    """A response. Closed: a field that is not described here is never sent."""

    model_config = ConfigDict(from_attributes=True)


# -- requests --------------------------------------------------------------------------------------------------------


class NoQuery(RequestModel):
    """A call without parameters."""


class ConnectionsQuery(RequestModel):
    """Filters for the list of connections."""

    user_id: Id | None = None
    provider: ProviderId | None = None
    type: Annotated[int, Field(ge=1, le=4), WHOLE] | None = None
    status: Status | None = None
    account_id: Annotated[Text, Field(min_length=1, max_length=200)] | None = None
    tag: Annotated[str, Field(max_length=141, pattern=r"^[A-Za-z0-9_.-]{1,40}:[^\x00-\x1f\x7f]{1,100}$")] | None = None
    cursor: (
        Annotated[UUID, _cursor("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), WithJsonSchema({"type": "string"})] | None
    ) = None
    limit: Limit = 100


class TokenQuery(RequestModel):
    """How long the token has to be valid, and for which location."""

    min_seconds: Annotated[int, Field(ge=0, le=3600), WHOLE] = 60
    location: LocationId | None = None


class LocationsQuery(RequestModel):
    """A page of the locations of an agency."""

    q: Annotated[Text, Field(max_length=100)] = ""
    cursor: Cursor | None = None
    limit: Limit = 100


class DisconnectQuery(RequestModel):
    """What else to remove."""

    uninstall: Literal["0", "1"] = "0"


class EventsQuery(RequestModel):
    """Where to start."""

    after: Annotated[int, Field(ge=0, lt=10**_MOST_DIGITS), WHOLE] = 0
    limit: Limit = 100


class UsageQuery(RequestModel):
    """Which hours to count, and of what."""

    from_: Annotated[Moment | None, Field(alias="from")] = None
    to: Moment | None = None
    connection_id: Id | None = None
    partner: Id | None = None
    cursor: Annotated[str, _cursor(r"[0-9-]{13}(\.[0-9a-f-]{36}){1,2}")] | None = None
    limit: Limit = 100


class ConnectSessionRequest(RequestModel):
    """A link that lets one user connect one provider for the partner."""

    user_id: Id
    provider: ProviderId
    return_to: Annotated[str, Field(max_length=2000)] | None = None
    scope: Annotated[tuple[ScopeToken, ...], Field(max_length=50)] = ()
    tags: Annotated[dict[TagName, TagValue], Field(max_length=10)] = {}


class CompleteRequest(RequestModel):
    """Names the user who was signed in at the product when the link was finished in a browser without a session here."""

    user_id: Id
    confirmation: Opaque = ""
    answer: Literal["replace", "both", "no"] | None = None


class WebhookRequest(RequestModel):
    """An endpoint for events."""

    url: Annotated[str, Field(max_length=2000)]
    event_types: Annotated[tuple[EventType, ...], Field(min_length=1, max_length=50)] | None = None


class ReplayRequest(RequestModel):
    """Where to start again."""

    after: Annotated[int, Field(ge=0, lt=10**15), WHOLE]


# -- responses -------------------------------------------------------------------------------------------------------

_Optional = Field(default=None, exclude_if=lambda value: value is None)
"""A field that is left out where there is nothing to say."""


class Account(ResponseModel):
    """The account at the provider: a stable `id`, and a `label` for people. Both are empty until the connection is confirmed."""

    id: str
    label: str
    kind: str | None = None

    @classmethod
    def of(cls, row: models.Connection | Erased, provider: AnyEntry | None) -> "Account":
        """The account of a row, with what the catalogue adds."""
        kind = provider.deviation.account_kind(row.facts) if provider else None
        return cls(id=row.account.id, label=row.account.label, kind=kind)


class Connection(ResponseModel):
    """One user's account at one provider."""

    id: UUID
    provider: str
    type: int
    user_id: UUID
    account: Account
    status: Status
    reason: str | None
    scope: tuple[str, ...]
    missing_scope: tuple[str, ...]
    expires_at: datetime | None
    refreshable: bool
    facts: dict[str, Any]
    tags: dict[str, str]
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, row: models.Connection, provider: AnyEntry | None) -> "Connection":
        stored = {name: getattr(row, name) for name in cls.model_fields.keys() & {each.name for each in fields(row)}}
        missing = provider.missing_scope(row.scope) if provider else ()
        return cls(**stored | {"account": Account.of(row, provider), "missing_scope": missing})


class Location(ResponseModel):
    """An account below a connection."""

    id: str
    label: str
    detail: str


class Token(ResponseModel):
    """An access token to use now. Keep it until `expires_at`. The API never returns a refresh token."""

    connection_id: UUID
    access_token: str = Field(repr=False)
    token_type: str
    expires_at: datetime | None
    scope: tuple[str, ...]
    api_base_url: str | None
    headers: dict[str, str]


class Receipt(ResponseModel):
    """What a disconnect erased, and whether the grant was revoked at the provider."""

    connection_id: UUID
    provider: str
    account: Account
    erased_at: datetime
    revocation: Literal["done", "queued", "unsupported", "kept"]
    event_id: UUID
    uninstall: Literal["done", "failed", "unsupported", "kept"] | None = _Optional


class ProviderEntry(ResponseModel):
    """A provider that can be connected here."""

    id: str
    name: str
    type: int
    scope: tuple[str, ...]


class ConnectSession(ResponseModel):
    """A link to send the user's browser to, once."""

    id: UUID
    url: str = Field(repr=False)
    expires_at: datetime


class Event(ResponseModel):
    """Something that happened."""

    id: UUID
    position: int
    type: str
    at: datetime
    connection_id: UUID | None
    user_id: UUID | None
    partner: UUID | None
    provider: str | None
    data: dict[str, Any]


class Usage(ResponseModel):
    """What a partner, or the owner, did with a connection in an hour."""

    hour: datetime
    connection_id: UUID
    partner: UUID | None
    provider: str
    token_reads: int
    proxied_calls: int


class Webhook(ResponseModel):
    """An endpoint for events."""

    id: UUID
    url: str
    event_types: tuple[str, ...] | None
    position: int
    failures: int
    disabled_at: datetime | None
    created_at: datetime


class NewWebhook(Webhook):
    """An endpoint with its new secret."""

    secret: str = Field(repr=False)


class Delivery(ResponseModel):
    """An attempt to deliver an event."""

    event_id: UUID
    position: int
    type: str
    at: datetime
    status: int | None
    error: str | None
    duration_ms: int


class FieldError(ResponseModel):
    """A field at fault."""

    field: str
    reason: str


class Problem(ResponseModel):
    """RFC 9457: what went wrong, and who must act."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    remedy: Remedy
    request_id: str
    limit: int | None = _Optional
    used: int | None = _Optional
    resets_at: datetime | None = _Optional
    errors: tuple[FieldError, ...] | None = _Optional
    connect_url: str | None = _Optional


# -- pages of items --------------------------------------------------------------------------------------------------

T = TypeVar("T")


class Page(ResponseModel, Generic[T]):
    """Items, and where the next page begins."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    items: tuple[T, ...]
    next_cursor: str | None = None


Connections = create_model("Connections", __base__=Page[Connection], __doc__="A page of connections.")
Locations = create_model("Locations", __base__=Page[Location], __doc__="A page of locations.")
Providers = create_model("Providers", __base__=Page[ProviderEntry], __doc__="All providers, on one page.")
Events = create_model("Events", __base__=Page[Event], __doc__="A page of events, oldest first.")
UsagePage = create_model("UsagePage", __base__=Page[Usage], __doc__="A page of usage, by hour.")
Webhooks = create_model("Webhooks", __base__=Page[Webhook], __doc__="All endpoints of the partner, on one page.")
Deliveries = create_model("Deliveries", __base__=Page[Delivery], __doc__="The latest attempts, newest first.")
