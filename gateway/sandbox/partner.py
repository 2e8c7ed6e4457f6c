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
    status, made = _call(state, ACME, "POST", "/v1/connect-sessions", asked)
    return str(made["url"]) if status == 201 else None


def complete(state: State, session: str, **said: str) -> dict[str, str]:
    """The result, in the form of the gateway's query parameters: `connection` and `provider`, or `error`."""
    status, answered = _call(state, ACME, "POST", f"/v1/connect-sessions/{session}/complete", said)
    if status == 200:
        return {"connection": str(answered["id"]), "provider": str(answered["provider"])}
    return {"error": str(answered.get("type", "failed")).rpartition("/")[2]}


def connections(state: State, user_id: str) -> list[dict[str, Any]]:
    """What the product's back end lists for a user."""
    return list(_call(state, NORTHWIND, "GET", f"/v1/connections?user_id={user_id}")[1].get("items", ()))


def events(state: State, user_id: str) -> list[dict[str, Any]]:
    """What happened to a user's connections, newest first; what is new is fetched."""
    page = _call(state, NORTHWIND, "GET", f"/v1/events?after={state.events_after}&limit=100")[1]
    with state.lock:
        for event in page.get("items", ()):
            if int(event["position"]) > int(state.events_after):
                state.events.append(event)
                state.events_after = str(event["position"])
        return [event for event in reversed(state.events) if event["user_id"] == user_id][:10]


def _call(
    state: State, owner: str, method: str, path: str, body: dict[str, str] | None = None
) -> tuple[int, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {state.partner_keys[owner]}", "Content-Type": "application/json"}
    link = http.client.HTTPConnection(urlsplit(state.gateway).netloc, timeout=_PATIENCE_SECONDS)
    try:
        link.request(method, path, None if body is None else json.dumps(body), headers)
        answer = link.getresponse()
        found = json.loads(answer.read())
    except (OSError, ValueError, http.client.HTTPException):
        return 0, {}
    finally:
        link.close()
    return answer.status, found if isinstance(found, dict) else {}
