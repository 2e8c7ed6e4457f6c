"""Error responses: problem+json (RFC 9457) below /v1, HTML elsewhere."""

import math
from datetime import timedelta
from traceback import walk_tb
from typing import Any
from urllib.parse import urlsplit

import structlog
from flask import Flask, Response, make_response, render_template, request
from werkzeug.exceptions import HTTPException

from gateway.catalog import AnyEntry
from gateway.errors import (
    BadRequest,
    DatabaseUnavailable,
    Forbidden,
    GatewayError,
    Held,
    InstallNotStarted,
    MethodNotAllowed,
    NotFound,
    ProviderUnavailable,
    Quota,
    RateLimited,
    RefreshInProgress,
    ReturnToRefused,
    TooLarge,
    Unauthenticated,
    Unexpected,
    UnsupportedMediaType,
    UserMismatch,
    counted,
)
from gateway.web import auth_rate_limit
from gateway.web.language import text
from gateway.web.redirects import flow, origin_of, public_id, see_other, with_query
from gateway.web.request_context import is_api, request_id, route, runtime
from gateway.web.security_headers import popup_friendly
from gateway.web.session import HAND_OVER, sign_in_response, sign_in_url
from gateway.web.v1.json_api import json_response
from gateway.web.v1.schemas import FieldError, Problem

log = structlog.get_logger(__name__)

_BY_STATUS = {kind.status: kind for kind in (NotFound, MethodNotAllowed, TooLarge, UnsupportedMediaType, RateLimited)}


def register(app: Flask) -> None:
    app.register_error_handler(GatewayError, respond)
    app.register_error_handler(HTTPException, _respond_http)
    app.register_error_handler(Exception, _respond_unexpected)


def respond(error: GatewayError, *, left_installed: AnyEntry | None = None) -> Response:
    """The response for one of our errors. `left_installed`: the provider where our app may still be installed."""
    error = auth_rate_limit.apply(error)
    response = None if is_api() else _redirect(error, left_installed)
    if response is None:
        log.info("request.refused", error=error.slug, status=error.status, reason=str(error))
        response = problem_json(error) if is_api() else problem_page(error, left_installed=left_installed)
    known = isinstance(error, ProviderUnavailable) and error.retry_after is not None
    if known or isinstance(error, DatabaseUnavailable | RefreshInProgress | RateLimited | Held):
        response.headers["Retry-After"] = str(math.ceil(error.retry_after or 5))
    return response


def _redirect(error: GatewayError, left_installed: AnyEntry | None) -> Response | None:
    """Back to the product with the slug, or to the sign-in and back; None where a page has to say what happened."""
    found = flow()
    if error.returned and (found.return_to or found.is_started):
        left = {"left": "1"} if left_installed and not found.return_to else {}
        return see_other(found.url(error=error.slug, **left))
    if isinstance(error, Unauthenticated) and request.endpoint != HAND_OVER:
        return sign_in_response()
    return None


def _respond_http(error: HTTPException) -> Response:
    status = error.code or 500
    other = BadRequest if status < 500 else Unexpected  # noqa: PLR2004
    kind: type[GatewayError] = _BY_STATUS.get(status, other)
    response = respond(kind(error.name))
    if allowed := getattr(error, "valid_methods", None):  # RFC 9110 section 15.5.6
        response.headers["Allow"] = ", ".join(sorted(allowed))
    return response


def _respond_unexpected(error: Exception) -> Response:
    # Only file names and lines: local variables and messages may hold secrets.
    frames = walk_tb(error.__traceback__)
    trace = [f"{frame.f_code.co_filename.rsplit('/', 1)[-1]}:{line}" for frame, line in frames]
    log.error("request.failed", kind=type(error).__name__, trace=trace[-8:], route=route())
    return respond(Unexpected(type(error).__name__))


def problem_page(error: GatewayError, *, left_installed: AnyEntry | None = None, opener: str | None = None) -> Response:
    """The page of a problem, which also tells the opener of a pop-up: `opener`, where the page's own address names it."""
    popup_friendly(yes=True)
    key = f"problem.{error.wording or error.slug}"
    page = render_template(
        "problem.html",
        slug=error.slug,
        title=text(f"{key}.title"),
        text=text(f"{key}.text"),
        action=_action(error),
        left=left_installed,
        meant_for=error.meant_for if isinstance(error, UserMismatch) else None,
        request_id=request_id(),
        message={
            "outcome": "failed" if flow().display == "popup" else "",
            "target_origin": _openers(error) if opener is None else opener,
            "error": error.slug,
            "provider": flow().provider if runtime().catalog.named.get(flow().provider) else "",
        },
    )
    return make_response(page, error.status)


def _openers(error: GatewayError) -> str:
    """
    The origins that may hear the slug: the product's that started the flow, else each of the product's.

    A front end whose origin is not listed hears that it is not listed, and nothing else.
    """
    if isinstance(error, ReturnToRefused) or (isinstance(error, Forbidden) and request.endpoint == HAND_OVER):
        return "*"
    return origin_of(flow().return_to or "") if flow().return_to else " ".join(runtime().settings.app_origins)


def _action(error: GatewayError) -> dict[str, object]:
    """The button: sign in, try again, or back to the product, whose query says what happened."""
    settings, found = runtime().settings, flow()
    if isinstance(error, Unauthenticated) and settings.app_login_url:
        return {"url": sign_in_url(), "text": text("page.sign_in")}
    if isinstance(error, InstallNotStarted):
        return {"url": f"/connect/{public_id(error.provider)}", "text": text("page.start")}
    if error.remedy == "wait" and request.method == "GET" and request.args.keys().isdisjoint(("state", "error")):
        return {"url": request.full_path.rstrip("?"), "text": text("page.again")}
    home = found.return_to or settings.home_url
    if not home:
        return {"url": "/connections", "text": text("page.connections")}
    provider = {"provider": found.provider} if runtime().catalog.named.get(found.provider) else {}
    product = settings.brand_name or urlsplit(home).netloc
    return {"url": with_query(home, error=error.slug, **provider), "text": text("page.back", product=product)}


def _limit(quota: Quota | None) -> dict[str, Any]:
    if quota is None:
        return {}
    counted.set(quota)
    return {"limit": quota.limit, "used": quota.used, "resets_at": runtime().now() + timedelta(seconds=quota.seconds)}


def problem_json(error: GatewayError) -> Response:
    """RFC 9457, with `remedy`: who must act."""
    fields = error.errors if isinstance(error, BadRequest) else ()
    settings = runtime().settings
    body = Problem(
        type=f"{settings.public_url}/problems/{error.slug}",
        title=error.title,
        status=error.status,
        detail=error.detail,
        code=error.slug,
        remedy=error.remedy,
        request_id=request_id(),
        errors=tuple(FieldError(field=name, reason=reason) for name, reason in fields) or None,
        **_limit(error.quota if isinstance(error, RateLimited) else None),
        connect_url=f"{settings.public_url}/connect/{public_id(error.provider)}" if error.provider else None,
    )
    response = json_response(body, error.status, "application/problem+json")
    if isinstance(error, Unauthenticated):
        response.headers["WWW-Authenticate"] = 'Bearer realm="gateway"'  # RFC 6750 section 3
    return response
