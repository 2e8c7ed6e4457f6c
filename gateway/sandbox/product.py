"""
A small product, Northwind, whose users connect their accounts through the gateway.

It uses what every product uses: the gateway's origin, `gateway.js`, `POST /session`, and the result in the query when a user returns. With
partners' keys it also shows a call of its own back end and another company's link. Its two users sign in by a choice; their access tokens
come from the simulated sign-in service.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode, urlsplit

import psycopg
from flask import Blueprint, Response, make_response, redirect, render_template, request
from markupsafe import Markup
from psycopg.rows import dict_row
from werkzeug.wrappers import Response as AnyResponse

from . import partner
from .state import State
from .supabase import USERS, access_token

COOKIE = "northwind_user"
REMEMBERED = 20
CARDS: dict[str, tuple[str, str, str]] = {
    "ghl": ("HighLevel", "CRM", "Contacts, pipelines and appointments."),
    "ghl_white_label": ("HighLevel, white-label", "CRM", "For agencies with a domain of their own."),
    "google": ("Gmail", "Email", "Send quotes from your own address."),
    "microsoft": ("Microsoft 365", "Email", "Send quotes from your own address."),
    "ringcentral": ("RingCentral", "Phone", "Call customers with one click."),
    "zoom": ("Zoom Phone", "Phone", "Call customers with one click."),
}
"""Provider id to name, kind and purpose in this product."""
SHARES = ("google", "ghl")
"""The scopes that Acme Analytics requests in the example."""
SENTENCES = {
    "access_denied": "You did not allow it, so nothing was connected.",
    "provider_unavailable": "The provider is not responding. Try again in a minute.",
    "provider_garbled": "The provider sent an invalid response. We have been notified.",
    "client_rejected": "The provider refused our registration. We have been notified.",
    "user_mismatch": "The link was for another user, so nothing was connected.",
    "state_invalid": "The link is no longer valid, so nothing was connected.",
    "closed": "The window was closed too early, so nothing was connected.",
}


def make_blueprint(state: State, offers: tuple[str, ...]) -> Blueprint:
    """The product's pages at the root."""
    rooms = Blueprint("product", __name__)
    rooms.before_request(lambda: _at_its_own_address(state))
    rooms.add_url_rule("/", "home", lambda: _home(state, offers))
    rooms.add_url_rule("/now", "now", lambda: _protected(state, _now(state, _user()) or ""))
    rooms.add_url_rule("/as/<name>", "become", _become)
    rooms.add_url_rule("/login", "login", lambda: _login(state), methods=["GET", "POST"])
    rooms.add_url_rule("/happened", "happened", lambda: _note(state), methods=["POST"])
    rooms.add_url_rule("/share", "share", lambda: _share(state), methods=["POST"])
    rooms.add_url_rule("/shared", "shared", lambda: _shared(state), methods=["GET", "POST"])
    return rooms


def _at_its_own_address(state: State) -> AnyResponse | None:
    """Another host name would be another origin, which the gateway does not list."""
    own = urlsplit(state.origin).netloc
    if request.host != own and request.method == "GET" and request.host.rpartition(":")[0] in ("localhost", "[::1]"):
        return redirect(state.origin + request.full_path.rstrip("?"), 302)
    return None


def _user() -> str:
    name = request.cookies.get(COOKIE, "alice")
    return name if name in USERS else "alice"


def _card(state: State, provider: str) -> dict[str, str]:
    name, kind, text = CARDS.get(provider, (provider.replace("_", " ").title(), "Account", "Connect your account."))
    home = urlencode({"return_to": f"{state.origin}/"})
    return {"id": provider, "name": name, "kind": kind, "text": text, "next": f"/connect/{provider}?{home}"}


def _home(state: State, offers: tuple[str, ...]) -> Response:
    name = _user()
    notice = _notice(request.args)
    if notice is not None:
        _remember(state, name, notice)
    page = render_template(
        "product.html",
        name=name,
        user=USERS[name],
        users=USERS,
        cards=[_card(state, provider) for provider in offers],
        token=access_token(state, USERS[name]),
        gateway=state.gateway,
        notice=notice,
        happened=list(reversed(state.happened[name])),
        now=_now(state, name),
        curl=_curl(state, name),
        partners=partner.NAMES,
        names={provider: card[0] for provider, card in CARDS.items()},
        shares=SHARES if partner.ACME in state.partner_keys else (),
    )
    return _protected(state, page)


def _now(state: State, name: str) -> Markup | None:
    """What is connected, the stored rows, and the events; None without the back end's key."""
    if partner.NORTHWIND not in state.partner_keys:
        return None
    user_id = USERS[name].id
    connections = partner.connections(state, user_id)
    return Markup(  # noqa: S704 - a template of ours
        render_template(
            "now.html",
            connections=connections,
            events=partner.events(state, user_id),
            stored=_stored(state, user_id) if connections else {},
            names={provider: card[0] for provider, card in CARDS.items()},
        )
    )


_ROWS = """
    select id::text, name, type, token, refresh, expires, data from public.provider_data where auth_provider_id::text = %s
"""


def _stored(state: State, user_id: str) -> dict[str, str]:
    """The rows as the database holds them: tokens encrypted."""
    if not state.database:
        return {}
    try:
        with psycopg.connect(state.database, row_factory=dict_row, connect_timeout=3) as database:
            found = database.execute(_ROWS, [user_id]).fetchall()
    except psycopg.Error:
        return {}
    return {row["id"]: json.dumps(row, indent=1, default=str) for row in found}


