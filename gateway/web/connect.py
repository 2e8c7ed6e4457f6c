"""The pages of a connection: connect, callback, confirm; and the webhooks of providers. Registered once per provider type, below its path."""

import secrets
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import structlog
from flask import Blueprint, Response, make_response, render_template, request

from gateway.catalog import AnyEntry, ApiKeyProvider, Provider
from gateway.catalog.provider import FormField, fill_known, places
from gateway.catalog.witnesses import status
from gateway.connect import confirm, unclaimed
from gateway.connect.api_key import connect_key
from gateway.connect.attempt import (
    EXCHANGE_SECONDS,
    AwaitsPartner,
    Begin,
    Connected,
    Failed,
    Pending,
    by_user,
    finish_connect,
    start_connect,
)
from gateway.connect.form import Fault, FieldsRefused
from gateway.crypto.vault import fingerprint
from gateway.database.queries.connect import Existing, read_session
from gateway.database.queries.connections import list_connections
from gateway.errors import AccessDenied, BadRequest, Frozen, ProviderNotEnabled, StateInvalid, Unauthenticated
from gateway.http import Deadline
from gateway.web.error_responses import respond
from gateway.web.language import described_scopes
from gateway.web.redirects import Flow, note_flow, requested_flow, see_other, with_query
from gateway.web.request_context import runtime
from gateway.web.security_headers import allow_form_action, popup_friendly
from gateway.web.session import browser_secret, check_form, csrf_token, keep_browser, session_secret
from gateway.webhooks import receive

log = structlog.get_logger(__name__)

blueprint = Blueprint("connect", __name__)


def _provider(path: str, provider_id: str) -> AnyEntry:
    provider = runtime().entry(provider_id)
    if provider.path != path:
        raise ProviderNotEnabled("the provider is of another type")
    return provider


# -- connect ---------------------------------------------------------------------------------------------------------


@blueprint.get("/<provider_id>/connect")
def show(path: str, provider_id: str) -> str:
    flow = requested_flow(provider_id)
    return _form(_provider(path, provider_id), flow, {})


def _form(provider: AnyEntry, flow: Flow, faults: Mapping[str, Fault]) -> str:
    rt = runtime()
    listed = list_connections(rt.database, fingerprint(session_secret()))
    if listed is None:
        raise Unauthenticated("no session")
    if provider.id in listed.frozen:
        raise Frozen("no new connections to this provider")
    existing = next((found for found in listed.connections if found.provider == provider.id), None)
    fields = {"csrf": csrf_token(), "display": flow.display}
    fields |= {"return_to": flow.return_to} if flow.return_to else {}
    fields |= {"another": "1"} if request.values.get("another") == "1" else {}
    return consent_page(
        "connect.html",
        provider,
        flow,
        provider.scope,
        user=listed.user,
        csrf=fields["csrf"],
        fields=fields,
        faults=faults,
        existing=Existing(existing.account.label, existing.status, existing.facts) if existing else None,
    )


def consent_page(
    template: str,
    provider: AnyEntry,
    flow: Flow,
    scope: Sequence[str],
    *,
    existing: Existing | None,
    **more: Any,
) -> str:
    """
    A page that asks a user to go on to a provider, or for a key; its form may end there, and at the product.

    `existing`: what is connected now. What was typed is not shown again: it may be a key in the wrong field.
    """
    rt = runtime()
    if isinstance(provider, Provider):
        provider = rt.issuers.complete(provider, Deadline.after(EXCHANGE_SECONDS))
    popup_friendly(yes=flow.display == "popup")
    authorization = provider.authorization_endpoint or ""
    origins = _possible_urls(authorization, provider.fields)
    allow_form_action(*origins, *provider.login_origins, *rt.settings.app_origins)
    choices = {name for name, field in provider.fields.items() if field.options}
    entered = {
        **(existing.facts if existing else {}),
        **{name: request.form[name] for name in choices & request.form.keys()},
    }
    return render_template(
        template,
        provider=provider,
        is_key=isinstance(provider, ApiKeyProvider),
        entered={name: entered.get(name) or "" for name in provider.fields},
        scopes=described_scopes(provider, scope),
        entry_status=None if rt.settings.secure else status(provider),
        host_name=provider.name
        if provider.white_label or origins != [authorization]
        else urlsplit(authorization).netloc,
        app_host=urlsplit(flow.return_to).netloc if flow.return_to else None,
        cancel_to=flow.url(error=AccessDenied.slug) if flow.return_to or flow.display == "popup" else "/connections",
        existing=existing if provider.accounts == "one" else None,
        **more,
    )


