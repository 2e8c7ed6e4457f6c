"""
The user's pages: connections, problems, the end of a pop-up, the short link, and the helper script.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from flask import Blueprint, current_app, render_template, request
from werkzeug.wrappers import Response

from gateway.catalog import TYPES, Provider
from gateway.connections import disconnect as service
from gateway.crypto.vault import fingerprint
from gateway.database import Sharing
from gateway.errors import GatewayError, NotFound, every_problem
from gateway.models import Connection
from gateway.services import Runtime
from gateway.web.connect import KINDS
from gateway.web.error_responses import problem_page
from gateway.web.redirects import see_other, with_query
from gateway.web.security_headers import popup_friendly
from gateway.web.session import csrf_token, form, judge_form, runtime, session_secret, sign_in_answer

blueprint = Blueprint("pages", __name__)

STATUS_TEXTS = {
    "active": "Connected",
    "pending_confirmation": "Waiting to be confirmed",
    "needs_reauthorization": "Connect again",
}
_DISCONNECTED = {
    "done": "What was stored is erased, and {name} has withdrawn the access.",
    "queued": "What was stored is erased. {name} could not be told yet; it will be tried again.",
    "unsupported": "What was stored is erased. {name} cannot be told from here: remove the app there too, if you want it gone.",
}
_UNINSTALLED = {
    "done": "What was stored is erased, and the app is uninstalled at {name}.",
    "failed": "What was stored is erased. The app could not be uninstalled at {name}: remove it there.",
}
PROBLEMS: dict[str, type[GatewayError]] = {kind.slug: kind for kind in every_problem()}


@blueprint.get("/")
def front() -> Response:
    """There is one page to come home to."""
    return see_other("/connections")


@blueprint.get("/connect/<provider_id>")
def short_link(provider_id: str) -> Response:
    """The link to put anywhere; the query goes along untouched."""
    provider = runtime().provider(provider_id)
    query = request.query_string.decode("ascii", "ignore")
    return see_other(f"/{provider.path}/{provider.id}/connect" + (f"?{query}" if query else ""))


@blueprint.get("/connections")
def connections() -> Any:
    """The user's connections: status, account, reconnect, disconnect, connect more."""
    rt = runtime()
    listed = rt.store.connections(fingerprint(session_secret()))
    if listed is None:
        return sign_in_answer()
    user, rows = listed.user, listed.connections
    held = {row.provider for row in rows}
    groups = [
        {
            "kind": KINDS[path],
            "connections": [_shown(rt, row, listed.sharing[row.id]) for row in rows if row.type == number],
        }
        for number, path in TYPES.items()
    ]
    offers = [
        {"id": each.id, "name": each.name, "kind": KINDS[each.path], "connect_path": _offer_path(each, held)}
        for each in rt.enabled()
        if each.id not in held or each.accounts == "many"
    ]
    return render_template(
        "connections.html", user=user, groups=groups, offers=offers, notice=_notice(rt, rows), csrf=csrf_token()
    )


def _offer_path(provider: Provider, held: set[str]) -> str:
    """Where there is one already, the link says that one more is wanted, so that nobody is asked which to keep."""
    return f"/connect/{provider.id}" + ("?another=1" if provider.id in held else "")


def _shown(rt: Runtime, row: Connection, partners: Sequence[Sharing]) -> dict[str, Any]:
    provider = rt.catalog.get(row.provider)
    return {
        "id": row.id,
        "provider_id": row.provider,
        "provider_name": provider.name if provider else row.provider,
        "type": row.type,
        "account_label": row.account.label,
        "status": row.status,
        "status_text": STATUS_TEXTS[row.status],
        "scope": row.scope,
        "connected_at": row.created_at,
        "expires_at": row.expires_at,
        "connect_path": f"/connect/{row.provider}",
        "revocable": provider is not None and bool(provider.revocation_endpoint or provider.missing_endpoints()),
        "disconnect_path": f"/connections/{row.id}/disconnect",
        "uninstall": _uninstall_text(provider, row),
        "partners": partners,
        "made_for": partners[0].name if len(partners) == 1 and partners[0].made else None,
        "stop_path": f"/connections/{row.id}/stop-sharing",
    }


