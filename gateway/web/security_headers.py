"""Security headers. Strict by default; a page that needs more asks for it."""

from urllib.parse import urlsplit

from flask import Flask, g, request
from werkzeug.wrappers import Response

from gateway.services import Runtime
from gateway.web.request_context import QUOTA_HEADERS, is_api

_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'{logo}; "
    "form-action 'self'{form_action}; frame-ancestors 'none'; base-uri 'none'"
)
_ALWAYS = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
)
_CORS = (
    ("Access-Control-Allow-Methods", "GET, POST, PUT, PATCH, DELETE"),
    (
        "Access-Control-Expose-Headers",
        f"Retry-After, X-Request-Id, Gateway-Upstream-Status, Gateway-Upstream-Error, {', '.join(QUOTA_HEADERS)}, *",
    ),
    ("Access-Control-Max-Age", "600"),
    ("Cross-Origin-Resource-Policy", "cross-origin"),
)
"""Below /v1, for the product's own front ends. Cookies are never read there. `*`: those of a provider's response too."""
_CACHED = ("static", "pages.helper", "pages.brand_logo", "pages.brand_stylesheet")
"""Endpoints whose responses browsers keep but revalidate (ETag): a new gateway has new pages at once."""


def allow_form_action(*urls: str) -> None:
    """
    Let this page's form end on these origins: Chromium applies form-action to the redirect after a POST as well. CSP knows `*` for the first
    labels of a host alone.
    """
    origins = {
        f"{parts.scheme}://{parts.netloc}"
        for parts in map(urlsplit, urls)
        if parts.netloc and parts.netloc.rfind("*") < 1
    }
    g.form_action = "".join(f" {origin}" for origin in sorted(origins))


def popup_friendly(*, yes: bool) -> None:
    """Keep the opener of a pop-up: with an isolating policy it could not send its result."""
    g.opener_policy = "unsafe-none" if yes else "same-origin-allow-popups"


def register(app: Flask) -> None:
    """Add the headers to every response. `extend` instead of item by item: setting a header searches all others."""
    rt: Runtime = app.extensions["gateway"]
    always = [*_ALWAYS, *([("Strict-Transport-Security", "max-age=31536000")] if rt.settings.secure else [])]
    app_origins = frozenset(rt.settings.app_origins)
    logo = f" {rt.settings.brand_logo.url}" if rt.settings.brand_logo and rt.settings.brand_logo.url else ""

    @app.after_request
    def add(response: Response) -> Response:
        headers, environ, api = response.headers, request.environ, is_api()
        more = [*always, ("Content-Security-Policy", _POLICY.format(form_action=g.get("form_action", ""), logo=logo))]
        origin = environ.get("HTTP_ORIGIN")
        if api:
            more.append(("Vary", "Origin"))
        if api and origin in app_origins:
            wanted = environ.get(
                "HTTP_ACCESS_CONTROL_REQUEST_HEADERS", "Authorization"
            )  # any: a provider's API has its own
            more += [("Access-Control-Allow-Origin", origin), ("Access-Control-Allow-Headers", wanted), *_CORS]
        elif "Cross-Origin-Resource-Policy" not in headers:
            more.append(("Cross-Origin-Resource-Policy", "same-origin"))
        if request.endpoint in _CACHED:
            headers["Cache-Control"] = "no-cache"
        elif "Cache-Control" not in headers:
            more.append(("Cache-Control", "no-store"))
        # no-referrer makes even our own forms send `Origin: null`; but an address with a code in it must not be passed on.
        query = environ.get("QUERY_STRING", "")
        more.append(("Referrer-Policy", "no-referrer" if "code" in query or "state" in query else "same-origin"))
        if response.mimetype == "text/html" and response.status_code // 100 != 3:  # noqa: PLR2004
            more.append(("Cross-Origin-Opener-Policy", g.get("opener_policy", "same-origin-allow-popups")))
        headers.extend(more)
        return response
