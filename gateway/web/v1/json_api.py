"""
A call of `/v1`: who calls, its query or JSON body, and its JSON response.

The caller is a partner by its key, or a user by a Supabase access token. The database decides whether a key is valid and what it may
do, in the call that does the work.
"""

from __future__ import annotations

import json
import re
from typing import TypeVar

from flask import Response, g, request
from pydantic import ValidationError

from gateway.errors import BadRequest, Unauthenticated, UnsupportedMediaType
from gateway.models import Caller
from gateway.partners.keys import KEY_PREFIX, read_key
from gateway.web.request_context import client_address, runtime
from gateway.web.v1.schemas import NoQuery, RequestModel, ResponseModel

_M = TypeVar("_M", bound=RequestModel)
JSON = "application/json"
_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/=-]+)", re.ASCII | re.IGNORECASE)
"""RFC 6750 section 2.1. Two headers that a server joined with a comma do not match."""


def caller() -> Caller:
    """
    The caller of this request.

    Raises Unauthenticated without a well-formed key or a valid access token. The database still has to check the key, and whether
    the user is banned or deleted: pass the Caller on.
    """
    rt = runtime()
    bearer = _BEARER.fullmatch(request.environ.get("HTTP_AUTHORIZATION", ""))
    if bearer is None:
        raise Unauthenticated("no bearer token")
    if bearer[1].startswith(KEY_PREFIX):
        key_hash = read_key(bearer[1])
        g.principal = f"key:{key_hash[:12]}"
        return Caller(key_hash=key_hash, address=client_address())
    user = rt.identity.read_access_token(bearer[1], now=rt.now()).user
    g.principal = f"user:{user.id}"
    return Caller(user_id=user.id, address=client_address())


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
