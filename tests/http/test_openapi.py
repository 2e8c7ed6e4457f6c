"""
The API description: it is what the routes are, both ways, and what the running gateway answers.

schemathesis reads /openapi.json and asks what it allows and what it does not, with a fixed seed: no 5xx, no status, content type or
body that is not described, nothing without a key. It talks to a gateway of its own, over HTTP.
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
import uuid
from collections import Counter
from types import SimpleNamespace

import pytest
import requests
from cryptography.fernet import Fernet
from hypothesis import configuration

from gateway.database import open_postgres
from gateway.errors import BadRequest, every_problem
from gateway.partners.admin import SCOPES, add_partner
from gateway.settings import read_settings
from gateway.web.app import build_app
from gateway.web.v1.json_api import Call, validated
from gateway.web.v1.openapi import ANY_METHOD, description, operations
from gateway.web.v1.schemas import RequestModel
from tests.support.gateway_process import told, whole_gateway
from tests.support.link_partner import consents, new_partner
from tests.support.partners import partner_of

PROBLEMS = {kind.slug: kind for kind in every_problem()}
PROXY = "/v1/connections/{connection_id}/proxy/{path}"
CALLS = {
    ("GET", "/v1/providers"): None,
    ("GET", "/v1/connections"): "connections:read",
    ("GET", "/v1/connections/{connection_id}"): "connections:read",
    ("GET", "/v1/connections/{connection_id}/locations"): "connections:read",
    ("POST", "/v1/connections/{connection_id}/check"): "connections:read",
    ("DELETE", "/v1/connections/{connection_id}"): "connections:write",
    ("GET", "/v1/connections/{connection_id}/token"): "tokens:read",
    ("POST", "/v1/connections/{connection_id}/refresh"): "tokens:read",
    **{(method, PROXY): "proxy" for method in ("GET", "POST", "PUT", "PATCH", "DELETE")},
    ("POST", "/v1/connect-sessions"): "sessions:write",
    ("POST", "/v1/connect-sessions/{session_id}/complete"): "sessions:write",
    ("GET", "/v1/events"): "events:read",
    ("GET", "/v1/usage"): "events:read",
    ("POST", "/v1/webhooks"): "webhooks:write",
    ("GET", "/v1/webhooks"): "webhooks:write",
    ("DELETE", "/v1/webhooks/{webhook_id}"): "webhooks:write",
    ("GET", "/v1/webhooks/{webhook_id}/deliveries"): "webhooks:write",
    ("POST", "/v1/webhooks/{webhook_id}/test"): "webhooks:write",
    ("POST", "/v1/webhooks/{webhook_id}/replay"): "webhooks:write",
    ("POST", "/v1/webhooks/{webhook_id}/rotate-secret"): "webhooks:write",
}
"""The contract's, but for what is not built yet, with the scope that each takes."""


@pytest.fixture(scope="module")
def app():
    """The application as it is put together; no request of it reaches a database here."""
    key = Fernet.generate_key().decode()
    settings = read_settings({"GATEWAY_KEYS": key, "GATEWAY_PUBLIC_URL": "https://connect.example.com"})
    return build_app(SimpleNamespace(settings=settings))


@pytest.fixture(scope="module")
def document(app):
    return app.test_client().get("/openapi.json", base_url="https://connect.example.com").json


# -- the document ----------------------------------------------------------------------------------------------------


def test_every_call_is_described_and_no_other(app, document):
    """
    What Flask answers below /v1, what says of itself what it is, what the document lists, and the contract: all the same.
    """
    routed = {
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith("/v1")
        for method in set(rule.methods or ANY_METHOD) - {"HEAD", "OPTIONS"}
    }
    listed = {(method.upper(), path) for path, item in document["paths"].items() for method in item}

    assert routed == listed == {(each.method, each.path) for each in operations(app)} == set(CALLS)


def test_every_call_names_its_scope(document):
    """
    As roles of the key (OpenAPI 3.1.0, Security Requirement Object); a user's own token needs none.
    """
    for (method, path), scope in CALLS.items():
        key, *users = document["paths"][path][method.lower()]["security"]
        assert {"partnerKey": [scope] if scope else []} == key
        assert scope is None or scope in SCOPES
        assert users == ([] if scope in ("sessions:write", "webhooks:write") else [{"accessToken": []}])


