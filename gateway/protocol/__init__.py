"""
OAuth 2.0 and OpenID Connect: build requests, parse responses.

Authlib writes the wire format and the client authentication; this package decides what is sent and what is accepted. Values
in, values out; only `discovery` calls the network. No message contains text from a provider.
"""

from __future__ import annotations

from gateway.protocol.authorization import (
    build_authorization_request,
    parse_authorization_response,
    single_parameter,
)
from gateway.protocol.message import HttpRequest, is_temporary, parse_json, parse_json_value
from gateway.protocol.refusal import api_error
from gateway.protocol.revocation import build_revocation_request, parse_revocation_response
from gateway.protocol.token import (
    TokenResponse,
    build_code_request,
    build_refresh_request,
    find_grant,
    parse_fact,
    parse_token_response,
)

__all__ = [
    "HttpRequest",
    "TokenResponse",
    "api_error",
    "build_authorization_request",
    "build_code_request",
    "build_refresh_request",
    "build_revocation_request",
    "find_grant",
    "is_temporary",
    "parse_authorization_response",
    "parse_fact",
    "parse_json",
    "parse_json_value",
    "parse_revocation_response",
    "parse_token_response",
    "single_parameter",
]
