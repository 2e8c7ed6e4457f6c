"""
What our Flask leaves out: none of it may be relied on unnoticed.
"""

from __future__ import annotations

import flask
import pytest

from gateway.web.application import Application


@pytest.fixture
def app():
    made = Application(__name__)
    made.url_map.strict_slashes = made.url_map.merge_slashes = False

    @made.get("/names/<name>")
    def name(name):
        return f"{name} {flask.request.url_rule}"

    return made


def test_a_route_is_found_by_path_and_method_whatever_the_host(app):
    """A Host header that is none, or somebody else's, changes nothing."""
    for host in ("localhost", "evil.example", "a b", "", "é"):
        answer = app.test_client().get("/names/alice", headers={"Host": host})
        assert (200, "alice /names/<name>") == (answer.status_code, answer.text)
    assert 405 == app.test_client().post("/names/alice").status_code
    assert 404 == app.test_client().get("/names").status_code


def test_text_in_an_address_is_read_as_utf_8(app):
    """PEP 3333 hands it over as Latin-1."""
    assert "Zoë /names/<name>" == app.test_client().get("/names/Zo%C3%AB").text


def test_an_upgrade_that_nobody_offers_is_ignored(app):
    """RFC 9110 section 7.8: a server may."""
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
    assert 200 == app.test_client().get("/names/alice", headers=upgrade).status_code


@pytest.mark.parametrize("hook", ["before_request", "after_request", "teardown_request", "teardown_appcontext"])
def test_what_would_never_be_called_is_named(app, hook):
    """`build_app` refuses to start over it."""
    assert [] == list(app.unused())
    getattr(app, hook)(lambda *_: None)
    assert [f"{hook}_funcs"] == list(app.unused())


def test_flasks_own_session_is_not_to_be_used(app):
    """It would be kept nowhere."""

    @app.get("/remember")
    def remember():
        flask.session["user"] = "alice"
        return ""

    app.testing = True
    with pytest.raises(RuntimeError, match=r"gateway\.web\.session"):
        app.test_client().get("/remember")
