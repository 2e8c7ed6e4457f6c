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

    def account_lookup(self, api_base_url: str, response: Json, get: Get | None = None) -> AccountLookup | None:  # noqa: ARG002
        """The lookup for a token response; None for the catalogue's rule."""
        return None

    def account_kind(self, facts: Json) -> str | None:  # noqa: ARG002
        """The kind of account that the facts tell of; None where the provider has one kind only."""
        return None

    def uninstall(self, api_base_url: str, client_id: str, account_id: str, facts: Json) -> Uninstall | None:  # noqa: ARG002
        """The request that removes our app for an account; None when the provider has none."""
        return None

    def incoming_events(self, body: Json) -> tuple[Json, ...]:
        """The events in a webhook call of the provider."""
        return (body,)
