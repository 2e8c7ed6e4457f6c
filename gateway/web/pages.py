"""The user's pages: connections, problems, the end of a pop-up, the short link, and the helper script."""

import uuid
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, Response, current_app, render_template, request
from werkzeug.wrappers import Response as AnyResponse

from gateway.brand import LOGO_POLICY
from gateway.catalog import TYPES, ApiKeyProvider, Provider
from gateway.connections.disconnect import disconnect
from gateway.crypto.vault import fingerprint
from gateway.database.queries.connect import end_consent
from gateway.database.queries.connections import Listing, list_connections
from gateway.errors import GatewayError, NotFound, Unauthenticated, Unexpected, every_problem
from gateway.models import Connection
from gateway.services import Runtime
from gateway.settings import Settings
from gateway.web.error_responses import problem_page
from gateway.web.language import described_scopes, reason_text, text
from gateway.web.redirects import Flow, note_flow, public_id, requested_flow, see_other, with_query
from gateway.web.request_context import runtime
from gateway.web.security_headers import popup_friendly
from gateway.web.session import check_form, csrf_token, is_notice_signed, session_secret, sign_notice

blueprint = Blueprint("pages", __name__)

PROBLEMS: dict[str, type[GatewayError]] = {kind.slug: kind for kind in every_problem()}


@blueprint.get("/")
def front() -> Response:
    return see_other("/connections")


@blueprint.get("/connect/<provider_id>")
def short_link(provider_id: str) -> Response:
    """The link to put anywhere; it keeps its query."""
    requested_flow(provider_id)
    provider = runtime().entry(provider_id)
    query = request.query_string.decode("ascii", "ignore")
    return see_other(f"/{provider.path}/{provider.public_id}/connect" + (f"?{query}" if query else ""))


# -- connections -----------------------------------------------------------------------------------------------------


@blueprint.get("/connections")
def connections() -> str:
    """The user's connections: status, account, reconnect, disconnect, connect more."""
    rt = runtime()
    listed = list_connections(rt.database, fingerprint(session_secret()))
    if listed is None:
        raise Unauthenticated("no session")
    rows = listed.connections
    connected = {row.provider for row in rows}
    groups = {path: [_item(rt, row, listed) for row in rows if row.type == number] for number, path in TYPES.items()}
    offers = [
        # For a second account the link says so; otherwise the user would be asked which one to keep.
        (each, f"/connect/{each.public_id}" + ("?another=1" if each.id in connected else ""))
        for each in rt.enabled.values()
        if each.id not in connected or each.accounts == "many"
    ]
    return render_template(
        "connections.html",
        user=listed.user,
        groups={kind: items for kind, items in groups.items() if items},
        offers=offers,
        notice=_notice(rt, rows),
        csrf=csrf_token(),
    )


def _item(rt: Runtime, row: Connection, listed: Listing) -> dict[str, Any]:
    provider = rt.catalog.entries.get(row.provider)
    name = provider.name if provider else row.provider
    return {
        "row": row,
        "name": name,
        "public_id": public_id(row.provider),
        "reason": reason_text(row.reason, provider=name),
        "ends_at": None if row.refreshable or row.status != "active" else row.expires_at,
        "scopes": described_scopes(provider, row.scope),
        "facts": {**row.facts, **(provider.api(row.facts)[1] if provider else {})},
        "missing": described_scopes(provider, provider.missing_scope(row.scope) if provider else ()),
        "revocable": isinstance(provider, Provider)
        and bool(provider.revocation_endpoint or provider.missing_endpoints()),
        # Where the provider and the granted scope allow to uninstall our app there.
        "uninstaller": provider.deviation if provider and provider.deviation.uninstall_scope in row.scope else None,
        "is_key": isinstance(provider, ApiKeyProvider),
        "ends_with": listed.ends_with[row.id],
        "partners": listed.sharing[row.id],
    }


def _notice(rt: Runtime, rows: Sequence[Connection]) -> tuple[str, str, str] | None:
    """The result of the last action, as tone, title and text. No text of the query is shown."""
    args, provider = request.args, rt.catalog.named.get(request.args.get("provider", ""))
    name = provider.name if provider else text("notice.service")
    slug = args.get("error", "")
    if slug in PROBLEMS:
        left = text("notice.left", provider=name) if args.get("left") == "1" else ""
        return "bad", text(f"problem.{slug}.title"), text(f"problem.{slug}.text") + " " + left
    if is_notice_signed(args) and "sharing" in args:
        return "info", text("notice.sharing_ended", provider=name), text("notice.sharing_ended_text")
    if is_notice_signed(args):
        uninstalled = args.get("uninstalled") in ("done", "failed")
        key = f"uninstalled_{args['uninstalled']}" if uninstalled else f"revocation_{args['disconnected']}"
        key = "revocation_key" if key == "revocation_unsupported" and isinstance(provider, ApiKeyProvider) else key
        return "info", text("notice.disconnected", provider=name), text(f"notice.{key}", provider=name)
    if provider and any(str(row.id) == args.get("connection") and row.provider == provider.id for row in rows):
        return "good", text("notice.connected", provider=name), text("notice.connected_text")
    return None


