"""
Every request has an id: in its response, in its errors and in every line of its log. And the application is ordinary Flask.
"""

from __future__ import annotations

import io
import json
import sys
import uuid

import pytest
import requests
import structlog
from flask import current_app, request_finished, request_started
from werkzeug.wrappers import Request

from gateway import create_app
from gateway.log_setup import start_log
from tests.support.gateway_process import told, whole_gateway
from tests.support.partners import partner_of

ID = r"[0-9a-f]{24}"


def lines(gateway, request_id):
    """What the log says of a request."""
    text = gateway.log.read_text()
    return [json.loads(line) for line in text.splitlines() if request_id in line]


# -- request ids -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/healthz", "/connections", "/nowhere", "/v1/connections", "/v1/nowhere", "/static/mark.svg"]
)
def test_every_response_has_an_id_and_every_request_one_line(gateway, path):
    """
    Successes, redirects, errors of ours and of Flask.
    """
    answer = requests.get(gateway.url + path, allow_redirects=False, timeout=60)
    request_id = answer.headers["X-Request-Id"]
    access = [line for line in lines(gateway, request_id) if line["event"] == "request.finished"]

    assert [answer.status_code] == [line["status"] for line in access]
    assert access[0]["method"] == "GET"
    assert access[0]["duration_ms"] >= 0
    assert requests.get(gateway.url + path, allow_redirects=False, timeout=60).headers["X-Request-Id"] != request_id


def test_the_id_is_in_problems_pages_and_every_line_of_the_request(gateway):
    """
    What a caller or user reports leads to the log.
    """
    problem = requests.get(f"{gateway.url}/v1/connections", timeout=60)
    page = requests.get(f"{gateway.url}/nowhere", timeout=60)

    assert problem.json()["request_id"] == problem.headers["X-Request-Id"]
    assert problem.json()["code"] == "unauthenticated"
    assert f'id="request-id">{page.headers["X-Request-Id"]}<' in page.text
    for answer in (problem, page):
        assert {line["event"] for line in lines(gateway, answer.headers["X-Request-Id"])} == {
            "request.refused",
            "request.finished",
        }


def test_the_access_line_names_the_caller_and_the_route_and_no_secret(gateway):
    """
    The key by the start of its hash; ids and secrets of an address stay out.
    """
    key = partner_of(gateway.dsn).key
    connection, link = uuid.uuid4(), "s" * 43
    by_key = requests.get(
        f"{gateway.url}/v1/connections/{connection}", headers={"Authorization": f"Bearer {key}"}, timeout=60
    )
    by_link = requests.get(f"{gateway.url}/link/{link}", timeout=60)
    alice = gateway.person()
    by_user = requests.get(
        f"{gateway.url}/v1/connections", headers={"Authorization": f"Bearer {alice.token()}"}, timeout=60
    )

    access = [lines(gateway, answer.headers["X-Request-Id"])[-1] for answer in (by_key, by_link, by_user)]
    assert access[0]["principal"].startswith("key:")
    assert [line["route"] for line in access] == [
        "/v1/connections/<uuid:connection_id>",
        "/link/<secret>",
        "/v1/connections",
    ]
    assert access[1]["principal"] is None
    assert access[2]["principal"] == f"user:{alice.id}"
    assert not any(secret in json.dumps(access) for secret in (key, str(connection), link))


def test_the_log_of_a_service_carries_the_id(gateway):
    """
    A line that a service writes deep below the route.
    """
    alice = gateway.person("Alice Winter")
    alice.signs_in()
    callback = alice.consents("google")
    gateway.sandbox.state.add_fault("status", "google", "token", status=503)
    answer = alice.get(callback)

    events = [line["event"] for line in lines(gateway, answer.headers["X-Request-Id"])]
    assert events == ["connect.failed", "request.finished"]


def test_connects_refreshes_and_disconnects_are_logged(gateway):
    """
    Successes too, under the id of their request.
    """
    alice = gateway.person("Alice Winter")
    alice.signs_in()
    callback = alice.get(alice.consents("google"))
    connection = told(callback)["connection"]
    bearer = {"Authorization": f"Bearer {alice.token()}"}
    refresh = requests.post(f"{gateway.url}/v1/connections/{connection}/refresh", headers=bearer, timeout=30)
    disconnect = requests.delete(f"{gateway.url}/v1/connections/{connection}", headers=bearer, timeout=30)

    for answer, event in (
        (callback, "connection.created"),
        (refresh, "grant.refreshed"),
        (disconnect, "connection.disconnected"),
    ):
        found = [line for line in lines(gateway, answer.headers["X-Request-Id"]) if line["event"] == event]
        assert [connection] == [line["connection_id"] for line in found]


