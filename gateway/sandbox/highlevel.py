"""
Simulates HighLevel's sign-on: the chooser, the token endpoint, and removed endpoints.

Without Authlib, because it differs from RFC 6749 in most points: the class of a token (`Location`, `Company`) is decided by what the
user chooses, not by the request; fields are snake_case, or camelCase under `Version: v3`; errors have their own form.
Refresh tokens are single-use with a replay window of 30 s in which the same new pair is answered.
https://marketplace.gohighlevel.com/docs/Authorization/OAuth2.0
"""

from __future__ import annotations

import secrets
import uuid
from functools import partial
from typing import Any
from urllib.parse import urlencode

from authlib.oauth2.rfc7636 import create_s256_code_challenge
from flask import Blueprint, Response, render_template, request

from .clients import CLIENTS, knows, proves
from .consent import Stage, ask, back, guarded, refuse, save_code
from .highlevel_webhooks import announce
from .state import Account, Code, Pair, Session, State
from .wire import NO_STORE, answer, fields

ACCESS_SECONDS = 86_400
REFRESH_SECONDS = 365 * 86_400
REPLAY_SECONDS = 30
COMPANY = "NorthwindAgency00001"
USER = "NorthwindUserMia0001"
LOCATIONS = {"NorthwindBerlin00001": "Northwind Berlin", "NorthwindLisbon00001": "Northwind Lisbon"}
ACCOUNTS = (
    Account("NorthwindBerlin00001", "Northwind Berlin", "Sub-account", {"userType": "Location"}),
    Account("NorthwindLisbon00001", "Northwind Lisbon", "Sub-account", {"userType": "Location"}),
    Account(COMPANY, "Northwind Agency", "Agency, with all its sub-accounts", {"userType": "Company"}),
)
CAMEL = {
    "access_token": "accessToken",
    "token_type": "tokenType",
    "expires_in": "expiresIn",
    "refresh_token": "refreshToken",
    "client_id": "clientId",
    "client_secret": "clientSecret",
    "grant_type": "grantType",
    "user_type": "userType",
    "redirect_uri": "redirectUri",
}
GRANT_TYPES = ("authorization_code", "refresh_token", "client_credentials")


def make_blueprint(state: State, provider: str) -> Blueprint:
    """HighLevel's addresses; `provider` is `ghl` or `ghl_white_label`, which differ in their hosts alone."""
    question = "Which account should the app be installed in?"
    stage = Stage(provider, "HighLevel", ACCOUNTS, question=question, bulk=LOCATIONS)
    rooms = Blueprint(provider, __name__)
    chooser = partial(_choose, state, stage)
    for path in ("/v2/oauth/chooselocation", "/oauth/chooselocation"):
        rooms.add_url_rule(path, "authorize", chooser, methods=["GET", "POST"])
    rooms.add_url_rule("/portal", "portal", lambda: _portal(state, stage))
    rooms.add_url_rule("/oauth/token", "token", lambda: _token(state, provider), methods=["POST"])
    rooms.add_url_rule("/oauth/reconnect", "reconnect", _removed, methods=["POST"])
    return rooms


# -- the chooser -----------------------------------------------------------------------------------------------------


def _choose(state: State, stage: Stage) -> Response:
    """A user who cancels just leaves the real page; this one returns with RFC 6749's error, so that a denial can be tested."""
    asked = request.args
    if not knows(stage.provider, asked.get("client_id", "")):
        return refuse(state, stage, f"No integration found with the ID: {asked.get('client_id', '').partition('-')[0]}")
    if not state.allows(asked.get("redirect_uri", "")):
        return refuse(state, stage, "The redirect URL is not one of this app's.")
    if asked.get("response_type") != "code" or not asked.get("scope"):
        return refuse(state, stage, "response_type has to be code, and scope must not be empty.")
    if request.method != "POST":
        return ask(state, stage, asked["scope"])
    account = stage.chosen(state)
    if account is None:
        return back(asked["redirect_uri"], error="access_denied", state=asked.get("state", ""))
    code = save_code(state, stage, secrets.token_hex(20), account, asked["scope"])
    if account.id == COMPANY and "bulk" in request.form:
        ticked = [each for each in request.form.getlist("location") if each in LOCATIONS]
        every, future = "all_locations" in request.form, "future_locations" in request.form
        code.facts = {"approveAllLocations": every, "installToFutureLocations": future}
        code.facts |= {} if every else {"approvedLocations": ticked}
    return back(asked["redirect_uri"], code=code.value, state=asked.get("state", ""))


