"""
Read requests and write responses, the same for every simulated provider.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from flask import Response, request

NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}


def fields() -> dict[str, str]:
    """The fields of a form or JSON body; the first value where one is repeated, nothing where it is not an object."""
    if request.is_json:
        body = request.get_json(silent=True)
        given = body if isinstance(body, dict) else {}
        return {name: value if isinstance(value, str) else json.dumps(value) for name, value in given.items()}
    return request.form.to_dict()


def answer(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """The body as JSON."""
    said = Response(json.dumps(body), status, content_type="application/json; charset=utf-8")
    said.headers.update(headers or {})
    return said


def bearer_token() -> str:
    """RFC 6750 section 2.1, or an empty string."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
