"""
Templates are compiled before the first request.
"""

from __future__ import annotations

from cryptography.fernet import Fernet
from jinja2 import Environment

from gateway.server import build_served_app


def test_a_served_application_has_compiled_every_page(monkeypatch):
    """
    Otherwise each of many first requests compiles the same one, and `/healthz` waits for all.
    """
    monkeypatch.setenv("GATEWAY_KEYS", Fernet.generate_key().decode())
    monkeypatch.setenv("GATEWAY_JOURNAL", "0")
    monkeypatch.setenv("DATABASE_URL", "postgresql://a:b@127.0.0.1:1/d")
    app = build_served_app()
    monkeypatch.delattr(Environment, "compile")

    assert 200 == app.test_client().get("/problems/not_found").status_code
    assert app.jinja_env.list_templates() == [
        app.jinja_env.get_template(name).name for name in app.jinja_env.list_templates()
    ]