def test_the_document_is_openapi_3_1(document):
    """
    By the specification's own schema; no two calls have one id, and every reference leads somewhere.
    """
    from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

    text = json.dumps(document)

    assert "3.1.0" == document["openapi"]
    assert [] == [error.message for error in OPENAPI_31_VALIDATOR.iter_errors(document)]
    assert {1} == set(Counter(re.findall(r'"operationId": "([^"]+)"', text)).values())
    assert "list_locations" in text
    assert set(re.findall(r'"#/components/schemas/([^"]+)"', text)) == set(document["components"]["schemas"])


def test_every_refusal_in_it_is_one_that_there_is(document):
    """
    Each with its own status; where seconds are named, they are always named.
    """
    for item in document["paths"].values():
        for operation in item.values():
            for status, response in operation["responses"].items():
                if status < "400" or status == "default":  # the provider's
                    continue
                assert {"$ref": "#/components/schemas/Problem"} == response["content"]["application/problem+json"][
                    "schema"
                ]
                assert {int(status)} == {PROBLEMS[slug].status for slug in slugs_of(response)}
            assert operation["responses"]["429"]["headers"]["Retry-After"]["required"]
            assert {"400", "401", "403", "429", "500", "503"} <= set(operation["responses"])


def slugs_of(response):
    """The slugs that the description of a response names."""
    return re.findall(r"(?:^| · )`(\w+)`: ", response["description"])


def test_every_schema_has_an_example_that_is_one(document):
    """
    Of every schema but pages, by that schema; a field that may be left out may be missing.
    """
    from gateway.web.v1 import schemas

    named = {
        name: schema
        for name, schema in document["components"]["schemas"].items()
        if "items" not in schema["properties"]
    }
    for name in named:
        [example] = named[name]["examples"]
        told = getattr(schemas, name).model_validate(example).model_dump(mode="json")
        assert example == {key: value for key, value in told.items() if key in example}


def test_a_route_that_says_nothing_is_not_described(app):
    """
    Nothing is guessed: what the test above compares is what was said.
    """

    def silent():
        """Nothing."""

    @Call(object, scope="tokens:read")
    def speaking():
        """
        Says something.

        And more.
        """

    assert not hasattr(silent, "call")
    assert isinstance(speaking.call, Call)
    assert ("Says something", "And more.") == (speaking.call.summary, speaking.call.text)


def test_the_document_is_public_and_asked_about_again(app):
    """
    A repeated request gets 304; `servers` is the public URL, whatever the request says.
    """
    client = app.test_client()
    first = client.get("/openapi.json", headers={"Host": "elsewhere.example"})
    again = client.get("/openapi.json", headers={"If-None-Match": first.headers["ETag"]})

    assert [{"url": "https://connect.example.com"}] == first.json["servers"]
    assert ("application/json", "no-cache") == (first.headers["Content-Type"], first.headers["Cache-Control"])
    assert (304, b"") == (again.status_code, again.data)
    assert first.json == json.loads(json.dumps(description(app, "https://connect.example.com")))


def test_the_short_form_for_agents_lists_every_call_and_only_addresses_that_exist(app, document):
    """
    /llms.txt, in Markdown.
    """
    client = app.test_client()
    answer = client.get("/llms.txt")

    assert ("text/markdown; charset=utf-8", "# Integration gateway") == (
        answer.content_type,
        answer.text.split("\n")[0],
    )
    assert set(CALLS) == set(re.findall(r"^- `([A-Z]+) (/v1\S*)`", answer.text, re.MULTILINE))
    assert "`GET /v1/events` (scope `events:read`): Lists events, oldest first." in answer.text
    for link in re.findall(r"\]\(https://connect\.example\.com(/[^)]*)\)", answer.text):
        with client.get(link) as found:
            assert 200 == found.status_code


def test_the_page_shows_every_call_with_a_line_to_try_it(app, document):
    """
    Each line is one that a shell takes, and goes where the call is; every name on the page leads somewhere.
    """
    import html

    page = app.test_client().get("/docs").text
    lines = [shlex.split(html.unescape(line)) for line in re.findall(r"<pre><code>(curl .*?)</code></pre>", page)]
    asked = {
        (
            line[line.index("-X") + 1] if "-X" in line else "GET",
            re.sub(r"\$(\w+)", lambda name: f"{{{name[1].lower()}}}", line[-1]),
        )
        for line in lines
    }

    assert {(method, f"https://connect.example.com{path}") for method, path in CALLS} == asked
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(re.findall(r'id="([^"]+)"', page))
    assert set(re.findall(r'href="/problems/([^"]+)"', page)) <= set(PROBLEMS)
    assert all(name in page for name in document["components"]["schemas"])
    assert "<script" not in page
    assert " style=" not in page
    for line in lines:
        if "-d" in line:
            assert set(json.loads(line[line.index("-d") + 1])) & {"user_id", "url", "after"}


