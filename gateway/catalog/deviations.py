"""
Named deviations: what a provider does that neither a standard nor a catalogue key can say.

A catalogue entry lists the names (`quirks = [...]`); the flow asks for what a quirk offers and never for a provider. Each is
about ten lines and has a test of its own. Pure functions over parsed JSON; no network, no database.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AccountLookup:
    """Where to ask whose account it is, and where the answer has it (dotted paths)."""

    url: str | None
    id: tuple[str, ...]
    label: tuple[str, ...]
    answered: tuple[str, ...] = ()
    """Where the answer repeats the id, if `url` is made from it: then the id itself stands in the token answer alone."""


@dataclass(frozen=True, slots=True)
class Uninstall:
    """How our app is removed at the provider for one account: a DELETE with a JSON body and the connection's own token."""

    url: str
    body: Json


@dataclass(frozen=True, slots=True)
class Quirk:
    """What a deviation offers; what it leaves out is done by the standard."""

    reshape: Callable[[Json], Json] | None = None
    """A token answer, or an error in its place, in the shape of RFC 6749 section 5."""
    account: Callable[[str, Json], AccountLookup] | None = None
    """The lookup for a token answer, given the provider's API base URL."""
    uninstall: Callable[[str, str, str, Json], Uninstall] | None = None
    """Given the API base URL, our client id, the account's id and the connection's facts."""
    uninstall_scope: str = ""
    """What the token has to be good for, or the provider refuses."""
    uninstall_warning: str = ""
    """What a user should know before they ask for it."""


def camel_case_answers(answer: Json) -> Json:
    """`accessToken` for `access_token`: HighLevel under `Version: v3`, HubSpot in places. Both shapes are taken."""
    known = ("access_token", "token_type", "expires_in", "refresh_token", "id_token")
    renamed = {re.sub(r"_(.)", lambda found: found[1].upper(), name): name for name in known}
    return {renamed.get(name, name): value for name, value in answer.items()}


def message_errors(answer: Json) -> Json:
    """`{"statusCode": 400, "message": "Invalid grant: …"}` for RFC 6749 section 5.2: HighLevel."""
    message = answer.get("message")
    if "access_token" in answer or not isinstance(message, str) or _is_error_code(answer.get("error")):
        return answer
    found = re.match(r"(invalid (?:grant|client|request|scope))\b", message.lower())
    if "location is not active" in message.lower():
        return {"error": "temporarily_unavailable"}
    return {"error": found[1].replace(" ", "_")} if found else {"error": "invalid_request"}


def _is_error_code(error: Any) -> bool:
    """`invalid_grant`, as RFC 6749 section 5.2 writes codes; `Bad Request` is the status in words."""
    return isinstance(error, str) and re.fullmatch(r"[a-z]+(_[a-z]+)+", error) is not None


def highlevel_account(api_base_url: str, answer: Json) -> AccountLookup:
    """
    A location or a company, told apart by `userType` alone: location tokens carry `companyId` too.

    https://marketplace.gohighlevel.com/docs/Authorization/TargetUserSubAccount
    """
    if answer.get("userType") == "Company":
        company = quote(str(answer.get("companyId") or ""), safe="", errors="replace")
        return AccountLookup(f"{api_base_url}/companies/{company}", ("companyId",), ("company.name",), ("company.id",))
    location = quote(str(answer.get("locationId") or ""), safe="", errors="replace")
    return AccountLookup(f"{api_base_url}/locations/{location}", ("locationId",), ("location.name",), ("location.id",))


def highlevel_uninstall(api_base_url: str, client_id: str, account_id: str, facts: Json) -> Uninstall:
    """
    Removes the app from a location, or from a company and all its locations. An app's id is its client id before the hyphen.

    https://marketplace.gohighlevel.com/docs/ghl/marketplace/uninstall-application
    """
    app = quote(client_id.partition("-")[0], safe="")
    whose = "companyId" if facts.get("userType") == "Company" else "locationId"
    return Uninstall(f"{api_base_url}/marketplace/app/{app}/installations", {whose: account_id})


QUIRKS: Mapping[str, Quirk] = {
    "camel_case_answers": Quirk(reshape=camel_case_answers),
    "message_errors": Quirk(reshape=message_errors),
    "highlevel_account": Quirk(account=highlevel_account),
    "highlevel_uninstall": Quirk(
        uninstall=highlevel_uninstall,
        uninstall_scope="oauth.write",
        uninstall_warning="For an agency, that removes it from all its sub-accounts.",
    ),
}
