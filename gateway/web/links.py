"""
The doors of partners' links: the page that asks the user, and the two calls of `/v1` that make and complete a link.

A link's page is looked at by scanners and prefetching browsers: only its form starts anything, once.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from flask import Blueprint, Response, render_template
from werkzeug.wrappers import Response as AnyResponse

from gateway.catalog import Provider
from gateway.connect import callback, links
from gateway.crypto.vault import fingerprint
from gateway.database import Link
from gateway.errors import (
    AccessDenied,
    Forbidden,
    GatewayError,
    NotFound,
    PendingConfirmation,
    ReturnToRefused,
    StateInvalid,
    Unauthenticated,
    UserMismatch,
)
from gateway.http import Deadline
from gateway.models import Caller, User
from gateway.web.connect import KINDS
from gateway.web.redirects import app_address, see_other, with_query
from gateway.web.security_headers import allow_form_action
from gateway.web.session import (
    browser_secret,
    csrf_token,
    form,
    judge_sender,
    keep_browser,
    runtime,
    session_secret,
    sign_in_answer,
)
from gateway.web.v1 import schemas
from gateway.web.v1.caller import caller
from gateway.web.v1.json_api import answer, sent
from gateway.web.v1.openapi import described

blueprint = Blueprint("links", __name__)

PAGE_SECONDS = 1200
"""How long the page may stay open before its form is sent: longer than the link lives."""
ABILITIES = {
    "tokens:read": "Use {provider} as you: it gets an access token for everything listed above.",
    "connections:read": "See this connection: the account's name, what it allows, and whether it works.",
    "connections:write": "Disconnect it.",
    "events:read": "See what happens to it: when it is used, renewed, or fails.",
    "sessions:write": "Ask you again, with another link like this one.",
}
"""What a partner may do by each of its scopes, the furthest first."""
_T = TypeVar("_T")


# -- the page --------------------------------------------------------------------------------------------------------


@blueprint.get("/link/<secret>")
def ask(secret: str) -> Any:
    """Which partner asks for what, of whom; nothing is used up."""
    rt, session = runtime(), session_secret()
    try:
        link = links.look(rt, secret, session=session)
    except Unauthenticated:
        return sign_in_answer()
    provider = rt.issuers.complete(rt.provider(link.provider), Deadline.after(callback.EXCHANGE_SECONDS))
    browser = browser_secret() or secrets.token_urlsafe(32)
    allow_form_action(provider.authorization_endpoint or "", *provider.login_origins, *rt.settings.app_origins)
    page = Response(render_template("link.html", **_page(link, provider, secret, browser)), mimetype="text/html")
    keep_browser(page, browser, PAGE_SECONDS)
    return page


def _page(link: Link, provider: Provider, secret: str, browser: str) -> dict[str, Any]:
    here = link.session_user_id is not None
    user = User(link.user_id, link.session_label or "") if here else None
    standing = None if link.standing is None else dict(zip(("account_label", "status"), link.standing, strict=True))
    return {
        "user": user,
        "csrf": csrf_token() if here else "",
        "whose": link.session_label if here else links.whose(link),
        "partner": link.partner,
        "reach": link.partner_reach,
        "abilities": [
            text.format(provider=provider.name) for scope, text in ABILITIES.items() if scope in link.partner_scope
        ],
        "provider": provider,
        "kind": KINDS[provider.path],
        "scopes": [
            {"name": scope, "text": provider.scope_texts.get(scope, "")} for scope in links.scope_of(provider, link)
        ],
        "form": {"action": f"/link/{secret}", "fields": {"csrf": _mark(browser, secret)}},
        "standing": standing if here and provider.accounts == "one" else None,
        "host": urlsplit(provider.authorization_endpoint or "").netloc,
        "app_host": urlsplit(link.return_to).netloc if link.return_to else None,
        "cancel_to": with_query(link.return_to, error=AccessDenied.slug, provider=provider.id)
        if link.return_to
        else "/connections",
    }


@blueprint.post("/link/<secret>")
def begin(secret: str) -> AnyResponse:
    """Off to the provider, once."""
    judge_sender()
    browser = browser_secret()
    if not browser or not runtime().vault.marked(_marked(browser, secret), form().get("csrf", ""), purpose="link"):
        raise Forbidden("the form does not carry the mark of this browser and link")
    try:
        url = links.start(runtime(), secret, session=session_secret(), browser=browser)
    except Unauthenticated:
        return sign_in_answer()
    away = see_other(url)
    keep_browser(away, browser)
    return away


def _mark(browser: str, secret: str) -> str:
    return runtime().vault.mark(_marked(browser, secret), purpose="link")


def _marked(browser: str, secret: str) -> str:
    """The browser's own, since nobody may be signed in; and the link's, so that it serves for no other."""
    return f"{browser} {fingerprint(secret)}"


# -- the calls -------------------------------------------------------------------------------------------------------


@blueprint.post("/v1/connect-sessions")
@described(
    schemas.ConnectSession,
    NotFound,
    ReturnToRefused,
    scope="sessions:write",
    status=201,
    body=schemas.ConnectSessionRequest,
    partners_alone=True,
)
def create() -> Response:
    """
    Makes a link.

    For one user and one provider, to be started once within fifteen minutes. Send the user's browser to `url`: a page there
    names you, and what is asked for. `scope` adds to what is asked for anyway. A provider that is not enabled or not yours answers
    like none, and so does a user whom the Supabase project does not know; on plain Postgres whomever you name is made known.
    """
    who = caller()
    asked = _read(who, lambda: sent(schemas.ConnectSessionRequest))
    return_to = _read(who, lambda: app_address(runtime().settings, asked.return_to))
    made = links.create(
        runtime(), who, user_id=asked.user_id, provider_id=asked.provider, scope=asked.scope, return_to=return_to
    )
    return answer(schemas.ConnectSession(id=made.id, url=made.url, expires_at=made.expires_at), 201)


@blueprint.post("/v1/connect-sessions/<uuid:session_id>/complete")
@described(
    schemas.Connection,
    AccessDenied,
    StateInvalid,
    UserMismatch,
    PendingConfirmation,
    scope="sessions:write",
    body=schemas.CompleteRequest,
    partners_alone=True,
)
def complete(session_id: uuid.UUID) -> Response:
    """
    Completes a link.

    For a browser in which nobody was signed in here: it came back to you with `confirmation`, and you say who is signed in
    there. A wrong user, a wrong confirmation or none: nothing is connected, and what was granted is given back at once. Where
    another account is connected already, or the same one with more than came back now, `pending_confirmation` asks for an
    `answer`, and the confirmation serves again. Sent once more within ten minutes it is answered once more.
    """
    who = caller()
    asked = _read(who, lambda: sent(schemas.CompleteRequest))
    connection = links.complete(
        runtime(),
        who,
        session_id,
        user_id=asked.user_id,
        confirmation=asked.confirmation,
        answer=asked.answer,
    )
    return answer(schemas.Connection.of(connection))


def _read(who: Caller, read: Callable[[], _T]) -> _T:
    """What was sent; whoever has no key that serves is told that before anything about what they sent."""
    try:
        return read()
    except GatewayError:
        links.judge_caller(runtime(), who)
        raise