def _see_result(**result: str) -> Response:
    response = see_other(with_query("/connections", **result))
    sign_notice(response, result)
    return response


@blueprint.post("/connections/<uuid:connection_id>/disconnect")
def disconnect_form(connection_id: uuid.UUID) -> Response:
    """Erase one connection and revoke its grant; with `uninstall=1` also uninstall our app."""
    session = check_form()
    uninstall = request.form.get("uninstall") == "1"
    receipt = disconnect(runtime(), connection_id, session=session, uninstall=uninstall)
    uninstalled = {"uninstalled": receipt.uninstalled} if receipt.uninstalled else {}
    result = {"disconnected": receipt.revocation, "provider": public_id(receipt.erased.provider)}
    return _see_result(**result, **uninstalled)


@blueprint.post("/connections/<uuid:connection_id>/stop-sharing")
def stop_sharing(connection_id: uuid.UUID) -> Response:
    session = check_form()
    partner_id = request.form.get("partner", type=uuid.UUID)
    ended = partner_id and end_consent(
        runtime().database,
        session_hash=fingerprint(session),
        connection_id=connection_id,
        partner_id=partner_id,
    )
    if not ended:
        raise NotFound("no such connection of this user, or not shared with that partner")
    return _see_result(sharing="ended", provider=public_id(ended.provider))


# -- the rest --------------------------------------------------------------------------------------------------------


@blueprint.get("/result")
def result() -> Any:
    """The end of a pop-up: sends the result to the opener, when that is one of the product's pages, and closes."""
    rt, args = runtime(), request.args
    provider, connection = rt.catalog.named.get(args.get("provider", "")), args.get("connection", type=uuid.UUID)
    opener = args.get("to", "")
    opener = opener if opener in (*rt.settings.app_origins, rt.settings.public_url) else ""
    slug = args.get("error", "")
    if slug in PROBLEMS or not connection:
        note_flow(Flow(provider.id if provider else "", opener or None, "popup"))
        page = problem_page(PROBLEMS.get(slug, Unexpected)("the end of a pop-up"), opener=opener)
        page.status_code = 200  # this page works; what failed ended before it
        return page
    popup_friendly(yes=True)
    missing = [name for name in args.get("missing_scope", "").split() if provider and name in provider.required]
    return render_template(
        "result.html",
        title=text("notice.connected", provider=provider.name if provider else text("notice.service")),
        message={
            "outcome": "connected",
            "target_origin": opener,
            "connection": connection,
            "provider": provider.id if provider else "",
            "missing_scope": " ".join(missing),
        },
    )


@blueprint.get("/problems/<slug>")
def problem(slug: str) -> Any:
    """What an error means and who can fix it: the `type` URI of RFC 9457."""
    kind = PROBLEMS.get(slug)
    if kind is None:
        raise NotFound("no such problem")
    return render_template("explained.html", problem=kind, key=f"problem.{slug}")


@blueprint.get("/<any('gateway.js', 'gateway.d.ts'):name>")
def helper(name: str) -> Response:
    """The front-end helper, for the product's pages on their own origins, and its types."""
    response = current_app.send_static_file(name)
    if name.endswith(".ts"):
        response.mimetype = "text/plain"
    response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    return response


# -- whose product it is ---------------------------------------------------------------------------------------------


def brand(settings: Settings) -> dict[str, str]:
    """The product's name, logo, colour and addresses, for every page; each empty where it is not set."""
    logo, home = settings.brand_logo, settings.home_url or ""
    return {
        "name": settings.brand_name,
        "product": settings.brand_name or urlsplit(home).netloc,
        "logo": (logo.url or "/brand/logo") if logo else "",
        "color": settings.brand_color,
        "support": settings.brand_support_url or "",
        "home": home,
    }


@blueprint.get("/brand/logo")
def brand_logo() -> AnyResponse:
    logo = runtime().settings.brand_logo
    response = _file(logo.data if logo else b"", logo.type if logo else "")
    response.headers.add("Content-Security-Policy", LOGO_POLICY)
    return response


@blueprint.get("/brand.css")
def brand_stylesheet() -> AnyResponse:
    """The operator's colour; gateway.css makes accents of it that can be read."""
    color = runtime().settings.brand_color
    return _file(f":root {{ --brand: {color}; }}".encode() if color else b"", "text/css")


def _file(data: bytes, mimetype: str) -> AnyResponse:
    if not data:
        raise NotFound("not set by the operator")
    response = Response(data, mimetype=mimetype)
    response.add_etag()
    return response.make_conditional(request)
