"""
The headers of every answer: what a browser may do with it. Strict by default; a page that needs more says so for itself.
"""

from __future__ import annotations

from functools import partial
from urllib.parse import urlsplit

from flask import Flask, g, request
from werkzeug.wrappers import Response

from gateway.runtime import Runtime

_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "form-action 'self'{form_action}; frame-ancestors 'none'; base-uri 'none'"
)
_STATIC = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


def allow_form_action(*urls: str) -> None:
    """Lets this page's form end on these origins: Chromium holds a redirect after a POST to form-action too."""
    g.policy = _policy(*urls)


def _policy(*urls: str) -> str:
    origins = {f"{parts.scheme}://{parts.netloc}" for parts in map(urlsplit, urls) if parts.netloc}
    return _POLICY.format(form_action="".join(f" {origin}" for origin in sorted(origins)))


def popup_friendly(*, yes: bool) -> None:
    """A pop-up that isolates itself loses its opener, and with it the message that it is done."""
    g.opener_policy = "unsafe-none" if yes else "same-origin-allow-popups"


def register(app: Flask) -> None:
    """Puts the headers on every answer. What is the same for all of them is put together here, once."""
    rt: Runtime = app.extensions["gateway"]
    always = [*_STATIC.items()]
    if rt.settings.secure:
        always.append(("Strict-Transport-Security", "max-age=31536000"))
    app.after_request(partial(_headers, always, _policy()))


def _headers(always: list[tuple[str, str]], policy: str, answer: Response) -> Response:
    headers = answer.headers
    more = [*always, ("Content-Security-Policy", g.get("policy", policy))]
    if "Cross-Origin-Resource-Policy" not in headers:
        more.append(("Cross-Origin-Resource-Policy", "same-origin"))
    if request.endpoint in ("static", "pages.helper"):
        # Kept, but asked about each time (ETag): a new version of the gateway is a new version of its pages at once.
        headers["Cache-Control"] = "no-cache"
        headers.extend(more)
        return answer
    # no-referrer would make even our own forms send `Origin: null`; addresses that held a code say nothing to anybody.
    query = request.query_string
    more.append(("Referrer-Policy", "no-referrer" if b"code" in query or b"state" in query else "same-origin"))
    more.append(("Cache-Control", "no-store"))
    if answer.status_code not in (301, 302, 303, 307, 308) and answer.mimetype == "text/html":
        more.append(("Cross-Origin-Opener-Policy", g.get("opener_policy", "same-origin-allow-popups")))
    headers.extend(more)
    return answer
