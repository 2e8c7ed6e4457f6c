"""The Flask application: blueprints, hooks, error handlers."""

from pathlib import Path

from flask import Flask

from gateway.catalog import TYPES
from gateway.services import Runtime
from gateway.web import (
    auth_rate_limit,
    connect,
    error_responses,
    language,
    links,
    operations,
    pages,
    request_context,
    security_headers,
    session,
)
from gateway.web.v1 import connections, events, openapi, proxy, tokens, webhooks
from gateway.web.v1 import links as connect_sessions

ROOT = Path(__file__).resolve().parents[2]
LARGEST_BODY = 64 * 1024
"""Bytes, for forms and JSON. A route that takes more sets `request.max_content_length` before it reads."""


def build_app(rt: Runtime) -> Flask:
    app = Flask("gateway", root_path=str(ROOT), template_folder="templates", static_folder="gateway/web/static")
    app.extensions["gateway"] = rt
    app.config["SESSION_COOKIE_SECURE"] = rt.settings.secure
    app.config.update(MAX_CONTENT_LENGTH=LARGEST_BODY, MAX_FORM_MEMORY_SIZE=LARGEST_BODY, MAX_FORM_PARTS=50)
    # Werkzeug would redirect doubled slashes to an address that it builds from the Host header.
    app.url_map.merge_slashes = app.url_map.strict_slashes = False
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    for path in TYPES.values():
        app.register_blueprint(connect.blueprint, name=path, url_prefix=f"/{path}", url_defaults={"path": path})
    for module in (session, pages, links, openapi, operations):
        app.register_blueprint(module.blueprint)
    for call in (connections, tokens, proxy, connect_sessions, events, webhooks):
        app.register_blueprint(call.blueprint)
    # After-hooks run in reverse order: the access log comes last and sees the response as it is sent.
    language.register(app)
    app.jinja_env.globals["brand"] = pages.brand(rt.settings)
    for module in (request_context, operations, security_headers, auth_rate_limit, error_responses):
        module.register(app)
    return app