def test_an_id_from_outside_is_kept_behind_a_trusted_proxy_alone(gateway, cluster, template):
    """
    Without a proxy a client could write what it likes into the log.
    """
    given = {"X-Request-Id": "from-the-proxy-1"}
    assert (
        requests.get(f"{gateway.url}/healthz", headers=given, timeout=60).headers["X-Request-Id"] != "from-the-proxy-1"
    )

    with whole_gateway(cluster, template, settings={"GATEWAY_TRUSTED_PROXIES": "1"}) as behind:
        behind.start()
        kept = requests.get(f"{behind.url}/v1/connections", headers=given, timeout=60)
        assert kept.headers["X-Request-Id"] == kept.json()["request_id"] == "from-the-proxy-1"
        for malformed in ("a b", "x" * 129, '"', "<script>", ""):
            answer = requests.get(f"{behind.url}/healthz", headers={"X-Request-Id": malformed}, timeout=60)
            assert answer.headers["X-Request-Id"] not in ("", malformed)


def test_a_log_that_cannot_be_written_fails_no_request(app, monkeypatch):
    """
    A full disk, a pipe whose reader is gone.
    """

    class Broken(io.StringIO):
        def write(self, _):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Broken())
    start_log()
    try:
        structlog.get_logger().error("anything")
        assert app.test_client().get("/healthz").status_code == 200
        assert app.test_client().get("/nowhere").status_code == 404
    finally:
        monkeypatch.undo()
        start_log()


# -- plain Flask -----------------------------------------------------------------------------------------------------


@pytest.fixture
def app(gateway, tmp_path):
    """The application over the running gateway's database, in this process."""
    made = create_app(dict(gateway.environ) | {"GATEWAY_DATA": str(tmp_path)})
    yield made
    made.extensions["gateway"].database.close()


@pytest.fixture
def token(gateway):
    """Path and headers of a token read that succeeds."""
    connection = gateway.person("Alice Winter").connects("google")["connection"]
    key = partner_of(gateway.dsn).key
    return f"/v1/connections/{connection}/token", {"Authorization": f"Bearer {key}"}


def test_a_middleware_that_builds_a_request_in_front_breaks_nothing(app, token):
    """
    Loggers and gates do so, and Werkzeug leaves the request in the environ.
    """
    path, headers = token
    inner, seen = app.wsgi_app, []

    def middleware(environ, start_response):
        request = Request(environ)
        seen.append(request.path)
        return inner(request.environ, start_response)

    app.wsgi_app = middleware
    client = app.test_client()

    assert client.get(path, headers=headers).status_code == 200
    assert client.get(path).status_code == 401
    assert client.get("/nowhere").status_code == 404
    assert client.get("/problems/not_found").status_code == 200
    assert len(seen) == 4


def test_hooks_and_signals_of_flask_work_on_pages_and_api(app, token):
    """
    What Sentry, OpenTelemetry and Flask's extensions rely on.
    """
    path, headers = token
    told = []
    app.before_request(lambda: told.append("before"))
    app.teardown_request(lambda _: told.append("teardown"))

    @app.after_request
    def after(response):
        told.append(current_app.name)
        return response

    def started(*_, **__):
        told.append("started")

    def finished(*_, **__):
        told.append("finished")

    with request_started.connected_to(started, app), request_finished.connected_to(finished, app):
        for address in (path, "/healthz", "/v1/nowhere"):
            told.clear()
            app.test_client().get(address, headers=headers)
            assert told == ["started", "before", "gateway", "finished", "teardown"]


def test_a_session_of_flask_and_a_blueprint_of_the_operator_work(app):
    """
    A deployment may add routes of its own.
    """
    app.secret_key = "only for this test"

    @app.get("/own")
    def own():
        import flask

        flask.session["seen"] = flask.session.get("seen", 0) + 1
        return str(flask.session["seen"])

    client = app.test_client()
    assert [client.get("/own").text, client.get("/own").text] == ["1", "2"]


@pytest.mark.parametrize("host", ["localhost", "evil.example", "a b", ""])
def test_no_host_header_changes_a_response(app, host):
    """
    No address is made from it.
    """
    answer = app.test_client().get("/", headers={"Host": host})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/connections")
