"""OpenAPI 3.1: the document, from what the calls declare and from Flask's rules."""

import json
import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from flask import Blueprint, Flask, Response, current_app, g, render_template, request
from pydantic.json_schema import models_json_schema
from werkzeug.routing import Rule

from gateway import __version__
from gateway.errors import (
    DatabaseUnavailable,
    GatewayError,
    NotFound,
    ProviderUnavailable,
    RateLimited,
    RefreshInProgress,
    Unauthenticated,
)
from gateway.texts import DEFAULT
from gateway.web.request_context import runtime
from gateway.web.v1.json_api import Call
from gateway.web.v1.schemas import TEXTS, Problem, RequestModel, ResponseModel

blueprint = Blueprint("openapi", __name__)

Schema = dict[str, Any]
_WITH_RETRY_AFTER = (DatabaseUnavailable, RateLimited, RefreshInProgress)
"""ProviderUnavailable has the header only when the provider named the seconds."""
_VARIABLE = re.compile(r"<(?:[^<>]*:)?([a-z_]+)>")
_ANYTHING: Schema = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
"""Of any media type: generators of clients know no `*/*`."""
ANY_METHOD = ("DELETE", "GET", "PATCH", "POST", "PUT")
"""What is said of a route for any method: there is no more general word for it."""
PARTNER_SCOPES = ("sessions:write", "webhooks:write")
"""No user has them: gateway.caller refuses."""
_REFERENCE = "#/components/schemas/{model}"
_FRAME: Schema = json.loads(Path(__file__).with_name("openapi.json").read_text(encoding="utf-8"))
"""What does not depend on the calls; `upstream` is a proxied call's response, `headers` are those of errors."""


class Operation(NamedTuple):
    """A call with its route. `path` is in OpenAPI's form."""

    path: str
    method: str
    rule: Rule
    call: Call

    @property
    def errors(self) -> list[type[GatewayError]]:
        possible = self.call.errors | ({NotFound} if self.rule.arguments else set())
        return sorted(possible, key=lambda kind: (kind.status, kind.slug))


def operations(app: Flask) -> Iterator[Operation]:
    """Everything that is described, by path."""
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule):
        if isinstance(call := getattr(app.view_functions[rule.endpoint], "call", None), Call):
            for method in sorted((rule.methods or set(ANY_METHOD)) - {"HEAD", "OPTIONS"}):
                yield Operation(_VARIABLE.sub(r"{\1}", rule.rule), method, rule, call)


def description(app: Flask, public_url: str) -> Schema:
    paths: Schema = {}
    for each in operations(app):
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each)
    return {
        "openapi": "3.1.0",
        "info": {**_FRAME["info"], "version": __version__},
        "servers": [{"url": public_url}],
        "tags": [{"name": topic} for topic in sorted({each.rule.endpoint.split(".")[0] for each in operations(app)})],
        "paths": paths,
        "components": {**_FRAME["components"], "schemas": _schemas([each.call for each in operations(app)])},
    }


def _operation(each: Operation) -> Schema:
    call = each.call
    key = {"partnerKey": [call.scope] if call.scope else []}
    topic, _, name = each.rule.endpoint.partition(".")
    operation: Schema = {
        "tags": [topic],
        "operationId": name if call.response else f"{name}_{each.method.lower()}",
        "summary": call.summary,
        "description": call.text,
        "security": [key] if call.scope in PARTNER_SCOPES else [key, {"accessToken": []}],
        "parameters": list(_parameters(each)),
        "responses": {
            **_success(call),
            **{
                str(status): _error(list(kinds)) for status, kinds in groupby(each.errors, key=lambda kind: kind.status)
            },
        },
    }
    if call.response is None and each.method in ("POST", "PUT", "PATCH", "DELETE"):
        operation["requestBody"] = {"content": _ANYTHING}
    if call.body:
        operation["requestBody"] = {"required": True, "content": _json(call.body)}
    return operation


def _success(call: Call) -> Schema:
    if call.response:
        return {
            str(call.status): {"description": (call.response.__doc__ or "").strip(), "content": _json(call.response)}
        }
    return {"default": _FRAME["upstream"]}


def _json(model: type[RequestModel | ResponseModel], media_type: str = "application/json") -> Schema:
    return {media_type: {"schema": {"$ref": _REFERENCE.format(model=model.__name__)}}}


def _parameters(each: Operation) -> Iterator[Schema]:
    for name in sorted(each.rule.arguments):  # every variable of ours is an id, but for the path of a proxied call
        schema = {"type": "string"} if name == "path" else {"type": "string", "format": "uuid"}
        yield {"name": name, "in": "path", "required": True, "schema": schema}
    for name, schema in each.call.query.model_json_schema().get("properties", {}).items():
        text = schema.pop("description", "")
        kept = {key: value for key, value in schema.items() if key != "anyOf" and value is not None}
        # A query has no null: an optional parameter is left out.
        kept |= next((kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}), {})
        yield {"name": name, "in": "query", "required": False, "description": text, "schema": kept}
    for name in each.call.headers:
        text = TEXTS["headers"][name]
        yield {"name": name, "in": "header", "required": False, "description": text, "schema": {"type": "string"}}


def _error(kinds: Sequence[type[GatewayError]]) -> Schema:
    headers: Schema = {}
    if any(kind in (*_WITH_RETRY_AFTER, ProviderUnavailable) for kind in kinds):
        always = all(kind in _WITH_RETRY_AFTER for kind in kinds)
        headers["Retry-After"] = {**_FRAME["headers"]["Retry-After"], "required": always}
    if Unauthenticated in kinds:
        headers["WWW-Authenticate"] = _FRAME["headers"]["WWW-Authenticate"]
    return {
        "description": " · ".join(f"`{kind.slug}`: {kind.title.lower()}" for kind in kinds),
        "content": _json(Problem, "application/problem+json"),
        "headers": headers,
    }


def _schemas(calls: Sequence[Call]) -> Schema:
    modes: dict[Any, Any] = {call.body: "validation" for call in calls if call.body}
    modes |= dict.fromkeys([*(call.response for call in calls if call.response), Problem], "serialization")
    return dict(sorted(models_json_schema(list(modes.items()), ref_template=_REFERENCE)[1]["$defs"].items()))


# -- the document and the page ---------------------------------------------------------------------------------------


def _document() -> Schema:
    cached: Schema | None = current_app.extensions.get("openapi")
    if cached is None:
        cached = current_app.extensions["openapi"] = description(current_app, runtime().settings.public_url)
    return cached


@blueprint.get("/openapi.json")
def document() -> Response:
    """The document; browsers keep it and revalidate it (ETag)."""
    response = Response(json.dumps(_document(), ensure_ascii=False), content_type="application/json")
    response.headers["Cache-Control"] = "no-cache"
    response.add_etag()
    response.make_conditional(request)
    return response


@blueprint.get("/llms.txt")
def short_form() -> Response:
    """The document in Markdown, for agents that read documents (llmstxt.org)."""
    return Response(render_template("llms.txt", document=_document()), content_type="text/markdown; charset=utf-8")


@blueprint.get("/docs")
def page() -> str:
    g.language = DEFAULT
    return render_template("docs.html", document=_document())
