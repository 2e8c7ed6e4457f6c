"""
The pages of a connection: connect, callback, confirm. One blueprint per provider type, from one factory.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from typing import Any
from urllib.parse import urlsplit

import structlog
from flask import Blueprint, Response, render_template, request

from gateway.catalog import TYPES, Provider
from gateway.connect import confirm
from gateway.connect.callback import EXCHANGE_SECONDS, AwaitsPartner, Connected, Failed, Pending, finish_connect
from gateway.connect.start import start_connect
from gateway.crypto.vault import fingerprint
from gateway.database.queries.connections import list_connections
from gateway.database.queries.sessions import read_session
from gateway.errors import AccessDenied, BadRequest, Frozen, GatewayError, NotFound, StateInvalid, Unauthenticated
from gateway.http import Deadline
from gateway.models import Connection, Display, User
from gateway.web.error_responses import respond
from gateway.web.redirects import app_address, see_other, with_query
from gateway.web.request_context import runtime
from gateway.web.security_headers import allow_form_action, popup_friendly
from gateway.web.session import (
    browser_secret,
    check_form,
    csrf_token,
    keep_browser,
    session_secret,
    sign_in_response,
)

log = structlog.get_logger(__name__)

TYPE_NAMES = {"crm": "CRM", "email": "Email", "phone": "Phone", "apps": "Apps"}


def make_blueprint(path: str) -> Blueprint:
    """The pages of one provider type, below its path (`crm`, `email`, `phone`)."""
    blueprint = Blueprint(path, __name__, url_prefix=f"/{path}")

    @blueprint.get("/<provider_id>/connect")
    def show(provider_id: str) -> Any:
        """The form: who connects what, with which scopes."""
        return _show(_provider(path, provider_id))

    @blueprint.post("/<provider_id>/connect")
    def start(provider_id: str) -> Response:
        """303 to the provider."""
        return _start(_provider(path, provider_id))

    @blueprint.get("/<provider_id>/confirm")
    def show_choice(provider_id: str) -> Any:
        """The question when another account came back."""
        return _show_choice(_provider(path, provider_id))

    @blueprint.post("/<provider_id>/confirm")
    def choose(provider_id: str) -> Response:
        """The answer: replace, both, or no."""
        return _choose(_provider(path, provider_id))

    @blueprint.get("/<slug>/callback")
    def callback(slug: str) -> Response:
        """The redirect URI (RFC 6749 section 4.1.2)."""
        if request.method == "HEAD":
            return Response(status=204)  # a HEAD request must not use the state up (RFC 9110 section 9.2.1)
        return _callback(path, slug)

    return blueprint


BLUEPRINTS = [make_blueprint(path) for path in TYPES.values()]


def _provider(path: str, provider_id: str) -> Provider:
    provider = runtime().provider(provider_id)
    if provider.path != path:
        raise NotFound("the provider is of another type")
    return provider


# -- connect ---------------------------------------------------------------------------------------------------------


def _parameters() -> tuple[str | None, Display]:
    """`return_to`, checked, and `display`, from the query or the form."""
    values = request.form if request.method == "POST" else request.args
    return_to = app_address(runtime().settings, values.get("return_to"))
    return return_to, "popup" if values.get("display") == "popup" else "page"


def _show(provider: Provider) -> Any:
    rt = runtime()
    return_to, display = _parameters()
    listed = list_connections(rt.database, fingerprint(session_secret()))
    if listed is None:
        return sign_in_response()
    if provider.id in listed.frozen:
        raise Frozen("no new connections to this provider")
    try:
        provider = rt.issuers.complete(provider, Deadline.after(EXCHANGE_SECONDS))
    except GatewayError as error:
        if not error.returned or not return_to:
            raise
        return _return(return_to, display, error=error.slug, provider=provider.id)
    existing = next((found for found in listed.connections if found.provider == provider.id), None)
    fields = {"csrf": csrf_token(), "display": display}
    fields |= {"return_to": return_to} if return_to else {}
    fields |= {"another": "1"} if request.args.get("another") == "1" else {}
    popup_friendly(yes=display == "popup")
    allow_form_action(provider.authorization_endpoint or "", *provider.login_origins, *rt.settings.app_origins)
    return render_template("connect.html", **_page(provider, listed.user, existing, fields, return_to))


def _page(
    provider: Provider, user: User, existing: Connection | None, fields: dict[str, str], return_to: str | None
) -> dict[str, Any]:
    return {
        "user": user,
        "csrf": fields["csrf"],
        "provider": provider,
        "kind": TYPE_NAMES[provider.path],
        "scopes": described_scopes(provider, provider.scope),
        "form": {"action": f"/{provider.path}/{provider.id}/connect", "fields": fields},
        "existing": existing if provider.accounts == "one" else None,
        "host": urlsplit(provider.authorization_endpoint or "").netloc,
        "app_host": urlsplit(return_to).netloc if return_to else None,
        "cancel_to": with_query(return_to, error=AccessDenied.slug) if return_to else "/connections",
    }


def described_scopes(provider: Provider, scope: tuple[str, ...]) -> list[dict[str, str]]:
    """Scopes with the catalogue's words for them."""
    return [{"name": name, "text": provider.scope_texts.get(name, "")} for name in scope]


