"""
The API description, for programs (`/openapi.json`) and for people (`/docs`), made once from what the routes say of themselves.

Public, and the same for everybody. Knows how a schema is put in words; knows no call by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from flask import Blueprint, current_app, render_template, request
from werkzeug.wrappers import Response

from gateway.web.session import runtime
from gateway.web.v1.openapi import Operation, Schema, description, operations

blueprint = Blueprint("reference", __name__)


@blueprint.get("/openapi.json")
def document() -> Any:
    """OpenAPI 3.1, asked about again each time (ETag)."""
    answer = current_app.response_class(json.dumps(_made(), ensure_ascii=False), content_type="application/json")
    answer.headers["Cache-Control"] = "no-cache"
    answer.add_etag()
    return answer.make_conditional(request)


@blueprint.get("/docs")
def page() -> Response:
    """The same to read: every call, what it takes, answers and refuses, with a line to try it."""
    made, public_url = _made(), runtime().settings.public_url
    schemas: Schema = made["components"]["schemas"]
    calls = [_shown(each, made, public_url) for each in operations(current_app)]
    shapes = [
        {"name": name, "text": schema.get("description", ""), "fields": list(_fields(schema))}
        for name, schema in schemas.items()
    ]
    return Response(
        render_template("docs.html", calls=calls, shapes=shapes, public_url=public_url), mimetype="text/html"
    )


def _made() -> Schema:
    kept: Schema | None = current_app.extensions.get("openapi")
    if kept is None:
        kept = current_app.extensions["openapi"] = description(current_app, runtime().settings.public_url)
    return kept


def _shown(each: Operation, made: Schema, public_url: str) -> dict[str, Any]:
    operation = made["paths"][each.path][each.method.lower()]
    call, schemas = each.call, made["components"]["schemas"]
    body = schemas[call.body.__name__] if call.body else None
    return {
        "name": each.name,
        "method": each.method,
        "path": each.path,
        "summary": call.summary,
        "text": call.text,
        "scope": call.scope,
        "partners_alone": call.partners_alone,
        "parameters": [_parameter(one) for one in operation["parameters"]],
        "body": call.body.__name__ if call.body else None,
        "body_fields": list(_fields(body)) if body else [],
        "status": call.status,
        "answer": call.answer.__name__,
        "refusals": each.refusals,
        "curl": _curl(each, body, public_url),
    }


def _parameter(parameter: Schema) -> dict[str, Any]:
    schema = parameter["schema"]
    default = schema.get("default")
    return {
        "name": parameter["name"],
        "kind": "in the path" if parameter["in"] == "path" else _kind(schema)[0],
        "default": None if default is None else str(default),
        "text": parameter.get("description", "The id of it." if parameter["in"] == "path" else ""),
    }


def _fields(schema: Schema) -> Iterator[dict[str, Any]]:
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        kind, shape = _kind(field)
        yield {
            "name": name,
            "kind": kind,
            "shape": shape,
            "needed": name in required,
            "text": field.get("description", ""),
        }


_PLAIN = {"string": "text", "integer": "whole number", "boolean": "true or false", "object": "object", "null": "null"}
_FORMATS = {"uuid": "UUID", "date-time": "time, UTC"}


def _kind(schema: Mapping[str, Any]) -> tuple[str, str | None]:
    """In words what a value is; and the name of the shape that it is or holds, which the page links to."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return name, name
    if "anyOf" in schema:
        kinds = [_kind(one) for one in schema["anyOf"]]
        return " or ".join(text for text, _ in kinds), next((name for _, name in kinds if name), None)
    if schema.get("type") == "array":
        text, name = _kind(schema.get("items", {}))
        return f"list of {text}", name
    if "enum" in schema:
        return " · ".join(str(one) for one in schema["enum"]), None
    text = _FORMATS.get(schema.get("format", ""), _PLAIN.get(schema.get("type", ""), "anything"))
    if "minimum" in schema and "maximum" in schema:
        text += f", {schema['minimum']} to {schema['maximum']}"
    return text, None


def _curl(each: Operation, body: Schema | None, public_url: str) -> str:
    """One line for a shell. Ids and keys are its variables, so that neither stands in its history."""
    parts = ['curl -H "Authorization: Bearer $GATEWAY_KEY"']
    if each.method != "GET":
        parts.append(f"-X {each.method}")
    if body:
        fields = {name: field["examples"][0] for name, field in body["properties"].items() if "examples" in field}
        parts.append(f"-H 'Content-Type: application/json' -d '{json.dumps(fields, ensure_ascii=False)}'")
    path = each.path
    for name in each.rule.arguments:
        path = path.replace(f"{{{name}}}", f"${name.upper()}")
    return " ".join([*parts, f'"{public_url}{path}"'])
