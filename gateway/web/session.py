"""
The browser's side of identity: the session cookie, the cookie that binds an attempt to its browser, and forms.

`POST /session` is how the product's front end hands over its signed-in user; nobody types a password here.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl, quote, urlencode

from flask import Blueprint, current_app, render_template, request
from werkzeug.wrappers import Response

from gateway.crypto.vault import fingerprint
from gateway.errors import Forbidden, Unauthenticated
from gateway.identity import SESSION_BEYOND_TOKEN
from gateway.services import Runtime
from gateway.web.redirects import here_or_app_address, see_other, with_query

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

blueprint = Blueprint("session", __name__)

ATTEMPT_SECONDS = 600


SERVING: ContextVar[tuple[Runtime, WSGIEnvironment] | None] = ContextVar("serving", default=None)
"""
The instruments of the application that answers now, and what it was asked (PEP 3333); set around each request, since Flask's proxies
cost more than a lookup.
"""


def runtime() -> Runtime:
    """The assembled instruments of this process."""
    serving = SERVING.get()
    return serving[0] if serving else cast("Runtime", current_app.extensions["gateway"])


def _environ() -> WSGIEnvironment:
    serving = SERVING.get()
    return serving[1] if serving else request.environ


# -- cookies ---------------------------------------------------------------------------------------------------------


def _name(purpose: str) -> str:
    # The __Host- prefix keeps sub-domains and plain http from setting ours; browsers refuse it on http://localhost.
    return f"__Host-{purpose}" if runtime().settings.secure else purpose


def _read(purpose: str) -> str:
    # Looked for by its exact form: what else stands in the header is nobody's business here.
    found = _cookie(_name(purpose)).findall(_environ().get("HTTP_COOKIE", ""))
    return str(found[0]) if len(found) == 1 else ""


@cache
def _cookie(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?:^|; ?){re.escape(name)}=([A-Za-z0-9_-]{{43}})(?=;|$)")


def _keep(answer: Response, purpose: str, value: str, seconds: int) -> None:
    # Written by hand: the value is URL-safe base64 and needs none of the quoting that set_cookie looks for.
    secure = "; Secure" if runtime().settings.secure else ""
    answer.headers.add(
        "Set-Cookie", f"{_name(purpose)}={value}; Max-Age={seconds}; Path=/; HttpOnly; SameSite=Lax{secure}"
    )


def session_secret() -> str:
    """The session's secret in this browser's cookie, or the empty string, which is nobody's."""
    return _read("gateway")


def browser_secret() -> str:
    """What binds an attempt to this browser, or the empty string."""
    return _read("gateway-browser")


def keep_browser(answer: Response, secret: str, seconds: int = ATTEMPT_SECONDS) -> None:
    """Keeps the binding for as long as an attempt may last, unless told otherwise."""
    _keep(answer, "gateway-browser", secret, seconds)


# -- forms -----------------------------------------------------------------------------------------------------------


def csrf_token() -> str:
    """The mark that a form of this session has to carry."""
    return runtime().vault.mark(session_secret(), purpose="form")


def form() -> Mapping[str, str]:
    """
    The fields of a form of ours, read once a request; of a repeated one the first.

    Ours are few and URL-encoded (HTML section 4.10.21.7); any other body has no fields.
    """
    environ = _environ()
    fields: Mapping[str, str] | None = environ.get("gateway.form")
    if fields is None:
        fields = {}
        if environ.get("CONTENT_TYPE", "").startswith("application/x-www-form-urlencoded"):
            pairs = parse_qsl(environ["wsgi.input"].read().decode("utf-8", "replace"), max_num_fields=50)
            fields = dict(reversed(pairs))
        environ["gateway.form"] = fields
    return fields


def judge_sender() -> None:
    """Raises Forbidden when the browser says that a form came from elsewhere: Sec-Fetch-Site first, then Origin."""
    environ = _environ()
    site, origin = environ.get("HTTP_SEC_FETCH_SITE"), environ.get("HTTP_ORIGIN")
    if site is not None and site not in ("same-origin", "none"):
        raise Forbidden("the form was sent from another site")
    if origin is not None and origin != runtime().settings.public_url:
        raise Forbidden("the form was sent from another origin")


def judge_form() -> str:
    """
    The secret of the session that the form is of.

    Raises Forbidden unless it came from our own page, of this session: its mark holds where browsers say nothing.
    """
    judge_sender()
    session = session_secret()
    if not session:
        raise Unauthenticated("no session")
    if not runtime().vault.marked(session, form().get("csrf", ""), purpose="form"):
        raise Forbidden("the form does not carry this session's mark")
    return session


def sign_in_answer(**asked: str) -> Response:
    """
    For a browser without a session: off to the product's sign-in with the way back, or a page that says how.

    `asked`: what a form carried, for the query of the page that it was sent from.
    """
    rt = runtime()
    if rt.settings.app_login_url is None:
        return Response(
            render_template("signin.html", login_url=None, signed_out=False), status=401, mimetype="text/html"
        )
    # A POST cannot be repeated by following a link: the way back is the page that it was sent from.
    query = urlencode(asked, quote_via=quote) if asked else request.query_string.decode("ascii", "ignore")
    back = rt.settings.public_url + quote(request.path, safe="/") + (f"?{query}" if query else "")
    return see_other(with_query(rt.settings.app_login_url, next=back))


# -- hand-over -------------------------------------------------------------------------------------------------------


@blueprint.post("/session")
def hand_over() -> Response:
    """The product's front end hands over its signed-in user; 303 to `next` with the session cookie."""
    rt = runtime()
    _judge_origin()
    target = here_or_app_address(rt.settings, request.form.get("next"))
    proof = rt.identity.read_access_token(request.form.get("access_token", ""), now=rt.now())
    secret = secrets.token_urlsafe(32)
    expires_at = proof.expires_at + SESSION_BEYOND_TOKEN
    opened = rt.store.open_session(
        session_hash=fingerprint(secret), user_id=proof.user.id, label=proof.user.label, expires_at=expires_at
    )
    if not opened:
        raise Unauthenticated("the user was deleted or banned")
    if session_secret():
        rt.store.end_session(fingerprint(session_secret()))
    answer = see_other(target)
    _keep(answer, "gateway", secret, int((expires_at - rt.now()).total_seconds()))
    return answer


def _judge_origin() -> None:
    """Only the product's own front ends may sign somebody in here: a session planted by another would be theirs to watch."""
    settings = runtime().settings
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
    if origin is None and site in (None, "same-origin", "none"):
        return
    if origin not in (*settings.app_origins, settings.public_url):
        raise Forbidden("the session was handed over from an origin that is not listed")


@blueprint.post("/session/end")
def end() -> Any:
    """Signs out here."""
    # Also without a session: a Lax cookie stays behind on another site's post, and the answer would take it away.
    judge_sender()
    if session_secret():
        judge_form()
        runtime().store.end_session(fingerprint(session_secret()))
    answer = see_other("/session/end")
    for purpose in ("gateway", "gateway-browser"):
        _keep(answer, purpose, "", 0)
    return answer


@blueprint.get("/session/end")
def ended() -> Any:
    """Where signing out ends: here, since the product's sign-in might sign the same user straight in again."""
    if runtime().store.session(fingerprint(session_secret())) is not None:
        return see_other("/connections")
    return render_template("signin.html", login_url=runtime().settings.app_login_url, signed_out=True)
