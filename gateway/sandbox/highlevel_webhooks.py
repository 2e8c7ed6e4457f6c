"""
Simulates HighLevel's webhooks: a flat object, signed with Ed25519 over the bytes that are sent.

The key is a published test key, so that signatures can be compared with those of others.
https://marketplace.gohighlevel.com/docs/webhook/WebhookIntegrationGuide
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import threading
import uuid
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from .clients import CLIENTS
from .state import State

PUBLIC_KEY = "ebVWLo/mVPlAeLES6KmLp5AfhTrmlb7X4OORC60ElmQ="
_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
_PATIENCE_SECONDS = 15


def event(state: State, kind: str, **fields: Any) -> bytes:
    """The body of an event of that type, with the envelope that each has; a field that is None is left out."""
    moment = datetime.fromtimestamp(state.now(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    envelope = {"type": kind, "appId": CLIENTS["ghl"][0].partition("-")[0], "timestamp": moment}
    whole = envelope | {"webhookId": str(uuid.uuid4())} | fields
    kept = {name: value for name, value in whole.items() if value is not None}
    return json.dumps(kept, separators=(",", ":"), ensure_ascii=False).encode()


def signature(body: bytes) -> str:
    """The value of `X-GHL-Signature`."""
    return base64.b64encode(_KEY.sign(body)).decode()


def deliver(state: State, body: bytes, *, signed: str | None = None) -> int:
    """Send an event to the gateway's webhook URL; the status of the response. `signed`: another signature, `""` for none."""
    given = signature(body) if signed is None else signed
    headers = {"Content-Type": "application/json"} | ({"X-GHL-Signature": given} if given else {})
    link = http.client.HTTPConnection(urlsplit(state.gateway).netloc, timeout=_PATIENCE_SECONDS)
    try:
        link.request("POST", "/crm/webhooks", body, headers)
        answer = link.getresponse()
        answer.read()
        return answer.status
    finally:
        link.close()


def announce(state: State, kind: str, **fields: Any) -> None:
    """Send an event in a thread of its own, as HighLevel does, if the switch is on: in any order with the response. Once, without repeats."""
    if state.switches["highlevel_webhooks"]:
        body = event(state, kind, **fields)
        threading.Thread(target=_delivered, args=(state, body), name=kind, daemon=True).start()


def _delivered(state: State, body: bytes) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException):
        deliver(state, body)
