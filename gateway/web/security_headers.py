"""
The headers of every answer: what a browser may do with it. Strict by default; a page that needs more says so for itself.

They are put on outside of Flask, so that no answer is without them, whoever made it and whatever went wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flask import Flask, request

from gateway.services import Runtime
from gateway.web.session import SERVING

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "form-action 'self'{form_action}; frame-ancestors 'none'; base-uri 'none'"
)
_STATIC = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
_SHARED = {
    "Access-Control-Allow-Headers": "Authorization, Content-Type",
    "Access-Control-Allow-Methods": "GET, POST, DELETE",
    "Access-Control-Expose-Headers": "Retry-After",
    "Access-Control-Max-Age": "600",
    "Cross-Origin-Resource-Policy": "cross-origin",
}
"""CORS below /v1, for the product's own front ends; credentials are never taken from cookies there."""
_KEPT = ("static", "pages.helper")
"""Endpoints whose answers are kept, but asked about each time (ETag): a new gateway has new pages at once."""


def allow_form_action(*urls: str) -> None:
    """Lets this page's form end on these origins: Chromium holds a redirect after a POST to form-action too."""
    request.environ["gateway.policy"] = _policy(*urls)


def _policy(*urls: str) -> str:
    origins = {f"{parts.scheme}://{parts.netloc}" for parts in map(urlsplit, urls) if parts.netloc}
    return _POLICY.format(form_action="".join(f" {origin}" for origin in sorted(origins)))


def popup_friendly(*, yes: bool) -> None:
    """A pop-up that isolates itself loses its opener, and with it the message that it is done."""
    request.environ["gateway.opener_policy"] = "unsafe-none" if yes else "same-origin-allow-popups"


def register(app: Flask) -> None:
    """Puts the headers on every answer. What is the same for all of them is put together here, once."""
    rt: Runtime = app.extensions["gateway"]
    app.wsgi_app = _Headed(app.wsgi_app, rt)  # type: ignore[method-assign] # as Flask's documents have it


class _Headed:
    """A WSGI application (PEP 3333) whose answers carry the headers."""

    def __init__(self, app: WSGIApplication, rt: Runtime) -> None:
        self._app, self._rt, settings = app, rt, rt.settings
        self._app_origins = frozenset(settings.app_origins)
        self._always = [*_STATIC.items()]
        if settings.secure:
            self._always.append(("Strict-Transport-Security", "max-age=31536000"))
        self._policy = _policy()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            headers += self._always
            headers += self._more(environ, status, headers)
            return start_response(status, headers, exc_info) if exc_info else start_response(status, headers)

        serving = SERVING.set((self._rt, environ))
        try:
            return self._app(environ, start)
        finally:
            SERVING.reset(serving)

    def _more(self, environ: WSGIEnvironment, status: str, headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
        given = {name.lower(): value for name, value in headers}
        more = [("Content-Security-Policy", environ.get("gateway.policy", self._policy))]
        if "cross-origin-resource-policy" not in given:
            more += self._sharing(environ)
        asked = environ.get("werkzeug.request")
        if asked is not None and asked.endpoint in _KEPT:
            if "cache-control" in given:
                headers[:] = [pair for pair in headers if pair[0].lower() != "cache-control"]
            more.append(("Cache-Control", "no-cache"))
            return more
        # no-referrer would make even our own forms send `Origin: null`; addresses that held a code say nothing to anybody.
        query = environ.get("QUERY_STRING", "")
        more.append(("Referrer-Policy", "no-referrer" if "code" in query or "state" in query else "same-origin"))
        if "cache-control" not in given:
            more.append(("Cache-Control", "no-store"))
        if given.get("content-type", "").startswith("text/html") and status[:1] != "3":
            opener = environ.get("gateway.opener_policy", "same-origin-allow-popups")
            more.append(("Cross-Origin-Opener-Policy", opener))
        return more

    def _sharing(self, environ: WSGIEnvironment) -> list[tuple[str, str]]:
        """Who of other origins may read the answer; below /v1 also one that matches no route, or a front end could not read why."""
        if not environ["PATH_INFO"].startswith("/v1/"):
            return [("Cross-Origin-Resource-Policy", "same-origin")]
        origin = environ.get("HTTP_ORIGIN")
        if origin not in self._app_origins:
            return [("Vary", "Origin"), ("Cross-Origin-Resource-Policy", "same-origin")]
        return [("Vary", "Origin"), ("Access-Control-Allow-Origin", origin), *_SHARED.items()]