def _portal(state: State, stage: Stage) -> Response:
    """
    The developer portal's test links: an installation of the app in one sub-account, which comes back without a state.

    Manage → Versions → ⋯ → Test Link: https://marketplace.gohighlevel.com/docs/oauth/TestingApp
    """
    slug = {"ghl": "main", "ghl_white_label": "partner"}[stage.provider]
    asked = {
        "response_type": "code",
        "client_id": CLIENTS[stage.provider][0],
        "version_id": CLIENTS[stage.provider][0][:24],
    }
    asked |= {"redirect_uri": f"{state.gateway}/crm/{slug}/callback", "scope": TEST_SCOPE}
    link = f"/{stage.provider}/v2/oauth/chooselocation?{urlencode(asked)}"
    return guarded(state, render_template("portal.html", stage=stage, link=link))


TEST_SCOPE = "locations.readonly contacts.readonly oauth.readonly oauth.write"


# -- the token endpoint ----------------------------------------------------------------------------------------------


class Refused(Exception):
    """An error of the token endpoint."""

    def __init__(self, message: str, status: int = 400, **more: Any) -> None:
        """`message`: HighLevel's words; `more`: further fields of the body."""
        super().__init__(message)
        self.body = {"statusCode": status, "message": message, **more}
        self.status = status


def _token(state: State, provider: str) -> Response:
    camel = request.headers.get("Version") == "v3"
    sent = {name: fields().get(CAMEL.get(name, name) if camel else name, "") for name in NAMES}
    sent["refresh_token"] = fields().get("refreshToken" if camel else "refresh_token", "")
    try:
        _check(provider, sent, camel=camel)
        with state.lock:
            pair = _redeem(state, provider, sent) if sent["code"] else _refresh(state, provider, sent["refresh_token"])
    except Refused as refused:
        return answer(refused.body, refused.status, NO_STORE)
    body = response_body(pair)
    shown = {CAMEL.get(name, name): value for name, value in body.items()} if camel else body
    return answer(shown, 200, NO_STORE)


NAMES = ("client_id", "client_secret", "grant_type", "code", "user_type", "redirect_uri", "code_verifier")


def _check(provider: str, sent: dict[str, str], *, camel: bool) -> None:
    """Grant type and client. The pre-v3 form validates with 422, v3 with 400."""
    if sent["grant_type"] not in GRANT_TYPES:
        if camel:
            raise Refused("Invalid parameter: grantType" if sent["grant_type"] else "Missing parameter: grantType")
        said = ["grant_type must be a valid enum value"]
        said += [] if sent["grant_type"] else ["grant_type should not be empty"]
        refused = Refused("", 422, error="Unprocessable Entity", traceId=str(uuid.uuid4()))
        refused.body["message"] = said
        raise refused
    for name in ("client_id", "client_secret"):
        if not sent[name]:
            raise Refused(f"Missing parameter: {CAMEL[name] if camel else name}")
    if not proves(provider, sent["client_id"], sent["client_secret"]):
        text = "Invalid client: client credentials are invalid"
        raise Refused(text, 401, error="invalid_client", error_description=text)
    needed = {"authorization_code": "code", "refresh_token": "refresh_token"}.get(sent["grant_type"])
    if needed is None:
        raise Refused("Unsupported grant type: grant type is not supported")
    if not sent[needed]:
        raise Refused(f"Missing parameter: {CAMEL.get(needed, needed) if camel else needed}")
    if needed == "refresh_token":
        sent["code"] = ""


