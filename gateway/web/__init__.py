"""
The doors: Flask over the services. No SQL, no crypto, no provider names, no decisions.

Three blueprints, one a provider type, come from one factory (`flow`). Pages are HTML, everything below /v1 is JSON, and an
error is shown in the form of the place where it happened, decided by path.
"""

from __future__ import annotations

from pathlib import Path

from flask import Flask

from gateway.services import Runtime
from gateway.web import (
    auth_rate_limit,
    bodies,
    email,
    error_responses,
    ghl,
    health,
    links,
    metrics,
    pages,
    phone,
    reads,
    reference,
    security_headers,
    session,
)
from gateway.web.application import Application
from gateway.web.v1 import connections, events

ROOT = Path(__file__).resolve().parents[2]
_LARGEST_FORM = 64 * 1024
"""Bytes. The largest form here carries an access token."""


def build_app(rt: Runtime) -> Flask:
    """The WSGI application over `rt`."""
    app = Application("gateway", root_path=str(ROOT), template_folder="templates", static_folder="gateway/web/static")
    app.extensions["gateway"] = rt
    app.config.update(MAX_CONTENT_LENGTH=_LARGEST_FORM, MAX_FORM_PARTS=50)
    # Werkzeug would answer doubled slashes with a redirect that it builds from the Host header.
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = False
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    for blueprint in (ghl.blueprint, email.blueprint, phone.blueprint):
        app.register_blueprint(blueprint)
    for module in (session, pages, connections, links, events, reference, health, metrics):
        app.register_blueprint(module.blueprint)
    auth_rate_limit.register(app)
    error_responses.register(app)
    bodies.register(app)
    reads.register(app)
    metrics.register(app)
    security_headers.register(app)
    if unused := ", ".join(app.unused()):
        raise RuntimeError(f"registered and never called here: {unused}")
    return app
