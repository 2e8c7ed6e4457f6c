"""The interface of a deviation: every method's default is what the standards say."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

Json = Mapping[str, Any]
Topic = Literal["installation", "version", "plan", "label"]


@dataclass(frozen=True, slots=True)
class AccountLookup:
    """Where to ask which account a token is for, and where the response names it (dotted paths)."""

    url: str | None
    id: tuple[str, ...]
    label: tuple[str, ...]
    answered: tuple[str, ...] = ()
    """Where the response repeats the id, when `url` contains it: then `id` is a path into the token response."""


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """A request to the provider's API, with the connection's token and headers, and a body of one kind or none."""

    method: str
    url: str
    form: Mapping[str, str] | None = None
    json: Json | None = None


class Page(NamedTuple):
    """A part of a list. `search`: a part of the name; `cursor`: where the page begins."""

    search: str = ""
    cursor: str = ""
    limit: int = 100


@dataclass(frozen=True, slots=True)
class SubAccount:
    """An account below a connection."""

    id: str
    label: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class IncomingEvent:
    """An event that a provider sent, in our terms."""

    type: str
    accounts: tuple[str, ...]
    """The account that it is about, then those above it."""
    id: str | None = None
    """The same when it is sent again."""
    at: datetime | None = None
    app_id: str | None = None
    """Whose event it is, where it says so."""
    topic: Topic | None = None
    """What it changes here; None: it is only handed on."""
    is_end: bool = False
    """Of an installation: our app was removed."""
    below: Mapping[str, str] | None = None
    """Facts of further connections that it is about: those below an agency."""
    facts: Mapping[str, str] = field(default_factory=dict)
    label: str | None = None


class Deviation:
    """
    What a provider does that neither a standard nor a catalogue key can say.

    An entry names it in `quirks`. A subclass overrides what differs. Facts are those of the connection.
    """

    uninstall_scope = ""
    """The scope that a token needs for the uninstall request."""
    uninstall_warning = ""
    """What a user must know before asking for it."""

    def account_lookup(self, api_base_url: str, response: Json) -> AccountLookup | None:  # noqa: ARG002
        """The lookup for a token response; None for the catalogue's rule."""
        return None

    def account_kind(self, facts: Json) -> str | None:  # noqa: ARG002
        """The kind of account that the facts tell of; None where the provider has one kind only."""
        return None

    def uninstall(self, api_base_url: str, client_id: str, account_id: str, facts: Json) -> ApiRequest | None:  # noqa: ARG002
        """The request that removes our app for an account; None when the provider has none."""
        return None

    derive_scope = ""
    """The scope that a token needs to derive tokens for the accounts below it."""
    list_scope = ""
    """The scope that a token needs to list them."""

    def has_accounts_below(self, facts: Json) -> bool:  # noqa: ARG002
        """Whether a connection reaches further accounts by tokens that are derived from its own."""
        return False

    def derive_request(self, api_base_url: str, headers: Mapping[str, str], facts: Json, account_id: str) -> ApiRequest:
        """The request for the token of an account below the connection."""
        raise NotImplementedError

    def list_request(
        self, api_base_url: str, headers: Mapping[str, str], facts: Json, client_id: str, page: Page
    ) -> ApiRequest:
        """The request for a page of the accounts below a connection in which our app is installed."""
        raise NotImplementedError

    def parse_list(self, body: Json, cursor: str) -> tuple[list[SubAccount], str | None]:
        """The accounts of a page, and where the next one begins."""
        raise NotImplementedError

    def incoming_event(self, body: Json) -> IncomingEvent | None:  # noqa: ARG002
        """What a webhook of the provider says; None where its webhooks are not known."""
        return None
