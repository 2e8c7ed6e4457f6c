"""
Between Flask and the shapes: a query or a JSON body in, judged; a JSON answer out.

Knows no route and no shape by name.
"""

from __future__ import annotations

import json
from functools import cache
from typing import TypeVar, cast

from flask import Response, request
from pydantic import ValidationError

from gateway.errors import BadRequest, UnsupportedMediaType
from gateway.web.v1.schemas import Answered, Asked, NoQuery

_A = TypeVar("_A", bound=Asked)
JSON = "application/json"


def asked(model: type[_A]) -> _A:
    """
    The query of this request as `model`; each parameter once.

    Raises BadRequest, which names the parameters at fault.
    """
    if not request.query_string:
        return cast("_A", _nothing_asked(model))
    given = request.args
    try:
        if any(len(values) > 1 for values in given.listvalues()):
            raise BadRequest("a repeated parameter")
        return model.model_validate(given.to_dict())
    except ValidationError as error:
        raise _bad(error, model) from None


@cache
def _nothing_asked(model: type[Asked]) -> Asked:
    return model()


def sent(model: type[_A]) -> _A:
    """
    The JSON body of this request as `model`, by JSON's own types. A call that takes a body takes no query.

    Raises UnsupportedMediaType, TooLarge (by Flask) and BadRequest, which names the fields at fault. Nesting beyond a shape's own
    depth is an unknown name or a wrong type, and the parser itself stops at 200.
    """
    asked(NoQuery)
    if request.mimetype != JSON:
        raise UnsupportedMediaType("the body is not JSON")
    body = request.get_data(cache=False)
    try:
        found = model.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise _bad(error, model) from None
    json.loads(body, object_pairs_hook=_once)
    return found


def _once(pairs: list[tuple[str, object]]) -> None:
    """RFC 8259 section 4: which of two values of one name is meant, nobody can say. Names of ours alone: the shape has been judged."""
    names = [name for name, _ in pairs]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        refused = BadRequest("a name that stands twice")
        refused.fields = tuple(repeated)
        raise refused


def _bad(error: ValidationError, model: type[Asked]) -> BadRequest:
    """Names of ours alone: what a caller made up is not repeated to anybody."""
    names = {
        str(each["loc"][0]) if each["loc"] else "" for each in error.errors(include_input=False, include_url=False)
    }
    refused = BadRequest(f"{model.__name__} does not hold")
    refused.fields = tuple(sorted(name if name in model.model_fields else "(unknown)" for name in names if name))
    return refused


def answer(model: Answered, status: int = 200, kind: str = JSON) -> Response:
    """The JSON answer of a call."""
    return Response(written(model), status, content_type=kind)


def written(model: Answered) -> bytes:
    """A shape as JSON."""
    return model.__pydantic_serializer__.to_json(model)
