"""The page of a partner's link. Scanners and prefetching browsers open it too: only its form starts anything, once."""

import secrets
from collections.abc import Mapping

from flask import Blueprint, Response, make_response, request

from gateway.catalog import ApiKeyProvider
from gateway.connect import links
from gateway.connect.form import Fault, FieldsRefused
from gateway.crypto.vault import fingerprint
from gateway.errors import Forbidden
from gateway.models import User
from gateway.web.connect import consent_page, proceed
from gateway.web.redirects import Flow, note_flow
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
    browser = browser_secret() or secrets.token_urlsafe(32)
    response = make_response(_form(secret, browser, {}))
    keep_browser(response, browser, PAGE_SECONDS)
    return response


def _form(secret: str, browser: str, faults: Mapping[str, Fault]) -> str:
    rt = runtime()
    link = links.show(rt, secret, session=session_secret())
    flow = note_flow(Flow(link.provider, link.return_to))
    provider = rt.entry(link.provider)
    signed_in = link.session_user_id is not None
    return consent_page(
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
        fields={"csrf": rt.vault.keyed_hash(_csrf_subject(browser, secret), purpose="link")},
        faults=faults,
        existing=link.existing,
    )


@blueprint.post("/link/<secret>")
def start(secret: str) -> Response:
    """303 to the provider, once; with a key, to the product; the form again, where a field is refused."""
    check_sender()
    rt, browser, token = runtime(), browser_secret(), request.form.get("csrf", "")
    if not browser or not rt.vault.verify_keyed_hash(token, _csrf_subject(browser, secret), purpose="link"):
        raise Forbidden("the form does not have the CSRF token of this browser and link")
    session, link = session_secret(), links.load(rt, secret, session_secret())
    provider = rt.entry(link.provider)
    if isinstance(provider, ApiKeyProvider):
        note_flow(Flow(link.provider, link.return_to, is_started=True))
        links.check_user(link)  # before the provider is asked
    try:
        begin = links.by_link(rt, link, secret, session=session, browser=browser)
        return proceed(provider, begin, session=session, browser=browser)
    except FieldsRefused as refused:
        return make_response(_form(secret, browser, refused.faults), 422)


def _csrf_subject(browser: str, secret: str) -> str:
    """Bound to the browser, because there may be no session, and to the link, so that the token is valid for this link only."""
    return f"{browser} {fingerprint(secret)}"
