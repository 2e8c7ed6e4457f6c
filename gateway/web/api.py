"""
`/v1`: JSON for programs. Here for a user's own connections, by their Supabase access token.
"""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, jsonify, request

from gateway.errors import Unauthenticated
from gateway.identity import Proof
from gateway.models import Connection
from gateway.web.session import runtime

blueprint = Blueprint("api", __name__, url_prefix="/v1")


@blueprint.get("/connections")
def connections() -> Any:
    """The caller's own connections; `provider` narrows them."""
    rt = runtime()
    proof = _proof()
    rows = rt.store.user_connections(proof.user.id)
    wanted = request.args.get("provider")
    return jsonify(items=[_connection(row) for row in rows if wanted in (None, row.provider)], next_cursor=None)


@blueprint.get("/providers")
def providers() -> Any:
    """The enabled catalogue entries."""
    _proof()
    rt = runtime()
    return jsonify(
        items=[{"id": each.id, "name": each.name, "type": each.type, "scope": each.scope} for each in rt.enabled()],
        next_cursor=None,
    )


def _proof() -> Proof:
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


@blueprint.after_request
def _cross_origin(answer: Response) -> Response:
    """The product's own front ends may read the answers (CORS); credentials are never taken from cookies here."""
    origin = request.headers.get("Origin")
    answer.headers["Vary"] = "Origin"
    if origin in runtime().settings.app_origins:
        answer.headers["Access-Control-Allow-Origin"] = origin
        answer.headers["Access-Control-Allow-Headers"] = "Authorization"
        answer.headers["Access-Control-Max-Age"] = "600"
        answer.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    return answer
