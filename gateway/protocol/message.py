"""What the protocol's messages share: the form of a request, client authentication, JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote_plus

from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc7523 import PrivateKeyJWT

from gateway.catalog import Provider
from gateway.errors import ProviderGarbled
from gateway.models import Client

_JSON_MARKS, _FREE_VALUES, _SMALLEST_VALUE = (b"{", b"[", b","), 4096, 16
"""The number of values makes JSON slow to parse, not its length: after the free ones, each has to have that many bytes on average."""
_LONGEST_INTEGER = 19
CONFLICT = object()
"""In place of the value of a name that occurs with different values: neither text nor number, so that it is not used."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What to send; a form, unless there is no body."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: str | None = field(default=None, repr=False)


def authenticated_post(
    provider: Provider, client: Client, url: str, body: str, *, method: str | None = None, as_json: bool = False
) -> HttpRequest:
    """A form with the client's authentication (RFC 6749 section 2.3, RFC 7523 section 2.2); `method`: another than the token endpoint's."""
    check_address(url)
    method = method or provider.token_endpoint_auth_method
    headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
    if method == "private_key_jwt":
        # The audience is only the issuer, where it is known, so that no other server can replay the assertion.
        signer = PrivateKeyJWT(token_endpoint=provider.issuer or url, headers={"typ": "client-authentication+jwt"})
        auth = ClientAuth(client.client_id, client.client_secret, signer)
    elif method == "client_secret_basic":
        # RFC 6749 section 2.3.1 form-encodes both before they are joined; Authlib does not.
        auth = ClientAuth(quote_plus(client.client_id), quote_plus(client.client_secret), method)
    else:
        auth = ClientAuth(client.client_id, client.client_secret, method)
    url, headers, body = auth.prepare("POST", url, headers, body)  # type: ignore[no-untyped-call]
    if as_json:
        headers, body = headers | {"Content-Type": "application/json"}, json.dumps(dict(parse_qsl(body)))
    return HttpRequest("POST", url, headers, body)


def check_address(url: str) -> None:
    """Raises ProviderGarbled where a part of an address is not known: neither callback nor response has named it."""
    if "{" in url:
        raise ProviderGarbled("the provider has not named the host of the account")


def parse_json(body: bytes) -> Mapping[str, Any]:
    """The JSON object in `body`. Raises ProviderGarbled where there is none."""
    found = parse_json_value(body)
    if not isinstance(found, dict):
        raise ProviderGarbled("the response is not a JSON object")
    return found


def parse_json_value(body: bytes) -> Any:
    """
    The JSON in `body` (RFC 8259). Raises ProviderGarbled where there is none.

    Lenient with what does not change the meaning: a byte order mark, UTF-16, Latin-1, NaN, endless numbers, control characters in text, a
    name that is repeated. Of a name with different values, no value is used.
    """
    if sum(map(body.count, _JSON_MARKS)) > _FREE_VALUES + len(body) // _SMALLEST_VALUE:
        raise ProviderGarbled("the response has too many values")
    try:
        return json.loads(
            decode_text(body),
            strict=False,
            parse_constant=lambda _: None,
            parse_int=lambda digits: int(digits) if len(digits) <= _LONGEST_INTEGER else digits,
            object_pairs_hook=unambiguous,
        )
    except (ValueError, RecursionError):
        raise ProviderGarbled("the response is not JSON") from None


def decode_text(body: bytes) -> str:
    """Text in the encoding that a byte order mark or the first bytes show; Latin-1 where it is not even UTF-8."""
    try:
        return body.decode(json.detect_encoding(body))
    except UnicodeDecodeError:
        return body.decode("latin-1")


def unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs as an object. A name with different values has CONFLICT."""
    found = dict(pairs)
    if len(found) != len(pairs):
        found |= {name: CONFLICT for name, value in pairs if value != found[name]}
    return found


def is_temporary(status: int) -> bool:
    """Whether the same request may succeed later (RFC 9110 sections 15.5.9 and 15.6, RFC 8470, RFC 6585 section 4)."""
    return status in (408, 425, 429) or status >= 500  # noqa: PLR2004


def is_visible_ascii(value: str) -> bool:
    """Whether a code or token consists of VSCHAR and spaces (RFC 6749 appendix A); anything else could break a header or a row."""
    return value.isascii() and value.isprintable()
