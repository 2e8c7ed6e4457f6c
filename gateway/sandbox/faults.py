"""
Faults that replace the correct response.

One function per name, called with the fault and the state. Faults that change a correct response are in `response_faults`, floods and broken
connections in `connection_faults`, names and options in `fault_plan`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from authlib.common.urls import add_params_to_uri
from flask import Response, request

from . import connection_faults
from .state import State
from .wire import answer

MARKUP = "<script>alert(1)</script><img src=x onerror=alert(1)>\r\nSet-Cookie: stolen=1"


def replace(state: State, provider: str, endpoint: str, sent: Mapping[str, str]) -> Response | None:
    """The planned response, after any planned wait; None for the correct one. Holds no lock while it waits."""
    for fault in state.take_faults({"slow"}, provider, endpoint, sent):
        _wait(state, float(fault.options.get("seconds", 3)))
    names = REPLACEMENTS if endpoint != "authorize" else REPLACEMENTS | AT_AUTHORIZE
    if endpoint == "token":
        names = names | AT_TOKEN
    for fault in state.take_faults(names, provider, endpoint, sent):
        return names[fault.name](state, fault.options)
    return None


def _wait(state: State, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not state.closing.is_set() and (left := until - time.monotonic()) > 0:
        state.closing.wait(left)


def _status(_state: State, said: Mapping[str, Any]) -> Response:
    kind = said.get("content_type", "text/plain; charset=utf-8")
    given = Response(
        said.get("body", "The sandbox was asked to fail."), int(said.get("status", 500)), content_type=kind
    )
    for option, header in (("location", "Location"), ("retry_after", "Retry-After")):
        if option in said:
            given.headers[header] = str(said[option])
    given.autocorrect_location_header = False
    return given


def _not_json(_state: State, _said: Mapping[str, Any]) -> Response:
    return Response('{"access_token": "half', content_type="application/json")


def _html(_state: State, _said: Mapping[str, Any]) -> Response:
    return Response("<!doctype html><title>Maintenance</title><h1>We will be back soon</h1>", content_type="text/html")


def _error_200(_state: State, said: Mapping[str, Any]) -> Response:
    return answer({"error": said.get("error", "invalid_grant"), "error_description": "It did not work."})


def _error(_state: State, said: Mapping[str, Any]) -> Response:
    body = {
        "error": said.get("error", "invalid_grant"),
        "error_description": said.get("description", "It did not work."),
    }
    return answer(body, int(said.get("status", 400)))


def _redirect(_state: State, said: Mapping[str, Any]) -> Response:
    return _status(
        _state, {"status": said.get("status", 307), "location": said.get("to", "http://127.0.0.1:9/"), "body": ""}
    )


def _marked_up(_state: State, _said: Mapping[str, Any]) -> Response:
    return answer({"error": "server_error", "error_description": MARKUP, "error_uri": "javascript:alert(1)"}, 400)


def _other_client(_state: State, _said: Mapping[str, Any]) -> Response:
    return answer({"error": "invalid_client", "error_description": "This is not the client that we know."}, 401)


def _back_with(error: Mapping[str, str]) -> Callable[[State, Mapping[str, Any]], Response]:
    def answered(state: State, _said: Mapping[str, Any]) -> Response:
        target = request.args.get("redirect_uri", "")
        if not state.allows(target):
            return Response("The redirect URI is not one of this client's.", 400)
        with_state = {**error, **({"state": request.args["state"]} if "state" in request.args else {})}
        return _status(
            state, {"status": 303, "location": add_params_to_uri(target, list(with_state.items())), "body": ""}
        )

    return answered


Replacement = Callable[[State, Mapping[str, Any]], Response]
REPLACEMENTS: dict[str, Replacement] = {
    "status": _status,
    "not_json": _not_json,
    "html_200": _html,
    "error_200": _error_200,
    "error": _error,
    "redirect": _redirect,
    "huge_body": connection_faults.huge_body,
    "gzip_bomb": connection_faults.gzip_bomb,
    "deep_json": connection_faults.deep_json,
    "drip_headers": connection_faults.drip_headers,
    "drip_body": connection_faults.drip_body,
    "silence": connection_faults.silence,
    "reset": connection_faults.reset,
}
AT_TOKEN: dict[str, Replacement] = {"other_client": _other_client, "error_description_markup": _marked_up}
AT_AUTHORIZE: dict[str, Replacement] = {
    "deny": _back_with({"error": "access_denied", "error_description": "The user said no."}),
    "error_description_markup": _back_with({"error": "server_error", "error_description": MARKUP}),
}
