"""
The control API of the sandbox, for tests and `curl`: plan faults, read recorded requests, set switches, move the clock.

It serves only this machine, and no web page: its responses contain codes and secrets that were sent here.
"""

from __future__ import annotations

import ipaddress
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, Response, request

from . import for_gateway, highlevel, highlevel_webhooks, keys
from .fault_plan import OPTIONS, Fault, planned
from .state import State
from .wire import answer


def make_blueprint(state: State) -> Blueprint:
    """/_sandbox/…"""
    rooms = Blueprint("control", __name__, url_prefix="/_sandbox")
    rooms.before_request(_from_here)
    rooms.add_url_rule("/faults", "faults", lambda: _faults(state), methods=["GET", "POST", "DELETE"])
    rooms.add_url_rule("/requests", "requests", lambda: _requests(state), methods=["GET", "DELETE"])
    rooms.add_url_rule("/counters", "counters", lambda: _counters(state))
    rooms.add_url_rule("/switches", "switches", lambda: _switches(state), methods=["GET", "POST"])
    rooms.add_url_rule("/clock", "clock", lambda: _clock(state), methods=["GET", "POST"])
    rooms.add_url_rule("/keys", "keys", lambda: _keys(state), methods=["POST", "DELETE"])
    rooms.add_url_rule("/withdraw", "withdraw", lambda: _withdraw(state), methods=["POST"])
    rooms.add_url_rule("/webhook", "webhook", lambda: _webhook(state), methods=["POST"])
    rooms.add_url_rule("/location", "location", lambda: _location(state), methods=["POST"])
    rooms.add_url_rule("/reset", "reset", lambda: _reset(state), methods=["POST"])
    rooms.add_url_rule("/gateway", "gateway", lambda: _gateway(state))
    rooms.add_url_rule("/health", "health", lambda: answer({"ok": True}))
    return rooms


def _keys(state: State) -> Response:
    """POST issues a key of the provider, as its user would enter it; DELETE ends all of them."""
    provider = str(_sent().get("provider"))
    if provider not in keys.TABLES:
        return answer({"error": "The provider has no keys."}, 400)
    if request.method == "POST":
        return answer(keys.new_key(state, provider))
    keys.revoke_keys(state, provider)
    return answer({})


def _gateway(state: State) -> Response:
    """The settings and the catalogue override of a gateway that talks to this sandbox."""
    return answer({"settings": for_gateway.settings(state.origin), "catalog": for_gateway.override(state.origin)})


def _from_here() -> Response | None:
    host = urlsplit(f"//{request.host}").hostname or ""
    local = host == "localhost" or _loopback(host)
    paged = request.headers.get("Sec-Fetch-Site", "none") != "none"
    if paged or not local or not _loopback(request.remote_addr or ""):
        return answer({"error": "The control API only serves callers on this machine."}, 403)
    return None


def _loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _sent() -> dict[str, Any]:
    body = request.get_json(silent=True)
    return body if isinstance(body, dict) else {}


def _shown(fault: Fault) -> dict[str, Any]:
    at = {"fault": fault.name, "provider": fault.provider, "endpoint": fault.endpoint, "times": fault.times}
    narrowed = {"grant_type": fault.grant_type, "code": fault.code}
    return at | {name: value for name, value in narrowed.items() if value is not None} | fault.options


def _faults(state: State) -> Response:
    if request.method == "POST":
        try:
            fault = planned(**_sent())
        except (TypeError, ValueError) as wrong:
            return answer({"error": str(wrong), "faults": OPTIONS}, 400)
        with state.lock:
            state.faults.append(fault)
        return answer(_shown(fault), 201)
    with state.lock:
        if request.method == "DELETE":
            state.faults.clear()
        return answer({"planned": [_shown(fault) for fault in state.faults], "faults": OPTIONS})


def _requests(state: State) -> Response:
    if request.method == "DELETE":
        with state.lock:
            state.seen.clear()
    return answer({"requests": state.requests(request.args.get("provider"), request.args.get("endpoint"))})


def _counters(state: State) -> Response:
    with state.lock:
        return answer({"token_requests": dict(state.redeemed), "revocations": list(state.revocations)})


def _switches(state: State) -> Response:
    asked = _sent() if request.method == "POST" else {}
    unknown = [name for name, value in asked.items() if name not in state.switches or not isinstance(value, bool)]
    if unknown:
        return answer({"error": f"Not a switch, or not true or false: {', '.join(unknown)}"}, 400)
    with state.lock:
        state.switches.update(asked)
        return answer(dict(state.switches))


def _clock(state: State) -> Response:
    if request.method == "POST":
        seconds = _sent().get("advance")
        if not isinstance(seconds, (int, float)) or isinstance(seconds, bool):
            return answer({"error": 'Say {"advance": seconds}.'}, 400)
        state.advance(seconds)
    return answer({"now": state.now()})


def _withdraw(state: State) -> Response:
    asked = _sent()
    return answer({"ended": state.withdraw(str(asked.get("provider")), asked.get("account"))})


def _webhook(state: State) -> Response:
    """Send the gateway a signed webhook of HighLevel: {"type": "UNINSTALL", "locationId": …}."""
    fields = {str(name): value for name, value in _sent().items()}
    body = highlevel_webhooks.event(state, str(fields.pop("type", "INSTALL")), **fields)
    return answer({"status": highlevel_webhooks.deliver(state, body), "body": body.decode()})


def _location(state: State) -> Response:
    """A new sub-account of HighLevel's agency: {"id": …, "name": …}."""
    location = str(_sent().get("id") or "NorthwindFuture00001")
    highlevel.create_location(state, location, str(_sent().get("name") or location))
    return answer({"id": location}, 201)


def _reset(state: State) -> Response:
    state.reset()
    return answer({"ok": True})