def _start(provider: Provider) -> Response:
    return_to, display = _parameters()
    browser = browser_secret() or secrets.token_urlsafe(32)
    try:
        url = start_connect(
            runtime(),
            provider.id,
            session=check_form(),
            browser=browser,
            return_to=return_to,
            display=display,
            add_account=request.form.get("another") == "1",
        )
    except Unauthenticated:
        # The session ended while the page was open. After signing in the user comes back to the same page.
        return sign_in_response(display=display, **({"return_to": return_to} if return_to else {}))
    except GatewayError as error:
        if not error.returned:
            raise
        return _return(return_to, display, error=error.slug, provider=provider.id)
    response = see_other(url)
    keep_browser(response, browser)
    return response


# -- callback --------------------------------------------------------------------------------------------------------


def _callback(path: str, slug: str) -> Response:
    ended = finish_connect(
        runtime(), path, slug, request.args.to_dict(flat=False), session=session_secret(), browser=browser_secret()
    )
    provider, return_to, display = ended.provider, ended.return_to, ended.display
    match ended:
        case Connected(connection_id=connection_id, missing_scope=missing):
            return _connected(return_to, display, str(connection_id), provider, missing)
        case Pending():
            popup = "?display=popup" if display == "popup" else ""
            response = see_other(f"/{path}/{provider.id}/confirm{popup}")
            keep_browser(response, browser_secret())
            return response
        case AwaitsPartner(connect_session_id=session_id, confirmation=confirmation):
            result = {"connect_session": str(session_id), "confirmation": confirmation}
            return see_other(with_query(return_to or "/", **result, provider=provider.id))
        case Failed(error=error, left_installed=left):
            if not error.returned:
                return respond(error, left_installed=provider if left else None)
            more = {"left": "1"} if left and not return_to else {}
            return _return(return_to, display, error=error.slug, provider=provider.id, **more)


def _connected(
    return_to: str | None, display: Display, connection_id: str, provider: Provider, missing: Collection[str]
) -> Response:
    log.info("connection.created", provider=provider.id, connection_id=connection_id)
    lacking = {"missing_scope": " ".join(missing)} if missing else {}
    return _return(return_to, display, connection=connection_id, provider=provider.id, **lacking)


def _return(return_to: str | None, display: Display, **result: str) -> Response:
    """Send the browser back, with ids and slugs in the query: never a token, a code or the provider's text."""
    if display == "popup":
        parts = urlsplit(return_to or runtime().settings.public_url)
        return see_other(with_query("/result", to=f"{parts.scheme}://{parts.netloc}", **result))
    return see_other(with_query(return_to or "/connections", **result))


# -- confirm ---------------------------------------------------------------------------------------------------------


def _show_choice(provider: Provider) -> Any:
    rt = runtime()
    if read_session(rt.database, fingerprint(session_secret())) is None:
        return sign_in_response()
    pending = confirm.load_pending(rt, provider, session=session_secret(), browser=browser_secret())
    popup_friendly(yes=pending.display == "popup")
    allow_form_action(*rt.settings.app_origins)
    return render_template(
        "confirm.html",
        user=pending.user,
        csrf=csrf_token(),
        provider=provider,
        kind=TYPE_NAMES[provider.path],
        existing_label=pending.existing_label,
        new_label=pending.account.label,
        form={
            "action": f"/{provider.path}/{provider.id}/confirm",
            "fields": {"csrf": csrf_token(), "pending": str(pending.id)},
        },
        may_keep_both=provider.accounts == "many",
        lost=pending.scopes_removed,
        shared_with=pending.shared_with,
    )


def _choose(provider: Provider) -> Response:
    check_form()
    choice = request.form.get("answer", "")
    if choice not in ("replace", "both", "no") or (choice == "both" and provider.accounts == "one"):
        raise BadRequest("no such answer")
    pending = confirm.load_pending(runtime(), provider, session=session_secret(), browser=browser_secret())
    if request.form.get("pending") != str(pending.id):
        raise StateInvalid("the answer belongs to an earlier question")
    connection = confirm.decide(runtime(), pending, choice)  # type: ignore[arg-type] # checked above
    if connection is None:
        return _return(pending.return_to, pending.display, error=AccessDenied.slug, provider=provider.id)
    missing = provider.missing_scope(connection.scope)
    return _connected(pending.return_to, pending.display, str(connection.id), provider, missing)