def _redeem(state: State, provider: str, sent: dict[str, str]) -> Pair:
    code = state.redeemable(provider, sent["code"])
    if code is None or code.client_id != sent["client_id"]:
        raise Refused("Invalid grant: authorization code is invalid")
    if sent["redirect_uri"] and sent["redirect_uri"] != code.redirect_uri:
        raise Refused("Invalid grant: redirect uri is invalid")
    if code.code_challenge and not _verified(code, sent["code_verifier"]):
        raise Refused("Invalid grant: code verifier is invalid")
    code.used = True
    session = Session(provider, code.client_id, code.account, code.scope, code.query, {"refreshTokenId": _hex24()})
    company = code.account.id == COMPANY
    session.facts = {**session.facts, **code.facts}
    state.uninstalled -= set(state.uninstalled) if company else {code.account.id}  # a consent installs again
    ticked = code.facts.get("approvedLocations")
    state.uninstalled |= set() if ticked is None else set(LOCATIONS) - set(ticked)
    state.future_locations = state.future_locations or bool(code.facts.get("installToFutureLocations"))
    installed = {"companyId": COMPANY, "locationId": None if company else code.account.id, "userId": USER}
    announce(state, "INSTALL", installType="Company" if company else "Location", **installed)
    for location in LOCATIONS if company and code.facts and ticked is None else ticked or ():
        announce(state, "INSTALL", installType="Location", **installed | {"locationId": location})
    return issue(state, session)


def create_location(state: State, location: str, name: str) -> None:
    """A new sub-account of the agency. Where the app is installed in new ones, the INSTALL names neither agency nor user."""
    state.new_locations[location] = name
    announce(state, "LocationCreate", id=location, companyId=COMPANY, name=name)
    if state.future_locations:
        announce(state, "INSTALL", installType="Location", locationId=location)
    else:
        state.uninstalled.add(location)


def _verified(code: Code, verifier: str) -> bool:
    """RFC 7636 section 4.6. HighLevel documents no PKCE; a challenge is checked here anyway."""
    plain = code.code_challenge_method in (None, "plain")
    given = verifier if plain else create_s256_code_challenge(verifier)  # type: ignore[no-untyped-call]
    return bool(given == code.code_challenge)


def _refresh(state: State, provider: str, value: str) -> Pair:
    pair = state.by_refresh.get(value)
    if pair is None or pair.session.provider != provider or pair.session.revoked or state.now() >= pair.refresh_until:
        raise Refused("Invalid grant: refresh token is invalid")
    if not state.switches["location_active"] or pair.session.account.id in state.suspended:
        raise Refused("Location is not active")
    if pair.successor is not None and pair.used_at is not None:
        if state.now() - pair.used_at <= REPLAY_SECONDS:
            return pair.successor
        raise Refused("Invalid grant: refresh token is invalid")
    pair.used_at = state.now()
    pair.successor = issue(state, pair.session)
    return pair.successor


# -- tokens ----------------------------------------------------------------------------------------------------------


def issue(state: State, session: Session) -> Pair:
    """A new pair; both are JWTs, as HighLevel's are, but opaque for clients."""
    kind = session.account.facts["userType"]
    claims = {"authClass": kind, "authClassId": session.account.id, "source": "INTEGRATION", "channel": "OAUTH"}
    claims |= {"sourceId": session.client_id, "oauthMeta": {"scopes": session.scope.split()}, "iat": int(state.now())}
    access = state.keys.rs256({**claims, "jti": str(uuid.uuid4()), "exp": int(state.now()) + ACCESS_SECONDS})
    refresh = state.keys.rs256({**claims, "jti": str(uuid.uuid4()), "exp": int(state.now()) + REFRESH_SECONDS})
    return state.issue(session, access, ACCESS_SECONDS, refresh, REFRESH_SECONDS)


def response_body(pair: Pair) -> dict[str, Any]:
    """A pre-v3 token response of the pair's class."""
    session = pair.session
    company = session.account.facts["userType"] == "Company"
    body: dict[str, Any] = {
        "access_token": pair.access_token,
        "token_type": "Bearer",
        "expires_in": ACCESS_SECONDS - 1,
        "refresh_token": pair.refresh_token,
        "scope": session.scope,
        "refreshTokenId": session.facts["refreshTokenId"],
        "userType": session.account.facts["userType"],
        "companyId": COMPANY,
    }
    body |= {} if company else {"locationId": session.account.id}
    body |= {"isBulkInstallation": company, "userId": USER, "traceId": str(uuid.uuid4())}
    bulk = ("approveAllLocations", "installToFutureLocations", "approvedLocations")
    chosen = {name: session.facts[name] for name in bulk if name in session.facts}
    body |= (chosen or {"approveAllLocations": True, "installToFutureLocations": False}) if company else {}
    return body


def _removed() -> Response:
    return answer({"message": "API endpoint has been removed", "error": "Bad Request", "statusCode": 400}, 400)


def _hex24() -> str:
    return secrets.token_hex(12)
