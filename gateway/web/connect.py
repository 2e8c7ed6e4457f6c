"""
One factory for the three blueprints: connect, callback, confirm.

A door: it reads cookies, query and form, calls `connect`, and answers. It knows a type's public path and nothing of any
provider.
"""

from __future__ import annotations

import secrets
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, render_template, request
from werkzeug.wrappers import Response

from gateway.catalog import TYPES, Provider
from gateway.connect import callback as connect
from gateway.connect import confirm
from gateway.crypto.vault import fingerprint
from gateway.errors import AccessDenied, BadRequest, Frozen, GatewayError, NotFound, StateInvalid, Unauthenticated
from gateway.http import Deadline
from gateway.models import Connection, Display, User
from gateway.web.redirects import app_address, see_other, with_query
from gateway.web.security_headers import allow_form_action, popup_friendly
from gateway.web.session import (
    browser_secret,
    csrf_token,
    form,
    judge_form,
    keep_browser,
    runtime,
    session_secret,
    sign_in_answer,
)

KINDS = {"crm": "CRM", "email": "Email", "phone": "Phone"}


def make_blueprint(provider_type: int) -> Blueprint:
    """The pages of one provider type below its public path (`crm`, `email`, `phone`)."""
    path = TYPES[provider_type]
    blueprint = Blueprint(path, __name__, url_prefix=f"/{path}")

    @blueprint.get("/<provider_id>/connect")
    def ask(provider_id: str) -> Any:
        """Who, what and which scopes, in one form."""
        return _ask(_provider(path, provider_id))

    @blueprint.post("/<provider_id>/connect")
    def begin(provider_id: str) -> Response:
        """Off to the provider."""
        return _begin(_provider(path, provider_id))

    @blueprint.get("/<provider_id>/confirm")
    def question(provider_id: str) -> Any:
        """Another account came back: which one it shall be."""
        return _question(_provider(path, provider_id))

    @blueprint.post("/<provider_id>/confirm")
    def answer(provider_id: str) -> Response:
        """Replace, both, or no."""
        return _answer(_provider(path, provider_id))

    @blueprint.get("/<slug>/callback")
    def callback(slug: str) -> Response:
        """Back from the provider (RFC 6749 section 4.1.2)."""
        if request.method == "HEAD":
            return Response(status=204)  # RFC 9110 section 9.2.1: whoever only looks takes nothing
        return _callback(path, slug)

    return blueprint


def _provider(path: str, provider_id: str) -> Provider:
    provider = runtime().provider(provider_id)
    if provider.path != path:
        raise NotFound("the provider is of another type")
    return provider


def _asked() -> tuple[str | None, Display]:
    """Where to return to, judged, and whether this is a pop-up; from the query or the form."""
    values = form() if request.method == "POST" else request.args
    return_to = app_address(runtime().settings, values.get("return_to"))
    return return_to, "popup" if values.get("display") == "popup" else "page"


def _ask(provider: Provider) -> Any:
    rt = runtime()
    return_to, display = _asked()
    listed = rt.store.connections(fingerprint(session_secret()))
    if listed is None:
        return sign_in_answer()
    user, connections = listed.user, listed.connections
    if provider.id in listed.frozen:
        raise Frozen("nothing may be connected there just now")
    try:
        provider = rt.issuers.complete(provider, Deadline.after(connect.EXCHANGE_SECONDS))
    except GatewayError as error:
        if not error.returned or not return_to:
            raise
        return see_other(_way_back(return_to, display, error=error.slug, provider=provider.id))
    standing = next((found for found in connections if found.provider == provider.id), None)
    fields = {"csrf": csrf_token(), "display": display}
    fields |= {"return_to": return_to} if return_to else {}
    fields |= {"another": "1"} if request.args.get("another") == "1" else {}
    popup_friendly(yes=display == "popup")
    allow_form_action(provider.authorization_endpoint or "", *provider.login_origins, *rt.settings.app_origins)
    return render_template("connect.html", **_connect_page(provider, user, standing, fields, return_to))


def _connect_page(
    provider: Provider, user: User, standing: Connection | None, fields: dict[str, str], return_to: str | None
) -> dict[str, Any]:
    known = {"account_label": standing.account.label, "status": standing.status} if standing else None
    return {
        "user": user,
        "csrf": fields["csrf"],
        "provider": provider,
        "kind": KINDS[provider.path],
        "scopes": [{"name": scope, "text": provider.scope_texts.get(scope, "")} for scope in provider.scope],
        "form": {"action": f"/{provider.path}/{provider.id}/connect", "fields": fields},
        "standing": known if provider.accounts == "one" else None,
        "host": urlsplit(provider.authorization_endpoint or "").netloc,
        "app_host": urlsplit(return_to).netloc if return_to else None,
        "cancel_to": with_query(return_to, error="access_denied") if return_to else "/connections",
    }


