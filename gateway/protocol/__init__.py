"""
The protocol: requests built, answers judged.

Authlib does the wire format and client authentication (RFC 6749, 7636, 7523); here stand the values that go in and the
judgement of what comes back. Values in, values out: no network, no database, no clock of its own. Nothing that a provider
said reaches a message: its words are not ours to repeat.
"""

from __future__ import annotations

from gateway.protocol.requests import (
    WireRequest,
    authorization_request,
    code_request,
    refresh_request,
    revocation_request,
)
from gateway.protocol.responses import (
    TokenAnswer,
    grant_in,
    read_authorization_response,
    read_json,
    read_revocation_response,
    read_token_response,
    single,
)

__all__ = [
    "TokenAnswer",
    "WireRequest",
    "authorization_request",
    "code_request",
    "grant_in",
    "read_authorization_response",
    "read_json",
    "read_revocation_response",
    "read_token_response",
    "refresh_request",
    "revocation_request",
    "single",
]
