"""
Parse a query or a JSON body, make a JSON response.
"""

from __future__ import annotations

import json
from typing import TypeVar

from flask import Response, request
from pydantic import ValidationError

from gateway.errors import BadRequest, UnsupportedMediaType
from gateway.web.v1.schemas import NoQuery, RequestModel, ResponseModel

_M = TypeVar("_M", bound=RequestModel)
JSON = "application/json"


def parse_query(model: type[_M]) -> _M:
    """
    The query of this request as `model`; each parameter at most once.

    Raises BadRequest with the parameters at fault.
    """
    try:
        if any(len(values) > 1 for values in request.args.listvalues()):
            raise BadRequest("a repeated parameter")
        return model.model_validate(request.args.to_dict())
    except ValidationError as error:
        raise _bad_request(error, model) from None


def parse_body(model: type[_M]) -> _M:
    """
    The JSON body of this request as `model`, strictly typed. A call with a body takes no query.

    Raises UnsupportedMediaType, TooLarge (by Flask) and BadRequest with the fields at fault. Deep nesting is an unknown field or a
    wrong type, and the parser stops at a depth of 200.
    """
    parse_query(NoQuery)
    if request.mimetype != JSON:
        raise UnsupportedMediaType("the body is not JSON")
    body = request.get_data(cache=False)
    try:
        parsed = model.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise _bad_request(error, model) from None
    json.loads(body, object_pairs_hook=_refuse_duplicates)
    return parsed


def _refuse_duplicates(pairs: list[tuple[str, object]]) -> None:
    """RFC 8259 section 4: a parser may take either of two values with one name. Only our names get here: the model has checked them."""
    names = [name for name, _ in pairs]
    if duplicates := sorted({name for name in names if names.count(name) > 1}):
        raise BadRequest("a duplicate name", [(name, "Appears twice") for name in duplicates])


def _bad_request(error: ValidationError, model: type[RequestModel]) -> BadRequest:
    """Only our own names: a name that the caller made up is not repeated."""
    reasons: dict[str, str] = {}
    for each in error.errors(include_input=False, include_url=False, include_context=False):
        name = str(each["loc"][0]) if each["loc"] else ""
        if name:
            reasons.setdefault(name if name in model.model_fields else "(unknown)", each["msg"])
    return BadRequest(f"{model.__name__} does not validate", sorted(reasons.items()))


def json_response(model: ResponseModel, status: int = 200, content_type: str = JSON) -> Response:
    """A model as the JSON response."""
    return Response(model.__pydantic_serializer__.to_json(model), status, content_type=content_type)
