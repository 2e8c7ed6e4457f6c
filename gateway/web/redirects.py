"""
Addresses that came from outside: which may be returned to, and how an answer is put into one.

An open redirector is a phishing tool (RFC 9700 section 4.11), so the origin has to be one of ours exactly, and whatever two
parsers could read differently is refused before it is parsed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_plus, urlencode, urlsplit, urlunsplit

from flask import Response
from werkzeug.datastructures import Headers

from gateway.errors import ReturnToRefused
from gateway.settings import Settings

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_LONGEST = 2000


def app_address(settings: Settings, value: str | None) -> str | None:
    """
    `value` when it is an absolute URL on an app origin, None when there is none.

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
    """`value` when it is a path here or a URL on an app origin; `/connections` when there is none."""
    if not value:
        return "/connections"
    if value.startswith("/"):
        # Browsers take // and /\ for another host; Location is ours to keep a path.
        if not _is_plain(value) or _DISGUISED.match(value):
            raise ReturnToRefused("next is not a plain path")
        return value
    return app_address(settings, value) or "/connections"


class _SeeOther(Response):
    """Werkzeug would take Location apart and put it together again; ours is an address already, judged and encoded."""

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:  # noqa: ARG002 - WSGI's signature
        start_response(self.status, [*self.headers.to_wsgi_list(), ("Content-Length", "0")])
        return []


def see_other(url: str) -> Response:
    """303 (RFC 9110 section 15.4.4): never 307, which would post a form on (RFC 9700 section 4.12)."""
    if not url.isascii() or not url.isprintable():
        raise ReturnToRefused("an address with other than visible ASCII in it")
    return _SeeOther(status=303, headers=Headers([("Location", url)]))


def with_query(url: str, **more: str) -> str:
    """`url` with `more` added to its query; what stood there under the same names before is taken out."""
    parts = urlsplit(url)
    kept = [pair for pair in parts.query.split("&") if pair and unquote_plus(pair.split("=", 1)[0]) not in _ANSWERS]
    query = "&".join([*kept, urlencode(more, quote_via=quote)])
    return urlunsplit(parts._replace(query=query))


_DISGUISED = re.compile(r"/(/|%(0.|1.|2f|5c|7f))", re.IGNORECASE)
"""Behind the first slash another one, a backslash or a control, plain or percent-encoded."""

_ANSWERS = frozenset({"connection", "provider", "error", "confirmation", "connect_session"})
"""Names that only our answers use: a link cannot arrive with one already in place."""


def _is_plain(value: str) -> bool:
    """Visible ASCII without a backslash, and not endless."""
    return len(value) <= _LONGEST and value.isascii() and value.isprintable() and not set(value) & set(' \\<>"`')
