"""
The Flask application of the sandbox.

Every request for a simulated provider is recorded, then planned faults apply, then the view responds, then faults may change the response.
The names of the blueprint and the view say which provider and endpoint it was.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

from flask import Flask, Response, g, request
from flask.typing import ResponseReturnValue
from markupsafe import Markup
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Rule

from . import (
    control,
    fault_page,
    generic,
    google,
    highlevel,
    highlevel_api,
    keys,
    microsoft,
    product,
    ringcentral,
    supabase,
    zoom,
)
from .clients import CLIENTS
from .faults import replace
from .response_faults import apply_faults, plant_secret
from .state import State
from .wire import fields

OFFERS = ("ghl", "google", "ringcentral", "microsoft", "zoom", "ghl_white_label")
KEPT_HEADERS = (
    "Authorization", "Content-Type", "Accept", "Accept-Encoding", "User-Agent", "Version", "Cookie", "Connection", "Host",
)  # fmt: skip


class _Rule(Rule):
    """There are four hundred. The functions that build their addresses are compiled when one is asked for: together they take most of a start."""

    def _compile_builder(self, *arguments: bool, **named: bool) -> Callable[..., tuple[str, str]]:
        compiled = cache(partial(super()._compile_builder, *arguments, **named))
        return lambda rule, **values: compiled()(rule, **values)  # noqa: PLW0108 - compiled when it is called


class _Sandbox(Flask):
    url_rule_class = _Rule


def create_app(state: State, offers: tuple[str, ...] = OFFERS) -> Flask:
    """The WSGI application around one state."""
    app = _Sandbox(__name__)
    app.config["MAX_CONTENT_LENGTH"] = 1_000_000
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.extensions["sandbox"] = state
    for provider in ("ghl", "ghl_white_label"):
        rooms = highlevel.make_blueprint(state, provider)
        highlevel_api.add_routes(rooms, state, provider)
        app.register_blueprint(rooms, url_prefix=f"/{provider}")
    for room in (google, microsoft, ringcentral, zoom):
        app.register_blueprint(room.make_blueprint(state))
    for provider in generic.TABLES:
        app.register_blueprint(generic.make_blueprint(state, provider))
    for provider in keys.TABLES:
        app.register_blueprint(keys.make_blueprint(state, provider))
    app.register_blueprint(supabase.make_blueprint(state))
    app.register_blueprint(control.make_blueprint(state))
    app.register_blueprint(product.make_blueprint(state, offers))
    names = {provider: card[0] for provider, card in product.CARDS.items()}
    app.register_blueprint(fault_page.make_blueprint(state, offers, names))
    app.before_request(lambda: _meet(state))
    app.after_request(lambda answer: _part(state, answer))
    app.register_error_handler(HTTPException, _plainly)
    return app


def _simulated() -> tuple[str, str] | None:
    """Provider and endpoint of the request; None for other routes."""
    if request.endpoint is None or (request.blueprint not in CLIENTS and request.blueprint not in keys.TABLES):
        return None
    return str(request.blueprint), request.endpoint.rpartition(".")[2]


def _meet(state: State) -> ResponseReturnValue | None:
    simulated = _simulated()
    if simulated is None:
        return None
    provider, endpoint = simulated
    sent = fields()
    g.seen = {
        "provider": provider,
        "endpoint": endpoint,
        "at": state.now(),
        "method": request.method,
        "path": request.path,
        "query": request.args.to_dict(),
        "form": sent if request.method != "GET" else {},
        "repeated": sorted(name for name, values in request.values.lists() if len(values) > 1),
        "headers": {name: request.headers[name] for name in KEPT_HEADERS if name in request.headers},
        "status": None,
    }
    with state.lock:
        state.seen.append(g.seen)
        if endpoint == "token" and "code" in sent:
            state.redeemed[sent["code"]] += 1
    instead = replace(state, provider, endpoint, sent)
    g.right = instead is None
    return instead


def _part(state: State, answer: Response) -> Response:
    simulated = _simulated()
    if simulated is not None and "right" in g:
        answer = apply_faults(state, *simulated, plant_secret(*simulated, answer)) if g.right else answer
        g.seen["status"] = answer.status_code
    elif simulated is None and request.blueprint == "product":
        answer.headers["Cache-Control"] = "no-store"
    answer.headers.setdefault("X-Content-Type-Options", "nosniff")
    return answer


def _plainly(error: HTTPException) -> ResponseReturnValue:
    """An error of the sandbox itself; errors of simulated providers do not use this."""
    return Response(Markup("<!doctype html><title>{0}</title><h1>{0}</h1>").format(error.name), error.code or 500)
