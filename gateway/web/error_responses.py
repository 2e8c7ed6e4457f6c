"""
Every error, shown where it happened: problem+json (RFC 9457) below /v1, a page elsewhere. Decided by path, because Flask
knows no blueprint for an address that matches nothing.
"""

from __future__ import annotations

import math

import structlog
from flask import Flask, current_app, render_template, request
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response

from gateway.errors import (
    BadRequest,
    DatabaseUnavailable,
    GatewayError,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    ProviderUnavailable,
    RateLimited,
    RefreshInProgress,
    TooLarge,
    Unexpected,
    UnsupportedMediaType,
    UserMismatch,
)
from gateway.web import auth_rate_limit
from gateway.web.session import runtime
from gateway.web.v1.json_api import answer as answer_json
from gateway.web.v1.schemas import Problem

log = structlog.get_logger(__name__)

WHO = {
    "fix_request": "Whoever made the link or sent the request.",
    "reconnect": "You can, by connecting again.",
    "wait": "It usually passes with time. If it does not: whoever runs this service.",
    "operator": "Whoever runs this service.",
    "report": "Whoever runs this service, once they know about it.",
}
_BY_STATUS: dict[int, type[GatewayError]] = {
    404: NotFound,
    405: MethodNotAllowed,
    413: TooLarge,
    415: UnsupportedMediaType,
    429: RateLimited,
}


def register(app: Flask) -> None:
    """Errors of ours, of werkzeug's, and everything else, each once."""
    app.register_error_handler(GatewayError, refuse)
    app.register_error_handler(HTTPException, _refuse_http)
    app.register_error_handler(Exception, _refuse_unexpected)


def refuse(error: GatewayError) -> Response:
    """The answer to an error of ours."""
    error = auth_rate_limit.judged(current_app, error)
    log.info("request.refused", error=error.slug, status=error.status, reason=str(error), path=_logged_path())
    if request.path == "/v1" or request.path.startswith("/v1/"):
        return problem_json(error)
    return problem_page(error)


def _refuse_http(error: HTTPException) -> Response:
    kind = _BY_STATUS.get(error.code or 500, BadRequest if (error.code or 500) < 500 else Unexpected)  # noqa: PLR2004
    answer = refuse(kind(error.name))
    if error.code == 405 and (allowed := getattr(error, "valid_methods", None)):  # noqa: PLR2004 - RFC 9110 section 15.5.6
        answer.headers["Allow"] = ", ".join(sorted(allowed))
    return answer


def _refuse_unexpected(error: Exception) -> Response:
    # The traceback names code alone: locals and messages may hold secrets and stay out of the log.
    trace, here = [], error.__traceback__
    while here is not None:
        trace.append(f"{here.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{here.tb_lineno}")
        here = here.tb_next
    log.error("request.failed", kind=type(error).__name__, trace=trace[-8:], path=_logged_path())
    return refuse(Unexpected(type(error).__name__))


def _logged_path() -> str:
    """The rule that matched, so that neither ids nor secrets in an address reach the log."""
    return request.url_rule.rule if request.url_rule else "(no route)"


def problem_page(error: GatewayError, *, explained: bool = False) -> Response:
    """The page of one problem; as a reference page it answers 200."""
    problem = {
        "slug": error.slug,
        "status": error.status,
        "title": error.title,
        "meaning": error.meaning,
        "way_on": error.way_on,
        "who": WHO[error.remedy],
    }
    action = None if explained else {"href": "/connections", "label": "Your connections"}
    left = error.left_installed
    meant_for = error.meant_for if isinstance(error, UserMismatch) else None
    page = render_template(
        "problem.html", problem=problem, action=action, explained=explained, left=left, meant_for=meant_for
    )
    answer = Response(page, status=200 if explained else error.status, mimetype="text/html")
    return answer if explained else _with_retry(answer, error)


def problem_json(error: GatewayError) -> Response:
    """RFC 9457, with `remedy`: who must act."""
    body = Problem(
        type=f"{runtime().settings.public_url}/problems/{error.slug}",
        title=error.title,
        status=error.status,
        detail=f"{error.meaning} {error.way_on}",
        remedy=error.remedy,
        fields=(isinstance(error, BadRequest) and error.fields) or None,
    )
    answer = answer_json(body, error.status, "application/problem+json")
    if error.status == 401:  # noqa: PLR2004 - RFC 6750 section 3
        answer.headers["WWW-Authenticate"] = 'Bearer realm="gateway"'
    return _with_retry(answer, error)


def _with_retry(answer: Response, error: GatewayError) -> Response:
    known = isinstance(error, ProviderUnavailable) and error.retry_after is not None
    if known or isinstance(error, DatabaseUnavailable | Overloaded | RefreshInProgress | RateLimited):
        answer.headers["Retry-After"] = str(math.ceil(error.retry_after or 5))
    return answer
