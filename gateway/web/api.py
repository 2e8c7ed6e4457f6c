"""
`/v1`: JSON for programs. Here for a user's own connections, by their Supabase access token.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, get_args

from flask import Blueprint, Flask, Response, jsonify, request

from gateway import connect
from gateway.errors import BadRequest, Forbidden, NotFound, Unauthenticated
from gateway.identity import Proof
from gateway.models import Connection, Status
from gateway.refresh import fresh_grant
from gateway.web.session import runtime

blueprint = Blueprint("api", __name__, url_prefix="/v1")


@blueprint.get("/connections")
def connections() -> Any:
    """The caller's own connections; `provider` narrows them."""
    rt = runtime()
    proof = _proof()
    rows = rt.store.user_connections(proof.user.id)
    items, next_cursor = _page([row for row in rows if _wanted(row)])
    return jsonify(items=[_connection(row) for row in items], next_cursor=next_cursor)


def _wanted(row: Connection) -> bool:
    asked = request.args
    if asked.get("status", row.status) not in get_args(Status) or asked.get("type", "1") not in ("1", "2", "3"):
        raise BadRequest("no such type or status")
    return (
        asked.get("provider", row.provider) == row.provider
        and asked.get("type", str(row.type)) == str(row.type)
        and asked.get("status", row.status) == row.status
        and asked.get("user_id", str(row.user_id)) == str(row.user_id)
    )


def _page(rows: Sequence[Connection]) -> tuple[Sequence[Connection], str | None]:
    """At most `limit` (1 to 100) of what follows `cursor`, which is the last id of the page before."""
    limit, cursor = request.args.get("limit", "100"), request.args.get("cursor")
    if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:4]) <= 100:  # noqa: PLR2004
        raise BadRequest("limit is a whole number from 1 to 100")
    if cursor is not None:
        known = [str(row.id) for row in rows]
        if cursor not in known:
            raise BadRequest("no such cursor")
        rows = rows[known.index(cursor) + 1 :]
    page = rows[: int(limit)]
    return page, str(page[-1].id) if len(rows) > len(page) else None


@blueprint.get("/connections/<uuid:connection_id>")
def connection(connection_id: uuid.UUID) -> Any:
    """One of the caller's own; another's is like none."""
    rt = runtime()
    rows = rt.store.user_connections(_proof().user.id)
    found = next((row for row in rows if row.id == connection_id), None)
    if found is None:
        raise NotFound("no such connection of this caller")
    return jsonify(_connection(found))


@blueprint.delete("/connections/<uuid:connection_id>")
def disconnected(connection_id: uuid.UUID) -> Any:
    """Erases one of the caller's own and gives its grant back; with `uninstall=1` our app there goes too."""
    rt = runtime()
    uninstall = request.args.get("uninstall", "0")
    if uninstall not in ("0", "1"):
        raise BadRequest("uninstall is 1 or 0")
    receipt = connect.disconnect(rt, connection_id, user_id=_proof().user.id, uninstall=uninstall == "1")
    erased = receipt.erased
    return jsonify(
        connection_id=str(erased.connection_id),
        provider=erased.provider,
        account={"id": erased.account.id, "label": erased.account.label},
        erased_at=erased.erased_at.isoformat(),
        revocation=receipt.revocation,
        event_id=str(erased.event_id),
        **({"uninstall": receipt.uninstalled} if receipt.uninstalled else {}),
    )


@blueprint.get("/connections/<uuid:connection_id>/token")
def token(connection_id: uuid.UUID) -> Any:
    """A token that is good for `min_seconds` (0 to 3600, 60 unless told), of one of the caller's own connections."""
    return _fresh(connection_id, min_seconds=_min_seconds(), force=False)


@blueprint.post("/connections/<uuid:connection_id>/refresh")
def refreshed(connection_id: uuid.UUID) -> Any:
    """A new token, whatever stands."""
    return _fresh(connection_id, min_seconds=0, force=True)


def _fresh(connection_id: uuid.UUID, *, min_seconds: int, force: bool) -> Any:
    rt = runtime()
    proof = _proof()
    if not rt.settings.owner_tokens:
        rt.store.user_connections(proof.user.id)  # whoever is shut out is told that, here as anywhere
        raise Forbidden("GATEWAY_OWNER_TOKENS is off")
    fresh = fresh_grant(rt, connection_id, user_id=proof.user.id, min_seconds=min_seconds, force=force)
    provider = rt.catalog.get(fresh.provider)
    return jsonify(
        connection_id=str(fresh.connection_id),
        access_token=fresh.access_token,
        token_type="Bearer",  # noqa: S106 - RFC 6750
        expires_at=fresh.expires_at.isoformat() if fresh.expires_at else None,
        scope=fresh.scope,
        api_base_url=provider.api_base_url if provider else None,
    )


def _min_seconds() -> int:
    given = request.args.get("min_seconds", "60")
    if not given.isascii() or not given.isdigit() or len(given) > 4 or int(given) > 3600:  # noqa: PLR2004
        raise BadRequest("min_seconds is a whole number from 0 to 3600")
    return int(given)


@blueprint.get("/providers")
def providers() -> Any:
    """The enabled catalogue entries."""
    rt = runtime()
    rt.store.user_connections(_proof().user.id)  # raises for a banned or deleted user, as everywhere
    return jsonify(
        items=[{"id": each.id, "name": each.name, "type": each.type, "scope": each.scope} for each in rt.enabled()],
        next_cursor=None,
    )


def _proof() -> Proof:
    """Whose token it is. That they are neither banned nor deleted is the database's to say, in the call that every route makes."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("no bearer token")
    rt = runtime()
    return rt.identity.read_access_token(token, now=rt.now())


def _connection(row: Connection) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "provider": row.provider,
        "type": row.type,
        "user_id": str(row.user_id),
        "account": {"id": row.account.id, "label": row.account.label},
        "status": row.status,
        "scope": row.scope,
        "expires_at": row.expires_at.isoformat() if row.expires_at else None,
        "parent_id": None,
        "created_at": row.created_at.isoformat(),
        "updated_at": row.updated_at.isoformat(),
    }


def register(app: Flask) -> None:
    """CORS below /v1, for what matches no route too, or a front end could not read why."""
    app.after_request(_cross_origin)


def _cross_origin(answer: Response) -> Response:
    """The product's own front ends may read the answers; credentials are never taken from cookies here."""
    if not request.path.startswith("/v1/"):
        return answer
    origin = request.headers.get("Origin")
    answer.headers["Vary"] = "Origin"
    if origin in runtime().settings.app_origins:
        answer.headers["Access-Control-Allow-Origin"] = origin
        answer.headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type"
        answer.headers["Access-Control-Allow-Methods"] = "GET, POST, DELETE"
        answer.headers["Access-Control-Expose-Headers"] = "Retry-After"
        answer.headers["Access-Control-Max-Age"] = "600"
        answer.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    return answer
