"""
The user's pages: connections, problems, the end of a pop-up, the short link, and the helper script.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from flask import Blueprint, Response, current_app, render_template, request

from gateway.catalog import TYPES, Provider
from gateway.connections.disconnect import disconnect
from gateway.crypto.vault import fingerprint
from gateway.database.queries.connections import Listing, list_connections
from gateway.database.queries.links import end_consent
from gateway.errors import GatewayError, NotFound, every_problem
from gateway.models import Connection
from gateway.services import Runtime
from gateway.web.connect import TYPE_NAMES
from gateway.web.error_responses import problem_page
from gateway.web.redirects import see_other, with_query
from gateway.web.request_context import runtime
from gateway.web.security_headers import popup_friendly
from gateway.web.session import check_form, csrf_token, session_secret, sign_in_response

blueprint = Blueprint("pages", __name__)

STATUS_TEXTS = {
    "active": "Connected",
    "unverified": "Being verified",
    "suspended": "Suspended at the provider",
    "held": "On hold",
    "pending_confirmation": "Waiting for confirmation",
    "needs_reauthorization": "Reconnect needed",
}
REASON_TEXTS = {
    "grant_refused": "{name} no longer accepts this access: it was withdrawn there, or it expired.",
    "refused_for_long": "{name} has refused this access for a week.",
    "refresh_token_expired": "The access was not used for so long that it expired.",
    "access_token_expired": "The access expired, and {name} does not allow it to be renewed without you.",
    "no_refresh_token": "The access expired, and {name} does not allow it to be renewed without you.",
    "client_replaced": "This service has a new registration at {name}, so you have to connect again once.",
    "uninstalled": "The app was uninstalled from this account.",
    "another_account": "The stored access belongs to another account.",
    "not_confirmed": "{name} did not confirm the tokens that were written into this connection.",
    "owner_wrote_tokens": "Tokens were written into this connection. They are used once {name} has confirmed them.",
    "imported": "The tokens were imported. They are used once {name} has confirmed them.",
    "account_not_active": "{name} says that the account is not active. The connection works again when the account does.",
    "provider_incident": "{name} refuses the access of many users at the moment. You need to do nothing.",
    "retried": "The connection is being tried again.",
}
_DISCONNECTED = {
    "done": "The stored access is erased and revoked at {name}.",
    "queued": "The stored access is erased. {name} could not be reached to revoke it; we keep trying.",
    "unsupported": "The stored access is erased. This page cannot revoke it at {name}: remove the app there too.",
}
_UNINSTALLED = {
    "done": "The stored access is erased, and the app is uninstalled at {name}.",
    "failed": "The stored access is erased. The app could not be uninstalled at {name}: remove it there.",
}
PROBLEMS: dict[str, type[GatewayError]] = {kind.slug: kind for kind in every_problem()}


@blueprint.get("/")
def front() -> Response:
    """The start page is the list of connections."""
    return see_other("/connections")


@blueprint.get("/connect/<provider_id>")
def short_link(provider_id: str) -> Response:
    """The link to put anywhere; it keeps its query."""
    provider = runtime().provider(provider_id)
    query = request.query_string.decode("ascii", "ignore")
    return see_other(f"/{provider.path}/{provider.id}/connect" + (f"?{query}" if query else ""))


# -- connections -----------------------------------------------------------------------------------------------------


@blueprint.get("/connections")
def connections() -> Any:
    """The user's connections: status, account, reconnect, disconnect, connect more."""
    rt = runtime()
    listed = list_connections(rt.database, fingerprint(session_secret()))
    if listed is None:
        return sign_in_response()
    rows = listed.connections
    connected = {row.provider for row in rows}
    groups = [
        {
            "kind": TYPE_NAMES[path],
            "connections": [_item(rt, row, listed) for row in rows if row.type == number],
        }
        for number, path in TYPES.items()
    ]
    offers = [
        {
            "id": each.id,
            "name": each.name,
            "kind": TYPE_NAMES[each.path],
            # For a second account the link says so; otherwise the user would be asked which one to keep.
            "connect_path": f"/connect/{each.id}" + ("?another=1" if each.id in connected else ""),
        }
        for each in rt.enabled()
        if each.id not in connected or each.accounts == "many"
    ]
    return render_template(
        "connections.html",
        user=listed.user,
        groups=groups,
        offers=offers,
        notice=_notice(rt, rows),
        csrf=csrf_token(),
    )


def _item(rt: Runtime, row: Connection, listed: Listing) -> dict[str, Any]:
    provider, partners = rt.catalog.get(row.provider), listed.sharing[row.id]
    name = provider.name if provider else row.provider
    return {
        "id": row.id,
        "provider_id": row.provider,
        "provider_name": name,
        "account_label": row.account.label,
        "status": row.status,
        "status_text": STATUS_TEXTS[row.status],
        "reason": REASON_TEXTS.get(row.reason or "", "").format(name=name),
        "ends_at": None if row.refreshable or row.status != "active" else row.expires_at,
        "scope": row.scope,
        "missing_scope": provider.missing_scope(row.scope) if provider else (),
        "ends_with": listed.ends_with[row.id],
        "connected_at": row.created_at,
        "expires_at": row.expires_at,
        "connect_path": f"/connect/{row.provider}",
        "revocable": provider is not None and bool(provider.revocation_endpoint or provider.missing_endpoints()),
        "disconnect_path": f"/connections/{row.id}/disconnect",
        "uninstall": _uninstall_option(provider, row),
        "partners": partners,
        "made_for": partners[0].name if len(partners) == 1 and partners[0].made else None,
        "stop_path": f"/connections/{row.id}/stop-sharing",
    }


