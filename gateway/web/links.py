"""
The page of a partner's link. Scanners and prefetching browsers open it too: only its form starts anything, once.
"""

from __future__ import annotations

import secrets

from flask import Blueprint, Response, make_response, request

from gateway.connect import links
from gateway.connect.callback import EXCHANGE_SECONDS
from gateway.crypto.vault import fingerprint
from gateway.errors import Forbidden
from gateway.http import Deadline
from gateway.models import User
from gateway.web.connect import consent_page
from gateway.web.redirects import Flow, note_flow, see_other
from gateway.web.request_context import runtime
from gateway.web.session import browser_secret, check_sender, csrf_token, keep_browser, session_secret

blueprint = Blueprint("links", __name__)

PAGE_SECONDS = 1200
"""How long the page may stay open before its form is sent: longer than a link is valid."""
ABILITIES = ("tokens:read", "proxy", "connections:read", "connections:write", "events:read", "sessions:write")
"""What a partner may be allowed, the most powerful first."""


@blueprint.get("/link/<secret>")
def show(secret: str) -> Response:
    """Which partner asks which user for what. Opening the page does not use the link up."""
    rt = runtime()
    link = links.show(rt, secret, session=session_secret())
    flow = note_flow(Flow(link.provider, link.return_to))
    provider = rt.issuers.complete(rt.provider(link.provider), Deadline.after(EXCHANGE_SECONDS))
    browser = browser_secret() or secrets.token_urlsafe(32)
    signed_in = link.session_user_id is not None
    page = consent_page(
        "link.html",
        provider,
        flow,
        links.scope_of(provider, link),
        user=User(link.user_id, link.session_label or "") if signed_in else None,
        csrf=csrf_token() if signed_in else "",
        for_user=link.session_label if signed_in else links.masked_user(link),
        partner=link.partner,
        reach=link.partner_reach,
        abilities=[scope.replace(":", "_") for scope in ABILITIES if scope in link.partner_scope],
        fields={"csrf": rt.vault.csrf_token(_csrf_subject(browser, secret), purpose="link")},
        existing=link.existing if signed_in else None,
    )
    response = make_response(page)
    keep_browser(response, browser, PAGE_SECONDS)
    return response


@blueprint.post("/link/<secret>")
def start(secret: str) -> Response:
    """303 to the provider, once."""
    check_sender()
    rt, browser, token = runtime(), browser_secret(), request.form.get("csrf", "")
    if not browser or not rt.vault.verify_csrf_token(token, _csrf_subject(browser, secret), purpose="link"):
        raise Forbidden("the form does not have the CSRF token of this browser and link")
    response = see_other(links.start(rt, secret, session=session_secret(), browser=browser))
    keep_browser(response, browser)
    return response


def _csrf_subject(browser: str, secret: str) -> str:
    """Bound to the browser, because there may be no session, and to the link, so that the token is valid for this link only."""
    return f"{browser} {fingerprint(secret)}"