@blueprint.post("/<provider_id>/connect")
def start(path: str, provider_id: str) -> Response:
    """303 to the provider; with a key, to the product; the form again, where a field is refused."""
    rt, flow, provider = runtime(), requested_flow(provider_id), _provider(path, provider_id)
    session, browser = check_form(), browser_secret() or secrets.token_urlsafe(32)
    if isinstance(provider, ApiKeyProvider) and read_session(rt.database, fingerprint(session)) is None:
        raise Unauthenticated("no session")  # before the provider is asked
    add_account = request.form.get("another") == "1"
    begin = by_user(
        rt,
        session=session,
        browser=browser,
        return_to=flow.return_to,
        display=flow.display,
        add_account=add_account,
    )
    try:
        return proceed(provider, begin, session=session, browser=browser)
    except FieldsRefused as refused:
        return make_response(_form(provider, flow, refused.faults), 422)


def proceed(provider: AnyEntry, begin: Begin, *, session: str, browser: str) -> Response:
    """The way on after a form: to the provider, or with a key to the end. Raises FieldsRefused."""
    if isinstance(provider, Provider):
        response = see_other(start_connect(runtime(), provider, request.form, begin))
    else:
        response = finished(
            connect_key(runtime(), provider, request.form, begin, session=session, browser=browser), browser
        )
    keep_browser(response, browser)
    return response


def _possible_urls(template: str, fields: Mapping[str, FormField]) -> list[str]:
    """Every URL that `template` may become: with each option of a field, and `*` for what its user writes."""
    name = next(iter(sorted(places(template))), None)
    if name is None:
        return [template]
    choices = (fields[name].options if name in fields else None) or ["*"]
    return [url for choice in choices for url in _possible_urls(fill_known(template, {name: choice}), fields)]


# -- callback --------------------------------------------------------------------------------------------------------


@blueprint.get("/<slug>/callback")
def callback(path: str, slug: str) -> Response:
    """The redirect URI (RFC 6749 section 4.1.2)."""
    if request.method == "HEAD":
        return Response(status=204)  # a HEAD request must not use the state up (RFC 9110 section 9.2.1)
    if "state" not in request.args and request.args.get("code"):
        return _keep_install(path, slug)
    ended = finish_connect(
        runtime(), path, slug, request.args.to_dict(flat=False), session=session_secret(), browser=browser_secret()
    )
    return finished(ended, browser_secret())


def finished(ended: Connected | Pending | AwaitsPartner | Failed, browser: str) -> Response:
    provider = ended.provider
    flow = note_flow(Flow(provider.id, ended.return_to, ended.display, is_started=True))
    match ended:
        case Connected(connection_id=connection_id, missing_scope=missing):
            return _connected(flow, str(connection_id), missing)
        case Pending():
            popup = "?display=popup" if flow.display == "popup" else ""
            response = see_other(f"/{provider.path}/{provider.public_id}/confirm{popup}")
            keep_browser(response, browser)
            return response
        case AwaitsPartner(connect_session_id=session_id, confirmation=confirmation):
            result = {"connect_session": str(session_id), "confirmation": confirmation}
            return see_other(with_query(flow.return_to or "/", **result, provider=provider.id))
        case Failed(error=error, left_installed=left):
            return respond(error, left_installed=provider if left else None)


def _keep_install(path: str, slug: str) -> Response:
    """An installation that was started at the provider: its user claims it on the next page."""
    browser = browser_secret() or secrets.token_urlsafe(32)
    parameters = request.args.to_dict(flat=False)
    provider = unclaimed.keep_install(runtime(), path, slug, parameters, browser=browser)
    response = see_other(f"/{path}/{provider.public_id}/claim")
    keep_browser(response, browser, unclaimed.KEPT_SECONDS)
    return response


