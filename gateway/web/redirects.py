"""
Redirects: check URLs from outside, add results to them, and know the way back to the product.

An open redirector is a phishing tool (RFC 9700 section 4.11). So a URL has to begin with one of our origins, and an address that two
parsers could read differently is refused.
"""

import re
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote_plus, urlencode, urlsplit, urlunsplit

from flask import Response, g, request

from gateway.errors import ReturnToRefused
from gateway.models import Display
from gateway.settings import Settings
from gateway.web.request_context import runtime

_LONGEST = 2000


@dataclass(frozen=True, slots=True)
class Flow:
    """The attempt to connect that a request belongs to, as far as the way back to the product needs it."""

    provider: str = ""
    return_to: str | None = None
    display: Display = "page"
    is_started: bool = False
    """The user pressed the button: a failure then returns, to the list of connections where there is no `return_to`."""

    def url(self, **result: str) -> str:
        """Where the result goes: never a token, a code or the provider's text in the query."""
        result |= {"provider": self.provider} if self.provider else {}
        if self.display == "popup":
            return with_query("/result", to=origin_of(self.return_to or runtime().settings.public_url), **result)
        return with_query(self.return_to or "/connections", **result)


def note_flow(flow: Flow) -> Flow:
    """Note the way back, for an error that comes later in this request."""
    entry = runtime().catalog.named.get(flow.provider)
    g.flow = flow = replace(flow, provider=entry.id if entry else flow.provider)
    return flow


def public_id(provider_id: str) -> str:
    """The id in addresses that users see."""
    entry = runtime().catalog.named.get(provider_id)
    return entry.public_id if entry else provider_id


def requested_flow(provider: str) -> Flow:
    """The flow with `return_to` and `display` of the query or the form. Raises ReturnToRefused."""
    values = request.form if request.method == "POST" else request.args
    display: Display = "popup" if values.get("display") == "popup" else "page"
    note_flow(Flow(provider, None, display))
    return_to = app_address(runtime().settings, values.get("return_to"))
    return note_flow(Flow(provider, return_to, display, is_started=request.method == "POST"))


def flow() -> Flow:
    """The flow of this request; an empty one where none is known."""
    found: Flow = g.get("flow") or Flow()
    return found


def origin_of(url: str) -> str:
    """`scheme://host[:port]`."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def app_address(settings: Settings, value: str | None) -> str | None:
    """`value` when it is an absolute URL on an app origin, None when it is empty. Raises ReturnToRefused for anything else."""
    if not value:
        return None
    starts = tuple(f"{origin}{end}" for origin in settings.app_origins for end in "/?#")
    if not _is_plain(value) or not (value in settings.app_origins or value.startswith(starts)):
        raise ReturnToRefused("return_to is not a plain URL on an origin that is listed")
    return value


def here_or_app_address(settings: Settings, value: str | None) -> str:
    """`value` when it is a URL on an app origin, its path when it is here; `/connections` when it is empty."""
    if not value:
        return "/connections"
    here = value.removeprefix(settings.public_url) or "/"  # as the sign-in page was given it
    if here.startswith("/"):
        # Browsers read // and /\ as another host.
        if not _is_plain(here) or _DISGUISED.match(here):
            raise ReturnToRefused("next is not a plain path")
        return here
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

_RESULTS = frozenset({"connection", "provider", "error", "missing_scope", "confirmation", "connect_session"})
"""Names of our results: a link must not contain its own."""


def _is_plain(value: str) -> bool:
    """Short, visible ASCII, no backslash, nothing that ends an attribute."""
    return len(value) <= _LONGEST and value.isascii() and value.isprintable() and not set(value) & set(' \\<>"`')
