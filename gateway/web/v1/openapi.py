"""
What each call of `/v1` is, said beside its route, and the API description that is made from that (OpenAPI 3.1.0).

A route says with `described` who may call it and what it takes, answers and may refuse; where it is and by which method is read
from Flask. Knows no route by name: what is not said beside a route is not in the description, and a test wants it there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from flask import Flask
from pydantic.json_schema import models_json_schema
from werkzeug.routing import Rule

from gateway import __version__
from gateway.errors import (
    BadRequest,
    DatabaseUnavailable,
    Forbidden,
    Frozen,
    GatewayError,
    NotFound,
    Overloaded,
    ProviderUnavailable,
    RateLimited,
    RefreshInProgress,
    TooLarge,
    Unauthenticated,
    Unexpected,
    UnsupportedMediaType,
)
from gateway.web.v1.schemas import Answered, Asked, NoQuery, Problem

Schema = dict[str, Any]
_View = TypeVar("_View", bound=Callable[..., Any])
_ANYWHERE = (BadRequest, Unauthenticated, Forbidden, Frozen, RateLimited, Unexpected, DatabaseUnavailable)
"""What any call may be refused with."""
_LATER = (DatabaseUnavailable, Overloaded, RateLimited, RefreshInProgress)
"""Whose answers name seconds in Retry-After, always; those of ProviderUnavailable where they are known."""
_VARIABLE = re.compile(r"<(?:[^<>]*:)?([a-z_]+)>")
_REFERENCE = "#/components/schemas/{model}"


@dataclass(frozen=True)
class Call:
    """One call, as its route says it is."""

    summary: str
    text: str
    answer: type[Answered]
    scope: str | None
    """Of the key, that it takes; None where any key serves."""
    status: int
    query: type[Asked]
    body: type[Asked] | None
    refusals: tuple[type[GatewayError], ...]
    partners_alone: bool
    """A user's access token does not serve."""


def described(
    answer: type[Answered],
    *refusals: type[GatewayError],
    scope: str | None,
    status: int = 200,
    query: type[Asked] = NoQuery,
    body: type[Asked] | None = None,
    partners_alone: bool = False,
) -> Callable[[_View], _View]:
    """
    Says what a route answers, and what it may refuse beside what any call may. Its docstring is the rest: the first paragraph
    the summary, what follows the text. The route itself stays as it is.
    """

    def say(view: _View) -> _View:
        summary, _, text = " ".join((view.__doc__ or "").replace("\n\n", "\0").split()).partition("\0")
        taken = (TooLarge, UnsupportedMediaType, Overloaded) if body else ()
        view.call = Call(  # type: ignore[attr-defined]
            summary=summary.strip().removesuffix("."),
            text=text.strip(),
            answer=answer,
            scope=scope,
            status=status,
            query=query,
            body=body,
            refusals=tuple(dict.fromkeys((*refusals, *taken, *_ANYWHERE))),
            partners_alone=partners_alone,
        )
        return view

    return say


@dataclass(frozen=True)
class Operation:
    """A call where Flask has it."""

    call: Call
    rule: Rule
    method: str
    name: str

    @cached_property
    def path(self) -> str:
        """With its variables as OpenAPI writes them."""
        return _VARIABLE.sub(r"{\1}", self.rule.rule)

    @cached_property
    def refusals(self) -> Sequence[type[GatewayError]]:
        """By status, then slug."""
        there = {NotFound} if self.rule.arguments else set()
        return sorted({*self.call.refusals, *there}, key=lambda kind: (kind.status, kind.slug))


def operations(app: Flask) -> Iterator[Operation]:
    """Every described call, in the order of their paths."""
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule):
        view = app.view_functions[rule.endpoint]
        if isinstance(call := getattr(view, "call", None), Call):
            for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
                yield Operation(call, rule, method, rule.endpoint.rpartition(".")[2])