def _begin(provider: Provider) -> Response:
    rt = runtime()
    return_to, display = _asked()
    browser = browser_secret() or secrets.token_urlsafe(32)
    try:
        session = judge_form()
        url = connect.begin(
            rt,
            provider.id,
            session=session,
            browser=browser,
            return_to=return_to,
            display=display,
            another=form().get("another") == "1",
        )
    except Unauthenticated:
        # The session ended while the page was open: signed in again, the user comes back to the same question.
        return sign_in_answer(display=display, **({"return_to": return_to} if return_to else {}))
    except GatewayError as error:
        if not error.returned:
            raise
        return see_other(_way_back(return_to, display, error=error.slug, provider=provider.id))
    answer = see_other(url)
    keep_browser(answer, browser)
    return answer


def _callback(path: str, slug: str) -> Response:
    outcome = connect.finish(
        runtime(), path, slug, request.args.to_dict(flat=False), session=session_secret(), browser=browser_secret()
    )
    if outcome.confirmation is not None and outcome.parked and outcome.return_to:
        return see_other(with_query(outcome.return_to, **_unconfirmed(outcome, outcome.confirmation)))
    if outcome.parked:
        answer = see_other(f"/{path}/{outcome.provider.id}/confirm" + _as_popup(outcome.display))
        keep_browser(answer, browser_secret())
        return answer
    if outcome.error is not None:
        told = {"error": outcome.error.slug, "provider": outcome.provider.id}
        told |= {"left": "1"} if outcome.error.left_installed and not outcome.return_to else {}
    else:
        told = {"connection": str(outcome.connection_id), "provider": outcome.provider.id}
    return see_other(_way_back(outcome.return_to, outcome.display, **told))


def _unconfirmed(outcome: connect.Outcome, confirmation: str) -> dict[str, str]:
    """What this browser alone brings to the product, whose server knows who is signed in there."""
    return {
        "connect_session": str(outcome.connect_session_id),
        "confirmation": confirmation,
        "provider": outcome.provider.id,
    }


def _question(provider: Provider) -> Any:
    if runtime().store.session(fingerprint(session_secret())) is None:
        return sign_in_answer()
    parked = confirm.question(runtime(), provider, session=session_secret(), browser=browser_secret())
    popup_friendly(yes=parked.display == "popup")
    allow_form_action(*runtime().settings.app_origins)
    return render_template(
        "confirm.html",
        user=parked.user,
        csrf=csrf_token(),
        provider=provider,
        kind=KINDS[provider.path],
        standing_label=parked.standing[0].account_label if parked.standing else "",
        new_label=parked.account.label,
        form={
            "action": f"/{provider.path}/{provider.id}/confirm",
            "fields": {"csrf": csrf_token(), "parked": str(parked.id)},
        },
        may_keep_both=provider.accounts == "many",
        lost=confirm.lost(parked),
        shared_with=parked.shared_with,
    )


def _answer(provider: Provider) -> Response:
    judge_form()
    said = form().get("answer", "")
    if said not in ("replace", "both", "no") or (said == "both" and provider.accounts == "one"):
        raise BadRequest("no such answer")
    parked = confirm.question(runtime(), provider, session=session_secret(), browser=browser_secret())
    if form().get("parked") != str(parked.id):
        raise StateInvalid("another question is open by now than the one that was answered")
    connection_id = confirm.answer(runtime(), provider, parked, said)  # type: ignore[arg-type] # judged above
    if connection_id is None:
        told = {"error": AccessDenied.slug, "provider": provider.id}
    else:
        told = {"connection": str(connection_id), "provider": provider.id}
    return see_other(_way_back(parked.return_to, parked.display, **told))


def _as_popup(display: Display) -> str:
    return "?display=popup" if display == "popup" else ""


def _way_back(return_to: str | None, display: Display, **told: str) -> str:
    """Where the browser goes at the end, with ids and slugs in the query: never a token, a code or the provider's words."""
    if display == "popup":
        parts = urlsplit(return_to or runtime().settings.public_url)
        return with_query("/result", to=f"{parts.scheme}://{parts.netloc}", **told)
    return with_query(return_to or "/connections", **told)
