"""
The doors: Flask over the services. No SQL, no crypto, no provider names, no decisions.

Three blueprints, one a provider type, come from one factory (`flow`). Pages are HTML, everything below /v1 is JSON, and an
error is shown in the form of the place where it happened, decided by path.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flask import Flask

from gateway.runtime import Runtime
from gateway.web import (
    api,
    email,
    events,
    failures,
    ghl,
    links,
    metrics,
    ops,
    pages,
    phone,
    reference,
    refusals,
    security,
    session,
)

ROOT = Path(__file__).resolve().parents[2]
_LARGEST_FORM = 64 * 1024
"""Bytes. The largest form here carries an access token."""


class _App(Flask):
    """Flask, without asking of every function in every request whether it is a coroutine: none of ours is."""

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """The function as it is."""
        return func


def build_app(rt: Runtime) -> Flask:
    """The WSGI application over `rt`."""
    app = _App("gateway", root_path=str(ROOT), template_folder="templates", static_folder="gateway/web/static")
    app.extensions["gateway"] = rt
    app.config.update(MAX_CONTENT_LENGTH=_LARGEST_FORM, MAX_FORM_PARTS=50)
    # Werkzeug would answer doubled slashes with a redirect that it builds from the Host header.
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = False
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    for blueprint in (ghl.blueprint, email.blueprint, phone.blueprint):
        app.register_blueprint(blueprint)
    for room in (session, pages, api, links, events, reference, ops, metrics):
        app.register_blueprint(room.blueprint)
    failures.register(app)
    refusals.register(app)
    metrics.register(app)
    security.register(app)
    return app