# -- the running gateway ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def busy(cluster, template, tmp_path_factory):
    """A gateway with nine connections; `key` reaches them all, and Alice's `token` her own `connections`."""
    # Where hypothesis keeps what it learned of Unicode: not in the checkout.
    configuration.set_hypothesis_home_dir(tmp_path_factory.mktemp("hypothesis"))
    with whole_gateway(cluster, template) as made:
        # Each run of schemathesis comes from an address of its own: it sends more wrong keys than one address may.
        made.environ["GATEWAY_TRUSTED_PROXIES"] = "1"
        made.start()
        store = open_postgres(made.dsn)
        made.key = add_partner(store, "Northwind back end", scope=SCOPES, reach="all", reads_per_hour=100_000).text
        store.close()
        made.alice = made.person("Alice Winter")
        made.token = made.alice.token()
        for person in (made.person("Bob Summer"), made.person("Carol Spring"), made.alice):
            made.connections = [
                person.connects(provider)["connection"] for provider in ("google", "ringcentral", "ghl")
            ]
        yield made


def config(bearer, address, **more):
    """Of schemathesis: few examples of everything, always the same ones, nothing kept."""
    rejects = {"positive_data_acceptance": {"expected-statuses": ["2xx", "400", "403", "404", "409", "429"]}}
    return {
        "seed": 1,
        "color": False,
        "workers": 1,
        "request-timeout": 60,
        "headers": {"Authorization": f"Bearer {bearer}", "X-Forwarded-For": address},
        "generation": {"mode": "all", "deterministic": True, "max-examples": 6, "database": "none"},
        # A cursor is opaque, and the address of a browser or a webhook is judged by more than its form: 400 is right for most of them.
        "operations": [
            {"include-path": path, "checks": rejects}
            for path in (
                *("/v1/connections", "/v1/connect-sessions", "/v1/connect-sessions/{session_id}/complete"),
                *("/v1/webhooks", "/v1/usage"),
            )
        ]
        + [{"include-path": PROXY, "enabled": False}],  # its responses are the provider's; test_proxy has the gateway's
        "analysis": {"constants": {"enabled": False}},
    } | more


def asked(gateway, settings):
    """What schemathesis finds, as text; and how often each call was answered how."""
    import schemathesis
    from schemathesis.config import SchemathesisConfig
    from schemathesis.engine import events, from_schema

    schema = schemathesis.openapi.from_url(f"{gateway.url}/openapi.json", config=SchemathesisConfig.from_dict(settings))
    found, counted = [], Counter()
    for event in from_schema(schema).execute():
        if isinstance(event, events.NonFatalError | events.FatalError):
            found.append(repr(event))
        if not isinstance(event, events.ScenarioFinished):
            continue
        for case_id, interaction in event.recorder.interactions.items():
            label = event.recorder.cases[case_id].value.operation.label
            if label.startswith(
                f"{interaction.request.method} "
            ):  # and not one of those that are tried and not described
                counted[label, interaction.response.status_code if interaction.response else 0] += 1
                found += undescribed(schema, label, interaction.response)
        for checks in event.recorder.checks.values():
            found += [
                f"{one.name}: {one.failure_info.failure} {one.failure_info.code_sample}"
                for one in checks
                if one.failure_info
            ]
    return found, counted


def undescribed(schema, label, response):
    """The slug of a problem that the description does not name for that call and status."""
    if response is None or "application/problem+json" not in response.headers.get("content-type", [""])[0]:
        return []
    method, path = label.split(" ", 1)
    slug = json.loads(response.content)["code"]
    described = schema.raw_schema["paths"][path][method.lower()]["responses"].get(str(response.status_code))
    return [] if described and slug in slugs_of(described) else [f"{label} {response.status_code} {slug}"]


@pytest.mark.parametrize(("who", "number"), [("key", 1), ("token", 2)])
def test_every_response_is_described(busy, who, number):
    """
    Every call, with what it takes and with what it does not, by a partner and by a user: examples, the edges of every schema, and
    chance, which the partner stands for. `DELETE` has its turn in the other test.
    """
    off = ("stateful",) if who == "key" else ("stateful", "fuzzing")
    settings = config(getattr(busy, who), f"192.0.2.{number}", phases={phase: {"enabled": False} for phase in off})
    settings["parameters"] = {"path.connection_id": busy.connections[number]}
    settings["operations"].append({"include-method": "DELETE", "enabled": False})
    found, counted = asked(busy, settings)

    assert [] == found
    answered = {label for label, status in counted if status in (200, 201)}
    assert answered >= {
        f"{method} {path}"
        for method, path in CALLS
        # Only an agency has locations.
        if path.startswith("/v1/connections")
        and method != "DELETE"
        and path != PROXY
        and not path.endswith("/locations")
    }
    assert not [status for _, status in counted if status >= 500]