def _uninstall_text(provider: Provider | None, row: Connection) -> dict[str, str] | None:
    """The offer to remove the app at the provider too; None where that cannot be done, or would be refused."""
    quirk = provider.uninstalling if provider else None
    if provider is None or quirk is None or quirk.uninstall_scope not in row.scope:
        return None
    return {"label": f"Also uninstall the app at {provider.name}", "warning": quirk.uninstall_warning}


def _notice(rt: Runtime, rows: Sequence[Connection]) -> dict[str, str] | None:
    """What just happened, by the slugs and ids in the query: nothing of the query itself is shown."""
    provider = rt.catalog.get(request.args.get("provider", ""))
    name = provider.name if provider else "The service"
    problem = PROBLEMS.get(request.args.get("error", ""))
    if problem is not None:
        left = f" {name} may still list this app as installed; you can remove it there."
        text = f"{problem.meaning} {problem.way_on}" + (left if request.args.get("left") == "1" else "")
        return {"tone": "bad", "title": problem.title, "text": text}
    if request.args.get("disconnected") in _DISCONNECTED:
        text = _DISCONNECTED[request.args["disconnected"]].format(name=name)
        text = _UNINSTALLED.get(request.args.get("uninstalled", ""), text).format(name=name)
        return {"tone": "info", "title": f"{name} is disconnected", "text": text}
    if request.args.get("sharing") == "ended":
        return {"tone": "info", "title": f"{name} is no longer shared", "text": "It stays connected for you."}
    if provider and any(str(row.id) == request.args.get("connection") and row.provider == provider.id for row in rows):
        return {"tone": "good", "title": f"{name} is connected", "text": "It is ready to be used."}
    return None


@blueprint.post("/connections/<uuid:connection_id>/disconnect")
def disconnect(connection_id: uuid.UUID) -> Response:
    """Erases one connection and gives its grant back; with `uninstall=1` our app there goes too."""
    session = judge_form()
    uninstall = form().get("uninstall") == "1"
    receipt = service.disconnect(runtime(), connection_id, session=session, uninstall=uninstall)
    told = {"uninstalled": receipt.uninstalled} if receipt.uninstalled else {}
    provider = receipt.erased.provider
    return see_other(with_query("/connections", disconnected=receipt.revocation, provider=provider, **told))


@blueprint.post("/connections/<uuid:connection_id>/stop-sharing")
def stop_sharing(connection_id: uuid.UUID) -> Response:
    """Takes one connection away from one partner; the connection stays."""
    session = judge_form()
    partner_id = _uuid_or_nothing(form().get("partner", ""))
    ended = partner_id and runtime().store.end_consent(
        session_hash=fingerprint(session), connection_id=connection_id, partner_id=uuid.UUID(partner_id)
    )
    if not ended:
        raise NotFound("no such connection of this user, or not shared with that partner")
    return see_other(with_query("/connections", sharing="ended", provider=ended.provider))


@blueprint.get("/result")
def result() -> Any:
    """The end of a pop-up: tells the opener, if it is one of the product's own, and closes."""
    rt = runtime()
    popup_friendly(yes=True)
    problem = PROBLEMS.get(request.args.get("error", ""))
    provider = rt.catalog.get(request.args.get("provider", ""))
    target = request.args.get("to", "")
    message = {
        "target_origin": target if target in (*rt.settings.app_origins, rt.settings.public_url) else "",
        "connection": _uuid_or_nothing(request.args.get("connection", "")),
        "provider": provider.id if provider else "",
        "error": problem.slug if problem else "",
    }
    name = provider.name if provider else "The service"
    good = bool(message["connection"]) and problem is None
    title = f"{name} is connected" if good else (problem or GatewayError).title
    text = "You can go on where you came from." if good else (problem or GatewayError).way_on
    return render_template(
        "result.html", outcome="connected" if good else "failed", title=title, text=text, message=message
    )


def _uuid_or_nothing(value: str) -> str:
    try:
        return str(uuid.UUID(value))
    except ValueError:
        return ""


@blueprint.get("/problems/<slug>")
def explained(slug: str) -> Any:
    """What an error means and who can mend it: the `type` URI of RFC 9457, made from the class."""
    problem = PROBLEMS.get(slug)
    if problem is None:
        raise NotFound("no such problem")
    return problem_page(problem(), explained=True)


@blueprint.get("/gateway.js")
def helper() -> Response:
    """The front-end helper, for the product's own pages on their own origins."""
    answer = current_app.send_static_file("gateway.js")
    answer.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    return answer
