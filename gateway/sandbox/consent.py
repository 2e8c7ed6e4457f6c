"""
The consent page, the same for every simulated provider.

A provider's module supplies its name, accounts and optional scopes. The form posts to its own URL, so that the request stays in the query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from authlib.common.urls import add_params_to_uri
from flask import Response, make_response, render_template, request

from .fault_plan import Fault
from .state import Account, Code, State, fresh

TEXTS = {
    "openid": "Know who you are",
    "email": "See your e-mail address",
    "profile": "See your name and picture",
    "offline_access": "Keep access while you are away",
    "https://www.googleapis.com/auth/gmail.send": "Send e-mail as you",
    "https://www.googleapis.com/auth/gmail.readonly": "Read your e-mail",
    "User.Read": "Read your profile",
    "Mail.ReadWrite": "Read and change your e-mail",
    "Mail.Send": "Send e-mail as you",
    "locations.readonly": "See the sub-account's name and settings",
    "companies.readonly": "See the agency's name and settings",
    "contacts.readonly": "See contacts",
    "contacts.write": "Change contacts",
    "oauth.readonly": "See where the app is installed",
    "oauth.write": "Get access to the agency's sub-accounts",
    "users.readonly": "See users",
    "ReadAccounts": "See the account and its extensions",
    "SMS": "Send and receive text messages",
    "ReadMessages": "Read messages",
    "ReadCallLog": "See the call log",
    "ReadPresence": "See who is available",
    "RingOut": "Place calls",
    "SubscriptionWebhook": "Be told about new calls and messages",
    "user:read:user": "See who you are",
    "phone:read:user": "See your phone settings",
    "phone:read:list_call_logs": "See the call log",
}


@dataclass(frozen=True)
class Stage:
    """What a provider shows on the page. `basic` scopes cannot be deselected; `granular`: the others can."""

    provider: str
    name: str
    accounts: Sequence[Account]
    granular: bool = False
    basic: frozenset[str] = frozenset()
    code_seconds: float = 600
    question: str = "Which account?"
    bulk: Mapping[str, str] = field(default_factory=dict)
    """Locations, of which the agency chooses those in which the app is installed."""

    def chosen(self, state: State) -> Account | None:
        """The account in the form (by default the first), or None for a denial. The fault `another_account` takes the next one."""
        if request.form.get("answer", "deny") != "allow":
            return None
        wanted = request.form.get("account", self.accounts[0].id)
        found = next((account for account in self.accounts if account.id == wanted), None)
        if found and state.take_faults({"another_account"}, self.provider, "authorize", {}):
            return self.accounts[(self.accounts.index(found) + 1) % len(self.accounts)]
        return found

    def granted(self, scope: str) -> str:
        """The requested scopes that are still selected."""
        if not self.granular or "choose_scope" not in request.form:
            return scope
        kept = set(request.form.getlist("grant_scope")) | self.basic
        return " ".join(name for name in scope.split() if name in kept)


def ask(state: State, stage: Stage, scope: str) -> Response:
    """The page. `scope`: the requested scopes, separated by spaces."""
    listed = [{"name": n, "text": TEXTS.get(n, ""), "basic": n in stage.basic} for n in scope.split()]
    page = render_template(
        "consent.html",
        stage=stage,
        scopes=listed,
        host=request.args.get("redirect_uri", "").partition("://")[2].partition("/")[0],
        action=request.full_path,
    )
    return guarded(state, page)


def refuse(state: State, stage: Stage, problem: str, status: int = 400) -> Response:
    """A page instead of a redirect: RFC 6749 section 4.1.2.1, for an untrusted redirect URI."""
    return guarded(state, render_template("refused.html", stage=stage, problem=problem), status)


def guarded(state: State, page: str, status: int = 200) -> Response:
    """
    The page with its Content-Security-Policy.

    `form-action` names every origin of the chain of redirects that follows the form, because browsers check each of them.
    """
    answer = make_response(page, status)
    onward = " ".join(sorted(state.origins))
    answer.headers["Content-Security-Policy"] = (
        f"default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self' {onward}; "
        "frame-ancestors 'none'; base-uri 'none'"
    )
    answer.headers["Referrer-Policy"] = "no-referrer"
    answer.headers["Cache-Control"] = "no-store"
    return answer


def save_code(state: State, stage: Stage, value: str, account: Account, scope: str) -> Code:
    """Store the code with its request, and the fault that the form selects for its redemption."""
    query = request.args.to_dict()
    until = state.now() + stage.code_seconds
    bound = (stage.provider, query["client_id"], query["redirect_uri"], scope, account, until, query)
    code = Code(value, *bound)
    with state.lock:
        state.codes[value] = code
        for name in request.form.getlist("fault"):
            if name in PLANNED:
                state.faults.append(Fault(name, stage.provider, "token", 1, code=value, options=dict(PLANNED[name])))
    return code


PLANNED: Mapping[str, Mapping[str, int]] = {"slow": {"seconds": 3}, "status": {"status": 500}}
"""The faults that the page offers, for the token request of this code."""


def back(redirect_uri: str, **parameters: str) -> Response:
    """RFC 9700 section 4.12: 303, so that the browser does not repeat the POST. Empty parameters are left out."""
    answer = Response("", 303)
    answer.autocorrect_location_header = False
    given = [(name, value) for name, value in parameters.items() if value]
    answer.headers["Location"] = add_params_to_uri(redirect_uri, given)
    answer.headers["Referrer-Policy"] = "no-referrer"
    return answer


def new_code() -> str:
    """An authorization code for providers without a special form."""
    return fresh(size=30)
