"""
Browser sessions: the session cookie, the cookie that binds an attempt to its browser, and CSRF tokens.

The product's front end starts a session for its user with `POST /session`; the gateway has no password form.
"""

import json
import re
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from flask import Blueprint, Response, current_app, g, make_response, render_template, request

from gateway.crypto.vault import fingerprint
from gateway.database.queries.connect import end_session, open_session, read_session
from gateway.errors import Forbidden, Unauthenticated
from gateway.identity import SESSION_BEYOND_TOKEN
from gateway.web.redirects import flow, here_or_app_address, see_other, with_query
from gateway.web.request_context import runtime

blueprint = Blueprint("session", __name__)

ATTEMPT_SECONDS = 600
NOTICE_SECONDS = 60
HAND_OVER = "session.hand_over"
"""The endpoint where the product signs its user in."""


# -- cookies ---------------------------------------------------------------------------------------------------------


def _name(purpose: str) -> str:
    # The __Host- prefix keeps sub-domains and plain http from setting our cookies; browsers refuse it on http://localhost.
    return f"__Host-{purpose}" if current_app.config["SESSION_COOKIE_SECURE"] else purpose


def _read_cookie(purpose: str) -> str:
    # Our exact form, once: other cookies in the header may be malformed.
    form = rf"(?:^|; ?){_name(purpose)}=([A-Za-z0-9_-]{{43}})(?=;|$)"
    found = re.findall(form, request.environ.get("HTTP_COOKIE", ""))
    return found[0] if len(found) == 1 else ""


def _set_cookie(response: Response, purpose: str, value: str, seconds: int) -> None:
    secure = current_app.config["SESSION_COOKIE_SECURE"]
    response.set_cookie(_name(purpose), value, max_age=seconds, httponly=True, samesite="Lax", secure=secure)


def session_secret() -> str:
    """The secret in this browser's session cookie, or the empty string, which is no session."""
    secret = _read_cookie("gateway")
    if secret and "principal" not in g:
        g.principal = f"session:{fingerprint(secret)[:12]}"
    return secret


def browser_secret() -> str:
    """The secret that binds an attempt to this browser, or the empty string."""
    return _read_cookie("gateway-browser")


def keep_browser(response: Response, secret: str, seconds: int = ATTEMPT_SECONDS) -> None:
    """Set the browser's secret, by default for as long as an attempt may take."""
    _set_cookie(response, "gateway-browser", secret, seconds)


def sign_notice(response: Response, result: Mapping[str, str]) -> None:
    """Let this browser's session see the notice of a result, for a minute: no link can make one up."""
    seal = runtime().vault.keyed_hash(session_secret(), purpose=_purpose(result))
    _set_cookie(response, "gateway-notice", seal, NOTICE_SECONDS)


def is_notice_signed(result: Mapping[str, str]) -> bool:
    """Whether this session has just had that result."""
    return runtime().vault.verify_keyed_hash(_read_cookie("gateway-notice"), session_secret(), purpose=_purpose(result))


def _purpose(result: Mapping[str, str]) -> str:
    return json.dumps(["notice", sorted(result.items())])


# -- forms -----------------------------------------------------------------------------------------------------------


def csrf_token() -> str:
    return runtime().vault.keyed_hash(session_secret(), purpose="form")


def check_sender(*app_origins: str) -> None:
    """Raise Forbidden when the browser says that a form comes from elsewhere than our pages or `app_origins`."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if origin in app_origins:
        return
    if site not in (None, "same-origin", "none") or origin not in (None, runtime().settings.public_url):
        raise Forbidden("the form was sent from an origin that is not listed")


def check_form() -> str:
    """
    The secret of the session that sent the form.

    Raises Forbidden unless our own page sent it, in this session; the CSRF token decides where the browser sends neither header.
    """
    check_sender()
    session = session_secret()
    if not session:
        raise Unauthenticated("no session")
    if not runtime().vault.verify_keyed_hash(request.form.get("csrf", ""), session, purpose="form"):
        raise Forbidden("the form does not have the CSRF token of this session")
    return session


def sign_in_url() -> str:
    """The product's sign-in page, with the way back to the page of this request: a redirect cannot repeat a form."""
    settings = runtime().settings
    if request.endpoint == HAND_OVER:
        back = here_or_app_address(settings, request.form.get("next"))
    elif request.path.startswith("/connections/"):
        back = "/connections"  # its forms are on the list
    else:
        query = request.query_string.decode("ascii", "ignore")
        if request.method == "POST" and flow().return_to:
            query = urlencode({"display": flow().display, "return_to": flow().return_to}, quote_via=quote)
        back = quote(request.path, safe="/") + (f"?{query}" if query else "")
    back = settings.public_url + back if back.startswith("/") else back
    return with_query(settings.app_login_url or "", next=back)


def sign_in_response() -> Response:
    """For a browser without a session: redirect to the product's sign-in, or a page that explains how to sign in."""
    if runtime().settings.app_login_url is None:
        return make_response(render_template("signin.html", login_url=None, signed_out=False), 401)
    return see_other(sign_in_url())


# -- sign in and out -------------------------------------------------------------------------------------------------


@blueprint.post("/session")
def hand_over() -> Response:
    """Start a session for the product's user; 303 to `next` with the session cookie."""
    rt = runtime()
    # Only the product's own front ends may start a session: another site could sign its visitor in as another user.
    check_sender(*rt.settings.app_origins)
    target = here_or_app_address(rt.settings, request.form.get("next"))
    proof = rt.identity.read_access_token(request.form.get("access_token", ""), now=rt.now())
    secret = secrets.token_urlsafe(32)
    expires_at = proof.expires_at + SESSION_BEYOND_TOKEN
    opened = open_session(
        rt.database,
        session_hash=fingerprint(secret),
        user_id=proof.user.id,
        label=proof.user.label,
        expires_at=expires_at,
    )
    if not opened:
        raise Unauthenticated("the user was deleted or banned")
    g.principal = f"user:{proof.user.id}"
    if session_secret():
        end_session(rt.database, fingerprint(session_secret()))
    response = see_other(target)
    _set_cookie(response, "gateway", secret, int((expires_at - rt.now()).total_seconds()))
    return response


@blueprint.post("/session/end")
def end() -> Response:
    # A post from another site comes without the Lax cookie, and must not delete it either. The product may sign its user out here too.
    check_sender(*runtime().settings.app_origins)
    if session_secret():
        if "Origin" not in request.headers:
            check_form()
        end_session(runtime().database, fingerprint(session_secret()))
    response = see_other("/session/end")
    for purpose in ("gateway", "gateway-browser"):
        _set_cookie(response, purpose, "", 0)
    return response


@blueprint.get("/session/end")
def ended() -> Any:
    """The page after signing out. It is here because the product's sign-in might sign the same user in again at once."""
    if read_session(runtime().database, fingerprint(session_secret())) is not None:
        return see_other("/connections")
    return render_template("signin.html", login_url=runtime().settings.app_login_url, signed_out=True)
