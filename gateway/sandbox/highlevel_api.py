"""
Simulates the part of HighLevel's API that a connection needs: its account, installations, uninstall.

Every call is checked in the order in which the real service refuses: the `Version` header, the token, its class, its scope,
its location. Refusals are 401 for most of these, which is why "401 means refresh" is wrong there.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response, request

from .clients import CLIENTS
from .highlevel import ACCOUNTS, COMPANY, LOCATIONS, USER, Refused, issue, response_body
from .state import Pair, Session, State
from .wire import answer, bearer_token, fields

VERSIONS = ("v3", "2023-02-21", "2021-07-28", "2021-04-15", "legacy")
CALLS_AT_MOST = 100
CALLS_SECONDS = 10
CALLS_A_DAY = 200_000
View = Callable[..., Response]


def add_routes(rooms: Blueprint, state: State, provider: str) -> None:
    """The routes of the API, beside those of the token endpoint on the same host."""
    api = Api(state, provider)
    rooms.add_url_rule("/locations/<location>", "userinfo", api.guarded(api.location))
    rooms.add_url_rule("/companies/<company>", "company", api.guarded(api.company))
    location_token, installed = api.guarded(api.location_token), api.guarded(api.installed)
    for path in ("/oauth/locationToken", "/oauth/location-token"):
        rooms.add_url_rule(path, "location_token", location_token, methods=["POST"])
    for path in ("/oauth/installedLocations", "/oauth/installed-locations"):
        rooms.add_url_rule(path, "installed", installed)
    uninstall = "/marketplace/app/<app>/installations"
    rooms.add_url_rule(uninstall, "uninstall", api.guarded(api.uninstall), methods=["DELETE"])


class Api:
    """services.leadconnectorhq.com for one app."""

    def __init__(self, state: State, provider: str) -> None:
        """`provider`: whose tokens count here."""
        self.state = state
        self.provider = provider

    def guarded(self, view: View) -> View:
        """The view, after checks of version, token and rate limit."""

        def guarded_view(**path: str) -> Response:
            try:
                if request.path.rpartition("/")[2] in V3_ALONE and request.headers.get("Version") != "v3":
                    return answer({"statusCode": 404, "message": f"Cannot {request.method} {request.path}"}, 404)
                pair = self._token()
                limits = self._limits(pair)
                said = view(pair, **path)
            except Refused as refused:
                return answer(refused.body, refused.status)
            said.headers.update(limits)
            return said

        return guarded_view

    def _token(self) -> Pair:
        version = request.headers.get("Version")
        if version is None:
            raise Refused("version header was not found.", 401)
        if version not in VERSIONS:
            raise Refused("version header is invalid", 401)
        pair = self.state.bearer(self.provider, bearer_token())
        if pair is None:
            raise Refused("Invalid token: access token is invalid", 401, error="Unauthorized")
        return pair

    def _limits(self, pair: Pair) -> dict[str, str]:
        """100 calls in 10 s for an app and a resource. The body of a 429 is not documented."""
        now = self.state.now()
        with self.state.lock:
            calls = self.state.calls[f"{self.provider}:{pair.session.account.id}"]
            while calls and calls[0] <= now - CALLS_SECONDS:
                calls.popleft()
            if len(calls) >= CALLS_AT_MOST:
                raise Refused("Too Many Requests", 429)
            calls.append(now)
            left = CALLS_AT_MOST - len(calls)
        return {
            "X-RateLimit-Limit-Daily": str(CALLS_A_DAY),
            "X-RateLimit-Daily-Remaining": str(CALLS_A_DAY - 1),
            "X-RateLimit-Interval-Milliseconds": str(CALLS_SECONDS * 1000),
            "X-RateLimit-Max": str(CALLS_AT_MOST),
            "X-RateLimit-Remaining": str(left),
        }

    def location(self, pair: Pair, location: str) -> Response:
        """GET /locations/{id}: the sub-account's own token, or its agency's."""
        _needs(pair, "locations.readonly")
        own = pair.session.account.id
        if own not in (location, COMPANY) or location not in LOCATIONS:
            raise Refused("The token does not have access to this location.", 403)
        name = LOCATIONS[location]
        email = f"{name.split()[-1].lower()}@northwind.example"
        said = {"id": location, "companyId": COMPANY, "name": name, "email": email, "timezone": "Europe/Berlin"}
        return answer({"location": said, "traceId": str(uuid.uuid4())})

    def company(self, pair: Pair, company: str) -> Response:
        """GET /companies/{id}: agencies only."""
        _company_only(pair)
        _needs(pair, "companies.readonly")
        if company != COMPANY:
            raise Refused("The token does not have access to this company.", 403)
        said = {
            "id": COMPANY,
            "name": "Northwind Agency",
            "email": "agency@northwind.example",
            "domain": "northwind.example",
        }
        return answer({"company": said})

    def location_token(self, pair: Pair) -> Response:
        """POST /oauth/locationToken (and its v3 twin): a sub-account's pair from the agency's token."""
        _company_only(pair)
        _needs(pair, "oauth.write")
        asked = fields()
        account = next((a for a in ACCOUNTS if a.id == asked.get("locationId") and a.id != COMPANY), None)
        if asked.get("companyId") != COMPANY or account is None:
            raise Refused("Location not found for this company", 400)
        names = dict.fromkeys([*pair.session.scope.split(), "oauth.readonly", "oauth.write"])
        session = Session(self.provider, pair.session.client_id, account, " ".join(names), pair.session.query)
        session.facts = {"refreshTokenId": ""}
        body = response_body(issue(self.state, session)) | {"expires_in": 86_400}
        for name in ("refreshTokenId", "isBulkInstallation"):
            del body[name]
        return answer(body, 201)

    def installed(self, pair: Pair) -> Response:
        """GET /oauth/installedLocations (and its v3 twin). The location's id is in `_id`."""
        _company_only(pair)
        _needs(pair, "oauth.readonly")
        missing = [f"{name} should not be empty" for name in ("companyId", "appId") if not request.args.get(name)]
        if missing:
            raise Refused("Unprocessable Entity", 422, error="Unprocessable Entity", messages=missing)
        found = [{"_id": i, "name": n, "address": "", "isInstalled": True} for i, n in LOCATIONS.items()]
        if request.path.endswith("installed-locations"):
            pages: dict[str, Any] = {"totalRecords": len(found), "hasNextPage": False, "hasPrevPage": False}
            return answer({"items": found, "pagination": pages, "metadata": {}, "installToFutureLocations": False})
        skip, limit = request.args.get("skip", 0, int), request.args.get("limit", 20, int)
        return answer({"locations": found[skip : skip + limit], "count": len(found), "installToFutureLocations": False})

    def uninstall(self, pair: Pair, app: str) -> Response:
        """DELETE /marketplace/app/{appId}/installations: a location alone, or the agency with all of them."""
        _needs(pair, "oauth.write")
        asked = fields()
        named = asked.get("companyId") or asked.get("locationId")
        if app != CLIENTS[self.provider][0].partition("-")[0] or named != pair.session.account.id:
            raise Refused("The token does not have access to this location.", 403)
        gone = None if named == COMPANY else named
        ended = self.state.withdraw(self.provider, gone)
        return answer({"success": True, "traceId": str(uuid.uuid4()), "userId": USER, "ended": ended})


V3_ALONE = ("installed-locations", "location-token")


def _needs(pair: Pair, scope: str) -> None:
    if scope not in pair.session.scope.split():
        raise Refused("The token is not authorized for this scope.", 401)


def _company_only(pair: Pair) -> None:
    if pair.session.account.facts["userType"] != "Company":
        raise Refused("This token's user type is not yet supported!", 401)
