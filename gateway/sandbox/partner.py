"""
Simulates a partner's server: makes a link and completes it, with a key that the sandbox got at its start.

The caller says which user is signed in to the product.
"""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

from .state import State

NORTHWIND, ACME = "northwind", "acme"
NAMES = {NORTHWIND: "Northwind back end", ACME: "Acme Analytics"}
"""The product's own back end, and another company."""
_PATIENCE_SECONDS = 15


def make_link(state: State, user_id: str, provider: str) -> str | None:
    """The URL of a link made for Acme, which returns to /shared here; None if the gateway made none."""
    asked = {"user_id": user_id, "provider": provider, "return_to": f"{state.origin}/shared"}
    status, made = _call(state, "/v1/connect-sessions", asked)
    return str(made["url"]) if status == 201 else None


def complete(state: State, session: str, **said: str) -> dict[str, str]:
    """The result, in the form of the gateway's query parameters: `connection` and `provider`, or `error`."""
    status, answered = _call(state, f"/v1/connect-sessions/{session}/complete", said)
    if status == 200:
        return {"connection": str(answered["id"]), "provider": str(answered["provider"])}
    return {"error": str(answered.get("type", "failed")).rpartition("/")[2]}


def _call(state: State, path: str, body: dict[str, str]) -> tuple[int, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {state.partner_keys[ACME]}", "Content-Type": "application/json"}
    link = http.client.HTTPConnection(urlsplit(state.gateway).netloc, timeout=_PATIENCE_SECONDS)
    try:
        link.request("POST", path, json.dumps(body), headers)
        answer = link.getresponse()
        found = json.loads(answer.read())
    except (OSError, ValueError, http.client.HTTPException):
        return 0, {}
    finally:
        link.close()
    return answer.status, found if isinstance(found, dict) else {}
