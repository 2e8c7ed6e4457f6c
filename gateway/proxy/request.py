"""
What of a call goes to the provider, and what of its response comes back.

The path arrives decoded. It is checked in that form and encoded again, so that what is sent is what was checked.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote_to_bytes

from gateway.catalog import AnyEntry
from gateway.errors import BadRequest, Forbidden

MARK = "Gateway-Upstream-Status"
"""On each response of the provider, and on no response of the gateway."""
ERROR = "Gateway-Upstream-Error"
"""What a refusal of the provider is about, where its words are known."""
LARGEST_KEPT = 1024 * 1024
"""A body up to this size can be sent again."""
_IDEMPOTENT = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "QUERY", "PROPFIND", "REPORT", "SEARCH")

_QUERY = re.compile(r"[!-~]*")
_VALUE = re.compile(r"[\t\x20-\x7e]*")
_IN_PATH = "/:@!$&'()*+,;=-._~"
"""RFC 3986 section 3.3, beside letters and digits."""
_REFUSED = re.compile(r"[\x00-\x1f\x7f-\x9f\\%\ufffd]|//|(?:^|/)\.{1,2}(?:[;/]|$)")
_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "te", "trailer", "trailers", "transfer-encoding", "upgrade", "http2-settings"}
)
"""RFC 9110 section 7.6.1; `trailers` was the name in RFC 2616, and PEP 3333 forbids it."""
_NOT_SENT = _HOP_BY_HOP | {
    *("authorization", "cookie", "cookie2", "host", "expect", "accept-encoding", "content-length", "forwarded", "via"),
    *("x-real-ip", "x-request-id", "true-client-ip", "origin", "referer"),
}
_NOT_RETURNED = _HOP_BY_HOP | {
    *("set-cookie", "set-cookie2", "authorization", "authentication-info", "server", "via", "alt-svc", "x-request-id"),
    *("strict-transport-security", "content-security-policy", "clear-site-data", "x-frame-options", "referrer-policy"),
    *("permissions-policy", "x-content-type-options", "refresh", "report-to", "reporting-endpoints", "nel"),
}
"""Cookies and rules for browsers would apply to the gateway's own origin."""


@dataclass(frozen=True, slots=True)
class ProxiedRequest:
    """A call as it arrived. `body`: whole if it can be sent again, else as it is read; None without one."""

    method: str
    path: bytes
    query: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | Iterable[bytes] | None = field(default=None, repr=False)
    body_length: int | None = None
    is_abandoned: Callable[[], bool] | None = None

    @property
    def is_repeatable(self) -> bool:
        """Whether the body can be sent again."""
        return self.body is None or isinstance(self.body, bytes)

    @property
    def retries(self) -> int:
        """How often the caller lets the call be repeated."""
        value = self.headers.get("Gateway-Retries", "0")
        if value not in ("0", "1", "2", "3"):
            raise BadRequest("retries", [("Gateway-Retries", "a number from 0 to 3")])
        return int(value) if self.is_repeatable and self.method in _IDEMPOTENT else 0

    def target(self) -> str:
        """
        The path and query to append to the base URL.

        Raises BadRequest for anything that the gateway and the provider may read differently.
        """
        if not _QUERY.fullmatch(self.query) or "#" in self.query:
            raise BadRequest("the query holds what a URL cannot hold", [("query", "holds what a URL cannot hold")])
        given = self.headers.get("Gateway-Path")
        if given is None:
            path = quote(_checked(self.path), safe=_IN_PATH)
        elif self.path.strip(b"/") or not given.startswith("/"):
            raise BadRequest(
                "two paths", [("Gateway-Path", "write a path from /, and nothing behind /proxy in the URL")]
            )
        else:
            _checked(unquote_to_bytes(given))
            path = "/".join(quote(unquote_to_bytes(part), safe=_IN_PATH[1:]) for part in given.split("/"))
        return f"{path}?{self.query}" if self.query else path


def _checked(path: bytes) -> str:
    try:
        text = path.decode()
    except UnicodeDecodeError:
        raise BadRequest("the path is not UTF-8", [("path", "not UTF-8")]) from None
    if _REFUSED.search(text):
        raise BadRequest("the path", [("path", "has .., //, a backslash, a percent sign or a control character")])
    return text


def check_target(provider: AnyEntry, target: str) -> None:
    """Raises Forbidden for a path whose response holds tokens, and BadRequest for a query with the parameter of the token."""
    path, _, query = target.partition("?")
    path = unquote_to_bytes(path).decode().rstrip("/").lower()
    plain = re.sub(r"\.[a-z]+$", "", "/".join(part.partition(";")[0] for part in path.split("/")))  # .json, .xml
    if any(re.fullmatch(re.escape(each.lower()).replace(r"\*", "[^/]*"), plain) for each in provider.token_paths):
        reason = "the provider issues tokens there"
        raise Forbidden(reason, detail="The provider issues tokens at this path, so the proxy does not call it.")
    if provider.token_placement.query in [name for name, _ in parse_qsl(query, keep_blank_values=True)]:
        raise BadRequest(
            "the query", [(str(provider.token_placement.query), "leave it out: the gateway puts the token there")]
        )


def sent_headers(provider: AnyEntry, call: ProxiedRequest, defaults: Mapping[str, str]) -> dict[str, str]:
    """The caller's headers and the provider's defaults, without the token. Raises BadRequest for a value that is not ASCII."""
    left_out = _NOT_SENT | _named_by_connection(call.headers) | {provider.token_placement.header.lower()}
    kept = {
        name: value
        for name, value in call.headers.items()
        if name.lower() not in left_out and not name.lower().startswith(("gateway-", "x-forwarded-", "proxy-"))
    }
    odd = next((name for name, value in kept.items() if not _VALUE.fullmatch(value)), None)
    if odd is not None:
        raise BadRequest("a header", [(odd, "has characters other than printable ASCII")])
    names = {name.lower() for name in kept}
    return kept | {name: value for name, value in defaults.items() if name.lower() not in names}


def returned_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """What the caller gets of a response's headers."""
    left_out = _NOT_RETURNED | _named_by_connection(headers)
    return {
        name: value
        for name, value in headers.items()
        if name.lower() not in left_out
        and not name.lower().startswith(("gateway-", "access-control-", "cross-origin-", "proxy-"))
    }


def _named_by_connection(headers: Mapping[str, str]) -> set[str]:
    named = next((value for name, value in headers.items() if name.lower() == "connection"), "")
    return {name.strip().lower() for name in named.split(",")}