def _uninstall_option(provider: Provider | None, row: Connection) -> dict[str, str] | None:
    """The option to uninstall our app at the provider; None where the provider or the granted scope does not allow it."""
    deviation = provider.uninstaller if provider else None
    if provider is None or deviation is None or deviation.uninstall_scope not in row.scope:
        return None
    return {"label": f"Also uninstall the app at {provider.name}", "warning": deviation.uninstall_warning}


def _notice(rt: Runtime, rows: Sequence[Connection]) -> dict[str, str] | None:
    """The result of the last action, by the slugs and ids in the query. No text of the query is shown."""
    provider = rt.catalog.get(request.args.get("provider", ""))
    name = provider.name if provider else "The service"
    problem = PROBLEMS.get(request.args.get("error", ""))
    if problem is not None:
        left = f" {name} may still list this app as installed; you can remove it there."
        text = f"{problem.meaning} {problem.next_step}" + (left if request.args.get("left") == "1" else "")
        return {"tone": "bad", "title": problem.title, "text": text}
    if request.args.get("disconnected") in _DISCONNECTED:
        text = _DISCONNECTED[request.args["disconnected"]]
        text = _UNINSTALLED.get(request.args.get("uninstalled", ""), text).format(name=name)
        return {"tone": "info", "title": f"{name} is disconnected", "text": text}
    if request.args.get("sharing") == "ended":
        return {"tone": "info", "title": f"{name} is no longer shared", "text": "It stays connected for you."}
    if provider and any(str(row.id) == request.args.get("connection") and row.provider == provider.id for row in rows):
        return {"tone": "good", "title": f"{name} is connected", "text": "It is ready to use."}
    return None


@blueprint.post("/connections/<uuid:connection_id>/disconnect")
def disconnect_form(connection_id: uuid.UUID) -> Response:
    """Erase one connection and revoke its grant; with `uninstall=1` also uninstall our app."""
    session = check_form()
    uninstall = request.form.get("uninstall") == "1"
    receipt = disconnect(runtime(), connection_id, session=session, uninstall=uninstall)
    uninstalled = {"uninstalled": receipt.uninstalled} if receipt.uninstalled else {}
    result = {"disconnected": receipt.revocation, "provider": receipt.erased.provider}
    return see_other(with_query("/connections", **result, **uninstalled))


@blueprint.post("/connections/<uuid:connection_id>/stop-sharing")
def stop_sharing(connection_id: uuid.UUID) -> Response:
    """End one partner's access to a connection; the connection stays."""
    session = check_form()
    partner_id = _uuid_or_empty(request.form.get("partner", ""))
    ended = partner_id and end_consent(
        runtime().database,
        session_hash=fingerprint(session),
        connection_id=connection_id,
        partner_id=uuid.UUID(partner_id),
    )
    if not ended:
        raise NotFound("no such connection of this user, or not shared with that partner")
    return see_other(with_query("/connections", sharing="ended", provider=ended.provider))


# -- the rest --------------------------------------------------------------------------------------------------------


@blueprint.get("/result")
def result() -> Any:
    """The end of a pop-up: sends the result to the opener, when that is one of the product's pages, and closes."""
    rt, args = runtime(), request.args
    popup_friendly(yes=True)
    problem = PROBLEMS.get(args.get("error", ""))
    provider = rt.catalog.get(args.get("provider", ""))
    target = args.get("to", "")
    message = {
        "target_origin": target if target in (*rt.settings.app_origins, rt.settings.public_url) else "",
        "connection": _uuid_or_empty(args.get("connection", "")),
        "provider": provider.id if provider else "",
        "error": problem.slug if problem else "",
    }
    if message["connection"] and problem is None:
        outcome, title = "connected", f"{provider.name if provider else 'The service'} is connected"
        text = "You can continue in the page you came from."
    else:
        problem = problem or GatewayError
        outcome, title, text = "failed", problem.title, problem.next_step
    return render_template("result.html", outcome=outcome, title=title, text=text, message=message)


def _uuid_or_empty(value: str) -> str:
    try:
        return str(uuid.UUID(value))
    except ValueError:
        return ""


@blueprint.get("/problems/<slug>")
def problem(slug: str) -> Any:
    """What an error means and who can fix it: the `type` URI of RFC 9457."""
    kind = PROBLEMS.get(slug)
    if kind is None:
        raise NotFound("no such problem")
    return problem_page(kind(), explained=True)


@blueprint.get("/gateway.js")
def helper() -> Response:
    """The front-end helper, for the product's pages on their own origins."""
    response = current_app.send_static_file("gateway.js")
    response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    return response
