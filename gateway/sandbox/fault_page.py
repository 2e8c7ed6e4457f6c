"""
The sandbox's own page: what can go wrong at a provider, by name, one button each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response, redirect, render_template, request
from werkzeug.wrappers import Response as AnyResponse

from .consent import guarded
from .state import State

Action = Callable[[State, str], object]


def _fault(name: str, endpoint: str = "token", **options: Any) -> Action:
    return lambda state, provider: state.add_fault(name, provider, endpoint, **options)


def _suspend(state: State, _provider: str) -> None:
    state.switches["location_active"] = False


def _activate(state: State, _provider: str) -> None:
    state.switches["location_active"] = True


ACTIONS: dict[str, tuple[str, str, Action]] = {
    "revoke": ("Revoke at the provider", "Every consent ends there, as if its owner had removed the app.", State.withdraw),
    "expire": ("Expire now", "The provider accepts no access token any more; refresh tokens stay valid.", State.expire),
    "another_account": ("Another account", "The next consent is for another account than the chosen one.", _fault("another_account", "authorize")),
    "missing_scope": ("Missing scope", "The next token response grants one scope less.", _fault("scope_less")),
    "refresh_refused": (
        "Refresh refused", "The next refresh is answered with invalid_grant.", _fault("error", grant_type="refresh_token"),
    ),
    "suspended": ("Suspended", "HighLevel only: its sub-accounts are not active, until they are activated.", _suspend),
    "active": ("Active again", "HighLevel only: its sub-accounts are active.", _activate),
    "slow": ("Slow", "The next token response takes three seconds.", _fault("slow", seconds=3)),
    "500": ("Error 500", "The next token request fails with status 500.", _fault("status", status=500)),
}  # fmt: skip
"""Name in the form to title, sentence and what it does."""


def make_blueprint(state: State, offers: tuple[str, ...], names: dict[str, str]) -> Blueprint:
    """/faults"""
    blueprint = Blueprint("fault_page", __name__)
    blueprint.add_url_rule("/faults", "show", lambda: _show(state, offers, names))
    blueprint.add_url_rule("/faults", "cause", lambda: _cause(state, offers), methods=["POST"])
    return blueprint


def _show(state: State, offers: tuple[str, ...], names: dict[str, str]) -> Response:
    done = ACTIONS.get(request.args.get("done", ""))
    page = render_template(
        "faults.html",
        actions=ACTIONS,
        offers={each: names.get(each, each) for each in offers},
        chosen=request.args.get("provider", ""),
        done=done and done[0],
        planned=[f"{fault.provider}: {fault.name}" for fault in list(state.faults)],
    )
    return guarded(state, page)


def _cause(state: State, offers: tuple[str, ...]) -> AnyResponse:
    provider, name = request.form.get("provider", ""), request.form.get("fault", "")
    same_site = request.headers.get("Sec-Fetch-Site", "same-origin") == "same-origin"
    if provider not in offers or name not in ACTIONS or not same_site:
        return Response(status=400)
    ACTIONS[name][2](state, provider)
    return redirect(f"/faults?provider={provider}&done={name}", 303)