def test_one_call_after_another_responds_as_described(busy):
    """
    What one call answers is asked for by the next: what is gone stays gone, and nothing needs no key.
    """
    off = {phase: {"enabled": False} for phase in ("examples", "coverage", "fuzzing")}
    found, counted = [], Counter()
    for seed in range(1, 20):  # which connections exist decides what chance leads to: until one walk comes by a DELETE
        more, walked = asked(busy, config(busy.key, "192.0.2.3", phases=off, seed=seed))
        found, counted = found + more, counted + walked
        if counted["DELETE /v1/connections/{connection_id}", 200]:
            break

    assert [] == found
    assert counted["DELETE /v1/connections/{connection_id}", 200]
    assert not [status for _, status in counted if status >= 500]


def judged(gateway, answer, method, path):
    """The JSON of an answer, which is one that the description allows for that call."""
    import schemathesis

    schema = schemathesis.openapi.from_url(f"{gateway.url}/openapi.json")
    schema[path][method].validate_response(answer)
    if not answer.ok:
        described = schema.raw_schema["paths"][path][method.lower()]["responses"][str(answer.status_code)]
        assert answer.json()["code"] in slugs_of(described)
    return answer.json()


def test_a_link_from_its_making_to_its_completion_answers_as_described(busy):
    """
    The two calls that chance alone never brings to their end: 201, and the connection that a user made in an unknown browser.
    """
    dora, acme = busy.person("Dora Fall"), new_partner(busy)
    made = acme.calls("POST", "/v1/connect-sessions", json={
        "user_id": dora.id, "provider": "google", "return_to": f"{busy.sandbox.origin}/back", "scope": ["openid"],
    })  # fmt: skip
    link = judged(busy, made, "POST", "/v1/connect-sessions")
    back = told(dora.get(consents(dora, link["url"])))
    done = acme.completes(back["connect_session"], dora, back["confirmation"])
    connection = judged(busy, done, "POST", "/v1/connect-sessions/{session_id}/complete")

    assert (201, 200) == (made.status_code, done.status_code)
    assert (dora.id, "active") == (connection["user_id"], connection["status"])


BODIES = [
    ("text", 415, b'{"user_id": "%s", "provider": "ghl"}', "text/plain", []),
    ("a form", 415, b"user_id=1&provider=ghl", "application/x-www-form-urlencoded", []),
    ("none", 400, b"", "application/json", ["body"]),
    ("not JSON", 400, b"{", "application/json", ["body"]),
    ("not UTF-8", 400, b'{"provider": "\xff"}', "application/json", ["body"]),
    ("a list", 400, b"[]", "application/json", ["body"]),
    ("an unknown name", 400, b'{"user_id": "%s", "provider": "ghl", "next": "x"}', "application/json", ["next"]),
    ("a wrong type", 400, b'{"user_id": "%s", "provider": 1}', "application/json", ["provider"]),
    ("a NUL", 400, b'{"user_id": "%s", "provider": "g\\u0000"}', "application/json", ["provider"]),
    ("a scope that is two", 400, b'{"user_id": "%s", "provider": "ghl", "scope": ["a b"]}', "application/json", ["scope"]),
    ("too many scopes", 400, b'{"user_id": "%%s", "provider": "ghl", "scope": [%s]}' % b",".join([b'"a"'] * 51), "application/json", ["scope"]),
    ("depth", 400, b"[" * 30_000 + b"]" * 30_000, "application/json", ["body"]),
    ("depth under a name of ours", 400, b'{"scope": ' + b"[" * 20_000, "application/json", ["body"]),
    ("two documents", 400, b"{} {}", "application/json", ["body"]),
    ("a lone surrogate", 400, b'{"provider": "\\ud800"}', "application/json", ["body"]),
    ("an id in braces", 400, b'{"user_id": "{%s}", "provider": "ghl"}', "application/json", ["user_id"]),
    ("size", 413, b'{"provider": "%s"}' % (b"a" * 70_000), "application/json", []),
]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "body", "kind", "fields"), [row[1:] for row in BODIES], ids=[row[0] for row in BODIES]
)
def test_a_body_that_is_not_as_described_is_refused(busy, status, body, kind, fields):
    """
    JSON alone, small, flat, and of the names that there are. The field at fault is named, or the body.
    """
    headers = {"Authorization": f"Bearer {busy.key}", "Content-Type": kind}
    body = body.replace(b"%s", str(uuid.uuid4()).encode())
    answer = requests.post(f"{busy.url}/v1/connect-sessions", body, headers=headers, timeout=30)

    problem = judged(busy, answer, "POST", "/v1/connect-sessions")
    assert (status, "fix_request", fields) == (
        answer.status_code,
        problem["remedy"],
        [each["field"] for each in problem.get("errors", [])],
    )
    assert not fields or f"At fault is `{fields[0]}`" in problem["detail"]


