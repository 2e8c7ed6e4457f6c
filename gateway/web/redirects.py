"""
Redirects: check URLs from outside, and add results to them.

An open redirector is a phishing tool (RFC 9700 section 4.11). So the origin has to be one of ours exactly, and an address that two
parsers could read differently is refused before it is parsed.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote_plus, urlencode, urlsplit, urlunsplit

from flask import Response

from gateway.errors import ReturnToRefused
from gateway.settings import Settings

_LONGEST = 2000


def app_address(settings: Settings, value: str | None) -> str | None:
    """
    `value` when it is an absolute URL on an app origin, None when it is empty.

    Raises ReturnToRefused for anything else.
    """
    if not value:
        return None
    if not _is_plain(value) or not value.startswith(("https://", "http://")):
        raise ReturnToRefused("return_to is not a plain absolute URL")
    try:
        parts = urlsplit(value)
        origin = f"{parts.scheme}://{parts.netloc}"
    except ValueError:
        raise ReturnToRefused("return_to does not parse") from None
    if origin not in settings.app_origins:
        raise ReturnToRefused("return_to is on an origin that is not listed")
    return value


def here_or_app_address(settings: Settings, value: str | None) -> str:
    """`value` when it is a path here or a URL on an app origin; `/connections` when it is empty."""
    if not value:
        return "/connections"
    if value.startswith("/"):
        # Browsers read // and /\ as another host.
        if not _is_plain(value) or _DISGUISED.match(value):
            raise ReturnToRefused("next is not a plain path")
        return value
    return app_address(settings, value) or "/connections"


def see_other(url: str) -> Response:
    """303 (RFC 9110 section 15.4.4): never 307, which would repeat the form at the new address (RFC 9700 section 4.12)."""
    if not url.isascii() or not url.isprintable():
        raise ReturnToRefused("an address with other than visible ASCII in it")
    return Response(status=303, headers={"Location": url})


def with_query(url: str, **more: str) -> str:
    """`url` with `more` in its query. Parameters with the names of our results are removed from it first."""
    parts = urlsplit(url)
    kept = [pair for pair in parts.query.split("&") if pair and unquote_plus(pair.split("=", 1)[0]) not in _RESULTS]
    query = "&".join([*kept, urlencode(more, quote_via=quote)])
    return urlunsplit(parts._replace(query=query))


_DISGUISED = re.compile(r"/(/|%(0.|1.|2f|5c|7f))", re.IGNORECASE)
"""A second slash, a backslash or a control character after the first slash, plain or percent-encoded."""

_RESULTS = frozenset({"connection", "provider", "error", "confirmation", "connect_session"})
"""Names of our results: a link must not contain its own."""


def _is_plain(value: str) -> bool:
    """Short, visible ASCII, no backslash, nothing that ends an attribute."""
    return len(value) <= _LONGEST and value.isascii() and value.isprintable() and not set(value) & set(' \\<>"`')