def description(app: Flask, public_url: str) -> Schema:
    """The OpenAPI document; `public_url` is where the gateway is reached, without a slash at its end."""
    paths: Schema = {}
    called = list(operations(app))
    for each in called:
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each, public_url)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Integration gateway",
            "version": __version__,
            "description": "Connections of users at providers, and access tokens that are good. Every refusal is problem+json "
            "(RFC 9457) and says in `remedy` who must act.",
        },
        "servers": [{"url": public_url}],
        "paths": paths,
        "components": {
            "schemas": _schemas(called),
            "securitySchemes": {
                "partnerKey": {"type": "http", "scheme": "bearer", "description": "A partner's key, `gw_live_…`."},
                "accessToken": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "A user's Supabase access token: for the user's own connections.",
                },
            },
        },
    }


def _operation(each: Operation, public_url: str) -> Schema:
    call = each.call
    operation: Schema = {
        "operationId": each.name,
        "summary": call.summary,
        "description": call.text,
        "security": [
            {"partnerKey": [call.scope] if call.scope else []},
            *([] if call.partners_alone else [{"accessToken": []}]),
        ],
        "parameters": [*_path_parameters(each.rule), *_query_parameters(call.query)],
        "responses": {
            str(call.status): {
                "description": (call.answer.__doc__ or "").strip(),
                "content": {"application/json": {"schema": {"$ref": _REFERENCE.format(model=call.answer.__name__)}}},
            },
            **_refusals(each.refusals, public_url),
        },
    }
    if call.body:
        reference = {"$ref": _REFERENCE.format(model=call.body.__name__)}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": reference}}}
    return operation


def _path_parameters(rule: Rule) -> Iterator[Schema]:
    # Every variable of ours is the id of something.
    for name in sorted(rule.arguments):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}


def _query_parameters(query: type[Asked]) -> Iterator[Schema]:
    for name, schema in query.model_json_schema()["properties"].items() if query.model_fields else ():
        text = schema.pop("description", "")
        kept = {key: value for key, value in schema.items() if key not in ("title", "anyOf") and value is not None}
        # A query has no null: what may be None is left out.
        kept |= next((kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}), {})
        yield {"name": name, "in": "query", "required": False, "description": text, "schema": kept}


def _refusals(kinds: Sequence[type[GatewayError]], public_url: str) -> Schema:
    responses: Schema = {}
    for status in dict.fromkeys(kind.status for kind in kinds):
        these = [kind for kind in kinds if kind.status == status]
        slugs = [f"{public_url}/problems/{kind.slug}" for kind in these]
        narrowed = {
            "type": {"enum": slugs},
            "status": {"const": status},
            "remedy": {"enum": sorted({kind.remedy for kind in these})},
        }
        responses[str(status)] = {
            "description": " · ".join(f"`{kind.slug}`: {kind.title.lower()}" for kind in these),
            "content": {
                "application/problem+json": {
                    "schema": {"allOf": [{"$ref": _REFERENCE.format(model=Problem.__name__)}, {"properties": narrowed}]}
                }
            },
            **_headers(these),
        }
    return responses


def _headers(kinds: Sequence[type[GatewayError]]) -> Schema:
    headers: Schema = {}
    if any(kind in (*_LATER, ProviderUnavailable) for kind in kinds):
        later = {"type": "string", "pattern": "^[0-9]+$"}
        headers["Retry-After"] = {
            "description": "Seconds.",
            "required": all(kind in _LATER for kind in kinds),
            "schema": later,
        }
    if Unauthenticated in kinds:
        headers["WWW-Authenticate"] = {
            "description": "RFC 6750 section 3.",
            "required": True,
            "schema": {"type": "string"},
        }
    return {"headers": headers} if headers else {}


def _schemas(called: Sequence[Operation]) -> Schema:
    bodies = {each.call.body for each in called if each.call.body}
    answers = {each.call.answer for each in called} | {Problem}
    _, schemas = models_json_schema(
        [
            *((model, "validation") for model in sorted(bodies, key=lambda model: model.__name__)),
            *((model, "serialization") for model in sorted(answers, key=lambda model: model.__name__)),
        ],
        ref_template=_REFERENCE,
    )
    found: Schema = schemas["$defs"]
    for schema in found.values():
        schema.pop("title", None)
        for field in schema.get("properties", {}).values():
            field.pop("title", None)
    return dict(sorted(found.items()))
