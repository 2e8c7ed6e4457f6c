"""The interface of a deviation: every method's default is what the standards say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Json = Mapping[str, Any]
Get = Callable[[str], Json]
"""Fetch a JSON object from the provider with the connection's access token."""


@dataclass(frozen=True, slots=True)
class AccountLookup:
    """Where to ask which account a token is for, and where the response names it (dotted paths)."""

    url: str | None
    id: tuple[str, ...]
    label: tuple[str, ...]
    answered: tuple[str, ...] = ()
    """Where the response repeats the id, when `url` contains it: then `id` is a path into the token response."""


@dataclass(frozen=True, slots=True)
class Uninstall:
    """How to remove our app for one account: DELETE with a JSON body and the connection's token."""

    url: str
    body: Json


class Deviation:
    """
    What a provider does that neither a standard nor a catalogue key can say.

    An entry lists it by name (`quirks = [...]`). Each subclass overrides one or two methods. Facts are those of the connection.
    """

    uninstall_scope = ""
    """The scope that a token needs for the uninstall request."""
    uninstall_warning = ""
    """What a user must know before asking for it."""

    def form_fields(self) -> Mapping[str, str]:
        """Further fields of the connect form: name and label, such as a subdomain."""
        return {}

    def authorization_params(self, fields: Mapping[str, str]) -> Mapping[str, str]:  # noqa: ARG002
        """Further parameters of the authorization request, from the form."""
        return {}

    def token_endpoint(self, endpoint: str, callback: Mapping[str, str]) -> str:  # noqa: ARG002
        """The token endpoint, when the callback's query decides it."""
        return endpoint

    def account_lookup(self, api_base_url: str, response: Json, get: Get | None = None) -> AccountLookup | None:  # noqa: ARG002
        """The lookup for a token response; None for the catalogue's rule."""
        return None

    def account_kind(self, facts: Json) -> str | None:  # noqa: ARG002
        """The kind of account that the facts tell of; None where the provider has one kind only."""
        return None

    def uninstall(self, api_base_url: str, client_id: str, account_id: str, facts: Json) -> Uninstall | None:  # noqa: ARG002
        """The request that removes our app for an account; None when the provider has none."""
        return None

    def api_base_url(self, base_url: str, facts: Json) -> str:  # noqa: ARG002
        """The base URL of the API for one connection."""
        return base_url

    def proxy_headers(self, facts: Json) -> Mapping[str, str]:  # noqa: ARG002
        """Further headers of API calls for one connection."""
        return {}

    def incoming_events(self, body: Json) -> tuple[Json, ...]:
        """The events in a webhook call of the provider."""
        return (body,)