@blueprint.get("/<provider_id>/claim")
def show_claim(path: str, provider_id: str) -> str:
    provider = _provider(path, provider_id)
    claim = unclaimed.load_claim(runtime(), session=session_secret(), browser=browser_secret())
    listed = list_connections(runtime().database, fingerprint(session_secret()))
    return render_template(
        "claim.html",
        provider=provider,
        user=listed.user if listed else None,
        csrf=csrf_token(),
        fields={"csrf": csrf_token(), "install": str(claim.id)},
        label=claim.account.label,
        kind=provider.deviation.account_kind(claim.grant.facts),
        scopes=described_scopes(provider, claim.grant.scope),
    )


@blueprint.post("/<provider_id>/claim")
def claim(path: str, provider_id: str) -> Response:
    provider = _provider(path, provider_id)
    session = check_form()
    install_id = request.form.get("install", "")
    provider, made = unclaimed.claim_install(
        runtime(), session=session, browser=browser_secret(), install_id=install_id
    )
    if made is None:
        return see_other(f"/{path}/{provider.public_id}/confirm")
    return _connected(note_flow(Flow(provider.id, None, "page")), str(made.id), provider.missing_scope(made.scope))


def _connected(flow: Flow, connection_id: str, missing: Collection[str]) -> Response:
    log.info("connection.created", provider=flow.provider, connection_id=connection_id)
    lacking = {"missing_scope": " ".join(missing)} if missing else {}
    return see_other(flow.url(connection=connection_id, **lacking))


# -- confirm ---------------------------------------------------------------------------------------------------------


@blueprint.get("/<provider_id>/confirm")
def show_choice(path: str, provider_id: str) -> str:
    """The question when another account came back."""
    rt, provider = runtime(), _provider(path, provider_id)
    requested_flow(provider.id)
    if read_session(rt.database, fingerprint(session_secret())) is None:
        raise Unauthenticated("no session")
    pending = confirm.load_pending(rt, provider, session=session_secret(), browser=browser_secret())
    popup_friendly(yes=pending.display == "popup")
    allow_form_action(*rt.settings.app_origins)
    return render_template(
        "confirm.html",
        user=pending.user,
        csrf=csrf_token(),
        provider=provider,
        existing_label=pending.existing_label,
        new_label=pending.account.label,
        fields={"csrf": csrf_token(), "pending": str(pending.id)},
        is_key=isinstance(provider, ApiKeyProvider),
        may_keep_both=provider.accounts == "many",
        lost=described_scopes(provider, pending.scopes_removed),
        shared_with=pending.shared_with,
    )


@blueprint.post("/<provider_id>/confirm")
def choose(path: str, provider_id: str) -> Response:
    provider = _provider(path, provider_id)
    check_form()
    choice = request.form.get("answer", "")
    if choice not in ("replace", "both", "no") or (choice == "both" and provider.accounts == "one"):
        raise BadRequest("no such answer")
    pending = confirm.load_pending(runtime(), provider, session=session_secret(), browser=browser_secret())
    flow = note_flow(Flow(provider.id, pending.return_to, pending.display, is_started=True))
    if request.form.get("pending") != str(pending.id):
        raise StateInvalid("the answer belongs to an earlier question")
    connection = confirm.decide(runtime(), pending, choice)  # type: ignore[arg-type] # checked above
    if connection is None:
        return see_other(flow.url(error=AccessDenied.slug))
    return _connected(flow, str(connection.id), provider.missing_scope(connection.scope))


# -- webhooks --------------------------------------------------------------------------------------------------------


@blueprint.post("/webhooks")
def incoming(path: str) -> Response:
    """2xx once the event is stored, or where there is nothing to store: the provider repeats everything else."""
    request.max_content_length = receive.LARGEST
    receive.receive(runtime(), path, request.headers.get, request.get_data(cache=False))
    return Response(status=200)
