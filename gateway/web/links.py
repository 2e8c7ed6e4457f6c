"""
The page of a partner's link. Scanners and prefetching browsers open it too: only its form starts anything, once.
"""

from __future__ import annotations

import secrets
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, Response, make_response, render_template, request

from gateway.catalog import Provider
from gateway.connect import links
from gateway.connect.callback import EXCHANGE_SECONDS
from gateway.crypto.vault import fingerprint
from gateway.database.queries.links import Link
from gateway.errors import AccessDenied, Forbidden, Unauthenticated
from gateway.http import Deadline
from gateway.models import User
from gateway.web.connect import TYPE_NAMES, described_scopes
from gateway.web.redirects import see_other, with_query
from gateway.web.request_context import runtime
from gateway.web.security_headers import allow_form_action
from gateway.web.session import (
    browser_secret,
    check_sender,
    csrf_token,
    keep_browser,
    session_secret,
    sign_in_response,
)

blueprint = Blueprint("links", __name__)

PAGE_SECONDS = 1200
"""How long the page may stay open before its form is sent: longer than a link is valid."""
ABILITIES = {
    "tokens:read": "Use {provider} as you: it gets an access token for everything listed above.",
    "connections:read": "See this connection: the account's name, what it allows, and whether it works.",
    "connections:write": "Disconnect it.",
    "events:read": "See what happens to it: when it is used, refreshed, or fails.",
    "sessions:write": "Ask you again, with another link like this one.",
}
"""What each scope lets a partner do, the most powerful first."""


@blueprint.get("/link/<secret>")
def show(secret: str) -> Response:
    """Which partner asks which user for what. Opening the page does not use the link up."""
    rt, session = runtime(), session_secret()
    try:
        link = links.show(rt, secret, session=session)
    except Unauthenticated:
        return sign_in_response()
    provider = rt.issuers.complete(rt.provider(link.provider), Deadline.after(EXCHANGE_SECONDS))
    browser = browser_secret() or secrets.token_urlsafe(32)
    allow_form_action(provider.authorization_endpoint or "", *provider.login_origins, *rt.settings.app_origins)
    response = make_response(render_template("link.html", **_page(link, provider, secret, browser)))
    keep_browser(response, browser, PAGE_SECONDS)
    return response


def _page(link: Link, provider: Provider, secret: str, browser: str) -> dict[str, Any]:
    signed_in = link.session_user_id is not None
    existing = None
    if link.existing is not None and signed_in and provider.accounts == "one":
        label, status = link.existing
        existing = {"account": {"label": label}, "status": status}
    cancelled = {"error": AccessDenied.slug, "provider": provider.id}
    return {
        "user": User(link.user_id, link.session_label or "") if signed_in else None,
        "csrf": csrf_token() if signed_in else "",
        "for_user": link.session_label if signed_in else links.masked_user(link),
        "partner": link.partner,
        "reach": link.partner_reach,
        "abilities": [
            text.format(provider=provider.name) for scope, text in ABILITIES.items() if scope in link.partner_scope
        ],
        "provider": provider,
        "kind": TYPE_NAMES[provider.path],
        "scopes": described_scopes(provider, links.scope_of(provider, link)),
        "form": {"action": f"/link/{secret}", "fields": {"csrf": _csrf_token(browser, secret)}},
        "existing": existing,
        "host": urlsplit(provider.authorization_endpoint or "").netloc,
        "app_host": urlsplit(link.return_to).netloc if link.return_to else None,
        "cancel_to": with_query(link.return_to, **cancelled) if link.return_to else "/connections",
    }


@blueprint.post("/link/<secret>")
def start(secret: str) -> Response:
    """303 to the provider, once."""
    check_sender()
    rt, browser, token = runtime(), browser_secret(), request.form.get("csrf", "")
    if not browser or not rt.vault.verify_csrf_token(token, _csrf_subject(browser, secret), purpose="link"):
        raise Forbidden("the form does not have the CSRF token of this browser and link")
    try:
        url = links.start(rt, secret, session=session_secret(), browser=browser)
    except Unauthenticated:
        return sign_in_response()
    response = see_other(url)
    keep_browser(response, browser)
    return response


def _csrf_token(browser: str, secret: str) -> str:
    return runtime().vault.csrf_token(_csrf_subject(browser, secret), purpose="link")


def _csrf_subject(browser: str, secret: str) -> str:
    """Bound to the browser, because there may be no session, and to the link, so that the token is valid for this link only."""
    return f"{browser} {fingerprint(secret)}"