def _notice(query: Any) -> dict[str, str] | None:
    """The gateway's result in the query when a user returns: `connection` and `provider`, or `error`."""
    provider = query.get("provider", "")
    name = CARDS.get(provider, (provider or "The account",))[0]
    if query.get("connection"):
        return {"tone": "good", "title": f"{name} is connected", "text": query["connection"], "code": "connected"}
    if query.get("error"):
        text = SENTENCES.get(query["error"], "Something went wrong, and nothing was connected.")
        return {"tone": "bad", "title": f"{name} was not connected", "text": text, "code": query["error"]}
    return None


def _remember(state: State, name: str, notice: dict[str, str]) -> None:
    """Shown once, also if the page is reloaded."""
    with state.lock:
        mine = state.happened[name]
        if not mine or mine[-1] != notice:
            mine.append(notice)
        del mine[:-REMEMBERED]


def _note(state: State) -> Response:
    """The result of a pop-up, sent by the page that opened it; returns the notice to show."""
    said = request.get_json(silent=True)
    notice = _notice({k: str(v)[:100] for k, v in said.items() if v}) if isinstance(said, dict) else None
    if notice is None or not _from_here():
        return Response(status=400)
    _remember(state, _user(), notice)
    return make_response(notice)


# -- partners --------------------------------------------------------------------------------------------------------


def _curl(state: State, name: str) -> str | None:
    """The curl line that reads the token of the last connection; None without a key."""
    key = state.partner_keys.get(partner.NORTHWIND)
    made = [each["text"] for each in state.happened[name] if each["code"] == "connected"]
    path = f"connections/{made[-1]}/token" if made else "connections"
    return key and f'curl -H "Authorization: Bearer {key}" {state.gateway}/v1/{path}'


def _share(state: State) -> AnyResponse:
    """
    Acme's server makes a link for the user signed in here, and the browser is sent to it.

    The user's session is passed to the gateway on the way, because the gateway may have another user's session in this browser.
    `known=0`: without that, as from another product's page.
    """
    if partner.ACME not in state.partner_keys or not _from_here():
        return Response(status=400)
    provider = request.form.get("provider", "")
    url = partner.make_link(state, USERS[_user()].id, provider)
    if url is None:
        return redirect(f"/?{urlencode({'error': 'failed', 'provider': provider})}", 303)
    return redirect(url, 303) if request.form.get("known") == "0" else _hand_over(state, _user(), url)


def _shared(state: State) -> AnyResponse:
    """
    Back from a link.

    If the browser had no session at the gateway, there is a `confirmation`, and this server names its signed-in user; if another account is
    connected, the user is asked.
    """
    session, confirmation = request.values.get("connect_session", ""), request.values.get("confirmation", "")
    said = {name: request.args[name] for name in ("connection", "error") if name in request.args}
    if confirmation and partner.ACME in state.partner_keys and session.replace("-", "").isalnum():
        answer = {"answer": request.form["answer"]} if request.form.get("answer") in ("replace", "no") else {}
        said = partner.complete(state, session, user_id=USERS[_user()].id, confirmation=confirmation, **answer)
        if said.get("error") == "pending_confirmation":
            fields = {
                "connect_session": session,
                "confirmation": confirmation,
                "provider": request.values.get("provider", ""),
            }
            return _protected(state, render_template("shared.html", fields=fields))
    return redirect("/?" + urlencode({"provider": request.values.get("provider", "")} | said), 303)


def _from_here() -> bool:
    return request.headers.get("Sec-Fetch-Site", "same-origin") == "same-origin"


def _become(name: str) -> AnyResponse:
    answer = redirect("/", 303)
    if name in USERS:
        _sign_in(answer, name)
    return answer


def _sign_in(answer: AnyResponse, name: str) -> None:
    answer.set_cookie(COOKIE, name, httponly=True, samesite="Lax")


def _login(state: State) -> Response:
    """GET: choose a user. POST: sign in, and pass the session to the gateway by a form in the top window."""
    onward = _next(state, request.values.get("next", ""))
    name = request.form.get("user", "")
    if name not in USERS:
        return _protected(state, render_template("login.html", users=USERS, next=onward, gateway=state.gateway))
    answer = _hand_over(state, name, onward)
    _sign_in(answer, name)
    return answer


def _hand_over(state: State, name: str, onward: str) -> Response:
    """A page whose form passes the signed-in user to the gateway and continues there."""
    fields = {"access_token": access_token(state, USERS[name]), "next": _next(state, onward)}
    return _protected(state, render_template("handover.html", user=USERS[name], gateway=state.gateway, fields=fields))


def _next(state: State, target: str) -> str:
    """A path at the gateway or a URL here; anything else becomes the gateway's list of connections."""
    own = f"{state.gateway}/"
    if target.startswith(own):
        target = "/" + target[len(own) :]
    path = target.startswith("/") and not target.startswith(("//", "/\\"))
    return target if path or target.startswith(f"{state.origin}/") else "/connections"


def _protected(state: State, page: str) -> Response:
    """
    The page with its policies.

    `strict-origin`, because the gateway checks the Origin header of a session request, which browsers hide under stricter policies;
    `form-action` names the gateway, and it and this origin are all that the redirects after it touch.
    """
    answer = make_response(page)
    answer.headers["Referrer-Policy"] = "strict-origin"
    answer.headers["Content-Security-Policy"] = (
        f"default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self' {state.gateway}; "
        f"connect-src 'self' {state.gateway}; form-action 'self' {state.gateway}; frame-ancestors 'none'; base-uri 'none'"
    )
    return answer
