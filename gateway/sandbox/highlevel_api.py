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
from .highlevel import CAMEL, COMPANY, LOCATIONS, USER, Refused, issue, response_body
from .highlevel_webhooks import announce
from .state import Account, Pair, Session, State
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
    rooms.add_url_rule(uninstall, "installer", api.guarded(api.installer))
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
                last = request.path.rpartition("/")[2]
                if last in V3_ALONE and not _is_v3():
                    return answer({"statusCode": 404, "message": f"Cannot {request.method} {request.path}"}, 404)
                if last in BEFORE_V3 and _is_v3():
                    return answer(_removed_in_v3(), 400)
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
            "X-RateLimit-Daily-Reset": str(int((86_400 - now % 86_400) * 1000)),
            "X-RateLimit-Interval-Milliseconds": str(CALLS_SECONDS * 1000),
            "X-RateLimit-Max": str(CALLS_AT_MOST),
            "X-RateLimit-Remaining": str(left),
        }

    def location(self, pair: Pair, location: str) -> Response:
        """GET /locations/{id}: the sub-account's own token, or its agency's."""
        _needs(pair, "locations.readonly")
        own = pair.session.account.id
        if own not in (location, COMPANY) or location not in self._installed():
            raise Refused("The token does not have access to this location.", 403)
        name = self._installed()[location]
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
        """POST /oauth/locationToken (201), or its v3 twin (200, camelCase): a sub-account's pair from the agency's token."""
        _company_only(pair)
        _needs(pair, "oauth.write")
        asked, v3 = fields(), _is_v3()
        if missing := next((name for name in ("companyId", "locationId") if not asked.get(name)), None):
            raise Refused(f"Missing parameter: {missing}")
        location = asked["locationId"]
        if asked["companyId"] != COMPANY or location not in self._installed():
            raise Refused("Location not found for this company", 400)
        if location in self.state.suspended:
            raise Refused("Location is not active")
        names = dict.fromkeys([*pair.session.scope.split(), "oauth.readonly", "oauth.write"])
        account = Account(location, self._installed()[location], "Sub-account", {"userType": "Location"})
        session = Session(self.provider, pair.session.client_id, account, " ".join(names), pair.session.query)
        session.facts = {"refreshTokenId": ""}
        body = response_body(issue(self.state, session)) | {"expires_in": 86_400}
        if not self.state.switches["location_refresh_token"]:
            del body["refresh_token"]
        for name in ("refreshTokenId", "isBulkInstallation"):
            del body[name]
        if not v3:
            return answer(body, 201)
        app = self._app()
        body |= {"planId": "64c000000000000000000000", "appId": app, "versionId": app}
        shown = {CAMEL.get(name, name): value for name, value in body.items() if name not in ("userType", "companyId")}
        return answer(shown, 200)

    def installed(self, pair: Pair) -> Response:
        """GET /oauth/installedLocations, or its v3 twin. The location's id is in `_id`."""
        _company_only(pair)
        _needs(pair, "oauth.readonly")
        asked = request.args
        if missing := [f"{name} should not be empty" for name in ("companyId", "appId") if not asked.get(name)]:
            raise Invalid(missing, v3=_is_v3())
        if asked["appId"] != self._app():
            raise Invalid(["appId is not known"], v3=_is_v3(), status=404)
        words = asked.get("query", "").lower()
        when = "2026-11-28T10:00:00.000Z"
        found = [
            {
                "_id": key,
                "name": name,
                "address": "",
                "isInstalled": True,
                "versionId": self._app(),
                "installedAt": when,
            }
            for key, name in self._installed().items()
            if words in name.lower()
        ]
        if not _is_v3():
            skip, limit = asked.get("skip", 0, int), asked.get("limit", 20, int)
            page = {"locations": found[skip : skip + limit], "count": len(found)}
            return answer({**page, "installToFutureLocations": self.state.future_locations})
        size, start = min(asked.get("pageSize", 20, int), 100), asked.get("pageToken", "p0")[1:]
        begin = int(start) if start.isdigit() else 0
        end = begin + size
        pages: dict[str, Any] = {"totalRecords": len(found), "hasNextPage": end < len(found), "hasPrevPage": begin > 0}
        pages |= {"nextPageToken": f"p{end}" if end < len(found) else None, "currentPageSize": len(found[begin:end])}
        more = {
            "metadata": {"sortApplied": {"installedAt": "desc"}},
            "installToFutureLocations": self.state.future_locations,
        }
        return answer({"items": found[begin:end], "pagination": pages, **more})

    def _installed(self) -> dict[str, str]:
        """The locations in which the app is installed."""
        every = (
            LOCATIONS
            | self.state.new_locations
            | {f"NorthwindMore{n:07}": f"Northwind branch {n}" for n in range(self.state.more_locations)}
        )
        return {key: name for key, name in every.items() if key not in self.state.uninstalled}

    def _app(self) -> str:
        return CLIENTS[self.provider][0].partition("-")[0]

    def installer(self, pair: Pair, app: str) -> Response:
        """GET /marketplace/app/{appId}/installations: who installed the app. Some fields are null for a sub-account."""
        _needs(pair, "marketplace-installer-details.readonly")
        if app != self._app():
            raise Refused("The token does not have access to this location.", 403)
        own = pair.session.account
        said: dict[str, Any] = {"companyId": COMPANY, "companyName": "Northwind Agency", "userId": USER}
        said |= {"isWhitelabelCompany": False, "whitelabelDetails": {}, "companyEmail": None, "companyPlan": None}
        said |= {} if own.id == COMPANY else {"locationId": own.id}
        return answer({"installationDetails": said})

    def uninstall(self, pair: Pair, app: str) -> Response:
        """DELETE /marketplace/app/{appId}/installations: a location alone, or the agency with all of them."""
        _needs(pair, "oauth.write")
        asked = fields()
        named = asked.get("companyId") or asked.get("locationId")
        if app != self._app() or pair.session.account.id not in (named, COMPANY):
            raise Refused("The token does not have access to this location.", 403)
        gone = None if named == COMPANY else named
        ended = self.state.withdraw(self.provider, gone)
        self.state.uninstalled |= {str(gone)} if gone else set()
        announce(self.state, "UNINSTALL", companyId=COMPANY, locationId=gone)
        return answer({"success": True, "traceId": str(uuid.uuid4()), "userId": USER, "ended": ended})


