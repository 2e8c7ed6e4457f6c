"""
A call of `/v1`: what a route declares of itself, who calls, and what it gets and returns.

The caller is a partner by its key, or a user by a Supabase access token. The database decides whether a key is valid and what it may
do, in the call that does the work.
"""

import json
import re
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from flask import Response, g, request
from pydantic import ValidationError

from gateway.database.queries.connections import check_caller
from gateway.errors import (
    BadRequest,
    DatabaseUnavailable,
    Forbidden,
    Frozen,
    GatewayError,
    RateLimited,
    TooLarge,
    Unauthenticated,
    Unexpected,
    UnsupportedMediaType,
    plain_reason,
)
from gateway.models import Caller
from gateway.partners.keys import KEY_PREFIX, read_key
from gateway.web.request_context import client_address, runtime
from gateway.web.v1.schemas import NoQuery, RequestModel, ResponseModel

_M = TypeVar("_M", bound=RequestModel)
JSON = "application/json"
_LONGEST_NAME = 60
"""Of a field that the caller made up."""
_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/=-]+)", re.ASCII | re.IGNORECASE)
"""RFC 6750 section 2.1. Two headers that a server joined with a comma do not match."""
_ALWAYS_POSSIBLE = (BadRequest, Unauthenticated, Forbidden, Frozen, RateLimited, Unexpected, DatabaseUnavailable)


class Call:
    """
    Makes a view a call of `/v1`: what it declares is enforced here and described in OpenAPI.

    `response` None is the provider's, of any status and form; `errors` are those that other calls do not have; `scope` None: any key will
    do; `headers`: those of the request.

    The view gets the caller, the parsed query and body where it has one, and the variables of its path. What it returns is sent as
    `response`; a view without one stays as it is. The first paragraph of the docstring is the summary in OpenAPI, the rest the text.
    """

    summary = text = ""

    def __init__(
        self,
        response: type[ResponseModel] | None,
        *errors: type[GatewayError],
        scope: str | None,
        status: int = 200,
        query: type[RequestModel] = NoQuery,
        headers: tuple[str, ...] = (),
        body: type[RequestModel] | None = None,
    ) -> None:
        self.response, self.scope, self.status = response, scope, status
        self.query, self.headers, self.body = query, headers, body
        self.errors = frozenset({*errors, *_ALWAYS_POSSIBLE, *((TooLarge, UnsupportedMediaType) if body else ())})

    def __call__(self, view: Callable[..., Any]) -> Callable[..., Response]:
        summary, _, text = " ".join((view.__doc__ or "").replace("\n\n", "\0").split()).partition("\0")
        self.summary, self.text = summary.strip().removesuffix("."), text.strip()
        view.call = self  # type: ignore[attr-defined]
        if (response := self.response) is None:
            return view

        @wraps(view)  # and its `call`
        def handle(**path: Any) -> Response:
            who = caller()
            try:
                parsed = _parse_request(self)
            except GatewayError:
                # An invalid key is reported before a mistake in the request.
                check_caller(runtime().database, who, self.scope)
                raise
            return json_response(response.model_validate(view(who, *parsed, **path)), self.status)

        return handle


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


def _parse_request(call: Call) -> list[RequestModel]:
    """
    The query and the body where the call has them; each parameter at most once.

    Raises BadRequest with the parameters or fields at fault, and UnsupportedMediaType.
    """
    if repeated := [
        (name[:_LONGEST_NAME], "appears twice") for name, values in request.args.lists() if len(values) > 1
    ]:
        raise BadRequest("a repeated parameter", repeated)
    query = validated(call.query, lambda: call.query.model_validate(request.args.to_dict()))
    parsed = [] if call.query is NoQuery else [query]
    return [*parsed, _parse_body(call.body)] if call.body else parsed


def _parse_body(model: type[_M]) -> _M:
    """
    The JSON body as `model`, strictly typed. Flask raises TooLarge.

    Deep nesting is an unknown field or a wrong type, and the parser stops at a depth of 200.
    """
    if request.mimetype != JSON:
        raise UnsupportedMediaType("the body is not JSON")
    body = request.get_data(cache=False)
    parsed = validated(model, lambda: model.model_validate_json(body, strict=True))
    json.loads(body, object_pairs_hook=_refuse_duplicates)
    return parsed


def _refuse_duplicates(pairs: list[tuple[str, object]]) -> None:
    """RFC 8259 section 4: a parser may take either of two values with one name. Only our names get here: the model has checked them."""
    names = [name for name, _ in pairs]
    if duplicates := sorted({name for name in names if names.count(name) > 1}):
        raise BadRequest("a duplicate name", [(name, "appears twice") for name in duplicates])


def validated(model: type[_M], validate: Callable[[], _M]) -> _M:
    """What `validate` makes. Raises BadRequest with a reason for each field at fault."""
    try:
        return validate()
    except ValidationError as error:
        reasons: dict[str, str] = {}
        known = [field.alias or name for name, field in model.model_fields.items()]
        for each in error.errors(include_input=False, include_url=False):
            field, *place = [str(part)[:_LONGEST_NAME] for part in each["loc"]] or ["body"]
            reasons.setdefault(field, ": ".join([*(f"at `{name}`" for name in place[:1]), plain_reason(each, known)]))
        raise BadRequest(f"{model.__name__} does not validate", sorted(reasons.items())) from None


def json_response(model: ResponseModel, status: int = 200, content_type: str = JSON) -> Response:
    return Response(model.__pydantic_serializer__.to_json(model), status, content_type=content_type)