ODD = (
    *(None, True, -1, 1.5, 10**20, "", "a b", "GHL", "\n", "x" * 3000, "5", "2026-03-01", "2026-13-01T00:00:00Z"),
    [],
    [5],
    [""],
    ["a b"],
)
ODD = (
    *ODD,
    ["a.b"] * 60,
    {},
    {"a": 1},
    {"a b": "x"},
    {"a": ""},
    {f"k{n}": "v" for n in range(12)},
    "0b7a1c9e-5b1f-4c86-9a55-3d2f1e8c7a6g",
)


@pytest.mark.parametrize("model", RequestModel.__subclasses__(), ids=lambda model: model.__name__)
def test_what_is_wrong_with_a_field_is_said_in_plain_words(model):
    """
    None of pydantic's sentences and no pattern reaches a caller, whatever a field holds; an unknown field names the known ones.
    """
    names = [field.alias or name for name, field in model.model_fields.items()]
    documents = ["", "{", "[]", "5", "{}", '{"nxet": 1}', *(json.dumps({name: odd}) for name in names for odd in ODD)]
    reasons = {reason for text in documents for reason in reasons_of(model, text)}

    assert f"unknown field; known are {', '.join(names) or 'none'}" in reasons
    assert [] == [
        each for each in reasons if re.search(r"[Ii]nput|should|[Vv]alue error|pattern|\^|[Tt]uple|UUID (in|ob)", each)
    ]


def reasons_of(model, text):
    try:
        validated(model, lambda: model.model_validate_json(text, strict=True))
    except BadRequest as refused:
        return [reason for _, reason in refused.errors]
    return []


def test_no_call_takes_a_parameter_that_it_does_not_have(busy):
    """
    A mistyped filter would show everything, unnoticed.
    """
    headers = {"Authorization": f"Bearer {busy.key}"}
    for method, path in [each for each in CALLS if CALLS[each] != "proxy"]:
        url = busy.url + re.sub(r"{\w+}", str(uuid.uuid4()), path)
        sent = {"json": {"user_id": str(uuid.uuid4()), "provider": "ghl"}} if method == "POST" else {}
        for query in ({"min_second": "600"}, {"limit": ["1", "2"]}):
            answer = requests.request(method, url, params=query, headers=headers, timeout=30, **sent)
            assert 400 == answer.status_code, (method, path, query)
            problem = judged(busy, answer, method, path)
            assert ("fix_request", list(query)) == (problem["remedy"], [each["field"] for each in problem["errors"]])
            assert problem["request_id"] == answer.headers["X-Request-Id"]


def test_a_key_that_lacks_the_scope_of_a_call_learns_which(busy):
    """
    Also a user, who has no scope for links and webhooks; whatever else is wrong with the request.
    """
    reader, writer = (partner_of(busy.dsn, scope=[scope]) for scope in ("connections:read", "connections:write"))
    for (method, path), scope in CALLS.items():
        url = busy.url + re.sub(r"{\w+}", str(uuid.uuid4()), path)
        callers = [writer.key if scope == "connections:read" else reader.key] if scope else []
        callers += [busy.token] if scope in ("sessions:write", "webhooks:write") else []
        for bearer, body in itertools.product(
            callers, ({"user_id": str(uuid.uuid4()), "provider": "ghl"}, {"user_id": 1})
        ):
            sent = {"json": body} if method in ("POST", "PUT", "PATCH") else {}
            answer = requests.request(method, url, headers={"Authorization": f"Bearer {bearer}"}, timeout=30, **sent)
            assert (403, "forbidden") == (answer.status_code, answer.json()["code"]), (method, path)
            assert f"lacks the scope `{scope}`" in answer.json()["detail"], (method, path)