V3_ALONE = ("installed-locations", "location-token")
BEFORE_V3 = ("installedLocations", "locationToken")


class Invalid(Refused):
    """A refusal of the list: 422 with a list before v3, an envelope since."""

    def __init__(self, messages: list[str], *, v3: bool, status: int = 422) -> None:
        """`messages`: what is wrong, one sentence each."""
        super().__init__("", status if not v3 or status == 404 else 400)
        self.body = {"statusCode": status, "error": "Unprocessable Entity", "message": messages}
        if v3:
            code = "RESOURCE_NOT_FOUND" if status == 404 else "VALIDATION_ERROR"
            details = {"resource": "App", "identifier": request.args.get("appId", "")}
            said = {"code": code, "message": messages[0], "details": details, "resolution": "Check the parameters."}
            self.body = {"error": said}


def _removed_in_v3() -> dict[str, Any]:
    """As reported of the old paths under `Version: v3`."""
    said = f"Endpoint {request.full_path.rstrip('?')} not available in API version v3. This endpoint was removed in "
    return {"message": f"{said}version v3. Please use a version before v3.", "error": "Bad Request", "statusCode": 400}


def _is_v3() -> bool:
    return request.headers.get("Version") == "v3"


def _needs(pair: Pair, scope: str) -> None:
    if scope not in pair.session.scope.split():
        raise Refused("The token is not authorized for this scope.", 401)


def _company_only(pair: Pair) -> None:
    if pair.session.account.facts["userType"] != "Company":
        raise Refused("This token's user type is not yet supported!", 401)
