"""
The names of faults, and when a planned one applies.

`OPTIONS` is the reference that the control API shows. `faults`, `connection_faults` and `response_faults` implement them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

OPTIONS = {
    "slow": "seconds (3): the correct response, but late",
    "status": "status (500), body, content_type, location, retry_after",
    "not_json": "200, application/json, and no JSON",
    "html_200": "200 and an HTML page",
    "error_200": "error (invalid_grant): 200 with an error in the body",
    "error": "status (400), error (invalid_grant), description: an OAuth error",
    "redirect": "status (307), to",
    "other_client": "token: 401 invalid_client; authorize: the code belongs to another client",
    "another_account": "authorize: the consent is for another account than the chosen one",
    "deny": "authorize: back at once with access_denied",
    "error_description_markup": "an error whose description is markup with a line break",
    "huge_body": "megabytes (300), streamed",
    "gzip_bomb": "megabytes (300) after decoding",
    "deep_json": "depth (1000000)",
    "drip_headers": "seconds (0.3) between bytes of a header that does not end",
    "drip_body": "seconds (0.3) between bytes of a body that does not end",
    "silence": "seconds (60): accepts and does not respond",
    "reset": "TCP reset instead of a response",
    "no_access_token": "the response without it",
    "no_refresh_token": "the response without it",
    "expires_in": "value (any JSON) or raw (a literal, verbatim)",
    "token_bytes": "kind (nul | crlf | huge), field (access_token)",
    "scope_less": "drop (a scope; the last one)",
    "scope_more": "add (extra.write)",
    "id_token": "kind (aud | azp | nonce | sub | iss | expired | future | unsigned | hs256 | signature | missing)",
    "issuer_differs": "discovery: another issuer",
    "wrong_iss": "authorize: iss of another issuer, value (https://attacker.example)",
    "repeated_iss": "authorize: iss twice",
    "no_iss": "authorize: no iss, though the metadata promise one",
    "no_state": "authorize: back without the state, like an installation from a marketplace",
}


@dataclass(slots=True)
class Fault:
    """A planned fault. `times` 0 means until it is cleared; `*` matches every provider or endpoint."""

    name: str
    provider: str = "*"
    endpoint: str = "*"
    times: int = 1
    grant_type: str | None = None
    code: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def meets(self, provider: str, endpoint: str, fields: Mapping[str, str]) -> bool:
        """Whether it applies to a request for this endpoint with these form fields."""
        return (
            self.provider in ("*", provider)
            and self.endpoint in ("*", endpoint)
            and self.grant_type in (None, fields.get("grant_type", fields.get("grantType")))
            and self.code in (None, fields.get("code"))
        )


def planned(fault: str, provider: str = "*", endpoint: str = "*", times: int = 1, **options: Any) -> Fault:
    """
    A known fault. `grant_type` and `code` restrict it; other options are the fault's own. Raises ValueError with the known names.
    """
    if fault not in OPTIONS:
        message = f"There is no fault {fault!r}. There are: {', '.join(OPTIONS)}."
        raise ValueError(message)
    return Fault(fault, provider, endpoint, times, options.pop("grant_type", None), options.pop("code", None), options)
